//! The end of a turn as the operator's stop hooks see it: they read the answer, and may send the model back
//! to work.
//!
//! The invariant: an answer that a hook refuses is stored with what the hook said before the next call is made.

use super::Run;
use crate::catalog::hooks::{Hook, HookEvent};
use crate::turn::frame::Seat;
use crate::turn::hooks::Runner;
use crate::turn::machine::Happening;
use crate::turn::message::{commit_pending, commit_usage, counted, store_assistant, store_note};
use crate::turn::model::Complete;
use brain::turns;
use contract::conversation::Block;
use serde_json::json;

impl Run<'_> {
    /// The stop hooks of the turn's agent.
    pub(super) fn stop_hooks(&self) -> Vec<Hook> {
        if !self.seat.core.config.stop_hooks_enabled {
            return Vec::new();
        }
        self.seat.toolbox.catalog.hooks(HookEvent::Stop, &self.seat.turn.agent)
    }

    /// Shows what has been said so far: a hook may take its time.
    pub(super) async fn flush(&self, complete: &mut Complete) -> brain::Result<()> {
        let events = std::mem::take(&mut complete.pending);
        let turn = self.seat.turn.clone();
        self.seat
            .core
            .record("stream deltas", move |tx, out| {
                for event in &events {
                    out.emit(tx, &turn.task_id, &turn.turn_id, event, None)?;
                }
                Ok(())
            })
            .await
    }

    /// What a stop hook wants done before the turn may end.
    pub(super) async fn ask_stop_hooks(&self, hooks: &[Hook], text: &str) -> Option<String> {
        let Seat { core, turn, control, .. } = self.seat;
        let scratch = core.make_scratch(turn);
        let workspace = match scratch.and_then(|dir| core.workspace.for_task(&dir)) {
            Ok(workspace) => workspace,
            Err(error) => {
                tracing::warn!(error = %error, "A stop hook failed: the task's private directory cannot be made");
                return None;
            }
        };
        let groups = core.groups_of(turn);
        let runner = Runner {
            launcher: &core.launcher,
            workspace: &workspace,
            groups: &groups,
            readable: core.config.catalog_dir.iter().cloned().collect(),
            cancel: &control.cancel,
            known: &core.known,
        };
        let subject = json!({
            "task_id": turn.task_id,
            "turn_id": turn.turn_id,
            "agent": turn.agent,
            "text": text,
        });
        tokio::select! {
            biased;
            () = core.halt.cancelled() => None,
            message = runner.at_stop(hooks, &subject) => message,
        }
    }

    /// A stop hook refuses the answer: it stays in the conversation, with what the hook said behind it.
    pub(super) async fn back_to_work(
        &mut self,
        complete: Complete,
        content: Vec<Block>,
        message: String,
    ) -> brain::Result<()> {
        let (turn, frame, provider) = self.owned();
        self.advance(Happening::CallAgain, move |tx, out, checkpoint| {
            commit_pending(tx, out, &turn, &complete, false)?;
            if !content.is_empty() {
                store_assistant(tx, &turn, &frame, content)?;
            }
            let position = store_note(tx, &turn, message)?;
            turns::hear_others(tx, &turn.turn_id)?;
            commit_usage(tx, out, &turn, &frame, &complete, provider)?;
            checkpoint.carried = String::new();
            checkpoint.lost_call = false;
            checkpoint.repair = None;
            checkpoint.refusals += 1;
            checkpoint.iteration += 1;
            checkpoint.counted = counted(&complete, position - 1);
            Ok(())
        })
        .await
    }
}
