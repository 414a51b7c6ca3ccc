//! What stays of a turn that is over: its episode in long-term memory, and its trajectory for the Learning Centre.
//!
//! Both are written in the transaction that ends the turn, without any model. A turn that was cancelled or failed gets a
//! trajectory, which tells how it ended, and no episode: nothing came of it.
//!
//! The invariant: what is written here can never keep a turn from ending.

use crate::memory::{Intent, NewEpisode, Origin, Prepared, Touched, Wanted, node_text, write_in};
use crate::secrets::Known;
use crate::turn::accept::set_aside::is_pointer;
use crate::turn::message::text_of;
use crate::turn::said::{beside, said};
use ::memory::confidence;
use ::memory::recall::without_recalled;
use ::memory::trust::{self, Evidence, Turn as Reading};
use brain::memory::lineage::Parent;
use brain::memory::trajectories;
use brain::memory::{MemoryId, episodes, erase};
use brain::turns::{self, Ending, Turn};
use brain::{Tx, effects, messages, usage};
use contract::memory::{EpisodeKind, ParentKind, Trust};
use contract::{Block, MessageId, StopReason, Timestamp};
use serde_json::{Value, json};

/// Characters of an episode's key: the beginning of the message, to know it by in a list.
const KEY_CHARS: usize = 80;

/// What the end of a turn needs to know beyond the turn.
pub struct Keeper<'k> {
    /// Secrets that must not be kept.
    pub known: &'k Known,
    /// Vectors that can be had at once.
    pub vectors: &'k Prepared,
}

/// Writes what stays of a turn that ends now.
pub fn of_ended(
    tx: &Tx<'_>,
    keeper: &Keeper<'_>,
    turn: &Turn,
    ending: &Ending,
    now: Timestamp,
) -> brain::Result<Touched> {
    let reading = match turns::is_tainted(tx, &turn.task_id)? {
        true => Reading::Tainted,
        false => Reading::Clean,
    };
    // a message and the answer to it: as far as the agent may be trusted in this turn
    let trust = trust::of_writing(reading, &[Evidence::UserMessage, Evidence::AssistantMessage]);
    trajectories::insert(tx, &trajectory(tx, turn, ending, reading, now)?)?;
    let Ending::Completed { message_id, stop_reason, .. } = ending else { return Ok(Touched::default()) };
    if *stop_reason == StopReason::Cancelled {
        return Ok(Touched::default());
    }
    match episode(tx, keeper, turn, message_id.as_ref(), trust, now) {
        // one memory that cannot be read must not keep a turn from ending
        Err(brain::Error::BadData { what }) => {
            tracing::error!(task_id = %turn.task_id, code = "INTERNAL", what, "The episode of a turn could not be written");
            Ok(Touched::default())
        }
        other => other,
    }
}

fn episode(
    tx: &Tx<'_>,
    keeper: &Keeper<'_>,
    turn: &Turn,
    answer: Option<&MessageId>,
    trust: Trust,
    now: Timestamp,
) -> brain::Result<Touched> {
    let clean = |text: &str| without_recalled(&keeper.known.scrub(text));
    let content = |id: &MessageId| messages::get(tx, &turn.task_id, id).map(|m| m.map(|m| m.content));
    let asked = content(&turn.user_message_id)?.unwrap_or_default();
    let message = match clean(said(&asked)) {
        text if text.trim().is_empty() => media(&asked),
        text => text,
    };
    let answer = match answer {
        Some(id) => content(id)?.map(|content| clean(&text_of(&content))),
        None => None,
    };
    let key: String =
        message.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(KEY_CHARS).collect();
    let wanted = Wanted::Episode(NewEpisode {
        kind: EpisodeKind::Turn,
        key,
        description: message,
        value: answer,
        occurred_at: Some(now),
        task_id: Some(turn.task_id.clone()),
        turn_id: Some(turn.turn_id.clone()),
        position: Some(turn.number),
    });
    let origin = Origin {
        source: format!("trajectory:{}", turn.turn_id),
        trust,
        rationale: "a finished turn".to_owned(),
        confidence: confidence::TURN,
        lineage: vec![Parent { kind: ParentKind::Trajectory, id: turn.turn_id.as_str().to_owned() }],
        intent: Intent::None,
        // it is what happened, not something that was learned again
        recalled: Vec::new(),
    };
    Ok(write_in(tx, &wanted, &origin, keeper.vectors, now)?.1)
}

