//! Cancelling: the wish is committed first, then the turn is stopped wherever it is.

use crate::core::{Core, to_the_end};
use crate::turn::coordinator::Whereabouts;
use crate::turn::settle;
use brain::turns::{self, Turn, TurnState};
use contract::{TaskId, Timestamp};
use std::sync::Arc;

/// Commits a cancel of the task's open turn and tells it to stop; returns before it has stopped. `None` when
/// nothing is in flight, or `only` names another turn.
pub async fn request(core: &Arc<Core>, task: TaskId, only: Option<String>) -> brain::Result<Option<Turn>> {
    let core = Arc::clone(core);
    to_the_end(async move {
        let turn = core
            .record("cancel", move |tx, _| {
                let Some(open) = turns::open_of(tx, &task)? else { return Ok(None) };
                if only.is_some_and(|o| o != open.turn_id.as_str()) {
                    return Ok(None);
                }
                turns::set_state(
                    tx,
                    &open.turn_id,
                    &TurnState::OPEN,
                    TurnState::Cancelling,
                    Timestamp::now(),
                )?;
                Ok(Some(open))
            })
            .await?;
        let Some(turn) = turn else { return Ok(None) };
        core.pulse.activity();
        match core.coordinator.stop(&turn.turn_id) {
            Whereabouts::Running => {}
            Whereabouts::TakenFromQueue | Whereabouts::Elsewhere => {
                tokio::spawn(end(Arc::clone(&core), turn.clone()));
            }
        }
        Ok(Some(turn))
    })
    .await
}

/// Ends a turn that no driver owns.
async fn end(core: Arc<Core>, turn: Turn) {
    if let Err(error) = settle::cancelled(&core, &turn, None).await {
        tracing::error!(code = "INTERNAL", error = %error, "A cancel could not be written");
    }
    crate::turn::answers::refresh_expiry(&core).await;
    core.pump();
}
