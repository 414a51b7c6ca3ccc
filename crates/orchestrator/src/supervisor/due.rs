//! What has a time: restarts of failed engines, wakes for planned work.

use super::{Supervisor, look};
use crate::telemetry;
use contract::EngineId;
use fleet::lifecycle::Status;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often memory is scanned for what is due. Longer delays restarts by as much; shorter is work for nothing.
const TICK: Duration = Duration::from_millis(200);

/// The loop.
pub(super) async fn run(supervisor: Arc<Supervisor>) {
    while !supervisor.over.is_cancelled() {
        let began = Instant::now();
        for id in due(&supervisor) {
            let inner = Arc::clone(&supervisor);
            supervisor.spawn(async move {
                let Ok(_place) = Arc::clone(&inner.looks).acquire_owned().await else { return };
                match look::read(&inner, id).await {
                    Ok(Some(found)) if found.operation.is_none() => {
                        let is_due = |at: Option<contract::Timestamp>| at.is_some_and(|at| at <= found.now);
                        match found.engine.status {
                            Status::Failed if is_due(found.engine.next_restart_at) => {
                                look::open_restart(&inner, &found).await
                            }
                            Status::Sleeping if is_due(found.engine.wake_at) => {
                                look::open_wake(&inner, &found).await
                            }
                            _ => {}
                        }
                    }
                    Ok(_) => {}
                    Err(error) => telemetry::loop_failed("restart", &error),
                }
            });
        }
        telemetry::loop_ran("restart", began.elapsed());
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = supervisor.over.cancelled() => return,
        }
    }
}

/// The engines whose time has come by the database's clock. Each is looked at once: the row is marked as having an
/// operation when that is open, and the next notice reads it again.
fn due(supervisor: &Supervisor) -> Vec<EngineId> {
    if !supervisor.core.pulse.backend_ok() {
        return Vec::new();
    }
    let now = supervisor.core.clock.now();
    let mut due = Vec::new();
    for (id, entry) in supervisor.view.lock().iter_mut() {
        let engine = &mut entry.found.engine;
        let slot = match engine.status {
            Status::Failed => &mut engine.next_restart_at,
            Status::Sleeping => &mut engine.wake_at,
            _ => continue,
        };
        if entry.found.operation.is_none() && slot.is_some_and(|at| at <= now) {
            // Not again before the row was read again.
            *slot = None;
            due.push(*id);
        }
    }
    due
}
