//! The claims this process holds: on which operations it may act, and until when.
//!
//! A claim is trusted until the moment its last renewal was *sent* plus its lease minus one second, on the monotonic
//! clock. Past that moment an executor acts no more, whatever it believes. What is left possible, after a frozen
//! process wakes between check and call, is one superfluous stop or start, which observation repairs.

use contract::OperationId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How much earlier than the database we stop believing in a claim. Smaller trusts two clocks to run alike;
/// larger than the lease would make every claim worthless.
const DISTRUST: Duration = Duration::from_secs(1);

/// One claim.
#[derive(Debug)]
pub struct Claim {
    /// Which operation.
    pub operation: OperationId,
    /// The number to write under.
    pub number: i64,
    until: Mutex<Instant>,
    lost: CancellationToken,
}

impl Claim {
    /// True while this process may act under it.
    pub fn holds(&self) -> bool {
        !self.lost.is_cancelled()
            && Instant::now() < *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the claim is known to be lost.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Waits until the next one may act although what runs under this claim has not come to its end (§5.3): it is lost,
    /// and its lease has run out.
    pub async fn lapsed(&self) {
        self.lost().await;
        let end = *self.until.lock().unwrap_or_else(PoisonError::into_inner) + DISTRUST;
        tokio::time::sleep_until(end.into()).await;
    }

    /// Marks it lost.
    pub fn lose(&self) {
        self.lost.cancel();
    }
}

/// All claims of this process.
#[derive(Debug)]
pub struct Claims {
    lease: Duration,
    held: Mutex<HashMap<OperationId, Arc<Claim>>>,
}

impl Claims {
    /// None yet; `lease` is `ORCH_OPERATION_LEASE_S`.
    pub fn new(lease: Duration) -> Self {
        Self { lease, held: Mutex::new(HashMap::new()) }
    }

    /// Takes note of a claim whose statement was sent at `sent`. `None`: this process works on it already.
    pub fn take(&self, operation: OperationId, number: i64, sent: Instant) -> Option<Arc<Claim>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = held.get(&operation) {
            if old.number >= number {
                return None;
            }
            old.lose();
        }
        let claim = Arc::new(Claim {
            operation,
            number,
            until: Mutex::new(self.end(sent)),
            lost: CancellationToken::new(),
        });
        held.insert(operation, Arc::clone(&claim));
        Some(claim)
    }

    fn end(&self, sent: Instant) -> Instant {
        sent + self.lease.saturating_sub(DISTRUST)
    }

    /// What to renew.
    pub fn held(&self) -> Vec<(OperationId, i64)> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.values().map(|c| (c.operation, c.number)).collect()
    }

    /// The answer to a renewal sent at `sent`, about the claims of `asked`: those not in `kept` are lost.
    pub fn renewed(&self, sent: Instant, asked: &[(OperationId, i64)], kept: &[OperationId]) {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, number) in asked {
            let Some(claim) = held.get(id).filter(|c| c.number == *number) else {
                continue;
            };
            if kept.contains(id) {
                *claim.until.lock().unwrap_or_else(PoisonError::into_inner) = self.end(sent);
            } else {
                claim.lose();
            }
        }
    }

    /// Somebody superseded this operation: whoever works on it lets go at the next boundary.
    pub fn lose(&self, id: OperationId) {
        if let Some(claim) = self.held.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            claim.lose();
        }
    }

    /// Every claim is lost: the process drains.
    pub fn lose_all(&self) {
        for claim in self.held.lock().unwrap_or_else(PoisonError::into_inner).values() {
            claim.lose();
        }
    }

    /// Every claim is lost and forgotten, as in a killed process. For tests.
    pub fn vanish(&self) {
        self.lose_all();
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The work under this claim has ended.
    pub fn drop_claim(&self, claim: &Claim) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.get(&claim.operation).is_some_and(|c| c.number == claim.number) {
            held.remove(&claim.operation);
        }
    }

    /// How many operations this process works on.
    pub fn count(&self) -> usize {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_that_was_not_renewed_is_lost_and_one_past_its_time_does_not_hold() {
        let claims = Claims::new(Duration::from_secs(15));
        let (a, b) = (OperationId::generate(), OperationId::generate());
        let now = Instant::now();
        let first = claims.take(a, 1, now).expect("nobody works on it");
        let second = claims.take(b, 1, now).expect("nobody works on it");
        assert!(claims.take(a, 1, now).is_none(), "an operation has one executor per process");
        let asked = claims.held();
        claims.renewed(now, &asked, &[a]);
        assert!(first.holds());
        assert!(!second.holds());
        let old = claims.take(OperationId::generate(), 1, now - Duration::from_secs(15)).expect("is new");
        assert!(!old.holds());
    }

    #[tokio::test]
    async fn a_lost_claim_keeps_others_away_until_its_lease_has_run_out() {
        let lease = Duration::from_secs(15);
        let claims = Claims::new(lease);
        let soon = |claim: Arc<Claim>| async move {
            tokio::time::timeout(Duration::from_millis(50), claim.lapsed()).await.is_ok()
        };
        let fresh = claims.take(OperationId::generate(), 1, Instant::now()).expect("is new");
        let old = claims.take(OperationId::generate(), 1, Instant::now() - lease).expect("is new");
        assert!(!soon(Arc::clone(&old)).await, "nobody has taken its place");
        claims.lose_all();
        assert!(soon(old).await, "what hangs under it keeps nobody away for ever");
        assert!(!soon(fresh).await, "its call may be about to end");
    }

    #[test]
    fn a_newer_claim_of_the_same_process_takes_the_place_of_the_older() {
        let claims = Claims::new(Duration::from_secs(15));
        let id = OperationId::generate();
        let first = claims.take(id, 1, Instant::now()).expect("nobody works on it");
        let second = claims.take(id, 2, Instant::now()).expect("the claim is newer");
        assert!(!first.holds() && second.holds());
        claims.drop_claim(&first);
        assert_eq!(claims.count(), 1);
        claims.drop_claim(&second);
        assert_eq!(claims.count(), 0);
    }
}
