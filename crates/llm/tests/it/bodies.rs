//! What is sent: request bodies, field by field.

use crate::talk::*;
use contract::{Block, Role, Source};
use llm::names::{Dots, NameMap};
use llm::{Message, Request, SystemPart, anthropic, gemini, openai};
use serde_json::{Value, json};

fn openai_body(request: &Request) -> Value {
    let form = openai::Form::first(openai::LimitField::MaxTokens);
    openai::body(request, &form, &NameMap::of(request, Dots::Forbidden))
}

fn anthropic_body(request: &Request) -> Value {
    anthropic::body(request, &anthropic::Form::first(&request.model), &NameMap::of(request, Dots::Forbidden))
}

fn gemini_body(request: &Request) -> Value {
    let form = gemini::Form::first(&request.model, !request.tools.is_empty());
    gemini::body(request, &form, &NameMap::of(request, Dots::Allowed))
}

fn base64(media_type: &str) -> Source {
    Source::Base64 { media_type: media_type.into(), data: "QUJD".into() }
}

fn a_round() -> Vec<Message> {
    vec![
        user("look"),
        assistant(vec![
            Block::text("I look."),
            call("call-1", "slack.send", json!({"path": "/a"})),
            call("call-2", "read_file", json!("{\"path\":")),
        ]),
        results(vec![
            result("call-1", "sent"),
            Block::ToolResult {
                tool_use_id: "call-2".into(),
                content: vec![Block::text("bad input")],
                is_error: true,
            },
        ]),
        user("and now?"),
    ]
}

#[test]
fn openai_gets_a_round_of_tools_in_its_shape() {
    let mut request = request("gpt-4o", a_round());
    request.tools.truncate(1);
    request.tools.push(tool("slack.send"));
    assert_eq!(
        openai_body(&request),
        json!({
            "model": "gpt-4o",
            "messages": [
                {"role": "system", "content": "You are a test."},
                {"role": "user", "content": "look"},
                {"role": "assistant", "content": "I look.", "tool_calls": [
                    {"id": "call-1", "type": "function", "function": {"name": "slack__send", "arguments": "{\"path\":\"/a\"}"}},
                    {"id": "call-2", "type": "function", "function": {"name": "read_file",
                        "arguments": "{\"unreadable_arguments\":\"{\\\"path\\\":\"}"}},
                ]},
                {"role": "tool", "tool_call_id": "call-1", "content": "sent"},
                {"role": "tool", "tool_call_id": "call-2", "content": "[error] bad input"},
                {"role": "user", "content": "and now?"},
            ],
            "stream": true,
            "stream_options": {"include_usage": true},
            "max_tokens": 1000,
            "tools": [
                {"type": "function", "function": {"name": "git_status", "description": "Does git_status.",
                    "parameters": tool("git_status").input_schema}},
                {"type": "function", "function": {"name": "slack__send", "description": "Does slack.send.",
                    "parameters": tool("slack.send").input_schema}},
            ],
            "parallel_tool_calls": true,
        })
    );
}

#[test]
fn anthropic_gets_a_round_of_tools_in_its_shape() {
    let mut request = request("claude-sonnet-5-5", a_round());
    request.tools = vec![tool("git_status"), tool("slack.send")];
    request.stable_messages = 1;
    assert_eq!(
        anthropic_body(&request),
        json!({
            "model": "claude-sonnet-5-5",
            "stream": true,
            "max_tokens": 1000,
            "system": [{"type": "text", "text": "You are a test.", "cache_control": {"type": "ephemeral"}}],
            "tools": [
                {"name": "git_status", "description": "Does git_status.", "input_schema": tool("git_status").input_schema},
                {"name": "slack__send", "description": "Does slack.send.", "input_schema": tool("slack.send").input_schema,
                    "cache_control": {"type": "ephemeral"}},
            ],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "look", "cache_control": {"type": "ephemeral"}}]},
                {"role": "assistant", "content": [
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "call-1", "name": "slack__send", "input": {"path": "/a"}},
                    {"type": "tool_use", "id": "call-2", "name": "read_file", "input": {"unreadable_arguments": "{\"path\":"}},
                ]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "call-1", "content": [{"type": "text", "text": "sent"}]},
                    {"type": "tool_result", "tool_use_id": "call-2", "content": [{"type": "text", "text": "bad input"}], "is_error": true},
                    {"type": "text", "text": "and now?"},
                ]},
            ],
        })
    );
}

