//! servers/<server_name>.json: MCP servers that a person may connect. (specification 8.6)

use super::agent::{JSON_MAX, load};
use super::document::parse;
use super::files::Files;
use super::problem::Problem;
use connectors::server::Entry;
use serde_json::Value;

/// Reads `servers/<name>.json`.
pub fn read(name: &str, files: &dyn Files, problems: &mut Vec<Problem>) -> Option<Entry> {
    let file = format!("servers/{name}.json");
    let map = match load(&file, files, JSON_MAX).and_then(|bytes| parse(&file, &bytes)) {
        Ok(map) => map,
        Err(problem) => {
            problems.push(problem);
            return None;
        }
    };
    match Entry::parse(name, &Value::Object(map)) {
        Ok(entry) => {
            let warned = entry.warnings.iter();
            problems.extend(warned.map(|w| Problem::warning(&file, &w.pointer, &w.message, "remove it")));
            Some(entry)
        }
        Err(wrong) => {
            let fix = "see docs/guides/catalog.md for what may stand there";
            problems.extend(wrong.iter().map(|w| Problem::error(&file, &w.pointer, &w.message, fix)));
            None
        }
    }
}
