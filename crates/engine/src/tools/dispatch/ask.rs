//! Asking a person, and what their answer means for the call that asked.
//!
//! The invariant: a round of a call asks once, whatever happens in between; its question's row is keyed by both.

use super::decide::{FIRST_ROUND, Refusal};
use super::outcome::End;
use super::{Attempt, MAX_PENDING, One, hooked};
use crate::core::Emitted;
use crate::permissions;
use crate::tools::tool::{Failure, Output};
use crate::turn::frame::{asker, named_in};
use brain::Tx;
use brain::effects::EffectState;
use brain::prompts::{self, Prompt, PromptState};
use contract::event::{Event, HitlKind};
use contract::{HitlId, Timestamp, ToolReason};
use serde_json::{Value, json};
use std::time::Duration;

/// A question on its way to a person.
struct Asking {
    kind: HitlKind,
    round: u32,
    question: String,
    options: Vec<String>,
    details: Value,
}

impl One<'_> {
    /// Asks a person whether the call may run.
    pub(super) async fn ask_permission(
        &self,
        question: permissions::Prompt,
        round: u32,
    ) -> brain::Result<Attempt> {
        let details = json!({
            "tool": self.call.tool,
            "input": self.call.input,
            "reason": question.reason,
            "rule": question.rule,
            "scope": question.scope,
            "touches": question.touches,
            "diff": question.diff,
        });
        let permissions::Prompt { question, options, .. } = question;
        self.ask(Asking { kind: HitlKind::Permission, round, question, options, details }).await
    }

    /// Asks once per round, whatever happens in between.
    async fn ask(&self, asking: Asking) -> brain::Result<Attempt> {
        let Asking { kind, round, question, options, details } = asking;
        let now = Timestamp::now();
        let details = named_in(hooked::kept_in(details, self.passed.as_ref()), self.nested().as_ref());
        let prompt = Prompt {
            request_id: HitlId::generate(),
            task_id: self.turn.task_id.clone(),
            turn_id: self.turn.turn_id.clone(),
            call_id: self.call.id.clone(),
            round,
            kind,
            question,
            options,
            details,
            state: PromptState::Pending,
            answer: None,
            feedback: None,
            content_blocks: Vec::new(),
            created_at: now,
            expires_at: self.core.hitl_expiry(now),
        };
        let asked = self.core.record("ask a person", move |tx, out| commit(tx, out, prompt)).await?;
        if asked {
            crate::turn::answers::refresh_expiry(self.core).await;
            return Ok(self.waits());
        }
        let text = format!("{MAX_PENDING} questions of this turn wait already");
        self.refuse(Refusal::new(ToolReason::TooLarge, text)).await
    }

    /// The tool that is nothing but a question.
    pub(super) async fn ask_user(&self, prompt: Option<Prompt>) -> brain::Result<Attempt> {
        let Some(prompt) = prompt else {
            let question = self.call.input["question"].as_str().unwrap_or_default().to_owned();
            let options = self.call.input["options"]
                .as_array()
                .map(|a| a.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect())
                .unwrap_or_default();
            let kind = HitlKind::Question;
            let asking = Asking { kind, round: FIRST_ROUND, question, options, details: json!({}) };
            return self.ask(asking).await;
        };
        let (state, outcome) = match prompt.state {
            PromptState::Pending => return Ok(self.waits()),
            PromptState::Answered => {
                let value = json!({"answer": prompt.answer, "feedback": prompt.feedback});
                (EffectState::Done, Ok(Output::json(value)))
            }
            PromptState::Expired => {
                (EffectState::Failed, Err(Failure::new(ToolReason::Expired, "nobody answered in time")))
            }
            PromptState::Cancelled => (EffectState::Cancelled, Err(Failure::cancelled())),
        };
        self.intend(None, None).await?;
        self.settle(End { state, outcome, took: Duration::ZERO, extra: prompt.content_blocks }).await?;
        Ok(Attempt::Settled)
    }
}

/// Stores a question and tells of it; asking again changes nothing. False when too many wait.
fn commit(tx: &Tx<'_>, out: &mut Emitted, prompt: Prompt) -> brain::Result<bool> {
    let asked = prompts::of_turn(tx, &prompt.turn_id)?;
    if asked.iter().filter(|p| p.state == PromptState::Pending).count() >= MAX_PENDING {
        return Ok(false);
    }
    if prompts::ask(tx, &prompt)? {
        let asker = asker(&prompt);
        let permission = prompt.kind == HitlKind::Permission;
        let text = |key: &str| prompt.details[key].as_str().map(str::to_owned);
        let event = Event::HitlRequest {
            request_id: prompt.request_id,
            kind: prompt.kind,
            question: prompt.question,
            options: prompt.options,
            created_at: prompt.created_at,
            expires_at: prompt.expires_at,
            tool_call_id: prompt.call_id,
            tool: text("tool"),
            input: permission.then(|| prompt.details["input"].clone()),
            reason: text("reason"),
            rule: text("rule"),
        };
        out.emit(tx, &prompt.task_id, &prompt.turn_id, &event, asker.as_ref())?;
    }
    Ok(true)
}
