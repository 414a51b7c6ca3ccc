//! The `plan` tool: asks the planner for a plan, or moves the steps of the present one on.
//!
//! The invariant: the plan, its event and the call's outcome are one transaction, and an update starts from the plan
//! as it is in that very transaction, so that two calls of one message do not undo each other.

use super::memory::{self, Entry};
use super::outcome::{self, End};
use super::{Attempt, One, count};
use crate::core::Emitted;
use crate::tools::plan::{self, Plan, Wish};
use crate::tools::tool::{Failure, Output};
use crate::turn::message::{Spent, record_usage};
use crate::turn::once::{self, Answer, Failed, Question};
use brain::effects::EffectState;
use brain::turns::Turn;
use brain::{Tx, working_memory};
use contract::event::{Nested, Purpose};
use contract::{Timestamp, ToolReason};
use std::time::Instant;

impl One<'_> {
    /// Does what a call of `plan` asks for; its intent is committed.
    pub(super) async fn plan(&self) -> brain::Result<Attempt> {
        let started = Instant::now();
        let wish = match Wish::of_input(&self.call.input) {
            Some(Wish::Make(goal)) => match self.ask_planner(&goal).await? {
                Some(answer) => answer.map(Work::Store),
                None => return Ok(Attempt::Stopped),
            },
            Some(Wish::Update(changes)) => Ok(Work::Update(changes)),
            // the schema has been checked; a catalog tool made of this function may have a looser one
            None => Err(Failure::new(ToolReason::InvalidInput, "give either a goal or steps")),
        };
        let life = crate::core::millis(self.core.config.working_memory_ttl);
        let (turn, nested, call) = self.owned();
        let told = self.when_told();
        let word = self
            .core
            .record("write plan", move |tx, out| {
                let planned = match wish {
                    Ok(Work::Store(plan)) => Ok(plan),
                    Ok(Work::Update(changes)) => present(tx, &turn)?.and_then(|plan| {
                        plan.updated(&changes).map_err(|why| Failure::new(ToolReason::InvalidInput, why))
                    }),
                    Err(failure) => Err(failure),
                };
                let outcome = match planned {
                    Ok(plan) => Ok(Output::json(store(tx, out, &turn, nested.as_ref(), &plan, life)?)),
                    Err(failure) => Err(failure),
                };
                let state = if outcome.is_ok() { EffectState::Done } else { EffectState::Failed };
                let end = End { state, outcome, took: started.elapsed(), extra: Vec::new() };
                let word = end.word();
                outcome::commit(tx, out, &turn, nested.as_ref(), &call, end, told)?;
                Ok(word)
            })
            .await?;
        count(&self.call.tool, word, started.elapsed());
        self.tell_after(told).await?;
        Ok(Attempt::Settled)
    }

    /// One call to PLANNER_MODEL; `None` when the turn is to stop.
    async fn ask_planner(&self, goal: &str) -> brain::Result<Option<Result<Plan, Failure>>> {
        let names: Vec<String> = self.toolbox.offered().into_iter().map(|t| t.name).collect();
        let sections = [("goal", goal.to_owned()), ("tools", names.join("\n"))];
        let told = [plan::question(&sections)].into_iter().chain(self.recalled().await?);
        let question = Question {
            model: self.core.config.planner_model.clone(),
            system: plan::PLANNER_PROMPT.to_owned(),
            said: told.collect::<Vec<_>>().join("\n"),
            output_schema: Some(plan::answer_schema()),
            max_tokens: self.core.config.max_tokens,
            purpose: Purpose::Planner,
        };
        let asked = tokio::select! {
            biased;
            () = self.control.cancel.cancelled() => return Ok(None),
            () = self.core.halt.cancelled() => return Ok(None),
            asked = once::put(self.core, question) => asked,
        };
        let Answer { text, spent } = match asked {
            Ok(answer) => answer,
            Err(_) if self.seat().must_stop() => return Ok(None),
            Err(Failed { error, paid }) => {
                if let Some(spent) = paid {
                    self.book(spent).await?;
                }
                let text = format!("the planner could not be asked: {error}");
                return Ok(Some(Err(Failure::new(ToolReason::Failed, text))));
            }
        };
        self.book(spent).await?;
        let plan = Plan::of_answer(&self.core.known.scrub(&text));
        Ok(Some(plan.map_err(|why| {
            Failure::new(ToolReason::Failed, format!("the planner's answer is no plan: {why}"))
        })))
    }

    /// The block of what was recalled into the loop that asks.
    async fn recalled(&self) -> brain::Result<Option<String>> {
        let (turn, frame) = (self.turn.clone(), self.frame.clone());
        self.core.brain.read("memory of a loop", move |tx| frame.memory(tx, &turn)).await
    }

    /// What the planner cost, also when its answer is of no use.
    async fn book(&self, spent: Spent) -> brain::Result<()> {
        let (turn, _, call) = self.owned();
        let provider = self.core.config.llm_provider.as_str();
        let nested = Nested { agent: self.turn.agent.clone(), parent_tool_call_id: call.id };
        let book = move |tx: &Tx<'_>, out: &mut Emitted| {
            record_usage(tx, out, &turn, &spent, provider, Some(&nested))
        };
        self.core.record("planner usage", book).await
    }
}

/// What is to be written.
enum Work {
    Store(Plan),
    Update(Vec<plan::Change>),
}

/// The plan of the task, if it has one that has not expired.
fn present(tx: &Tx<'_>, turn: &Turn) -> brain::Result<Result<Plan, Failure>> {
    let notes = working_memory::present(tx, &turn.task_id, Timestamp::now())?;
    let plan = notes.iter().find(|n| n.key == plan::KEY).and_then(|n| Plan::of_value(&n.value));
    let none = || Failure::new(ToolReason::NotFound, "this task has no plan; make one with a goal");
    Ok(plan.ok_or_else(none))
}

/// Writes the plan as a note and tells of it; the plan as the model gets it.
fn store(
    tx: &Tx<'_>,
    out: &mut Emitted,
    turn: &Turn,
    nested: Option<&Nested>,
    plan: &Plan,
    life: i64,
) -> brain::Result<serde_json::Value> {
    let value = plan.to_value();
    let expires_at = Timestamp::now().plus_millis(life);
    let entry = Entry { key: plan::KEY.to_owned(), value: Some(value.clone()), expires_at };
    memory::commit(tx, out, turn, nested, entry)?;
    Ok(value)
}
