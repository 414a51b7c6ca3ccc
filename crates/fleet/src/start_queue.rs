//! Who may start next: a bounded priority queue of start permits (§12.4).
//!
//! Classes in order, a quarter of the permits for people only, round robin over products within a class, one class
//! up for every 30 s of waiting so that nothing starves. It refuses beyond its bound at once, with a time after
//! which a repeat makes sense. The invariant: never more permits out than there are, and no ticket twice.

use crate::lifecycle::words;
use contract::{ProductId, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt;
use std::time::Duration;

/// Waiting so long moves a request up one class. Shorter would let mass restarts overtake people soon; longer
/// would let scheduled work miss its hour under load.
pub const AGEING: Duration = Duration::from_secs(30);
/// Span over which starts per second are measured. Shorter would make `Retry-After` jump; longer would remember a
/// speed that is gone.
pub const RATE_SPAN: Duration = Duration::from_secs(60);
/// Longest `Retry-After` in seconds. Longer would keep callers away after the queue has emptied.
pub const RETRY_MAX_S: u64 = 60;

words! {
    /// Why somebody starts; earlier classes go first.
    Class {
        /// Admit, provision, start: a person waits.
        Interactive = "interactive",
        /// Automatic restart.
        Restart = "restart",
        /// Planned work.
        Schedule = "schedule",
        /// Upgrade and rollout.
        Upgrade = "upgrade",
        /// Starts needed for a removal.
        Removal = "removal",
    }
}

/// Names one waiting start; the caller draws it and never uses one twice at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// The queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// Whole seconds, 1..60, after which the starts now ahead are done.
    pub retry_after_s: u64,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    ticket: Ticket,
    class: Class,
    sequence: u64,
    since: Timestamp,
}

/// One class: its products in turn, each with its requests in order.
#[derive(Debug, Default)]
struct Lane {
    turn: VecDeque<ProductId>,
    products: HashMap<ProductId, VecDeque<Waiting>>,
    len: usize,
}

/// The queue. `permits` starts run at once; at most `max_waiting` wait.
#[derive(Debug)]
pub struct StartQueue {
    permits: usize,
    max_waiting: usize,
    lanes: [Lane; 5],
    running: HashMap<Ticket, Class>,
    running_others: usize,
    waiting: HashSet<Ticket>,
    sequence: u64,
    /// Starts granted per second of the last minute: bounded by its span, whatever the rate.
    granted: BTreeMap<i64, u64>,
    measured_since: Option<Timestamp>,
}

impl StartQueue {
    /// `ORCH_START_CONCURRENCY` permits and `ORCH_START_QUEUE_MAX` places, at least one of each.
    pub fn new(permits: usize, max_waiting: usize) -> Self {
        Self {
            permits: permits.max(1),
            max_waiting: max_waiting.max(1),
            lanes: Default::default(),
            running: HashMap::new(),
            running_others: 0,
            waiting: HashSet::new(),
            sequence: 0,
            granted: BTreeMap::new(),
            measured_since: None,
        }
    }

    /// Permits that only [`Class::Interactive`] may use: a quarter, rounded down so that one permit serves all.
    pub const fn interactive_only(&self) -> usize {
        self.permits / 4
    }

    /// Puts a start into the queue, or says when to come again. A ticket that waits or runs already is left as is.
    pub fn enqueue(
        &mut self,
        ticket: Ticket,
        class: Class,
        product: ProductId,
        now: Timestamp,
    ) -> Result<(), Full> {
        if self.waiting.contains(&ticket) || self.running.contains_key(&ticket) {
            return Ok(());
        }
        if self.waiting.len() >= self.max_waiting {
            return Err(Full { retry_after_s: self.retry_after_s(class, now) });
        }
        self.measured_since.get_or_insert(now);
        self.sequence += 1;
        let waiting = Waiting { ticket, class, sequence: self.sequence, since: now };
        self.lanes[class as usize].push(product, waiting);
        self.waiting.insert(ticket);
        Ok(())
    }

    /// The next start that may begin, if a permit is free for one; it holds the permit until [`Self::release`].
    pub fn next(&mut self, now: Timestamp) -> Option<Ticket> {
        self.age(now);
        if self.running.len() >= self.permits {
            return None;
        }
        // The reserve is kept by what a request is, not by the class it has aged into.
        let others_fit = self.running_others < self.permits - self.interactive_only();
        let fits = |waiting: &Waiting| others_fit || waiting.class == Class::Interactive;
        let granted = self.lanes.iter_mut().find_map(|lane| lane.pop(&fits))?;
        self.waiting.remove(&granted.ticket);
        self.running.insert(granted.ticket, granted.class);
        self.running_others += usize::from(granted.class != Class::Interactive);
        *self.granted.entry(second(now)).or_default() += 1;
        self.forget(now);
        Some(granted.ticket)
    }

