//! Committing a working-memory entry and its event.

use crate::core::Emitted;
use brain::turns::Turn;
use brain::{Tx, working_memory};
use contract::Timestamp;
use contract::event::{Event, MemoryOp, Nested};
use serde_json::{Value, json};

/// Bytes of a value in a working_memory_update event. More would repeat long notes on every stream; the
/// whole value is in GET /tasks/{id}.
const EVENT_BYTES: usize = 4096;

/// An entry to be written, or deleted when it has no value.
#[derive(Debug)]
pub(super) struct Entry {
    pub key: String,
    pub value: Option<Value>,
    pub expires_at: Timestamp,
}

/// Writes the entry, emits the event and returns the tool's output.
pub(super) fn commit(
    tx: &Tx<'_>,
    out: &mut Emitted,
    turn: &Turn,
    nested: Option<&Nested>,
    entry: Entry,
) -> brain::Result<Value> {
    let Entry { key, value, expires_at } = entry;
    let now = Timestamp::now();
    working_memory::write(tx, &turn.task_id, &turn.turn_id, &key, value.as_ref(), now, expires_at)?;
    let op = if value.is_some() { MemoryOp::Set } else { MemoryOp::Delete };
    let output = json!({"key": key, "op": op});
    let (value, truncated) = short_value(value);
    let expires_at = (op == MemoryOp::Set).then_some(expires_at);
    let event = Event::WorkingMemoryUpdate { key, value, op, expires_at, truncated };
    out.emit(tx, &turn.task_id, &turn.turn_id, &event, nested)?;
    Ok(output)
}

fn short_value(value: Option<Value>) -> (Value, bool) {
    let Some(value) = value else { return (Value::Null, false) };
    let text = value.to_string();
    if text.len() <= EVENT_BYTES {
        return (value, false);
    }
    let mut end = EVENT_BYTES;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    (Value::String(text[..end].to_owned()), true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_memory_value_is_shortened_in_its_event() {
        assert_eq!(short_value(Some(json!({"a": 1}))), (json!({"a": 1}), false));
        let (value, truncated) = short_value(Some(Value::String("ü".repeat(5000))));
        assert!(truncated && value.as_str().is_some_and(|v| v.len() <= EVENT_BYTES));
        assert_eq!(short_value(None), (Value::Null, false));
    }
}
