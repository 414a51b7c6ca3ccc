//! Who and what there is: the nodes of the social graph.
//!
//! A node is searched by a text that names its relations, too. That text is never handed over: it is rendered
//! from what is stored, in the transaction that changes the node or a relation, so it cannot name what is gone.

use super::age::{self, Age};
use super::columns::Columns;
use super::edges::{self, Relation};
use super::{PROVENANCE, Provenance, Stored, all, each, first, provenance};
use crate::{Error, Result, Tx};
use contract::NodeId;
use contract::memory::{NodeKind, Trust};
use rusqlite::{Row, params};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Nodes that share a name or alias and are compared with a new one. More would make one write slow; fewer
/// would miss the right John.
pub const NAMESAKES: u32 = 50;

/// One person, organization or thing. Normalisation is the writer's.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Its id.
    pub node_id: NodeId,
    /// Its name.
    pub name: String,
    /// The same, normalised.
    pub name_norm: String,
    /// person, organization, other.
    pub kind: NodeKind,
    /// Other names.
    pub aliases: Vec<String>,
    /// The same, normalised.
    pub aliases_norm: Vec<String>,
    /// What else is known.
    pub attributes: Map<String, Value>,
    /// Where it comes from.
    pub provenance: Provenance,
}

/// Makes the searched text of a node from it and its relations.
pub type Render<'r> = dyn Fn(&Node, &[Relation]) -> String + 'r;

const COLUMNS: &str = "id, node_id, name, name_norm, kind, aliases, aliases_norm, attributes";

fn read(row: &Row<'_>) -> Result<Stored<Node>> {
    let id: String = row.get(1)?;
    let kind: String = row.get(4)?;
    let (aliases, norms, attributes): (String, String, String) = (row.get(5)?, row.get(6)?, row.get(7)?);
    let wrong = |column| Error::bad_data(column, &id);
    Ok(Stored {
        row: row.get(0)?,
        item: Node {
            node_id: NodeId::parse(&id).map_err(|_| wrong("social_graph_nodes.node_id"))?,
            name: row.get(2)?,
            name_norm: row.get(3)?,
            kind: NodeKind::parse(&kind).ok_or_else(|| wrong("social_graph_nodes.kind"))?,
            aliases: serde_json::from_str(&aliases).map_err(|_| wrong("social_graph_nodes.aliases"))?,
            aliases_norm: serde_json::from_str(&norms)
                .map_err(|_| wrong("social_graph_nodes.aliases_norm"))?,
            attributes: serde_json::from_str(&attributes)
                .map_err(|_| wrong("social_graph_nodes.attributes"))?,
            provenance: provenance(row, 8)?,
        },
    })
}

fn select(rest: &str) -> String {
    format!("SELECT {COLUMNS}, {PROVENANCE} FROM social_graph_nodes {rest}")
}

fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("texts and JSON values always serialise")
}

fn columns(node: &Node) -> Columns<'_> {
    Columns::of("node_id", node.node_id.as_str(), &node.provenance)
        .and("name", &node.name)
        .and("name_norm", &node.name_norm)
        .and("kind", node.kind.as_str())
        .and("aliases", json(&node.aliases))
        .and("aliases_norm", json(&node.aliases_norm))
        .and("attributes", json(&node.attributes))
}

/// Stores a new node, which has no relations yet, and returns its row.
pub fn insert(tx: &Tx<'_>, node: &Node, render: &Render<'_>) -> Result<i64> {
    columns(node).and("search_text", render(node, &[])).insert(tx, "social_graph_nodes")
}

/// Writes everything of a node but its id, and the texts of its neighbours, which name it.
/// Returns the rows whose text changed (their vectors are gone); `None` when there is no such node.
pub fn replace(tx: &Tx<'_>, node: &Node, render: &Render<'_>) -> Result<Option<Vec<i64>>> {
    let rows = columns(node).replace(tx, "social_graph_nodes")?;
    if rows == 0 {
        return Ok(None);
    }
    let mut touched = edges::neighbours(tx, &node.node_id)?;
    touched.insert(node.node_id.clone());
    rewrite(tx, &touched, render).map(Some)
}

