//! The tools `grep` and `find`: walking the workspace in the Engine's own process. Links are listed, never
//! followed; sealed files are passed over; every list has a limit and says when it was reached.

use super::function::{Card, Function, path_property, tool};
use super::input::{Stop, blocking, duration, not_found, readable};
use super::tool::{CallContext, Effect, Failure, Output, Tool};
use crate::permissions::{PermissionContext, Verdict, rules};
use crate::sandbox::open;
use contract::{Timestamp, ToolReason};
use globset::{GlobBuilder, GlobMatcher};
use grep_regex::{RegexMatcher, RegexMatcherBuilder};
use grep_searcher::{
    BinaryDetection, Searcher, SearcherBuilder, Sink, SinkContext, SinkContextKind, SinkMatch,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Matches one grep returns. More rarely helps the model, which should narrow the pattern instead.
pub const MATCHES_MAX: usize = 100;
/// Characters kept of a line, so that minified files do not fill the context.
pub const LINE_MAX_CHARS: usize = 500;
/// Entries one find returns.
pub const ENTRIES_MAX: usize = 1000;
/// How long a search may take; it then answers what it has, as truncated.
const TIME_MAX: Duration = Duration::from_secs(30);
/// Memory of one compiled pattern. Larger lets a hostile pattern take that much, smaller refuses honest
/// ones with Unicode classes.
const PATTERN_MEMORY_MAX: usize = 10 * 1024 * 1024;
/// Longest line held in memory; a file with a longer one is skipped.
const LINE_MEMORY_MAX: usize = 16 * 1024 * 1024;

/// A time ago, as an input says it.
const AGE: &str = "^[0-9]{1,9}(ms|s|m|h|d)?$";

/// Both tools.
pub fn tools() -> Vec<Arc<dyn Tool>> {
    vec![tool(Grep), tool(Find)]
}

/// The tool `grep`.
struct Grep;

#[derive(Deserialize)]
struct GrepInput {
    pattern: String,
    path: Option<String>,
    glob: Option<String>,
    #[serde(default)]
    ignore_case: bool,
    #[serde(default)]
    context: usize,
}

impl Function for Grep {
    type Input = GrepInput;

    fn card(&self) -> Card {
        Card {
            name: "grep",
            description: "Searches the content of files by regular expression. Input: `pattern`, optional `path`, \
                `glob`, `ignore_case`, `context`. Output: matches (path, line, text; with context also \
                before and after) and truncated; at most 100 matches, long lines are cut. Binary files and \
                .git are skipped. Use it to find where something is written. To find files by name or age \
                use find; to read on use read_file.",
            effect: Effect::ReadOnly,
            required: &["pattern"],
            properties: json!({
                "pattern": {"type": "string", "minLength": 1, "maxLength": 2000,
                    "description": "Regular expression in Rust syntax, matched line by line; no look-around, no back-references."},
                "path": path_property("File or directory to search, absolute or relative to the workspace; the workspace when absent."),
                "glob": {"type": "string", "minLength": 1, "maxLength": 500,
                    "description": "Only files that match, such as `*.rs` (any directory) or `src/**/*.ts`."},
                "ignore_case": {"type": "boolean", "default": false,
                    "description": "Match upper and lower case alike."},
                "context": {"type": "integer", "minimum": 0, "maximum": 10, "default": 0,
                    "description": "Lines to return before and after each match."}
            }),
        }
    }

    fn check(&self, input: &Value, context: &PermissionContext<'_>) -> Verdict {
        rules::read_optional(&input["path"], context)
    }

    async fn run(&self, call: CallContext, input: GrepInput) -> Result<Output, Failure> {
        let cancel = call.cancel.clone();
        blocking(&cancel, TIME_MAX, move |stop| grep(&call, &input, &stop)).await
    }
}

fn grep(call: &CallContext, input: &GrepInput, stop: &Stop) -> Result<Output, Failure> {
    let start = start_of(call, input.path.as_deref())?;
    let matcher = RegexMatcherBuilder::new()
        .case_insensitive(input.ignore_case)
        .line_terminator(Some(b'\n'))
        .size_limit(PATTERN_MEMORY_MAX)
        .dfa_size_limit(PATTERN_MEMORY_MAX)
        .build(&input.pattern)
        .map_err(|e| Failure::new(ToolReason::InvalidInput, format!("pattern: {e}")))?;
    let glob = input.glob.as_deref().map(PathGlob::new).transpose()?;
    let mut searcher = SearcherBuilder::new()
        .binary_detection(BinaryDetection::quit(0))
        .heap_limit(Some(LINE_MEMORY_MAX))
        .before_context(input.context)
        .after_context(input.context)
        .build();
    let mut found = Matches {
        context: input.context,
        stop,
        list: Vec::new(),
        before: Vec::new(),
        full: false,
        path: String::new(),
    };
    for entry in walk(call, &start, Skip::Git, None) {
        if stop.now() || found.full {
            found.full = true;
            break;
        }
        let is_file = entry.file_type().is_some_and(|t| t.is_file());
        let relative = entry.path().strip_prefix(&start).unwrap_or(entry.path());
        if !is_file || glob.as_ref().is_some_and(|g| !g.matches(relative, entry.path())) {
            continue;
        }
        search_file(call, entry.path(), &mut searcher, &matcher, &mut found);
    }
    Ok(Output::json(json!({"matches": found.list, "truncated": found.full})))
}

/// A file that cannot be read, or that turns out to be something else, has no matches.
fn search_file(
    call: &CallContext,
    path: &Path,
    searcher: &mut Searcher,
    matcher: &RegexMatcher,
    found: &mut Matches<'_>,
) {
    let Ok(file) = open::read(&call.workspace, path) else { return };
    let kept = found.list.len();
    found.path = path.display().to_string();
    found.before.clear();
    let failed = searcher.search_file(matcher, &file, &mut *found).is_err();
    if failed {
        found.list.truncate(kept);
    }
}

struct Matches<'a> {
    context: usize,
    stop: &'a Stop,
    list: Vec<Value>,
    /// Context lines seen since the last match.
    before: Vec<String>,
    full: bool,
    path: String,
}

