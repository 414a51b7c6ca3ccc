//! Schemas of /feedback and /learning.

use super::{list_of, object};
use crate::http::feedback::{COMMENT_CHARS, CORRECTED_CHARS};
use contract::memory::Rating;
use serde_json::{Map, Value, json};

pub(super) fn schemas() -> Map<String, Value> {
    let text = json!({"type": "string"});
    let number = json!({"type": "integer", "minimum": 0});
    let time = json!({"type": "string", "format": "date-time"});
    let maybe = |schema: &Value| json!({"anyOf": [schema, {"type": "null"}]});
    let written = object(
        json!({"episodes": number, "knowledge": number, "social": number}),
        &["episodes", "knowledge", "social"],
    );
    let batch = object(
        json!({
            "batch_id": text, "state": {"type": "string", "enum": ["succeeded", "failed", "partial"]},
            "started_at": time, "ended_at": time, "trajectories": number, "written": written,
            "duplicates": number, "tokens_used": number, "error": maybe(&text),
        }),
        &[
            "batch_id",
            "state",
            "started_at",
            "ended_at",
            "trajectories",
            "written",
            "duplicates",
            "tokens_used",
            "error",
        ],
    );
    let mut all = Map::new();
    all.insert(
        "FeedbackCreate".into(),
        object(
            json!({
                "message_id": text,
                "rating": {"type": "string", "enum": Rating::ALL},
                "comment": {"type": "string", "maxLength": COMMENT_CHARS},
                "corrected": {"type": "string", "maxLength": CORRECTED_CHARS, "description": "what the answer should have been"},
            }),
            &["message_id"],
        ),
    );
    all.insert(
        "FeedbackRecorded".into(),
        object(json!({"status": {"const": "recorded"}, "signal_id": text}), &["status", "signal_id"]),
    );
    let signal = object(
        json!({
            "signal_id": text, "message_id": text, "turn_id": text,
            "rating": maybe(&json!({"type": "string", "enum": Rating::ALL})), "comment": maybe(&text),
            "corrected": maybe(&text), "created_at": time,
            "processed_at": {"anyOf": [time, {"type": "null"}], "description": "when it was learned from, or passed over"},
        }),
        &[
            "signal_id",
            "message_id",
            "turn_id",
            "rating",
            "comment",
            "corrected",
            "created_at",
            "processed_at",
        ],
    );
    all.insert("SignalList".into(), list_of("signals", signal));
    all.insert(
        "FeedbackDeleted".into(),
        object(
            json!({
                "status": {"const": "deleted"}, "signal_id": text,
                "also_deleted": {"type": "array", "items": text},
            }),
            &["status", "signal_id", "also_deleted"],
        ),
    );
    all.insert(
        "LearningStatus".into(),
        object(
            json!({
                "enabled": {"type": "boolean"}, "running": {"type": "boolean"}, "next_run_at": maybe(&time),
                "pending_trajectories": number, "last_batch": maybe(&batch),
                "batches": {"type": "array", "items": batch, "description": "the last 20, newest first"},
            }),
            &["enabled", "running", "next_run_at", "pending_trajectories", "last_batch", "batches"],
        ),
    );
    all.insert("LearningRun".into(), object(json!({"task_id": text}), &[]));
    all.insert(
        "LearningStarted".into(),
        object(
            json!({"batch_id": text, "status": {"type": "string", "enum": ["started", "running"]}}),
            &["batch_id", "status"],
        ),
    );
    all
}