/// Renders the texts of these nodes anew and returns the rows whose text changed.
pub(crate) fn rewrite(tx: &Tx<'_>, nodes: &BTreeSet<NodeId>, render: &Render<'_>) -> Result<Vec<i64>> {
    let mut changed = Vec::new();
    for id in nodes {
        let Some(node) = get(tx, id)? else { continue };
        let text = render(&node.item, &edges::relations(tx, id, None)?);
        let rows = tx
            .conn()
            .prepare_cached(
                "UPDATE social_graph_nodes SET search_text = ?2 WHERE id = ?1 AND search_text <> ?2",
            )?
            .execute(params![node.row, text])?;
        if rows == 1 {
            changed.push(node.row);
        }
    }
    Ok(changed)
}

/// One node.
pub fn get(tx: &Tx<'_>, id: &NodeId) -> Result<Option<Stored<Node>>> {
    first(tx, &select("WHERE node_id = ?1"), [id.as_str()], read)
}

/// The nodes of these rows, in this order; those that are gone are left out.
pub fn by_rows(tx: &Tx<'_>, rows: &[i64]) -> Result<Vec<Stored<Node>>> {
    each(tx, &select("WHERE id = ?1"), rows, read)
}

pub(crate) const ALIASED: &str = "WHERE aliases_norm <> '[]' AND name_norm <> ?1
       AND EXISTS (SELECT 1 FROM json_each(aliases_norm) WHERE value = ?1)
     ORDER BY id LIMIT ?2";

/// The nodes with this normalised name, then those with this alias: at most [`NAMESAKES`] of each.
pub fn by_name(tx: &Tx<'_>, norm: &str) -> Result<Vec<Stored<Node>>> {
    let named = select("WHERE name_norm = ?1 ORDER BY id LIMIT ?2");
    let mut found = all(tx, &named, params![norm, NAMESAKES], read)?;
    found.extend(all(tx, &select(ALIASED), params![norm, NAMESAKES], read)?);
    Ok(found)
}

/// The first node whose attribute `name` is the text `value`, of memories with this trust. Reads every node: it is for
/// what is asked rarely.
pub fn with_attribute(tx: &Tx<'_>, name: &str, value: &str, trust: Trust) -> Result<Option<Stored<Node>>> {
    let sql = select(
        "WHERE trust = ?3 AND EXISTS (SELECT 1 FROM json_each(attributes) WHERE key = ?1 AND value = ?2)
         ORDER BY id LIMIT 1",
    );
    first(tx, &sql, params![name, value, trust.as_str()], read)
}

/// What a node is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Its row.
    pub row: i64,
    /// Name and aliases, normalised.
    pub norms: Vec<String>,
}

/// A page of what all nodes are called, in the order of their rows, after row `after`.
pub fn names(tx: &Tx<'_>, after: i64, limit: u32) -> Result<Vec<Names>> {
    let sql = "SELECT id, name_norm, aliases_norm FROM social_graph_nodes WHERE id > ?1 ORDER BY id LIMIT ?2";
    all(tx, sql, params![after, limit], |row| {
        let (id, name, aliases): (i64, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let mut norms: Vec<String> = serde_json::from_str(&aliases)
            .map_err(|_| Error::bad_data("social_graph_nodes.aliases_norm", id))?;
        norms.insert(0, name);
        Ok(Names { row: id, norms })
    })
}

/// The newest first: of those that are older than `before`, or of all.
pub fn newest(tx: &Tx<'_>, before: Option<Age>, limit: u32) -> Result<Vec<Stored<Node>>> {
    let (at, row) = Age::bounds(before);
    all(tx, &select(age::OLDER), params![at, row, limit], read)
}

/// A page of all nodes in the order of their rows, after row `after`.
pub fn page(tx: &Tx<'_>, after: i64, limit: u32) -> Result<Vec<Stored<Node>>> {
    all(tx, &select("WHERE id > ?1 ORDER BY id LIMIT ?2"), params![after, limit], read)
}
