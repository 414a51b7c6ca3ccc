//! Tools that belong to the turn itself: they pause it, write into its task or run a loop below it, so the dispatcher
//! performs them. Outside a turn they are not callable.

use crate::tools::function::{Card, Function, tool};
use crate::tools::plan;
use crate::tools::tool::{CallContext, Effect, Failure, Output, Tool};
use contract::ToolReason;
use serde_json::{Value, json};
use std::sync::Arc;

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

/// Every tool of this kind.
pub fn tools() -> Vec<Arc<dyn Tool>> {
    vec![
        own(
            none,
            Card {
                name: ASK_USER,
                description: "Ask the person a question and wait for the answer. Input: the question, and up to ten \
                    suggested answers. Output: {\"answer\", \"feedback\"}. Use it when only the person can decide or \
                    knows; not for permission to run a tool, which is asked by itself.",
                effect: Effect::Idempotent,
                required: &["question"],
                properties: json!({
                    "question": {"type": "string", "minLength": 1, "maxLength": 4000, "description": "The question, complete in itself"},
                    "options": {"type": "array", "items": {"type": "string"}, "maxItems": 10, "description": "Suggested answers; free text is always possible"}
                }),
            },
        ),
        own(
            none,
            Card {
                name: WORKING_MEMORY_WRITE,
                description: "Keep a short note of this task under a key, or delete it by leaving out the value. Notes \
                    are shown to you again in later turns of the same task until they expire. Output: {\"key\", \"op\"}. \
                    Use it for intermediate results and decisions; not for long texts, which belong into files.",
                effect: Effect::Idempotent,
                required: &["key"],
                properties: json!({
                    "key": {"type": "string", "minLength": 1, "maxLength": KEY_CHARS, "description": "Name of the note"},
                    "value": {"description": "Any JSON value up to 16 KiB; absent = delete the note"},
                    "ttl_s": {"type": "integer", "minimum": 1, "maximum": 31_536_000, "description": "Seconds until the note expires; default: the configured life"}
                }),
            },
        ),
        own(
            plan::complaints,
            Card {
                name: PLAN,
                description: "Make a plan for work that needs several steps, or tell how far it is. Input: either the \
                    goal, and a planner breaks it into steps; or steps, a list of the ids whose status has changed. \
                    Output: the whole plan, {\"goal\", \"steps\": [{\"id\", \"title\", \"status\"}]}. The plan is shown to \
                    you again until it is done. A new goal replaces the old plan. Not for work of one or two steps.",
                effect: Effect::Idempotent,
                required: &[],
                properties: plan::input_properties(),
            },
        ),
        own(
            none,
            Card {
                name: DELEGATE,
                description: "Give a task to another agent and wait for its answer. Input: the agent's name, the task, \
                    and facts it needs as context. Output: {\"text\", \"stop_reason\"}. It works with its own tools and \
                    sees nothing of this conversation, so the task must say everything. Several calls in one message \
                    work side by side. Use it for a part that stands on its own; not for what you can do in one step.",
                effect: Effect::Idempotent,
                required: &["agent", "task"],
                properties: json!({
                    "agent": {"type": "string", "minLength": 1, "maxLength": 64, "description": "Name of the agent that shall do it"},
                    "task": {"type": "string", "minLength": 1, "maxLength": TASK_CHARS, "description": "What is to be done and what the answer shall contain, complete in itself"},
                    "context": {"description": "Facts the agent needs: a text, or any JSON value"}
                }),
            },
        ),
    ]
}

fn own(complaints: fn(&Value) -> Vec<String>, card: Card) -> Arc<dyn Tool> {
    tool(OwnTool { card, complaints })
}

struct OwnTool {
    card: Card,
    complaints: fn(&Value) -> Vec<String>,
}

/// For a tool whose schema says everything.
fn none(_input: &Value) -> Vec<String> {
    Vec::new()
}

impl Function for OwnTool {
    type Input = Value;

    fn card(&self) -> Card {
        self.card.clone()
    }

    fn complaints(&self, input: &Value) -> Vec<String> {
        (self.complaints)(input)
    }

    async fn run(&self, _call: CallContext, _input: Value) -> Result<Output, Failure> {
        let text = format!("{} can only be called inside a turn", self.card.name);
        Err(Failure::new(ToolReason::Unavailable, text))
    }
}
