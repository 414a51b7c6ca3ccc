//! Task slots: how many turns run at once, how many may wait, and in which order.
//!
//! First come, first served; turns that go on (resumed after a restart, answered by a person) come first.
//! The brain's `queued` rows are the truth; this only remembers their order in this process.

use contract::TurnId;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How to reach a running turn.
#[derive(Debug, Default)]
pub struct Control {
    /// Cancelled when a cancel of the turn is committed.
    pub cancel: CancellationToken,
    /// Counts the questions of the turn that were settled. Every loop of the turn watches it by itself, so that
    /// none takes the news away from another.
    pub answered: watch::Sender<u64>,
}

/// The fixed pool of task slots and its bounded queue.
#[derive(Debug)]
pub struct Coordinator {
    inner: Mutex<Inner>,
    slots: usize,
    queue_limit: usize,
}

#[derive(Debug, Default)]
struct Inner {
    queue: VecDeque<TurnId>,
    running: HashMap<TurnId, Arc<Control>>,
    /// Running turns that go on once their slot is given back: the answer came while they were being put aside.
    again: HashSet<TurnId>,
    reserved: usize,
    closed: bool,
}

/// All slots are taken and the queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// A place for one turn, taken before it is committed. Dropped unused, the place is free again.
#[derive(Debug)]
pub struct Place<'c> {
    coordinator: &'c Coordinator,
    /// True when the turn will have to wait for a slot.
    pub must_wait: bool,
    used: bool,
}

/// Where a turn is, from the coordinator's view.
#[derive(Debug)]
pub enum Whereabouts {
    /// It runs and has been told to stop.
    Running,
    /// It waited and has been taken out of the queue.
    TakenFromQueue,
    /// Neither.
    Elsewhere,
}

impl Coordinator {
    /// `slots` turns run at once (ENGINE_TASK_SLOTS), `queue_limit` may wait (ENGINE_TASK_QUEUE).
    pub fn new(slots: usize, queue_limit: usize) -> Self {
        Self { inner: Mutex::default(), slots, queue_limit }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place for a new turn.
    pub fn reserve(&self) -> Result<Place<'_>, Full> {
        let mut inner = self.lock();
        let taken = inner.running.len() + inner.queue.len() + inner.reserved;
        if taken >= self.slots + self.queue_limit {
            return Err(Full);
        }
        inner.reserved += 1;
        Ok(Place { coordinator: self, must_wait: taken >= self.slots, used: false })
    }

    /// Puts a turn that goes on at the front; its place was never given up. One that still holds its slot,
    /// because it was paused a moment ago, comes to the front when it gives the slot back.
    pub fn push_front(&self, turn: TurnId) {
        let mut inner = self.lock();
        if inner.running.contains_key(&turn) {
            inner.again.insert(turn);
        } else if !inner.queue.contains(&turn) {
            inner.queue.push_front(turn);
        }
    }

    /// The next waiting turn, if a slot is free; the slot is taken.
    pub fn next(&self) -> Option<(TurnId, Arc<Control>)> {
        let mut inner = self.lock();
        if inner.closed || inner.running.len() >= self.slots {
            return None;
        }
        let turn = inner.queue.pop_front()?;
        let control = Arc::new(Control::default());
        inner.running.insert(turn.clone(), Arc::clone(&control));
        Some((turn, control))
    }

    /// Gives a slot back; true when a stop was asked for while the turn held it. Giving it back twice changes
    /// nothing.
    pub fn release(&self, turn: &TurnId) -> bool {
        let mut inner = self.lock();
        let control = inner.running.remove(turn);
        if inner.again.remove(turn) {
            inner.queue.push_front(turn.clone());
        }
        control.is_some_and(|c| c.cancel.is_cancelled())
    }

    /// Stops a turn after its cancel is committed: one that runs is told, a waiting one leaves the queue. The
    /// telling and [`release`] exclude each other, so a stop is either seen by the turn or by its release.
    ///
    /// [`release`]: Coordinator::release
    pub fn stop(&self, turn: &TurnId) -> Whereabouts {
        let mut inner = self.lock();
        if let Some(control) = inner.running.get(turn) {
            control.cancel.cancel();
            return Whereabouts::Running;
        }
        match inner.queue.iter().position(|t| t == turn) {
            Some(place) => {
                inner.queue.remove(place);
                Whereabouts::TakenFromQueue
            }
            None => Whereabouts::Elsewhere,
        }
    }

    /// The way to reach a turn, when it runs.
    pub fn running(&self, turn: &TurnId) -> Option<Arc<Control>> {
        self.lock().running.get(turn).cloned()
    }

    /// Grants no slot any more (drain).
    pub fn close(&self) {
        self.lock().closed = true;
    }

    /// Turns that run and turns that wait.
    pub fn counts(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.running.len(), inner.queue.len() + inner.reserved)
    }
}

impl Place<'_> {
    /// The turn is committed: it waits at the end of the queue.
    pub fn fill(mut self, turn: TurnId) {
        self.used = true;
        let mut inner = self.coordinator.lock();
        inner.reserved -= 1;
        inner.queue.push_back(turn);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.used {
            self.coordinator.lock().reserved -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_and_queue_are_bounded_and_places_come_back() {
        let c = Coordinator::new(1, 1);
        let first = c.reserve().expect("a slot is free");
        assert!(!first.must_wait);
        let second = c.reserve().expect("the queue has room");
        assert!(second.must_wait);
        assert_eq!(c.reserve().err(), Some(Full));
        drop(second);
        assert!(c.reserve().is_ok());
    }

    #[test]
    fn waiting_turns_start_in_order_and_those_that_go_on_come_first() {
        let c = Coordinator::new(1, 8);
        let (a, b, resumed) = (TurnId::generate(), TurnId::generate(), TurnId::generate());
        c.reserve().expect("room").fill(a.clone());
        c.reserve().expect("room").fill(b.clone());
        c.push_front(resumed.clone());
        assert_eq!(c.next().expect("a slot is free").0, resumed);
        assert!(c.next().is_none(), "one slot only");
        c.release(&resumed);
        assert_eq!(c.next().expect("a slot is free").0, a);
        c.release(&a);
        assert_eq!(c.next().expect("a slot is free").0, b);
    }

    #[test]
    fn a_turn_answered_while_it_is_put_aside_runs_again_once_its_slot_is_free() {
        let c = Coordinator::new(1, 8);
        let (paused, other) = (TurnId::generate(), TurnId::generate());
        c.reserve().expect("room").fill(paused.clone());
        c.next().expect("a slot is free");
        c.reserve().expect("room").fill(other);
        c.push_front(paused.clone());
        assert!(c.next().is_none(), "it cannot run twice at once");
        assert!(!c.release(&paused));
        assert_eq!(c.next().expect("a slot is free").0, paused);
    }

    #[test]
    fn a_stop_is_seen_by_the_turn_or_by_its_release() {
        let c = Coordinator::new(1, 8);
        let turn = TurnId::generate();
        c.reserve().expect("room").fill(turn.clone());
        let (_, control) = c.next().expect("a slot is free");
        assert!(matches!(c.stop(&turn), Whereabouts::Running));
        assert!(control.cancel.is_cancelled() && c.release(&turn));
        assert!(matches!(c.stop(&turn), Whereabouts::Elsewhere));
    }

    #[test]
    fn a_closed_coordinator_keeps_its_queue_and_starts_nothing() {
        let c = Coordinator::new(4, 4);
        c.reserve().expect("room").fill(TurnId::generate());
        c.close();
        assert!(c.next().is_none());
        assert_eq!(c.counts(), (0, 1));
    }
}
