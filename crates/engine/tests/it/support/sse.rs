//! Event streams, read as strictly as the specification writes them: every frame byte by byte (4.1), every
//! payload field by field (4.2), every finished turn against the ordering rules (4.3).

use super::LIMIT;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use tokio::time::Instant;

/// One frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    pub id: i64,
    pub event: String,
    pub data: Value,
    pub raw: String,
}

impl Frame {
    /// Reads exactly `id`, `event`, `data`, blank line.
    fn read(raw: &str) -> Self {
        let lines: Vec<&str> = raw.split('\n').collect();
        let [id, event, data, "", ""] = lines[..] else { panic!("not a frame of three lines: {raw:?}") };
        let id = id.strip_prefix("id: ").unwrap_or_else(|| panic!("no id line: {raw:?}"));
        let event = event.strip_prefix("event: ").unwrap_or_else(|| panic!("no event line: {raw:?}"));
        let data = data.strip_prefix("data: ").unwrap_or_else(|| panic!("no data line: {raw:?}"));
        assert!(!raw.contains('\r') && !raw.contains('\u{feff}'), "{raw:?}");
        let number: i64 = id.parse().unwrap_or_else(|_| panic!("not an id: {raw:?}"));
        assert!(number >= 0 && number.to_string() == id, "not an id: {raw:?}");
        let data: Value = serde_json::from_str(data).unwrap_or_else(|e| panic!("{e}: {raw:?}"));
        let frame = Self { id: number, event: event.to_owned(), data, raw: raw.to_owned() };
        frame.check_fields();
        frame
    }

    pub fn is(&self, event: &str) -> bool {
        self.event == event
    }

    pub fn phase(&self) -> Option<&str> {
        self.is("thread_lifecycle").then(|| self.text("phase"))
    }

    pub fn text(&self, field: &str) -> &str {
        self.data[field].as_str().unwrap_or_else(|| panic!("no {field}: {}", self.raw))
    }

    /// Exactly the documented fields.
    fn check_fields(&self) {
        let (need, may): (&[&str], &[&str]) = match self.event.as_str() {
            "thread_lifecycle" => match self.data["phase"].as_str() {
                Some("started") => (&["phase", "user_message_id", "agent", "queued"], &[]),
                Some("completed") => (&["phase", "message_id", "stop_reason"], &["output"]),
                Some("errored") => (&["phase", "error"], &[]),
                _ => panic!("no such phase: {}", self.raw),
            },
            "error" => (&["error", "message"], &["details"]),
            "text_delta" | "thinking_delta" => (&["text", "block_index"], &[]),
            "content_block_start" => (&["block_index", "block_type"], &[]),
            "content_block_stop" => (&["block_index", "block_type", "discarded"], &[]),
            "tool_call" => (&["tool", "tool_call_id", "input"], &[]),
            "tool_result" => (
                &["tool", "tool_call_id", "output", "duration_ms"],
                &["error", "reason", "truncated", "blob"],
            ),
            "hitl_request" => (
                &["request_id", "kind", "question", "options", "created_at", "expires_at", "tool_call_id"],
                &["tool", "input", "reason", "rule"],
            ),
            "hitl_resolved" => (&["request_id", "kind", "resolution", "answer"], &[]),
            "working_memory_update" => (&["key", "value", "op", "expires_at"], &["truncated"]),
            "compaction_event" => (&["before_tokens", "after_tokens", "strategy"], &[]),
            "heartbeat" => (&[], &[]),
            "usage" => (&["input_tokens", "output_tokens", "cache_hit_tokens", "model", "purpose"], &[]),
            other => panic!("event {other} is not in the vocabulary: {}", self.raw),
        };
        let common = ["task_id", "turn_id", "timestamp"];
        let fields = self.data.as_object().expect("an object payload");
        for name in common.iter().chain(need) {
            assert!(fields.contains_key(*name), "{name} is missing: {}", self.raw);
        }
        for name in fields.keys() {
            let of_nested_call = NESTED.contains(&self.event.as_str())
                && ["agent", "parent_tool_call_id"].contains(&name.as_str())
                && fields.contains_key("parent_tool_call_id");
            let known = of_nested_call || common.iter().chain(need).chain(may).any(|n| n == name);
            assert!(known, "{name} is not documented: {}", self.raw);
        }
        let at = self.text("timestamp").as_bytes();
        assert!(at.len() == 24 && at[10] == b'T' && at[19] == b'.' && at[23] == b'Z', "{}", self.raw);
    }
}

/// Events that a nested call may send.
const NESTED: [&str; 7] = [
    "tool_call",
    "tool_result",
    "hitl_request",
    "hitl_resolved",
    "usage",
    "working_memory_update",
    "compaction_event",
];

/// A stream under way.
pub struct Stream {
    body: Option<Incoming>,
    bytes: Vec<u8>,
    /// The next event that is no heartbeat comes before this.
    deadline: Instant,
}

impl Stream {
    pub fn new(body: Incoming) -> Self {
        Self { body: Some(body), bytes: Vec::new(), deadline: Instant::now() + LIMIT }
    }

