//! Running a call that may run: its intent is committed, it acts, its outcome is committed.
//!
//! The invariant: nothing acts before its intent is in the journal, and what it gives back is without known secrets
//! before anybody sees it.

use super::decide::Leave;
use super::outcome::End;
use super::{Attempt, One, documents, going_out, long_term, model};
use crate::media::presend;
use crate::sandbox::Workspace;
use crate::tools::own;
use crate::tools::result;
use crate::tools::tool::{CallContext, Tool};
use crate::turn::nested::{self, Ran};
use brain::effects::{self, EffectState};
use brain::turns;
use contract::{Timestamp, ToolReason};
use std::sync::Arc;
use std::time::{Duration, Instant};

impl One<'_> {
    /// Does what the call is for.
    pub(super) async fn perform(
        &self,
        tool: Arc<dyn Tool>,
        workspace: Arc<Workspace>,
        leave: Leave,
    ) -> brain::Result<Attempt> {
        let Leave { grants, permission, rule } = leave;
        match tool.function() {
            own::DELEGATE => {
                let begun = Timestamp::now();
                self.intend(Some(permission), rule).await?;
                return self.delegate(begun).await;
            }
            own::PLAN => {
                self.intend(Some(permission), rule).await?;
                return self.plan().await;
            }
            _ => {}
        }
        // all loops of the turn share the permits; a call that a cancel finds still waiting has not begun
        let _permit = tokio::select! {
            biased;
            () = self.control.cancel.cancelled() => return Ok(Attempt::Stopped),
            permit = self.frame.permits.acquire() => permit,
        };
        self.intend(Some(permission), rule).await?;
        let (journal, recorded) = (self.core.brain.clone(), self.call.id.clone());
        let context = CallContext {
            task_id: self.turn.task_id.clone(),
            turn_id: self.turn.turn_id.clone(),
            call_id: self.call.id.clone(),
            workspace,
            launcher: Arc::clone(&self.core.launcher),
            proxy: self.core.proxy.clone(),
            known: Arc::clone(&self.core.known),
            grants,
            cancel: self.control.cancel.clone(),
            output_max: self.core.config.tool_output_max_bytes,
            groups: self.core.groups_of(self.turn),
            on_spawn: Arc::new(move |pgid| {
                let (journal, call) = (journal.clone(), recorded.clone());
                Box::pin(async move {
                    let noted = journal
                        .write("note process group", move |tx| effects::set_pgid(tx, &call, pgid))
                        .await;
                    if let Err(error) = noted {
                        tracing::warn!(error = %error, "A process group could not be noted");
                    }
                })
            }),
            task_tmp: self.core.scratch_of(self.turn),
            model: Arc::new(model::OfTurn::new(self.core, self.turn, self.toolbox, &self.call.id)),
            memory: Arc::new(long_term::OfTurn::new(self.core, self.turn)),
            documents: Arc::new(documents::OfTask::new(self.core, &self.turn.task_id)),
        };
        let started = Instant::now();
        let outcome = tool.run(context, self.call.input.clone()).await;
        let mut outcome = result::scrubbed(&self.core.known, outcome);
        let took = started.elapsed();
        if let Ok(output) = &mut outcome {
            presend::of_tool(&self.core.config, &mut output.media).await;
        }
        if going_out::taints(&*tool, &outcome) {
            let turn = self.turn.turn_id.clone();
            self.core.brain.write("taint turn", move |tx| turns::taint(tx, &turn)).await?;
        }
        let state = match &outcome {
            Ok(_) => EffectState::Done,
            Err(failure) if failure.reason == ToolReason::Cancelled => EffectState::Cancelled,
            Err(_) => EffectState::Failed,
        };
        if took > self.core.config.tool_slow_ms {
            self.note("slow_tool_call", &format!("a call took {} ms", took.as_millis())).await;
        }
        self.settle(End { state, outcome, took, extra: Vec::new() }).await?;
        Ok(Attempt::Settled)
    }

    /// Runs the loop that this call asks for, or goes on with it.
    pub(super) async fn delegate(&self, begun: Timestamp) -> brain::Result<Attempt> {
        let outcome = match nested::run(self.seat(), &self.call.id, &self.call.input).await? {
            Ran::Waiting(calls) => return Ok(Attempt::Waits(calls)),
            Ran::Stopped => return Ok(Attempt::Stopped),
            Ran::Over(outcome) => result::scrubbed(&self.core.known, outcome),
        };
        let state = if outcome.is_ok() { EffectState::Done } else { EffectState::Failed };
        let took = Duration::from_millis((Timestamp::now().millis() - begun.millis()).unsigned_abs());
        self.settle(End { state, outcome, took, extra: Vec::new() }).await?;
        Ok(Attempt::Settled)
    }
}
