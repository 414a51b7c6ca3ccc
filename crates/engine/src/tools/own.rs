//! Tools that belong to the turn itself: they pause it or write into its task, so the dispatcher performs
//! them inside its own transactions. Outside a turn they are not callable.

use crate::tools::tool::{CallContext, Effect, Failure, Output, Tool};
use contract::ToolReason;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};

/// Asks a person a question.
pub const ASK_USER: &str = "ask_user";
/// Writes a working-memory entry.
pub const WORKING_MEMORY_WRITE: &str = "working_memory_write";

/// Characters of a working-memory key.
const KEY_CHARS: usize = 100;
/// Bytes of a working-memory value as JSON. Larger would crowd out the conversation it is rendered into.
pub const VALUE_BYTES: usize = 16 * 1024;

/// A tool that the dispatcher performs.
#[derive(Debug)]
pub struct OwnTool {
    name: &'static str,
    description: &'static str,
    schema: Value,
}

impl OwnTool {
    /// Every tool of this kind.
    pub fn all() -> Vec<OwnTool> {
        vec![
            OwnTool {
                name: ASK_USER,
                description: "Ask the person a question and wait for the answer. Input: the question, and up to ten \
                    suggested answers. Output: {\"answer\", \"feedback\"}. Use it when only the person can decide or \
                    knows; not for permission to run a tool, which is asked by itself.",
                schema: json!({
                    "type": "object",
                    "properties": {
                        "question": {"type": "string", "minLength": 1, "maxLength": 4000, "description": "The question, complete in itself"},
                        "options": {"type": "array", "items": {"type": "string"}, "maxItems": 10, "description": "Suggested answers; free text is always possible"}
                    },
                    "required": ["question"],
                    "additionalProperties": false
                }),
            },
            OwnTool {
                name: WORKING_MEMORY_WRITE,
                description: "Keep a short note of this task under a key, or delete it by leaving out the value. Notes \
                    are shown to you again in later turns of the same task until they expire. Output: {\"key\", \"op\"}. \
                    Use it for intermediate results and decisions; not for long texts, which belong into files.",
                schema: json!({
                    "type": "object",
                    "properties": {
                        "key": {"type": "string", "minLength": 1, "maxLength": KEY_CHARS, "description": "Name of the note"},
                        "value": {"description": "Any JSON value up to 16 KiB; absent = delete the note"},
                        "ttl_s": {"type": "integer", "minimum": 1, "maximum": 31_536_000, "description": "Seconds until the note expires; default: the configured life"}
                    },
                    "required": ["key"],
                    "additionalProperties": false
                }),
            },
        ]
    }
}

impl Tool for OwnTool {
    fn name(&self) -> &str {
        self.name
    }

    fn description(&self) -> &str {
        self.description
    }

    fn input_schema(&self) -> &Value {
        &self.schema
    }

    fn effect(&self, _input: &Value) -> Effect {
        Effect::Idempotent
    }

    fn run<'a>(&'a self, _call: CallContext, _input: Value) -> BoxFuture<'a, Result<Output, Failure>> {
        let text = format!("{} can only be called inside a turn", self.name);
        async move { Err(Failure::new(ToolReason::Unavailable, text)) }.boxed()
    }
}
