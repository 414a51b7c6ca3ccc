//! OpenAI chat completions, and every server that imitates it: the request as a pure function, the stream
//! as a pure state machine.
//!
//! Imitators differ in which fields they accept. What a 400 teaches ([`Form`]) is remembered per model for
//! the life of the process and never written anywhere.

use crate::assemble::{Blocks, inline_text, input_object, media_note, schema_instruction};
use crate::errors::{Refusal, says_overflow, says_quota};
use crate::names::{Dots, NameMap};
use crate::provider::{CallError, ErrorKind, Message, Piece, Request, Stop};
use crate::sse::Event;
use crate::tokens::{estimate_request, estimate_usage};
use crate::wire::{Decode, DecodeError, Dialect, Learnt, Outgoing, cut_short, read_frame};
use contract::{Block, Role, Source, Usage};
use serde_json::{Map, Value, json};

/// Where OpenAI itself is.
pub const DEFAULT_BASE: &str = "https://api.openai.com/v1";

/// Longest tool description sent to a server that refuses long ones: the limit OpenAI names.
const SHORT_DESCRIPTION_CHARS: usize = 1024;

/// The field that limits the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitField {
    /// `max_tokens`: what imitators know.
    MaxTokens,
    /// `max_completion_tokens`: what OpenAI wants.
    MaxCompletionTokens,
}

impl LimitField {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            LimitField::MaxTokens => "max_tokens",
            LimitField::MaxCompletionTokens => "max_completion_tokens",
        }
    }
}

/// How structured output is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaMode {
    /// By the provider's own mode.
    Native,
    /// By an instruction, because the model has no such mode.
    Instruction,
    /// By an instruction for this call only, because the mode does not take this schema.
    InstructionOnce,
}

/// What is known about the fields a model's server accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form {
    /// The output limit's name.
    pub limit: LimitField,
    /// The limit's name has been switched already; it is switched once only.
    pub limit_switched: bool,
    /// Structured output.
    pub schema: SchemaMode,
    /// `reasoning_effort` is accepted.
    pub effort: bool,
    /// `parallel_tool_calls` is accepted.
    pub parallel: bool,
    /// `stream_options` is accepted.
    pub stream_options: bool,
    /// Reasoning that came in a field of its own is sent back in it.
    pub reasoning_back: bool,
    /// Tool descriptions of any length are accepted.
    pub long_descriptions: bool,
}

impl Form {
    /// What is tried first.
    pub const fn first(limit: LimitField) -> Self {
        Self {
            limit,
            limit_switched: false,
            schema: SchemaMode::Native,
            effort: true,
            parallel: true,
            stream_options: true,
            reasoning_back: true,
            long_descriptions: true,
        }
    }
}

/// The dialect: where to send, the key, and what was learnt.
pub struct OpenAi {
    base: String,
    key: Option<String>,
    limit: LimitField,
    learnt: Learnt<Form>,
}

impl OpenAi {
    /// `base` replaces [`DEFAULT_BASE`] exactly.
    pub fn new(base: Option<&str>, key: Option<String>) -> Self {
        let base = base.unwrap_or(DEFAULT_BASE).trim_end_matches('/').to_owned();
        let host = url::Url::parse(&base).ok().and_then(|u| u.host_str().map(str::to_owned));
        let limit = match host.as_deref() {
            Some("api.openai.com") => LimitField::MaxCompletionTokens,
            _ => LimitField::MaxTokens,
        };
        Self { base, key, limit, learnt: Learnt::default() }
    }
}

impl Dialect for OpenAi {
    type Form = Form;
    type Decoder = Decoder;

