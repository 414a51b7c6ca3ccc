//! What a running Engine is made of, once its brain is open.
//!
//! One [`Core`] per process, shared by every handler and turn. It owns no logic of its own beyond
//! [`Core::record`]: the one way to change the brain and tell the streams about it.

use crate::catalog::Shelf;
use crate::config::Config;
use crate::feed::Feed;
use crate::learning::Learning;
use crate::memory::Memory;
use crate::sandbox::proxy::Proxy;
use crate::sandbox::{Launcher, ProcessGroups, Workspace};
use crate::secrets::{Kind, Known, leaving};
use crate::turn::coordinator::Coordinator;
use brain::events::StoredEvent;
use brain::observability::{self, Observation};
use brain::turns::Turn;
use brain::{Brain, Tx};
use connectors::Directory;
use contract::event::{Event, Nested};
use contract::{ApiError, ErrorCode, TaskId, Timestamp, TurnId};
use llm::Herald;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// Everything a handler or a turn may use.
pub struct Core {
    /// Every variable.
    pub config: Config,
    /// The brain.
    pub brain: Brain,
    /// What is kept across tasks.
    pub memory: Arc<Memory>,
    /// What finished turns teach.
    pub learning: Arc<Learning>,
    /// Who waits for which events.
    pub feed: Arc<Feed>,
    /// Model calls with retries and fallback.
    pub herald: Herald,
    /// Agents, tools, skills, servers, hooks.
    pub catalog: Arc<Shelf>,
    /// Connectors; set once, when they are open.
    pub connectors: OnceLock<Directory>,
    /// The secrets that must not leave.
    pub known: Arc<Known>,
    /// The way out for sandboxed commands, when hosts are named and the kernel can keep commands to it.
    pub proxy: Option<Arc<Proxy>>,
    /// The one way to start a process.
    pub launcher: Arc<Launcher>,
    /// What tools may see.
    pub workspace: Arc<Workspace>,
    /// Slots and the queue.
    pub coordinator: Arc<Coordinator>,
    /// The process groups of running turns.
    pub groups: Mutex<HashMap<TurnId, Arc<ProcessGroups>>>,
    /// Where tasks' private directories are.
    pub scratch: PathBuf,
    /// What /health tells.
    pub pulse: Arc<Pulse>,
    /// Cancelled when running turns must stop at the next safe point (end of the drain time).
    pub halt: CancellationToken,
}

/// Facts for /health that must be had without waiting for anything.
#[derive(Debug, Default)]
pub struct Pulse {
    provider_down: AtomicBool,
    last_activity: AtomicI64,
    open_streams: AtomicU64,
    next_hitl_expiry: AtomicI64,
    next_backup: AtomicI64,
    next_learning: AtomicI64,
}

impl Pulse {
    /// The last model call ended well or in a way that is not the provider's trouble (false), or badly (true).
    pub fn provider(&self, down: bool) {
        self.provider_down.store(down, Ordering::Relaxed);
    }

    /// Whether the last model call ended badly.
    pub fn provider_is_down(&self) -> bool {
        self.provider_down.load(Ordering::Relaxed)
    }

    /// Something a person or a product did, or a turn's end.
    pub fn activity(&self) {
        self.last_activity.store(Timestamp::now().millis(), Ordering::Relaxed);
    }

    /// When that was last.
    pub fn last_activity(&self) -> Option<Timestamp> {
        some_time(self.last_activity.load(Ordering::Relaxed))
    }

    /// Open event streams.
    pub fn open_streams(&self) -> &AtomicU64 {
        &self.open_streams
    }

    /// When the next pending question expires.
    pub fn set_next_hitl_expiry(&self, at: Option<Timestamp>) {
        self.next_hitl_expiry.store(at.map_or(0, Timestamp::millis), Ordering::Relaxed);
    }

    /// When that is.
    pub fn next_hitl_expiry(&self) -> Option<Timestamp> {
        some_time(self.next_hitl_expiry.load(Ordering::Relaxed))
    }

