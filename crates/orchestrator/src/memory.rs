//! What was admitted lately, for the minutes in which the database cannot be reached.
//!
//! An entry is used only while the lease that was seen in the row has time left: no lease is ever invented, so the
//! fence before a sleep holds.

use crate::registry::rows::{Found, Product};
use contract::{Slug, UserId};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Most entries. More would make this a cache of the whole fleet, fewer would refuse admitted users during a
/// database fail-over.
const ENTRIES_MAX: usize = 20_000;
/// Least rest of a lease that is answered from memory (§6.3).
const REST_MIN: Duration = Duration::from_secs(5);

/// Most products whose names are remembered. More is memory for labels of metrics; fewer leaves refusals of a
/// fail-over uncounted.
const PRODUCTS_MAX: usize = 10_000;

struct Entry {
    product: Product,
    found: Found,
    lease_ends: Instant,
    read: Instant,
}

/// The entries.
#[derive(Default)]
pub struct AdmitMemory {
    entries: Mutex<HashMap<(String, UserId), Entry>>,
    /// Whose key has this hash: for metrics only, it admits nobody.
    slugs: Mutex<HashMap<String, Slug>>,
}

impl AdmitMemory {
    /// Remembers an admission: what was read, and how much of the lease is left.
    pub fn remember(&self, key_hash: &str, product: &Product, found: &Found, rest: Duration) {
        self.note_slug(key_hash, &product.slug);
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if entries.len() >= ENTRIES_MAX {
            entries.retain(|_, e| e.lease_ends > now + REST_MIN);
            if entries.len() >= ENTRIES_MAX {
                return;
            }
        }
        let entry =
            Entry { product: product.clone(), found: found.clone(), lease_ends: now + rest, read: now };
        entries.insert((key_hash.to_owned(), found.engine.user_id.clone()), entry);
    }

    fn note_slug(&self, key_hash: &str, slug: &Slug) {
        let mut slugs = self.slugs.lock().unwrap_or_else(PoisonError::into_inner);
        if slugs.get(key_hash) == Some(slug) {
            return;
        }
        if slugs.len() >= PRODUCTS_MAX {
            slugs.clear();
        }
        slugs.insert(key_hash.to_owned(), slug.clone());
    }

    /// The product that was last admitted with this key, by name.
    pub fn slug_of(&self, key_hash: &str) -> Option<Slug> {
        self.slugs.lock().unwrap_or_else(PoisonError::into_inner).get(key_hash).cloned()
    }

    /// Forgets what is no longer true.
    pub fn forget(&self, key_hash: &str, user: &UserId) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.remove(&(key_hash.to_owned(), user.clone()));
    }

    /// What may still be answered: the rows as read, and how much of the lease is left.
    pub fn recall(&self, key_hash: &str, user: &UserId) -> Option<(Product, Found, Duration)> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.get(&(key_hash.to_owned(), user.clone()))?;
        let rest = entry.lease_ends.checked_duration_since(Instant::now())?;
        if rest < REST_MIN {
            return None;
        }
        let mut found = entry.found.clone();
        found.now = found.now.plus_millis(crate::core::millis(entry.read.elapsed()));
        Some((entry.product.clone(), found, rest))
    }
}