    fn name(&self) -> &'static str {
        "openai"
    }

    fn form(&self, request: &Request) -> Form {
        self.learnt.get(&request.model).unwrap_or(Form::first(self.limit))
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
        let headers = self.key.iter().map(|key| ("authorization", format!("Bearer {key}"))).collect();
        let url = format!("{}/chat/completions", self.base);
        let outgoing = Outgoing { url, headers, body: body(request, form, &names) };
        (outgoing, Decoder::new(names, estimate_request(request)))
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
    let said = format!("{} {}", refusal.field("param"), refusal.message()).to_lowercase();
    let names = |field: &str| said.contains(field);
    let mut other = form.clone();
    // "max_tokens is too large: 9000" names the field too, but means the number.
    let about_size = ["too large", "at most", "less than", "greater than"].iter().any(|w| said.contains(w));
    if form.long_descriptions && names("function.description") && said.contains("too long") {
        other.long_descriptions = false;
    } else if names(form.limit.as_str()) && !form.limit_switched && !about_size {
        other.limit_switched = true;
        other.limit = match form.limit {
            LimitField::MaxTokens => LimitField::MaxCompletionTokens,
            LimitField::MaxCompletionTokens => LimitField::MaxTokens,
        };
    } else if form.schema == SchemaMode::Native
        && request.output_schema.is_some()
        && ["response_format", "json_schema", "structured output"].iter().any(|f| names(f))
    {
        let once = said.contains("invalid schema") || said.contains("invalid_json_schema");
        other.schema = if once { SchemaMode::InstructionOnce } else { SchemaMode::Instruction };
    } else if form.effort && request.thinking && names("reasoning_effort") {
        other.effort = false;
    } else if form.parallel && names("parallel_tool_calls") {
        other.parallel = false;
    } else if form.stream_options && (names("stream_options") || names("include_usage")) {
        other.stream_options = false;
    } else if form.reasoning_back && names("reasoning") {
        other.reasoning_back = false;
    } else {
        return None;
    }
    Some(other)
}

fn classify(refusal: &Refusal) -> ErrorKind {
    match (refusal.field("code"), refusal.field("type")) {
        ("context_length_exceeded", _) => ErrorKind::Overflow,
        ("insufficient_quota", _) | (_, "insufficient_quota") => ErrorKind::Quota,
        ("model_not_found", _) => ErrorKind::Model,
        ("invalid_api_key", _) => ErrorKind::Auth,
        ("rate_limit_exceeded", _) => ErrorKind::RateLimited,
        _ if refusal.status == 200 && says_overflow(&refusal.text) => ErrorKind::Overflow,
        _ if refusal.status == 200 && says_quota(&refusal.text) => ErrorKind::Quota,
        _ => refusal.kind_by_status(),
    }
}

/// Is this a model that takes `reasoning_effort`?
fn reasons(model: &str) -> bool {
    let bare = model.rsplit('/').next().unwrap_or(model).to_ascii_lowercase();
    if bare.starts_with("gpt-oss") {
        return true;
    }
    let digits = |rest: &str| rest.chars().take_while(char::is_ascii_digit).collect::<String>();
    if let Some(rest) = bare.strip_prefix("gpt-") {
        return !bare.contains("chat") && digits(rest).parse::<u32>().is_ok_and(|n| n >= 5);
    }
    bare.strip_prefix('o').is_some_and(|rest| !digits(rest).is_empty())
}

/// The request body.
pub fn body(request: &Request, form: &Form, names: &NameMap) -> Value {
    let mut body = Map::new();
    body.insert("model".into(), json!(request.model));
    body.insert("messages".into(), messages(request, form, names));
    body.insert("stream".into(), json!(true));
    if form.stream_options {
        body.insert("stream_options".into(), json!({"include_usage": true}));
    }
    body.insert(form.limit.as_str().into(), json!(request.max_tokens));
    if !request.tools.is_empty() {
        let tools = request.tools.iter().map(|tool| {
            json!({"type": "function", "function": {
                "name": names.wire(&tool.name),
                "description": description(&tool.description, form),
                "parameters": tool.input_schema,
            }})
        });
        body.insert("tools".into(), tools.collect());
        if request.no_calls {
            body.insert("tool_choice".into(), json!("none"));
        } else if form.parallel {
            body.insert("parallel_tool_calls".into(), json!(true));
        }
    }
    if request.thinking && form.effort && reasons(&request.model) {
        body.insert("reasoning_effort".into(), json!("high"));
    }
    if let (Some(schema), SchemaMode::Native) = (&request.output_schema, form.schema) {
        body.insert(
            "response_format".into(),
            json!({"type": "json_schema", "json_schema": {"name": "output", "strict": true, "schema": schema}}),
        );
    }
    Value::Object(body)
}