    /// Gives the permit of a started ticket back. Twice is once.
    pub fn release(&mut self, ticket: Ticket) {
        if let Some(class) = self.running.remove(&ticket) {
            self.running_others -= usize::from(class != Class::Interactive);
        }
    }

    /// Takes a waiting ticket out; a running one gives its permit back. True when it was known.
    pub fn cancel(&mut self, ticket: Ticket) -> bool {
        if self.running.contains_key(&ticket) {
            self.release(ticket);
            return true;
        }
        if !self.waiting.remove(&ticket) {
            return false;
        }
        self.lanes.iter_mut().any(|lane| lane.remove(ticket))
    }

    /// Starts that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Starts that wait in one class (in the class they have aged into).
    pub fn depth(&self, class: Class) -> usize {
        self.lanes[class as usize].len
    }

    /// Starts that hold a permit.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Truthful `Retry-After` for a request of this class: starts ahead of it by the rate of the last minute,
    /// between 1 and 60. Without one measured start it is 60: nothing is known to move.
    pub fn retry_after_s(&self, class: Class, now: Timestamp) -> u64 {
        let ahead: usize = self.lanes[..=class as usize].iter().map(|lane| lane.len).sum();
        let from = second(now) - span_s();
        let starts: u64 = self.granted.range(from + 1..).map(|(_, count)| count).sum();
        if starts == 0 {
            return if ahead == 0 { 1 } else { RETRY_MAX_S };
        }
        let age_ms = self.measured_since.map_or(0, |since| now.millis() - since.millis());
        let span_ms = age_ms.clamp(1000, span_s() * 1000).unsigned_abs();
        let ahead = u64::try_from(ahead).unwrap_or(u64::MAX);
        ahead.saturating_mul(span_ms).div_ceil(starts.saturating_mul(1000)).clamp(1, RETRY_MAX_S)
    }

    fn age(&mut self, now: Timestamp) {
        for lane in 1..self.lanes.len() {
            let ripe = self.lanes[lane].take_older(now);
            for (product, mut waiting) in ripe {
                waiting.since = now;
                self.lanes[lane - 1].push(product, waiting);
            }
        }
    }

    fn forget(&mut self, now: Timestamp) {
        let from = second(now) - span_s();
        self.granted = self.granted.split_off(&from);
    }
}

fn second(at: Timestamp) -> i64 {
    at.millis().div_euclid(1000)
}

fn span_s() -> i64 {
    i64::try_from(RATE_SPAN.as_secs()).unwrap_or(i64::MAX)
}

impl Lane {
    /// Adds in order of arrival: one that aged into this class stands before younger ones of its product.
    fn push(&mut self, product: ProductId, waiting: Waiting) {
        let queue = self.products.entry(product).or_default();
        if queue.is_empty() {
            self.turn.push_back(product);
        }
        let at = queue.partition_point(|other| other.sequence < waiting.sequence);
        queue.insert(at, waiting);
        self.len += 1;
    }

    /// The next product in turn that has a fitting request gives its first one and goes to the end.
    fn pop(&mut self, fits: &impl Fn(&Waiting) -> bool) -> Option<Waiting> {
        for at in 0..self.turn.len() {
            let product = self.turn[at];
            let queue = self.products.get_mut(&product)?;
            let Some(first) = queue.iter().position(fits) else { continue };
            let waiting = queue.remove(first)?;
            self.len -= 1;
            self.turn.remove(at);
            if queue.is_empty() {
                self.products.remove(&product);
            } else {
                self.turn.push_back(product);
            }
            return Some(waiting);
        }
        None
    }

    fn take_older(&mut self, now: Timestamp) -> Vec<(ProductId, Waiting)> {
        if self.len == 0 {
            return Vec::new();
        }
        let mut ripe = Vec::new();
        for (product, queue) in &mut self.products {
            queue.retain(|waiting| {
                let old = crate::restart::since(waiting.since, now) >= AGEING;
                if old {
                    ripe.push((*product, *waiting));
                }
                !old
            });
        }
        if !ripe.is_empty() {
            ripe.sort_by_key(|(_, waiting)| waiting.sequence);
            self.len -= ripe.len();
            self.tidy();
        }
        ripe
    }

    fn remove(&mut self, ticket: Ticket) -> bool {
        for queue in self.products.values_mut() {
            if let Some(at) = queue.iter().position(|waiting| waiting.ticket == ticket) {
                queue.remove(at);
                self.len -= 1;
                self.tidy();
                return true;
            }
        }
        false
    }

    fn tidy(&mut self) {
        self.products.retain(|_, queue| !queue.is_empty());
        self.turn.retain(|product| self.products.contains_key(product));
    }
}
