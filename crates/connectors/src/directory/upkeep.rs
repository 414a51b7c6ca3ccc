//! What is done without being asked: tools are listed again when they changed or the list is old, and tokens are
//! renewed before they end.
//!
//! A loop without input: it may wake at any time, looks what is due, and sleeps until the next thing is. Only open
//! connections are listed: nobody's server is started to look whether its tools have changed.

use super::{Directory, Inner, lock};
use crate::books::Status;
use crate::credentials::Renew;
use contract::ConnectionId;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The longest a tool list is believed. Longer shows models tools that are gone.
pub(super) const LIST_EVERY: Duration = Duration::from_secs(3_600);
/// The shortest, whatever a server says. Shorter lets a server keep us busy.
pub(super) const LIST_AT_MOST_EVERY: Duration = Duration::from_secs(30);
/// Pause between two listings because a server said that its tools have changed. Shorter lets a server that says so
/// all the time keep us busy; longer shows models tools that are gone.
const CHANGED_AT_MOST_EVERY: Duration = Duration::from_secs(5);
/// Longest sleep: clocks are set, and a renewal must not be missed for that.
const SLEEP_MAX: Duration = Duration::from_secs(60);
/// Pause after a renewal that failed for another reason than a refusal.
const RENEWAL_PAUSE: Duration = Duration::from_secs(30);

pub(super) async fn run(
    inner: Weak<Inner>,
    mut inbox: mpsc::Receiver<ConnectionId>,
    stop: CancellationToken,
) {
    let mut listed = HashMap::<ConnectionId, Instant>::new();
    loop {
        let Some(directory) = inner.upgrade().map(Directory) else { return };
        let pause = directory.tend().await;
        let told = Arc::clone(&directory.0);
        drop(directory);
        let mut changed = BTreeSet::new();
        tokio::select! {
            () = stop.cancelled() => return,
            () = told.wake.notified() => {}
            () = tokio::time::sleep(pause) => {}
            one = inbox.recv() => changed.extend(one),
        }
        let directory = Directory(told);
        while let Ok(one) = inbox.try_recv() {
            changed.insert(one);
        }
        listed.retain(|_, at| at.elapsed() < CHANGED_AT_MOST_EVERY);
        for id in changed {
            if let Some(at) = listed.get(&id) {
                let (mut due, next) = (lock(&directory.0.due), *at + CHANGED_AT_MOST_EVERY);
                due.entry(id).and_modify(|at| *at = next.min(*at)).or_insert(next);
                continue;
            }
            directory.list_quietly(&id).await;
            listed.insert(id, Instant::now());
        }
    }
}

impl Directory {
    /// Does what is due; how long until the next thing comes back.
    async fn tend(&self) -> Duration {
        let mut pause = SLEEP_MAX;
        let due: Vec<(ConnectionId, Instant)> =
            lock(&self.0.due).iter().map(|(id, at)| (id.clone(), *at)).collect();
        for (id, at) in due {
            let now = Instant::now();
            if at > now {
                pause = pause.min(at - now);
                continue;
            }
            lock(&self.0.due).insert(id.clone(), now + LIST_EVERY);
            let line = lock(&self.0.lines).get(&id).cloned();
            if let Some(line) = line
                && line.is_open().await
            {
                self.list_quietly(&id).await;
            }
        }
        let now = self.0.oauth.now();
        if self.next_refresh().is_some_and(|at| at <= now) {
            pause = pause.min(self.renew_due().await);
        }
        if let Some(next) = self.next_refresh() {
            let until = u64::try_from(next.millis() - self.0.oauth.now().millis()).unwrap_or(0);
            pause = pause.min(Duration::from_millis(until).max(Duration::from_secs(1)));
        }
        pause
    }

    async fn renew_due(&self) -> Duration {
        let now = self.0.oauth.now();
        let Ok(rows) = self.0.settings.books.connections().await else { return RENEWAL_PAUSE };
        let mut pause = SLEEP_MAX;
        for row in rows.iter().filter(|row| row.status == Status::Connected) {
            let due =
                row.credential.as_ref().and_then(|sealed| sealed.refresh_at).is_some_and(|at| at <= now);
            if due && let Err(trouble) = self.0.oauth.renew(&row.ref_id, row.credential_version).await {
                tracing::info!(connection = %row.ref_id, trouble = %trouble, "A token could not be renewed ahead of time");
                pause = RENEWAL_PAUSE;
            }
        }
        if let Err(error) = self.rebuild().await {
            tracing::warn!(error = %error, "The connectors' tools could not be read");
        }
        pause
    }

    async fn list_quietly(&self, id: &ConnectionId) {
        if let Err(trouble) = self.refresh_tools(id).await {
            tracing::info!(connection = %id, trouble = %trouble, "The tools of an MCP server could not be listed");
        }
    }
}