fn description(text: &str, form: &Form) -> String {
    match form.long_descriptions {
        true => text.to_owned(),
        false => text.chars().take(SHORT_DESCRIPTION_CHARS).collect(),
    }
}

fn messages(request: &Request, form: &Form, names: &NameMap) -> Value {
    let mut system: Vec<String> =
        request.system.iter().map(|p| p.text.clone()).filter(|t| !t.trim().is_empty()).collect();
    if let (Some(schema), false) = (&request.output_schema, form.schema == SchemaMode::Native) {
        system.push(schema_instruction(schema));
    }
    let mut out = Vec::new();
    if !system.is_empty() {
        out.push(json!({"role": "system", "content": system.join("\n\n")}));
    }
    for message in &request.messages {
        match message.role {
            Role::Assistant => out.extend(assistant(message, form, names)),
            Role::User | Role::Tool => received(message, &mut out),
        }
    }
    Value::Array(out)
}

fn assistant(message: &Message, form: &Form, names: &NameMap) -> Option<Value> {
    let mut text = String::new();
    let mut calls = Vec::new();
    let mut out = Map::new();
    out.insert("role".into(), json!("assistant"));
    for block in &message.content {
        match block {
            Block::Text { text: more } => text.push_str(more),
            Block::ToolUse { id, name, input, .. } => calls.push(json!({
                "id": id,
                "type": "function",
                "function": {"name": names.wire(name), "arguments": input_object(input).to_string()},
            })),
            Block::Thinking { text, signature: Some(proof) }
                if proof["provider"] == "openai" && form.reasoning_back =>
            {
                if let Some(field) = proof["field"].as_str() {
                    out.insert(field.to_owned(), json!(text));
                }
            }
            _ => {}
        }
    }
    if text.is_empty() && calls.is_empty() {
        return None;
    }
    out.insert("content".into(), if text.is_empty() { Value::Null } else { json!(text) });
    if !calls.is_empty() {
        out.insert("tool_calls".into(), Value::Array(calls));
    }
    Some(Value::Object(out))
}

/// A user or tool message: results first, each a message of its own; what a tool message cannot hold
/// (pictures) follows in a user message.
fn received(message: &Message, out: &mut Vec<Value>) {
    let mut parts = Vec::new();
    for block in &message.content {
        if let Block::ToolResult { tool_use_id, content, is_error } = block {
            let mut text = if *is_error { "[error] ".to_owned() } else { String::new() };
            for inner in content {
                match part(inner) {
                    Some(Part::Text(more)) => text.push_str(&more),
                    Some(Part::Other(value)) => {
                        text.push_str("[see the next message]");
                        parts.push(Part::Text(format!("From the result of {tool_use_id}:")));
                        parts.push(Part::Other(value));
                    }
                    None => {}
                }
            }
            out.push(json!({"role": "tool", "tool_call_id": tool_use_id, "content": text}));
        }
    }
    parts.extend(message.content.iter().filter_map(part));
    if parts.is_empty() {
        return;
    }
    let all_text: Option<Vec<&str>> = parts
        .iter()
        .map(|p| match p {
            Part::Text(text) => Some(text.as_str()),
            Part::Other(_) => None,
        })
        .collect();
    // Plain text goes as a plain string: some compatible servers know nothing else.
    let content = match all_text {
        Some(texts) => json!(texts.join("\n\n")),
        None => parts
            .into_iter()
            .map(|p| match p {
                Part::Text(text) => json!({"type": "text", "text": text}),
                Part::Other(value) => value,
            })
            .collect(),
    };
    out.push(json!({"role": "user", "content": content}));
}

enum Part {
    Text(String),
    Other(Value),
}

