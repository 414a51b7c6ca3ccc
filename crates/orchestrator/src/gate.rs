//! Starts at once, per replica: a queue with classes before a fixed number of permits.
//!
//! Who goes next is decided by [`fleet::start_queue`]; here are only the waiting and the giving back.

use contract::{ProductId, Timestamp};
use fleet::start_queue::{Class, StartQueue, Ticket};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::oneshot;

struct Inner {
    queue: StartQueue,
    waiting: HashMap<Ticket, oneshot::Sender<()>>,
    next: u64,
    permits: usize,
    places: usize,
    /// Places that are kept for those who were told that there is room.
    promised: usize,
}

impl Inner {
    /// Those who wait or may still come fill every place and every free permit.
    fn is_full(&self) -> bool {
        // While somebody waits, free permits are those that are not for everybody.
        let free =
            if self.queue.waiting() > 0 { 0 } else { self.permits.saturating_sub(self.queue.running()) };
        self.queue.waiting() + self.promised >= self.places + free
    }
}

/// The queue and its permits.
pub struct StartGate {
    inner: Mutex<Inner>,
    epoch: Instant,
}

/// The right to start one engine; given back when dropped.
pub struct Permit {
    gate: Arc<StartGate>,
    ticket: Ticket,
}

/// A place in the queue that is kept until the engine's row is written and its executor comes; given back when
/// dropped.
pub struct Promise {
    gate: Arc<StartGate>,
    kept: bool,
}

impl Drop for Promise {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let mut inner = self.gate.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.promised = inner.promised.saturating_sub(1);
    }
}

/// The queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// When a place is likely, in seconds.
    pub retry_after_s: u64,
}

/// Takes a waiting caller out of the queue when it stops waiting.
struct Waiting<'a> {
    gate: &'a StartGate,
    ticket: Ticket,
    done: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.gate.give_back(self.ticket);
        }
    }
}

impl StartGate {
    /// A gate with this many permits and places in the queue.
    pub fn new(permits: usize, places: usize) -> Arc<Self> {
        let queue = StartQueue::new(permits, places);
        let inner = Inner { queue, waiting: HashMap::new(), next: 0, permits, places, promised: 0 };
        Arc::new(Self { inner: Mutex::new(inner), epoch: Instant::now() })
    }

    /// The queue's own clock: milliseconds since the gate was made, which no change of the wall clock moves.
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(i64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(i64::MAX))
    }

    /// Keeps a place for one more start, so that nobody is accepted first and refused afterwards.
    pub fn promise(self: &Arc<Self>) -> Result<Promise, Full> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.is_full() {
            return Err(Full { retry_after_s: inner.queue.retry_after_s(Class::Interactive, self.now()) });
        }
        inner.promised += 1;
        Ok(Promise { gate: Arc::clone(self), kept: false })
    }

    /// Waits for a permit, on the promised place if there is one.
    pub async fn acquire(
        self: &Arc<Self>,
        class: Class,
        product: ProductId,
        mut promise: Option<Promise>,
    ) -> Result<Permit, Full> {
        let (ticket, turn) = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(promise) = &mut promise {
                promise.kept = true;
                inner.promised = inner.promised.saturating_sub(1);
            } else if inner.is_full() {
                return Err(Full { retry_after_s: inner.queue.retry_after_s(class, self.now()) });
            }
            let ticket = Ticket(inner.next);
            inner.next += 1;
            let now = self.now();
            let queued = inner.queue.enqueue(ticket, class, product, now);
            queued.map_err(|full| Full { retry_after_s: full.retry_after_s })?;
            let (sender, receiver) = oneshot::channel();
            inner.waiting.insert(ticket, sender);
            Self::hand_out(&mut inner, now);
            (ticket, receiver)
        };
        let mut waiting = Waiting { gate: self, ticket, done: false };
        // An error would mean that the sender was dropped without an answer, which `give_back` alone does.
        let _ = turn.await;
        waiting.done = true;
        Ok(Permit { gate: Arc::clone(self), ticket })
    }

    fn hand_out(inner: &mut Inner, now: Timestamp) {
        while let Some(ticket) = inner.queue.next(now) {
            if let Some(sender) = inner.waiting.remove(&ticket)
                && sender.send(()).is_err()
            {
                inner.queue.release(ticket);
            }
        }
    }

    fn give_back(&self, ticket: Ticket) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.now();
        inner.waiting.remove(&ticket);
        inner.queue.cancel(ticket);
        Self::hand_out(&mut inner, now);
    }

    /// Lets those go on who have waited long enough to be moved up.
    pub fn tick(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.now();
        Self::hand_out(&mut inner, now);
    }

    /// Permits in use, and those who wait per class.
    pub fn gauges(&self) -> (usize, Vec<(Class, usize)>) {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let depths = Class::ALL.iter().map(|class| (*class, inner.queue.depth(*class))).collect();
        (inner.queue.running(), depths)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.give_back(self.ticket);
    }
}
