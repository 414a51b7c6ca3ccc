//! What a real provider would refuse, found in every request, in words that name the place.

use super::seen::{Protocol, SeenRequest, list};
use serde_json::Value;
use std::collections::BTreeSet;

/// Fields that steer sampling; the Engine never sends them.
const SAMPLING: &[&str] = &[
    "temperature",
    "top_p",
    "top_k",
    "topP",
    "topK",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "stop",
];

/// Everything that is wrong with a request.
pub(crate) fn check(request: &SeenRequest, key: Option<&str>) -> Vec<String> {
    let mut found = Problems(Vec::new());
    found.key(request, key);
    found.that(!request.model.is_empty(), "no model is named");
    found.that(!request.messages.is_empty(), "there are no messages");
    for field in SAMPLING {
        let inside = &request.body["generationConfig"][field];
        found.that(request.body[field].is_null() && inside.is_null(), &format!("sampling parameter {field}"));
    }
    match request.protocol {
        Protocol::OpenAi => found.openai(&request.body),
        Protocol::Anthropic => found.anthropic(&request.body),
        Protocol::Gemini => found.gemini(&request.body),
    }
    found.0
}

struct Problems(Vec<String>);

impl Problems {
    fn that(&mut self, holds: bool, otherwise: &str) {
        if !holds {
            self.0.push(otherwise.to_owned());
        }
    }

    fn key(&mut self, request: &SeenRequest, key: Option<&str>) {
        let header = match request.protocol {
            Protocol::OpenAi => "authorization",
            Protocol::Anthropic => "x-api-key",
            Protocol::Gemini => "x-goog-api-key",
        };
        let sent = request.headers.get(header).map(String::as_str);
        let sent = match request.protocol {
            Protocol::OpenAi => sent.map(|s| s.strip_prefix("Bearer ").unwrap_or("(not a bearer)")),
            Protocol::Anthropic | Protocol::Gemini => sent,
        };
        if let Some(key) = key {
            self.that(sent == Some(key), &format!("header {header} does not carry the expected key"));
        }
        self.that(
            request.headers.get("content-type").is_some_and(|t| t.starts_with("application/json")),
            "content-type is not application/json",
        );
    }

