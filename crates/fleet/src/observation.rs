//! What a backend says about one engine's object right now.

use contract::Timestamp;
use std::fmt;
use std::net::SocketAddr;

/// One look at one object, straight from the source. No answer is an error of the backend, never an observation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// The backend answered, and there is no such object.
    Absent,
    /// There is one.
    Present(Object),
}

/// An object that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// What it is doing.
    pub state: ObjectState,
    /// Writer generation it was made with (label); 0 when the label is unreadable.
    pub generation: i64,
    /// Hash of the specification it was made from (label).
    pub spec_hash: String,
    /// Image it was made from.
    pub image: String,
    /// The backend's own name of it: container id, or `pid@ticks`.
    pub container_id: String,
    /// When it was made, when the backend knows; orphans are judged by it.
    pub created_at: Option<Timestamp>,
}

/// What an existing object is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectState {
    /// Made, never started.
    Created,
    /// Running.
    Running {
        /// When this run began.
        started_at: Timestamp,
        /// How often the backend restarted it by itself.
        restarts: u32,
        /// Where its `/health` is reached from here: an IP literal and port; `None` while it has no address yet.
        address: Option<SocketAddr>,
    },
    /// Frozen.
    Paused,
    /// Ended.
    Exited {
        /// Exit code; 128 + signal number when killed by a signal; `None` when unknown.
        code: Option<i32>,
        /// Killed for lack of memory.
        oom: bool,
        /// When, if known.
        at: Option<Timestamp>,
    },
    /// Between two runs, by the backend's own policy.
    Restarting {
        /// Exit code of the last run, when known.
        code: Option<i32>,
    },
    /// On its way out.
    Removing,
}

impl Observation {
    /// The object, if there is one.
    pub fn object(&self) -> Option<&Object> {
        match self {
            Observation::Absent => None,
            Observation::Present(object) => Some(object),
        }
    }

    /// True for an object that runs right now.
    pub fn is_running(&self) -> bool {
        matches!(self, Observation::Present(Object { state: ObjectState::Running { .. }, .. }))
    }

    /// The word `explain` shows.
    pub fn word(&self) -> &'static str {
        match self {
            Observation::Absent => "absent",
            Observation::Present(object) => object.state.word(),
        }
    }
}

impl ObjectState {
    /// The word `explain` shows.
    pub fn word(&self) -> &'static str {
        match self {
            ObjectState::Created => "created",
            ObjectState::Running { .. } => "running",
            ObjectState::Paused => "paused",
            ObjectState::Exited { .. } => "exited",
            ObjectState::Restarting { .. } => "restarting",
            ObjectState::Removing => "removing",
        }
    }
}

impl fmt::Display for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