/// What a message without words consists of.
fn media(content: &[Block]) -> String {
    let kinds: Vec<&str> = content
        .iter()
        .filter_map(|block| match block {
            Block::Image { .. } => Some("[image]"),
            Block::Document { .. } => Some("[document]"),
            Block::Audio { .. } => Some("[audio]"),
            Block::Video { .. } => Some("[video]"),
            Block::Text { text } if is_pointer(text) => Some("[document]"),
            _ => None,
        })
        .collect();
    if kinds.is_empty() { "[no text]".to_owned() } else { kinds.join(" ") }
}

fn trajectory(
    tx: &Tx<'_>,
    turn: &Turn,
    ending: &Ending,
    reading: Reading,
    now: Timestamp,
) -> brain::Result<trajectories::New> {
    let (outcome, message_id) = match ending {
        Ending::Completed { stop_reason, message_id, .. } => (stop_reason.as_str(), message_id.clone()),
        Ending::Errored(error) => (error.code.as_str(), None),
    };
    let began = turn.started_at.unwrap_or(turn.created_at);
    let mut ids: Vec<MessageId> =
        messages::of_turn(tx, &turn.turn_id)?.into_iter().map(|m| m.message_id).collect();
    // of a retry the message belongs to the turn before
    if !ids.contains(&turn.user_message_id) {
        ids.insert(0, turn.user_message_id.clone());
    }
    let calls: Vec<Value> = effects::of_turn(tx, &turn.turn_id)?
        .into_iter()
        .map(|call| {
            let took = call.finished_at.map(|end| (end.millis() - call.started_at.millis()).max(0));
            json!({
                "tool_call_id": call.call_id,
                "tool": call.tool,
                "state": call.state.as_str(),
                "reason": call.reason,
                "duration_ms": took,
            })
        })
        .collect();
    // the least trusted thing it read
    let trust = match reading {
        Reading::Tainted => Trust::Untrusted,
        Reading::Clean if calls.is_empty() && !has_data(tx, turn)? => Trust::User,
        Reading::Clean => Trust::Tool,
    };
    let (model_calls, tokens) = usage::of_turn(tx, &turn.turn_id)?;
    let recalled: Vec<String> =
        turns::recalled(tx, &turn.turn_id)?.iter().map(|id| id.as_str().to_owned()).collect();
    Ok(trajectories::New {
        turn_id: turn.turn_id.clone(),
        task_id: turn.task_id.clone(),
        agent: turn.agent.clone(),
        outcome: outcome.to_owned(),
        trace: json!({
            "user_message_id": turn.user_message_id,
            "message_id": message_id,
            "messages": ids,
            "calls": calls,
            "model_calls": model_calls,
            "usage": tokens,
            "duration_ms": (now.millis() - began.millis()).max(0),
            "stop_reason": outcome,
            "recalled": recalled,
        }),
        trust,
        at: now,
    })
}

/// Whether a program put data beside what the person said to begin the turn.
fn has_data(tx: &Tx<'_>, turn: &Turn) -> brain::Result<bool> {
    let message = messages::get(tx, &turn.task_id, &turn.user_message_id)?;
    Ok(message.is_some_and(|message| !beside(&message.content).is_empty()))
}

/// Takes back what was kept of turns whose message or answer was replaced by an edit or a retry: their episodes go, and
/// nobody learns from them any more. What was learned before stays (specification 6.1).
pub fn forget_superseded(tx: &Tx<'_>, turn: &Turn, now: Timestamp) -> brain::Result<Touched> {
    let mut gone: Vec<MemoryId> = Vec::new();
    for old in turns::superseded_by(tx, turn)? {
        trajectories::processed(tx, &old, now)?;
        let of_turn = episodes::of_turn(tx, &turn.task_id, &old)?;
        let own = of_turn.into_iter().filter(|e| e.item.kind == EpisodeKind::Turn);
        gone.extend(own.map(|e| MemoryId::Episode(e.item.episode_id)));
    }
    Ok(Touched::erased(&erase::erase_all(tx, &gone, &node_text)?))
}

/// Whether a turn replaces an earlier message or answer.
pub fn supersedes(turn: &Turn) -> bool {
    ["edit_message_id", "retry_message_id"].iter().any(|field| !turn.request[*field].is_null())
}
