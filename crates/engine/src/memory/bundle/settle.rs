//! Before a replacement is applied: nothing is learned from the time before any more.
//!
//! A turn or a piece of feedback that waits to be learned from would bring back, after the replacement, what it took
//! away; so would what several turns have shown, which becomes a pattern of the soul or a skill; and so would a turn that
//! is under way, when it ends. All of it is ended first, a few rows at a time; the marks are taken in the transaction that
//! finds nothing left. A batch of the Learning Centre that is reading such a turn finds it ended and writes nothing.
//!
//! The invariant: at the instant of the marks nothing of the time before waits to be learned from.

use super::apply::STEP;
use super::progress::{Phase, Progress};
use brain::memory::{MemoryId, marks, signals, trajectories};
use brain::soul::{self, Soul};
use brain::{Tx, skills, snapshots, turns};
use contract::{Timestamp, TurnId};
use std::collections::BTreeSet;
use std::time::Instant;

/// Rows that are ended at once. More reads traces for longer than a step may take; fewer asks more often.
const PAGE: u32 = 100;

/// Ends what waits, for the time of one step; when nothing waits any more, rows are applied next. `template` is the
/// catalog's soul.
pub fn step(tx: &Tx<'_>, progress: &mut Progress, template: &Soul, now: Timestamp) -> brain::Result<()> {
    let started = Instant::now();
    while started.elapsed() < STEP {
        if trajectories::end_pending(tx, PAGE, now)? + signals::end_waiting(tx, PAGE, now)? > 0 {
            continue;
        }
        let after = progress.shown_to.as_deref().and_then(|id| TurnId::parse(id).ok());
        match trajectories::forget_shown(tx, after.as_ref(), PAGE)? {
            Some(last) => progress.shown_to = Some(last.as_str().to_owned()),
            None => {
                leave_under_way(tx, now)?;
                return set_out(tx, progress, template, now);
            }
        }
    }
    Ok(())
}

/// Nothing is learned from the turns that are under way, and their next calls are sent without what they recalled: rows
/// may be rewritten in place, with other words.
fn leave_under_way(tx: &Tx<'_>, now: Timestamp) -> brain::Result<()> {
    let mut recalled = BTreeSet::new();
    for turn in turns::open(tx)? {
        trajectories::pass_over(tx, &turn, now)?;
        recalled.extend(turns::recalled(tx, &turn.turn_id)?);
    }
    snapshots::forget_recalled(tx, &recalled.iter().map(MemoryId::as_str).collect())
}

/// Notes what there is now, which is what there was before the import.
pub fn set_out(tx: &Tx<'_>, progress: &mut Progress, template: &Soul, now: Timestamp) -> brain::Result<()> {
    progress.marks = marks::now(tx)?;
    progress.skills_before = skills::list(tx)?.into_iter().map(|skill| skill.name).collect();
    if progress.clears_soul {
        // at once, so that whoever writes while the import runs does not write upon what is to be forgotten
        progress.first_version = soul::reset(tx, template, now)?;
    }
    progress.phase = Phase::Applying;
    Ok(())
}
