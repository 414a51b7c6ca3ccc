//! May this call run? The rules live in the crate `permissions`; here they meet the tools and the real file system.
//!
//! Decides only: nothing here runs a command, asks a person or remembers an answer. The file system is read, never
//! written, because a path counts by what it resolves to. Rules are a courtesy to people (a question before something
//! is lost); what holds against a hostile command is the sandbox.
//!
//! The invariant: denied before remembered, remembered before asked.

pub mod rules;
pub mod effect;
mod ground;
mod change;
#[cfg(test)]
mod table;

use crate::outbound::facts::Reading;
use crate::sandbox::Workspace;
use crate::tools::tool::{Effect, Tool};
use ::permissions::rules::ToolFacts;
pub use ::permissions::{ANSWERS, ANSWERS_ONCE, Grants, Prompt, Remembered, Scope, Verdict};
use serde_json::Value;
use std::collections::HashSet;

/// What a decision may look at.
#[derive(Debug, Clone, Copy)]
pub struct PermissionContext<'a> {
    /// The task's view of the file system, made with [`Workspace::for_task`].
    pub workspace: &'a Workspace,
    /// The `always` rules of this task.
    pub remembered: &'a Remembered,
    /// TOOL_NETWORK_ALLOWLIST.
    pub network: &'a [String],
    /// What the turn has read; for calls that go out.
    pub reading: Reading,
    /// The rules a person has said yes to in this turn, not counting this call's own question.
    pub agreed: &'a HashSet<String>,
    /// The effect class of the call, which a catalog file may have tightened.
    pub class: Effect,
}

/// The decision about one call of `tool`: deny, then remembered, then ask, then allow. A question carries what the
/// call would change.
pub fn check(tool: &dyn Tool, input: &Value, context: &PermissionContext<'_>) -> Verdict {
    let facts = ToolFacts {
        name: tool.name(),
        requires_permission: tool.requires_permission(),
        high_cost: tool.high_cost(),
    };
    let own = match tool.check(input, context) {
        // Tools with rules of their own need not look at what is remembered.
        Verdict::Prompt(prompt) if context.remembered.answers(&prompt) => {
            Verdict::Allow { rule: Some(prompt.rule), grants: prompt.grants }
        }
        own => own,
    };
    match ::permissions::rules::tool(own, &facts, context.remembered) {
        Verdict::Prompt(prompt) if prompt.diff.is_none() => {
            Verdict::Prompt(Prompt { diff: change::of(tool.function(), input, context.workspace), ..prompt })
        }
        verdict => verdict,
    }
}
