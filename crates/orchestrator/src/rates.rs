//! Admissions per minute of each product, counted in memory by this replica.
//!
//! The rule is [`fleet::rate::Gcra`]; here is only its state per product. A restart forgets it, and k replicas admit
//! k times the limit: the limit guards the fleet, it is not an account. That a policy was replaced is seen in the
//! product's row, which every admission reads; a notification about it would come at any time after the fact and give
//! back what was spent meanwhile. The invariant: memory is bounded.

use contract::{ProductId, Timestamp};
use fleet::rate::{Gcra, RetryAfterSeconds};
use serde_json::Value;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, PoisonError};

/// Products remembered at once. With more at work in one minute than this, the ones left out begin afresh; a larger
/// number costs memory, a smaller one lets large deployments exceed their limits.
const PRODUCTS_MAX: usize = 100_000;

/// The state of every product's limit.
#[derive(Debug, Default)]
pub struct Rates(Mutex<HashMap<ProductId, State>>);

#[derive(Debug, Default)]
struct State {
    limit: Gcra,
    /// The policy it was counted under, as a hash; `None` before one was seen.
    policy: Option<u64>,
}

impl Rates {
    /// Asks for one admission; without a limit it always passes. Refused: whole seconds, at least 1, to wait. `policy`
    /// is the whole policy as just read from the row, and `None` where it may be an old one: another than the last one
    /// begins afresh.
    pub fn check(
        &self,
        product: ProductId,
        rpm: Option<u32>,
        policy: Option<&Value>,
        now: Timestamp,
    ) -> Result<(), u64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(rpm) = rpm else {
            all.remove(&product);
            return Ok(());
        };
        if all.len() >= PRODUCTS_MAX && !all.contains_key(&product) {
            all.retain(|_, state| !state.limit.is_idle(now.millis()));
            if all.len() >= PRODUCTS_MAX {
                all.clear();
            }
        }
        let state = all.entry(product).or_default();
        if let Some(policy) = policy.map(mark) {
            if state.policy.is_some_and(|last| last != policy) {
                state.limit = Gcra::default();
            }
            state.policy = Some(policy);
        }
        state.limit.check(rpm, now.millis()).map_err(|RetryAfterSeconds(seconds)| seconds)
    }

    /// Begins afresh after a change of policy.
    pub fn reset(&self, product: ProductId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&product);
    }
}

/// What tells two policies apart, in this process.
fn mark(policy: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    policy.to_string().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(1_777_293_296_000 + ms)
    }

    #[test]
    fn products_are_counted_apart_and_a_policy_change_begins_afresh() {
        let (rates, one, other) = (Rates::default(), ProductId::generate(), ProductId::generate());
        for _ in 0..2 {
            assert_eq!(rates.check(one, Some(2), None, at(0)), Ok(()));
        }
        assert_eq!(rates.check(one, Some(2), None, at(0)), Err(30));
        assert_eq!(rates.check(other, Some(2), None, at(0)), Ok(()));
        rates.reset(one);
        assert_eq!(rates.check(one, Some(2), None, at(0)), Ok(()));
    }

    #[test]
    fn another_policy_in_the_row_begins_afresh_and_an_old_one_from_memory_does_not() {
        let (rates, product) = (Rates::default(), ProductId::generate());
        let (first, second) = (json!({"rate_limit_rpm": 1}), json!({"rate_limit_rpm": 1, "max_engines": 9}));
        let ask = |policy: Option<&Value>| rates.check(product, Some(1), policy, at(0));
        assert_eq!((ask(Some(&first)), ask(Some(&first))), (Ok(()), Err(60)));
        assert_eq!((ask(Some(&second)), ask(Some(&second))), (Ok(()), Err(60)));
        assert_eq!((ask(None), ask(Some(&second))), (Err(60), Err(60)));
    }

    #[test]
    fn without_a_limit_everything_passes_and_nothing_is_remembered() {
        let (rates, product) = (Rates::default(), ProductId::generate());
        for _ in 0..1000 {
            assert_eq!(rates.check(product, None, None, at(0)), Ok(()));
        }
        assert!(rates.0.lock().expect("is not poisoned").is_empty());
    }
}
