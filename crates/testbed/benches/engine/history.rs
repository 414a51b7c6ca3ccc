//! A brain with a long past, written in bulk through the crate that owns brains.

use brain::turns::{Ending, NewTurn};
use brain::{Brain, OpenOptions, events, messages, snapshots, tasks, turns};
use contract::conversation::{Block, Role, StopReason};
use contract::event::{Delta, Event, Started};
use contract::{MessageId, TaskId, Timestamp, TurnId};
use serde_json::json;
use std::path::Path;

/// Turns of one task.
const TURNS: usize = 5;
/// Events of one turn.
const EVENTS: usize = 100;
/// Characters of one event's text; with its indexes an event then takes about a kilobyte.
const CHARS: usize = 700;
/// Turns written per commit.
const GROUP: usize = 100;
/// How long the events stay: longer than any benchmark runs.
const KEPT_MS: i64 = 7 * 24 * 3600 * 1000;

/// Writes finished turns with together `count` events and closes the brain in order.
pub async fn write(path: &Path, count: usize) {
    let brain = Brain::open(OpenOptions::at(path)).expect("a new brain");
    let total = count / EVENTS;
    for from in (0..total).step_by(GROUP) {
        let group = from..(from + GROUP).min(total);
        brain
            .write("history", move |tx| {
                for number in group {
                    turn(tx, number)?;
                }
                Ok(())
            })
            .await
            .expect("written");
    }
    tokio::task::spawn_blocking(move || brain.close()).await.expect("closed");
}

fn turn(tx: &brain::Tx<'_>, number: usize) -> brain::Result<()> {
    let now = Timestamp::now();
    let task = TaskId::parse(&format!("task-{}", number / TURNS)).expect("a good name");
    let (id, asked, answered) = (TurnId::generate(), MessageId::generate(), MessageId::generate());
    tasks::ensure(tx, &task, "A long conversation", "assistant", now)?;
    let new = NewTurn {
        turn_id: id.clone(),
        task_id: task.clone(),
        agent: "assistant".into(),
        direct: false,
        super_thinking: false,
        idempotency_key: None,
        request_hash: format!("{number:064x}"),
        request: json!({"message": "Go on."}),
        output_schema: None,
        user_message_id: asked.clone(),
        at: now,
    };
    turns::insert(tx, &new)?;
    for (message_id, role, said) in
        [(asked.clone(), Role::User, "Go on."), (answered.clone(), Role::Assistant, "Done.")]
    {
        let message = messages::NewMessage {
            message_id,
            task_id: task.clone(),
            turn_id: id.clone(),
            role,
            content: vec![Block::text(said)],
            token_estimate: 2,
            active: true,
            agent: None,
            parent: None,
            at: now,
        };
        messages::append(tx, &message)?;
    }
    let started = Event::Started {
        phase: Started::Is,
        user_message_id: asked,
        agent: "assistant".into(),
        queued: false,
    };
    let first = events::append(tx, &task, &id, &started, None, now)?.seq;
    turns::set_first_seq(tx, &id, first)?;
    let text = "lorem ipsum ".repeat(CHARS / 12);
    for _ in 2..EVENTS {
        let delta = Event::TextDelta(Delta { text: text.clone(), block_index: 0 });
        events::append(tx, &task, &id, &delta, None, now)?;
    }
    let completed = Event::Completed {
        phase: contract::event::Completed::Is,
        message_id: Some(answered.clone()),
        stop_reason: StopReason::EndTurn,
        output: None,
    };
    let last = events::append(tx, &task, &id, &completed, None, now)?.seq;
    let snapshot = snapshots::Snapshot { step: snapshots::Step::Finish, state: json!({}) };
    snapshots::put(tx, &id, &task, &snapshot, now, now.plus_millis(KEPT_MS))?;
    let ending =
        Ending::Completed { message_id: Some(answered), stop_reason: StopReason::EndTurn, output: None };
    turns::finish(tx, &id, &ending, last, now)
}
