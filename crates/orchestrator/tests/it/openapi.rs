//! The OpenAPI document and the metrics page against the files that are committed.

use orchestrator::http::{openapi, routes};
use orchestrator::telemetry::catalog;
use serde_json::Value;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn committed(name: &str) -> String {
    std::fs::read_to_string(root().join("docs/reference").join(name)).unwrap_or_default()
}

#[test]
fn openapi_matches_code_and_file() {
    let command = orchestrator::reference::REGENERATE;
    assert!(
        committed("orchestrator-openapi.json") == openapi::document(),
        "the file is stale; run {command}"
    );
    let document: Value = serde_json::from_str(openapi::document()).expect("is JSON");
    let mut described: Vec<(String, String)> = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        described.extend(item.as_object().expect("methods").keys().map(|m| (m.to_uppercase(), path.clone())));
    }
    let mut served: Vec<(String, String)> =
        routes::OPERATIONS.iter().map(|o| (o.method.to_owned(), o.path.to_owned())).collect();
    described.sort();
    served.sort();
    assert_eq!(described, served);
    assert!(!openapi::document().contains("upgrade"), "this version does not upgrade");
}

#[test]
fn the_metrics_page_matches_the_declarations() {
    let command = orchestrator::reference::REGENERATE;
    assert!(committed("orchestrator-metrics.md") == catalog::reference(), "the page is stale; run {command}");
}

#[test]
fn no_source_and_no_alert_names_a_metric_that_is_not_declared() {
    let declared: Vec<&str> = catalog::METRICS.iter().map(|m| m.name).collect();
    let mut unknown = Vec::new();
    for file in files(&[root().join("crates/orchestrator/src"), root().join("deploy")]) {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let is_source = file.extension().is_some_and(|e| e == "rs");
        for (place, _) in text.match_indices("bap_") {
            let before = text[..place].chars().next_back().unwrap_or(' ');
            // In sources a metric's name is a string of its own; anything else is a name of ours.
            if before.is_alphanumeric() || before == '_' || (is_source && before != '"') {
                continue;
            }
            let is_part = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '_';
            let name: String = text[place..].chars().take_while(is_part).collect();
            let series = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s));
            let known = declared.contains(&name.as_str()) || series.is_some_and(|s| declared.contains(&s));
            if !known && !IS_NO_METRIC.contains(&name.as_str()) {
                unknown.push(format!("{}: {name}", file.display()));
            }
        }
    }
    assert!(unknown.is_empty(), "not declared in telemetry/catalog.rs:\n{}", unknown.join("\n"));
}

/// What begins like a metric in a string and is something else: the crate, a prefix, the notification channel.
const IS_NO_METRIC: [&str; 3] = ["bap_engine", "bap_", "bap_events"];

fn files(folders: &[PathBuf]) -> Vec<PathBuf> {
    let (mut found, mut left) = (Vec::new(), folders.to_vec());
    while let Some(folder) = left.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.map(|e| e.expect("an entry").path()) {
            if path.is_dir() { left.push(path) } else { found.push(path) }
        }
    }
    assert!(found.len() > 20, "only {} files found", found.len());
    found
}