    fn tools<'a>(&mut self, tools: impl Iterator<Item = (&'a Value, &'a Value, &'a Value)>, dots: bool) {
        let mut names = BTreeSet::new();
        for (name, description, schema) in tools {
            let name = name.as_str().unwrap_or_default();
            let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-' || (dots && c == '.');
            self.that(
                !name.is_empty() && name.len() <= 64 && name.chars().all(allowed),
                &format!("tool name {name:?} is not allowed"),
            );
            self.that(names.insert(name), &format!("tool {name} is offered twice"));
            self.that(
                description.as_str().is_some_and(|d| !d.is_empty()),
                &format!("tool {name} has no description"),
            );
            self.that(schema["type"] == "object", &format!("schema of tool {name} is not of type object"));
            if let Err(error) = jsonschema::draft202012::meta::validate(schema) {
                self.0.push(format!("schema of tool {name} is not JSON Schema: {error}"));
            }
        }
    }

    fn openai(&mut self, body: &Value) {
        self.that(body["stream"] == true, "stream is not true");
        let limits = ["max_tokens", "max_completion_tokens"]
            .iter()
            .filter(|l| body[**l].as_u64().is_some_and(|n| n > 0));
        self.that(limits.count() == 1, "there must be one of max_tokens and max_completion_tokens");
        let tools = list(&body["tools"]);
        self.that(tools.iter().all(|t| t["type"] == "function"), "a tool is not of type function");
        self.tools(
            tools.iter().map(|t| {
                (&t["function"]["name"], &t["function"]["description"], &t["function"]["parameters"])
            }),
            false,
        );
        self.that(
            body["parallel_tool_calls"].is_null() || !tools.is_empty(),
            "parallel_tool_calls without tools",
        );
        let mut open: Vec<String> = Vec::new();
        let mut ever = BTreeSet::new();
        for (i, message) in list(&body["messages"]).iter().enumerate() {
            let role = message["role"].as_str().unwrap_or_default();
            let place = format!("message {i} ({role})");
            if role != "tool" && !open.is_empty() {
                self.0.push(format!("{place}: calls {open:?} have no result"));
                open.clear();
            }
            match role {
                "system" => {
                    self.that(i == 0, &format!("{place}: system is not first"));
                    self.that(message["content"].is_string(), &format!("{place}: no content"));
                }
                "user" => self.openai_content(&message["content"], &place),
                "assistant" => {
                    let calls = list(&message["tool_calls"]);
                    let text = message["content"].as_str().is_some_and(|t| !t.is_empty());
                    self.that(text || !calls.is_empty(), &format!("{place}: neither content nor tool_calls"));
                    for call in calls {
                        let id = call["id"].as_str().unwrap_or_default().to_owned();
                        self.that(!id.is_empty() && id.len() <= 40, &format!("{place}: bad call id {id:?}"));
                        self.that(ever.insert(id.clone()), &format!("{place}: call id {id} is used twice"));
                        self.that(call["type"] == "function", &format!("{place}: call {id} has no type"));
                        let args = call["function"]["arguments"].as_str().unwrap_or_default();
                        let object = serde_json::from_str::<serde_json::Map<String, Value>>(args).is_ok();
                        self.that(
                            object,
                            &format!("{place}: arguments of {id} are not a JSON object in a string"),
                        );
                        open.push(id);
                    }
                }
                "tool" => {
                    let id = message["tool_call_id"].as_str().unwrap_or_default();
                    match open.iter().position(|o| o == id) {
                        Some(at) => {
                            open.remove(at);
                        }
                        None => {
                            self.0.push(format!("{place}: result for {id:?}, which is not waiting for one"))
                        }
                    }
                    self.that(message["content"].is_string(), &format!("{place}: content is not text"));
                }
                other => self.0.push(format!("{place}: unknown role {other:?}")),
            }
        }
        self.that(open.is_empty(), &format!("calls {open:?} at the end have no result"));
    }

    fn openai_content(&mut self, content: &Value, place: &str) {
        if content.as_str().is_some_and(|t| !t.is_empty()) {
            return;
        }
        self.that(!list(content).is_empty(), &format!("{place}: no content"));
        for part in list(content) {
            let fine = match part["type"].as_str() {
                Some("text") => part["text"].is_string(),
                Some("image_url") => part["image_url"]["url"]
                    .as_str()
                    .is_some_and(|u| u.starts_with("http") || u.starts_with("data:image/")),
                Some("input_audio") => {
                    part["input_audio"]["data"].is_string()
                        && matches!(part["input_audio"]["format"].as_str(), Some("wav" | "mp3"))
                }
                _ => false,
            };
            self.that(fine, &format!("{place}: bad part of type {}", part["type"]));
        }
    }

    fn anthropic(&mut self, body: &Value) {
        self.that(body["stream"] == true, "stream is not true");
        let max = body["max_tokens"].as_u64().unwrap_or(0);
        self.that(max > 0, "max_tokens is missing");
        let thinking = &body["thinking"];
        if thinking["type"] == "enabled" {
            let budget = thinking["budget_tokens"].as_u64().unwrap_or(0);
            self.that(
                budget >= 1024 && budget < max,
                "budget_tokens must be at least 1024 and below max_tokens",
            );
        }
        let tools = list(&body["tools"]);
        self.tools(tools.iter().map(|t| (&t["name"], &t["description"], &t["input_schema"])), false);
        let marks = body.to_string().matches("\"cache_control\"").count();
        self.that(marks <= 4, &format!("{marks} cache breakpoints"));
        for block in list(&body["system"]) {
            let text = block["text"].as_str().is_some_and(|t| !t.trim().is_empty());
            self.that(block["type"] == "text" && text, "a system block is not text, or blank");
        }
        let mut last_role = "assistant";
        let mut open: Vec<String> = Vec::new();
        let mut ever = BTreeSet::new();
        for (i, message) in list(&body["messages"]).iter().enumerate() {
            let role = if message["role"] == "assistant" { "assistant" } else { "user" };
            let place = format!("message {i} ({role})");
            self.that(
                matches!(message["role"].as_str(), Some("user" | "assistant")),
                &format!("{place}: bad role"),
            );
            self.that(role != last_role, &format!("{place}: roles do not alternate"));
            last_role = role;
            let blocks = list(&message["content"]);
            self.that(!blocks.is_empty(), &format!("{place}: no content"));
            let mut results_over = false;
            for block in blocks {
                let kind = block["type"].as_str().unwrap_or_default();
                match kind {
                    "tool_result" => {
                        let id = block["tool_use_id"].as_str().unwrap_or_default();
                        self.that(
                            !results_over,
                            &format!("{place}: a tool_result stands after other content"),
                        );
                        match open.iter().position(|o| o == id) {
                            Some(at) => {
                                open.remove(at);
                            }
                            None => self
                                .0
                                .push(format!("{place}: result for {id:?}, which is not waiting for one")),
                        }
                        for inner in list(&block["content"]) {
                            self.anthropic_content(inner, &place);
                        }
                    }
                    "tool_use" => {
                        let id = block["id"].as_str().unwrap_or_default().to_owned();
                        let valid = !id.is_empty()
                            && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
                        self.that(valid, &format!("{place}: bad call id {id:?}"));
                        self.that(ever.insert(id.clone()), &format!("{place}: call id {id} is used twice"));
                        self.that(
                            block["input"].is_object(),
                            &format!("{place}: input of {id} is not an object"),
                        );
                        self.that(role == "assistant", &format!("{place}: tool_use in a user message"));
                        open.push(id);
                    }
                    "thinking" => {
                        let signed = block["signature"].as_str().is_some_and(|s| !s.is_empty());
                        self.that(
                            signed && block["thinking"].is_string(),
                            &format!("{place}: thinking without signature"),
                        );
                        self.that(
                            block["cache_control"].is_null(),
                            &format!("{place}: thinking cannot be a breakpoint"),
                        );
                    }
                    "redacted_thinking" => {
                        self.that(
                            block["data"].is_string(),
                            &format!("{place}: redacted thinking without data"),
                        );
                    }
                    _ => self.anthropic_content(block, &place),
                }
                results_over |= kind != "tool_result";
            }
            if role == "user" && !open.is_empty() {
                self.0.push(format!("{place}: calls {open:?} have no result"));
                open.clear();
            }
        }
        self.that(open.is_empty(), &format!("calls {open:?} at the end have no result"));
    }

    fn anthropic_content(&mut self, block: &Value, place: &str) {
        let source = &block["source"];
        let fine = match (block["type"].as_str(), source["type"].as_str()) {
            (Some("text"), _) => block["text"].as_str().is_some_and(|t| !t.trim().is_empty()),
            (Some("image" | "document"), Some("base64")) => {
                source["media_type"].is_string() && source["data"].is_string()
            }
            (Some("image" | "document"), Some("url")) => {
                source["url"].as_str().is_some_and(|u| u.starts_with("http"))
            }
            (Some("document"), Some("text")) => {
                source["media_type"] == "text/plain" && source["data"].is_string()
            }
            _ => false,
        };
        self.that(fine, &format!("{place}: bad block {}", block["type"]));
    }

    fn gemini(&mut self, body: &Value) {
        self.that(
            body["generationConfig"]["maxOutputTokens"].as_u64().is_some_and(|n| n > 0),
            "maxOutputTokens is missing",
        );
        let declarations: Vec<&Value> =
            list(&body["tools"]).iter().flat_map(|t| list(&t["functionDeclarations"])).collect();
        self.tools(
            declarations.iter().map(|d| (&d["name"], &d["description"], &d["parametersJsonSchema"])),
            true,
        );
        let contents = list(&body["contents"]);
        self.that(
            contents.first().is_some_and(|c| c["role"] == "user"),
            "the first content is not the user's",
        );
        let mut open: Vec<String> = Vec::new();
        let mut last_role = "";
        for (i, content) in contents.iter().enumerate() {
            let role = content["role"].as_str().unwrap_or_default();
            let place = format!("content {i} ({role})");
            self.that(matches!(role, "user" | "model"), &format!("{place}: bad role"));
            self.that(
                role != "model" || last_role != "model",
                &format!("{place}: two model contents in a row"),
            );
            last_role = role;
            let parts = list(&content["parts"]);
            self.that(!parts.is_empty(), &format!("{place}: no parts"));
            let responses: Vec<String> = parts
                .iter()
                .filter(|p| p["functionResponse"].is_object())
                .map(|p| p["functionResponse"]["name"].as_str().unwrap_or_default().to_owned())
                .collect();
            if !open.is_empty() || !responses.is_empty() {
                let (mut wanted, mut got) = (std::mem::take(&mut open), responses.clone());
                wanted.sort();
                got.sort();
                self.that(wanted == got, &format!("{place}: calls {wanted:?} are answered by {got:?}"));
            }
            for part in parts {
                let kinds = ["text", "inlineData", "fileData", "functionCall", "functionResponse"];
                let count = kinds.iter().filter(|k| !part[**k].is_null()).count();
                self.that(count == 1, &format!("{place}: a part must have exactly one kind of data"));
                if part["functionCall"].is_object() {
                    self.that(role == "model", &format!("{place}: a call in a user content"));
                    self.that(
                        part["functionCall"]["args"].is_object(),
                        &format!("{place}: args are not an object"),
                    );
                    open.push(part["functionCall"]["name"].as_str().unwrap_or_default().to_owned());
                }
                if part["functionResponse"].is_object() {
                    self.that(role == "user", &format!("{place}: a response in a model content"));
                    let response = &part["functionResponse"]["response"];
                    self.that(response.is_object(), &format!("{place}: response is not an object"));
                }
                let inline = &part["inlineData"];
                if inline.is_object() {
                    let fine = inline["mimeType"].is_string() && inline["data"].is_string();
                    self.that(fine, &format!("{place}: inlineData without mimeType or data"));
                }
            }
        }
        self.that(open.is_empty(), &format!("calls {open:?} at the end have no result"));
    }
}

