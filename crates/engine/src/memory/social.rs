//! People, organizations and their relations through the write gate.
//!
//! A node is recognised by its name or an alias, not by likeness of texts; what is told of it is added to it. What nobody
//! vouches for never touches a node that somebody does vouch for: untrusted nodes and relations have a graph of their
//! own, beside the other.
//!
//! The invariant: a node shows and is found by nothing that is less trusted than itself, except what was said by a local
//! tool or the assistant, which lowers it to their trust.

use super::gate::Writing;
use super::item::{End, Intent, NewEdge, NewNode, NewRelation, Outcome, Written, attributes};
use super::shape::node_text;
use ::memory::confidence::confirmed;
use ::memory::contradiction;
use ::memory::entity::name_norm;
use ::memory::field::ALIASES;
use ::memory::fixed_rules;
use brain::memory::edges::{self, Edge};
use brain::memory::nodes::{self, Node};
use brain::memory::{MemoryId, Provenance, Stored};
use contract::memory::{NodeKind, Store, Trust};
use contract::{EdgeId, NodeId, Timestamp};
use serde_json::{Map, Value};

/// Writes a node, or adds to the one that is called so.
pub(super) fn node(writing: &mut Writing<'_>, new: NewNode) -> brain::Result<Written> {
    if writing.is_echo(&told(&new)) {
        return writing.echo(Store::Social);
    }
    let there = match the_person(writing, &new)? {
        Some(row) => Some(row),
        None => called(writing, &new.name, new.kind)?,
    };
    let (id, mut outcome) = match there {
        Some(row) => add_to(writing, row, &new)?,
        None => (insert(writing, &new)?, Outcome::Created),
    };
    let mut closed = Vec::new();
    for relation in new.relations {
        let NewRelation { relation, to, confidence } = relation;
        let Some(to) = end(writing, to)? else { continue };
        let link = Link { from: id.clone(), to, relation, confidence, valid_from: None };
        match link.write(writing)? {
            Linked::New(_, ended) => {
                outcome = Outcome::Created;
                closed.extend(ended);
            }
            Linked::Known(_) | Linked::Nobody => {}
        }
    }
    writing.written(outcome, &MemoryId::Node(id), closed)
}

/// Writes a relation; ends that are only named are made.
pub(super) fn edge(writing: &mut Writing<'_>, new: NewEdge) -> brain::Result<Written> {
    let said = format!("{} {} {}", shown(writing, &new.from)?, new.relation, shown(writing, &new.to)?);
    if writing.is_echo(&said) {
        return writing.echo(Store::Social);
    }
    let ends = (end(writing, new.from)?, end(writing, new.to)?);
    let (Some(from), Some(to)) = ends else { return Ok(writing.nobody()) };
    let link = Link { from, to, relation: new.relation, confidence: None, valid_from: new.valid_from };
    match link.write(writing)? {
        Linked::New(id, closed) => writing.written(Outcome::Created, &MemoryId::Edge(id), closed),
        Linked::Known(id) => writing.written(Outcome::Duplicate, &MemoryId::Edge(id), Vec::new()),
        Linked::Nobody => Ok(writing.nobody()),
    }
}

/// Whether a node is the person whose memory this is, and it was they who said so.
pub(super) fn is_the_person(node: &Node) -> bool {
    node.provenance.trust == Trust::User && has_the_role(&node.attributes)
}

fn has_the_role(attributes: &Map<String, Value>) -> bool {
    attributes.get(fixed_rules::ROLE).and_then(Value::as_str) == Some(fixed_rules::THE_USER)
}

/// What a new node says, for comparing it with what was recalled.
fn told(new: &NewNode) -> String {
    let mut text = vec![new.name.clone(), new.aliases.join(" ")];
    text.extend(new.attributes.iter().map(|(name, value)| match value {
        Value::String(value) => format!("{name} {value}"),
        other => format!("{name} {other}"),
    }));
    text.extend(new.relations.iter().map(|r| match &r.to {
        End::Name(name) => format!("{} {name}", r.relation),
        End::Id(id) => format!("{} {id}", r.relation),
    }));
    text.join("\n")
}

/// The person's own node, when it is they who say what they are called: there is one of them, whatever the name.
fn the_person(writing: &Writing<'_>, new: &NewNode) -> brain::Result<Option<Stored<Node>>> {
    if writing.origin.trust != Trust::User || !has_the_role(&new.attributes) {
        return Ok(None);
    }
    nodes::with_attribute(writing.tx, fixed_rules::ROLE, fixed_rules::THE_USER, Trust::User)
}

