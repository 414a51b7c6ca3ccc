//! How often an outage is told: the first refusal at once, later ones together.
//!
//! The invariant: every refusal is counted in exactly one line, or in the next one.

use std::time::{Duration, Instant};

/// Between two lines. Shorter fills the disk when a busy fleet loses its database; longer hides that it is still away.
pub(super) const TOLD_AGAIN: Duration = Duration::from_secs(10);

/// What was told, and what was not yet.
#[derive(Debug)]
pub(super) struct Outage {
    told: Option<Instant>,
    untold: u64,
}

impl Outage {
    /// Nothing happened yet.
    pub(super) const fn new() -> Self {
        Self { told: None, untold: 0 }
    }

    /// One more refusal; the number to tell when it is time for a line.
    pub(super) fn refused(&mut self, now: Instant) -> Option<u64> {
        self.untold += 1;
        if self.told.is_some_and(|at| now.saturating_duration_since(at) < TOLD_AGAIN) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_refusals_are_one_line_with_their_number() {
        let (mut outage, began) = (Outage::new(), Instant::now());
        assert_eq!(outage.refused(began), Some(1), "the first is told at once");
        let later = (1..1_000).filter_map(|ms| outage.refused(began + Duration::from_millis(ms)));
        assert_eq!(later.count(), 0);
        assert_eq!(outage.refused(began + TOLD_AGAIN), Some(1_000));
        assert_eq!(outage.refused(began + TOLD_AGAIN * 3), Some(1), "none is counted twice");
    }
}