impl Sink for Matches<'_> {
    type Error = io::Error;

    fn matched(&mut self, _searcher: &Searcher, found: &SinkMatch<'_>) -> io::Result<bool> {
        if self.list.len() >= MATCHES_MAX || self.stop.now() {
            self.full = true;
            return Ok(false);
        }
        let mut entry =
            json!({"path": self.path, "line": found.line_number(), "text": line_text(found.bytes())});
        if self.context > 0 {
            entry["before"] = json!(std::mem::take(&mut self.before));
            entry["after"] = json!([]);
        }
        self.list.push(entry);
        Ok(true)
    }

    fn context(&mut self, _searcher: &Searcher, line: &SinkContext<'_>) -> io::Result<bool> {
        let text = line_text(line.bytes());
        match (line.kind(), self.list.last_mut().and_then(|m| m["after"].as_array_mut())) {
            (SinkContextKind::After, Some(after)) => after.push(text.into()),
            _ => self.before.push(text),
        }
        Ok(true)
    }

    fn binary_data(&mut self, _searcher: &Searcher, _offset: u64) -> io::Result<bool> {
        Err(io::Error::new(io::ErrorKind::InvalidData, "binary file"))
    }
}

fn line_text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches(['\n', '\r']);
    match text.char_indices().nth(LINE_MAX_CHARS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// A glob without a slash means the file's name in any directory, one with a slash the path below the
/// start of the search.
struct PathGlob {
    matcher: GlobMatcher,
    by_name: bool,
}

impl PathGlob {
    fn new(pattern: &str) -> Result<Self, Failure> {
        let by_name = !pattern.contains('/');
        let glob = GlobBuilder::new(pattern.trim_start_matches("./"))
            .literal_separator(!by_name)
            .build()
            .map_err(|e| Failure::new(ToolReason::InvalidInput, format!("glob: {e}")))?;
        Ok(Self { matcher: glob.compile_matcher(), by_name })
    }

    fn matches(&self, relative: &Path, full: &Path) -> bool {
        if self.by_name {
            full.file_name().is_some_and(|name| self.matcher.is_match(name))
        } else {
            self.matcher.is_match(relative) || self.matcher.is_match(full)
        }
    }
}

/// The tool `find`.
struct Find;

#[derive(Deserialize)]
struct FindInput {
    path: Option<String>,
    name: Option<String>,
    r#type: Option<String>,
    newer_than: Option<String>,
    older_than: Option<String>,
    min_size: Option<u64>,
    max_size: Option<u64>,
    max_depth: Option<usize>,
}

impl Function for Find {
    type Input = FindInput;

    fn card(&self) -> Card {
        Card {
            name: "find",
            description: "Lists files and directories by name, type, age and size. Input: all optional: `path`, \
                `name`, `type`, `newer_than`, `older_than`, `min_size`, `max_size`, `max_depth`. Output: \
                entries (path, type, size, modified) in order of path, and truncated; at most 1000 \
                entries. Use it to see what is there and to find files by name. To search in their content \
                use grep.",
            effect: Effect::ReadOnly,
            required: &[],
            properties: json!({
                "path": path_property("Directory to look in, absolute or relative to the workspace; the workspace when absent."),
                "name": {"type": "string", "minLength": 1, "maxLength": 500,
                    "description": "Glob for the name, such as `*.toml`; with a slash for the path below `path`."},
                "type": {"type": "string", "enum": ["file", "dir", "link"],
                    "description": "Only entries of this type; links are not followed."},
                "newer_than": {"type": "string", "pattern": AGE,
                    "description": "Changed within this time, such as `30m`, `12h`, `7d`."},
                "older_than": {"type": "string", "pattern": AGE,
                    "description": "Not changed within this time, such as `30d`."},
                "min_size": {"type": "integer", "minimum": 0, "description": "Smallest size in bytes."},
                "max_size": {"type": "integer", "minimum": 0, "description": "Largest size in bytes."},
                "max_depth": {"type": "integer", "minimum": 1, "maximum": 100,
                    "description": "How many levels of directories to go down; 1 lists `path` only."}
            }),
        }
    }

    fn check(&self, input: &Value, context: &PermissionContext<'_>) -> Verdict {
        rules::read_optional(&input["path"], context)
    }

    async fn run(&self, call: CallContext, input: FindInput) -> Result<Output, Failure> {
        let cancel = call.cancel.clone();
        blocking(&cancel, TIME_MAX, move |stop| find(&call, &input, &stop)).await
    }
}

fn find(call: &CallContext, input: &FindInput, stop: &Stop) -> Result<Output, Failure> {
    let start = start_of(call, input.path.as_deref())?;
    let glob = input.name.as_deref().map(PathGlob::new).transpose()?;
    let now = SystemTime::now();
    let before = |age: &Option<String>| -> Result<Option<SystemTime>, Failure> {
        let Some(text) = age else { return Ok(None) };
        let age = duration(text)
            .ok_or_else(|| Failure::new(ToolReason::InvalidInput, format!("`{text}` is not a duration")))?;
        Ok(Some(now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH)))
    };
    let (newest_first, oldest_last) = (before(&input.newer_than)?, before(&input.older_than)?);
    let mut entries = Vec::new();
    let mut truncated = false;
    for entry in walk(call, &start, Skip::Nothing, input.max_depth) {
        if stop.now() {
            truncated = true;
            break;
        }
        let relative = entry.path().strip_prefix(&start).unwrap_or(entry.path());
        // The start itself is listed only when it is all there is.
        if entry.depth() == 0 && entry.file_type().is_some_and(|t| t.is_dir()) {
            continue;
        }
        if glob.as_ref().is_some_and(|g| !g.matches(relative, entry.path())) {
            continue;
        }
        let Ok(meta) = entry.path().symlink_metadata() else { continue };
        let kind = if meta.is_symlink() {
            "link"
        } else if meta.is_dir() {
            "dir"
        } else {
            "file"
        };
        let modified = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        let wanted = input.r#type.as_deref().is_none_or(|t| t == kind)
            && newest_first.is_none_or(|t| modified >= t)
            && oldest_last.is_none_or(|t| modified <= t)
            && input.min_size.is_none_or(|s| meta.len() >= s)
            && input.max_size.is_none_or(|s| meta.len() <= s);
        if !wanted {
            continue;
        }
        if entries.len() >= ENTRIES_MAX {
            truncated = true;
            break;
        }
        entries.push(json!({
            "path": entry.path().display().to_string(),
            "type": kind,
            "size": meta.len(),
            "modified": timestamp(modified),
        }));
    }
    Ok(Output::json(json!({"entries": entries, "truncated": truncated})))
}

