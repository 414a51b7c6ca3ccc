//! A provider with a window: it counts every request and refuses what does not fit, in its protocol's own words.

use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use testbed::{Protocol, Reply, Script, SeenRequest};

/// Bytes of a token here: fewer than the Engine thinks, so that its estimates are too small.
const BYTES_PER_TOKEN: usize = 3;
const TOKENS_PER_MEDIUM: usize = 1600;

/// What a call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    Main,
    Plan,
    Summary,
}

pub fn asked(request: &SeenRequest) -> Asked {
    match request.system.as_str() {
        s if s.starts_with("Summarise") => Asked::Summary,
        s if s.starts_with("You plan work") => Asked::Plan,
        _ => Asked::Main,
    }
}

/// The number and the word of the last `turn <number> <word> …`.
pub fn turn_of(text: &str) -> (usize, String) {
    let words: Vec<&str> = text.split_whitespace().collect();
    let of =
        |three: &[&str]| Some((three[1].parse().ok().filter(|_| three[0] == "turn")?, three[2].to_owned()));
    words.windows(3).rev().find_map(of).unwrap_or((usize::MAX, String::new()))
}

/// The window, and what it has seen.
#[derive(Clone)]
pub struct Window {
    tokens: usize,
    refused: Arc<AtomicUsize>,
    problems: Arc<Mutex<Vec<String>>>,
    summary: Arc<Mutex<String>>,
}

impl Window {
    pub fn new(tokens: usize) -> Self {
        Self { tokens, refused: Arc::default(), problems: Arc::default(), summary: Arc::default() }
    }

    /// Answers what fits and looks at every request; `goal` is in every call of a turn after the plan was made.
    pub fn script(
        &self,
        goal: Option<&'static str>,
        answer: impl Fn(&SeenRequest) -> Reply + Send + Sync + 'static,
    ) -> Script {
        let own = self.clone();
        Script::from_fn(move |request| {
            let size = size_of(request);
            if asked(request) == Asked::Main {
                own.look(request, goal);
            }
            if size + output_of(request) > own.tokens {
                own.refused.fetch_add(1, Ordering::Relaxed);
                return refusal(request.protocol, size, own.tokens);
            }
            answer(request).usage(size as u64, 20, 0)
        })
    }

    /// The summary in the last call of a turn; empty where there was none.
    pub fn summary(&self) -> String {
        self.summary.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn refusals(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    pub fn assert_no_problems(&self) {
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(
            problems.is_empty(),
            "{} problems:\n{}",
            problems.len(),
            problems[..problems.len().min(20)].join("\n")
        );
    }

    /// The turns in a request are a run without gaps that ends with the one being answered.
    fn look(&self, request: &SeenRequest, goal: Option<&str>) {
        let texts = request.messages.iter().flat_map(|m| &m.texts);
        let summary = texts.filter_map(|t| t.split_once("<summary>")?.1.split_once("</summary>")).next();
        *self.summary.lock().unwrap_or_else(PoisonError::into_inner) =
            summary.map(|(said, _)| said.to_owned()).unwrap_or_default();
        let users = request.messages.iter().filter(|m| m.role == "user");
        let asked: Vec<usize> =
            users.flat_map(|m| turns_in(&m.text())).filter(|n| *n != usize::MAX).collect();
        let mut found = Vec::new();
        if asked.windows(2).any(|pair| pair[1] != pair[0] + 1) {
            found.push(format!("call {}: the turns {asked:?} are not a run", request.number));
        }
        let current = turn_of(&request.last_user_text()).0;
        if current != usize::MAX && asked.last() != Some(&current) {
            found.push(format!("call {}: turn {current} is not the last of {asked:?}", request.number));
        }
        if let Some(goal) = goal
            && current > 3
            && !request.messages.iter().any(|m| m.role == "user" && m.text().contains(goal))
        {
            found.push(format!("call {}: the open plan is not there in turn {current}", request.number));
        }
        self.problems.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
    }
}

/// The turns whose questions stand in a text; several may, because neighbours of one role are joined. What is recalled
/// from memory stands there as well and does not count.
fn turns_in(text: &str) -> Vec<usize> {
    let mut text = text.to_owned();
    while let Some((from, to)) = text.find("<memory").zip(text.find("</memory>")) {
        text.replace_range(from..to + "</memory>".len(), " ");
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    let kinds = ["talk", "files", "plain", "write", "note", "picture", "ask", "huge", "plan", "delegate"];
    let of = |three: &[&str]| {
        let known = three[0].ends_with("turn") && kinds.iter().any(|k| three[2].starts_with(k));
        known.then(|| three[1].parse().ok()).flatten()
    };
    words.windows(3).filter_map(of).collect()
}

fn size_of(request: &SeenRequest) -> usize {
    let mut bytes = request.system.len() + request.body["tools"].to_string().len();
    let mut media = 0;
    for message in &request.messages {
        bytes += message.texts.iter().map(String::len).sum::<usize>();
        bytes +=
            message.calls.iter().map(|(name, input)| name.len() + input.to_string().len()).sum::<usize>();
        bytes += message.results.iter().map(|r| r.text.len()).sum::<usize>();
        media += message.media;
    }
    bytes / BYTES_PER_TOKEN + media * TOKENS_PER_MEDIUM
}

/// Gemini looks at the input alone.
fn output_of(request: &SeenRequest) -> usize {
    ["max_tokens", "max_completion_tokens"]
        .iter()
        .find_map(|f| request.body[f].as_u64())
        .map_or(0, |n| usize::try_from(n).unwrap_or(usize::MAX))
}

fn refusal(protocol: Protocol, size: usize, window: usize) -> Reply {
    let body: Value = match protocol {
        Protocol::OpenAi => json!({"error": {
            "message": format!("This model's maximum context length is {window} tokens. However, your messages resulted in {size} tokens."),
            "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded"}}),
        Protocol::Anthropic => json!({"type": "error", "error": {"type": "invalid_request_error",
            "message": format!("prompt is too long: {size} tokens > {window} maximum")}}),
        Protocol::Gemini => json!({"error": {"code": 400, "status": "INVALID_ARGUMENT",
            "message": format!("The input token count ({size}) exceeds the maximum number of tokens allowed ({window}).")}}),
    };
    Reply::error(400, body)
}
