//! What the permission rules are told about a call that goes out, and what its answer means for its turn.
//!
//! Facts only: what they mean is decided by the rules. The invariant: words of somebody else never reach the
//! model of a turn that does not count as tainted.

use super::One;
use crate::outbound::facts::{self, Reading};
use crate::tools::tool::{Failure, Output, Tool};
use brain::prompts::{Prompt, PromptState};
use contract::ToolReason;
use contract::event::HitlKind;
use std::collections::HashSet;

impl One<'_> {
    /// The facts of this call; nothing is read for a tool that stays inside.
    pub(super) async fn reading(&self, tool: &dyn Tool) -> brain::Result<Reading> {
        if !tool.reads_untrusted() {
            return Ok(Reading::default());
        }
        facts::of_call(&self.core.brain, self.turn, self.call.input["url"].as_str()).await
    }
}

/// The rules a person has said yes to in these questions of a turn. A call that has asked itself is judged by its
/// own answer alone: it neither runs on another's yes while it waits nor asks a second time.
pub(super) fn agreed(asked: &[Prompt], own: Option<&Prompt>) -> HashSet<String> {
    if own.is_some() {
        return HashSet::new();
    }
    let yes = |p: &&Prompt| {
        p.kind == HitlKind::Permission
            && p.state == PromptState::Answered
            && matches!(p.answer.as_deref(), Some("yes" | "always"))
    };
    asked.iter().filter(yes).filter_map(|p| p.details["rule"].as_str().map(str::to_owned)).collect()
}

/// True when the model is about to read what somebody else wrote. The text of a failure may be a server's too.
pub(super) fn taints(tool: &dyn Tool, outcome: &Result<Output, Failure>) -> bool {
    if outcome.as_ref().is_ok_and(|output| tool.holds_untrusted(&output.value)) {
        return true;
    }
    tool.reads_untrusted()
        && outcome.as_ref().map_or_else(
            |failure| {
                let said = [ToolReason::Failed, ToolReason::McpConnectionFailed, ToolReason::McpTokenExpired];
                failure.output.is_some() || said.contains(&failure.reason)
            },
            |_| true,
        )
}