    /// The next frame; `None` when the stream was ended by the Engine.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(at) = self.bytes.windows(2).position(|w| w == b"\n\n") {
                let raw: Vec<u8> = self.bytes.drain(..at + 2).collect();
                let frame = Frame::read(&String::from_utf8(raw).expect("UTF-8"));
                if !frame.is("heartbeat") {
                    self.deadline = Instant::now() + LIMIT;
                }
                return Some(frame);
            }
            let body = self.body.as_mut()?;
            match tokio::time::timeout_at(self.deadline, body.frame())
                .await
                .expect("an event or the end in time")
            {
                Some(Ok(frame)) => self.bytes.extend_from_slice(&frame.into_data().expect("no trailers")),
                Some(Err(_)) | None => {
                    self.body = None;
                    let left = String::from_utf8_lossy(&self.bytes);
                    assert!(left.is_empty(), "the stream ends inside a frame: {left:?}");
                    return None;
                }
            }
        }
    }

    /// Frames up to the first that is as wanted, which is the last of them.
    pub async fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await {
            let found = wanted(&frame);
            frames.push(frame);
            if found {
                return frames;
            }
        }
        panic!("the stream ended without it: {}", shown(&frames));
    }

    pub async fn until_event(&mut self, event: &str) -> Vec<Frame> {
        self.until(|f| f.is(event)).await
    }

    /// Everything to the end.
    pub async fn rest(mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await {
            frames.push(frame);
        }
        frames
    }

    /// A whole turn, from its first event to its last.
    pub async fn finish(self) -> Turn {
        self.finish_with(false).await
    }

    pub async fn finish_with(self, thinking: bool) -> Turn {
        Turn::checked(self.rest().await, thinking)
    }
}

/// A whole turn that keeps every rule.
#[derive(Debug, Clone)]
pub struct Turn(pub Vec<Frame>);

impl Turn {
    pub fn checked(frames: Vec<Frame>, thinking: bool) -> Self {
        check(&frames, thinking);
        Self(frames)
    }

    pub fn all(&self, event: &str) -> Vec<&Frame> {
        self.0.iter().filter(|f| f.is(event)).collect()
    }

    pub fn one(&self, event: &str) -> &Frame {
        let found = self.all(event);
        assert_eq!(found.len(), 1, "{event}: {}", shown(&self.0));
        found[0]
    }

    pub fn count(&self, event: &str) -> usize {
        self.all(event).len()
    }

    pub fn turn_id(&self) -> String {
        self.0[0].text("turn_id").to_owned()
    }

    pub fn user_message(&self) -> String {
        self.0[0].text("user_message_id").to_owned()
    }

    pub fn last(&self) -> &Frame {
        self.0.last().expect("a turn has frames")
    }

    pub fn last_id(&self) -> i64 {
        self.last().id
    }

    /// Why a completed turn ended.
    pub fn stop_reason(&self) -> &str {
        assert_eq!(self.last().phase(), Some("completed"), "{}", shown(&self.0));
        self.last().text("stop_reason")
    }

    /// The `error` payload of an errored turn.
    pub fn error(&self) -> &Value {
        assert_eq!(self.last().phase(), Some("errored"), "{}", shown(&self.0));
        &self.one("error").data
    }

    /// The reply: text of all blocks that count.
    pub fn text(&self) -> String {
        let discarded: BTreeSet<u64> = self
            .all("content_block_stop")
            .iter()
            .filter(|f| f.data["discarded"] == true)
            .filter_map(|f| f.data["block_index"].as_u64())
            .collect();
        self.all("text_delta")
            .iter()
            .filter(|f| f.data["block_index"].as_u64().is_some_and(|i| !discarded.contains(&i)))
            .map(|f| f.text("text"))
            .collect()
    }

    /// Without heartbeats, which belong to a connection and not to the turn.
    pub fn raw(&self) -> String {
        raw(&self.0)
    }
}

/// The bytes of stored frames.
pub fn raw(frames: &[Frame]) -> String {
    frames.iter().filter(|f| !f.is("heartbeat")).map(|f| f.raw.as_str()).collect()
}

/// For messages.
pub fn shown(frames: &[Frame]) -> String {
    frames.iter().map(|f| f.raw.replace("\n\n", "\n")).collect()
}

/// Ids grow, and a heartbeat repeats the one before it.
fn check_ids(frames: &[Frame]) {
    for pair in frames.windows(2) {
        if pair[1].is("heartbeat") {
            assert_eq!(pair[1].id, pair[0].id, "a heartbeat with an id of its own:\n{}", shown(frames));
        } else {
            assert!(pair[1].id > pair[0].id, "ids do not grow:\n{}", shown(frames));
        }
    }
}

