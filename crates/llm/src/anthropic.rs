//! Anthropic messages: the request as a pure function, the stream as a pure state machine.
//!
//! Thinking blocks go back exactly as they came, signature and all, because the provider checks them;
//! thinking of another provider is left out. Whether a person sees thinking is the Engine's decision: the
//! pieces are emitted either way.

use crate::assemble::{Blocks, inline_text, input_object, media_note, most_bytes, schema_instruction};
use crate::errors::{Refusal, says_overflow, says_quota};
use crate::names::{Dots, NameMap};
use crate::openai::SchemaMode;
use crate::provider::{CallError, ErrorKind, Piece, Request, Stop};
use crate::sse::Event;
use crate::tokens::{estimate_request, estimate_usage};
use crate::wire::{Decode, DecodeError, Dialect, Learnt, Outgoing, cut_short, read_frame};
use contract::{Block, Role, Source, Usage};
use serde_json::{Map, Value, json};

/// Where Anthropic itself is.
pub const DEFAULT_BASE: &str = "https://api.anthropic.com";

/// The version of the API this adapter speaks.
pub const API_VERSION: &str = "2023-06-01";

/// Most cache breakpoints of one request. The provider refuses a fifth.
pub const MAX_BREAKPOINTS: usize = 4;

/// How extended thinking is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThinkingForm {
    /// The model decides how much (4.6 and later).
    Adaptive,
    /// A budget in tokens (3.7 to 4.5).
    Budget,
    /// Not at all: the model has none.
    None,
}

/// What is known about the fields a model accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form {
    /// Extended thinking.
    pub thinking: ThinkingForm,
    /// The other way of asking has been tried already.
    pub thinking_switched: bool,
    /// Structured output.
    pub schema: SchemaMode,
}

impl Form {
    /// What is tried first with this model.
    pub fn first(model: &str) -> Self {
        let thinking = match version(model) {
            Some(v) if v < (3, 7) => ThinkingForm::None,
            Some(v) if v < (4, 6) => ThinkingForm::Budget,
            _ => ThinkingForm::Adaptive,
        };
        Self { thinking, thinking_switched: false, schema: SchemaMode::Native }
    }
}

/// The version in a model name: `claude-opus-4-6` is (4, 6), `claude-3-7-sonnet-20250219` is (3, 7).
fn version(model: &str) -> Option<(u32, u32)> {
    // A part longer than two characters is a date or a word.
    let number = |part: &str| if part.len() <= 2 { part.parse().ok() } else { None };
    let parts: Vec<Option<u32>> = model.split(['-', '.', '/', '@', ':']).map(number).collect();
    let first = parts.iter().position(Option::is_some)?;
    Some((parts[first]?, parts.get(first + 1).copied().flatten().unwrap_or(0)))
}

/// The dialect: where to send, the key, and what was learnt.
pub struct Anthropic {
    base: String,
    key: Option<String>,
    learnt: Learnt<Form>,
}

impl Anthropic {
    /// `base` replaces [`DEFAULT_BASE`] exactly.
    pub fn new(base: Option<&str>, key: Option<String>) -> Self {
        let base = base.unwrap_or(DEFAULT_BASE).trim_end_matches('/').to_owned();
        Self { base, key, learnt: Learnt::default() }
    }
}

impl Dialect for Anthropic {
    type Form = Form;
    type Decoder = Decoder;

    fn name(&self) -> &'static str {
        "anthropic"
    }

    fn form(&self, request: &Request) -> Form {
        self.learnt.get(&request.model).unwrap_or_else(|| Form::first(&request.model))
    }

    fn learn(&self, request: &Request, form: &Form) {
        let mut form = form.clone();
        if form.schema == SchemaMode::InstructionOnce {
            form.schema = SchemaMode::Native;
        }
        self.learnt.set(&request.model, form);
    }

    fn other_form(&self, request: &Request, form: &Form, refusal: &Refusal) -> Option<Form> {
        other_form(request, form, refusal)
    }

    fn prepare(&self, request: &Request, form: &Form) -> (Outgoing, Decoder) {
        let names = NameMap::of(request, Dots::Forbidden);
        let mut headers = vec![("anthropic-version", API_VERSION.to_owned())];
        headers.extend(self.key.iter().map(|key| ("x-api-key", key.clone())));
        let outgoing = Outgoing {
            url: format!("{}/v1/messages", self.base),
            headers,
            body: body(request, form, &names),
        };
        (outgoing, Decoder::new(names, estimate_request(request), most_bytes(request)))
    }

    fn classify(&self, refusal: &Refusal) -> ErrorKind {
        classify(refusal)
    }
}

