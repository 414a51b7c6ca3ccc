//! The tools `read_file`, `write_file` and `edit_file`. They run in the Engine's own process, so every path
//! is resolved, checked and then opened without following links (`sandbox::open`).

use super::function::{Card, Function, path_property, tool};
use super::input::{blocking, io_failure, readable, writable};
use super::tool::{CallContext, Effect, Failure, Media, Output, Tool};
use crate::permissions::{PermissionContext, Verdict, rules};
use crate::sandbox::{Workspace, open};
use contract::ToolReason;
use serde::Deserialize;
use serde_json::{Value, json};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes of text one read_file call returns. Larger fills the context with one file, smaller makes reading
/// a source file several calls.
pub const READ_MAX_BYTES: usize = 50 * 1024;
/// Bytes write_file accepts.
pub const WRITE_MAX_BYTES: usize = 5 * 1024 * 1024;
/// Largest file edit_file takes into memory.
const EDIT_MAX_BYTES: u64 = 20 * 1024 * 1024;
/// Largest file read_file counts the lines of; a bigger one would keep a thread busy for seconds.
const SCAN_MAX_BYTES: u64 = 1024 * 1024 * 1024;
/// Where a NUL byte makes a file binary, as grep and git see it.
const SNIFF_BYTES: usize = 8 * 1024;
/// One file operation. Only a hanging file system takes longer.
const TIME_MAX: Duration = Duration::from_secs(60);
/// Locks for editing; two paths that share one wait for each other without need, more cost nothing much.
const EDIT_LOCKS: usize = 64;

/// The three tools. `image_max` is MEDIA_MAX_BYTES.
pub fn tools(image_max: u64) -> Vec<Arc<dyn Tool>> {
    let locks = Arc::new(EditLocks::default());
    vec![
        tool(ReadFile { image_max }),
        tool(WriteFile { locks: Arc::clone(&locks) }),
        tool(EditFile { locks }),
    ]
}

/// Calls of one block run in parallel; two edits of one file must not lose each other.
#[derive(Debug)]
struct EditLocks(Vec<Mutex<()>>);

impl Default for EditLocks {
    fn default() -> Self {
        Self((0..EDIT_LOCKS).map(|_| Mutex::new(())).collect())
    }
}

