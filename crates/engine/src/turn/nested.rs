//! A loop below another: what a `delegate` call runs. (specification 6.5)
//!
//! The same loop as the main one, with another agent, no history, and its messages put under the call. It shares the
//! turn's permissions, cancel, journal and slot. Where it stands is in the turn's checkpoint, so a kill or a wait for
//! a person changes nothing: the call is tried again and the loop goes on.
//!
//! The invariant: whatever goes wrong inside is the call's failure, told to the model that asked; only a brain that
//! cannot be written fails the turn.

use crate::tools::shorten::head_and_tail;
use crate::tools::tool::{Failure, Output};
use crate::tools::toolbox::{Offer, Toolbox};
use crate::turn::frame::{Frame, MAX_DEPTH, Seat};
use crate::turn::message::text_of;
use crate::turn::recall;
use crate::turn::said;
use crate::turn::steps::{End, Run};
use brain::messages;
use brain::turns::Turn;
use contract::conversation::{Block, ToolReason};
use contract::{CallId, MessageId, StopReason, Timestamp};
use futures::future::BoxFuture;
use serde_json::{Value, json};
use std::sync::Arc;

/// What became of a nested loop.
#[derive(Debug)]
pub enum Ran {
    /// It is over: what the call gives back.
    Over(Result<Output, Failure>),
    /// These calls of it wait for a person.
    Waiting(Vec<CallId>),
    /// The turn is being cancelled, or the process stops; the loop is left where it is.
    Stopped,
}

/// What an agent is told: the task, and behind it what it should know, as in a caller's message.
fn told(input: &Value) -> Vec<Block> {
    let task = input["task"].as_str().unwrap_or_default();
    let context = match input.get("context") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(other) => Some(other.to_string()),
    };
    let context = context.map(|c| said::data(&c));
    [Block::text(task)].into_iter().chain(context).collect()
}

/// Runs the loop that `call` asks for, or goes on with it. Boxed, because a nested loop may start another.
pub fn run<'a>(above: Seat<'a>, call: &'a CallId, input: &'a Value) -> BoxFuture<'a, brain::Result<Ran>> {
    Box::pin(async move {
        let agent = input["agent"].as_str().unwrap_or_default();
        let frame = above.frame.below(call);
        let offer = Offer { plan: false, delegate: frame.depth < MAX_DEPTH };
        let Some(toolbox) = Toolbox::of(agent, Arc::clone(&above.toolbox.catalog), offer) else {
            let known = above.toolbox.catalog.agent_names().join(", ");
            let text = format!("there is no agent `{agent}`; there are {known}");
            return Ok(Ran::Over(Err(Failure::new(ToolReason::NotFound, text))));
        };
        // the turn as this loop sees it: its own agent, and an answer for a model instead of a caller
        let turn = Turn { agent: agent.to_owned(), output_schema: None, ..above.turn.clone() };
        let core = above.core;
        let (opened, at, expiry) = (turn.clone(), frame.clone(), core.expiry(Timestamp::now()));
        let told = told(input);
        let recalled = match is_open(above, &frame).await? {
            true => None,
            false => recall::into_nested(core, above.control, &told).await,
        };
        let open = core.record("open nested loop", move |tx, _| at.open(tx, &opened, told, recalled, expiry));
        let (step, checkpoint) = open.await?;
        let seat = Seat { core, turn: &turn, frame: &frame, toolbox: &toolbox, control: above.control };
        match Run::new(seat, checkpoint, step).to_the_end().await? {
            End::Waiting(calls) => Ok(Ran::Waiting(calls)),
            End::Cancelled { .. } | End::Halted => Ok(Ran::Stopped),
            End::Failed { error, partial } => {
                let text = format!("the sub-agent could not go on: {} ({})", error.message, error.error);
                let said = partial.filter(|text| !text.is_empty());
                let output = said.map(|text| json!({"text": text}));
                Ok(Ran::Over(Err(Failure { output, ..Failure::new(ToolReason::Failed, text) })))
            }
            End::Answered { message, reason, .. } => {
                let text = match message {
                    Some(message) => text_in(seat, message).await?,
                    None => String::new(),
                };
                Ok(Ran::Over(Ok(answer(text, reason, core.config.tool_output_max_bytes))))
            }
        }
    })
}

/// Whether an earlier attempt has begun the loop: then it knows already what it recalled.
async fn is_open(above: Seat<'_>, frame: &Frame) -> brain::Result<bool> {
    let (turn, frame) = (above.turn.clone(), frame.clone());
    above.core.brain.read("is nested loop open", move |tx| frame.is_open(tx, &turn)).await
}

/// The text of a stored message.
async fn text_in(seat: Seat<'_>, message: MessageId) -> brain::Result<String> {
    let task = seat.turn.task_id.clone();
    let read = seat.core.brain.read("nested answer", move |tx| messages::get(tx, &task, &message));
    Ok(read.await?.map(|m| text_of(&m.content)).unwrap_or_default())
}

/// What the call gives back; a long text is shortened and kept whole beside it.
fn answer(text: String, reason: StopReason, limit: usize) -> Output {
    let of = |text: &str| json!({"text": text, "stop_reason": reason});
    match head_and_tail(&text, limit) {
        None => Output::json(of(&text)),
        Some(short) => Output { full: Some(text.into_bytes()), ..Output::json(of(&short)) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_told_its_task_and_then_the_context() {
        assert_eq!(told(&json!({"task": "t"})), vec![Block::text("t")]);
        let with = |context: Value| told(&json!({"task": "t", "context": context}))[1].clone();
        assert_eq!(with(json!("a fact")), Block::text("<context>\na fact\n</context>"));
        assert_eq!(with(json!({"n": 1})), Block::text("<context>\n{\"n\":1}\n</context>"));
    }

    #[test]
    fn a_long_answer_keeps_its_shape_and_is_kept_whole() {
        let short = answer("done".into(), StopReason::EndTurn, 1000);
        assert_eq!((short.value, short.full), (json!({"text": "done", "stop_reason": "end_turn"}), None));
        let long = answer("x".repeat(5000), StopReason::MaxTokens, 1000);
        assert_eq!(long.value["stop_reason"], "max_tokens");
        assert!(long.value["text"].as_str().is_some_and(|t| t.len() <= 1000 && t.contains("left out")));
        assert_eq!(long.full.map(|f| f.len()), Some(5000));
    }
}
