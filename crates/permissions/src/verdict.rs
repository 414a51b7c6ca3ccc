//! The answer of the rules, and what a person is asked.
//!
//! The invariant: a prompt names the exact rule that `always` would remember, and everything a yes would open.

use crate::analysis::Touch;
use crate::scope::Scope;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// The answers to a prompt whose rule may be remembered.
pub const ANSWERS: [&str; 3] = ["yes", "no", "always"];
/// The answers where every call needs its own yes.
pub const ANSWERS_ONCE: [&str; 2] = ["yes", "no"];

/// What one call may use beyond the workspace because a person said so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Grants {
    /// May be read, written, made and removed.
    pub write: Vec<PathBuf>,
    /// May be talked to.
    pub hosts: Vec<String>,
}

impl Grants {
    /// Only these paths.
    pub fn paths(write: Vec<PathBuf>) -> Self {
        Self { write, hosts: Vec::new() }
    }

    /// True when nothing beyond the workspace is allowed.
    pub fn is_empty(&self) -> bool {
        self.write.is_empty() && self.hosts.is_empty()
    }

    /// True when `path` is one of the allowed paths itself.
    pub fn allow(&self, path: &Path) -> bool {
        self.write.iter().any(|granted| granted == path)
    }
}

/// A question for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    /// The exact rule that `always` would remember.
    pub rule: String,
    /// Why it is asked.
    pub reason: String,
    /// The question, naming what would happen.
    pub question: String,
    /// The answers offered; without `always` the answer is not remembered.
    pub options: Vec<String>,
    /// What a yes allows this call beyond the workspace.
    pub grants: Grants,
    /// What the question is about: a yes is for this and nothing else.
    pub scope: Scope,
    /// What the call would change, as far as it is known; bounded.
    pub touches: Vec<Touch>,
    /// For a file tool: what would change in the file.
    pub diff: Option<String>,
}

impl Prompt {
    /// A question with nothing to open and nothing to show.
    pub fn new(rule: impl Into<String>, reason: impl Into<String>, question: impl Into<String>) -> Self {
        Self {
            rule: rule.into(),
            reason: reason.into(),
            question: question.into(),
            options: ANSWERS.map(String::from).to_vec(),
            grants: Grants::default(),
            scope: Scope::default(),
            touches: Vec::new(),
            diff: None,
        }
    }
}

/// What the rules say about one call. Made once per call and never stored: its size does not matter.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Run it, with these extras.
    Allow {
        /// The remembered rule that allowed it; `None` when nothing forbids it.
        rule: Option<String>,
        /// Non-empty only when a remembered rule allowed it.
        grants: Grants,
    },
    /// Never run it and never ask.
    Deny {
        /// For the model and the observability event.
        reason: String,
    },
    /// Ask first.
    Prompt(Prompt),
}

impl Verdict {
    /// Run it within the workspace.
    pub fn allow() -> Self {
        Verdict::Allow { rule: None, grants: Grants::default() }
    }

    /// Never run it.
    pub fn deny(reason: impl Into<String>) -> Self {
        Verdict::Deny { reason: reason.into() }
    }

    /// Ask first.
    pub fn ask(prompt: Prompt) -> Self {
        Verdict::Prompt(prompt)
    }
}
