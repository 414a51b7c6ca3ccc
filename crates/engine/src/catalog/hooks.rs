//! The hook settings file: programs asked before and after tool calls, and before a turn ends.
//! (specification 6.10)

use super::document::{Object, parse};
use super::problem::{Problem, named};
use serde_json::Value;
use std::time::Duration;

/// Hooks of one file. Each that matches is a process per call; more would be a program of its own.
const HOOKS_MAX: usize = 100;
/// Arguments of a command.
const ARGUMENTS_MAX: usize = 64;
/// Characters of one argument.
const ARGUMENT_MAX: usize = 4096;
/// Time limit of a hook that names none: long enough for a check, short enough not to be felt as a hang.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time limit; a stop hook may run a test suite.
const TIMEOUT_MAX_S: u64 = 600;

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HookEvent {
    /// Before a tool call is judged.
    PreTool,
    /// After its outcome is committed.
    PostTool,
    /// When the model wants to end the turn.
    Stop,
}

impl HookEvent {
    /// Every event.
    pub const ALL: [HookEvent; 3] = [HookEvent::PreTool, HookEvent::PostTool, HookEvent::Stop];

    /// The word in the file and on the hook's stdin.
    pub const fn as_str(self) -> &'static str {
        match self {
            HookEvent::PreTool => "pre_tool",
            HookEvent::PostTool => "post_tool",
            HookEvent::Stop => "stop",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|e| e.as_str() == text)
    }
}

/// One hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// When.
    pub event: HookEvent,
    /// Tool name, for stop hooks agent name; `*` and a trailing `*` match more.
    pub pattern: String,
    /// Program and arguments; no shell.
    pub command: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
}

impl Hook {
    /// Whether it is about this tool or agent.
    pub fn matches(&self, event: HookEvent, name: &str) -> bool {
        self.event == event
            && match self.pattern.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => self.pattern == name,
            }
    }
}

/// Reads a hook settings file; `None` when it is not to be used.
pub fn read(file: &str, bytes: &[u8], problems: &mut Vec<Problem>) -> Option<Vec<Hook>> {
    let map = match parse(file, bytes) {
        Ok(map) => map,
        Err(problem) => {
            problems.push(problem);
            return None;
        }
    };
    let before = problems.len();
    let mut o = Object::new(file, "", &map, problems);
    let mut hooks = Vec::new();
    match o.needed("hooks", "add a list of hooks; [] is none") {
        Some(Value::Array(items)) if items.len() <= HOOKS_MAX => {
            for (index, item) in items.iter().enumerate() {
                match item {
                    Value::Object(map) => hooks.extend(o.inner_at("hooks", index, map, hook)),
                    other => {
                        let why = format!("expected an object, got {}", named(other));
                        o.wrong_at("hooks", index, why, "write {\"event\":…,\"match\":…,\"command\":[…]}");
                    }
                }
            }
        }
        Some(other) => {
            let why = format!("expected an array of at most {HOOKS_MAX} hooks, got {}", named(other));
            o.wrong("hooks", why, "write a list of hooks; [] is none");
        }
        None => {}
    }
    o.finish();
    let bad = problems[before..].iter().any(Problem::is_error);
    (!bad).then_some(hooks)
}

fn hook(o: &mut Object<'_>) -> Option<Hook> {
    let words = HookEvent::ALL.map(HookEvent::as_str);
    let event = match o.needed("event", "write pre_tool, post_tool or stop") {
        Some(_) => o.word("event", &words).and_then(HookEvent::parse),
        None => None,
    };
    let pattern = o.needed_text("match", 1, 100);
    if let Some(pattern) = &pattern
        && pattern.trim_end_matches('*').contains('*')
    {
        o.wrong("match", "`*` stands before the end", "write a name, a beginning with `*` behind it, or `*`");
    }
    let command = match o.needed("command", "add the program and its arguments as a list") {
        Some(_) => o.texts("command", ARGUMENTS_MAX, ARGUMENT_MAX),
        None => None,
    };
    if command.as_ref().is_some_and(Vec::is_empty) {
        o.wrong("command", "is empty", "write the program and its arguments as a list");
    }
    let timeout = o.whole("timeout_s", 1, TIMEOUT_MAX_S).map_or(TIMEOUT, Duration::from_secs);
    Some(Hook { event: event?, pattern: pattern?, command: command?, timeout })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_name_a_beginning_or_everything() {
        let hook = |pattern: &str| Hook {
            event: HookEvent::PreTool,
            pattern: pattern.to_owned(),
            command: vec!["x".to_owned()],
            timeout: TIMEOUT,
        };
        for (pattern, name, expected) in [
            ("bash", "bash", true),
            ("bash", "bashful", false),
            ("slack.*", "slack.send", true),
            ("git_*", "git_log", true),
            ("git_*", "git", false),
            ("*", "anything", true),
        ] {
            assert_eq!(hook(pattern).matches(HookEvent::PreTool, name), expected, "{pattern} {name}");
            assert!(!hook(pattern).matches(HookEvent::PostTool, name));
        }
    }
}
