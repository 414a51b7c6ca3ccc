//! What a tool is: a name, a schema, an effect class, a permission check, and one way to run.
//!
//! Tools refuse to know the turn, the journal and the stream: they get a [`CallContext`], give back an
//! [`Output`] or a [`Failure`], and never retry. Everything a call may touch hangs on its context, so a
//! tool cannot reach further than the turn that called it.
//!
//! The invariant: [`Tool::check`] decides without acting; only [`Tool::run`] acts.

use super::registry::Registry;
use crate::memory::{Hit, Wanted, Written};
use crate::permissions::{Grants, PermissionContext, Verdict};
use crate::sandbox::proxy::Proxy;
use crate::sandbox::{Launcher, ProcessGroups, Workspace};
use crate::secrets::Known;
use contract::memory::Store;
use contract::{CallId, TaskId, ToolReason, TurnId};
use futures::future::BoxFuture;
use serde_json::Value;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What running a call twice would do; decides whether a call in doubt is run again after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    /// Changes nothing.
    ReadOnly,
    /// Running it twice leaves the same state as running it once.
    Idempotent,
    /// Must not be run again without knowing whether it took effect.
    Once,
}

impl Effect {
    /// Every class, the most harmless first.
    pub const ALL: [Effect; 3] = [Effect::ReadOnly, Effect::Idempotent, Effect::Once];

    /// The word used in catalog files and in the brain.
    pub const fn as_str(self) -> &'static str {
        match self {
            Effect::ReadOnly => "read-only",
            Effect::Idempotent => "idempotent",
            Effect::Once => "once",
        }
    }

    /// Reads the word back.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|e| e.as_str() == text)
    }

    /// The stricter of two; a catalog file may tighten a platform function's class, never loosen it.
    #[must_use]
    pub fn tightened_by(self, other: Effect) -> Effect {
        self.max(other)
    }
}

/// What stands behind a tool; for people, models see no difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A function of this program.
    Platform,
    /// A skill.
    Skill,
    /// An action of a connector.
    Mcp,
}

impl Kind {
    /// The word of GET /tools.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Platform => "platform",
            Kind::Skill => "skill",
            Kind::Mcp => "mcp",
        }
    }
}

/// One thing a model can call.
pub trait Tool: Send + Sync {
    /// The name as the Engine knows it: snake_case or dotted.
    fn name(&self) -> &str;

    /// Inputs, outputs, when to use it and when not, for the model.
    fn description(&self) -> &str;

    /// JSON Schema 2020-12 of the input, type object.
    fn input_schema(&self) -> &Value;

    /// The effect class of this very input.
    fn effect(&self, input: &Value) -> Effect;

    /// True when every call needs a person's yes, whatever the input (`options` yes/no only).
    fn requires_permission(&self) -> bool {
        false
    }

    /// True when a call costs so much that a person is asked (and may say `always`).
    fn high_cost(&self) -> bool {
        false
    }

    /// What stands behind it.
    fn kind(&self) -> Kind {
        Kind::Platform
    }

    /// False when it cannot work now; it stays listed and answers `unavailable`.
    fn available(&self) -> bool {
        true
    }

    /// The registered function behind the tool: its own name, or, for a tool of the catalog that is made of a
    /// function, that function's. The dispatcher performs some functions itself.
    fn function(&self) -> &str {
        self.name()
    }

    /// The tool that does its work, by registry and name: an input must fit that one's schema as well.
    fn below(&self) -> Option<(&Registry, &str)> {
        None
    }

    /// What is wrong with an input that its schema accepts.
    fn complaints(&self, _input: &Value) -> Vec<String> {
        Vec::new()
    }

    /// True when its name, description and input schema were written by somebody else: the model reads them with every
    /// call, also when it never uses the tool.
    fn is_described_elsewhere(&self) -> bool {
        false
    }

    /// True when what it gives back was written by somebody else (web pages, search results): a turn that has read
    /// it is tainted, and the permission rules ask more often.
    fn reads_untrusted(&self) -> bool {
        false
    }

