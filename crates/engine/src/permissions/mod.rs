//! May this call run? Static rules, evaluated per call; the first match wins.
//!
//! Decides only: nothing here runs a command, asks a person or remembers an answer. The file system is
//! read, never written, because a path counts by what it resolves to. Rules are a courtesy to people (a
//! question before something is lost); what holds against a hostile command is the sandbox.
//!
//! The invariant: denied before remembered, remembered before asked.

pub mod rules;
pub mod shell;
pub mod effect;
mod words;
#[cfg(test)]
mod table;

use crate::sandbox::Workspace;
use crate::tools::tool::Tool;
use serde_json::Value;
use std::collections::HashSet;
use std::path::PathBuf;

/// Paths outside the workspace that one call may use because a person said so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    /// May be read, written, made and removed.
    pub write: Vec<PathBuf>,
}

impl Grants {
    /// True when nothing beyond the workspace is allowed.
    pub fn is_empty(&self) -> bool {
        self.write.is_empty()
    }

    /// True when `path` is one of the allowed paths or lies below one.
    pub fn allow(&self, path: &std::path::Path) -> bool {
        self.write.iter().any(|g| path.starts_with(g))
    }
}

/// What a decision may look at.
#[derive(Debug, Clone, Copy)]
pub struct PermissionContext<'a> {
    /// The task's view of the file system, made with [`Workspace::for_task`].
    pub workspace: &'a Workspace,
    /// The `always` rules of this task.
    pub remembered: &'a HashSet<String>,
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
}

/// What the rules say about one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Run it, with these extra paths.
    Allow {
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
        Verdict::Allow { grants: Grants::default() }
    }

    /// Never run it.
    pub fn deny(reason: impl Into<String>) -> Self {
        Verdict::Deny { reason: reason.into() }
    }
}

/// The answers to a prompt whose rule may be remembered.
pub const ANSWERS: [&str; 3] = ["yes", "no", "always"];
/// The answers where every call needs its own yes.
pub const ANSWERS_ONCE: [&str; 2] = ["yes", "no"];

/// The decision about one call of `tool`: deny, then remembered, then ask, then allow.
pub fn check(tool: &dyn Tool, input: &Value, context: &PermissionContext<'_>) -> Verdict {
    let own = tool.check(input, context);
    if let Verdict::Deny { .. } = own {
        return own;
    }
    if tool.requires_permission() {
        let grants = match own {
            Verdict::Allow { grants } | Verdict::Prompt(Prompt { grants, .. }) => grants,
            Verdict::Deny { .. } => Grants::default(),
        };
        return Verdict::Prompt(Prompt {
            rule: format!("tool:{}", tool.name()),
            reason: "this tool asks before every call".into(),
            question: format!("Run {}?", tool.name()),
            options: ANSWERS_ONCE.map(String::from).to_vec(),
            grants,
        });
    }
    match own {
        Verdict::Prompt(prompt) if context.remembered.contains(&prompt.rule) => {
            Verdict::Allow { grants: prompt.grants }
        }
        verdict => verdict,
    }
}