/// The form to try after a 400 that names a field of this one.
pub fn other_form(request: &Request, form: &Form, refusal: &Refusal) -> Option<Form> {
    if classify(refusal) == ErrorKind::Overflow {
        return None;
    }
    let said = refusal.message().to_lowercase();
    let mut other = form.clone();
    let about_schema = ["output_config.format", "output_format", "json_schema", "structured output"];
    if request.output_schema.is_some()
        && form.schema == SchemaMode::Native
        && about_schema.iter().any(|w| said.contains(w))
    {
        let whole_field = said.contains("extra inputs") || said.contains("not support");
        other.schema = if whole_field { SchemaMode::Instruction } else { SchemaMode::InstructionOnce };
    } else if request.thinking
        && form.thinking != ThinkingForm::None
        && ["thinking", "effort", "output_config", "budget_tokens"].iter().any(|w| said.contains(w))
    {
        other.thinking = match form.thinking {
            _ if form.thinking_switched => ThinkingForm::None,
            ThinkingForm::Adaptive => ThinkingForm::Budget,
            ThinkingForm::Budget => ThinkingForm::Adaptive,
            ThinkingForm::None => return None,
        };
        other.thinking_switched = true;
    } else {
        return None;
    }
    Some(other)
}

fn classify(refusal: &Refusal) -> ErrorKind {
    match refusal.field("type") {
        _ if matches!(refusal.status, 200 | 400) && says_overflow(&refusal.text) => ErrorKind::Overflow,
        _ if matches!(refusal.status, 200 | 400) && says_quota(&refusal.text) => ErrorKind::Quota,
        "authentication_error" | "permission_error" => ErrorKind::Auth,
        "billing_error" => ErrorKind::Quota,
        "not_found_error" => ErrorKind::Model,
        "rate_limit_error" => ErrorKind::RateLimited,
        "overloaded_error" => ErrorKind::Overloaded,
        "request_too_large" => ErrorKind::Overflow,
        "api_error" | "timeout_error" => ErrorKind::Server,
        "invalid_request_error" if refusal.status == 200 => ErrorKind::BadRequest,
        _ => refusal.kind_by_status(),
    }
}

/// The request body.
pub fn body(request: &Request, form: &Form, names: &NameMap) -> Value {
    let mut body = Map::new();
    body.insert("model".into(), json!(request.model));
    body.insert("stream".into(), json!(true));
    let mut max_tokens = request.max_tokens;
    let mut output_config = Map::new();
    if request.thinking {
        match form.thinking {
            ThinkingForm::Adaptive => {
                body.insert("thinking".into(), json!({"type": "adaptive", "display": "summarized"}));
                output_config.insert("effort".into(), json!("high"));
            }
            ThinkingForm::Budget => {
                let budget = request.thinking_budget;
                body.insert("thinking".into(), json!({"type": "enabled", "budget_tokens": budget}));
                max_tokens = max_tokens.saturating_add(budget);
            }
            ThinkingForm::None => {}
        }
    }
    body.insert("max_tokens".into(), json!(max_tokens));

    let caching = request.stable_messages > 0 || request.system.iter().any(|p| p.cache_here);
    let mut left = MAX_BREAKPOINTS;
    if !request.tools.is_empty() {
        let mut tools: Vec<Value> = request
            .tools
            .iter()
            .map(|tool| {
                json!({
                    "name": names.wire(&tool.name),
                    "description": tool.description,
                    "input_schema": tool.input_schema,
                })
            })
            .collect();
        if caching && let Some(last) = tools.last_mut() {
            mark(last, &mut left);
        }
        body.insert("tools".into(), Value::Array(tools));
        if request.no_calls {
            body.insert("tool_choice".into(), json!({"type": "none"}));
        }
    }
    let (messages, marked) = messages(request, names, left > 0);
    left -= usize::from(marked);
    let mut system = system(request, left);
    match (&request.output_schema, form.schema) {
        (Some(schema), SchemaMode::Native) => {
            output_config.insert("format".into(), json!({"type": "json_schema", "schema": schema}));
        }
        (Some(schema), SchemaMode::Instruction | SchemaMode::InstructionOnce) => {
            system.push(json!({"type": "text", "text": schema_instruction(schema)}));
        }
        (None, _) => {}
    }
    if !system.is_empty() {
        body.insert("system".into(), Value::Array(system));
    }
    body.insert("messages".into(), messages);
    if !output_config.is_empty() {
        body.insert("output_config".into(), Value::Object(output_config));
    }
    Value::Object(body)
}

