//! The end of `up`: every engine stops, by operations while the database answers, by hand when it does not.
//!
//! It never forgets an engine because the database is away: processes are found by the instance they belong to, which
//! is written down in the directory as soon as it is known.
//!
//! The invariant: when [`by_hand`] answers 0, no engine of this fleet runs.

use super::secrets;
use crate::config::Settings;
use crate::core::Core;
use crate::places;
use crate::registry::RegistryError;
use crate::registry::change::NewOperation;
use crate::registry::rows::Found;
use backends::{BackendError, EngineBackend};
use contract::{EngineId, InstanceId};
use fleet::lifecycle::BackendKind;
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
/// Whose processes the engines of this directory are.
const INSTANCE: &str = "instance";
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
pub(super) async fn alive(backend: &dyn EngineBackend) -> Result<Vec<EngineId>, BackendError> {
    Ok(backend.list().await?.into_iter().filter(|(_, seen)| lives(seen)).map(|(id, _)| id).collect())
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
            alive(&*core.backend).await.unwrap_or_default()
        }
    };
    write_down(data_dir, &ran);
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

fn write_down(data_dir: &Path, ran: &[EngineId]) {
    let list: String = ran.iter().map(|id| format!("{id}\n")).collect();
    if let Err(error) = secrets::write_private(&data_dir.join(RAN), &list) {
        tracing::warn!(%error, "cannot write down which engines ran");
    }
}

/// Writes down whose processes the engines are, for an end that comes before the database can say so.
pub(super) fn remember(data_dir: &Path, instance: InstanceId) {
    if let Err(error) = secrets::write_private(&data_dir.join(INSTANCE), &format!("{instance}\n")) {
        tracing::warn!(%error, "cannot write down whose engines these are");
    }
}

/// Ends every process that is left: sleepers, which keep their status because a wake starts them from nothing as well,
/// and all of them when the database is away. The answer is how many still run.
pub(super) async fn by_hand(core: &Core) -> usize {
    // Not through the seal on the backend: an end may come before its identity was confirmed.
    match (core.backend.kind(), places::subprocess(&core.config, core.instance.id)) {
        (BackendKind::Subprocess, Ok(own)) => end_all(&own, core.config.engine_stop_grace_s).await,
        _ => end_all(&*core.backend, core.config.engine_stop_grace_s).await,
    }
}

/// Ends the processes that an `up` which was killed left in this directory, when this one ends before it has reached its
/// database. The answer is how many still run.
pub(super) async fn left_behind(settings: &Settings, data_dir: &Path) -> usize {
    // Without the file no replica ever came so far here, so there is no engine.
    let Ok(text) = std::fs::read_to_string(data_dir.join(INSTANCE)) else { return 0 };
    if settings.engine_backend != BackendKind::Subprocess {
        return 0;
    }
    let found = InstanceId::parse(text.trim()).map_err(|e| e.to_string());
    match found.and_then(|instance| places::subprocess(settings, instance)) {
        Ok(own) => {
            // The list of an end in order, which nobody has come to read yet, stays.
            let ran = alive(&own).await.unwrap_or_default();
            if !ran.is_empty() && !data_dir.join(RAN).exists() {
                write_down(data_dir, &ran);
            }
            end_all(&own, settings.engine_stop_grace_s).await
        }
        Err(error) => {
            tracing::error!(%error, "cannot see which engines of an earlier `up` run");
            1
        }
    }
}

async fn end_all(backend: &dyn EngineBackend, grace: Duration) -> usize {
    let left = match alive(backend).await {
        Ok(left) => left,
        Err(error) => {
            tracing::error!(%error, "cannot see which engines run");
            return 1;
        }
    };
    let stops = futures::stream::iter(left).map(|id| async move {
        match backend.stop(id, grace).await {
            Ok(_) => 0,
            Err(error) => {
                tracing::error!(engine_id = %id, %error, "cannot stop an engine's process");
                1
            }
        }
    });
    stops.buffer_unordered(AT_ONCE).fold(0, async |sum, failed: usize| sum + failed).await
}
