//! Google Gemini: the request as a pure function, the stream as a pure state machine.
//!
//! Gemini signs parts rather than blocks. A signature is kept in the opaque field of the tool call or of a
//! thinking block without text that directly follows its part, and returns with the part it came with.

use crate::assemble::{Blocks, input_object, media_note, most_bytes, schema_instruction};
use crate::errors::{Refusal, says_overflow, seconds};
use crate::names::{Dots, NameMap};
use crate::openai::SchemaMode;
use crate::provider::{CallError, ErrorKind, Message, Piece, Request, Stop};
use crate::sse::Event;
use crate::tokens::{estimate_request, estimate_usage};
use crate::wire::{Decode, DecodeError, Dialect, Learnt, Outgoing, cut_short, read_frame};
use contract::{Block, Role, Source, Usage};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::time::Duration;

/// Where Google itself is.
pub const DEFAULT_BASE: &str = "https://generativelanguage.googleapis.com";

/// The documented stand-in for a signature that is missing because another model made the call. Without
/// it Gemini 3 refuses histories that it has not written itself.
pub const NO_SIGNATURE: &str = "skip_thought_signature_validator";

/// How thinking is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThinkingForm {
    /// A level (Gemini 3 and later).
    Level,
    /// A budget in tokens (Gemini 2.5).
    Budget,
    /// Not at all: the model has none.
    None,
}

/// What is known about the fields a model accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form {
    /// Thinking.
    pub thinking: ThinkingForm,
    /// The other way of asking has been tried already.
    pub thinking_switched: bool,
    /// Structured output.
    pub schema: SchemaMode,
}

impl Form {
    /// What is tried first with this request. Before Gemini 3, structured output and tools exclude each other.
    pub fn first(model: &str, with_tools: bool) -> Self {
        let (thinking, schema) = match major(model) {
            Some(..=1) => (ThinkingForm::None, SchemaMode::Native),
            Some(2) if with_tools => (ThinkingForm::Budget, SchemaMode::InstructionOnce),
            Some(2) => (ThinkingForm::Budget, SchemaMode::Native),
            _ => (ThinkingForm::Level, SchemaMode::Native),
        };
        Self { thinking, thinking_switched: false, schema }
    }
}

fn major(model: &str) -> Option<u32> {
    let (_, rest) = model.split_once("gemini-")?;
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
}

/// The dialect: where to send, the key, and what was learnt.
pub struct Gemini {
    base: String,
    key: Option<String>,
    learnt: Learnt<Form>,
}

impl Gemini {
    /// `base` replaces [`DEFAULT_BASE`] exactly.
    pub fn new(base: Option<&str>, key: Option<String>) -> Self {
        let base = base.unwrap_or(DEFAULT_BASE).trim_end_matches('/').to_owned();
        Self { base, key, learnt: Learnt::default() }
    }
}

impl Dialect for Gemini {
    type Form = Form;
    type Decoder = Decoder;

    fn name(&self) -> &'static str {
        "gemini"
    }

    fn form(&self, request: &Request) -> Form {
        let first = Form::first(&request.model, !request.tools.is_empty());
        match self.learnt.get(&request.model) {
            // What excludes tools depends on the request and is never learnt.
            Some(known) if first.schema == SchemaMode::InstructionOnce => {
                Form { schema: first.schema, ..known }
            }
            Some(known) => known,
            None => first,
        }
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
        let names = NameMap::of(request, Dots::Allowed);
        let headers = self.key.iter().map(|key| ("x-goog-api-key", key.clone())).collect();
        let outgoing =
            Outgoing { url: url(&self.base, &request.model), headers, body: body(request, form, &names) };
        (outgoing, Decoder::new(names, estimate_request(request), most_bytes(request)))
    }

    fn classify(&self, refusal: &Refusal) -> ErrorKind {
        classify(refusal)
    }

    fn wait_of(&self, refusal: &Refusal) -> Option<Duration> {
        let details = refusal.json["error"]["details"].as_array()?;
        let text = details.iter().find_map(|d| d["retryDelay"].as_str())?;
        seconds(text.strip_suffix('s')?.parse().ok()?)
    }
}