impl EditLocks {
    fn lock(&self, path: &Path) -> MutexGuard<'_, ()> {
        let mut hasher = DefaultHasher::new();
        path.hash(&mut hasher);
        let at = (hasher.finish() % EDIT_LOCKS as u64) as usize;
        // Guards no data, so a panic while held leaves nothing broken.
        self.0[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct ReadFile {
    image_max: u64,
}

#[derive(Deserialize)]
struct ReadInput {
    path: String,
    #[serde(default = "one")]
    offset: u64,
    #[serde(default = "default_limit")]
    limit: u64,
}

fn one() -> u64 {
    1
}

fn default_limit() -> u64 {
    2000
}

impl Function for ReadFile {
    type Input = ReadInput;

    fn card(&self) -> Card {
        Card {
            name: "read_file",
            description: "Reads a text file, or looks at a PNG, JPEG, WebP or GIF image. Input: `path`, optional \
                first line `offset` and number of lines `limit`. Output: content, path, start_line, \
                end_line, total_lines, next_offset (call again with it while it is not null; one call \
                returns at most 50 KB). Use it before editing a file. Not for directories (find), not for \
                searching (grep), not for other binary files.",
            effect: Effect::ReadOnly,
            required: &["path"],
            properties: json!({
                "path": path_property("File to read, absolute or relative to the workspace."),
                "offset": {"type": "integer", "minimum": 1, "default": 1,
                    "description": "First line to return, counted from 1."},
                "limit": {"type": "integer", "minimum": 1, "maximum": 5000, "default": 2000,
                    "description": "How many lines to return at most."}
            }),
        }
    }

    fn check(&self, input: &Value, context: &PermissionContext<'_>) -> Verdict {
        rules::read_path(input["path"].as_str().unwrap_or(""), context)
    }

    async fn run(&self, call: CallContext, input: ReadInput) -> Result<Output, Failure> {
        let image_max = self.image_max;
        let cancel = call.cancel.clone();
        blocking(&cancel, TIME_MAX, move |stop| {
            let path = readable(&call, &input.path)?;
            let file = open::read(&call.workspace, &path).map_err(|e| io_failure(&path, &e))?;
            let size = file.metadata().map_err(|e| io_failure(&path, &e))?.len();
            let mut reader = BufReader::with_capacity(SNIFF_BYTES, file);
            let start = reader.fill_buf().map_err(|e| io_failure(&path, &e))?;
            if let Some(media_type) = image_type(start) {
                return read_image(reader, &path, media_type, size, image_max);
            }
            if start.contains(&0) {
                let text = format!("{} is a binary file of {size} bytes", path.display());
                return Err(Failure::new(ToolReason::Failed, text));
            }
            if size > SCAN_MAX_BYTES {
                let text = format!("{} has {size} bytes; read parts of it with bash", path.display());
                return Err(Failure::new(ToolReason::TooLarge, text));
            }
            let page = read_page(reader, &input, || stop.now()).map_err(|e| io_failure(&path, &e))?;
            let Page { content, lines, total, next } = page;
            Ok(Output::json(json!({
                "content": content,
                "path": path.display().to_string(),
                "start_line": input.offset,
                "end_line": input.offset + lines.saturating_sub(1),
                "total_lines": total,
                "next_offset": next,
            })))
        })
        .await
    }
}

struct Page {
    content: String,
    lines: u64,
    total: u64,
    next: Option<u64>,
}

fn read_page(mut reader: impl BufRead, input: &ReadInput, stop: impl Fn() -> bool) -> io::Result<Page> {
    let mut content: Vec<u8> = Vec::new();
    let (mut total, mut lines, mut next) = (0, 0, None);
    let mut line = Vec::new();
    loop {
        line.clear();
        // A line longer than the page is read to its end but not kept in memory beyond it.
        let length = read_line(&mut reader, &mut line, READ_MAX_BYTES + 1)?;
        if length == 0 {
            break;
        }
        total += 1;
        if total % 4096 == 0 && stop() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "reading took too long"));
        }
        if total < input.offset || next.is_some() {
            continue;
        }
        let fits = content.len() + line.len() <= READ_MAX_BYTES;
        if lines >= input.limit || (!fits && lines > 0) {
            next = Some(total);
            continue;
        }
        lines += 1;
        if fits {
            content.extend_from_slice(&line);
        } else {
            content.extend_from_slice(&line[..READ_MAX_BYTES]);
            content.extend_from_slice(format!("\n[… line of {length} bytes cut …]\n").as_bytes());
        }
    }
    let content =
        String::from_utf8(content).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned());
    Ok(Page { content, lines, total, next })
}

/// Reads one line, keeping at most `keep` bytes of it; returns its whole length, 0 at the end.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>, keep: usize) -> io::Result<u64> {
    let mut length = 0;
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(length);
        }
        let end = buffer.iter().position(|&b| b == b'\n').map(|n| n + 1);
        let used = end.unwrap_or(buffer.len());
        let room = keep.saturating_sub(line.len()).min(used);
        line.extend_from_slice(&buffer[..room]);
        length += used as u64;
        reader.consume(used);
        if end.is_some() {
            return Ok(length);
        }
    }
}

