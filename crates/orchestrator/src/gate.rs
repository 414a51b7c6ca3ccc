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
    places: usize,
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
        let inner = Inner { queue: StartQueue::new(permits, places), waiting: HashMap::new(), next: 0, places };
        Arc::new(Self { inner: Mutex::new(inner), epoch: Instant::now() })
    }

    /// The queue's own clock: milliseconds since the gate was made, which no change of the wall clock moves.
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(i64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(i64::MAX))
    }

    /// Would one more start find a place now?
    pub fn has_room(&self) -> Result<(), Full> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.queue.waiting() < inner.places {
            return Ok(());
        }
        Err(Full { retry_after_s: inner.queue.retry_after_s(Class::Interactive, self.now()) })
    }

    /// Waits for a permit.
    pub async fn acquire(self: &Arc<Self>, class: Class, product: ProductId) -> Result<Permit, Full> {
        let (ticket, turn) = {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
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
