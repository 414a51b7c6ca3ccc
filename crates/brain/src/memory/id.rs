//! The id of any memory: what `/memory/{store}/{id}` names and lineage points at.

use crate::{Error, Result};
use contract::memory::Store;
use contract::{EdgeId, EpisodeId, FactId, NodeId};
use std::fmt;

/// One memory of any kind; its prefix tells which.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MemoryId {
    /// `ep-…`
    Episode(EpisodeId),
    /// `fact-…`
    Fact(FactId),
    /// `soc-…`
    Node(NodeId),
    /// `rel-…`
    Edge(EdgeId),
}

impl MemoryId {
    /// Reads an id of any of the four kinds.
    pub fn parse(text: &str) -> Option<Self> {
        None.or_else(|| EpisodeId::parse(text).ok().map(Self::Episode))
            .or_else(|| FactId::parse(text).ok().map(Self::Fact))
            .or_else(|| NodeId::parse(text).ok().map(Self::Node))
            .or_else(|| EdgeId::parse(text).ok().map(Self::Edge))
    }

    /// Reads an id that the brain has stored.
    pub(crate) fn stored(text: &str) -> Result<Self> {
        Self::parse(text).ok_or_else(|| Error::bad_data("memory_lineage.memory_id", text))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Episode(id) => id.as_str(),
            Self::Fact(id) => id.as_str(),
            Self::Node(id) => id.as_str(),
            Self::Edge(id) => id.as_str(),
        }
    }

    /// The store it is searched in.
    pub const fn store(&self) -> Store {
        match self {
            Self::Episode(_) => Store::Episodes,
            Self::Fact(_) => Store::Knowledge,
            Self::Node(_) | Self::Edge(_) => Store::Social,
        }
    }

    /// Its table and the column that holds its id.
    pub(crate) const fn place(&self) -> (&'static str, &'static str) {
        match self {
            Self::Episode(_) => ("episodes", "episode_id"),
            Self::Fact(_) => ("knowledge_store", "fact_id"),
            Self::Node(_) => ("social_graph_nodes", "node_id"),
            Self::Edge(_) => ("social_graph_edges", "edge_id"),
        }
    }
}

impl fmt::Display for MemoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_tells_the_store_and_everything_else_is_refused() {
        for (text, store) in [
            ("ep-1", Store::Episodes),
            ("fact-1", Store::Knowledge),
            ("soc-1", Store::Social),
            ("rel-1", Store::Social),
        ] {
            let id = MemoryId::parse(text).expect("an id");
            assert_eq!((id.as_str(), id.store()), (text, store));
        }
        for wrong in ["", "fact", "fact-", "msg-1", "fact-a b", "FACT-1"] {
            assert_eq!(MemoryId::parse(wrong), None, "{wrong}");
        }
    }
}
