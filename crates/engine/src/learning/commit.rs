//! What one turn taught, written in one transaction: memories, what becomes of its feedback, the end of its trajectory,
//! and the batch's figures.
//!
//! A trajectory that is not pending any more, because it was learned from or its task is gone, teaches nothing. The same
//! turn says the same thing once: what it wrote itself, or what was written from it, is neither added nor confirmed.
//!
//! The invariant: all of it is true after the commit, or nothing is.

use super::lessons::{Lesson, Lessons, Showing};
use super::material::Material;
use super::{practice, showings};
use crate::memory::{Origin, Outcome, Prepared, Touched, Wanted, write_in};
use ::memory::likeness::content_hash;
use ::memory::signals::{MEMORY_DOWN, MEMORY_UP};
use brain::memory::batches::{self, Progress, Written};
use brain::memory::lineage::{self, Parent};
use brain::memory::signals::{self, Signal};
use brain::memory::{Change, MemoryId, episodes, knowledge, standing, trajectories};
use brain::{Tx, messages, turns};
use contract::memory::{ParentKind, Rating, Store, Trust};
use contract::{BatchId, SignalId, Timestamp, TurnId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What a trajectory showed beside memories, as it is kept with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// How the person wants things.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patterns: Vec<Showing>,
    /// How things are done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub procedures: Vec<Showing>,
    /// Skills that were made of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skills: Vec<String>,
}

/// What a commit did.
#[derive(Debug, Default)]
pub struct Done {
    /// False when the trajectory or the feedback was gone.
    pub learned: bool,
    /// Rows that RAM must follow.
    pub touched: Touched,
    /// True when custom skills have changed.
    pub skills: bool,
}

/// What a turn taught, to be written.
pub struct Commit<'c> {
    /// The transaction.
    pub tx: &'c Tx<'c>,
    /// The batch that learned it.
    pub batch: &'c BatchId,
    /// The turn, as it was read.
    pub material: &'c Material,
    /// What was made of it.
    pub lessons: &'c Lessons,
    /// Vectors that can be had at once.
    pub vectors: &'c Prepared,
    /// The time of the writing.
    pub now: Timestamp,
}

impl Commit<'_> {
    /// Ends a pending trajectory with what it taught.
    pub fn trajectory(self) -> brain::Result<Done> {
        let (tx, turn, lessons) = (self.tx, &self.material.turn.turn_id, self.lessons);
        if trajectories::processed(tx, turn, self.now)? == Change::Missing {
            return Ok(Done::default());
        }
        let counts = showings::patterns_count(tx, self.material.turn.created_at)?;
        let shown = Shown {
            patterns: if counts { lessons.patterns.clone() } else { Vec::new() },
            procedures: lessons.procedures.clone(),
            skills: Vec::new(),
        };
        if shown != Shown::default() && stands(tx, self.material)? {
            let shown = serde_json::to_value(shown).expect("texts always serialise");
            trajectories::note_shown(tx, turn, &shown)?;
        }
        self.learned(Progress { trajectories: 1, ..Progress::default() })
    }

    /// Ends feedback that came after its turn had been learned from.
    pub fn late_feedback(self) -> brain::Result<Done> {
        for signal in &self.material.signals {
            if signals::get(self.tx, &signal.signal_id)?.is_none_or(|s| s.processed_at.is_some()) {
                return Ok(Done::default());
            }
        }
        // something it said was taken back while the turn was read: the feedback is looked at again, alone
        if trajectories::is_taken_back(self.tx, &self.material.turn.turn_id)? != self.material.taken_back {
            return Ok(Done::default());
        }
        self.learned(Progress::default())
    }

    /// Keeps the lessons of a turn and moves what its feedback was about.
    fn learned(self, mut progress: Progress) -> brain::Result<Done> {
        let (tx, material) = (self.tx, self.material);
        let mut done = Done { learned: true, ..Done::default() };
        // unless it was taken back while it was read
        if stands(tx, material)? {
            self.write(&mut progress, &mut done)?;
        }
        feedback(tx, &material.turn.turn_id, &material.signals, self.now, &mut done)?;
        batches::advance(tx, self.batch, progress)?;
        Ok(done)
    }

    fn write(&self, progress: &mut Progress, done: &mut Done) -> brain::Result<()> {
        let tx = self.tx;
        let turn = self.material.turn.turn_id.as_str().to_owned();
        let turn = Parent { kind: ParentKind::Trajectory, id: turn };
        for Lesson { wanted, origin } in &self.lessons.items {
            if rests_on_erased_feedback(tx, &origin.lineage)? {
                continue;
            }
            if is_from_this_turn(tx, wanted, origin, &turn)? {
                progress.duplicates += 1;
                continue;
            }
            let (written, touched) = write_in(tx, wanted, origin, self.vectors, self.now)?;
            done.touched = std::mem::take(&mut done.touched).and(touched);
            match written.outcome {
                Outcome::Created => count(&mut progress.written, wanted.store()),
                Outcome::Duplicate => progress.duplicates += 1,
                Outcome::Rejected => {}
            }
        }
        Ok(())
    }
}

