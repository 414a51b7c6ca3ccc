//! Forgetting for good: a memory, its full-text entry, vector and lineage, and whatever was derived from it
//! alone. What a fact had taken the place of holds again without it. One transaction; nothing of it can be found afterwards, except in earlier backups.

use super::lineage::{self, Parent};
use super::nodes::{self, Render};
use super::{Change, MemoryId, Stored, all, edges, first, knowledge, signals, trajectories};
use crate::{Error, Result, Tx, snapshots};
use contract::memory::{FactType, ParentKind};
use contract::{FactId, NodeId, SignalId, TaskId, TurnId};
use rusqlite::params;
use std::collections::{BTreeSet, VecDeque};

/// Sources of a task that one write follows. More holds up other writers; fewer takes more commits.
const PIECE_PARENTS: u32 = 100;

/// What went, and what changed because of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Erased {
    /// Every memory that is gone, in the order it went: RAM codes of these rows must go, too.
    pub gone: Vec<Stored<MemoryId>>,
    /// Rows of nodes that stay and whose text no longer names what is gone; their vectors are gone.
    pub rewritten: Vec<i64>,
    /// The procedures among what is gone: turns may show them beside memories.
    pub procedures: Vec<Procedure>,
}

/// A way of doing something that is a memory no more.
#[derive(Debug, Clone, PartialEq)]
pub struct Procedure {
    /// What it was about.
    pub subject: String,
    /// What it said.
    pub content: String,
    /// The turns it came from.
    pub turns: BTreeSet<TurnId>,
}

impl Procedure {
    /// The procedure that a fact is; `None` when it is no procedure, or not there.
    pub fn of(tx: &Tx<'_>, fact: &FactId) -> Result<Option<Self>> {
        let Some(row) = knowledge::get(tx, fact)?.filter(|row| row.item.kind == FactType::Procedure) else {
            return Ok(None);
        };
        let parents = lineage::parents(tx, &MemoryId::Fact(fact.clone()))?.into_iter();
        let turns = parents.filter(|parent| parent.kind == ParentKind::Trajectory);
        let turns = turns.filter_map(|parent| TurnId::parse(&parent.id).ok()).collect();
        Ok(Some(Self { subject: row.item.subject, content: row.item.content, turns }))
    }
}

/// Erases a memory; `None` when there is no such memory.
pub fn erase(tx: &Tx<'_>, id: &MemoryId, render: &Render<'_>) -> Result<Option<Erased>> {
    let erased = erase_all(tx, std::slice::from_ref(id), render)?;
    Ok(if erased.gone.is_empty() { None } else { Some(erased) })
}

/// Erases several memories; those that are gone already are passed over.
pub fn erase_all(tx: &Tx<'_>, ids: &[MemoryId], render: &Render<'_>) -> Result<Erased> {
    let mut queue: VecDeque<MemoryId> = ids.iter().cloned().collect();
    let mut gone = Vec::new();
    let mut procedures = Vec::new();
    let mut touched: BTreeSet<NodeId> = BTreeSet::new();
    while let Some(id) = queue.pop_front() {
        let Some(row) = row_of(tx, &id)? else { continue };
        match &id {
            MemoryId::Node(node) => {
                let edges = edges::of_node(tx, node)?;
                if !edges.is_empty() {
                    // Relations are memories of their own and go first; then it is the node's turn again.
                    queue.push_front(id);
                    edges.into_iter().for_each(|e| queue.push_front(MemoryId::Edge(e.item.edge_id)));
                    continue;
                }
            }
            MemoryId::Edge(edge) => {
                let ends = edges::get(tx, edge)?.map(|e| [e.item.from, e.item.to]);
                touched.extend(ends.into_iter().flatten());
            }
            MemoryId::Fact(fact) => {
                procedures.extend(Procedure::of(tx, fact)?);
                knowledge::reopen(tx, fact)?;
            }
            MemoryId::Episode(_) => {}
        }
        queue.extend(orphans(tx, &Parent { kind: ParentKind::Memory, id: id.as_str().to_owned() })?);
        let (table, _) = id.place();
        let sql = format!("DELETE FROM {table} WHERE id = ?1");
        tx.conn().prepare_cached(&sql)?.execute([row])?;
        gone.push(Stored { row, item: id });
    }
    if !gone.is_empty() {
        let ids: BTreeSet<&str> =
            gone.iter().map(|g| g.item.as_str()).chain(touched.iter().map(NodeId::as_str)).collect();
        snapshots::forget_recalled(tx, &ids)?;
        tx.forget();
    }
    Ok(Erased { rewritten: nodes::rewrite(tx, &touched, render)?, gone, procedures })
}