/// The address of a model's stream. `models/` is put before a bare name.
fn url(base: &str, model: &str) -> String {
    let path = if model.contains('/') { model.to_owned() } else { format!("models/{model}") };
    let safe: String = path
        .chars()
        .map(|c| match c {
            '?' | '#' | '%' | '\\' => '_',
            c if c.is_whitespace() || c.is_control() => '_',
            c => c,
        })
        .collect();
    format!("{base}/v1beta/{safe}:streamGenerateContent?alt=sse")
}

/// The form to try after a 400 that names a field of this one.
pub fn other_form(request: &Request, form: &Form, refusal: &Refusal) -> Option<Form> {
    if classify(refusal) != ErrorKind::BadRequest {
        return None;
    }
    let said = refusal.text.to_lowercase();
    let names = |words: &[&str]| words.iter().any(|w| said.contains(w));
    let mut other = form.clone();
    if request.thinking && form.thinking != ThinkingForm::None && names(&["thinking", "include_thoughts"]) {
        other.thinking = match form.thinking {
            _ if form.thinking_switched => ThinkingForm::None,
            ThinkingForm::Level => ThinkingForm::Budget,
            ThinkingForm::Budget => ThinkingForm::Level,
            ThinkingForm::None => return None,
        };
        other.thinking_switched = true;
    } else if request.output_schema.is_some()
        && form.schema == SchemaMode::Native
        && names(&[
            "response_json_schema",
            "responsejsonschema",
            "response_schema",
            "response mime type",
            "responsemimetype",
            "response_mime_type",
        ])
    {
        other.schema =
            if request.tools.is_empty() { SchemaMode::Instruction } else { SchemaMode::InstructionOnce };
    } else {
        return None;
    }
    Some(other)
}

fn classify(refusal: &Refusal) -> ErrorKind {
    let key_is_bad = refusal.text.contains("API_KEY_INVALID") || refusal.text.contains("API key not valid");
    match refusal.field("status") {
        "UNAUTHENTICATED" | "PERMISSION_DENIED" => ErrorKind::Auth,
        "INVALID_ARGUMENT" if key_is_bad => ErrorKind::Auth,
        "INVALID_ARGUMENT" if says_overflow(&refusal.text) => ErrorKind::Overflow,
        "INVALID_ARGUMENT" | "FAILED_PRECONDITION" => ErrorKind::BadRequest,
        "NOT_FOUND" => ErrorKind::Model,
        "RESOURCE_EXHAUSTED" => ErrorKind::RateLimited,
        "UNAVAILABLE" => ErrorKind::Overloaded,
        "INTERNAL" => ErrorKind::Server,
        "DEADLINE_EXCEEDED" => ErrorKind::Timeout,
        _ => refusal.kind_by_status(),
    }
}

/// The request body.
pub fn body(request: &Request, form: &Form, names: &NameMap) -> Value {
    let mut body = Map::new();
    let mut system: Vec<Value> = request
        .system
        .iter()
        .filter(|p| !p.text.trim().is_empty())
        .map(|p| json!({"text": p.text}))
        .collect();
    let mut config = Map::new();
    let mut limit = request.max_tokens;
    if request.thinking && form.thinking != ThinkingForm::None {
        let thinking = match form.thinking {
            ThinkingForm::Level => json!({"includeThoughts": true, "thinkingLevel": "high"}),
            _ => json!({"includeThoughts": true, "thinkingBudget": request.thinking_budget}),
        };
        config.insert("thinkingConfig".into(), thinking);
        // Thoughts count as output here; without this they would eat the answer.
        limit = limit.saturating_add(request.thinking_budget);
    }
    config.insert("maxOutputTokens".into(), json!(limit));
    match (&request.output_schema, form.schema) {
        (Some(schema), SchemaMode::Native) => {
            config.insert("responseMimeType".into(), json!("application/json"));
            config.insert("responseJsonSchema".into(), schema.clone());
        }
        (Some(schema), _) => system.push(json!({"text": schema_instruction(schema)})),
        (None, _) => {}
    }
    if !system.is_empty() {
        body.insert("systemInstruction".into(), json!({"parts": system}));
    }
    body.insert("contents".into(), contents(request, names));
    if !request.tools.is_empty() {
        let declarations: Vec<Value> = request
            .tools
            .iter()
            .map(|tool| {
                json!({
                    "name": names.wire(&tool.name),
                    "description": tool.description,
                    "parametersJsonSchema": tool.input_schema,
                })
            })
            .collect();
        body.insert("tools".into(), json!([{"functionDeclarations": declarations}]));
        if request.no_calls {
            body.insert("toolConfig".into(), json!({"functionCallingConfig": {"mode": "NONE"}}));
        }
    }
    body.insert("generationConfig".into(), Value::Object(config));
    Value::Object(body)
}

