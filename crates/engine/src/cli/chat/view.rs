//! What a frame looks like on the screen: pure, from frames to text.
//!
//! The view knows where the cursor stands (at the start of a line or not) so that streamed text, tool
//! lines and notes never run into each other. It keeps what a result needs to know about its call, and
//! the token sum of the turn. It refuses to print: the session does that.

use super::frames::Frame;
use chassis::terminal::{self, Paint};
use serde_json::Value;
use std::collections::HashMap;

/// Lines of a tool's output that are shown. More would push the conversation off the screen; the whole
/// output stays in the task's messages.
const EXCERPT_LINES: usize = 6;

/// The running rendering of one conversation.
#[derive(Debug)]
pub struct View {
    paint: Paint,
    mid_line: bool,
    thinking: bool,
    calls: HashMap<String, String>,
    usage: Sum,
    model: String,
    started: Option<std::time::Instant>,
}

#[derive(Debug, Default)]
struct Sum {
    input: u64,
    output: u64,
    cached: u64,
}

impl View {
    /// A view at the start of a line.
    pub fn new(paint: Paint) -> Self {
        Self {
            paint,
            mid_line: false,
            thinking: false,
            calls: HashMap::new(),
            usage: Sum::default(),
            model: String::new(),
            started: None,
        }
    }

    /// How it prints.
    pub fn paint(&self) -> Paint {
        self.paint
    }

    /// A turn begins at `now`: its sums start at zero.
    pub fn begin(&mut self, now: std::time::Instant) {
        self.usage = Sum::default();
        self.calls.clear();
        self.started = Some(now);
    }

    /// A line of its own, after whatever was streamed.
    pub fn line(&mut self, text: &str) -> String {
        format!("{}{text}\n", self.fresh())
    }

    /// The terminal has put something on the line by itself, as it does for Ctrl-C.
    pub fn echoed(&mut self) {
        self.mid_line = true;
    }

    /// Streamed text stands on the current line.
    pub fn is_mid_line(&self) -> bool {
        self.mid_line
    }