fn part(block: &Block) -> Option<Part> {
    Some(match block {
        Block::Text { text } if text.is_empty() => return None,
        Block::Text { text } => Part::Text(text.clone()),
        Block::Image { source: Source::Url { url } } => {
            Part::Other(json!({"type": "image_url", "image_url": {"url": url}}))
        }
        Block::Image { source: Source::Base64 { media_type, data } } => Part::Other(
            json!({"type": "image_url", "image_url": {"url": format!("data:{media_type};base64,{data}")}}),
        ),
        Block::Audio { source: Source::Base64 { media_type, data } }
            if audio_format(media_type).is_some() =>
        {
            Part::Other(json!({
                "type": "input_audio",
                "input_audio": {"data": data, "format": audio_format(media_type)},
            }))
        }
        Block::Document { source } => {
            Part::Text(inline_text(source).unwrap_or_else(|| media_note("document", source)))
        }
        Block::Image { source } => Part::Text(media_note("image", source)),
        Block::Audio { source } => Part::Text(media_note("audio", source)),
        Block::Video { source } => Part::Text(media_note("video", source)),
        Block::Thinking { .. } | Block::ToolUse { .. } | Block::ToolResult { .. } => return None,
    })
}

fn audio_format(media_type: &str) -> Option<&'static str> {
    match media_type {
        "audio/wav" | "audio/x-wav" | "audio/wave" | "audio/vnd.wave" => Some("wav"),
        "audio/mpeg" | "audio/mp3" => Some("mp3"),
        _ => None,
    }
}

#[derive(Debug)]
struct ToolCall {
    index: Option<u64>,
    id: String,
    name: String,
    /// What came before the call's block could be opened.
    waiting_args: String,
    state: CallState,
}

#[derive(Debug, PartialEq)]
enum CallState {
    Waiting,
    Open,
    Closed,
}

/// The stream decoder.
#[derive(Debug)]
pub struct Decoder {
    names: NameMap,
    blocks: Blocks,
    calls: Vec<ToolCall>,
    stop: Option<Stop>,
    usage: Option<Usage>,
    done: bool,
    input_estimate: u64,
}

impl Decoder {
    /// At the start of a stream. `input_estimate` stands in for missing usage.
    pub fn new(names: NameMap, input_estimate: u64) -> Self {
        Self {
            names,
            blocks: Blocks::default(),
            calls: Vec::new(),
            stop: None,
            usage: None,
            done: false,
            input_estimate,
        }
    }

