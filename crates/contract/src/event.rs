//! The fourteen stream events: a closed vocabulary, and the exact bytes of their frames.
//!
//! A frame is `id:` line, `event:` line, exactly one single-line `data:` line, LF ends, one blank line.
//! Nothing else is ever on the wire: no comments, no `retry:`.

use crate::conversation::{StopReason, ToolReason};
use crate::{CallId, ErrorCode, HitlId, MessageId, TaskId, Timestamp, TurnId};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The names of the events on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventName {
    /// A turn began, completed or errored.
    ThreadLifecycle,
    /// Something failed; comes directly before `thread_lifecycle` errored.
    Error,
    /// A piece of the answer.
    TextDelta,
    /// A piece of reasoning.
    ThinkingDelta,
    /// A block begins.
    ContentBlockStart,
    /// A block ends.
    ContentBlockStop,
    /// A tool is about to be called.
    ToolCall,
    /// A tool call ended.
    ToolResult,
    /// A person is asked.
    HitlRequest,
    /// The question is settled.
    HitlResolved,
    /// A working-memory entry changed.
    WorkingMemoryUpdate,
    /// Old context was shortened.
    CompactionEvent,
    /// The connection lives.
    Heartbeat,
    /// What one model call consumed.
    Usage,
}

impl EventName {
    /// Every event name.
    pub const ALL: [EventName; 14] = [
        EventName::ThreadLifecycle,
        EventName::Error,
        EventName::TextDelta,
        EventName::ThinkingDelta,
        EventName::ContentBlockStart,
        EventName::ContentBlockStop,
        EventName::ToolCall,
        EventName::ToolResult,
        EventName::HitlRequest,
        EventName::HitlResolved,
        EventName::WorkingMemoryUpdate,
        EventName::CompactionEvent,
        EventName::Heartbeat,
        EventName::Usage,
    ];

    /// The name on the `event:` line.
    pub const fn as_str(self) -> &'static str {
        match self {
            EventName::ThreadLifecycle => "thread_lifecycle",
            EventName::Error => "error",
            EventName::TextDelta => "text_delta",
            EventName::ThinkingDelta => "thinking_delta",
            EventName::ContentBlockStart => "content_block_start",
            EventName::ContentBlockStop => "content_block_stop",
            EventName::ToolCall => "tool_call",
            EventName::ToolResult => "tool_result",
            EventName::HitlRequest => "hitl_request",
            EventName::HitlResolved => "hitl_resolved",
            EventName::WorkingMemoryUpdate => "working_memory_update",
            EventName::CompactionEvent => "compaction_event",
            EventName::Heartbeat => "heartbeat",
            EventName::Usage => "usage",
        }
    }

    /// Reads the name back.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|n| n.as_str() == text)
    }

    /// What the event tells and which fields it carries beyond `task_id`, `turn_id`, `timestamp`;
    /// the reference page is made from this.
    pub const fn payload(self) -> (&'static str, &'static str) {
        match self {
            EventName::ThreadLifecycle => (
                "A turn began (`started`, always first), or ended (`completed` or `errored`, always last).",
                "`phase`; started: `user_message_id`, `agent`, `queued`; completed: `message_id` (null when no assistant message was stored), `stop_reason`, `output` (only with output_schema); errored: `error`",
            ),
            EventName::Error => (
                "The turn failed; `thread_lifecycle` errored with the same code follows directly.",
                "`error`, `message`, `details`?",
            ),
            EventName::TextDelta => ("A piece of the answer.", "`text`, `block_index`"),
            EventName::ThinkingDelta => {
                ("A piece of reasoning; only when super_thinking was asked for.", "`text`, `block_index`")
            }
            EventName::ContentBlockStart => {
                ("A block begins.", "`block_index`, `block_type`: text, thinking or tool_use")
            }
            EventName::ContentBlockStop => (
                "A block ends; `discarded` is true when it was abandoned (restart, retry, provider failure).",
                "`block_index`, `block_type`, `discarded`",
            ),
            EventName::ToolCall => ("A tool is about to be called.", "`tool`, `tool_call_id`, `input`"),
            EventName::ToolResult => (
                "A tool call ended.",
                "`tool`, `tool_call_id`, `output`; on failure `error` and `reason`; `duration_ms`; `truncated`?, `blob`? (sha256 of the full output)",
            ),
            EventName::HitlRequest => (
                "A person is asked; answer with POST /hitl/respond.",
                "`request_id`, `kind`, `question`, `options`, `created_at`, `expires_at`; permission: `tool`, `tool_call_id`, `input`, `reason`, `rule`",
            ),
            EventName::HitlResolved => (
                "The question is settled.",
                "`request_id`, `kind`, `resolution`: answered, expired or cancelled; `answer`",
            ),
            EventName::WorkingMemoryUpdate => (
                "A working-memory entry of the task changed.",
                "`key`, `value` (at most 4 KiB, else shortened with `truncated`: true), `op`: set or delete; `expires_at`",
            ),
            EventName::CompactionEvent => (
                "Old context was shortened before the next model call.",
                "`before_tokens`, `after_tokens`, `strategy`: shrink, summary or truncate",
            ),
            EventName::Heartbeat => (
                "The connection lives. Repeats the id of the last event sent on it; not stored.",
                "nothing more; `turn_id` and `task_id` are null on an all-tasks stream",
            ),
            EventName::Usage => (
                "What one model call consumed; the sum over a turn is the turn's total.",
                "`input_tokens`, `output_tokens`, `cache_hit_tokens` (part of input_tokens), `model`, `purpose`: main, planner, subagent, skill, compaction",
            ),
        }
    }
}

