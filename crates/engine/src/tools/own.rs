//! Tools that belong to the turn itself: they pause it, write into its task or run a loop below it, so the dispatcher
//! performs them. Outside a turn they are not callable.

use crate::tools::plan;
use crate::tools::tool::{CallContext, Effect, Failure, Output, Tool};
use contract::ToolReason;
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};

/// Asks a person a question.
pub const ASK_USER: &str = "ask_user";
/// Writes a working-memory entry.
pub const WORKING_MEMORY_WRITE: &str = "working_memory_write";

/// Makes and updates the plan of the task.
pub const PLAN: &str = plan::KEY;
/// Runs another agent below this one.
pub const DELEGATE: &str = "delegate";
/// All of them.
pub const NAMES: [&str; 4] = [PLAN, DELEGATE, ASK_USER, WORKING_MEMORY_WRITE];

/// Characters of the task given to a sub-agent. (specification 7.1)
const TASK_CHARS: usize = 50_000;
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
    complaints: fn(&Value) -> Vec<String>,
}

/// For a tool whose schema says everything.
fn none(_input: &Value) -> Vec<String> {
    Vec::new()
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
                complaints: none,
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
                complaints: none,
            },
            OwnTool {
                name: PLAN,
                description: "Make a plan for work that needs several steps, or tell how far it is. Input: either the \
                    goal, and a planner breaks it into steps; or steps, a list of the ids whose status has changed. \
                    Output: the whole plan, {\"goal\", \"steps\": [{\"id\", \"title\", \"status\"}]}. The plan is shown to \
                    you again until it is done. A new goal replaces the old plan. Not for work of one or two steps.",
                schema: plan::input_schema(),
                complaints: plan::complaints,
            },
            OwnTool {
                name: DELEGATE,
                description: "Give a task to another agent and wait for its answer. Input: the agent's name, the task, \
                    and facts it needs as context. Output: {\"text\", \"stop_reason\"}. It works with its own tools and \
                    sees nothing of this conversation, so the task must say everything. Several calls in one message \
                    work side by side. Use it for a part that stands on its own; not for what you can do in one step.",
                schema: json!({
                    "type": "object",
                    "properties": {
                        "agent": {"type": "string", "minLength": 1, "maxLength": 64, "description": "Name of the agent that shall do it"},
                        "task": {"type": "string", "minLength": 1, "maxLength": TASK_CHARS, "description": "What is to be done and what the answer shall contain, complete in itself"},
                        "context": {"description": "Facts the agent needs: a text, or any JSON value"}
                    },
                    "required": ["agent", "task"],
                    "additionalProperties": false
                }),
                complaints: none,
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

    fn complaints(&self, input: &Value) -> Vec<String> {
        (self.complaints)(input)
    }

    fn run<'a>(&'a self, _call: CallContext, _input: Value) -> BoxFuture<'a, Result<Output, Failure>> {
        let text = format!("{} can only be called inside a turn", self.name);
        async move { Err(Failure::new(ToolReason::Unavailable, text)) }.boxed()
    }
}
