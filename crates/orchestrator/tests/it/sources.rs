//! Rules that hold for the sources of this crate as a whole, because no single behaviour shows them.

use contract::FleetCode;
use orchestrator::config::{Config, Purpose};
use std::path::{Path, PathBuf};

/// Every source file below a directory of the workspace, with its text.
fn sources(of: &str) -> Vec<(PathBuf, String)> {
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(of)];
    let mut found = Vec::new();
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).expect("a directory of the workspace") {
            let path = entry.expect("is listed").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).expect("is text");
                found.push((path, text));
            }
        }
    }
    assert!(found.len() > 5, "{of} was not found");
    found
}

/// The identifier a side of a comparison ends with (`row.key.hash` → `hash`).
fn last_word(side: &str) -> &str {
    let side = side.trim().trim_end_matches("()").trim_end_matches(".expose");
    let start = side.rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_').map_or(0, |at| at + 1);
    &side[start..]
}

/// The identifier a side of a comparison begins with, its path followed (`&row.key.hash)` → `hash`).
fn first_path(side: &str) -> &str {
    let side = side.trim().trim_start_matches(['&', '*']);
    let end = side.find(|c: char| !c.is_ascii_alphanumeric() && !"_.:".contains(c)).unwrap_or(side.len());
    last_word(side[..end].trim_end_matches(".expose"))
}

fn is_secret(word: &str) -> bool {
    // Hashes of requests and specifications are nobody's secret.
    let harmless = ["request_hash", "spec_hash"].contains(&word);
    !harmless && ["key", "hash", "secret", "token", "password"].iter().any(|end| word.ends_with(end))
}

/// Comparisons of secrets in this text, with their line numbers.
fn plain_comparisons(text: &str) -> Vec<(usize, String)> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let mut found = Vec::new();
    for (at, line) in code.lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//")) {
        for operator in ["==", "!="] {
            if let Some((left, right)) = line.split_once(operator)
                && (is_secret(last_word(left)) || is_secret(first_path(right)))
            {
                found.push((at + 1, line.trim().to_owned()));
            }
        }
    }
    found
}

/// A comparison that stops at the first difference tells how much of a key was right.
#[test]
fn constant_time_compare_is_used() {
    let told =
        ["if presented.key == row.api_key {", "let same = hash != stored.hash();", "a.expose() == secret"];
    for line in told {
        assert_eq!(plain_comparisons(line).len(), 1, "{line} would not be found");
    }
    assert_eq!(plain_comparisons("if row.spec_hash == spec.spec_hash && n == 2 {"), []);
    // Whose `hash` is the one of a request, compared with the request that is repeated.
    let known = ["discovery/provision.rs", "registry/reserve.rs"];
    for (path, text) in [sources("orchestrator/src"), sources("chassis/src")].concat() {
        let found = plain_comparisons(&text);
        let allowed = usize::from(known.iter().any(|end| path.ends_with(end)));
        assert!(found.len() <= allowed, "{}: use keys::same_key or same_hash: {found:?}", path.display());
    }
    let auth = include_str!("../../src/http/auth.rs");
    assert!(auth.contains("keys::same_key("), "the operator's key is compared in constant time");
    for (file, text) in [
        ("keys.rs", include_str!("../../src/keys.rs")),
        ("http/keys.rs", include_str!("../../../chassis/src/http/keys.rs")),
    ] {
        assert!(text.contains(".ct_eq("), "{file} compares in constant time");
    }
}

/// A code that nothing answers with is a promise of the page that nobody keeps; one without entry explains nothing.
#[test]
fn every_error_code_has_an_entry_and_a_producer() {
    let page = include_str!("../../../../docs/reference/orchestrator-errors.md");
    let all: String = sources("orchestrator/src").into_iter().map(|(_, text)| text).collect();
    for code in FleetCode::ALL {
        let name = code.as_str();
        assert!(
            page.contains(&format!("`{name}`")) || page.contains(&format!("## {name}")),
            "{name} has no entry"
        );
        let produced = format!("FleetCode::{code:?}");
        let places = all
            .match_indices(&produced)
            .filter(|(at, _)| !all[at + produced.len()..].starts_with(|c: char| c.is_ascii_alphanumeric()));
        assert!(places.count() > 0, "nothing answers with {name}");
    }
}

/// Nobody but this machine reaches metrics and probes unless somebody says so.
#[test]
fn internal_listener_is_local_by_default() {
    let values = [
        ("ORCH_DATABASE_URL", "postgresql://u@h/d"),
        ("ORCH_MASTER_KEY", crate::trial::MASTER_KEY),
        ("ORCH_ADMIN_KEY", crate::trial::ADMIN_KEY),
        ("ORCH_ENGINE_BACKEND", "simulated"),
        ("ORCH_ENGINE_IMAGE", "september-engine:2.3.0"),
    ];
    let values = values.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let loaded = Config::load(&chassis::config::Values::new("a test", values), Purpose::Serve);
    let config = loaded.expect("is enough").config;
    assert!(config.internal_bind.ip().is_loopback(), "{}", config.internal_bind);
    assert!(config.bind.ip().is_loopback(), "{}", config.bind);
    assert_ne!(config.internal_bind.port(), config.bind.port());
}
