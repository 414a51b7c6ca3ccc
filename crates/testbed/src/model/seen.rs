//! A request as the scripted model saw it: raw, and in words that are the same for all protocols.

use http::{HeaderMap, Method};
use serde_json::Value;
use std::collections::BTreeMap;

/// The three wire protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Chat completions.
    OpenAi,
    /// Messages.
    Anthropic,
    /// streamGenerateContent.
    Gemini,
}

impl Protocol {
    /// All three.
    pub const ALL: [Protocol; 3] = [Protocol::OpenAi, Protocol::Anthropic, Protocol::Gemini];

    /// The word of LLM_PROVIDER.
    pub const fn as_str(self) -> &'static str {
        match self {
            Protocol::OpenAi => "openai",
            Protocol::Anthropic => "anthropic",
            Protocol::Gemini => "gemini",
        }
    }
}

/// A tool result in a request.
#[derive(Debug, Clone, PartialEq)]
pub struct SeenResult {
    /// The call it answers; the tool's name where the protocol has no id.
    pub call: String,
    /// Its text.
    pub text: String,
}

/// A message, whatever the protocol.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SeenMessage {
    /// `user`, `assistant` or `tool` (a message that holds results).
    pub role: &'static str,
    /// Its text blocks.
    pub texts: Vec<String>,
    /// Tool calls: name on the wire, input.
    pub calls: Vec<(String, Value)>,
    /// Tool results.
    pub results: Vec<SeenResult>,
    /// How many pictures, documents and recordings.
    pub media: usize,
}

impl SeenMessage {
    /// The text blocks joined.
    pub fn text(&self) -> String {
        self.texts.concat()
    }
}

/// One request.
#[derive(Debug, Clone)]
pub struct SeenRequest {
    /// Counts from 0.
    pub number: usize,
    /// The protocol it came in.
    pub protocol: Protocol,
    /// The model asked for.
    pub model: String,
    /// The path.
    pub path: String,
    /// The headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Value,
    /// System text.
    pub system: String,
    /// Offered tools, by their names on the wire.
    pub tools: Vec<String>,
    /// The conversation.
    pub messages: Vec<SeenMessage>,
}

impl SeenRequest {
    /// The name under which an Engine tool is offered (dots may have been replaced).
    pub fn offered(&self, name: &str) -> Option<&str> {
        let mapped = name.replace('.', "__");
        self.tools.iter().map(String::as_str).find(|t| *t == name || *t == mapped)
    }

    /// The text of the last user message, without blocks the Engine puts before it (memory, context).
    pub fn last_user_text(&self) -> String {
        self.messages
            .iter()
            .rev()
            .filter(|m| m.role == "user")
            .map(said)
            .find(|t| !t.is_empty())
            .unwrap_or_default()
    }

    /// All tool results of the conversation.
    pub fn results(&self) -> Vec<SeenResult> {
        self.messages.iter().flat_map(|m| m.results.clone()).collect()
    }
}

/// What the person said in a message: its text without the blocks the Engine puts around it. Chat
/// completions get all blocks of a message in one text.
pub(crate) fn said(message: &SeenMessage) -> String {
    let kept: Vec<String> =
        message.texts.iter().map(|t| without_injected(t)).filter(|t| !t.is_empty()).collect();
    kept.join("\n")
}

fn without_injected(text: &str) -> String {
    let mut text = text.to_owned();
    for tag in ["memory", "working_memory", "context"] {
        let (start, end) = (format!("<{tag}"), format!("</{tag}>"));
        while let Some(from) = text.find(&start)
            && text[from + start.len()..].starts_with(['>', ' '])
            && let Some(to) = text[from..].find(&end)
        {
            text.replace_range(from..from + to + end.len(), "");
        }
    }
    text.trim().to_owned()
}

/// Which protocol and model a path means.
pub(crate) fn route(method: &Method, path: &str, query: Option<&str>) -> Option<(Protocol, Option<String>)> {
    if method != Method::POST {
        return None;
    }
    if path.ends_with("/chat/completions") {
        return Some((Protocol::OpenAi, None));
    }
    if path.ends_with("/v1/messages") {
        return Some((Protocol::Anthropic, None));
    }
    let model = path.strip_suffix(":streamGenerateContent")?.rsplit_once("/v1beta/models/")?.1;
    (query == Some("alt=sse")).then(|| (Protocol::Gemini, Some(model.to_owned())))
}

/// Takes a request apart.
pub(crate) fn read(
    protocol: Protocol,
    model: Option<String>,
    number: usize,
    path: &str,
    headers: &HeaderMap,
    body: Value,
) -> SeenRequest {
    let text_of = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let (system, tools, messages) = match protocol {
        Protocol::OpenAi => openai(&body),
        Protocol::Anthropic => anthropic(&body),
        Protocol::Gemini => gemini(&body),
    };
    SeenRequest {
        number,
        protocol,
        model: model.unwrap_or_else(|| text_of(&body["model"])),
        path: path.to_owned(),
        headers: headers
            .iter()
            .map(|(n, v)| (n.as_str().to_owned(), String::from_utf8_lossy(v.as_bytes()).into_owned()))
            .collect(),
        system,
        tools,
        messages,
        body,
    }
}

pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn parsed(text: &Value) -> Value {
    text.as_str().and_then(|t| serde_json::from_str(t).ok()).unwrap_or(Value::Null)
}

type Taken = (String, Vec<String>, Vec<SeenMessage>);

fn openai(body: &Value) -> Taken {
    let mut system = String::new();
    let mut messages = Vec::new();
    for message in list(&body["messages"]) {
        let mut seen = SeenMessage::default();
        match &message["content"] {
            Value::String(text) => seen.texts.push(text.clone()),
            Value::Array(parts) => {
                for part in parts {
                    match part["type"].as_str() {
                        Some("text") => seen.texts.push(string(&part["text"])),
                        _ => seen.media += 1,
                    }
                }
            }
            _ => {}
        }
        for call in list(&message["tool_calls"]) {
            seen.calls.push((string(&call["function"]["name"]), parsed(&call["function"]["arguments"])));
        }
        match message["role"].as_str() {
            Some("system" | "developer") => {
                system.push_str(&seen.text());
                continue;
            }
            Some("assistant") => seen.role = "assistant",
            Some("tool") => {
                seen.role = "tool";
                let text = std::mem::take(&mut seen.texts).concat();
                seen.results.push(SeenResult { call: string(&message["tool_call_id"]), text });
            }
            _ => seen.role = "user",
        }
        messages.push(seen);
    }
    let tools = list(&body["tools"]).iter().map(|t| string(&t["function"]["name"])).collect();
    (system, tools, messages)
}

fn anthropic(body: &Value) -> Taken {
    let system = match &body["system"] {
        Value::String(text) => text.clone(),
        blocks => list(blocks).iter().map(|b| string(&b["text"])).collect::<Vec<_>>().join("\n\n"),
    };
    let mut messages = Vec::new();
    for message in list(&body["messages"]) {
        let mut seen = SeenMessage { role: "user", ..SeenMessage::default() };
        if message["role"] == "assistant" {
            seen.role = "assistant";
        }
        if let Some(text) = message["content"].as_str() {
            seen.texts.push(text.to_owned());
        }
        for block in list(&message["content"]) {
            match block["type"].as_str() {
                Some("text") => seen.texts.push(string(&block["text"])),
                Some("tool_use") => seen.calls.push((string(&block["name"]), block["input"].clone())),
                Some("tool_result") => {
                    let texts = list(&block["content"]).iter().map(|b| string(&b["text"]));
                    seen.results
                        .push(SeenResult { call: string(&block["tool_use_id"]), text: texts.collect() });
                }
                Some("thinking" | "redacted_thinking") => {}
                _ => seen.media += 1,
            }
        }
        split_results(seen, &mut messages);
    }
    let tools = list(&body["tools"]).iter().map(|t| string(&t["name"])).collect();
    (system, tools, messages)
}

fn gemini(body: &Value) -> Taken {
    let system =
        list(&body["systemInstruction"]["parts"]).iter().map(|p| string(&p["text"])).collect::<Vec<_>>();
    let mut messages = Vec::new();
    for content in list(&body["contents"]) {
        let mut seen = SeenMessage { role: "user", ..SeenMessage::default() };
        if content["role"] == "model" {
            seen.role = "assistant";
        }
        for part in list(&content["parts"]) {
            if part["functionCall"].is_object() {
                seen.calls
                    .push((string(&part["functionCall"]["name"]), part["functionCall"]["args"].clone()));
            } else if part["functionResponse"].is_object() {
                let response = &part["functionResponse"];
                let text = ["output", "error"].iter().find_map(|f| response["response"][*f].as_str());
                let call = response["id"].as_str().unwrap_or_default().to_owned();
                let call = if call.is_empty() { string(&response["name"]) } else { call };
                seen.results.push(SeenResult { call, text: text.unwrap_or_default().to_owned() });
            } else if part["text"].is_string() {
                if part["thought"] != true {
                    seen.texts.push(string(&part["text"]));
                }
            } else {
                seen.media += 1;
            }
        }
        split_results(seen, &mut messages);
    }
    let tools = list(&body["tools"])
        .iter()
        .flat_map(|t| list(&t["functionDeclarations"]))
        .map(|d| string(&d["name"]))
        .collect();
    (system.join("\n\n"), tools, messages)
}

/// Results become a `tool` message of their own, as the Engine stores them.
fn split_results(mut seen: SeenMessage, messages: &mut Vec<SeenMessage>) {
    let results = std::mem::take(&mut seen.results);
    if !results.is_empty() {
        messages.push(SeenMessage { role: "tool", results, ..SeenMessage::default() });
    }
    if !seen.texts.is_empty() || !seen.calls.is_empty() || seen.media > 0 {
        messages.push(seen);
    }
}
