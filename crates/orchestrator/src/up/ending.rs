//! The end of `up`: every engine stops, by operations while the database answers, by hand when it does not.
//!
//! It never forgets an engine because the database is away: the backend knows its processes by itself.
//!
//! The invariant: when [`by_hand`] answers 0, no engine of this fleet runs.

use super::secrets;
use crate::core::Core;
use crate::registry::RegistryError;
use crate::registry::change::NewOperation;
use crate::registry::rows::Found;
use backends::BackendError;
use contract::EngineId;
use fleet::lifecycle::Status;
use fleet::observation::{ObjectState, Observation};
use fleet::operation::OperationKind;
use futures::StreamExt as _;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Engines that ran when `up` ended, one id per line.
pub(super) const RAN: &str = "running-engines";
/// Between two looks at whether engines have stopped.
const LOOK: Duration = Duration::from_millis(10);
/// On top of the engines' own grace, for the operations around it. Shorter ends by hand what was about to end in order.
const BOOK_KEEPING: Duration = Duration::from_secs(10);
/// Processes stopped at once by hand. More compete for the disk while they write their last words.
const AT_ONCE: usize = 16;

/// Every engine of this deployment.
pub(super) async fn all(core: &Core) -> Result<Vec<Found>, RegistryError> {
    let mut engines = Vec::new();
    core.registry.snapshot(core.backend.kind(), |found, _| engines.push(found)).await?;
    Ok(engines)
}

/// Opens an operation; false when it was refused.
pub(super) async fn open(core: &Arc<Core>, found: &Found, kind: OperationKind) -> bool {
    let opening = core.opening(found, kind, false, json!({}), "system", None);
    let NewOperation { id, .. } = opening.operation;
    match core.begin(opening).await {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(engine_id = %found.engine.id, operation_id = %id, code = %error.code, "{}", error.message);
            false
        }
    }
}

fn lives(seen: &Observation) -> bool {
    seen.object().is_some_and(|o| {
        matches!(o.state, ObjectState::Running { .. } | ObjectState::Paused | ObjectState::Restarting { .. })
    })
}

/// Engines that have a process.
async fn alive(core: &Core) -> Result<Vec<EngineId>, BackendError> {
    Ok(core.backend.list().await?.into_iter().filter(|(_, seen)| lives(seen)).map(|(id, _)| id).collect())
}

/// Writes down which engines run, and stops them by operations, as far as the database answers.
pub(super) async fn by_the_book(core: &Arc<Core>, data_dir: &Path) {
    let engines = all(core).await;
    let ran: Vec<EngineId> = match &engines {
        Ok(engines) => {
            engines.iter().filter(|f| f.engine.status == Status::Running).map(|f| f.engine.id).collect()
        }
        Err(error) => {
            tracing::warn!(%error, "the database is away; stopping the processes there are");
            alive(core).await.unwrap_or_default()
        }
    };
    let list: String = ran.iter().map(|id| format!("{id}\n")).collect();
    if let Err(error) = secrets::write_private(&data_dir.join(RAN), &list) {
        tracing::warn!(%error, "cannot write down which engines ran");
    }
    let mut stopping: Vec<EngineId> = Vec::new();
    for found in engines.unwrap_or_default().iter().filter(|f| ran.contains(&f.engine.id)) {
        if found.operation.is_none() && open(core, found, OperationKind::Stop).await {
            stopping.push(found.engine.id);
        }
    }
    let began = Instant::now();
    let limit = core.config.engine_stop_grace_s + BOOK_KEEPING;
    while !stopping.is_empty() && began.elapsed() < limit {
        let Ok(engines) = all(core).await else { return };
        stopping
            .retain(|id| engines.iter().any(|f| f.engine.id == *id && f.engine.status != Status::Stopped));
        tokio::time::sleep(LOOK).await;
    }
}

/// Ends every process that is left: sleepers, which keep their status because a wake starts them from nothing as well,
/// and all of them when the database is away. The answer is how many still run.
pub(super) async fn by_hand(core: &Core) -> usize {
    let left = match alive(core).await {
        Ok(left) => left,
        Err(error) => {
            tracing::error!(%error, "cannot see which engines run");
            return 1;
        }
    };
    let grace = core.config.engine_stop_grace_s;
    let stops = futures::stream::iter(left).map(|id| async move {
        match core.backend.stop(id, grace).await {
            Ok(_) => 0,
            Err(error) => {
                tracing::error!(engine_id = %id, %error, "cannot stop an engine's process");
                1
            }
        }
    });
    stops.buffer_unordered(AT_ONCE).fold(0, async |sum, failed: usize| sum + failed).await
}
