//! The last step of `replace`: what was there before the import and is not in the bundle goes, a few rows at a time.
//!
//! Searches find the old and the new side by side until then, so that a crash never leaves less than there was. What a
//! turn wrote while the import ran is newer than the marks and stays.
//!
//! The invariant: no row of the bundle is taken away, neither itself nor because of what it rests on.

use super::super::item::Touched;
use super::super::shape::node_text;
use super::apply::{Done, STEP};
use super::progress::{Progress, Table};
use brain::Tx;
use brain::memory::{MemoryId, edges, episodes, erase, knowledge, nodes, signals};
use brain::{skills, soul};
use contract::{SignalId, Timestamp};
use std::collections::HashSet;
use std::time::Instant;

/// Rows looked at in one reading. More reads rows that the time of a step does not reach; fewer asks more often.
const PAGE: u32 = 50;

/// Removes previous rows for the time of one step; true when nothing of them is left. `kept` are the ids of the bundle,
/// `begun` is when the import began.
pub fn step(
    tx: &Tx<'_>,
    progress: &mut Progress,
    kept: &HashSet<String>,
    begun: Timestamp,
) -> brain::Result<(Done, bool)> {
    let started = Instant::now();
    let mut done = Done::default();
    while started.elapsed() < STEP {
        let is_over = match progress.table {
            Table::Signals => feedback(tx, progress, kept, begun)?,
            Table::Rest => {
                rest(tx, progress, kept, &mut done)?;
                true
            }
            Table::Edges | Table::Nodes | Table::Facts | Table::Episodes => {
                page(tx, progress, kept, &mut done, started)?
            }
        };
        if is_over {
            let Some(next) = progress.table.next() else { return Ok((done, true)) };
            (progress.table, progress.removed_to) = (next, 0);
        }
    }
    Ok((done, false))
}

/// A page of a table; true when there is no more of it.
fn page(
    tx: &Tx<'_>,
    progress: &mut Progress,
    kept: &HashSet<String>,
    done: &mut Done,
    started: Instant,
) -> brain::Result<bool> {
    let (after, marks) = (progress.removed_to, progress.marks);
    let (rows, mark): (Vec<(i64, MemoryId)>, i64) = match progress.table {
        Table::Edges => {
            let rows = edges::page(tx, after, PAGE)?;
            (rows.into_iter().map(|r| (r.row, MemoryId::Edge(r.item.edge_id))).collect(), marks.edges)
        }
        Table::Nodes => {
            let rows = nodes::page(tx, after, PAGE)?;
            (rows.into_iter().map(|r| (r.row, MemoryId::Node(r.item.node_id))).collect(), marks.nodes)
        }
        Table::Facts => {
            let rows = knowledge::page(tx, after, PAGE)?;
            (rows.into_iter().map(|r| (r.row, MemoryId::Fact(r.item.fact_id))).collect(), marks.facts)
        }
        Table::Episodes => {
            let rows = episodes::page(tx, after, PAGE)?;
            (
                rows.into_iter().map(|r| (r.row, MemoryId::Episode(r.item.episode_id))).collect(),
                marks.episodes,
            )
        }
        Table::Signals | Table::Rest => return Ok(true),
    };
    let mut left = false;
    for (row, id) in rows.into_iter().take_while(|(row, _)| *row <= mark) {
        left = true;
        if !kept.contains(id.as_str())
            && let Some(erased) = erase::erase(tx, &id, &node_text)?
        {
            done.touched = std::mem::take(&mut done.touched).and(Touched::erased(&erased));
        }
        progress.removed_to = row;
        if started.elapsed() >= STEP {
            break;
        }
    }
    Ok(!left)
}

/// A page of the feedback; true when there is no more of it.
fn feedback(
    tx: &Tx<'_>,
    progress: &mut Progress,
    kept: &HashSet<String>,
    begun: Timestamp,
) -> brain::Result<bool> {
    let after = progress.signals_to.as_deref().and_then(|id| SignalId::parse(id).ok());
    let rows = signals::page(tx, after.as_ref(), PAGE)?;
    for signal in &rows {
        if !kept.contains(signal.signal_id.as_str()) && signal.created_at < begun {
            signals::delete(tx, &signal.signal_id)?;
        }
    }
    let Some(last) = rows.last() else { return Ok(true) };
    progress.signals_to = Some(last.signal_id.as_str().to_owned());
    Ok(false)
}

fn rest(tx: &Tx<'_>, progress: &Progress, kept: &HashSet<String>, done: &mut Done) -> brain::Result<()> {
    for name in progress.skills_before.iter().filter(|name| !kept.contains(*name)) {
        skills::delete(tx, name)?;
        done.skills = true;
    }
    if let Some(first) = progress.first_version {
        soul::forget_before(tx, first)?;
    }
    Ok(())
}