fn contents(request: &Request, names: &NameMap) -> Value {
    let calls: HashMap<&str, (&str, Option<&Value>)> = request
        .messages
        .iter()
        .flat_map(|m| &m.content)
        .filter_map(|b| match b {
            Block::ToolUse { id, name, signature, .. } => {
                Some((id.as_str(), (name.as_str(), signature.as_ref())))
            }
            _ => None,
        })
        .collect();
    let must_sign = major(&request.model).is_none_or(|m| m >= 3);
    let mut out: Vec<Value> = Vec::new();
    for message in &request.messages {
        match message.role {
            Role::Assistant => {
                if out.is_empty() {
                    out.push(
                        json!({"role": "user", "parts": [{"text": "(Earlier messages are not shown.)"}]}),
                    );
                }
                push(&mut out, "model", model_parts(message, names, must_sign));
            }
            Role::User | Role::Tool => {
                let (responses, media) = responses(message, &calls, names);
                // A content of their own: Gemini counts the responses of the content after a call.
                if !responses.is_empty() {
                    out.push(json!({"role": "user", "parts": responses}));
                }
                let others: Vec<Value> =
                    media.into_iter().chain(message.content.iter().filter_map(part)).collect();
                if message.role == Role::User && !out.last().is_some_and(holds_responses) {
                    push(&mut out, "user", others);
                } else if !others.is_empty() {
                    out.push(json!({"role": "user", "parts": others}));
                }
            }
        }
    }
    Value::Array(out)
}

fn holds_responses(content: &Value) -> bool {
    content["parts"].as_array().is_some_and(|p| p.iter().any(|part| part["functionResponse"].is_object()))
}

/// Appends to the last content when it has the same role.
fn push(out: &mut Vec<Value>, role: &str, parts: Vec<Value>) {
    if parts.is_empty() {
        return;
    }
    match out.last_mut() {
        Some(last) if last["role"] == role => {
            if let Some(list) = last["parts"].as_array_mut() {
                list.extend(parts);
            }
        }
        _ => out.push(json!({"role": role, "parts": parts})),
    }
}

fn model_parts(message: &Message, names: &NameMap, must_sign: bool) -> Vec<Value> {
    let mut parts: Vec<Value> = Vec::new();
    let mut first_call = true;
    for block in &message.content {
        match block {
            Block::Text { text } if text.is_empty() => {}
            Block::Text { text } => parts.push(json!({"text": text})),
            Block::Thinking { text, signature } => {
                let Some(proof) = signature.as_ref().filter(|s| s["provider"] == "gemini") else { continue };
                let sign = &proof["thoughtSignature"];
                if proof["of"] == "thought" {
                    parts.push(json!({"text": text, "thought": true, "thoughtSignature": sign}));
                } else if let Some(last) =
                    parts.last_mut().filter(|p| p["text"].is_string() && proof["of"] == "text")
                {
                    last["thoughtSignature"] = sign.clone();
                } else {
                    parts.push(json!({"text": "", "thoughtSignature": sign}));
                }
            }
            Block::ToolUse { name, input, signature, .. } => {
                let mut call = json!({"name": names.wire(name), "args": input_object(input)});
                let own = signature.as_ref().filter(|s| s["provider"] == "gemini");
                if let Some(id) = own.and_then(|s| s["id"].as_str()) {
                    call["id"] = json!(id);
                }
                let mut part = json!({"functionCall": call});
                match own.map(|s| &s["thoughtSignature"]).filter(|s| s.is_string()) {
                    Some(sign) => part["thoughtSignature"] = sign.clone(),
                    None if must_sign && first_call => part["thoughtSignature"] = json!(NO_SIGNATURE),
                    None => {}
                }
                first_call = false;
                parts.push(part);
            }
            _ => parts.extend(part(block)),
        }
    }
    parts
}

