//! The tool `file_search`: which places of a directory are about something, by keywords.
//!
//! Files are cut into chunks of lines; chunks are scored by BM25 over the words of the query, with the constants
//! of the memory search, and the score is given as a share of the best. The second half of the specified score,
//! by meaning, needs an embedding provider; there is none in this version, so the keyword half stands alone, as
//! the specification says for a list that is missing.

mod rank;

use super::function::{Card, Function, path_property, tool};
use super::input::{Stop, blocking};
use super::search::{LINE_MAX_CHARS, Skip, start_of, walk};
use super::tool::{CallContext, Effect, Failure, Output, Tool};
use crate::permissions::{PermissionContext, Verdict, rules};
use crate::sandbox::open;
use contract::ToolReason;
use rank::{Hit, Query, Ranking};
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Files looked into. (specification 7.1)
const FILES_MAX: usize = 5000;
/// Bytes read of one file. What is longer is data rather than text.
const FILE_MAX: u64 = 2 * 1024 * 1024;
/// Bytes read in one call. More would only make the call longer than it may be.
const BYTES_MAX: u64 = 256 * 1024 * 1024;
/// How long the search may take; it then answers from what it has read.
const TIME_MAX: Duration = Duration::from_secs(30);
/// Lines of one chunk: about what one thought of a text or one function takes. Larger blurs the place, smaller
/// tears words apart that belong together.
const CHUNK_LINES: usize = 30;
/// Lines of a snippet, around the best line.
const SNIPPET_LINES: usize = 5;

/// The tool.
pub fn file_search() -> Arc<dyn Tool> {
    tool(FileSearch)
}

struct FileSearch;

#[derive(Deserialize)]
struct Input {
    query: String,
    path: Option<String>,
    limit: Option<usize>,
}

impl Function for FileSearch {
    type Input = Input;

    fn card(&self) -> Card {
        Card {
            name: "file_search",
            description: "Finds the places of the workspace's text files that fit a query best, ranked by its words. \
                Input: `query`, optional `path`, `limit`. Output: results (path, line, snippet, score from \
                0 to 1), the best first. At most 5000 files; binary files and .git are skipped. Use it \
                when you do not know the exact words; for an exact word or pattern use grep, for names of \
                files use find.",
            effect: Effect::ReadOnly,
            required: &["query"],
            properties: json!({
                "query": {"type": "string", "minLength": 1, "maxLength": 1000,
                    "description": "What the text is about, in words; their order does not matter."},
                "path": path_property("Directory or file to search, absolute or relative to the workspace; the workspace when absent."),
                "limit": {"type": "integer", "minimum": 1, "maximum": 20, "default": 10,
                    "description": "Most results to return."}
            }),
        }
    }

    fn check(&self, input: &Value, context: &PermissionContext<'_>) -> Verdict {
        rules::read_optional(&input["path"], context)
    }

    async fn run(&self, call: CallContext, input: Input) -> Result<Output, Failure> {
        let query = Query::new(&input.query);
        if query.is_empty() {
            let text = "the query has no words to search for";
            return Err(Failure::new(ToolReason::InvalidInput, text));
        }
        let cancel = call.cancel.clone();
        blocking(&cancel, TIME_MAX, move |stop| search(&call, &input, query, &stop)).await
    }
}

fn search(call: &CallContext, input: &Input, query: Query, stop: &Stop) -> Result<Output, Failure> {
    let start = start_of(call, input.path.as_deref())?;
    let mut ranking = Ranking::new(query);
    let mut paths: Vec<PathBuf> = Vec::new();
    let mut bytes = 0;
    for entry in walk(call, &start, Skip::Git, None) {
        if stop.now() || paths.len() >= FILES_MAX || bytes >= BYTES_MAX {
            break;
        }
        if !entry.file_type().is_some_and(|t| t.is_file()) {
            continue;
        }
        let Some(text) = text_of(call, entry.path()) else { continue };
        bytes += text.len() as u64;
        let lines: Vec<&str> = text.lines().collect();
        for (index, chunk) in lines.chunks(CHUNK_LINES).enumerate() {
            ranking.add(paths.len(), index * CHUNK_LINES, chunk);
        }
        paths.push(entry.path().to_path_buf());
    }
    let hits = ranking.best(input.limit.unwrap_or(10));
    let results: Vec<Value> = hits.iter().map(|hit| result(call, &paths[hit.file], hit)).collect();
    Ok(Output::json(json!({ "results": results })))
}

fn result(call: &CallContext, path: &Path, hit: &Hit) -> Value {
    // read again: keeping every chunk would take as much memory as the files
    let text = text_of(call, path).unwrap_or_default();
    let first = hit.line.saturating_sub(SNIPPET_LINES / 2);
    let lines = text.lines().skip(first).take(SNIPPET_LINES);
    let snippet: Vec<String> = lines.map(|l| l.chars().take(LINE_MAX_CHARS).collect()).collect();
    json!({
        "path": path.display().to_string(),
        "line": hit.line + 1,
        "snippet": snippet.join("\n"),
        "score": (hit.score * 1000.0).round() / 1000.0,
    })
}

/// A file's text; `None` when it is binary, sealed, too long or gone.
fn text_of(call: &CallContext, path: &Path) -> Option<String> {
    let file = open::read(&call.workspace, path).ok()?;
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).ok()?;
    let text = bytes.len() as u64 <= FILE_MAX && !bytes[..bytes.len().min(8192)].contains(&0);
    text.then(|| String::from_utf8_lossy(&bytes).into_owned())
}