fn timestamp(time: SystemTime) -> Timestamp {
    let ms = time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis());
    Timestamp::from_millis(i64::try_from(ms).unwrap_or(i64::MAX))
}

/// Where a search begins: a path of the input, else the working directory.
pub(super) fn start_of(call: &CallContext, path: Option<&str>) -> Result<PathBuf, Failure> {
    let Some(path) = path else { return Ok(call.workspace.cwd().to_path_buf()) };
    let start = readable(call, path)?;
    if start.exists() { Ok(start) } else { Err(not_found(path)) }
}

/// What a walk passes over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Skip {
    /// Directories named `.git`.
    Git,
    /// Nothing.
    Nothing,
}

/// Everything at and below `start` in order of path, without following links and without what is sealed.
pub(super) fn walk(
    call: &CallContext,
    start: &Path,
    skip: Skip,
    max_depth: Option<usize>,
) -> impl Iterator<Item = ignore::DirEntry> + use<> {
    let workspace = std::sync::Arc::clone(&call.workspace);
    ignore::WalkBuilder::new(start)
        .standard_filters(false)
        .follow_links(false)
        .max_depth(max_depth)
        .sort_by_file_path(Path::cmp)
        .filter_entry(move |entry| {
            let hidden = skip == Skip::Git && entry.depth() > 0 && entry.file_name() == ".git";
            !hidden && !workspace.is_sealed(entry.path())
        })
        .build()
        .filter_map(Result::ok)
}
