//! Refused admissions on their way to the audit log: counted here, written once a minute.
//!
//! A product that retries in a loop would otherwise write a row per request. So refusals are added up by product,
//! user and reason, and the flush loop takes the sums (`Core::denials.take()`), at most one row each per minute.
//! Nothing here writes: a flush that fails puts the rows back.
//!
//! The invariant: a refusal is counted in exactly one row, and memory is bounded whatever users are invented.

use crate::registry::rows::{AuditEntry, Product};
use contract::{ProductId, Slug, Timestamp, UserId};
use fleet::audit::AuditAction;
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Users counted one by one between two flushes; refusals of further users are added up per product and reason.
/// More would let a flood of invented user ids fill memory and the log; fewer would hide who was refused.
const COUNTED_MAX: usize = 10_000;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Which {
    product: ProductId,
    user: Option<UserId>,
    reason: String,
}

#[derive(Debug)]
struct Tally {
    actor: Slug,
    first: Timestamp,
    count: u64,
}

/// Refusals since the last flush.
#[derive(Debug, Default)]
pub struct Denials(Mutex<HashMap<Which, Tally>>);

impl Denials {
    /// Counts one refusal; `reason` is a `FleetCode` word or an admit reason.
    pub fn note(&self, product: &Product, user: &UserId, reason: &str) {
        self.note_at(product, user, reason, Timestamp::now());
    }

    fn note_at(&self, product: &Product, user: &UserId, reason: &str, now: Timestamp) {
        let which = Which { product: product.id, user: Some(user.clone()), reason: reason.to_owned() };
        self.add(which, Tally { actor: product.slug.clone(), first: now, count: 1 });
    }

    fn add(&self, mut which: Which, more: Tally) {
        let mut tallies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tallies.len() >= COUNTED_MAX && !tallies.contains_key(&which) {
            which.user = None;
        }
        let tally = tallies.entry(which).or_insert(Tally { count: 0, ..more });
        tally.count += more.count;
        tally.first = tally.first.min(more.first);
    }

    /// Takes the rows to be written. Call it once a minute and at drain.
    pub fn take(&self) -> Vec<AuditEntry> {
        let tallies = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        tallies.into_iter().map(|(which, tally)| row(which, tally)).collect()
    }

    /// Takes back rows that could not be written; they are written with the next flush.
    pub fn put_back(&self, rows: Vec<AuditEntry>) {
        for row in rows {
            let reason = row.metadata["reason"].as_str().map(str::to_owned);
            let (Some(product), Some(reason), Ok(actor)) = (row.product_id, reason, Slug::parse(&row.actor))
            else {
                continue;
            };
            let count = row.metadata["count"].as_u64().unwrap_or(1);
            let first = row.started_at.unwrap_or_else(Timestamp::now);
            self.add(Which { product, user: row.user_id, reason }, Tally { actor, first, count });
        }
    }
}

fn row(which: Which, tally: Tally) -> AuditEntry {
    AuditEntry {
        started_at: Some(tally.first),
        product_id: Some(which.product),
        user_id: which.user,
        engine_id: None,
        action: AuditAction::AdmitDenied,
        actor: tally.actor.as_str().to_owned(),
        metadata: json!({"reason": which.reason, "count": tally.count}),
        has_duration: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product() -> Product {
        Product {
            id: ProductId::generate(),
            slug: Slug::parse("demo").expect("is a slug"),
            display_name: "Demo".into(),
            policy: json!({}),
            deleting: false,
            previous_key_expires_at: None,
            total_provisions: 0,
            total_destroys: 0,
            created_at: Timestamp::from_millis(0),
        }
    }

    fn user(name: &str) -> UserId {
        UserId::parse(name).expect("is a user id")
    }

    #[test]
    fn denials_are_coalesced() {
        let (denials, product, other) = (Denials::default(), product(), product());
        for second in 0..60 {
            let now = Timestamp::from_millis(second * 1000);
            denials.note_at(&product, &user("u"), "RATE_LIMITED", now);
        }
        denials.note_at(&product, &user("u"), "engine_sleeping", Timestamp::from_millis(5));
        denials.note_at(&product, &user("v"), "RATE_LIMITED", Timestamp::from_millis(6));
        denials.note_at(&other, &user("u"), "RATE_LIMITED", Timestamp::from_millis(7));
        let rows = denials.take();
        assert_eq!(rows.len(), 4);
        let most = rows.iter().find(|r| r.metadata["count"] == 60).expect("the minute is one row");
        assert_eq!(most.started_at, Some(Timestamp::from_millis(0)));
        assert_eq!((most.actor.as_str(), &most.metadata["reason"]), ("demo", &json!("RATE_LIMITED")));
        for row in &rows {
            assert_eq!(fleet::audit::check_shape(row.action, &row.metadata), Ok(()));
        }
        assert!(denials.take().is_empty(), "a refusal is written once");
    }

    #[test]
    fn rows_that_could_not_be_written_are_counted_on() {
        let (denials, product) = (Denials::default(), product());
        denials.note_at(&product, &user("u"), "engine_stopped", Timestamp::from_millis(1));
        let rows = denials.take();
        denials.note_at(&product, &user("u"), "engine_stopped", Timestamp::from_millis(2));
        denials.put_back(rows);
        let rows = denials.take();
        assert_eq!(rows.len(), 1);
        assert_eq!(
            (&rows[0].metadata["count"], rows[0].started_at),
            (&json!(2), Some(Timestamp::from_millis(1)))
        );
    }

    #[test]
    fn invented_users_do_not_fill_memory() {
        let (denials, product) = (Denials::default(), product());
        for n in 0..COUNTED_MAX + 500 {
            denials.note_at(&product, &user(&format!("u{n}")), "engine_not_found", Timestamp::from_millis(0));
        }
        let rows = denials.take();
        assert_eq!(rows.len(), COUNTED_MAX + 1);
        let rest = rows.iter().find(|r| r.user_id.is_none()).expect("the rest is one row");
        assert_eq!(rest.metadata["count"], 500);
    }
}
