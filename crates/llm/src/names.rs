//! Tool names as the Engine knows them, and as a provider accepts them: a mapping made per request.
//!
//! Providers allow letters, digits, `_` and `-` (Gemini also dots), up to 64 characters. A dot becomes
//! `__`, anything else forbidden becomes `_`. Two names never share a mapped name, and a name that needs
//! no change always keeps it, so the mapping of unaffected tools is stable whatever else is offered.

use crate::provider::Request;
use contract::Block;
use std::collections::{BTreeSet, HashMap};

/// Longest name all three providers accept. Longer is refused with 400 by OpenAI.
pub const MAX_NAME_CHARS: usize = 64;

/// What a provider allows in names beyond letters, digits, `_` and `-`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dots {
    /// Dots may stay.
    Allowed,
    /// Dots become `__`.
    Forbidden,
}

/// The mapping of one request, both ways.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NameMap {
    to_wire: HashMap<String, String>,
    to_engine: HashMap<String, String>,
}

impl NameMap {
    /// Maps the offered tools and every tool named in the conversation (which may be offered no longer).
    pub fn of(request: &Request, dots: Dots) -> Self {
        let offered = request.tools.iter().map(|t| t.name.as_str());
        let said = request.messages.iter().flat_map(|m| &m.content).filter_map(|b| match b {
            Block::ToolUse { name, .. } => Some(name.as_str()),
            _ => None,
        });
        Self::new(offered.chain(said), dots)
    }

    /// Maps these names.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>, dots: Dots) -> Self {
        let names: BTreeSet<&str> = names.into_iter().collect();
        let mut map = Self::default();
        let (safe, unsafe_): (Vec<&str>, Vec<&str>) =
            names.into_iter().partition(|name| provider_safe(name, dots) == *name);
        for name in safe {
            map.insert(name, name.to_owned());
        }
        for name in unsafe_ {
            let base = provider_safe(name, dots);
            let mut candidate = base.clone();
            let mut n = 2;
            while map.to_engine.contains_key(&candidate) {
                let tail = format!("_{n}");
                candidate = base.chars().take(MAX_NAME_CHARS - tail.len()).collect::<String>() + &tail;
                n += 1;
            }
            map.insert(name, candidate);
        }
        map
    }

    fn insert(&mut self, name: &str, wire: String) {
        self.to_wire.insert(name.to_owned(), wire.clone());
        self.to_engine.insert(wire, name.to_owned());
    }

    /// The name to send.
    pub fn wire<'a>(&'a self, name: &'a str) -> &'a str {
        self.to_wire.get(name).map_or(name, String::as_str)
    }

    /// The Engine's name for what a model said. A name the model made up stays as it is; dispatch answers
    /// it with "not_found".
    pub fn engine(&self, wire: &str) -> String {
        self.to_engine.get(wire).cloned().unwrap_or_else(|| wire.to_owned())
    }
}

fn provider_safe(name: &str, dots: Dots) -> String {
    let mut safe = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '.' if dots == Dots::Forbidden => safe.push_str("__"),
            '.' | '_' | '-' => safe.push(c),
            c if c.is_ascii_alphanumeric() => safe.push(c),
            _ => safe.push('_'),
        }
    }
    // Gemini wants a letter or underscore first.
    if !safe.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
        safe.insert(0, '_');
    }
    safe.truncate(MAX_NAME_CHARS);
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dots_become_two_underscores_where_forbidden_and_stay_where_allowed() {
        let map = NameMap::new(["slack.send", "bash"], Dots::Forbidden);
        assert_eq!((map.wire("slack.send"), map.wire("bash")), ("slack__send", "bash"));
        assert_eq!(map.engine("slack__send"), "slack.send");
        assert_eq!(NameMap::new(["slack.send"], Dots::Allowed).wire("slack.send"), "slack.send");
    }

    #[test]
    fn a_name_that_needs_no_change_keeps_it_when_another_would_map_to_it() {
        let map = NameMap::new(["a.b", "a__b", "a/_b"], Dots::Forbidden);
        assert_eq!(map.wire("a__b"), "a__b");
        assert_eq!(map.engine(map.wire("a.b")), "a.b");
        assert_eq!(map.engine(map.wire("a/_b")), "a/_b");
    }

    #[test]
    fn a_made_up_name_stays_as_it_is() {
        assert_eq!(NameMap::default().engine("no__such"), "no__such");
    }

    proptest! {
        #[test]
        fn every_mapping_is_safe_and_can_be_undone(
            names in proptest::collection::btree_set("[a-c._/é1-]{1,70}", 0..20),
            allowed in any::<bool>(),
        ) {
            let dots = if allowed { Dots::Allowed } else { Dots::Forbidden };
            let map = NameMap::new(names.iter().map(String::as_str), dots);
            for name in &names {
                let wire = map.wire(name);
                prop_assert!(!wire.is_empty() && wire.len() <= MAX_NAME_CHARS);
                prop_assert!(wire.chars().all(|c| c.is_ascii_alphanumeric()
                    || c == '_' || c == '-' || (allowed && c == '.')));
                prop_assert_eq!(&map.engine(wire), name);
            }
        }
    }
}