/// Every ordering rule of 4.3 on a whole turn.
pub fn check(frames: &[Frame], thinking: bool) {
    let fail = |why: &str| assert!(why.is_empty(), "{why}:\n{}", shown(frames));
    check_ids(frames);
    let stored: Vec<&Frame> = frames.iter().filter(|f| !f.is("heartbeat")).collect();
    let first = stored.first().expect("a stream with events");
    let last = stored[stored.len() - 1];
    if first.phase() != Some("started") {
        fail("the first event is not started");
    }
    if !matches!(last.phase(), Some("completed" | "errored"))
        || !std::ptr::eq(last, &frames[frames.len() - 1])
    {
        fail("the last event is not completed or errored");
    }
    if stored.iter().filter(|f| f.is("thread_lifecycle")).count() != 2 {
        fail("not exactly one started and one end");
    }
    for frame in frames {
        if frame.data["turn_id"] != first.data["turn_id"] || frame.data["task_id"] != first.data["task_id"] {
            fail("another turn's frame");
        }
    }
    let errors = stored.iter().filter(|f| f.is("error")).count();
    if last.phase() == Some("errored") {
        let before = stored[stored.len() - 2];
        if errors != 1 || !before.is("error") || before.data["error"] != last.data["error"] {
            fail("errored without its error directly before");
        }
    } else if errors != 0 {
        fail("an error in a completed turn");
    }
    if !thinking && stored.iter().any(|f| f.is("thinking_delta") || f.data["block_type"] == "thinking") {
        fail("thinking that was not asked for");
    }
    check_blocks(&stored, &fail);
    check_calls(&stored, &fail);
}

fn check_blocks(frames: &[&Frame], fail: &dyn Fn(&str)) {
    let mut open: Option<(u64, String)> = None;
    let mut next = 0;
    for frame in frames {
        let index = frame.data["block_index"].as_u64().unwrap_or(u64::MAX);
        match frame.event.as_str() {
            "content_block_start" => {
                if open.is_some() || index != next {
                    fail("a block starts inside another, or out of turn");
                }
                next += 1;
                open = Some((index, frame.text("block_type").to_owned()));
            }
            "content_block_stop" => {
                let stopped = open.take() == Some((index, frame.text("block_type").to_owned()));
                assert!(stopped, "a stop without its start: {}", frame.raw);
            }
            "text_delta" | "thinking_delta" => {
                let kind = frame.event.trim_end_matches("_delta").to_owned();
                if open != Some((index, kind)) || frame.text("text").is_empty() {
                    fail("a delta outside its block, or an empty one");
                }
            }
            "tool_call" | "usage" | "error" | "thread_lifecycle" | "compaction_event" if open.is_some() => {
                fail("a block is still open");
            }
            _ => {}
        }
    }
}

fn check_calls(frames: &[&Frame], fail: &dyn Fn(&str)) {
    let (mut blocks, mut calls) = (0, 0);
    let mut usage_since_blocks = false;
    let mut open: BTreeMap<&str, Option<&str>> = BTreeMap::new();
    let mut settled: BTreeSet<&str> = BTreeSet::new();
    for frame in frames {
        // a nested call has no blocks; it lies between the call and the result of the one it belongs to
        let nested = frame.data["parent_tool_call_id"].as_str();
        if nested.is_some_and(|call| !open.contains_key(call)) {
            fail("a nested event outside its call");
        }
        match frame.event.as_str() {
            "usage" if nested.is_some() => {}
            "content_block_start" => usage_since_blocks = false,
            "content_block_stop" if frame.data["block_type"] == "tool_use" => {
                blocks += u32::from(frame.data["discarded"] == false);
            }
            "usage" => usage_since_blocks = true,
            "tool_call" => {
                calls += u32::from(nested.is_none());
                if calls > blocks {
                    fail("a tool_call before the stop of its block");
                }
                if nested.is_none() && !usage_since_blocks {
                    fail("a tool_call before the usage of its model call");
                }
                if !frame.data["input"].is_object() && !frame.data["input"].is_string() {
                    fail("a tool_call without input");
                }
                let id = frame.text("tool_call_id");
                if settled.contains(id) || open.insert(id, None).is_some() {
                    fail("a tool_call twice");
                }
            }
            "hitl_request" => match open.get_mut(frame.text("tool_call_id")) {
                Some(prompt @ None) => *prompt = Some(frame.text("request_id")),
                _ => fail("a hitl_request outside its call"),
            },
            "hitl_resolved" => {
                let id = frame.text("request_id");
                match open.values_mut().find(|p| **p == Some(id)) {
                    Some(prompt) => *prompt = None,
                    None => fail("a hitl_resolved without its request"),
                }
            }
            "tool_result" => {
                let id = frame.text("tool_call_id");
                match open.remove(id) {
                    Some(None) => {}
                    Some(Some(_)) => fail("a tool_result while its question is open"),
                    None => fail("a tool_result without its call"),
                }
                settled.insert(id);
                if frame.data.get("error").is_some() != frame.data.get("reason").is_some() {
                    fail("error and reason come together");
                }
            }
            _ => {}
        }
    }
    if frames[frames.len() - 1].phase() == Some("completed") && !open.is_empty() {
        fail("a call without its result");
    }
}