    fn fresh(&mut self) -> &'static str {
        self.thinking = false;
        if std::mem::take(&mut self.mid_line) { "\n" } else { "" }
    }

    /// The text to print for one frame; empty for frames a person need not see.
    pub fn show(&mut self, frame: &Frame, now: std::time::Instant) -> String {
        let nested = if frame.text("parent_tool_call_id").is_empty() { "" } else { "  " };
        match frame.name.as_str() {
            "text_delta" => self.stream(frame.text("text"), false),
            "thinking_delta" => self.stream(frame.text("text"), true),
            "content_block_stop" if frame.flag("discarded") && frame.text("block_type") == "text" => {
                let note = self.paint.dim("(that text was discarded; the model starts again)");
                self.line(&note)
            }
            "content_block_stop" if frame.text("block_type") == "thinking" => self.fresh().to_owned(),
            "tool_call" => self.tool_call(frame, nested),
            "tool_result" => self.tool_result(frame, nested),
            "hitl_resolved" => self.resolved(frame),
            "working_memory_update" => self.working_memory(frame),
            "compaction_event" => self.compaction(frame),
            "usage" => {
                self.usage.input += frame.number("input_tokens");
                self.usage.output += frame.number("output_tokens");
                self.usage.cached += frame.number("cache_hit_tokens");
                if !frame.text("model").is_empty() {
                    self.model = terminal::one_line(frame.text("model"), 60);
                }
                String::new()
            }
            "error" => {
                let text = format!(
                    "{} {}: {}",
                    self.paint.red("✗"),
                    frame.text("error"),
                    terminal::clean(frame.text("message"))
                );
                self.line(&text)
            }
            "thread_lifecycle" => self.lifecycle(frame, now),
            _ => String::new(), // block starts, heartbeats, and hitl_request, which the session asks
        }
    }

    fn stream(&mut self, text: &str, thinking: bool) -> String {
        let text = terminal::clean(text);
        if text.is_empty() {
            return text;
        }
        let lead = if self.thinking == thinking { "" } else { self.fresh() };
        self.thinking = thinking;
        self.mid_line = !text.ends_with('\n');
        let shown = if thinking { self.paint.dim(&text) } else { text };
        format!("{lead}{shown}")
    }

    fn tool_call(&mut self, frame: &Frame, indent: &str) -> String {
        let tool = terminal::one_line(frame.text("tool"), 40);
        let room = self.paint.columns.saturating_sub(tool.len() + indent.len() + 5);
        let input = brief_input(frame.text("tool"), &frame.data["input"], room);
        self.calls.insert(frame.text("tool_call_id").to_owned(), format!("{tool} {input}"));
        let text = format!("{indent}{} {}  {input}", self.paint.cyan("●"), self.paint.bold(&tool));
        self.line(text.trim_end())
    }

    fn tool_result(&mut self, frame: &Frame, indent: &str) -> String {
        let call = self.calls.remove(frame.text("tool_call_id"));
        let took = terminal::duration(frame.number("duration_ms"));
        let output = &frame.data["output"];
        let failed = frame.data.get("error").is_some_and(Value::is_string);
        // With other calls still under way the line must say which one this is.
        let which = match call {
            Some(call) if !self.calls.is_empty() => format!("{}  ", terminal::one_line(&call, 40)),
            Some(_) => String::new(),
            None => format!("{}  ", terminal::one_line(frame.text("tool"), 40)),
        };
        let mut out = String::new();
        if failed {
            let word = frame.text("reason").replace('_', " ");
            let text = format!(
                "{indent}  {} {which}{word} {} {}",
                self.paint.red("✗"),
                self.paint.dim(&format!("({took})")),
                terminal::one_line(frame.text("error"), self.paint.columns.saturating_sub(word.len() + 20))
            );
            out.push_str(&self.line(text.trim_end()));
        } else {
            let code = output.get("exit_code").and_then(Value::as_i64).filter(|c| *c != 0);
            let (mark, note) = match code {
                Some(code) => (self.paint.yellow("✓"), format!(" exit {code}")),
                None => (self.paint.green("✓"), String::new()),
            };
            let text = format!("{indent}  {mark} {which}{}{note}", self.paint.dim(&took));
            out.push_str(&self.line(&text));
        }
        for line in excerpt(output, self.paint.columns.saturating_sub(indent.len() + 6)) {
            let text = self.paint.dim(&format!("{indent}    {line}"));
            out.push_str(&self.line(&text));
        }
        out
    }

    fn resolved(&mut self, frame: &Frame) -> String {
        let text = match frame.text("resolution") {
            "expired" => "(nobody answered in time)",
            "cancelled" => "(the question was withdrawn)",
            _ => return String::new(),
        };
        let text = self.paint.dim(text);
        self.line(&text)
    }

    fn working_memory(&mut self, frame: &Frame) -> String {
        let key = terminal::one_line(frame.text("key"), 40);
        let text = match frame.text("op") {
            "delete" => format!("note {key} removed"),
            _ => {
                let room = self.paint.columns.saturating_sub(key.len() + 10);
                format!("note {key} = {}", terminal::one_line(&plain(&frame.data["value"]), room))
            }
        };
        let text = self.paint.dim(&text);
        self.line(&text)
    }

    fn compaction(&mut self, frame: &Frame) -> String {
        let text = format!(
            "context shortened ({}): {} → {} tokens",
            frame.text("strategy"),
            terminal::number(frame.number("before_tokens")),
            terminal::number(frame.number("after_tokens"))
        );
        let text = self.paint.dim(&text);
        self.line(&text)
    }

    fn lifecycle(&mut self, frame: &Frame, now: std::time::Instant) -> String {
        let mut out = String::new();
        match frame.text("phase") {
            "started" if frame.flag("queued") => {
                let note = self.paint.dim("(waiting for a free slot)");
                out.push_str(&self.line(&note));
            }
            "completed" => {
                let note = match frame.text("stop_reason") {
                    "max_tokens" => "the answer was cut at MAX_TOKENS",
                    "max_iterations" => "stopped at AGENT_MAX_ITERATIONS; send a message to go on",
                    "refusal" => "the model declined",
                    "stopped_by_hook" => "stopped by a hook",
                    "cancelled" => "cancelled",
                    _ => "",
                };
                if !note.is_empty() {
                    let note = self.paint.yellow(&format!("({note})"));
                    out.push_str(&self.line(&note));
                }
                out.push_str(&self.summary(now));
            }
            "errored" => out.push_str(&self.summary(now)),
            _ => {}
        }
        out
    }

    /// The last line of a turn: what it cost and how long it took.
    fn summary(&mut self, now: std::time::Instant) -> String {
        let mut parts = Vec::new();
        if self.usage.input + self.usage.output > 0 {
            let cached = match self.usage.cached {
                0 => String::new(),
                n => format!(" ({} cached)", terminal::number(n)),
            };
            parts.push(format!("{} tokens in{cached}", terminal::number(self.usage.input)));
            parts.push(format!("{} out", terminal::number(self.usage.output)));
        }
        if !self.model.is_empty() {
            parts.push(self.model.clone());
        }
        if let Some(started) = self.started.take() {
            let ms = now.saturating_duration_since(started).as_millis();
            parts.push(terminal::duration(u64::try_from(ms).unwrap_or(u64::MAX)));
        }
        if parts.is_empty() {
            return self.fresh().to_owned();
        }
        let text = self.paint.dim(&format!("— {}", parts.join(" · ")));
        self.line(&text)
    }
}