#[cfg(test)]
mod tests {
    use super::super::seen;
    use super::*;
    use http::HeaderMap;
    use serde_json::json;

    fn problems(protocol: Protocol, body: Value) -> Vec<String> {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", http::HeaderValue::from_static("application/json"));
        check(&seen::read(protocol, Some("m".into()), 0, "/", &headers, body), None)
    }

    fn openai(messages: Value) -> Vec<String> {
        problems(
            Protocol::OpenAi,
            json!({"model": "m", "stream": true, "max_tokens": 1, "messages": messages}),
        )
    }

    fn anthropic(messages: Value) -> Vec<String> {
        problems(
            Protocol::Anthropic,
            json!({"model": "m", "stream": true, "max_tokens": 1, "messages": messages}),
        )
    }

    fn gemini(contents: Value) -> Vec<String> {
        problems(Protocol::Gemini, json!({"generationConfig": {"maxOutputTokens": 1}, "contents": contents}))
    }

    #[test]
    fn a_good_request_has_no_problems() {
        assert_eq!(openai(json!([{"role": "user", "content": "hi"}])), [""; 0]);
        assert_eq!(
            anthropic(json!([{"role": "user", "content": [{"type": "text", "text": "hi"}]}])),
            [""; 0]
        );
        assert_eq!(gemini(json!([{"role": "user", "parts": [{"text": "hi"}]}])), [""; 0]);
    }