/// The function responses of a message, and the media that came with them.
fn responses(
    message: &Message,
    calls: &HashMap<&str, (&str, Option<&Value>)>,
    names: &NameMap,
) -> (Vec<Value>, Vec<Value>) {
    let mut responses = Vec::new();
    let mut media = Vec::new();
    for block in &message.content {
        let Block::ToolResult { tool_use_id, content, is_error } = block else { continue };
        let (name, signature) = calls.get(tool_use_id.as_str()).copied().unwrap_or(("unknown", None));
        let mut text = String::new();
        for inner in content {
            match inner {
                Block::Text { text: more } => text.push_str(more),
                other => {
                    if let Some(part) = part(other) {
                        text.push_str("[see the next message]");
                        media.push(json!({"text": format!("From the result of {name}:")}));
                        media.push(part);
                    }
                }
            }
        }
        let field = if *is_error { "error" } else { "output" };
        let mut response = json!({"name": names.wire(name), "response": {field: text}});
        if let Some(id) = signature.filter(|s| s["provider"] == "gemini").and_then(|s| s["id"].as_str()) {
            response["id"] = json!(id);
        }
        responses.push(json!({"functionResponse": response}));
    }
    (responses, media)
}

fn part(block: &Block) -> Option<Value> {
    Some(match block {
        Block::Text { text } if text.is_empty() => return None,
        Block::Text { text } => json!({"text": text}),
        Block::Image { source }
        | Block::Document { source }
        | Block::Audio { source }
        | Block::Video { source } => match source {
            Source::Base64 { media_type, data } => {
                json!({"inlineData": {"mimeType": media_type, "data": data}})
            }
            Source::Url { url } => json!({"fileData": {"fileUri": url}}),
            Source::Blob { .. } => json!({"text": media_note("medium", source)}),
        },
        Block::Thinking { .. } | Block::ToolUse { .. } | Block::ToolResult { .. } => return None,
    })
}

/// The stream decoder.
#[derive(Debug)]
pub struct Decoder {
    names: NameMap,
    blocks: Blocks,
    usage: Option<Usage>,
    stop: Option<Stop>,
    input_estimate: u64,
}

impl Decoder {
    /// At the start of a stream. `input_estimate` stands in for missing usage; the answer may bring `most` bytes.
    pub fn new(names: NameMap, input_estimate: u64, most: usize) -> Self {
        Self { names, blocks: Blocks::up_to(most), usage: None, stop: None, input_estimate }
    }

    fn part(&mut self, part: &Value) -> Result<(), CallError> {
        let sign = part["thoughtSignature"].as_str();
        if let Some(call) = part["functionCall"].as_object() {
            let name = call.get("name").and_then(Value::as_str).unwrap_or_default();
            self.blocks.start_tool(self.names.engine(name));
            if let Some(args) = call.get("args").filter(|a| !a.is_null()) {
                self.blocks.args(&args.to_string())?;
            }
            let mut proof = Map::new();
            if let Some(id) = call.get("id").filter(|id| id.is_string()) {
                proof.insert("id".into(), id.clone());
            }
            if let Some(sign) = sign {
                proof.insert("thoughtSignature".into(), json!(sign));
            }
            if !proof.is_empty() {
                proof.insert("provider".into(), json!("gemini"));
                self.blocks.sign(Value::Object(proof));
            }
            self.blocks.end();
            return Ok(());
        }
        let text = part["text"].as_str().unwrap_or_default();
        if part["thought"] == true {
            self.blocks.thinking(text)?;
            if let Some(sign) = sign {
                self.blocks.sign(json!({"provider": "gemini", "of": "thought", "thoughtSignature": sign}));
                self.blocks.end();
            }
        } else {
            self.blocks.text(text)?;
            if let Some(sign) = sign {
                // With text: it belongs to the part just ended. Without: to an empty part of its own.
                let of = if text.is_empty() { "nothing" } else { "text" };
                self.blocks.start_thinking();
                self.blocks.sign(json!({"provider": "gemini", "of": of, "thoughtSignature": sign}));
                self.blocks.end();
            }
        }
        Ok(())
    }