/// Kinds of reported content blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockType {
    /// Answer text.
    Text,
    /// Reasoning.
    Thinking,
    /// A tool call being written; its arguments come whole in `tool_call`.
    ToolUse,
}

/// What a question to a person is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HitlKind {
    /// May this call run? Answers: yes, no, always.
    Permission,
    /// Free text.
    Question,
}

impl HitlKind {
    /// The word used on the wire and in the brain.
    pub const fn as_str(self) -> &'static str {
        match self {
            HitlKind::Permission => "permission",
            HitlKind::Question => "question",
        }
    }

    /// Reads the word back.
    pub fn parse(text: &str) -> Option<Self> {
        [HitlKind::Permission, HitlKind::Question].into_iter().find(|k| k.as_str() == text)
    }
}

/// How a question was settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resolution {
    /// A person answered.
    Answered,
    /// Nobody answered in time.
    Expired,
    /// The turn was cancelled.
    Cancelled,
}

/// What a model call was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// The agent loop.
    Main,
    /// The planner sub-agent.
    Planner,
    /// A delegated agent.
    Subagent,
    /// A prompt skill.
    Skill,
    /// Summarising old context.
    Compaction,
    /// The Learning Centre (never streamed).
    Learning,
}

impl Purpose {
    /// The word used on the wire and in the brain.
    pub const fn as_str(self) -> &'static str {
        match self {
            Purpose::Main => "main",
            Purpose::Planner => "planner",
            Purpose::Subagent => "subagent",
            Purpose::Skill => "skill",
            Purpose::Compaction => "compaction",
            Purpose::Learning => "learning",
        }
    }
}

/// How context was shortened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CompactionStrategy {
    /// Old tool results were cut to head, tail and a reference.
    Shrink,
    /// Old messages were replaced by a summary.
    Summary,
    /// Old messages were dropped behind a note.
    Truncate,
}

impl CompactionStrategy {
    /// The word used on the wire and in the brain.
    pub const fn as_str(self) -> &'static str {
        match self {
            CompactionStrategy::Shrink => "shrink",
            CompactionStrategy::Summary => "summary",
            CompactionStrategy::Truncate => "truncate",
        }
    }
}