    #[test]
    fn a_call_without_result_is_found() {
        let call = json!({"id": "a", "type": "function", "function": {"name": "t", "arguments": "{}"}});
        let user = json!({"role": "user", "content": "hi"});
        let found = openai(json!([user, {"role": "assistant", "content": null, "tool_calls": [call]}, user]));
        assert_eq!(found, ["message 2 (user): calls [\"a\"] have no result"]);

        let text = json!([{"type": "text", "text": "hi"}]);
        let call = json!([{"type": "tool_use", "id": "a", "name": "t", "input": {}}]);
        let found = anthropic(json!([
            {"role": "user", "content": text}, {"role": "assistant", "content": call}, {"role": "user", "content": text},
        ]));
        assert_eq!(found, ["message 2 (user): calls [\"a\"] have no result"]);

        let text = json!([{"text": "hi"}]);
        let call = json!([{"functionCall": {"name": "t", "args": {}}}]);
        let found = gemini(json!([
            {"role": "user", "parts": text}, {"role": "model", "parts": call}, {"role": "user", "parts": text},
        ]));
        assert_eq!(found, ["content 2 (user): calls [\"t\"] are answered by []"]);
    }

    #[test]
    fn a_result_without_call_or_given_twice_is_found() {
        let user = json!({"role": "user", "content": "hi"});
        let result = json!({"role": "tool", "tool_call_id": "a", "content": "x"});
        let call = json!({"id": "a", "type": "function", "function": {"name": "t", "arguments": "{}"}});
        let calling = json!({"role": "assistant", "content": null, "tool_calls": [call]});
        let waiting_for_none = "result for \"a\", which is not waiting for one";
        assert_eq!(openai(json!([user, result])), [format!("message 1 (tool): {waiting_for_none}")]);
        assert_eq!(
            openai(json!([user, calling, result, result])),
            [format!("message 3 (tool): {waiting_for_none}")]
        );
    }

    #[test]
    fn roles_that_do_not_alternate_are_found() {
        let text = json!({"role": "user", "content": [{"type": "text", "text": "hi"}]});
        assert_eq!(anthropic(json!([text, text])), ["message 1 (user): roles do not alternate"]);
        assert_eq!(
            gemini(json!([{"role": "model", "parts": [{"text": "hi"}]}])),
            ["the first content is not the user's"]
        );
    }

    #[test]
    fn a_tool_schema_that_is_none_and_a_forbidden_name_are_found() {
        let tool =
            json!({"name": "a.b", "description": "d", "input_schema": {"type": "object", "required": "x"}});
        let text = json!([{"role": "user", "content": [{"type": "text", "text": "hi"}]}]);
        let body = json!({"model": "m", "stream": true, "max_tokens": 1, "messages": text, "tools": [tool], "top_p": 1});
        let found = problems(Protocol::Anthropic, body);
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(found[0], "sampling parameter top_p");
        assert_eq!(found[1], "tool name \"a.b\" is not allowed");
        assert!(found[2].starts_with("schema of tool a.b is not JSON Schema"), "{found:?}");
    }

    #[test]
    fn a_missing_key_is_found() {
        let request = seen::read(Protocol::Gemini, Some("m".into()), 0, "/", &HeaderMap::new(), json!({}));
        assert!(check(&request, Some("k"))[0].contains("x-goog-api-key does not carry the expected key"));
    }
}
