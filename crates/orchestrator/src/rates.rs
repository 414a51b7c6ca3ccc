//! Admissions per minute of each product, counted in memory by this replica.
//!
//! The rule is [`fleet::rate::Gcra`]; here is only its state per product. A restart forgets it, and k replicas admit
//! k times the limit: the limit guards the fleet, it is not an account. The invariant: memory is bounded.

use contract::{ProductId, Timestamp};
use fleet::rate::{Gcra, RetryAfterSeconds};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Products remembered at once. With more at work in one minute than this, the ones left out begin afresh; a larger
/// number costs memory, a smaller one lets large deployments exceed their limits.
const PRODUCTS_MAX: usize = 100_000;

/// The state of every product's limit.
#[derive(Debug, Default)]
pub struct Rates(Mutex<HashMap<ProductId, Gcra>>);

impl Rates {
    /// Asks for one admission; without a limit it always passes. Refused: whole seconds, at least 1, to wait.
    pub fn check(&self, product: ProductId, rpm: Option<u32>, now: Timestamp) -> Result<(), u64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(rpm) = rpm else {
            all.remove(&product);
            return Ok(());
        };
        if all.len() >= PRODUCTS_MAX && !all.contains_key(&product) {
            all.retain(|_, state| !state.is_idle(now.millis()));
            if all.len() >= PRODUCTS_MAX {
                all.clear();
            }
        }
        let state = all.entry(product).or_default();
        state.check(rpm, now.millis()).map_err(|RetryAfterSeconds(seconds)| seconds)
    }

    /// Begins afresh after a change of policy.
    pub fn reset(&self, product: ProductId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&product);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(1_777_293_296_000 + ms)
    }

    #[test]
    fn products_are_counted_apart_and_a_policy_change_begins_afresh() {
        let (rates, one, other) = (Rates::default(), ProductId::generate(), ProductId::generate());
        for _ in 0..2 {
            assert_eq!(rates.check(one, Some(2), at(0)), Ok(()));
        }
        assert_eq!(rates.check(one, Some(2), at(0)), Err(30));
        assert_eq!(rates.check(other, Some(2), at(0)), Ok(()));
        rates.reset(one);
        assert_eq!(rates.check(one, Some(2), at(0)), Ok(()));
    }

    #[test]
    fn without_a_limit_everything_passes_and_nothing_is_remembered() {
        let (rates, product) = (Rates::default(), ProductId::generate());
        for _ in 0..1000 {
            assert_eq!(rates.check(product, None, at(0)), Ok(()));
        }
        assert!(rates.0.lock().expect("is not poisoned").is_empty());
    }
}