/// One event's own payload. `task_id`, `turn_id` and `timestamp` are added by [`Event::data`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Event {
    /// `thread_lifecycle`, phase started.
    Started {
        /// Always `started`.
        phase: Started,
        /// The stored user message.
        user_message_id: MessageId,
        /// The agent that answers.
        agent: String,
        /// True when the turn must wait for a slot.
        queued: bool,
    },
    /// `thread_lifecycle`, phase completed.
    Completed {
        /// Always `completed`.
        phase: Completed,
        /// The final assistant message; null when none was stored.
        message_id: Option<MessageId>,
        /// Why it ended.
        stop_reason: StopReason,
        /// The parsed answer, with output_schema only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output: Option<Value>,
    },
    /// `thread_lifecycle`, phase errored.
    Errored {
        /// Always `errored`.
        phase: Errored,
        /// The same code as the `error` event before it.
        error: ErrorCode,
    },
    /// `error`.
    Error {
        /// Stable code.
        error: ErrorCode,
        /// For people.
        message: String,
        /// Structured facts.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        details: Option<Value>,
    },
    /// `tool_result`.
    ToolResult {
        /// Tool name.
        tool: String,
        /// Which call.
        tool_call_id: CallId,
        /// What the tool returned; null on most failures.
        output: Value,
        /// Failure text.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        /// Failure word.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<ToolReason>,
        /// How long the call ran.
        duration_ms: u64,
        /// True when `output` was shortened.
        #[serde(default, skip_serializing_if = "is_false")]
        truncated: bool,
        /// SHA-256 of the full output.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        blob: Option<String>,
    },
    /// `hitl_request`.
    HitlRequest {
        /// Answer with this.
        request_id: HitlId,
        /// permission or question.
        kind: HitlKind,
        /// What is asked.
        question: String,
        /// Offered answers.
        options: Vec<String>,
        /// When it was asked.
        created_at: Timestamp,
        /// When it counts as "no".
        expires_at: Timestamp,
        /// Which call waits.
        tool_call_id: CallId,
        /// Which tool (permission only).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tool: Option<String>,
        /// The call's input (permission only).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input: Option<Value>,
        /// Why it needs a person (permission only).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// What `always` would remember (permission only).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<String>,
    },
    /// `hitl_resolved`.
    HitlResolved {
        /// Which question.
        request_id: HitlId,
        /// permission or question.
        kind: HitlKind,
        /// How it was settled.
        resolution: Resolution,
        /// The answer; null unless answered.
        answer: Option<String>,
    },
    /// `tool_call`.
    ToolCall {
        /// Tool name.
        tool: String,
        /// The call's id.
        tool_call_id: CallId,
        /// Arguments.
        input: Value,
    },
    /// `working_memory_update`.
    WorkingMemoryUpdate {
        /// Entry name.
        key: String,
        /// New value (shortened above 4 KiB), null on delete.
        value: Value,
        /// set or delete.
        op: MemoryOp,
        /// When the entry fades.
        expires_at: Option<Timestamp>,
        /// True when `value` was shortened.
        #[serde(default, skip_serializing_if = "is_false")]
        truncated: bool,
    },
    /// `compaction_event`.
    Compaction {
        /// Estimate before.
        before_tokens: u64,
        /// Estimate after.
        after_tokens: u64,
        /// What was done.
        strategy: CompactionStrategy,
    },
    /// `usage`.
    Usage {
        /// Prompt tokens, cached ones included.
        input_tokens: u64,
        /// Generated tokens.
        output_tokens: u64,
        /// The cached part of the prompt.
        cache_hit_tokens: u64,
        /// The model that answered.
        model: String,
        /// What the call was for.
        purpose: Purpose,
    },
    /// `text_delta`.
    TextDelta(Delta),
    /// `thinking_delta`.
    ThinkingDelta(Delta),
    /// `content_block_start`.
    BlockStart {
        /// Counts reported blocks from 0 over the whole turn.
        block_index: u32,
        /// text, thinking or tool_use.
        block_type: BlockType,
    },
    /// `content_block_stop`.
    BlockStop {
        /// Which block.
        block_index: u32,
        /// text, thinking or tool_use.
        block_type: BlockType,
        /// True when the block was abandoned.
        discarded: bool,
    },
}

/// A piece of streamed text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// The piece.
    pub text: String,
    /// The block it belongs to.
    pub block_index: u32,
}

macro_rules! word {
    ($(#[$doc:meta])* $name:ident = $word:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name {
            #[doc = "The only value."]
            #[serde(rename = $word)]
            Is,
        }
    };
}
word!(
    /// The word `started`.
    Started = "started"
);
word!(
    /// The word `completed`.
    Completed = "completed"
);
word!(
    /// The word `errored`.
    Errored = "errored"
);

/// What happened to a working-memory entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemoryOp {
    /// Written.
    Set,
    /// Removed.
    Delete,
}

fn is_false(b: &bool) -> bool {
    !*b
}

/// Which call a nested event belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nested {
    /// The nested agent.
    pub agent: String,
    /// The call that started it.
    pub parent_tool_call_id: CallId,
}

#[derive(Serialize)]
struct Payload<'a> {
    task_id: Option<&'a TaskId>,
    turn_id: Option<&'a TurnId>,
    timestamp: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_tool_call_id: Option<&'a CallId>,
    #[serde(flatten)]
    event: Option<&'a Event>,
}