/// The part of a call's input that tells a person what it does, on one line.
pub fn brief_input(tool: &str, input: &Value, columns: usize) -> String {
    const TELLING: [&str; 8] = ["command", "pattern", "path", "url", "query", "question", "key", "name"];
    let Some(object) = input.as_object() else { return terminal::one_line(&plain(input), columns) };
    let mut parts: Vec<String> = Vec::new();
    for field in TELLING {
        if let Some(text) = object.get(field).and_then(Value::as_str) {
            parts.push(text.to_owned());
        }
    }
    if tool == "write_file"
        && let Some(content) = object.get("content").and_then(Value::as_str)
    {
        parts.push(format!("({})", terminal::bytes(content.len() as u64)));
    }
    if parts.is_empty() && !object.is_empty() {
        parts.push(input.to_string());
    }
    terminal::one_line(&parts.join("  "), columns)
}

/// The first lines of a tool's output, as a person would want to see them.
pub fn excerpt(output: &Value, columns: usize) -> Vec<String> {
    let lines = output_lines(output);
    let mut shown: Vec<String> = lines
        .iter()
        .take(EXCERPT_LINES)
        .map(|l| terminal::cut(&terminal::clean(l).replace('\t', "    "), columns))
        .collect();
    if lines.len() > EXCERPT_LINES {
        shown.push(format!("… {} more lines", lines.len() - EXCERPT_LINES));
    }
    shown
}

fn output_lines(output: &Value) -> Vec<String> {
    let split = |text: &str| text.trim_end().lines().map(str::to_owned).collect::<Vec<_>>();
    match output {
        Value::Null => Vec::new(),
        Value::String(text) => split(text),
        Value::Array(items) => items.iter().flat_map(item_line).collect(),
        Value::Object(object) => {
            let text = |field: &str| object.get(field).and_then(Value::as_str);
            if text("stdout").is_some() || text("stderr").is_some() {
                let mut lines = split(text("stdout").unwrap_or_default());
                lines.extend(split(text("stderr").unwrap_or_default()));
                if object.get("timed_out").and_then(Value::as_bool) == Some(true) {
                    lines.push("(timed out)".to_owned());
                }
                return lines;
            }
            if let Some(content) = text("content").or_else(|| text("text")).or_else(|| text("answer")) {
                return split(content);
            }
            if let (Some(path), Some(bytes)) = (text("path"), object.get("bytes").and_then(Value::as_u64)) {
                return vec![format!("{path}, {}", terminal::bytes(bytes))];
            }
            for list in ["matches", "entries", "results", "items"] {
                if let Some(items) = object.get(list).and_then(Value::as_array) {
                    return match items.len() {
                        0 => vec!["(nothing found)".to_owned()],
                        _ => items.iter().flat_map(item_line).collect(),
                    };
                }
            }
            vec![output.to_string()]
        }
        other => vec![other.to_string()],
    }
}

/// One line for an element of a list: a grep match, a file, a search result.
fn item_line(item: &Value) -> Option<String> {
    let text = |field: &str| item.get(field).and_then(Value::as_str);
    let line =
        match (text("path"), item.get("line").and_then(Value::as_u64), text("text").or(text("snippet"))) {
            (Some(path), Some(line), Some(text)) => format!("{path}:{line}: {text}"),
            (Some(path), _, _) => path.to_owned(),
            (None, _, Some(text)) => text.to_owned(),
            (None, _, None) => match (text("title"), text("url")) {
                (Some(title), Some(url)) => format!("{title} — {url}"),
                _ => plain(item),
            },
        };
    Some(line.lines().next().unwrap_or_default().to_owned())
}