    fn finished(&mut self, reason: &str) -> Result<(), DecodeError> {
        self.blocks.end();
        self.stop = Some(match reason {
            "STOP" if self.blocks.tool_count() > 0 => Stop::ToolUse,
            "STOP" => Stop::EndTurn,
            "MAX_TOKENS" => Stop::MaxTokens,
            "SAFETY" | "RECITATION" | "BLOCKLIST" | "PROHIBITED_CONTENT" | "SPII" | "IMAGE_SAFETY"
            | "LANGUAGE" => Stop::Refusal,
            "MALFORMED_FUNCTION_CALL" | "UNEXPECTED_TOOL_CALL" | "TOO_MANY_TOOL_CALLS" => {
                let text = format!("the model spoiled its tool call ({reason})");
                return Err(DecodeError::Spoiled(CallError::new(ErrorKind::Stream, text)));
            }
            _ if self.blocks.tool_count() > 0 => Stop::ToolUse,
            _ if self.blocks.any() => Stop::EndTurn,
            _ => {
                let text =
                    format!("gemini ended without an answer ({})", crate::errors::presentable(reason, None));
                return Err(CallError::new(ErrorKind::Stream, text).into());
            }
        });
        Ok(())
    }
}

impl Decode for Decoder {
    fn push(&mut self, event: &Event) -> Result<Vec<Piece>, DecodeError> {
        let frame = read_frame(event)?;
        if frame["error"].is_object() {
            return Err(DecodeError::Refused(frame));
        }
        let count = |name: &str| frame["usageMetadata"][name].as_u64();
        if let Some(input) = count("promptTokenCount") {
            self.usage = Some(Usage {
                input_tokens: input,
                output_tokens: count("candidatesTokenCount").unwrap_or(0)
                    + count("thoughtsTokenCount").unwrap_or(0),
                cache_hit_tokens: count("cachedContentTokenCount").unwrap_or(0).min(input),
            });
        }
        let candidate = &frame["candidates"][0];
        for part in candidate["content"]["parts"].as_array().into_iter().flatten() {
            self.part(part)?;
        }
        if let Some(reason) = candidate["finishReason"].as_str() {
            self.finished(reason)?;
        } else if frame["promptFeedback"]["blockReason"].is_string() {
            self.blocks.end();
            self.stop = Some(Stop::Refusal);
        }
        Ok(self.blocks.take())
    }

    /// Gemini has no end mark; the body ends.
    fn is_done(&self) -> bool {
        false
    }

    fn finish(&mut self) -> Result<Vec<Piece>, DecodeError> {
        let Some(stop) = self.stop else { return Err(cut_short().into()) };
        let usage = self.usage.unwrap_or_else(|| estimate_usage(self.input_estimate, self.blocks.bytes()));
        self.blocks.push(Piece::Usage { usage, estimated: self.usage.is_none() });
        self.blocks.push(Piece::Stop(stop));
        Ok(self.blocks.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_holds_the_model_and_nothing_else_of_it() {
        assert_eq!(
            url("http://h", "gemini-3.8-flash"),
            "http://h/v1beta/models/gemini-3.8-flash:streamGenerateContent?alt=sse"
        );
        assert_eq!(
            url("http://h", "tunedModels/a?b"),
            "http://h/v1beta/tunedModels/a_b:streamGenerateContent?alt=sse"
        );
    }

    #[test]
    fn the_thinking_form_follows_the_version_in_the_name() {
        assert_eq!(Form::first("gemini-2.5-pro", false).thinking, ThinkingForm::Budget);
        assert_eq!(Form::first("gemini-3.8-flash", false).thinking, ThinkingForm::Level);
        assert_eq!(Form::first("gemini-1.5-pro", false).thinking, ThinkingForm::None);
        assert_eq!(Form::first("gemini-2.5-pro", true).schema, SchemaMode::InstructionOnce);
    }
}