impl Event {
    /// The `event:` name of this payload.
    pub const fn name(&self) -> EventName {
        match self {
            Event::Started { .. } | Event::Completed { .. } | Event::Errored { .. } => {
                EventName::ThreadLifecycle
            }
            Event::Error { .. } => EventName::Error,
            Event::TextDelta(_) => EventName::TextDelta,
            Event::ThinkingDelta(_) => EventName::ThinkingDelta,
            Event::BlockStart { .. } => EventName::ContentBlockStart,
            Event::BlockStop { .. } => EventName::ContentBlockStop,
            Event::ToolCall { .. } => EventName::ToolCall,
            Event::ToolResult { .. } => EventName::ToolResult,
            Event::HitlRequest { .. } => EventName::HitlRequest,
            Event::HitlResolved { .. } => EventName::HitlResolved,
            Event::WorkingMemoryUpdate { .. } => EventName::WorkingMemoryUpdate,
            Event::Compaction { .. } => EventName::CompactionEvent,
            Event::Usage { .. } => EventName::Usage,
        }
    }

    /// True for the last event of a turn.
    pub const fn is_final(&self) -> bool {
        matches!(self, Event::Completed { .. } | Event::Errored { .. })
    }

    /// The exact text of the `data:` line (without `data: ` and without the line end).
    pub fn data(&self, task: &TaskId, turn: &TurnId, at: Timestamp, nested: Option<&Nested>) -> String {
        let payload = Payload {
            task_id: Some(task),
            turn_id: Some(turn),
            timestamp: at,
            agent: nested.map(|n| n.agent.as_str()),
            parent_tool_call_id: nested.map(|n| &n.parent_tool_call_id),
            event: Some(self),
        };
        serde_json::to_string(&payload).expect("event payloads have text keys and no failing serialisers")
    }
}

/// The `data:` line of a heartbeat; ids are null on an all-tasks stream.
pub fn heartbeat_data(task: Option<&TaskId>, turn: Option<&TurnId>, at: Timestamp) -> String {
    let payload = Payload {
        task_id: task,
        turn_id: turn,
        timestamp: at,
        agent: None,
        parent_tool_call_id: None,
        event: None,
    };
    serde_json::to_string(&payload).expect("heartbeat payloads have text keys and no failing serialisers")
}

/// One whole frame: `id`, `event`, `data`, blank line; LF only.
pub fn frame(seq: i64, name: &str, data: &str) -> String {
    let mut out = String::with_capacity(data.len() + name.len() + 48);
    out.push_str("id: ");
    out.push_str(&seq.to_string());
    out.push_str("\nevent: ");
    out.push_str(name);
    out.push_str("\ndata: ");
    out.push_str(data);
    out.push_str("\n\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> (TaskId, TurnId) {
        (TaskId::parse("demo-1").expect("valid"), TurnId::parse("turn-0196").expect("valid"))
    }

    #[test]
    fn a_frame_is_exactly_the_documented_bytes() {
        let (task, turn) = ids();
        let at = Timestamp::from_millis(1_777_293_296_120);
        let event = Event::TextDelta(Delta { text: "Here\nare".into(), block_index: 0 });
        let frame = frame(812, event.name().as_str(), &event.data(&task, &turn, at, None));
        assert_eq!(
            frame,
            "id: 812\nevent: text_delta\ndata: {\"task_id\":\"demo-1\",\"turn_id\":\"turn-0196\",\"timestamp\":\"2026-04-27T12:34:56.120Z\",\"text\":\"Here\\nare\",\"block_index\":0}\n\n"
        );
    }

    #[test]
    fn lifecycle_payloads_name_their_phase() {
        let (task, turn) = ids();
        let at = Timestamp::from_millis(0);
        let event = Event::Completed {
            phase: Completed::Is,
            message_id: None,
            stop_reason: StopReason::Cancelled,
            output: None,
        };
        let value: Value = serde_json::from_str(&event.data(&task, &turn, at, None)).expect("json");
        assert_eq!(value["phase"], "completed");
        assert_eq!(value["stop_reason"], "cancelled");
        assert_eq!(value["message_id"], Value::Null);
    }

    #[test]
    fn a_heartbeat_of_all_tasks_has_null_ids() {
        let data = heartbeat_data(None, None, Timestamp::from_millis(0));
        assert_eq!(data, r#"{"task_id":null,"turn_id":null,"timestamp":"1970-01-01T00:00:00.000Z"}"#);
    }
}