/// A value as text: strings without quotes, the rest as JSON.
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::{Duration, Instant};

    fn frame(name: &str, data: Value) -> Frame {
        Frame { seq: None, name: name.into(), data }
    }

    fn shown(frames: &[Frame]) -> String {
        let mut view = View::new(Paint::plain());
        let start = Instant::now();
        view.begin(start);
        frames.iter().map(|f| view.show(f, start + Duration::from_millis(1_200))).collect()
    }

    #[test]
    fn a_turn_with_a_tool_reads_like_a_conversation() {
        let text = shown(&[
            frame("thread_lifecycle", json!({"phase": "started", "queued": false})),
            frame("text_delta", json!({"text": "Let me "})),
            frame("text_delta", json!({"text": "look."})),
            frame(
                "usage",
                json!({"input_tokens": 1000, "output_tokens": 10, "cache_hit_tokens": 900, "model": "m"}),
            ),
            frame(
                "tool_call",
                json!({"tool": "bash", "tool_call_id": "call-1", "input": {"command": "ls\n-la"}}),
            ),
            frame(
                "tool_result",
                json!({"tool": "bash", "tool_call_id": "call-1", "duration_ms": 12,
                       "output": {"stdout": "a\nb\n", "stderr": "", "exit_code": 1}}),
            ),
            frame("text_delta", json!({"text": "Two files."})),
            frame("usage", json!({"input_tokens": 240, "output_tokens": 5, "model": "m"})),
            frame("thread_lifecycle", json!({"phase": "completed", "stop_reason": "end_turn"})),
        ]);
        assert_eq!(
            text,
            "Let me look.\n● bash  ls -la\n  ✓ 12 ms exit 1\n    a\n    b\nTwo files.\n\
             — 1,240 tokens in (900 cached) · 15 out · m · 1.2 s\n"
        );
    }

    #[test]
    fn a_result_says_which_call_it_answers_while_others_run() {
        let text = shown(&[
            frame("tool_call", json!({"tool": "grep", "tool_call_id": "call-1", "input": {"pattern": "x"}})),
            frame(
                "tool_call",
                json!({"tool": "bash", "tool_call_id": "call-2", "input": {"command": "rm y"}}),
            ),
            frame(
                "tool_result",
                json!({"tool": "bash", "tool_call_id": "call-2", "duration_ms": 3, "output": null,
                       "error": "a person refused", "reason": "permission_denied"}),
            ),
            frame(
                "tool_result",
                json!({"tool": "grep", "tool_call_id": "call-1", "duration_ms": 1,
                       "output": {"matches": [{"path": "a.rs", "line": 3, "text": "x = 1"}], "truncated": false}}),
            ),
        ]);
        assert_eq!(
            text,
            "● grep  x\n● bash  rm y\n  ✗ bash rm y  permission denied (3 ms) a person refused\n  ✓ 1 ms\n    a.rs:3: x = 1\n"
        );
    }

    #[test]
    fn a_long_output_is_cut_and_says_how_much_is_missing() {
        let output = json!((1..=20).map(|n| n.to_string()).collect::<Vec<_>>().join("\n"));
        let lines = excerpt(&output, 80);
        assert_eq!((lines.len(), lines.last().map(String::as_str)), (7, Some("… 14 more lines")));
    }

    #[test]
    fn a_continued_answer_is_not_broken_but_a_discarded_one_is_marked() {
        let text = shown(&[
            frame("text_delta", json!({"text": "Hel"})),
            frame("content_block_stop", json!({"block_type": "text", "discarded": false})),
            frame("text_delta", json!({"text": "lo", "block_index": 1})),
            frame("content_block_stop", json!({"block_type": "text", "discarded": true})),
        ]);
        assert_eq!(text, "Hello\n(that text was discarded; the model starts again)\n");
    }

    #[test]
    fn nothing_a_model_says_can_drive_the_terminal() {
        let text = shown(&[
            frame("text_delta", json!({"text": "a\u{1b}]0;owned\u{7}b"})),
            frame(
                "tool_call",
                json!({"tool": "bash", "tool_call_id": "c", "input": {"command": "\u{1b}[2J"}}),
            ),
        ]);
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
}
