//! How nodes are related: the edges of the social graph. Both ends' searched texts change with an edge.

use super::columns::Columns;
use super::nodes::{self, Render};
use super::{PROVENANCE, Provenance, Stored, all, first, provenance, time, time_or_none};
use crate::{Error, Result, Tx};
use contract::{EdgeId, NodeId, Timestamp};
use rusqlite::{Row, params};
use std::collections::BTreeSet;

/// Relations of one node that are shown and searched, its own before those of others, newest first. More would make the text of somebody
/// everybody knows drown his name; fewer would hide relations of a large family.
pub const RELATIONS: u32 = 200;

/// One relation, directed.
#[derive(Debug, Clone, PartialEq)]
pub struct Edge {
    /// Its id.
    pub edge_id: EdgeId,
    /// Who.
    pub from: NodeId,
    /// To whom.
    pub to: NodeId,
    /// `manager_of`, `sister_of`, …
    pub relation: String,
    /// Since when it holds.
    pub valid_from: Timestamp,
    /// Until when; none = open.
    pub valid_until: Option<Timestamp>,
    /// Where it comes from.
    pub provenance: Provenance,
}

/// An edge seen from one of its ends.
#[derive(Debug, Clone, PartialEq)]
pub struct Relation {
    /// The edge.
    pub edge: Edge,
    /// True when it leads away from this end.
    pub outgoing: bool,
    /// The other end.
    pub other: NodeId,
    /// Its name.
    pub other_name: String,
}

/// The relations of a node that are read with it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Relations {
    /// Its own before those of others, newest first: at most [`RELATIONS`], and the one that was asked for.
    pub listed: Vec<Relation>,
    /// How many lead away from it, listed or not.
    pub outgoing: u64,
}

impl std::ops::Deref for Relations {
    type Target = [Relation];

    fn deref(&self) -> &[Relation] {
        &self.listed
    }
}

const COLUMNS: &str = "id, edge_id, from_node, to_node, relation, valid_from, valid_until";

fn read(row: &Row<'_>) -> Result<Stored<Edge>> {
    let id: String = row.get(1)?;
    let (from, to): (String, String) = (row.get(2)?, row.get(3)?);
    let wrong = |column| Error::bad_data(column, &id);
    Ok(Stored {
        row: row.get(0)?,
        item: Edge {
            edge_id: EdgeId::parse(&id).map_err(|_| wrong("social_graph_edges.edge_id"))?,
            from: NodeId::parse(&from).map_err(|_| wrong("social_graph_edges.from_node"))?,
            to: NodeId::parse(&to).map_err(|_| wrong("social_graph_edges.to_node"))?,
            relation: row.get(4)?,
            valid_from: time(row, 5)?,
            valid_until: time_or_none(row, 6)?,
            provenance: provenance(row, 7)?,
        },
    })
}

fn select(rest: &str) -> String {
    format!("SELECT {COLUMNS}, {PROVENANCE} FROM social_graph_edges {rest}")
}

fn ends(edge: &Edge) -> BTreeSet<NodeId> {
    [edge.from.clone(), edge.to.clone()].into()
}

fn columns(edge: &Edge) -> Columns<'_> {
    Columns::of("edge_id", edge.edge_id.as_str(), &edge.provenance)
        .and("from_node", edge.from.as_str())
        .and("to_node", edge.to.as_str())
        .and("relation", &edge.relation)
        .and("valid_from", edge.valid_from.millis())
        .and("valid_until", edge.valid_until.map(Timestamp::millis))
}

/// Stores a new edge; returns the nodes' rows whose text changed (their vectors are gone).
/// `Error::Constraint` when an end does not exist.
pub fn insert(tx: &Tx<'_>, edge: &Edge, render: &Render<'_>) -> Result<Vec<i64>> {
    columns(edge).insert(tx, "social_graph_edges")?;
    nodes::rewrite(tx, &ends(edge), render)
}

/// Writes everything of an edge but its id, and the texts of the nodes at its ends, at the old ones and the new ones.
/// Returns the nodes' rows whose text changed; `None` when there is no such edge.
pub fn replace(tx: &Tx<'_>, edge: &Edge, render: &Render<'_>) -> Result<Option<Vec<i64>>> {
    let Some(old) = get(tx, &edge.edge_id)? else { return Ok(None) };
    columns(edge).replace(tx, "social_graph_edges")?;
    let touched = ends(&old.item).into_iter().chain(ends(edge)).collect();
    nodes::rewrite(tx, &touched, render).map(Some)
}

