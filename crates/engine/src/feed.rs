//! From the event log to streams: who waits for which events, and the newest ones in memory.
//!
//! The log in the brain is the truth; this is only a shortcut past it. Events are published by the writer
//! thread in commit order, so a ring never misses one: a reader whose cursor lies at or after the ring's
//! floor may read from memory, any other reads from the brain. Nothing here can slow a turn down.

use brain::events::StoredEvent;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Events a task keeps in memory. Larger costs memory per live task; smaller sends readers that are a
/// little behind to the brain.
const RING_EVENTS: usize = 256;
/// Bytes of event data a task keeps in memory; one huge tool result must not pin more than this.
const RING_BYTES: usize = 256 * 1024;

/// Wakes readers and remembers each live task's newest events.
#[derive(Debug)]
pub struct Feed {
    tasks: Mutex<HashMap<String, TaskFeed>>,
    all: watch::Sender<i64>,
}

#[derive(Debug)]
struct TaskFeed {
    /// Every event of the task with a greater `seq` is in `ring`; `None` until the first publication.
    floor: Option<i64>,
    ring: VecDeque<Arc<StoredEvent>>,
    bytes: usize,
    wake: watch::Sender<i64>,
}

impl Default for Feed {
    fn default() -> Self {
        Self { tasks: Mutex::default(), all: watch::channel(0).0 }
    }
}

impl Feed {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, TaskFeed>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes committed events known. Called in commit order.
    pub fn publish(&self, events: &[StoredEvent]) {
        let Some(last) = events.last() else { return };
        let mut tasks = self.lock();
        for event in events {
            // nobody listens: whoever comes later reads from the brain
            if let Some(feed) = tasks.get_mut(&event.task_id) {
                feed.push(event);
                feed.wake.send_replace(event.seq);
            }
        }
        drop(tasks);
        self.all.send_replace(last.seq);
    }

    /// A receiver that changes whenever an event of the task (or of any task) is published.
    pub fn subscribe(self: &Arc<Self>, task: Option<&str>) -> Subscription {
        let wake = match task {
            None => self.all.subscribe(),
            Some(task) => self.lock().entry(task.to_owned()).or_insert_with(TaskFeed::new).wake.subscribe(),
        };
        Subscription { feed: Arc::clone(self), task: task.map(str::to_owned), wake: Some(wake) }
    }

    /// Drops what memory holds of a deleted task and wakes its readers.
    pub fn forget(&self, task: &str) {
        let mut tasks = self.lock();
        if let Some(feed) = tasks.get_mut(task) {
            feed.ring.clear();
            feed.bytes = 0;
            feed.floor = None;
            feed.wake.send_modify(|_| {});
        }
    }

    /// The task's events after `cursor`, when memory holds all of them.
    pub fn recent(&self, task: &str, cursor: i64) -> Option<Vec<Arc<StoredEvent>>> {
        let tasks = self.lock();
        let feed = tasks.get(task)?;
        if cursor < feed.floor? {
            return None;
        }
        let start = feed.ring.partition_point(|e| e.seq <= cursor);
        Some(feed.ring.range(start..).cloned().collect())
    }

    /// Tasks held in memory (for tests and metrics).
    pub fn live_tasks(&self) -> usize {
        self.lock().len()
    }
}

impl TaskFeed {
    fn new() -> Self {
        Self { floor: None, ring: VecDeque::new(), bytes: 0, wake: watch::channel(0).0 }
    }

    fn push(&mut self, event: &StoredEvent) {
        self.floor.get_or_insert(event.seq - 1);
        self.bytes += event.data.len();
        self.ring.push_back(Arc::new(event.clone()));
        while self.ring.len() > RING_EVENTS || self.bytes > RING_BYTES {
            let Some(old) = self.ring.pop_front() else { break };
            self.bytes -= old.data.len();
            self.floor = Some(old.seq);
        }
    }
}

/// One reader's place in the feed.
#[derive(Debug)]
pub struct Subscription {
    feed: Arc<Feed>,
    task: Option<String>,
    wake: Option<watch::Receiver<i64>>,
}

impl Subscription {
    /// Marks everything published so far as seen. Read the log after this, then wait with [`changed`].
    ///
    /// [`changed`]: Subscription::changed
    pub fn mark_seen(&mut self) {
        if let Some(wake) = &mut self.wake {
            wake.borrow_and_update();
        }
    }

    /// Waits until something was published since [`mark_seen`].
    ///
    /// [`mark_seen`]: Subscription::mark_seen
    pub async fn changed(&mut self) {
        match &mut self.wake {
            Some(wake) => {
                if wake.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            None => std::future::pending().await,
        }
    }

    /// The task's events after `cursor`, when memory holds all of them.
    pub fn recent(&self, cursor: i64) -> Option<Vec<Arc<StoredEvent>>> {
        self.feed.recent(self.task.as_deref()?, cursor)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.wake = None;
        let Some(task) = &self.task else { return };
        let mut tasks = self.feed.lock();
        if tasks.get(task).is_some_and(|f| f.wake.receiver_count() == 0) {
            tasks.remove(task);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: i64, data: &str) -> StoredEvent {
        StoredEvent {
            seq,
            task_id: "a".into(),
            turn_id: "turn-1".into(),
            event: "text_delta".into(),
            data: data.into(),
            ts: 0,
        }
    }

    #[test]
    fn a_reader_at_the_floor_reads_from_memory_and_one_before_it_from_the_brain() {
        let feed = Arc::new(Feed::default());
        let _reader = feed.subscribe(Some("a"));
        feed.publish(&[event(10, "x"), event(11, "y")]);
        assert_eq!(feed.recent("a", 9).expect("covered").len(), 2);
        assert_eq!(feed.recent("a", 10).expect("covered").len(), 1);
        assert!(feed.recent("a", 8).is_none());
        assert!(feed.recent("b", 0).is_none());
    }

    #[test]
    fn the_ring_is_bounded_in_events_and_in_bytes() {
        let feed = Arc::new(Feed::default());
        let _reader = feed.subscribe(Some("a"));
        for seq in 1..=1000 {
            feed.publish(&[event(seq, "x")]);
        }
        assert!(feed.recent("a", 500).is_none());
        assert_eq!(feed.recent("a", 1000 - RING_EVENTS as i64).expect("covered").len(), RING_EVENTS);
        feed.publish(&[event(1001, &"z".repeat(RING_BYTES + 1))]);
        assert_eq!(feed.recent("a", 1001).expect("covered").len(), 0);
        assert!(feed.recent("a", 1000).is_none());
    }

    #[test]
    fn a_task_without_readers_takes_no_memory() {
        let feed = Arc::new(Feed::default());
        feed.publish(&[event(1, "x")]);
        assert_eq!(feed.live_tasks(), 0);
        let subscription = feed.subscribe(Some("a"));
        feed.publish(&[event(2, "y")]);
        assert_eq!(feed.live_tasks(), 1);
        drop(subscription);
        assert_eq!(feed.live_tasks(), 0);
    }

    #[test]
    fn a_deleted_task_is_not_told_from_memory() {
        let feed = Arc::new(Feed::default());
        let _reader = feed.subscribe(Some("a"));
        feed.publish(&[event(1, "secret")]);
        feed.forget("a");
        assert!(feed.recent("a", 0).is_none());
    }
}
