//! What a memory stems from: messages, turns, other memories, feedback, bundles.

use super::{MemoryId, all, standing};
use crate::{Error, Result, Tx};
use contract::memory::ParentKind;
use rusqlite::params;
use std::collections::BTreeSet;

/// Ancestors looked at before a memory counts as resting on something else and is kept. More could make one
/// erasure slow; fewer would keep what rests on a long chain of nothing.
const ANCESTORS: usize = 1000;

/// One thing a memory stems from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Parent {
    /// What it is.
    pub kind: ParentKind,
    /// Its id: `msg-…`, `turn-…`, a memory's id, `sig-…`, the name of a bundle.
    pub id: String,
}

/// Notes what a memory stems from; what is noted already stays.
pub fn add(tx: &Tx<'_>, memory: &MemoryId, parents: &[Parent]) -> Result<()> {
    let mut insert = tx.conn().prepare_cached(
        "INSERT INTO memory_lineage (memory_id, parent_kind, parent_id) VALUES (?1, ?2, ?3)
         ON CONFLICT DO NOTHING",
    )?;
    for parent in parents {
        insert.execute(params![memory.as_str(), parent.kind.as_str(), parent.id])?;
    }
    Ok(())
}

/// Lets a memory stem from these and nothing else; from nothing when it now stands for its own sake.
pub fn replace(tx: &Tx<'_>, memory: &MemoryId, parents: &[Parent]) -> Result<()> {
    tx.conn()
        .prepare_cached("DELETE FROM memory_lineage WHERE memory_id = ?1")?
        .execute([memory.as_str()])?;
    add(tx, memory, parents)
}

/// What a memory stems from.
pub fn parents(tx: &Tx<'_>, memory: &MemoryId) -> Result<Vec<Parent>> {
    let sql = "SELECT parent_kind, parent_id FROM memory_lineage WHERE memory_id = ?1
               ORDER BY parent_kind, parent_id";
    all(tx, sql, [memory.as_str()], |row| {
        let kind: String = row.get(0)?;
        let kind =
            ParentKind::parse(&kind).ok_or_else(|| Error::bad_data("memory_lineage.parent_kind", &kind))?;
        Ok(Parent { kind, id: row.get(1)? })
    })
}

pub(crate) const CHILDREN: &str =
    "SELECT memory_id FROM memory_lineage WHERE parent_kind = ?1 AND parent_id = ?2 ORDER BY memory_id";

/// The memories that stem from something, perhaps among other things.
pub fn children(tx: &Tx<'_>, parent: &Parent) -> Result<Vec<MemoryId>> {
    all(tx, CHILDREN, params![parent.kind.as_str(), parent.id], |row| {
        MemoryId::stored(&row.get::<_, String>(0)?)
    })
}

/// Lets whatever stems from one memory stem from another that says the same. Nothing stems from itself.
pub fn hand_over(tx: &Tx<'_>, gone: &MemoryId, into: &MemoryId) -> Result<()> {
    let parent = ParentKind::Memory.as_str();
    tx.conn()
        .prepare_cached(
            "INSERT INTO memory_lineage (memory_id, parent_kind, parent_id)
             SELECT memory_id, parent_kind, ?3 FROM memory_lineage WHERE parent_kind = ?1 AND parent_id = ?2
             ON CONFLICT DO NOTHING",
        )?
        .execute(params![parent, gone.as_str(), into.as_str()])?;
    tx.conn()
        .prepare_cached("DELETE FROM memory_lineage WHERE parent_kind = ?1 AND parent_id = ?2")?
        .execute(params![parent, gone.as_str()])?;
    cut(tx, into, &Parent { kind: ParentKind::Memory, id: into.as_str().to_owned() })
}

/// Forgets one thing a memory stems from.
pub(crate) fn cut(tx: &Tx<'_>, memory: &MemoryId, parent: &Parent) -> Result<()> {
    tx.conn()
        .prepare_cached(
            "DELETE FROM memory_lineage WHERE memory_id = ?1 AND parent_kind = ?2 AND parent_id = ?3",
        )?
        .execute(params![memory.as_str(), parent.kind.as_str(), parent.id])?;
    Ok(())
}

/// Whether a derived memory still rests on anything but memories that rest on each other: on a message, a turn,
/// feedback, a bundle, or a memory that was written for its own sake.
pub(crate) fn is_grounded(tx: &Tx<'_>, memory: &MemoryId) -> Result<bool> {
    let mut seen: BTreeSet<MemoryId> = [memory.clone()].into();
    let mut open = vec![memory.clone()];
    while let Some(id) = open.pop() {
        let sources = parents(tx, &id)?;
        let for_its_own_sake = sources.is_empty() && id != *memory && standing::exists(tx, &id)?;
        if for_its_own_sake || sources.iter().any(|p| p.kind != ParentKind::Memory) {
            return Ok(true);
        }
        if seen.len() > ANCESTORS {
            return Ok(true);
        }
        for source in sources {
            let id = MemoryId::stored(&source.id)?;
            if seen.insert(id.clone()) {
                open.push(id);
            }
        }
    }
    Ok(false)
}