#[test]
fn gemini_gets_a_round_of_tools_in_its_shape() {
    let mut request = request("gemini-3.8-flash", a_round());
    request.tools = vec![tool("slack.send")];
    assert_eq!(
        gemini_body(&request),
        json!({
            "systemInstruction": {"parts": [{"text": "You are a test."}]},
            "contents": [
                {"role": "user", "parts": [{"text": "look"}]},
                {"role": "model", "parts": [
                    {"text": "I look."},
                    {"functionCall": {"name": "slack.send", "args": {"path": "/a"}}, "thoughtSignature": gemini::NO_SIGNATURE},
                    {"functionCall": {"name": "read_file", "args": {"unreadable_arguments": "{\"path\":"}}},
                ]},
                {"role": "user", "parts": [
                    {"functionResponse": {"name": "slack.send", "response": {"output": "sent"}}},
                    {"functionResponse": {"name": "read_file", "response": {"error": "bad input"}}},
                ]},
                {"role": "user", "parts": [{"text": "and now?"}]},
            ],
            "tools": [{"functionDeclarations": [{"name": "slack.send", "description": "Does slack.send.",
                "parametersJsonSchema": tool("slack.send").input_schema}]}],
            "generationConfig": {"maxOutputTokens": 1000},
        })
    );
}

#[test]
fn media_go_where_they_can_and_leave_a_note_where_not() {
    let content = vec![
        Block::Image { source: base64("image/png") },
        Block::Image { source: Source::Url { url: "https://e.org/a.png".into() } },
        Block::Document { source: base64("application/pdf") },
        Block::Document { source: base64("text/plain") },
        Block::Audio { source: base64("audio/mpeg") },
        Block::Video { source: base64("video/mp4") },
    ];
    let request = request("any", vec![Message { role: Role::User, content }]);
    assert_eq!(
        openai_body(&request)["messages"][1]["content"],
        json!([
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}},
            {"type": "image_url", "image_url": {"url": "https://e.org/a.png"}},
            {"type": "text", "text": "[document (application/pdf) left out: this model cannot be given it]"},
            {"type": "text", "text": "ABC"},
            {"type": "input_audio", "input_audio": {"data": "QUJD", "format": "mp3"}},
            {"type": "text", "text": "[video (video/mp4) left out: this model cannot be given it]"},
        ])
    );
    assert_eq!(
        anthropic_body(&request)["messages"][0]["content"],
        json!([
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}},
            {"type": "image", "source": {"type": "url", "url": "https://e.org/a.png"}},
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "QUJD"}},
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "ABC"}},
            {"type": "text", "text": "[audio (audio/mpeg) left out: this model cannot be given it]"},
            {"type": "text", "text": "[video (video/mp4) left out: this model cannot be given it]"},
        ])
    );
    let inline = |mime: &str| json!({"inlineData": {"mimeType": mime, "data": "QUJD"}});
    assert_eq!(
        gemini_body(&request)["contents"][0]["parts"],
        json!([
            inline("image/png"),
            {"fileData": {"fileUri": "https://e.org/a.png"}},
            inline("application/pdf"),
            inline("text/plain"),
            inline("audio/mpeg"),
            inline("video/mp4"),
        ])
    );
}

