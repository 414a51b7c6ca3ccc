//! What a person takes out of the soul, or out of what the assistant knows how to do, is taken out of what turns have
//! shown of it, too. Else the next batch would count the same turns again and bring it back, and the words of the Learning
//! Centre would outlive the memory that was erased.
//!
//! A turn that waits or is under way may show the line in other words, which nobody can compare with what is forgotten: so
//! no pattern of a turn counts that was begun before the person took one out. Its memories and procedures count.
//!
//! The invariant: after the commit only turns that begin later speak for what was taken out, and no byte of it is left in
//! any trajectory.

use super::commit::Shown;
use super::practice::is_same;
pub use super::practice::skills_that_say;
use ::memory::entity::name_norm;
use ::memory::soul::is_same_line;
use brain::memory::erase::Procedure;
use brain::memory::trajectories;
use brain::{Tx, meta, soul};
use contract::{Timestamp, TurnId};
use std::collections::{BTreeSet, HashMap};

/// Trajectories that are read at once. More holds more texts in RAM; fewer asks more often.
const PAGE: u32 = 500;
/// Versions of the soul that are read at once. More holds megabytes in RAM; fewer asks more often.
const VERSIONS: u32 = 100;

/// Takes the lines that were in the soul `before` and are not `after` out of what turns have shown.
pub fn drop_lines(tx: &Tx<'_>, before: &[String], after: &[String], now: Timestamp) -> brain::Result<()> {
    let dropped: Vec<&str> = before.iter().filter(|line| !after.contains(line)).map(String::as_str).collect();
    if dropped.is_empty() {
        return Ok(());
    }
    meta::set(tx, meta::PATTERNS_SINCE, &now.millis().to_string())?;
    drop_patterns(tx, &dropped)
}

/// Takes what earlier versions of the soul say, and the present one does not, out of what turns have shown. To be called
/// before those versions go.
pub fn forget_history(tx: &Tx<'_>) -> brain::Result<()> {
    let Some(present) = soul::get(tx)? else { return Ok(()) };
    let (mut lines, mut before) = (BTreeSet::new(), None);
    loop {
        let versions = soul::history(tx, before, VERSIONS)?;
        let Some(last) = versions.last() else { break };
        before = Some(last.version);
        lines.extend(versions.into_iter().flat_map(|version| version.soul.patterns));
    }
    let gone = lines.iter().filter(|line| !present.soul.patterns.contains(line));
    drop_patterns(tx, &gone.map(String::as_str).collect::<Vec<_>>())
}

/// Whether the patterns of a turn that was begun then count.
pub fn patterns_count(tx: &Tx<'_>, begun: Timestamp) -> brain::Result<bool> {
    let Some(since) = meta::get(tx, meta::PATTERNS_SINCE)? else { return Ok(true) };
    let since: i64 =
        since.parse().map_err(|_| brain::Error::bad_data("brain_meta.patterns_since", &since))?;
    Ok(begun.millis() > since)
}

fn drop_patterns(tx: &Tx<'_>, lines: &[&str]) -> brain::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    // many turns show the same words
    let mut known: HashMap<String, bool> = HashMap::new();
    edit(tx, "patterns", |_, shown| {
        shown.patterns.retain(|pattern| {
            if let Some(goes) = known.get(&pattern.text) {
                return !goes;
            }
            let goes = lines.iter().any(|line| is_same_line(line, &pattern.text));
            known.insert(pattern.text.clone(), goes);
            !goes
        });
    })
}

/// Takes procedures that were forgotten or reworded out of what turns have shown: in the words they had, or in any under
/// their subject in a turn that they came from.
pub fn drop_procedures(tx: &Tx<'_>, gone: &[Procedure]) -> brain::Result<()> {
    if gone.is_empty() {
        return Ok(());
    }
    edit(tx, "procedures", |turn, shown| {
        shown.procedures.retain(|showing| {
            !gone.iter().any(|one| {
                is_same((&one.subject, &one.content), (&showing.subject, &showing.text))
                    || (one.turns.contains(turn) && name_norm(&one.subject) == name_norm(&showing.subject))
            })
        });
    })
}

/// Changes what turns have shown under this name.
fn edit(tx: &Tx<'_>, what: &str, mut change: impl FnMut(&TurnId, &mut Shown)) -> brain::Result<()> {
    let mut after: Option<TurnId> = None;
    loop {
        let page = trajectories::showing(tx, what, after.as_ref(), PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(last.clone());
        for (turn, value) in page {
            let mut shown: Shown = serde_json::from_value(value)
                .map_err(|_| brain::Error::bad_data("trajectories.trace_json", turn.as_str()))?;
            let before = shown.clone();
            change(&turn, &mut shown);
            if shown != before {
                let shown = serde_json::to_value(shown).expect("texts always serialise");
                trajectories::note_shown(tx, &turn, &shown)?;
                tx.forget();
            }
        }
    }
}
