//! The request body: messages, tools and options in the form that a model's server accepts.
//!
//! Pure. What a form leaves out is left out silently; what a message cannot hold becomes text that says so. The
//! invariant: every tool call has its result in the next messages, in the order of the calls.

use super::{Form, SchemaMode};
use crate::assemble::{inline_text, input_object, media_note, schema_instruction};
use crate::names::NameMap;
use crate::provider::{Message, Request};
use contract::{Block, Role, Source};
use serde_json::{Map, Value, json};

/// Longest tool description sent to a server that refuses long ones: the limit OpenAI names.
const SHORT_DESCRIPTION_CHARS: usize = 1024;

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