    /// When the next scheduled backup is due.
    pub fn set_next_backup(&self, at: Option<Timestamp>) {
        self.next_backup.store(at.map_or(0, Timestamp::millis), Ordering::Relaxed);
    }

    /// When the next learning batch is due; none while there is nothing to learn from.
    pub fn set_next_learning(&self, at: Option<Timestamp>) {
        self.next_learning.store(at.map_or(0, Timestamp::millis), Ordering::Relaxed);
    }

    /// The earliest thing the Engine must be awake for.
    pub fn next_scheduled(&self) -> Option<Timestamp> {
        [&self.next_hitl_expiry, &self.next_backup, &self.next_learning]
            .into_iter()
            .filter_map(|a| some_time(a.load(Ordering::Relaxed)))
            .min()
    }
}

fn some_time(millis: i64) -> Option<Timestamp> {
    (millis != 0).then(|| Timestamp::from_millis(millis))
}

/// Collects the events of one transaction.
#[derive(Debug, Default)]
pub struct Emitted {
    known: Arc<Known>,
    events: Vec<StoredEvent>,
    ended: Option<TurnId>,
    scrubbed: BTreeSet<Kind>,
}

impl Emitted {
    /// Nothing yet; events lose what this set knows.
    pub fn new(known: Arc<Known>) -> Self {
        Self { known, ..Self::default() }
    }

    /// The secrets that must not leave, for what is stored beside the events.
    pub fn known(&self) -> &Known {
        &self.known
    }

    /// Secrets that were taken out before they came here.
    pub fn scrubbed(&mut self, kinds: impl IntoIterator<Item = Kind>) {
        self.scrubbed.extend(kinds);
    }

    /// Notes, once per transaction, that secrets were taken out: which kinds, never what.
    fn note_scrubbed(&self, tx: &Tx<'_>) -> brain::Result<()> {
        if self.scrubbed.is_empty() {
            return Ok(());
        }
        let of = self.events.last();
        let kinds: Vec<&str> = self.scrubbed.iter().map(|k| k.as_str()).collect();
        observability::note(
            tx,
            &Observation {
                kind: "secret_scrubbed",
                code: None,
                task_id: of.and_then(|e| TaskId::parse(&e.task_id).ok()),
                turn_id: of.and_then(|e| TurnId::parse(&e.turn_id).ok()),
                message: "secrets were taken out of what leaves".into(),
                data: Some(serde_json::json!({"kinds": kinds})),
                at: Timestamp::now(),
            },
        )
    }

    /// Notes that this transaction ends a turn: its slot is free before anyone can read the final event.
    pub fn ends(&mut self, turn: &TurnId) {
        self.ended = Some(turn.clone());
    }

    /// Appends an event to the log, without secrets, inside the transaction, and returns its `seq`.
    pub fn emit(
        &mut self,
        tx: &Tx<'_>,
        task: &TaskId,
        turn: &TurnId,
        event: &Event,
        nested: Option<&Nested>,
    ) -> brain::Result<i64> {
        let (event, found) = leaving::event(&self.known, event);
        self.scrubbed.extend(found);
        let stored = brain::events::append(tx, task, turn, &event, nested, Timestamp::now())?;
        let seq = stored.seq;
        self.events.push(stored);
        Ok(seq)
    }
}

impl Core {
    /// Changes the brain in one transaction and, once it is committed, makes its events known to the
    /// streams in commit order.
    pub async fn record<T: Send + 'static>(
        &self,
        name: &'static str,
        change: impl FnOnce(&Tx<'_>, &mut Emitted) -> brain::Result<T> + Send + 'static,
    ) -> brain::Result<T> {
        let (feed, coordinator) = (Arc::clone(&self.feed), Arc::clone(&self.coordinator));
        let (catalog, known) = (Arc::clone(&self.catalog), Arc::clone(&self.known));
        let learning = Arc::clone(&self.learning);
        let started = Instant::now();
        let (value, _) = self
            .brain
            .write_then(
                name,
                move |tx| {
                    let mut emitted = Emitted::new(known);
                    let value = change(tx, &mut emitted)?;
                    emitted.note_scrubbed(tx)?;
                    Ok((value, emitted))
                },
                move |(_, emitted)| {
                    if let Some(turn) = &emitted.ended {
                        coordinator.release(turn);
                        catalog.unpin(turn);
                        learning.stirred();
                    }
                    if !emitted.events.is_empty() {
                        metrics::counter!("engine_events_total").increment(emitted.events.len() as u64);
                        feed.publish(&emitted.events);
                    }
                },
            )
            .await?;
        metrics::histogram!("engine_brain_commit_seconds").record(started.elapsed().as_secs_f64());
        Ok(value)
    }

