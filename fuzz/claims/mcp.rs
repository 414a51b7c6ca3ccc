//! What an MCP server may send: messages, tool lists, results. A stranger's bytes never panic, and what is taken of
//! them keeps to the limits of `connectors`.
//!
//! A frame is one line or one event; both carry the same JSON.

use connectors::result::{Answer, IMAGES_MAX, PARTS_MAX};
use connectors::server::Entry;
use connectors::tools::{
    ACTION_MAX_CHARS, DESCRIPTION_MAX_BYTES, Definition, SCHEMA_MAX_BYTES, State, TOOLS_MAX, read_listing,
    reconcile,
};
use rmcp::model::{ContentBlock, ServerJsonRpcMessage, ServerResult};
use serde_json::{Value, json};

/// What must hold for any bytes.
pub fn holds(data: &[u8]) {
    if let Ok(message) = serde_json::from_slice::<ServerJsonRpcMessage>(data) {
        let again = serde_json::to_value(&message).expect("what was read can be written");
        assert!(again.is_object());
        match message {
            ServerJsonRpcMessage::Response(response) => answered(response.result),
            ServerJsonRpcMessage::Request(_)
            | ServerJsonRpcMessage::Notification(_)
            | ServerJsonRpcMessage::Error(_) => {}
        }
    }
    // A list as it stands, too: what the protocol library would refuse must not harm either.
    if let Ok(frame) = serde_json::from_slice::<Value>(data) {
        let tools = frame.pointer("/result/tools").and_then(Value::as_array);
        listed(tools.map_or(&[], Vec::as_slice));
    }
}

fn answered(result: ServerResult) {
    match result {
        ServerResult::CallToolResult(result) => {
            let few = result.content.len() <= PARTS_MAX;
            let Ok(answer) = Answer::read(&result) else {
                return assert!(!few, "only the number of parts is refused");
            };
            assert!(few);
            assert!(answer.images.len() <= IMAGES_MAX);
            assert_eq!(answer.failed, result.is_error == Some(true));
            let said = result.content.iter().any(|block| match block {
                ContentBlock::Text(text) => !text.text.is_empty(),
                // Whatever else it is, it is shown or named.
                _ => true,
            });
            let told = !answer.text().is_empty() || !answer.images.is_empty();
            assert!(told || !said || result.structured_content.is_some(), "{answer:?}");
        }
        ServerResult::ListToolsResult(slice) => {
            let tools: Vec<Value> = slice
                .tools
                .iter()
                .map(|tool| serde_json::to_value(tool).expect("a tool that was read can be written"))
                .collect();
            listed(&tools);
        }
        // The connection takes no other result as a tool's.
        _ => {}
    }
}

fn listed(tools: &[Value]) {
    let entry = json!({
        "server_name": "s", "display_name": "S", "transport": "stdio", "command": ["x"], "auth_method": "none"
    });
    let entry = Entry::parse("s", &entry).expect("a good entry");
    let definitions = read_listing(tools, &entry, &|text: &str| text.replace('\u{200b}', "")).definitions;
    assert!(definitions.len() <= TOOLS_MAX);
    for definition in &definitions {
        assert!(!definition.action.is_empty() && definition.action.len() <= ACTION_MAX_CHARS);
        assert!(definition.description.len() <= DESCRIPTION_MAX_BYTES);
        // The type is added after the check.
        assert!(definition.input_schema.to_string().len() <= SCHEMA_MAX_BYTES + "\"type\":\"object\",".len());
        assert!(is_clean(&definition.json()), "{definition:?}");
        let stored = Definition::stored(&definition.json()).expect("what is stored can be read");
        assert_eq!((stored.hash(), &stored), (definition.hash(), definition));
    }
    let pinned = reconcile(&[], definitions.clone(), true);
    assert!(pinned.iter().all(|action| action.state == State::Pinned && !action.needs_consent()));
    assert_eq!(reconcile(&pinned, definitions, false), pinned, "the same list changes nothing");
    let gone = reconcile(&pinned, Vec::new(), false);
    assert!(gone.iter().all(|action| action.state == State::Gone) && gone.len() == pinned.len());
}

/// No text holds what [`listed`] has cleaned away. Names of properties stay as they are: arguments are sent under them.
fn is_clean(value: &Value) -> bool {
    match value {
        Value::String(text) => !text.contains('\u{200b}'),
        Value::Array(items) => items.iter().all(is_clean),
        Value::Object(map) => map.values().all(is_clean),
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
    }
}