fn image_type(start: &[u8]) -> Option<&'static str> {
    match start {
        [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}

fn read_image(
    reader: impl Read,
    path: &Path,
    media_type: &str,
    size: u64,
    max: u64,
) -> Result<Output, Failure> {
    let mut bytes = Vec::new();
    reader.take(max + 1).read_to_end(&mut bytes).map_err(|e| io_failure(path, &e))?;
    if bytes.len() as u64 > max {
        let text = format!("{} has {size} bytes; images may have {max}", path.display());
        return Err(Failure::new(ToolReason::TooLarge, text));
    }
    let value = json!({"path": path.display().to_string(), "media_type": media_type, "size": bytes.len()});
    Ok(Output { value, media: vec![Media { media_type: media_type.into(), bytes }], full: None })
}

struct WriteFile {
    locks: Arc<EditLocks>,
}

#[derive(Deserialize)]
struct WriteInput {
    path: String,
    content: String,
    #[serde(default)]
    append: bool,
}

impl Function for WriteFile {
    type Input = WriteInput;

    fn card(&self) -> Card {
        Card {
            name: "write_file",
            description: "Writes a whole text file, making missing directories; an existing file is replaced in one \
                step. Input: `path`, `content`, optional `append`. Output: path, bytes (length of the \
                content given), created. Use it for new files and complete rewrites. To change a part of a \
                file use edit_file. Outside the workspace a person is asked first.",
            effect: Effect::Idempotent,
            required: &["path", "content"],
            properties: json!({
                "path": path_property("File to write, absolute or relative to the workspace; missing directories are made."),
                "content": {"type": "string", "maxLength": WRITE_MAX_BYTES,
                    "description": "The whole new content, or what to add with `append`; at most 5 MiB."},
                "append": {"type": "boolean", "default": false,
                    "description": "Add to the end instead of replacing the content."}
            }),
        }
    }

    fn effect(&self, usual: Effect, input: &Value) -> Effect {
        if input["append"].as_bool().unwrap_or(false) { Effect::Once } else { usual }
    }

    fn check(&self, input: &Value, context: &PermissionContext<'_>) -> Verdict {
        rules::write_path(input["path"].as_str().unwrap_or(""), context)
    }

    async fn run(&self, call: CallContext, input: WriteInput) -> Result<Output, Failure> {
        let locks = Arc::clone(&self.locks);
        let bytes = input.content.len();
        if bytes > WRITE_MAX_BYTES {
            let text =
                format!("content has {bytes} bytes; at most {WRITE_MAX_BYTES} are written by one call");
            return Err(Failure::new(ToolReason::TooLarge, text));
        }
        let cancel = call.cancel.clone();
        blocking(&cancel, TIME_MAX, move |_| {
            let path = writable(&call, &input.path)?;
            let _lock = locks.lock(&path);
            let created = write(&call.workspace, &path, &input).map_err(|e| io_failure(&path, &e))?;
            Ok(Output::json(json!({"path": path.display().to_string(), "bytes": bytes, "created": created})))
        })
        .await
    }
}

fn write(workspace: &Workspace, path: &Path, input: &WriteInput) -> io::Result<bool> {
    if input.append && open::stat(path)?.is_some() {
        let mut file = open::append(workspace, path)?;
        file.write_all(input.content.as_bytes())?;
        file.sync_all()?;
        return Ok(false);
    }
    open::replace(workspace, path, input.content.as_bytes())
}

struct EditFile {
    locks: Arc<EditLocks>,
}

#[derive(Deserialize)]
struct EditInput {
    path: String,
    old_text: String,
    new_text: String,
    #[serde(default)]
    replace_all: bool,
}

impl Function for EditFile {
    type Input = EditInput;

    fn card(&self) -> Card {
        Card {
            name: "edit_file",
            description: "Replaces an exact piece of text in a file. Input: `path`, `old_text`, `new_text`, optional \
                `replace_all`. Output: path, replacements (0 when the change was already there). Fails \
                when old_text does not occur, or occurs several times without replace_all. Use it for \
                changes of a part of a file, after read_file. For new files and rewrites use write_file.",
            effect: Effect::Idempotent,
            required: &["path", "old_text", "new_text"],
            properties: json!({
                "path": path_property("File to change, absolute or relative to the workspace."),
                "old_text": {"type": "string", "minLength": 1, "maxLength": WRITE_MAX_BYTES,
                    "description": "The exact text to replace, blanks and line ends included; with enough around it to occur only once."},
                "new_text": {"type": "string", "maxLength": WRITE_MAX_BYTES,
                    "description": "What stands there afterwards; empty to delete."},
                "replace_all": {"type": "boolean", "default": false,
                    "description": "Replace every occurrence instead of demanding that there is only one."}
            }),
        }
    }

    fn check(&self, input: &Value, context: &PermissionContext<'_>) -> Verdict {
        rules::write_path(input["path"].as_str().unwrap_or(""), context)
    }

    async fn run(&self, call: CallContext, input: EditInput) -> Result<Output, Failure> {
        let locks = Arc::clone(&self.locks);
        let cancel = call.cancel.clone();
        blocking(&cancel, TIME_MAX, move |_| {
            let path = writable(&call, &input.path)?;
            let _lock = locks.lock(&path);
            let mut before = Vec::new();
            let file = open::read(&call.workspace, &path).map_err(|e| io_failure(&path, &e))?;
            file.take(EDIT_MAX_BYTES + 1).read_to_end(&mut before).map_err(|e| io_failure(&path, &e))?;
            if before.len() as u64 > EDIT_MAX_BYTES {
                let text = format!("{} is larger than {EDIT_MAX_BYTES} bytes", path.display());
                return Err(Failure::new(ToolReason::TooLarge, text));
            }
            let Ok(before) = String::from_utf8(before) else {
                let text = format!("{} is not UTF-8 text", path.display());
                return Err(Failure::new(ToolReason::Failed, text));
            };
            let (after, replacements) = edit(&before, &input)?;
            if replacements > 0 {
                open::replace(&call.workspace, &path, after.as_bytes()).map_err(|e| io_failure(&path, &e))?;
            }
            Ok(Output::json(json!({"path": path.display().to_string(), "replacements": replacements})))
        })
        .await
    }
}

/// The text after the change and how many places changed. Running it on its own result changes nothing,
/// also when the new text contains the old one.
fn edit(before: &str, input: &EditInput) -> Result<(String, usize), Failure> {
    let (old, new) = (input.old_text.as_str(), input.new_text.as_str());
    let failed = |text: String| Err(Failure::new(ToolReason::Failed, text));
    if old == new {
        return failed("old_text and new_text are the same".into());
    }
    // Occurrences inside an already changed place are not to be changed again.
    let changed: Vec<usize> =
        if new.contains(old) { before.match_indices(new).map(|(at, _)| at).collect() } else { Vec::new() };
    let is_changed = |at: usize| changed.iter().any(|&c| at >= c && at + old.len() <= c + new.len());
    let places: Vec<usize> =
        before.match_indices(old).map(|(at, _)| at).filter(|&at| !is_changed(at)).collect();
    match places.len() {
        0 if !new.is_empty() && before.contains(new) => return Ok((before.to_owned(), 0)),
        0 => {
            return failed(
                "old_text does not occur in the file; read it again, blanks and line ends count".into(),
            );
        }
        1 => {}
        n if !input.replace_all => {
            return failed(format!(
                "old_text occurs {n} times; give more of what is around it, or set replace_all"
            ));
        }
        _ => {}
    }
    let mut after = String::with_capacity(before.len() + places.len() * new.len());
    let mut done = 0;
    for &at in &places {
        after.push_str(&before[done..at]);
        after.push_str(new);
        done = at + old.len();
    }
    after.push_str(&before[done..]);
    Ok((after, places.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(before: &str, old: &str, new: &str, replace_all: bool) -> Result<(String, usize), String> {
        let input =
            EditInput { path: String::new(), old_text: old.into(), new_text: new.into(), replace_all };
        edit(before, &input).map_err(|f| f.text)
    }

    #[test]
    fn an_edit_needs_exactly_one_place_unless_told_otherwise() {
        assert_eq!(apply("a b c", "b", "x", false), Ok(("a x c".into(), 1)));
        assert!(apply("b b", "b", "x", false).unwrap_err().contains("2 times"));
        assert_eq!(apply("b b", "b", "x", true), Ok(("x x".into(), 2)));
        assert!(apply("a", "b", "c", false).unwrap_err().contains("does not occur"));
        assert!(apply("a", "a", "a", false).is_err());
        assert!(apply("a", "b", "", false).is_err());
    }

    #[test]
    fn an_edit_that_is_already_there_changes_nothing() {
        for (old, new) in [("b", "x"), ("b", "bb"), ("b", "a b"), ("foo()", "foo(); bar()")] {
            let (once, n) = apply(&format!("start {old} end"), old, new, false).unwrap();
            assert_eq!(n, 1, "{old} {new}");
            assert_eq!(apply(&once, old, new, false), Ok((once.clone(), 0)), "{old} {new}");
        }
    }

    #[test]
    fn pages_end_between_lines_and_lead_to_the_next() {
        let text: String = (1..=10).map(|n| format!("{n}\n")).collect();
        let page = |offset, limit| {
            let input = ReadInput { path: String::new(), offset, limit };
            let p = read_page(text.as_bytes(), &input, || false).unwrap();
            (p.content, p.lines, p.total, p.next)
        };
        assert_eq!(page(1, 3), ("1\n2\n3\n".into(), 3, 10, Some(4)));
        assert_eq!(page(9, 5), ("9\n10\n".into(), 2, 10, None));
        assert_eq!(page(11, 5), (String::new(), 0, 10, None));
        let long = format!("{}\nshort\n", "x".repeat(READ_MAX_BYTES * 2));
        let input = ReadInput { path: String::new(), offset: 1, limit: 10 };
        let p = read_page(long.as_bytes(), &input, || false).unwrap();
        assert_eq!((p.lines, p.next), (1, Some(2)));
        assert!(p.content.contains("cut"));
    }
}