/// Ends the validity of an edge; returns the nodes' rows whose text changed. `None` when there is no such edge
/// or it has ended by then already.
pub fn close(
    tx: &Tx<'_>,
    id: &EdgeId,
    valid_until: Timestamp,
    now: Timestamp,
    render: &Render<'_>,
) -> Result<Option<Vec<i64>>> {
    let rows = tx
        .conn()
        .prepare_cached(
            "UPDATE social_graph_edges SET valid_until = ?2, updated_at = ?3
             WHERE edge_id = ?1 AND (valid_until IS NULL OR valid_until > ?2)",
        )?
        .execute(params![id.as_str(), valid_until.millis(), now.millis()])?;
    match get(tx, id)? {
        Some(edge) if rows == 1 => nodes::rewrite(tx, &ends(&edge.item), render).map(Some),
        Some(_) | None => Ok(None),
    }
}

/// One edge.
pub fn get(tx: &Tx<'_>, id: &EdgeId) -> Result<Option<Stored<Edge>>> {
    first(tx, &select("WHERE edge_id = ?1"), [id.as_str()], read)
}

pub(crate) const OPEN: &str = "WHERE from_node = ?1 AND relation = ?3 AND to_node = ?2
       AND (valid_until IS NULL OR valid_until > ?4)
     ORDER BY id DESC LIMIT 1";

/// The edge of this relation between these nodes that still holds at `now`.
pub fn open(
    tx: &Tx<'_>,
    from: &NodeId,
    to: &NodeId,
    relation: &str,
    now: Timestamp,
) -> Result<Option<Stored<Edge>>> {
    first(tx, &select(OPEN), params![from.as_str(), to.as_str(), relation, now.millis()], read)
}

/// A page of all edges in the order of their rows, after row `after`.
pub fn page(tx: &Tx<'_>, after: i64, limit: u32) -> Result<Vec<Stored<Edge>>> {
    all(tx, &select("WHERE id > ?1 ORDER BY id LIMIT ?2"), params![after, limit], read)
}

/// The relations of a node, its own before those of others, newest first: at most [`RELATIONS`], and `asked` in any case.
pub fn relations(tx: &Tx<'_>, node: &NodeId, asked: Option<&EdgeId>) -> Result<Relations> {
    let sql = select(
        "WHERE id IN (SELECT id FROM social_graph_edges WHERE from_node = ?1
                      UNION SELECT id FROM social_graph_edges WHERE to_node = ?1)
         ORDER BY from_node = ?1 DESC, id DESC LIMIT ?2",
    );
    let mut found = all(tx, &sql, params![node.as_str(), RELATIONS], read)?;
    if let Some(id) = asked.filter(|id| found.iter().all(|edge| edge.item.edge_id != **id)) {
        found.extend(get(tx, id)?.filter(|edge| ends(&edge.item).contains(node)));
    }
    let mut listed = Vec::new();
    for edge in found {
        let outgoing = edge.item.from == *node;
        let other = if outgoing { edge.item.to.clone() } else { edge.item.from.clone() };
        let other_name = tx
            .conn()
            .prepare_cached("SELECT name FROM social_graph_nodes WHERE node_id = ?1")?
            .query_row([other.as_str()], |r| r.get(0))?;
        listed.push(Relation { edge: edge.item, outgoing, other, other_name });
    }
    let outgoing = tx
        .conn()
        .prepare_cached("SELECT count(*) FROM social_graph_edges WHERE from_node = ?1")?
        .query_row([node.as_str()], |r| r.get::<_, i64>(0))?;
    Ok(Relations { listed, outgoing: outgoing.unsigned_abs() })
}

/// The edges of a node in either direction, all of them.
pub fn of_node(tx: &Tx<'_>, node: &NodeId) -> Result<Vec<Stored<Edge>>> {
    let mut found = all(tx, &select("WHERE from_node = ?1"), [node.as_str()], read)?;
    let more = select("WHERE to_node = ?1 AND from_node <> ?1");
    found.extend(all(tx, &more, [node.as_str()], read)?);
    Ok(found)
}

/// The nodes at the other ends of a node's edges.
pub(crate) fn neighbours(tx: &Tx<'_>, node: &NodeId) -> Result<BTreeSet<NodeId>> {
    let mut others = BTreeSet::new();
    for edge in of_node(tx, node)? {
        others.extend(ends(&edge.item));
    }
    others.remove(node);
    Ok(others)
}
