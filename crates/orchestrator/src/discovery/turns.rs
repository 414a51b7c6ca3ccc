//! Whose turn it is to reserve an engine, product by product.
//!
//! Reservations of one product wait for each other in the database in any case, because its quota is counted under a
//! lock on its row. They wait here instead: in order, without holding a connection, and not against the database's
//! clock for locks, so a burst is answered one by one with what is true. Nothing here is needed for the quota to hold.
//!
//! The invariant: lines are bounded in length and in time, and a product nobody waits for takes no memory.

use contract::ProductId;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::OwnedMutexGuard;

/// Most reservations of one product under way, the one that writes included. More are held longer than
/// [`WAIT_MAX`] anyway; fewer turn away an honest burst.
const LINE_MAX: usize = 1000;
/// Longest wait for a turn. Longer holds callers behind a database that is slow; shorter turns away those at the end
/// of a burst of several hundred.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Longest time to come back that is told. Longer keeps callers away from a line that is long gone.
const RETRY_MAX_S: u64 = 60;
/// What a reservation is taken to last before one was measured, in microseconds.
const PACE_FIRST_US: u64 = 10_000;
/// Weight of the past in the measured pace. More forgets a slow minute late; less jumps at every hiccup.
const PACE_PAST: u64 = 7;

/// The lines of all products.
#[derive(Debug)]
pub struct Turns {
    lines: Mutex<HashMap<ProductId, Line>>,
    /// How long a turn lasts, smoothed.
    pace_us: AtomicU64,
}

impl Default for Turns {
    fn default() -> Self {
        Self { lines: Mutex::default(), pace_us: AtomicU64::new(PACE_FIRST_US) }
    }
}

#[derive(Debug, Default)]
struct Line {
    baton: Arc<tokio::sync::Mutex<()>>,
    here: usize,
}

/// The right to reserve an engine for the product; given on when dropped.
#[derive(Debug)]
pub struct Turn {
    _baton: OwnedMutexGuard<()>,
    began: Instant,
    place: Place,
}

/// A place in the line of one product.
#[derive(Debug)]
struct Place {
    turns: Arc<Turns>,
    product: ProductId,
}

/// The line is too long, or did not move on in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineFull {
    /// When it is likely to be shorter, in seconds.
    pub retry_after_s: u64,
}

impl Turns {
    /// Waits for this product's turn.
    pub async fn take(self: &Arc<Self>, product: ProductId) -> Result<Turn, LineFull> {
        let (baton, place) = {
            let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            let line = lines.entry(product).or_default();
            if line.here >= LINE_MAX {
                return Err(self.full(line.here));
            }
            line.here += 1;
            (Arc::clone(&line.baton), Place { turns: Arc::clone(self), product })
        };
        match tokio::time::timeout(WAIT_MAX, baton.lock_owned()).await {
            Ok(baton) => Ok(Turn { _baton: baton, began: Instant::now(), place }),
            Err(_) => Err(self.full(self.here(product))),
        }
    }

    fn full(&self, here: usize) -> LineFull {
        let waiting = u64::try_from(here).unwrap_or(u64::MAX);
        let us = waiting.saturating_mul(self.pace_us.load(Ordering::Relaxed));
        LineFull { retry_after_s: us.div_ceil(1_000_000).clamp(1, RETRY_MAX_S) }
    }

    /// Reservations of this product under way.
    pub fn here(&self, product: ProductId) -> usize {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.get(&product).map_or(0, |line| line.here)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let took = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let pace = &self.place.turns.pace_us;
        let past = pace.load(Ordering::Relaxed);
        pace.store(
            (past.saturating_mul(PACE_PAST).saturating_add(took)) / (PACE_PAST + 1),
            Ordering::Relaxed,
        );
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lines = self.turns.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.get_mut(&self.product) {
            line.here = line.here.saturating_sub(1);
            if line.here == 0 {
                lines.remove(&self.product);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::JoinSet;

    #[tokio::test(start_paused = true)]
    async fn turns_come_in_order_and_products_do_not_wait_for_each_other() {
        let (turns, one, other) = (Arc::new(Turns::default()), ProductId::generate(), ProductId::generate());
        let first = turns.take(one).await.expect("nobody is here");
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut line = JoinSet::new();
        for n in 0..50 {
            let (turns, order) = (Arc::clone(&turns), Arc::clone(&order));
            line.spawn(async move {
                let _turn = turns.take(one).await.expect("the line is short");
                order.lock().expect("is not poisoned").push(n);
            });
            tokio::task::yield_now().await;
        }
        drop(turns.take(other).await.expect("another line"));
        assert_eq!((turns.here(one), order.lock().expect("is not poisoned").len()), (51, 0));
        drop(first);
        line.join_all().await;
        assert_eq!(*order.lock().expect("is not poisoned"), (0..50).collect::<Vec<_>>());
        assert!(turns.lines.lock().expect("is not poisoned").is_empty(), "nobody waits, nothing is kept");
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_is_bounded_in_length_and_in_time_and_says_when_to_come_back() {
        let (turns, product) = (Arc::new(Turns::default()), ProductId::generate());
        let held = turns.take(product).await.expect("nobody is here");
        let mut line = JoinSet::new();
        for _ in 1..LINE_MAX {
            let turns = Arc::clone(&turns);
            line.spawn(async move { turns.take(product).await.map(drop) });
            tokio::task::yield_now().await;
        }
        let told = turns.take(product).await.map(drop);
        assert_eq!(told, Err(LineFull { retry_after_s: 10 }), "a thousand of 10 ms each");
        for outcome in line.join_all().await {
            assert!(outcome.is_err(), "the line does not move");
        }
        assert_eq!(turns.here(product), 1, "who gave up is not counted");
        drop(held);
        turns.take(product).await.expect("it moves again");
    }

    #[tokio::test(start_paused = true)]
    async fn who_hangs_up_leaves_the_line() {
        let (turns, product) = (Arc::new(Turns::default()), ProductId::generate());
        let held = turns.take(product).await.expect("nobody is here");
        let waiting = tokio::spawn({
            let turns = Arc::clone(&turns);
            async move { turns.take(product).await.map(drop) }
        });
        tokio::task::yield_now().await;
        assert_eq!(turns.here(product), 2);
        waiting.abort();
        let _ = waiting.await;
        assert_eq!(turns.here(product), 1);
        drop(held);
        assert_eq!(turns.here(product), 0);
    }
}
