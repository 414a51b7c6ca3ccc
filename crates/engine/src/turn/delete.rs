//! Deleting a task: its history, and what was learned from it alone if that is asked for.
//!
//! It goes piece by piece, so that a long history does not hold up other turns' commits. The first piece leaves a
//! mark: from then on the task takes no message, and a deletion that a kill has cut short is completed by the next
//! start. What is half gone is never shown as something that goes on.

use crate::core::Core;
use crate::memory::{Touched, node_text};
use crate::turn::accept::storage;
use crate::turn::cancel;
use brain::Tx;
use brain::memory::erase::{self, Erased};
use brain::tasks::{self, Deleted};
use brain::turns;
use contract::{ApiError, ErrorCode, TaskId};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// How long a deletion waits for a turn in flight to stop. A cancel takes at most one second.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// What becomes of memories that rest only on a deleted task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learned {
    /// They are kept.
    Stays,
    /// They are erased as well.
    Goes,
}

/// What one transaction of a deletion has done.
enum Step {
    /// A turn of the task is under way.
    Busy,
    /// Memories are gone; there may be more, and the history is still there to tell which.
    Forgot(Erased),
    /// A piece of the history is gone.
    Removed(tasks::Piece),
}

fn step(tx: &Tx<'_>, task: &TaskId, learned: Learned) -> brain::Result<Step> {
    if turns::open_of(tx, task)?.is_some() {
        return Ok(Step::Busy);
    }
    tasks::begin_deletion(tx, task, learned == Learned::Goes)?;
    if learned == Learned::Goes {
        // asked before every piece: something may have been learned from the task a moment ago
        let forgot = erase::of_task(tx, task, &node_text)?;
        if !forgot.done {
            return Ok(Step::Forgot(forgot.erased));
        }
    }
    tasks::delete_piece(tx, task).map(Step::Removed)
}

/// Deletes a task; a turn in flight is cancelled first. How many rows went, and how many memories.
pub async fn task(core: Arc<Core>, task: TaskId, learned: Learned) -> Result<(Deleted, usize), ApiError> {
    stop_turn(&core, &task).await?;
    let busy = || {
        ApiError::new(ErrorCode::TaskBusy, "a turn of this task is still under way; try again")
            .with(json!({"task_id": task}))
    };
    let (mut deleted, mut memories) = (Deleted::default(), 0);
    // piece by piece, so that a long history does not hold up other turns' commits
    loop {
        let owned = task.clone();
        let feed = Arc::clone(&core.feed);
        let forgotten = task.clone();
        let done = core
            .brain
            .write_then(
                "delete task",
                move |tx| step(tx, &owned, learned),
                move |step| match step {
                    Step::Removed(_) => feed.forget(forgotten.as_str()),
                    Step::Busy | Step::Forgot(_) => {}
                },
            )
            .await
            .map_err(|e| storage(&e))?;
        match done {
            Step::Busy => return Err(busy()),
            Step::Forgot(erased) => {
                memories += erased.gone.len();
                core.memory.changed(Touched::erased(&erased));
            }
            Step::Removed(piece) => {
                deleted.messages += piece.deleted.messages;
                deleted.events += piece.deleted.events;
                if piece.done {
                    break;
                }
            }
        }
    }
    crate::turn::answers::refresh_expiry(&core).await;
    Ok((deleted, memories))
}

/// Completes the deletions that an earlier process has begun.
pub async fn finish(core: Arc<Core>) {
    let left = match core.brain.read("begun deletions", tasks::deletions).await {
        Ok(left) => left,
        Err(error) => {
            tracing::error!(code = "INTERNAL", error = %error, "Begun deletions could not be found");
            return;
        }
    };
    for (id, memories) in left {
        let learned = if memories { Learned::Goes } else { Learned::Stays };
        match task(Arc::clone(&core), id.clone(), learned).await {
            Ok(_) => tracing::info!(task_id = %id, "A deletion was completed after a restart"),
            Err(error) => {
                tracing::error!(task_id = %id, code = %error.error, "A deletion could not be completed")
            }
        }
    }
}

async fn stop_turn(core: &Arc<Core>, task: &TaskId) -> Result<(), ApiError> {
    let mut live = core.feed.subscribe(Some(task.as_str()));
    let Some(turn) = cancel::request(core, task.clone(), None).await.map_err(|e| storage(&e))? else {
        return Ok(());
    };
    let stopped = async {
        loop {
            live.mark_seen();
            let id = turn.turn_id.clone();
            let over =
                core.brain
                    .read("is turn over", move |tx| {
                        Ok(turns::get(tx, &id)?.is_none_or(|t| t.state.is_terminal()))
                    })
                    .await
                    .map_err(|e| storage(&e))?;
            if over {
                return Ok(());
            }
            live.changed().await;
        }
    };
    // a turn that does not stop in time is told as TASK_BUSY by the deletion itself
    tokio::time::timeout(STOP_WAIT, stopped).await.unwrap_or(Ok(()))
}
