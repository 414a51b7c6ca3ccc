//! Words the memory tests share: small memories, and how a node's text is rendered here.

use crate::house::at;
use brain::memory::edges::{Edge, Relation};
use brain::memory::episodes::Episode;
use brain::memory::knowledge::Fact;
use brain::memory::lineage::Parent;
use brain::memory::nodes::Node;
use brain::memory::vectors::Model;
use brain::memory::{MemoryId, Provenance};
use brain::{Brain, Result, Tx};
use contract::memory::{EpisodeKind, FactType, NodeKind, ParentKind, Trust};
use contract::{EdgeId, EpisodeId, FactId, NodeId, TaskId};

pub fn provenance(ms: i64) -> Provenance {
    Provenance {
        confidence: 0.5,
        trust: Trust::User,
        source: "user:api".to_owned(),
        rationale: "said so".to_owned(),
        last_confirmed_at: at(ms),
        created_at: at(ms),
        updated_at: at(ms),
    }
}

pub fn fact(subject: &str, content: &str) -> Fact {
    Fact {
        fact_id: FactId::generate(),
        subject: subject.to_owned(),
        subject_norm: subject.to_lowercase(),
        content: content.to_owned(),
        kind: FactType::Fact,
        valid_from: at(1),
        valid_until: None,
        superseded_by: None,
        content_hash: format!("hash of {content}"),
        provenance: provenance(1),
    }
}

pub fn episode(key: &str, description: &str) -> Episode {
    Episode {
        episode_id: EpisodeId::generate(),
        kind: EpisodeKind::Note,
        key: key.to_owned(),
        description: description.to_owned(),
        value: None,
        task_id: None,
        turn_id: None,
        position: None,
        occurred_at: at(1),
        content_hash: format!("hash of {description}"),
        provenance: provenance(1),
    }
}

pub fn in_task(key: &str, task: &TaskId, position: i64) -> Episode {
    Episode { task_id: Some(task.clone()), position: Some(position), ..episode(key, key) }
}

pub fn node(name: &str) -> Node {
    Node {
        node_id: NodeId::generate(),
        name: name.to_owned(),
        name_norm: name.to_lowercase(),
        kind: NodeKind::Person,
        aliases: Vec::new(),
        aliases_norm: Vec::new(),
        attributes: serde_json::Map::new(),
        provenance: provenance(1),
    }
}

pub fn edge(from: &Node, relation: &str, to: &Node) -> Edge {
    Edge {
        edge_id: EdgeId::generate(),
        from: from.node_id.clone(),
        to: to.node_id.clone(),
        relation: relation.to_owned(),
        valid_from: at(1),
        valid_until: None,
        provenance: provenance(1),
    }
}

/// A node's text: its names and its open relations.
pub fn render(node: &Node, relations: &[Relation]) -> String {
    let mut text = format!("{} {}", node.name, node.aliases.join(" "));
    for relation in relations.iter().filter(|r| r.edge.valid_until.is_none()) {
        text.push_str(&format!(" {} {}", relation.edge.relation, relation.other_name));
    }
    text
}

pub fn text_of(fact: &Fact) -> String {
    format!("{} {}", fact.subject, fact.content)
}

pub fn model() -> Model {
    Model { name: "test".to_owned(), dim: 4 }
}

/// A vector that tells which text it is of.
pub fn vector_of(text: &str) -> Vec<u8> {
    let sum: u32 = text.bytes().fold(7, |sum, b| sum.wrapping_mul(31).wrapping_add(u32::from(b)));
    [sum, sum ^ 1, sum ^ 2, sum ^ 3].iter().flat_map(|n| n.to_le_bytes()).collect()
}

pub fn stems_from(tx: &Tx<'_>, child: &MemoryId, parent: &MemoryId) -> Result<()> {
    let parent = Parent { kind: ParentKind::Memory, id: parent.as_str().to_owned() };
    brain::memory::lineage::add(tx, child, &[parent])
}

pub async fn write<T: Send + 'static>(
    brain: &Brain,
    f: impl FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
) -> T {
    brain.write("test", f).await.expect("a write")
}
