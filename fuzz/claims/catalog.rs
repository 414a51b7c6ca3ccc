//! Any bytes in every kind of catalog file: nothing panics, and what is not taken is explained.
//!
//! The first byte chooses the file; the rest is its text.

use engine::catalog::entries::{Entries, read};
use engine::catalog::files::InMemory;
use engine::tools::registry::Registry;
use std::collections::BTreeMap;

const PATHS: [&str; 6] = [
    "agents/a/agent.json",
    "agents/a/system-prompt.md",
    "tools/t.json",
    "skills/s/skill.json",
    "servers/s.json",
    "core_soul.json",
];
/// Longest message. A longer one repeats the file instead of naming the place.
const MESSAGE_MAX_BYTES: usize = 4000;

/// What must hold for any bytes.
pub fn holds(data: &[u8]) {
    let Some((first, text)) = data.split_first() else { return };
    let path = PATHS[usize::from(*first) % PATHS.len()];
    let files = InMemory(BTreeMap::from([(path.to_owned(), text.to_vec())]));
    let mut problems = Vec::new();
    let entries = read(&files, None, &Registry::default(), &Entries::default(), &mut problems);
    engine::catalog::hooks::read("hooks.json", text, &mut problems);
    let taken = entries != Entries::default();
    let explained = problems.iter().any(|p| p.is_error());
    assert!(taken || explained || path.ends_with(".md"), "{path} was neither taken nor explained");
    for problem in problems {
        assert!(problem.to_string().len() < MESSAGE_MAX_BYTES, "{problem}");
    }
}