#[test]
fn thinking_is_asked_for_in_the_form_of_the_model() {
    let asked = |model: &str| Request { thinking: true, ..request(model, vec![user("hi")]) };
    let new = anthropic_body(&asked("claude-sonnet-5-5"));
    assert_eq!(new["thinking"], json!({"type": "adaptive", "display": "summarized"}));
    assert_eq!((&new["output_config"]["effort"], &new["max_tokens"]), (&json!("high"), &json!(1000)));
    let old = anthropic_body(&asked("claude-haiku-4-5"));
    assert_eq!(old["thinking"], json!({"type": "enabled", "budget_tokens": 2048}));
    assert_eq!(old["max_tokens"], 3048);
    assert_eq!(openai_body(&asked("gpt-5.2"))["reasoning_effort"], "high");
    assert_eq!(openai_body(&asked("o4-mini"))["reasoning_effort"], "high");
    assert_eq!(openai_body(&asked("gpt-4o"))["reasoning_effort"], Value::Null);
    let config = |model: &str| gemini_body(&asked(model))["generationConfig"]["thinkingConfig"].clone();
    assert_eq!(config("gemini-3.8-flash"), json!({"includeThoughts": true, "thinkingLevel": "high"}));
    assert_eq!(config("gemini-2.5-pro"), json!({"includeThoughts": true, "thinkingBudget": 2048}));
}

#[test]
fn structured_output_uses_the_providers_own_mode() {
    let schema = json!({"type": "object", "properties": {}, "additionalProperties": false});
    let asked = |model: &str, tools: bool| {
        let mut request = Request { output_schema: Some(schema.clone()), ..request(model, vec![user("hi")]) };
        if !tools {
            request.tools.clear();
        }
        request
    };
    assert_eq!(
        openai_body(&asked("gpt-4o", true))["response_format"],
        json!({"type": "json_schema", "json_schema": {"name": "output", "strict": true, "schema": schema}})
    );
    assert_eq!(
        anthropic_body(&asked("claude-sonnet-5-5", true))["output_config"],
        json!({"format": {"type": "json_schema", "schema": schema}})
    );
    let native = gemini_body(&asked("gemini-2.5-pro", false));
    assert_eq!(native["generationConfig"]["responseMimeType"], "application/json");
    assert_eq!(native["generationConfig"]["responseJsonSchema"], schema);
    // Gemini 2 cannot combine the mode with tools, so it gets an instruction.
    let instructed = gemini_body(&asked("gemini-2.5-pro", true));
    assert_eq!(instructed["generationConfig"]["responseJsonSchema"], Value::Null);
    assert!(instructed["systemInstruction"].to_string().contains("JSON Schema"));
}

#[test]
fn at_most_four_cache_breakpoints_are_set_and_none_when_nothing_is_stable() {
    let mut request = request("claude-sonnet-5-5", a_round());
    let part = |n: usize, cache_here| SystemPart { text: format!("part {n}"), cache_here };
    request.system = (0..5).map(|n| part(n, true)).collect();
    request.stable_messages = 3;
    let body = anthropic_body(&request);
    assert_eq!(body.to_string().matches("cache_control").count(), 4);
    let marked: Vec<bool> =
        body["system"].as_array().expect("blocks").iter().map(|b| b["cache_control"].is_object()).collect();
    assert_eq!(marked, [false, false, false, true, true]);
    assert!(body["messages"][2]["content"][1]["cache_control"].is_object());

    request.system = vec![part(0, false)];
    request.stable_messages = 0;
    assert!(!anthropic_body(&request).to_string().contains("cache_control"));
}

#[test]
fn thinking_of_another_provider_is_left_out() {
    let foreign = |provider: &str| Block::Thinking {
        text: "hm".into(),
        signature: Some(
            json!({"provider": provider, "signature": "s", "thoughtSignature": "s", "field": "reasoning", "of": "thought"}),
        ),
    };
    let all = vec![foreign("openai"), foreign("anthropic"), foreign("gemini"), Block::text("ok")];
    let request = request("any", vec![user("hi"), assistant(all), user("go on")]);
    assert_eq!(
        openai_body(&request)["messages"][2],
        json!({"role": "assistant", "content": "ok", "reasoning": "hm"})
    );
    assert_eq!(
        anthropic_body(&request)["messages"][1]["content"],
        json!([{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "ok"}])
    );
    assert_eq!(
        gemini_body(&request)["contents"][1]["parts"],
        json!([{"text": "hm", "thought": true, "thoughtSignature": "s"}, {"text": "ok"}])
    );
}

