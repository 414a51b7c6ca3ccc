//! Nodes and relations of a bundle.
//!
//! A node that is called like one that was there is merged into it, and its relations lead to that one. A relation whose
//! ends have become one is nothing any more.
//!
//! The invariant: a relation leads to the nodes of its bundle or to those they were merged into, and to nobody else.

use super::super::super::item::NewNode;
use super::super::super::shape::node_text;
use super::super::super::{social, write};
use super::super::rows::{EdgeRow, NodeRow};
use super::{Applying, provenance};
use ::memory::entity::name_norm;
use brain::memory::edges::{self, Edge};
use brain::memory::nodes::{self, Node};
use brain::memory::{MemoryId, Provenance, Stored, lineage};
use contract::NodeId;
use contract::memory::{NodeKind, Store, Trust};

impl Applying<'_> {
    pub(super) fn node(&mut self, row: &NodeRow) -> brain::Result<()> {
        let tx = self.tx;
        let provenance = provenance!(row, self.now);
        let origin = self.origin(&provenance, &row.lineage.0);
        let node = Node {
            node_id: row.id.clone(),
            name: row.name.clone(),
            name_norm: name_norm(&row.name),
            kind: row.kind,
            aliases_norm: social::norms(&row.aliases.0),
            aliases: row.aliases.0.clone(),
            attributes: row.attributes.0.clone(),
            provenance,
        };
        let id = MemoryId::Node(row.id.clone());
        if let Some(old) = nodes::get(tx, &row.id)? {
            if !self.replaces() {
                return self.skip(Store::Social);
            }
            let rewritten = nodes::replace(tx, &node, &node_text)?.unwrap_or_default();
            lineage::replace(tx, &id, &origin.lineage)?;
            self.progress.counts.social += 1;
            return self.with(&origin, |writing| {
                writing.touch(Store::Social, old.row);
                writing.rewritten(rewritten)
            });
        }
        if !self.replaces() && self.has_namesake(row)? {
            let new = NewNode {
                name: row.name.clone(),
                kind: Some(row.kind),
                aliases: row.aliases.0.clone(),
                attributes: row.attributes.0.clone(),
                relations: Vec::new(),
            };
            let written = self.with(&origin, |writing| social::node(writing, new))?;
            return match written.item {
                Some(known) => self.merge(&id, &known.id()),
                None => self.skip(Store::Social),
            };
        }
        let stored = nodes::insert(tx, &node, &node_text)?;
        self.progress.counts.social += 1;
        let text = node_text(&node, &[]);
        self.with(&origin, |writing| writing.inserted(Store::Social, stored, &id, &text))
    }

    /// Whether there was a node before the import that this one is merged into.
    fn has_namesake(&self, wanted: &NodeRow) -> brain::Result<bool> {
        let mark = self.progress.marks.nodes;
        if mark == 0 {
            return Ok(false);
        }
        let vouched = |trust: Trust| trust != Trust::Untrusted;
        let open = |kind: NodeKind| kind == NodeKind::Other;
        let fits = |row: &Stored<Node>| {
            row.row <= mark
                && vouched(row.item.provenance.trust) == vouched(wanted.trust)
                && (wanted.kind == row.item.kind || open(wanted.kind) || open(row.item.kind))
        };
        Ok(nodes::by_name(self.tx, &name_norm(&wanted.name))?.iter().any(fits))
    }

    /// The node at an end of a relation: that of the bundle, or the one it was merged into; `None` when it was
    /// forgotten since.
    fn end(&self, id: &NodeId) -> brain::Result<Option<NodeId>> {
        let id = match self.survivors.of(id.as_str()) {
            Some(MemoryId::Node(survivor)) => survivor,
            Some(MemoryId::Episode(_) | MemoryId::Fact(_) | MemoryId::Edge(_)) | None => id,
        };
        Ok(nodes::get(self.tx, id)?.map(|node| node.item.node_id))
    }

    pub(super) fn edge(&mut self, row: &EdgeRow) -> brain::Result<()> {
        let (tx, now) = (self.tx, self.now);
        let provenance = provenance!(row, self.now);
        let origin = self.origin(&provenance, &row.lineage.0);
        let id = MemoryId::Edge(row.id.clone());
        let is_there = edges::get(tx, &row.id)?.is_some();
        if is_there && !self.replaces() {
            return self.skip(Store::Social);
        }
        let (Some(from), Some(to)) = (self.end(&row.from)?, self.end(&row.to)?) else {
            return self.skip(Store::Social);
        };
        if from == to {
            // both ends are one here, and what rests on their relation rests on that one
            return self.merge(&id, &MemoryId::Node(from));
        }
        let edge = Edge {
            edge_id: row.id.clone(),
            from,
            to,
            relation: row.relation.clone(),
            valid_from: row.valid_from,
            valid_until: row.valid_until,
            provenance,
        };
        if is_there {
            // in its place also between other ends: erasing it would take along what rests on it, rows of this bundle
            let rewritten = edges::replace(tx, &edge, &node_text)?.unwrap_or_default();
            lineage::replace(tx, &id, &origin.lineage)?;
            return self.with(&origin, |writing| writing.rewritten(rewritten));
        }
        let is_past = write::has_ended(row.valid_until, now);
        if !self.replaces() && !is_past {
            let open = edges::open(tx, &edge.from, &edge.to, &edge.relation, now)?;
            if let Some(old) = open.filter(|old| old.row <= self.progress.marks.edges) {
                let (known, trust) = (MemoryId::Edge(old.item.edge_id), old.item.provenance.trust);
                self.with(&origin, |writing| writing.confirm(&known, trust, trust).map(drop))?;
                return self.merge(&id, &known);
            }
        }
        let rewritten = edges::insert(tx, &edge, &node_text)?;
        self.with(&origin, |writing| {
            writing.rests_on(&id)?;
            writing.rewritten(rewritten)
        })
    }
}
