//! Answers as the three protocols put them on the wire: real field names, real chunk shapes, real order.

use super::script::{Part, Reply, Step, Stop};
use super::seen::{Protocol, SeenRequest};
use axum::body::Bytes;
use contract::Usage;
use serde_json::{Value, json};
use std::time::Duration;

/// Argument text comes in pieces of this many characters, so that pieces never end where JSON does.
const ARGS_PIECE_CHARS: usize = 7;

/// The frames of an answer.
pub(crate) fn frames(request: &SeenRequest, reply: &Reply) -> Vec<Step> {
    let mut out = Frames { steps: Vec::new(), pause: reply.pause };
    match request.protocol {
        Protocol::OpenAi => openai(request, reply, &mut out),
        Protocol::Anthropic => anthropic(request, reply, &mut out),
        Protocol::Gemini => gemini(request, reply, &mut out),
    }
    out.steps
}

struct Frames {
    steps: Vec<Step>,
    pause: Duration,
}

impl Frames {
    fn send(&mut self, text: String) {
        self.steps.push(Step::Send(self.pause, Bytes::from(text)));
    }

    fn data(&mut self, value: &Value) {
        self.send(format!("data: {value}\n\n"));
    }

    fn event(&mut self, value: &Value) {
        self.send(format!("event: {}\ndata: {value}\n\n", value["type"].as_str().unwrap_or("message")));
    }
}

fn pieces(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    chars.chunks(ARGS_PIECE_CHARS).map(|c| c.iter().collect()).collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive(' ')
}

fn wire_name<'a>(request: &'a SeenRequest, name: &'a str) -> &'a str {
    request.offered(name).unwrap_or(name)
}

fn openai(request: &SeenRequest, reply: &Reply, out: &mut Frames) {
    let with_usage = request.body["stream_options"]["include_usage"] == true;
    let chunk = |choices: Value, usage: Value| {
        let mut chunk = json!({
            "id": format!("chatcmpl-{:04}", request.number),
            "object": "chat.completion.chunk",
            "created": 1_760_000_000,
            "model": request.model,
            "service_tier": "default",
            "system_fingerprint": "fp_testbed",
            "choices": choices,
        });
        if with_usage {
            chunk["usage"] = usage;
        }
        chunk
    };
    let delta = |delta: Value, finish: Value| {
        chunk(json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]), Value::Null)
    };
    let only_calls = !reply.parts.iter().any(|p| matches!(p, Part::Text(_)));
    let content = if only_calls { Value::Null } else { json!("") };
    out.data(&delta(json!({"role": "assistant", "content": content, "refusal": null}), Value::Null));
    let mut index = 0;
    let mut mixed: Vec<(usize, Vec<String>)> = Vec::new();
    for part in &reply.parts {
        match part {
            Part::Text(chunks) => {
                for chunk in chunks {
                    out.data(&delta(json!({"content": chunk}), Value::Null));
                }
            }
            Part::Thinking { text, .. } => {
                for word in words(text) {
                    out.data(&delta(json!({"reasoning_content": word}), Value::Null));
                }
            }
            Part::ToolCall { name, args, .. } => {
                let id = format!("call_{:04}{index:020}", request.number);
                let function = json!({"name": wire_name(request, name), "arguments": ""});
                let start = json!([{"index": index, "id": id, "type": "function", "function": function}]);
                out.data(&delta(json!({"tool_calls": start}), Value::Null));
                if reply.interleave {
                    mixed.push((index, pieces(args)));
                } else {
                    for piece in pieces(args) {
                        out.data(&delta(args_delta(index, &piece), Value::Null));
                    }
                }
                index += 1;
            }
            Part::Hold(gate) => out.steps.push(Step::Hold(gate.clone())),
        }
    }
    let longest = mixed.iter().map(|(_, p)| p.len()).max().unwrap_or(0);
    for at in 0..longest {
        for (index, pieces) in &mixed {
            if let Some(piece) = pieces.get(at) {
                out.data(&delta(args_delta(*index, piece), Value::Null));
            }
        }
    }
    let finish = match reply.stop_word() {
        Stop::End | Stop::Pause | Stop::Odd => "stop",
        Stop::Tools => "tool_calls",
        Stop::Length => "length",
        Stop::Refusal => "content_filter",
    };
    out.data(&delta(json!({}), json!(finish)));
    if let Some(usage) = reply.usage.filter(|_| with_usage) {
        out.data(&chunk(json!([]), openai_usage(usage)));
    }
    out.send("data: [DONE]\n\n".to_owned());
}

