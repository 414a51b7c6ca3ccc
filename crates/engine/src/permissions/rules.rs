//! The rules of the crate `permissions`, asked about this task's places on the real file system.

use super::ground::{RealGround, policy};
use super::{PermissionContext, Verdict};
use ::permissions::rules::{self, Facts};
pub use ::permissions::rules::{ActionFacts, FetchFacts, Pin, ToolFacts, reason};
use serde_json::Value;

fn ask(context: &PermissionContext<'_>, rule: impl FnOnce(&Facts<'_>) -> Verdict) -> Verdict {
    let policy = policy(context.workspace, context.network);
    rule(&Facts { policy: &policy, ground: &RealGround, remembered: context.remembered })
}

/// A file tool that reads `path`.
pub fn read_path(path: &str, context: &PermissionContext<'_>) -> Verdict {
    ask(context, |facts| rules::read_path(path, facts))
}

/// The same for a property of an input that may be absent, and then stands for the workspace.
pub fn read_optional(path: &Value, context: &PermissionContext<'_>) -> Verdict {
    path.as_str().map_or_else(Verdict::allow, |path| read_path(path, context))
}

/// A file tool that writes `path`.
pub fn write_path(path: &str, context: &PermissionContext<'_>) -> Verdict {
    ask(context, |facts| rules::write_path(path, facts))
}

/// A shell command run in `cwd` (the workspace's when `None`).
pub fn bash(command: &str, cwd: Option<&str>, context: &PermissionContext<'_>) -> Verdict {
    ask(context, |facts| rules::bash(command, cwd, facts))
}

/// An address that web_fetch would read.
pub fn fetch(url: &FetchFacts<'_>, context: &PermissionContext<'_>) -> Verdict {
    ask(context, |facts| rules::fetch(url, facts))
}

/// A call of a connected tool.
pub fn action(call: &ActionFacts<'_>, context: &PermissionContext<'_>) -> Verdict {
    ask(context, |facts| rules::action(call, facts))
}
