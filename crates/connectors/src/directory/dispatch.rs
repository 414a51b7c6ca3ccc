//! Calling a tool: the server lists first, and what it lists is compared with the pins.
//!
//! The invariant: no action is called over a line whose tools were not compared with the pins since it was opened,
//! nor one that the server describes otherwise than a person approved.

use super::{Directory, upkeep};
use crate::connection::{CallOptions, Line};
use crate::result::Answer;
use crate::tools::State;
use crate::trouble::Trouble;
use contract::ConnectionId;
use serde_json::{Map, Value};
use std::sync::Arc;

/// How often a line may be opened anew between its listing and the call. More lets a server that hangs up hold a
/// turn; with one a server that was stopped for being idle at that moment costs a call.
const OPENINGS_MAX: usize = 3;

impl Directory {
    /// Calls a tool. `options.definition` is the hash of the definition that the caller knows and a person approved.
    pub async fn call(
        &self,
        id: &ConnectionId,
        action: &str,
        input: Map<String, Value>,
        options: &CallOptions,
    ) -> Result<Answer, Trouble> {
        let line = self.line(id).await?;
        let was_resting = line.is_resting();
        let done = self.dispatch(id, &line, action, input, options).await;
        if !was_resting && line.is_resting() {
            (self.0.settings.circuit_opened)(&line.server_name);
        }
        done
    }

    async fn dispatch(
        &self,
        id: &ConnectionId,
        line: &Arc<Line>,
        action: &str,
        input: Map<String, Value>,
        options: &CallOptions,
    ) -> Result<Answer, Trouble> {
        for _ in 0..OPENINGS_MAX {
            let opening = self.compared(id, line, options).await?;
            self.agreed(id, action, options).await?;
            match line.call(opening, action, input.clone(), options).await {
                Err(Trouble::Reopened) => {}
                done => return self.settle(id, done).await,
            }
        }
        Err(Trouble::Reopened)
    }

    /// The opening of the line whose tools were compared with the pins; lists them when that is still to do.
    async fn compared(
        &self,
        id: &ConnectionId,
        line: &Arc<Line>,
        options: &CallOptions,
    ) -> Result<u64, Trouble> {
        let (directory, id, line) = (self.clone(), id.clone(), Arc::clone(line));
        // A task of its own: a listing that is cancelled half-way would leave its breaker undecided, and others
        // wait for the same one.
        let work = tokio::spawn(async move {
            if let Some(opening) = line.compared(upkeep::LIST_EVERY).await {
                return Ok(opening);
            }
            let _one = line.listing.lock().await;
            if let Some(opening) = line.compared(upkeep::LIST_EVERY).await {
                return Ok(opening);
            }
            directory.list_over(&id, &line, false).await?;
            line.compared(upkeep::LIST_EVERY).await.ok_or(Trouble::Reopened)
        });
        tokio::select! {
            biased;
            () = options.cancel.cancelled() => Err(Trouble::Cancelled),
            done = work => done.map_err(|_| Trouble::Garbage("a listing that cannot be read".into()))?,
        }
    }

    /// Refuses what nobody approved as the server describes it now.
    async fn agreed(&self, id: &ConnectionId, action: &str, options: &CallOptions) -> Result<(), Trouble> {
        let actions = self.0.settings.books.actions(id).await?;
        let found = actions.iter().find(|one| one.definition.action == action).ok_or(Trouble::Gone)?;
        match found.state {
            State::Gone => Err(Trouble::Gone),
            State::New | State::Changed => Err(Trouble::Changed),
            State::Pinned => match &options.definition {
                Some(known) if *known != found.definition.hash() => Err(Trouble::Changed),
                Some(_) | None => Ok(()),
            },
        }
    }
}