fn row_of(tx: &Tx<'_>, id: &MemoryId) -> Result<Option<i64>> {
    let (table, column) = id.place();
    let sql = format!("SELECT id FROM {table} WHERE {column} = ?1");
    first(tx, &sql, [id.as_str()], |row| Ok(row.get(0)?))
}

/// Takes a parent away from its children; the children that rest on nothing else.
fn orphans(tx: &Tx<'_>, parent: &Parent) -> Result<Vec<MemoryId>> {
    let children = lineage::children(tx, parent)?;
    for child in &children {
        lineage::cut(tx, child, parent)?;
    }
    let mut alone = Vec::new();
    for child in children {
        if !lineage::is_grounded(tx, &child)? {
            alone.push(child);
        }
    }
    Ok(alone)
}

/// Erases feedback, and the memories that rest on nothing else; `None` when there is no such feedback. What it moved
/// stays moved, and what also rests on its turn stays.
pub fn of_signal(tx: &Tx<'_>, id: &SignalId, render: &Render<'_>) -> Result<Option<Erased>> {
    if signals::delete(tx, id)? == Change::Missing {
        return Ok(None);
    }
    let alone = orphans(tx, &Parent { kind: ParentKind::Signal, id: id.as_str().to_owned() })?;
    erase_all(tx, &alone, render).map(Some)
}

/// Erases up to `limit` memories of each kind that came from this source, and what rests only on them; call it until
/// nothing goes. The former are named first.
pub fn of_source(
    tx: &Tx<'_>,
    source: &str,
    limit: u32,
    render: &Render<'_>,
) -> Result<(Vec<MemoryId>, Erased)> {
    let mut ids = Vec::new();
    for (table, column) in [
        ("social_graph_edges", "edge_id"),
        ("social_graph_nodes", "node_id"),
        ("episodes", "episode_id"),
        ("knowledge_store", "fact_id"),
    ] {
        let sql = format!("SELECT {column} FROM {table} WHERE source = ?1 ORDER BY id LIMIT ?2");
        ids.extend(all(tx, &sql, params![source, limit], |row| MemoryId::stored(&row.get::<_, String>(0)?))?);
    }
    let erased = erase_all(tx, &ids, render)?;
    Ok((ids, erased))
}

/// A piece of forgetting a task.
#[derive(Debug, Clone, PartialEq)]
pub struct Piece {
    /// What this piece erased.
    pub erased: Erased,
    /// True when nothing rests on the task any more.
    pub done: bool,
}

// The task's own rows come first: it has few, the lineage of a whole life has many.
pub(crate) const OF_TASK: [&str; 3] = [
    "SELECT DISTINCT l.parent_kind, l.parent_id FROM conversations c CROSS JOIN memory_lineage l
       ON l.parent_kind = 'message' AND l.parent_id = c.message_id WHERE c.task_id = ?1 LIMIT ?2",
    "SELECT DISTINCT l.parent_kind, l.parent_id FROM turns t CROSS JOIN memory_lineage l
       ON l.parent_kind = 'trajectory' AND l.parent_id = t.turn_id WHERE t.task_id = ?1 LIMIT ?2",
    "SELECT DISTINCT l.parent_kind, l.parent_id FROM turns t
       CROSS JOIN learning_signals s ON s.turn_id = t.turn_id
       CROSS JOIN memory_lineage l ON l.parent_kind = 'signal' AND l.parent_id = s.signal_id
     WHERE t.task_id = ?1 LIMIT ?2",
];

/// Erases a piece of what rests only on a task: on its messages, its turns and the feedback on them, which goes
/// last; nobody learns from its turns any more. Call it until it says that it is done, and before the task's history is deleted: without the history
/// nobody can tell what rested on it.
pub fn of_task(tx: &Tx<'_>, task: &TaskId, render: &Render<'_>) -> Result<Piece> {
    trajectories::forget_pending(tx, task)?;
    let mut parents = Vec::new();
    for sql in OF_TASK {
        parents.extend(all(tx, sql, params![task.as_str(), PIECE_PARENTS], |row| {
            let kind: String = row.get(0)?;
            let kind = ParentKind::parse(&kind)
                .ok_or_else(|| Error::bad_data("memory_lineage.parent_kind", &kind))?;
            Ok(Parent { kind, id: row.get(1)? })
        })?);
    }
    let mut alone = Vec::new();
    for parent in &parents {
        alone.extend(orphans(tx, parent)?);
    }
    let done = parents.is_empty();
    if done {
        tx.conn()
            .prepare_cached(
                "DELETE FROM learning_signals WHERE turn_id IN (SELECT turn_id FROM turns WHERE task_id = ?1)",
            )?
            .execute([task.as_str()])?;
    }
    Ok(Piece { erased: erase_all(tx, &alone, render)?, done })
}