    /// True when this output holds words of somebody else, for a tool that only sometimes gives back such.
    fn holds_untrusted(&self, _output: &Value) -> bool {
        false
    }

    /// The tool's own permission rules for this input. Decides only; may read the file system to resolve
    /// paths. Call [`crate::permissions::check`], which adds the rules common to all tools.
    fn check(&self, _input: &Value, _context: &PermissionContext<'_>) -> Verdict {
        Verdict::allow()
    }

    /// Runs the call. The input has passed the schema and the permission check. Returns within one
    /// second of `call.cancel` being cancelled.
    fn run<'a>(&'a self, call: CallContext, input: Value) -> BoxFuture<'a, Result<Output, Failure>>;
}

/// One picture or document made by a tool.
#[derive(Clone, PartialEq, Eq)]
pub struct Media {
    /// MIME type, from the content and not from the file name.
    pub media_type: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Media {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Media({}, {} bytes)", self.media_type, self.bytes.len())
    }
}

/// What a successful call gives back.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Output {
    /// For the model; already within `CallContext::output_max` when `full` is set.
    pub value: Value,
    /// Pictures and documents that go with it.
    pub media: Vec<Media>,
    /// The whole text when `value` carries only its head and tail; the dispatcher stores it as a blob
    /// and tells the model how to read it.
    pub full: Option<Vec<u8>>,
}

impl Output {
    /// An output that is one JSON value and nothing else.
    pub fn json(value: Value) -> Self {
        Self { value, media: Vec::new(), full: None }
    }
}

/// Why a call failed. Failure is data for the model, never an error of the turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    /// The word clients and the model see.
    pub reason: ToolReason,
    /// One or two sentences for the model: what happened and what to do instead.
    pub text: String,
    /// What there was before it failed (a timed-out command's output), in the shape of the tool's output.
    pub output: Option<Value>,
    /// The whole text when `output` carries only its head and tail, as in [`Output::full`].
    pub full: Option<Vec<u8>>,
}

impl Failure {
    /// A failure without partial output.
    pub fn new(reason: ToolReason, text: impl Into<String>) -> Self {
        Self { reason, text: text.into(), output: None, full: None }
    }

    /// The answer to every call of a cancelled turn.
    pub fn cancelled() -> Self {
        Self::new(ToolReason::Cancelled, "the turn was cancelled before this call finished")
    }
}

/// Told the process-group id of a child right after it started; returns when that is durable, so that
/// the next process can find orphans.
pub type OnSpawn = Arc<dyn Fn(i32) -> BoxFuture<'static, ()> + Send + Sync>;

/// One model call that a tool makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelAsk {
    /// LIGHT_MODEL instead of the agent's model.
    pub light: bool,
    /// System text.
    pub system: String,
}

/// Makes model calls on behalf of a tool, and keeps the books on them.
pub trait AskModel: Send + Sync {
    /// Makes one call and gives back the text of the answer.
    fn ask(&self, ask: ModelAsk) -> BoxFuture<'_, Result<String, Failure>>;
}

/// For calls that have no model at hand.
#[derive(Debug, Clone, Copy)]
pub struct NoModel;

impl AskModel for NoModel {
    fn ask(&self, _ask: ModelAsk) -> BoxFuture<'_, Result<String, Failure>> {
        Box::pin(async { Err(Failure::new(ToolReason::Unavailable, "no model can be asked here")) })
    }
}

/// Finds and keeps long-term memories on behalf of a tool. It knows who calls, so it says where a memory comes from
/// and how far it is trusted; a tool cannot.
pub trait LongTerm: Send + Sync {
    /// The best memories of a store, best first; an empty query lists the newest.
    fn find(&self, store: Store, query: String, limit: usize) -> BoxFuture<'_, Result<Vec<Hit>, Failure>>;

    /// Writes a memory. `rationale` is why it is kept, `confidence` how sure the caller is of it.
    fn keep(
        &self,
        wanted: Wanted,
        rationale: String,
        confidence: f64,
    ) -> BoxFuture<'_, Result<Written, Failure>>;
}