/// The node of this name that what is written may touch.
fn called(writing: &Writing<'_>, name: &str, kind: Option<NodeKind>) -> brain::Result<Option<Stored<Node>>> {
    let vouched = |trust: Trust| trust != Trust::Untrusted;
    let fits = |row: &Stored<Node>| {
        let open = |kind: NodeKind| kind == NodeKind::Other;
        vouched(row.item.provenance.trust) == vouched(writing.origin.trust)
            && kind.is_none_or(|kind| kind == row.item.kind || open(kind) || open(row.item.kind))
    };
    Ok(nodes::by_name(writing.tx, &name_norm(name))?.into_iter().find(fits))
}

fn insert(writing: &mut Writing<'_>, new: &NewNode) -> brain::Result<NodeId> {
    let node = Node {
        node_id: NodeId::generate(),
        name: new.name.clone(),
        name_norm: name_norm(&new.name),
        kind: new.kind.unwrap_or(NodeKind::Person),
        aliases_norm: norms(&new.aliases),
        aliases: new.aliases.clone(),
        attributes: new.attributes.clone(),
        provenance: writing.provenance(),
    };
    let row = nodes::insert(writing.tx, &node, &node_text)?;
    let text = node_text(&node, &[]);
    writing.inserted(Store::Social, row, &MemoryId::Node(node.node_id.clone()), &text)?;
    Ok(node.node_id)
}

/// The aliases as they are compared, each once.
pub(super) fn norms(aliases: &[String]) -> Vec<String> {
    let mut norms: Vec<String> = Vec::new();
    for norm in aliases.iter().map(|alias| name_norm(alias)) {
        if !norms.contains(&norm) {
            norms.push(norm);
        }
    }
    norms
}

/// Adds what is new to a node that is there; confirms it in any case.
fn add_to(writing: &mut Writing<'_>, row: Stored<Node>, new: &NewNode) -> brain::Result<(NodeId, Outcome)> {
    let old = row.item;
    let id = old.node_id.clone();
    let mut node = old.clone();
    let known = |node: &Node, name: &str| {
        node.name_norm == name_norm(name) || node.aliases_norm.contains(&name_norm(name))
    };
    let renamed =
        is_the_person(&old) && has_the_role(&new.attributes) && old.name_norm != name_norm(&new.name);
    if renamed && writing.origin.trust == Trust::User {
        // the name before it stays an alias, in whose place it may have stood
        node.name.clone_from(&new.name);
        node.name_norm = name_norm(&new.name);
        node.aliases.retain(|alias| name_norm(alias) != node.name_norm);
        node.aliases_norm = norms(&node.aliases);
    }
    let names = [&new.name, &old.name];
    for alias in names.into_iter().chain(&new.aliases) {
        if !known(&node, alias) && node.aliases.len() < ALIASES {
            node.aliases.push(alias.clone());
            node.aliases_norm = norms(&node.aliases);
        }
    }
    if node.kind == NodeKind::Other {
        node.kind = new.kind.unwrap_or(node.kind);
    }
    let overrides = writing.origin.trust >= old.provenance.trust;
    for (name, value) in &new.attributes {
        if overrides || !node.attributes.contains_key(name) {
            node.attributes.insert(name.clone(), value.clone());
        }
    }
    if attributes(node.attributes.clone()).is_err() {
        // Together they are too large: what is there stays.
        node.attributes.clone_from(&old.attributes);
    }
    let memory = MemoryId::Node(id.clone());
    let same = node == old;
    let trust = if says_all(new, &node) { writing.origin.trust } else { old.provenance.trust };
    let lifted = writing.confirm(&memory, old.provenance.trust, trust)?;
    if same && !lifted {
        return Ok((id, Outcome::Duplicate));
    }
    node.provenance = Provenance {
        confidence: confirmed(old.provenance.confidence),
        trust: old.provenance.trust.min(writing.origin.trust),
        last_confirmed_at: writing.now.max(old.provenance.last_confirmed_at),
        updated_at: writing.now,
        ..old.provenance
    };
    if lifted {
        writing.lift(&mut node.provenance);
    }
    let rows = nodes::replace(writing.tx, &node, &node_text)?.unwrap_or_default();
    writing.rewritten(rows)?;
    // Names are looked up in RAM, too.
    writing.touch(Store::Social, row.row);
    Ok((id, if same { Outcome::Duplicate } else { Outcome::Created }))
}

