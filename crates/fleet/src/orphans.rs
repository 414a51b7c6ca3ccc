//! Objects without a row, and lists that lack too much (§12.3).
//!
//! Two small state machines over passes of the reconcile loop. They refuse to remove in doubt: an orphan is old,
//! was without a row in two passes and is looked at again by the executor; a pass that would remove much removes
//! nothing; a list that lacks half the fleet is not believed until two further ones agree. The invariant: storage
//! of orphans is never touched.

use crate::restart::since;
use contract::{EngineId, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Fewer removals than this never set the brake: single orphans are ordinary.
pub const BRAKE_LEAST: usize = 3;
/// Fewer absences than this never look like a mass: small fleets lose single objects.
pub const ABSENCE_LEAST: usize = 5;
/// Further lists that must agree before a mass absence is believed. Fewer would believe a daemon that is still
/// loading its objects; more would keep a really lost host undetected for longer.
pub const ABSENCE_AGREEMENTS: u32 = 2;
/// Time between two lists that count as agreeing. Shorter would ask the same confused daemon three times.
pub const ABSENCE_SPACING: Duration = Duration::from_secs(30);

/// What a pass found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OrphanPass {
    /// Look at these again, and remove the objects that are still there.
    pub remove: Vec<EngineId>,
    /// These would have been removed, but are too many: wait for a person (`bap_orphan_brake_active`).
    pub braked: Vec<EngineId>,
    /// Objects without a row that are too young or were seen in one pass only.
    pub waiting: usize,
}

/// What the passes remember.
#[derive(Debug, Clone, Default)]
pub struct Orphans {
    first_seen: BTreeMap<EngineId, Timestamp>,
}

impl Orphans {
    /// One pass over a believed list. `objects` = every object of our instance with the time it was made, if known
    /// (an object without one is as old as its first sighting); `has_row` answers from a read made after the list.
    pub fn pass(
        &mut self,
        objects: &[(EngineId, Option<Timestamp>)],
        has_row: impl Fn(EngineId) -> bool,
        grace: Duration,
        now: Timestamp,
    ) -> OrphanPass {
        let mut seen_now = BTreeMap::new();
        let mut ripe = Vec::new();
        let mut pass = OrphanPass::default();
        for &(engine, created_at) in objects.iter().filter(|(engine, _)| !has_row(*engine)) {
            let before = self.first_seen.get(&engine).copied();
            let first = before.unwrap_or(now);
            seen_now.insert(engine, first);
            let old = since(created_at.unwrap_or(first), now) > grace;
            if before.is_some() && old {
                ripe.push(engine);
            } else {
                pass.waiting += 1;
            }
        }
        self.first_seen = seen_now;
        let too_many = ripe.len() >= BRAKE_LEAST && ripe.len() * 10 > objects.len();
        if too_many {
            pass.braked = ripe;
        } else {
            pass.remove = ripe;
        }
        pass
    }
}

/// Whether a list may be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListVerdict {
    /// Plan by it.
    Believed,
    /// It counts as "no word".
    Doubted,
}

/// What lists have said about missing engines.
#[derive(Debug, Clone, Default)]
pub struct Absence {
    doubt: Option<Doubt>,
}

#[derive(Debug, Clone)]
struct Doubt {
    missing: BTreeSet<EngineId>,
    agreements: u32,
    last_at: Timestamp,
}

impl Absence {
    /// Judges one list: `expected` engines should have an object, `missing` of them have none in it. Lists agree
    /// as long as what all of them lack is still a mass.
    pub fn judge(&mut self, expected: usize, missing: &BTreeSet<EngineId>, now: Timestamp) -> ListVerdict {
        let is_mass = |count: usize| count >= ABSENCE_LEAST && count * 2 > expected;
        if !is_mass(missing.len()) {
            self.doubt = None;
            return ListVerdict::Believed;
        }
        if let Some(doubt) = &mut self.doubt {
            let common: BTreeSet<EngineId> = doubt.missing.intersection(missing).copied().collect();
            if is_mass(common.len()) {
                if doubt.agreements >= ABSENCE_AGREEMENTS {
                    return ListVerdict::Believed;
                }
                if since(doubt.last_at, now) >= ABSENCE_SPACING {
                    doubt.missing = common;
                    doubt.agreements += 1;
                    doubt.last_at = now;
                }
                return if doubt.agreements >= ABSENCE_AGREEMENTS {
                    ListVerdict::Believed
                } else {
                    ListVerdict::Doubted
                };
            }
        }
        self.doubt = Some(Doubt { missing: missing.clone(), agreements: 0, last_at: now });
        ListVerdict::Doubted
    }
}