/// For calls that have no brain at hand.
#[derive(Debug, Clone, Copy)]
pub struct NoMemory;

impl NoMemory {
    fn refusal() -> Failure {
        Failure::new(ToolReason::Unavailable, "there is no long-term memory here")
    }
}

impl LongTerm for NoMemory {
    fn find(&self, _store: Store, _query: String, _limit: usize) -> BoxFuture<'_, Result<Vec<Hit>, Failure>> {
        Box::pin(async { Err(Self::refusal()) })
    }

    fn keep(
        &self,
        _wanted: Wanted,
        _rationale: String,
        _confidence: f64,
    ) -> BoxFuture<'_, Result<Written, Failure>> {
        Box::pin(async { Err(Self::refusal()) })
    }
}

/// Which pieces of a document are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedPieces {
    /// The document's sha256, or the id of the message it is attached to.
    pub media: String,
    /// What to look for; `None` reads in order.
    pub query: Option<String>,
    /// Without a query the first position, with one how many of the best are left out.
    pub offset: u32,
    /// Most pieces.
    pub limit: u32,
}

/// Reads documents that were too long to be shown, on behalf of a tool. It knows the task; a tool cannot name one.
pub trait Documents: Send + Sync {
    /// Pieces with their positions.
    fn pieces(&self, wanted: WantedPieces) -> BoxFuture<'_, Result<Vec<(i64, String)>, Failure>>;
}

/// For calls that belong to no task.
#[derive(Debug, Clone, Copy)]
pub struct NoDocuments;

impl Documents for NoDocuments {
    fn pieces(&self, _wanted: WantedPieces) -> BoxFuture<'_, Result<Vec<(i64, String)>, Failure>> {
        Box::pin(async { Err(Failure::new(ToolReason::Unavailable, "there is no conversation here")) })
    }
}

/// Everything one call may use.
#[derive(Clone)]
pub struct CallContext {
    /// The conversation.
    pub task_id: TaskId,
    /// The turn.
    pub turn_id: TurnId,
    /// This call.
    pub call_id: CallId,
    /// What the tools of this task may see: ALLOWED_ROOTS (the first is the working directory), the
    /// task's temporary directory, and what is sealed. Made with [`Workspace::for_task`].
    pub workspace: Arc<Workspace>,
    /// The only way to start a process.
    pub launcher: Arc<Launcher>,
    /// The way out for commands, when an operator has named hosts.
    pub proxy: Option<Arc<Proxy>>,
    /// The secrets that must not leave; for tools that shorten what they give back.
    pub known: Arc<Known>,
    /// Paths outside the workspace that a person allowed for this one call (from the [`Verdict`]).
    pub grants: Grants,
    /// Cancelled when the turn is.
    pub cancel: CancellationToken,
    /// TOOL_OUTPUT_MAX_BYTES.
    pub output_max: usize,
    /// The turn's process groups; `kill_all` at its end.
    pub groups: Arc<ProcessGroups>,
    /// Records process groups.
    pub on_spawn: OnSpawn,
    /// The task's private temporary directory (exists, 0700): TMPDIR of its children.
    pub task_tmp: PathBuf,
    /// The model, for tools that are prompts.
    pub model: Arc<dyn AskModel>,
    /// Long-term memory.
    pub memory: Arc<dyn LongTerm>,
    /// Documents of the task.
    pub documents: Arc<dyn Documents>,
}

impl CallContext {
    /// What `work` gives back, or that the turn was cancelled before. Dropping the work has to be harmless.
    pub async fn unless_cancelled<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Failure::cancelled()),
            done = work => done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effect_words_read_back_and_only_tighten() {
        for e in Effect::ALL {
            assert_eq!(Effect::parse(e.as_str()), Some(e));
            assert_eq!(Effect::ReadOnly.tightened_by(e), e);
            assert_eq!(Effect::Once.tightened_by(e), Effect::Once);
        }
        assert_eq!(Effect::parse("twice"), None);
    }
}