/// Whether all that a node says is said here. Only then may it be lifted: what nobody repeated keeps its trust.
fn says_all(new: &NewNode, node: &Node) -> bool {
    let mut said = norms(&new.aliases);
    said.push(name_norm(&new.name));
    said.contains(&node.name_norm)
        && node.aliases_norm.iter().all(|alias| said.contains(alias))
        && node.attributes.iter().all(|(name, value)| new.attributes.get(name) == Some(value))
}

/// What an end is called, for comparing.
fn shown(writing: &Writing<'_>, end: &End) -> brain::Result<String> {
    Ok(match end {
        End::Name(name) => name.clone(),
        End::Id(id) => nodes::get(writing.tx, id)?.map(|n| n.item.name).unwrap_or_default(),
    })
}

/// The node at an end: looked up, or made when nobody is called so. `None` for an id of nobody.
fn end(writing: &mut Writing<'_>, end: End) -> brain::Result<Option<NodeId>> {
    match end {
        End::Id(id) => Ok(nodes::get(writing.tx, &id)?.map(|n| n.item.node_id)),
        End::Name(name) => match called(writing, &name, None)? {
            Some(row) => Ok(Some(row.item.node_id)),
            None => {
                let new = NewNode {
                    name,
                    kind: Some(NodeKind::Other),
                    aliases: Vec::new(),
                    attributes: serde_json::Map::new(),
                    relations: Vec::new(),
                };
                insert(writing, &new).map(Some)
            }
        },
    }
}

/// A relation whose ends are known.
pub(super) struct Link {
    pub(super) from: NodeId,
    pub(super) to: NodeId,
    pub(super) relation: String,
    pub(super) confidence: Option<f64>,
    pub(super) valid_from: Option<Timestamp>,
}

/// What became of a relation.
pub(super) enum Linked {
    /// It got a row, and ended these.
    New(EdgeId, Vec<MemoryId>),
    /// It was there and is confirmed.
    Known(EdgeId),
    /// It leads from somebody to the same.
    Nobody,
}

impl Link {
    fn write(self, writing: &mut Writing<'_>) -> brain::Result<Linked> {
        if self.from == self.to {
            return Ok(Linked::Nobody);
        }
        let now = writing.now;
        let edge = Edge {
            edge_id: EdgeId::generate(),
            valid_from: self.valid_from.unwrap_or(now),
            valid_until: None,
            provenance: Provenance {
                confidence: self.confidence.unwrap_or(writing.origin.confidence),
                ..writing.provenance()
            },
            from: self.from,
            to: self.to,
            relation: self.relation,
        };
        let open = edges::open(writing.tx, &edge.from, &edge.to, &edge.relation, now)?;
        let mut closed = Vec::new();
        if let Some(old) = &open {
            let named: &[String] = match &writing.origin.intent {
                Intent::Named(ids) => ids,
                Intent::Statement | Intent::None => &[],
            };
            if contradiction::closed_edges(&compared(&edge), named, &[compared(&old.item)]).is_empty() {
                let id = MemoryId::Edge(old.item.edge_id.clone());
                let trust = old.item.provenance.trust;
                writing.confirm(&id, trust, trust)?;
                return Ok(Linked::Known(old.item.edge_id.clone()));
            }
            let id = &old.item.edge_id;
            if let Some(rows) = edges::close(writing.tx, id, edge.valid_from, now, &node_text)? {
                writing.rewritten(rows)?;
                closed.push(MemoryId::Edge(id.clone()));
            }
        }
        let rows = edges::insert(writing.tx, &edge, &node_text)?;
        writing.rests_on(&MemoryId::Edge(edge.edge_id.clone()))?;
        writing.rewritten(rows)?;
        Ok(Linked::New(edge.edge_id, closed))
    }
}

fn compared(edge: &Edge) -> contradiction::Edge<'_> {
    contradiction::Edge {
        id: edge.edge_id.as_str(),
        from: edge.from.as_str(),
        to: edge.to.as_str(),
        relation: &edge.relation,
        trust: edge.provenance.trust,
        confidence: edge.provenance.confidence,
    }
}

/// Adds relations to a node, for an edit.
pub(super) fn relate(
    writing: &mut Writing<'_>,
    from: &NodeId,
    relations: Vec<NewRelation>,
) -> brain::Result<()> {
    for NewRelation { relation, to, confidence } in relations {
        if let Some(to) = end(writing, to)? {
            let link = Link { from: from.clone(), to, relation, confidence, valid_from: None };
            link.write(writing)?;
        }
    }
    Ok(())
}