fn mark(block: &mut Value, left: &mut usize) {
    if *left > 0 {
        block["cache_control"] = json!({"type": "ephemeral"});
        *left -= 1;
    }
}

/// The system blocks, the last ones that ask for a breakpoint marked: a later one covers more.
fn system(request: &Request, mut left: usize) -> Vec<Value> {
    let parts: Vec<_> = request.system.iter().filter(|p| !p.text.trim().is_empty()).collect();
    let mut blocks: Vec<Value> = parts.iter().map(|p| json!({"type": "text", "text": p.text})).collect();
    for (part, block) in parts.iter().zip(&mut blocks).rev() {
        if part.cache_here {
            mark(block, &mut left);
        }
    }
    blocks
}

/// The messages, roles alternating, and whether the end of the stable ones got a breakpoint.
fn messages(request: &Request, names: &NameMap, may_mark: bool) -> (Value, bool) {
    let mut out: Vec<(&'static str, Vec<Value>)> = Vec::new();
    let mut marked = false;
    for (i, message) in request.messages.iter().enumerate() {
        let role = match message.role {
            Role::Assistant => "assistant",
            Role::User | Role::Tool => "user",
        };
        let (results, others): (Vec<&Block>, Vec<&Block>) =
            message.content.iter().partition(|b| matches!(b, Block::ToolResult { .. }));
        let blocks: Vec<Value> = results.into_iter().chain(others).filter_map(|b| block(b, names)).collect();
        if out.is_empty() && role == "assistant" {
            out.push(("user", vec![json!({"type": "text", "text": "(Earlier messages are not shown.)"})]));
        }
        match out.last_mut() {
            Some((last, content)) if *last == role => content.extend(blocks),
            // Blank messages leave no trace, so that roles still alternate.
            _ if blocks.is_empty() => {}
            _ => out.push((role, blocks)),
        }
        if may_mark && i + 1 == request.stable_messages {
            let target = out
                .iter_mut()
                .flat_map(|(_, c)| c)
                .rfind(|b| !matches!(b["type"].as_str(), Some("thinking" | "redacted_thinking")));
            if let Some(target) = target {
                mark(target, &mut 1);
                marked = true;
            }
        }
    }
    let list = out.into_iter().map(|(role, content)| json!({"role": role, "content": content})).collect();
    (list, marked)
}

fn block(block: &Block, names: &NameMap) -> Option<Value> {
    Some(match block {
        // The provider refuses blank text blocks.
        Block::Text { text } if text.trim().is_empty() => return None,
        Block::Text { text } => json!({"type": "text", "text": text}),
        Block::Thinking { text, signature } => thinking(text, signature.as_ref()?)?,
        Block::ToolUse { id, name, input, .. } => {
            json!({"type": "tool_use", "id": id, "name": names.wire(name), "input": input_object(input)})
        }
        Block::ToolResult { tool_use_id, content, is_error } => {
            let inner: Vec<Value> = content.iter().filter_map(|b| self::block(b, names)).collect();
            let mut result = json!({"type": "tool_result", "tool_use_id": tool_use_id});
            if !inner.is_empty() {
                result["content"] = Value::Array(inner);
            }
            if *is_error {
                result["is_error"] = json!(true);
            }
            result
        }
        Block::Image { source } => media("image", source),
        Block::Document { source } => match inline_text(source) {
            Some(text) if text.trim().is_empty() => return None,
            Some(text) => {
                json!({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": text}})
            }
            None => media("document", source),
        },
        Block::Audio { source } => json!({"type": "text", "text": media_note("audio", source)}),
        Block::Video { source } => json!({"type": "text", "text": media_note("video", source)}),
    })
}

fn media(kind: &str, source: &Source) -> Value {
    match source {
        Source::Base64 { media_type, data } => {
            json!({"type": kind, "source": {"type": "base64", "media_type": media_type, "data": data}})
        }
        Source::Url { url } => json!({"type": kind, "source": {"type": "url", "url": url}}),
        Source::Blob { .. } => json!({"type": "text", "text": media_note(kind, source)}),
    }
}

fn thinking(text: &str, proof: &Value) -> Option<Value> {
    if proof["provider"] != "anthropic" {
        return None;
    }
    if let Some(data) = proof["redacted"].as_str() {
        return Some(json!({"type": "redacted_thinking", "data": data}));
    }
    Some(json!({"type": "thinking", "thinking": text, "signature": proof["signature"].as_str()?}))
}

/// The stream decoder.
#[derive(Debug)]
pub struct Decoder {
    names: NameMap,
    blocks: Blocks,
    /// The signature of the open thinking block so far.
    signature: String,
    /// Input that came whole with the start of the open tool call (compatible servers).
    whole_input: Option<Value>,
    usage: Counts,
    usage_told: bool,
    stop: Option<Stop>,
    done: bool,
    input_estimate: u64,
}

#[derive(Debug, Default)]
struct Counts {
    input: Option<u64>,
    cache_read: u64,
    cache_written: u64,
    output: Option<u64>,
}

impl Counts {
    fn take(&mut self, usage: &Value) {
        let count = |name: &str| usage[name].as_u64();
        self.input = count("input_tokens").or(self.input);
        self.cache_read = count("cache_read_input_tokens").unwrap_or(self.cache_read);
        self.cache_written = count("cache_creation_input_tokens").unwrap_or(self.cache_written);
        self.output = count("output_tokens").or(self.output);
    }

    fn usage(&self) -> Option<Usage> {
        Some(Usage {
            input_tokens: self.input? + self.cache_read + self.cache_written,
            output_tokens: self.output?,
            cache_hit_tokens: self.cache_read,
        })
    }
}

impl Decoder {
    /// At the start of a stream. `input_estimate` stands in for missing usage; the answer may bring `most` bytes.
    pub fn new(names: NameMap, input_estimate: u64, most: usize) -> Self {
        Self {
            names,
            blocks: Blocks::up_to(most),
            signature: String::new(),
            whole_input: None,
            usage: Counts::default(),
            usage_told: false,
            stop: None,
            done: false,
            input_estimate,
        }
    }

    fn start(&mut self, block: &Value) -> Result<(), CallError> {
        match block["type"].as_str() {
            Some("text") => self.blocks.text(block["text"].as_str().unwrap_or_default())?,
            Some("thinking") => {
                self.blocks.start_thinking();
                block["signature"].as_str().unwrap_or_default().clone_into(&mut self.signature);
                self.blocks.thinking(block["thinking"].as_str().unwrap_or_default())?;
            }
            Some("redacted_thinking") => {
                self.blocks.start_thinking();
                self.blocks.sign(json!({"provider": "anthropic", "redacted": block["data"]}));
            }
            Some("tool_use") => {
                let name = self.names.engine(block["name"].as_str().unwrap_or_default());
                self.blocks.start_tool(name);
                self.whole_input =
                    Some(block["input"].clone()).filter(|i| i.as_object().is_some_and(|o| !o.is_empty()));
            }
            // Blocks of the provider's own tools, which we never offer.
            _ => {}
        }
        Ok(())
    }

    fn delta(&mut self, delta: &Value) -> Result<(), CallError> {
        let text = |name: &str| delta[name].as_str().unwrap_or_default();
        match delta["type"].as_str() {
            Some("text_delta") => self.blocks.text(text("text")),
            Some("thinking_delta") => self.blocks.thinking(text("thinking")),
            Some("signature_delta") => {
                self.signature.push_str(text("signature"));
                Ok(())
            }
            Some("input_json_delta") => self.blocks.args(text("partial_json")),
            _ => Ok(()),
        }
    }

    fn end(&mut self) -> Result<(), CallError> {
        let signature = std::mem::take(&mut self.signature);
        if self.blocks.is_thinking() && !signature.is_empty() {
            self.blocks.sign(json!({"provider": "anthropic", "signature": signature}));
        }
        if let Some(input) = self.whole_input.take()
            && self.blocks.open_args() == Some("")
        {
            self.blocks.args(&input.to_string())?;
        }
        self.blocks.end();
        Ok(())
    }

    fn tell_usage(&mut self) {
        let told = self.usage.usage();
        let usage = told.unwrap_or_else(|| estimate_usage(self.input_estimate, self.blocks.bytes()));
        self.blocks.push(Piece::Usage { usage, estimated: told.is_none() });
    }
}

impl Decode for Decoder {
    fn push(&mut self, event: &Event) -> Result<Vec<Piece>, DecodeError> {
        let frame = read_frame(event)?;
        match frame["type"].as_str() {
            Some("message_start") => self.usage.take(&frame["message"]["usage"]),
            Some("content_block_start") => self.start(&frame["content_block"])?,
            Some("content_block_delta") => self.delta(&frame["delta"])?,
            Some("content_block_stop") => self.end()?,
            Some("message_delta") => {
                self.usage.take(&frame["usage"]);
                if let Some(reason) = frame["delta"]["stop_reason"].as_str() {
                    self.stop = Some(match reason {
                        "max_tokens" => Stop::MaxTokens,
                        "tool_use" => Stop::ToolUse,
                        "refusal" => Stop::Refusal,
                        "pause_turn" => Stop::Pause,
                        "model_context_window_exceeded" => {
                            let text = "the answer filled the model's context window";
                            return Err(CallError::new(ErrorKind::Overflow, text).into());
                        }
                        _ => Stop::EndTurn,
                    });
                }
            }
            Some("message_stop") => self.done = true,
            Some("error") => return Err(DecodeError::Refused(frame)),
            _ => {} // ping, and what may come one day
        }
        // Early, so that a call that is cancelled later has its input counted; but after the first block
        // has begun, because a call may be repeated only while nothing was emitted.
        if self.blocks.any() && !self.usage_told && self.usage.usage().is_some() {
            self.usage_told = true;
            self.tell_usage();
        }
        Ok(self.blocks.take())
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn finish(&mut self) -> Result<Vec<Piece>, DecodeError> {
        let Some(stop) = self.stop else { return Err(cut_short().into()) };
        self.end()?;
        self.tell_usage();
        self.blocks.push(Piece::Stop(stop));
        Ok(self.blocks.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thinking_form_follows_the_version_in_the_name() {
        let form = |model: &str| Form::first(model).thinking;
        assert_eq!(form("claude-3-5-sonnet-20241022"), ThinkingForm::None);
        assert_eq!(form("claude-3-opus-20240229"), ThinkingForm::None);
        assert_eq!(form("claude-3-7-sonnet-latest"), ThinkingForm::Budget);
        assert_eq!(form("claude-opus-4-20250514"), ThinkingForm::Budget);
        assert_eq!(form("claude-haiku-4-5-20251001"), ThinkingForm::Budget);
        assert_eq!(form("claude-opus-4-6"), ThinkingForm::Adaptive);
        assert_eq!(form("claude-sonnet-5-5"), ThinkingForm::Adaptive);
        assert_eq!(form("anthropic/claude-sonnet-4.6"), ThinkingForm::Adaptive);
        assert_eq!(form("my-proxy-model"), ThinkingForm::Adaptive);
    }
}