fn args_delta(index: usize, piece: &str) -> Value {
    json!({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
}

fn openai_usage(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cache_hit_tokens, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0},
    })
}

fn anthropic(request: &SeenRequest, reply: &Reply, out: &mut Frames) {
    let mut message = json!({
        "id": format!("msg_{:04}", request.number),
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": [],
        "stop_reason": null,
        "stop_sequence": null,
    });
    if let Some(usage) = reply.usage {
        message["usage"] = json!({
            "input_tokens": usage.input_tokens - usage.cache_hit_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": usage.cache_hit_tokens,
            "output_tokens": 1,
            "service_tier": "standard",
        });
    }
    out.event(&json!({"type": "message_start", "message": message}));
    let mut index = 0;
    for part in &reply.parts {
        let (block, deltas): (Value, Vec<Value>) = match part {
            Part::Hold(gate) => {
                out.steps.push(Step::Hold(gate.clone()));
                continue;
            }
            Part::Text(chunks) => (
                json!({"type": "text", "text": ""}),
                chunks.iter().map(|c| json!({"type": "text_delta", "text": c})).collect(),
            ),
            Part::Thinking { text, signature } if text.is_empty() => {
                (json!({"type": "redacted_thinking", "data": signature}), Vec::new())
            }
            Part::Thinking { text, signature } => {
                let mut deltas: Vec<Value> =
                    words(text).map(|w| json!({"type": "thinking_delta", "thinking": w})).collect();
                deltas.extend(signature.iter().map(|s| json!({"type": "signature_delta", "signature": s})));
                (json!({"type": "thinking", "thinking": "", "signature": ""}), deltas)
            }
            Part::ToolCall { name, args, .. } => {
                let id = format!("toolu_{:04}{index:04}", request.number);
                // The provider begins with an empty piece.
                let deltas = std::iter::once(String::new()).chain(pieces(args));
                (
                    json!({"type": "tool_use", "id": id, "name": wire_name(request, name), "input": {}}),
                    deltas.map(|p| json!({"type": "input_json_delta", "partial_json": p})).collect(),
                )
            }
        };
        out.event(&json!({"type": "content_block_start", "index": index, "content_block": block}));
        if index == 0 {
            out.event(&json!({"type": "ping"}));
        }
        for delta in deltas {
            out.event(&json!({"type": "content_block_delta", "index": index, "delta": delta}));
        }
        out.event(&json!({"type": "content_block_stop", "index": index}));
        index += 1;
    }
    let reason = match reply.stop_word() {
        Stop::End => "end_turn",
        Stop::Tools => "tool_use",
        Stop::Length => "max_tokens",
        Stop::Refusal => "refusal",
        Stop::Pause => "pause_turn",
        Stop::Odd => "model_context_window_exceeded",
    };
    let mut end = json!({"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": null}});
    if let Some(usage) = reply.usage {
        end["usage"] = json!({"output_tokens": usage.output_tokens});
    }
    out.event(&end);
    out.event(&json!({"type": "message_stop"}));
}

