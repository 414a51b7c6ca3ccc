//! What can be made to go wrong on the simulated place, per call and per engine, and what was asked of it.
//!
//! Data only. The one invariant: a fault is used up in the order faults were added, once per call that it matches.

use crate::BackendError;
use contract::{EngineId, InstanceId, Timestamp};
use std::time::Duration;

/// A call of the backend trait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Call {
    /// `room`.
    Room,
    /// `create`.
    Create,
    /// `start`.
    Start,
    /// `stop`.
    Stop,
    /// `destroy`.
    Destroy,
    /// `remove`.
    Remove,
    /// `freeze`.
    Freeze,
    /// `thaw`.
    Thaw,
    /// `ensure_image`.
    EnsureImage,
    /// `ensure_storage`.
    EnsureStorage,
    /// `storage_exists`.
    StorageExists,
    /// `observe`, and `is_running`.
    Observe,
    /// `list`.
    List,
    /// `run_job`.
    RunJob,
    /// `read_file`.
    ReadFile,
    /// `write_file`.
    WriteFile,
    /// `remove_file`.
    RemoveFile,
    /// `tail`.
    Tail,
    /// `ping`.
    Ping,
}

impl Call {
    /// The name of the method.
    pub const fn word(self) -> &'static str {
        match self {
            Call::Room => "room",
            Call::Create => "create",
            Call::Start => "start",
            Call::Stop => "stop",
            Call::Destroy => "destroy",
            Call::Remove => "remove",
            Call::Freeze => "freeze",
            Call::Thaw => "thaw",
            Call::EnsureImage => "ensure_image",
            Call::EnsureStorage => "ensure_storage",
            Call::StorageExists => "storage_exists",
            Call::Observe => "observe",
            Call::List => "list",
            Call::RunJob => "run_job",
            Call::ReadFile => "read_file",
            Call::WriteFile => "write_file",
            Call::RemoveFile => "remove_file",
            Call::Tail => "tail",
            Call::Ping => "ping",
        }
    }

    /// True for calls that may change the place.
    pub const fn mutates(self) -> bool {
        match self {
            Call::Create
            | Call::Start
            | Call::Stop
            | Call::Destroy
            | Call::Remove
            | Call::Freeze
            | Call::Thaw
            | Call::EnsureImage
            | Call::EnsureStorage
            | Call::RunJob
            | Call::WriteFile
            | Call::RemoveFile => true,
            Call::Room
            | Call::StorageExists
            | Call::Observe
            | Call::List
            | Call::ReadFile
            | Call::Tail
            | Call::Ping => false,
        }
    }
}

/// One call that reached the place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallRecord {
    /// Which.
    pub call: Call,
    /// For which engine.
    pub engine: Option<EngineId>,
    /// By which deployment.
    pub instance: InstanceId,
    /// When.
    pub at: Timestamp,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// The call takes this much longer.
    Latency(Duration),
    /// The call does nothing until the world is healed; its caller runs into its deadline.
    Hang,
    /// The caller runs into its deadline; the work is done nevertheless, this long after the call.
    Late(Duration),
    /// The work is done, and its answer is lost: the caller sees `Unreachable`.
    LoseReply,
    /// The call does nothing and answers this.
    Fail(BackendError),
}

/// A fault and the calls it applies to. By default: every call, every engine, for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub(super) call: Option<Call>,
    pub(super) engine: Option<EngineId>,
    pub(super) left: Option<u32>,
    pub(super) kind: FaultKind,
}

impl Fault {
    /// A fault of every call.
    pub const fn new(kind: FaultKind) -> Self {
        Self { call: None, engine: None, left: None, kind }
    }

    /// Calls fail with this.
    pub const fn fail(error: BackendError) -> Self {
        Self::new(FaultKind::Fail(error))
    }

    /// Only this call.
    #[must_use]
    pub fn on(mut self, call: Call) -> Self {
        self.call = Some(call);
        self
    }

    /// Only calls for this engine.
    #[must_use]
    pub fn of(mut self, engine: EngineId) -> Self {
        self.engine = Some(engine);
        self
    }

    /// Only that many times.
    #[must_use]
    pub fn times(mut self, times: u32) -> Self {
        self.left = Some(times);
        self
    }

    fn matches(&self, call: Call, engine: Option<EngineId>) -> bool {
        self.call.is_none_or(|c| c == call)
            && self.engine.is_none_or(|e| Some(e) == engine)
            && self.left != Some(0)
    }
}

/// What the faults say about one call: how long it takes longer, and what else.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) latency: Duration,
    pub(super) kind: Option<FaultKind>,
}

/// Uses up the faults that match: all latencies, and the first that is something else.
pub(super) fn judge(faults: &mut Vec<Fault>, call: Call, engine: Option<EngineId>) -> Verdict {
    let mut verdict = Verdict::default();
    for fault in faults.iter_mut().filter(|f| f.matches(call, engine)) {
        match &fault.kind {
            FaultKind::Latency(latency) => verdict.latency += *latency,
            _ if verdict.kind.is_some() => continue,
            kind => verdict.kind = Some(kind.clone()),
        }
        if let Some(left) = &mut fault.left {
            *left -= 1;
        }
    }
    faults.retain(|f| f.left != Some(0));
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_used_up_in_order_and_only_by_calls_they_match() {
        let (ada, bob) = (EngineId::generate(), EngineId::generate());
        let refused = FaultKind::Fail(BackendError::Refused("no".into()));
        let mut faults = vec![
            Fault::new(FaultKind::Latency(Duration::from_millis(5))),
            Fault::new(FaultKind::LoseReply).on(Call::Create).of(ada).times(1),
            Fault::new(refused.clone()).on(Call::Create).times(2),
        ];
        let mut next = |call, engine| judge(&mut faults, call, Some(engine)).kind;
        assert_eq!(next(Call::Observe, ada), None);
        assert_eq!(next(Call::Create, ada), Some(FaultKind::LoseReply));
        assert_eq!(next(Call::Create, bob), Some(refused.clone()));
        assert_eq!(next(Call::Create, ada), Some(refused));
        assert_eq!(next(Call::Create, ada), None);
        assert_eq!(judge(&mut faults, Call::List, None).latency, Duration::from_millis(5));
        assert_eq!(faults.len(), 1, "what is used up is forgotten");
    }
}
