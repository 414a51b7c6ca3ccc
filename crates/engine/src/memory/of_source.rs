//! Forgetting everything that came from one source: a message, a turn, an import, or the API.
//!
//! A bundle can have brought in a hundred thousand rows. They go a few at a time, each few in a transaction, so that other
//! writers get their turn; killed halfway it can be asked for again. What has the source while it goes on goes, too.
//!
//! The invariant: nobody learns any more from the turn that is the source, and after the last step no memory names the
//! source.

use super::item::Touched;
use super::shape::node_text;
use super::{Memory, bundle};
use crate::learning::showings;
use brain::memory::{MemoryId, erase, trajectories};
use brain::{Tx, messages, turns};
use contract::{MessageId, Timestamp, TurnId};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashSet};
use std::time::Instant;

/// Memories of each kind that are erased between two looks at the clock. More makes a step longer than it may be; fewer
/// asks more often.
const AT_ONCE: u32 = 10;
/// Ids of a list of the answer. More makes it megabytes large after a large import; fewer leaves out what somebody may look
/// for. `total` counts all.
const NAMED: usize = 10_000;

/// What a deletion by source came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OfSource {
    /// The memories that came from it, as far as an answer names them.
    pub deleted: Vec<MemoryId>,
    /// What rested only on those, likewise.
    pub also_deleted: Vec<MemoryId>,
    /// The learned skills that were made of a procedure among them: skills of their own that stay.
    pub still_in_skills: BTreeSet<String>,
    /// How many memories went.
    pub total: u64,
}

impl OfSource {
    /// As the answer says it, over HTTP and on the command line.
    pub fn json(&self, source: &str) -> Value {
        let ids = |ids: &[MemoryId]| ids.iter().map(|id| Value::from(id.as_str())).collect::<Value>();
        json!({
            "status": "deleted",
            "source": source,
            "deleted": ids(&self.deleted),
            "also_deleted": ids(&self.also_deleted),
            "still_in_skills": self.still_in_skills,
            "total": self.total,
        })
    }

    fn and(&mut self, step: Self) {
        self.deleted.extend(step.deleted);
        self.also_deleted.extend(step.also_deleted);
        self.deleted.truncate(NAMED);
        self.also_deleted.truncate(NAMED);
        self.still_in_skills.extend(step.still_in_skills);
        self.total += step.total;
    }
}

impl Memory {
    /// Forgets for good what came from this source, word for word as the memories name it, and what rests only on that.
    /// `None` when nothing in memory came from it.
    pub async fn erase_source(&self, source: &str) -> brain::Result<Option<OfSource>> {
        let mut all = OfSource::default();
        loop {
            let wanted = source.to_owned();
            let step =
                self.commit("memory.erase_source", move |tx| step(tx, &wanted, Timestamp::now())).await?;
            if step.total == 0 {
                return Ok((all.total > 0).then_some(all));
            }
            all.and(step);
        }
    }
}

/// Erases some of it, for the time of a step; nothing when nothing of it is left.
fn step(tx: &Tx<'_>, source: &str, now: Timestamp) -> brain::Result<(OfSource, Touched)> {
    let started = Instant::now();
    let (mut done, mut touched) = (OfSource::default(), Touched::default());
    take_back(tx, source, now)?;
    let mut procedures = Vec::new();
    while started.elapsed() < bundle::STEP {
        let (ids, erased) = erase::of_source(tx, source, AT_ONCE, &node_text)?;
        if ids.is_empty() {
            break;
        }
        let asked: HashSet<&MemoryId> = ids.iter().collect();
        touched = touched.and(Touched::erased(&erased));
        for gone in erased.gone {
            done.total += 1;
            let list = if asked.contains(&gone.item) { &mut done.deleted } else { &mut done.also_deleted };
            list.push(gone.item);
        }
        procedures.extend(erased.procedures);
    }
    showings::drop_procedures(tx, &procedures)?;
    done.still_in_skills.extend(showings::skills_that_say(tx, &procedures)?);
    Ok((done, touched))
}

/// Nobody learns from the turn that is the source, or in which the message stands that is.
fn take_back(tx: &Tx<'_>, source: &str, now: Timestamp) -> brain::Result<()> {
    let turn = match source.split_once(':') {
        Some(("trajectory", id)) => TurnId::parse(id).ok(),
        Some(("message", id)) => match MessageId::parse(id) {
            Ok(id) => messages::find(tx, &id)?.map(|(_, message)| message.turn_id),
            Err(_) => None,
        },
        _ => None,
    };
    let Some(turn) = turn else { return Ok(()) };
    match turns::get(tx, &turn)? {
        Some(turn) if turn.ended_at.is_none() => trajectories::pass_over(tx, &turn, now),
        _ => trajectories::take_back(tx, &turn, now).map(drop),
    }
}
