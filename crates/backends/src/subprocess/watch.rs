//! Watching processes end, and telling whoever listens.
//!
//! One small task per live process sleeps on its pidfd, so an end is noticed at once and costs nothing before. The
//! one invariant: nothing is decided by an event; it is a hint to look.

use super::process::ProcessId;
use crate::{BackendEvent, BackendEventKind};
use contract::EngineId;
use futures::stream::{self, BoxStream, StreamExt};
use rustix::fd::OwnedFd;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::broadcast;
use tokio::task::AbortHandle;

/// Events a slow subscriber may lag behind before it hears `Gap` instead. Larger costs memory; smaller makes the
/// start of a few hundred engines end in relists.
const LAG_MAX: usize = 1024;

#[derive(Debug)]
pub(super) struct Watchers {
    events: broadcast::Sender<BackendEvent>,
    tasks: Mutex<HashMap<EngineId, (ProcessId, AbortHandle)>>,
}

impl Drop for Watchers {
    fn drop(&mut self) {
        let tasks = self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner);
        tasks.values().for_each(|(_, task)| task.abort());
    }
}

impl Watchers {
    pub(super) fn new() -> Self {
        Self { events: broadcast::channel(LAG_MAX).0, tasks: Mutex::new(HashMap::new()) }
    }

    pub(super) fn tell(&self, id: EngineId, kind: BackendEventKind) {
        // no subscriber is no failure
        let _ = self.events.send(BackendEvent { engine: Some(id), kind });
    }

    /// Is somebody watching this process already?
    pub(super) fn knows(&self, id: EngineId, process: &ProcessId) -> bool {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.get(&id).is_some_and(|(known, task)| known == process && !task.is_finished())
    }

    /// Watches a process on this runtime; `ended` runs once, after its end.
    pub(super) fn watch(
        &self,
        id: EngineId,
        process: ProcessId,
        fd: OwnedFd,
        runtime: &tokio::runtime::Handle,
        ended: impl FnOnce() + Send + 'static,
    ) {
        let task = runtime.spawn(async move {
            if wait_for_end(fd).await.is_ok() {
                let _ = tokio::task::spawn_blocking(ended).await;
            }
        });
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, before)) = tasks.insert(id, (process, task.abort_handle())) {
            // its end, if still to come, was confirmed by whoever started the successor
            before.abort();
        }
        tasks.retain(|_, (_, task)| !task.is_finished());
    }

    /// Hints from now on, a `Gap` first.
    pub(super) fn subscribe(&self) -> BoxStream<'static, BackendEvent> {
        const GAP: BackendEvent = BackendEvent { engine: None, kind: BackendEventKind::Gap };
        let rest = stream::unfold(self.events.subscribe(), |mut events| async move {
            match events.recv().await {
                Ok(event) => Some((event, events)),
                Err(broadcast::error::RecvError::Lagged(_)) => Some((GAP, events)),
                Err(broadcast::error::RecvError::Closed) => None,
            }
        });
        stream::once(std::future::ready(GAP)).chain(rest).boxed()
    }
}

/// Ends when the process behind the pidfd has.
pub(super) async fn wait_for_end(fd: OwnedFd) -> std::io::Result<()> {
    // SAFETY: the descriptor is owned by the `AsyncFd` and stays open until that is dropped.
    let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
    let _ready = fd.readable().await?;
    Ok(())
}