#[test]
fn blank_blocks_and_empty_messages_are_not_sent() {
    let request = request("any", vec![user("hi"), assistant(vec![Block::text("")]), user("still there?")]);
    assert_eq!(openai_body(&request)["messages"].as_array().map(Vec::len), Some(3));
    let blank = anthropic_body(&request);
    assert_eq!(blank["messages"].to_string().matches("\"text\":\"\"").count(), 0);
    assert_eq!(gemini_body(&request)["contents"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_picture_from_a_tool_reaches_every_model() {
    let content = vec![Block::text("here: "), Block::Image { source: base64("image/png") }];
    let picture = Block::ToolResult { tool_use_id: "call-1".into(), content, is_error: false };
    let messages =
        vec![user("hi"), assistant(vec![call("call-1", "read_file", json!({}))]), results(vec![picture])];
    let request = request("gemini-2.5-pro", messages);
    let openai = openai_body(&request)["messages"].clone();
    assert_eq!(openai[3]["content"], "here: [see the next message]");
    assert_eq!(openai[4]["content"][1]["type"], "image_url");
    assert_eq!(anthropic_body(&request)["messages"][2]["content"][0]["content"][1]["type"], "image");
    let gemini = gemini_body(&request)["contents"].clone();
    assert_eq!(gemini[2]["parts"].as_array().map(Vec::len), Some(1));
    assert!(gemini[3]["parts"][1]["inlineData"].is_object());
}

#[test]
fn a_refused_field_of_a_compatible_server_is_left_out_one_by_one() {
    use llm::errors::Refusal;
    let mut request = request("gpt-5", vec![user("hi")]);
    request.thinking = true;
    request.tools[0].description = "long ".repeat(1000);
    let proof = json!({"provider": "openai", "field": "reasoning"});
    let thought = Block::Thinking { text: "hm".into(), signature: Some(proof) };
    request.messages.extend([assistant(vec![thought, Block::text("ok")]), user("go on")]);
    let mut form = openai::Form::first(openai::LimitField::MaxTokens);
    for (said, pointer) in [
        ("Unrecognized request argument supplied: parallel_tool_calls", "/parallel_tool_calls"),
        ("stream_options is not allowed", "/stream_options"),
        ("Unrecognized request argument supplied: reasoning_effort", "/reasoning_effort"),
        ("property 'reasoning' is unsupported", "/messages/2/reasoning"),
    ] {
        let names = NameMap::of(&request, Dots::Forbidden);
        assert!(
            openai::body(&request, &form, &names).pointer(pointer).is_some(),
            "{pointer} is sent at first"
        );
        let body = json!({"error": {"message": said}}).to_string();
        let refusal = Refusal::new(400, http::HeaderMap::new(), body.as_bytes());
        form = openai::other_form(&request, &form, &refusal).expect("another form");
        assert_eq!(openai::body(&request, &form, &names).pointer(pointer), None, "{pointer} is left out");
        assert_eq!(openai::other_form(&request, &form, &refusal).filter(|f| *f == form), None, "{pointer}");
    }
    let said = r#"{"error":{"message":"Invalid 'tools[0].function.description': string too long."}}"#;
    let refusal = Refusal::new(400, http::HeaderMap::new(), said.as_bytes());
    let form = openai::other_form(&request, &form, &refusal).expect("another form");
    let body = openai::body(&request, &form, &NameMap::of(&request, Dots::Forbidden));
    assert_eq!(body["tools"][0]["function"]["description"].as_str().map(str::len), Some(1024));
    assert_eq!(openai::other_form(&request, &form, &refusal), None);
}