fn gemini(request: &SeenRequest, reply: &Reply, out: &mut Frames) {
    let thought = reply.parts.iter().any(|p| matches!(p, Part::Thinking { .. }));
    let frame = |parts: Value, finish: Option<&str>| {
        let mut candidate = json!({"content": {"parts": parts, "role": "model"}, "index": 0});
        if let Some(finish) = finish {
            candidate["finishReason"] = json!(finish);
        }
        let mut frame = json!({
            "candidates": [candidate],
            "modelVersion": request.model,
            "responseId": format!("resp-{:04}", request.number),
        });
        if let Some(usage) = reply.usage {
            let thoughts = if thought { usage.output_tokens / 2 } else { 0 };
            let mut counts = json!({
                "promptTokenCount": usage.input_tokens,
                "candidatesTokenCount": usage.output_tokens - thoughts,
                "totalTokenCount": usage.input_tokens + usage.output_tokens,
                "promptTokensDetails": [{"modality": "TEXT", "tokenCount": usage.input_tokens}],
            });
            if thoughts > 0 {
                counts["thoughtsTokenCount"] = json!(thoughts);
            }
            if usage.cache_hit_tokens > 0 {
                counts["cachedContentTokenCount"] = json!(usage.cache_hit_tokens);
            }
            frame["usageMetadata"] = counts;
        }
        format!("data: {frame}\r\n\r\n")
    };
    // The provider signs the first call after thinking, or else the last part.
    let mut unsent: Option<String> = None;
    for part in &reply.parts {
        match part {
            Part::Text(chunks) => {
                for chunk in chunks {
                    out.send(frame(json!([{"text": chunk}]), None));
                }
            }
            Part::Thinking { text, signature } => {
                unsent.clone_from(signature);
                for word in words(text) {
                    out.send(frame(json!([{"text": word, "thought": true}]), None));
                }
            }
            Part::ToolCall { name, args, signature } => {
                let args: Value = serde_json::from_str(args).unwrap_or_else(|_| json!({}));
                let mut call = json!({"name": wire_name(request, name), "args": args});
                if request.model.starts_with("gemini-3") {
                    call["id"] = json!(format!("fc-{:04}-{}", request.number, out.steps.len()));
                }
                let mut part = json!({"functionCall": call});
                if let Some(signature) = signature.clone().or_else(|| unsent.take()) {
                    part["thoughtSignature"] = json!(signature);
                }
                out.send(frame(json!([part]), None));
            }
            Part::Hold(gate) => out.steps.push(Step::Hold(gate.clone())),
        }
    }
    let reason = match reply.stop_word() {
        Stop::End | Stop::Tools | Stop::Pause => "STOP",
        Stop::Length => "MAX_TOKENS",
        Stop::Refusal => "SAFETY",
        Stop::Odd => "MALFORMED_FUNCTION_CALL",
    };
    let mut last = json!({"text": ""});
    if let Some(signature) = unsent {
        last["thoughtSignature"] = json!(signature);
    }
    out.send(frame(json!([last]), Some(reason)));
}

/// The usual error body of a protocol.
pub(crate) fn error_body(protocol: Protocol, status: u16) -> Value {
    let message = format!("scripted failure {status}");
    match protocol {
        Protocol::OpenAi => {
            let (kind, code) = match status {
                401 => ("invalid_request_error", json!("invalid_api_key")),
                404 => ("invalid_request_error", json!("model_not_found")),
                429 => ("requests", json!("rate_limit_exceeded")),
                400..=499 => ("invalid_request_error", Value::Null),
                _ => ("server_error", Value::Null),
            };
            json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
        }
        Protocol::Anthropic => {
            let kind = match status {
                401 => "authentication_error",
                403 => "permission_error",
                404 => "not_found_error",
                413 => "request_too_large",
                429 => "rate_limit_error",
                400..=499 => "invalid_request_error",
                529 => "overloaded_error",
                _ => "api_error",
            };
            json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_testbed"})
        }
        Protocol::Gemini => {
            let word = match status {
                400 => "INVALID_ARGUMENT",
                401 => "UNAUTHENTICATED",
                403 => "PERMISSION_DENIED",
                404 => "NOT_FOUND",
                429 => "RESOURCE_EXHAUSTED",
                503 => "UNAVAILABLE",
                504 => "DEADLINE_EXCEEDED",
                _ => "INTERNAL",
            };
            json!({"error": {"code": status, "message": message, "status": word}})
        }
    }
}