    fn delta(&mut self, delta: &Value) -> Result<(), CallError> {
        for field in ["reasoning_content", "reasoning"] {
            if let Some(text) = delta[field].as_str().filter(|t| !t.is_empty()) {
                self.close_calls()?;
                self.blocks.thinking(text)?;
                self.blocks.sign(json!({"provider": "openai", "field": field}));
                break;
            }
        }
        let texts = match &delta["content"] {
            Value::String(text) => vec![text.as_str()],
            Value::Array(parts) => parts.iter().filter_map(|p| p["text"].as_str()).collect(),
            _ => Vec::new(),
        };
        for text in texts.into_iter().chain(delta["refusal"].as_str()).filter(|t| !t.is_empty()) {
            self.close_calls()?;
            self.blocks.text(text)?;
        }
        if delta["refusal"].as_str().is_some_and(|t| !t.is_empty()) {
            self.stop = Some(Stop::Refusal);
        }
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            self.call_delta(call)?;
        }
        Ok(())
    }

    fn call_delta(&mut self, delta: &Value) -> Result<(), CallError> {
        let index = delta["index"].as_u64();
        let id = delta["id"].as_str().unwrap_or_default();
        let name = delta["function"]["name"].as_str().unwrap_or_default();
        let args = match &delta["function"]["arguments"] {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            whole => whole.to_string(), // some servers send an object
        };
        let known = match index {
            Some(_) => self.calls.iter().rposition(|c| c.index == index),
            None if !id.is_empty() => self.calls.iter().rposition(|c| c.id == id),
            None => self.calls.len().checked_sub(1),
        };
        // Servers that number every call 0 are told apart by a new id that comes with a name.
        let another = |c: &ToolCall| !id.is_empty() && !c.id.is_empty() && c.id != id && !name.is_empty();
        let at = match known {
            Some(at) if !another(&self.calls[at]) => at,
            _ => {
                self.settle();
                self.calls.push(ToolCall {
                    index,
                    id: id.to_owned(),
                    name: String::new(),
                    waiting_args: String::new(),
                    state: CallState::Waiting,
                });
                self.calls.len() - 1
            }
        };
        if self.calls[at].name.is_empty() {
            name.clone_into(&mut self.calls[at].name);
        }
        match self.calls[at].state {
            CallState::Open => self.blocks.args(&args),
            CallState::Closed => Ok(()),
            CallState::Waiting => {
                self.calls[at].waiting_args.push_str(&args);
                if self.calls.iter().any(|c| c.state == CallState::Open) || self.calls[at].name.is_empty() {
                    return Ok(());
                }
                self.open_call(at)
            }
        }
    }

    /// Closes the open call when its arguments are whole. A server that mixes the arguments of parallel
    /// calls leaves it open; then the later ones wait.
    fn settle(&mut self) {
        let whole =
            self.blocks.open_args().is_some_and(|a| serde_json::from_str::<Map<String, Value>>(a).is_ok());
        if whole && let Some(call) = self.calls.iter_mut().find(|c| c.state == CallState::Open) {
            call.state = CallState::Closed;
            self.blocks.end();
        }
    }

    fn open_call(&mut self, at: usize) -> Result<(), CallError> {
        let call = &mut self.calls[at];
        call.state = CallState::Open;
        let args = std::mem::take(&mut call.waiting_args);
        let name = self.names.engine(&call.name);
        self.blocks.start_tool(name);
        self.blocks.args(&args)
    }

    fn close_calls(&mut self) -> Result<(), CallError> {
        for at in 0..self.calls.len() {
            if self.calls[at].state == CallState::Waiting {
                self.open_call(at)?;
            }
            if self.calls[at].state == CallState::Open {
                self.calls[at].state = CallState::Closed;
                self.blocks.end();
            }
        }
        Ok(())
    }
}

impl Decode for Decoder {
    fn push(&mut self, event: &Event) -> Result<Vec<Piece>, DecodeError> {
        if event.data.trim() == "[DONE]" {
            self.done = true;
            return Ok(Vec::new());
        }
        let frame = read_frame(event)?;
        if !frame["error"].is_null() || frame["object"] == "error" {
            return Err(DecodeError::Refused(frame));
        }
        let choice = &frame["choices"][0];
        self.delta(&choice["delta"])?;
        if let Some(reason) = choice["finish_reason"].as_str() {
            self.close_calls()?;
            self.blocks.end();
            let stop = match reason {
                "length" => Stop::MaxTokens,
                "content_filter" => Stop::Refusal,
                _ if self.blocks.tool_count() > 0 => Stop::ToolUse,
                _ => Stop::EndTurn,
            };
            self.stop = Some(self.stop.filter(|s| *s == Stop::Refusal).unwrap_or(stop));
        }
        if let Some(count) = frame["usage"]["prompt_tokens"].as_u64() {
            let usage = &frame["usage"];
            self.usage = Some(Usage {
                input_tokens: count,
                output_tokens: usage["completion_tokens"].as_u64().unwrap_or(0),
                cache_hit_tokens: usage["prompt_tokens_details"]["cached_tokens"]
                    .as_u64()
                    .unwrap_or(0)
                    .min(count),
            });
        }
        Ok(self.blocks.take())
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn finish(&mut self) -> Result<Vec<Piece>, DecodeError> {
        let stop = match self.stop {
            Some(stop) => stop,
            // Some servers send [DONE] without a finish_reason.
            None if self.done && self.blocks.any() => {
                self.close_calls()?;
                if self.blocks.tool_count() > 0 { Stop::ToolUse } else { Stop::EndTurn }
            }
            None => return Err(cut_short().into()),
        };
        self.blocks.end();
        let usage = self.usage.unwrap_or_else(|| estimate_usage(self.input_estimate, self.blocks.bytes()));
        self.blocks.push(Piece::Usage { usage, estimated: self.usage.is_none() });
        self.blocks.push(Piece::Stop(stop));
        Ok(self.blocks.take())
    }
}