    /// The connectors, or that they are not open yet.
    pub fn connectors(&self) -> Result<&Directory, ApiError> {
        let starting = || ApiError::new(ErrorCode::Starting, "the connectors are not open yet");
        self.connectors.get().ok_or_else(starting)
    }

    /// Starts as many waiting turns as there are free slots.
    pub fn pump(self: &Arc<Self>) {
        while let Some((turn, control)) = self.coordinator.next() {
            let core = Arc::clone(self);
            tokio::spawn(crate::turn::drive::run(core, turn, control));
        }
    }

    /// Makes the private directory of a turn's task, for this user only.
    pub fn make_scratch(&self, turn: &Turn) -> std::io::Result<PathBuf> {
        let dir = self.scratch_of(turn);
        crate::sandbox::scratch::make(&dir)?;
        Ok(dir)
    }

    /// The private directory of a turn's task.
    pub fn scratch_of(&self, turn: &Turn) -> PathBuf {
        let name = brain::blobs::name_of(turn.task_id.as_str().as_bytes());
        self.scratch.join(&name[..32])
    }

    /// The process groups of a turn.
    pub fn groups_of(&self, turn: &Turn) -> Arc<ProcessGroups> {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let made = || Arc::new(ProcessGroups::new(self.scratch_of(turn)));
        Arc::clone(groups.entry(turn.turn_id.clone()).or_insert_with(made))
    }

    /// The private directories of tasks that have a turn under way.
    pub fn scratch_in_use(&self) -> HashSet<PathBuf> {
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.values().map(|g| g.scratch().to_owned()).collect()
    }

    /// Ends whatever a turn has left running. Nobody's call returns before it is dead, so that the turn's end
    /// is not written, and the task's next turn not begun, while its processes are still being killed.
    pub async fn end_of_turn(&self, turn: &TurnId) {
        let left = self.groups.lock().unwrap_or_else(PoisonError::into_inner).get(turn).cloned();
        if let Some(groups) = left {
            groups.kill_all().await;
            self.groups.lock().unwrap_or_else(PoisonError::into_inner).remove(turn);
        }
    }

    /// How long a turn's events stay after its last one.
    pub fn expiry(&self, now: Timestamp) -> Timestamp {
        now.plus_millis(millis(self.config.channel_state_ttl_active))
    }

    /// How long a question waits.
    pub fn hitl_expiry(&self, now: Timestamp) -> Timestamp {
        now.plus_millis(millis(self.config.channel_state_ttl_hitl))
    }
}

/// Runs work to its end even if its caller goes away: what follows a commit must not be lost because a
/// client has hung up.
pub async fn to_the_end<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    match tokio::spawn(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // only the end of the runtime cancels it, and then nobody waits here
            Err(_) => std::future::pending().await,
        },
    }
}

/// A duration in whole milliseconds, saturating.
pub fn millis(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_of_the_scheduled_things_counts() {
        let pulse = Pulse::default();
        assert_eq!(pulse.next_scheduled(), None);
        pulse.set_next_backup(Some(Timestamp::from_millis(50)));
        pulse.set_next_hitl_expiry(Some(Timestamp::from_millis(20)));
        assert_eq!(pulse.next_scheduled(), Some(Timestamp::from_millis(20)));
        pulse.set_next_hitl_expiry(None);
        assert_eq!(pulse.next_scheduled(), Some(Timestamp::from_millis(50)));
    }
}