/// Ends feedback on a turn that is gone: what is left of it is still moved.
pub fn orphaned(tx: &Tx<'_>, signal: &Signal, now: Timestamp) -> brain::Result<Done> {
    let mut done = Done { learned: true, ..Done::default() };
    feedback(tx, &signal.turn_id, std::slice::from_ref(signal), now, &mut done)?;
    Ok(done)
}

/// Whether what the person said to begin the turn is still what they said.
fn stands(tx: &Tx<'_>, material: &Material) -> brain::Result<bool> {
    let turn = &material.turn;
    Ok(messages::get(tx, &turn.task_id, &turn.user_message_id)?.is_some_and(|message| message.active))
}

fn count(written: &mut Written, store: Store) {
    match store {
        Store::Episodes => written.episodes += 1,
        Store::Knowledge => written.knowledge += 1,
        Store::Social => written.social += 1,
    }
}

/// Whether feedback that it cites was erased, or passed over, while it was read.
fn rests_on_erased_feedback(tx: &Tx<'_>, lineage: &[Parent]) -> brain::Result<bool> {
    for parent in lineage.iter().filter(|parent| parent.kind == ParentKind::Signal) {
        let id = SignalId::parse(&parent.id)
            .map_err(|_| brain::Error::bad_data("lineage.parent_id", &parent.id))?;
        if signals::get(tx, &id)?.is_none_or(|signal| signal.processed_at.is_some()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the same words were written from this turn before, or from this very feedback on it, with no less trust: a
/// turn is no second source for itself.
fn is_from_this_turn(tx: &Tx<'_>, wanted: &Wanted, origin: &Origin, turn: &Parent) -> brain::Result<bool> {
    let trust = origin.trust;
    let is_it = |parent: &Parent| {
        parent == turn || (parent.kind == ParentKind::Signal && origin.lineage.contains(parent))
    };
    let same: Vec<(MemoryId, Trust)> = match wanted {
        Wanted::Fact(f) => knowledge::by_hash(tx, &content_hash(&f.subject, &f.content))?
            .into_iter()
            .map(|row| (MemoryId::Fact(row.item.fact_id), row.item.provenance.trust))
            .collect(),
        Wanted::Episode(e) => {
            let text = match &e.value {
                Some(value) => format!("{}\n{value}", e.description),
                None => e.description.clone(),
            };
            episodes::by_hash(tx, &content_hash(&e.key, &text))?
                .into_iter()
                .map(|row| (MemoryId::Episode(row.item.episode_id), row.item.provenance.trust))
                .collect()
        }
        Wanted::Node(_) | Wanted::Edge(_) => Vec::new(),
    };
    for (id, had) in same {
        if had >= trust && lineage::parents(tx, &id)?.iter().any(is_it) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What feedback does: to the memories that were recalled into the turn or written in it, and to skills.
fn feedback(
    tx: &Tx<'_>,
    turn: &TurnId,
    given: &[Signal],
    now: Timestamp,
    done: &mut Done,
) -> brain::Result<()> {
    for signal in given {
        if signals::processed(tx, &signal.signal_id, now)? == Change::Missing {
            continue;
        }
        let Some(rating) = signal.rating else { continue };
        let parent = Parent { kind: ParentKind::Trajectory, id: turn.as_str().to_owned() };
        let mut about: BTreeSet<MemoryId> = turns::recalled(tx, turn)?.into_iter().collect();
        about.extend(lineage::children(tx, &parent)?);
        // what this very feedback taught is not what it is about
        let own = Parent { kind: ParentKind::Signal, id: signal.signal_id.as_str().to_owned() };
        for taught in lineage::children(tx, &own)? {
            about.remove(&taught);
        }
        for id in &about {
            match rating {
                Rating::Up => standing::confirm(tx, id, MEMORY_UP, now)?,
                Rating::Down => standing::adjust(tx, id, -MEMORY_DOWN, now)?,
            };
        }
        done.skills |= practice::rated(tx, turn, rating, now)?;
    }
    Ok(())
}
