//! OpenAI chat completions, and every server that imitates it: the request as a pure function, the stream
//! as a pure state machine.
//!
//! Imitators differ in which fields they accept. What a 400 teaches ([`Form`]) is remembered per model for
//! the life of the process and never written anywhere.

mod request;
mod decoder;

pub use decoder::Decoder;
pub use request::body;

use crate::assemble::most_bytes;
use crate::errors::{Refusal, says_overflow, says_quota};
use crate::names::{Dots, NameMap};
use crate::provider::{ErrorKind, Request};
use crate::tokens::estimate_request;
use crate::wire::{Dialect, Learnt, Outgoing};

/// Where OpenAI itself is.
pub const DEFAULT_BASE: &str = "https://api.openai.com/v1";

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
