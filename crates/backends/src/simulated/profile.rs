//! How one simulated engine behaves: how long it boots, when it dies, what it answers.
//!
//! Data that tests edit while the engine lives. The one invariant: without edits an engine boots, stays healthy and
//! ends on SIGTERM with code 0.

use contract::engine_api::{Activity, HealthStatus, SubsystemState, Subsystems};
use std::time::Duration;

/// An end the engine comes to by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// How long after the start of a run.
    pub after: Duration,
    /// With which code; 137 for a kill.
    pub code: i32,
    /// For lack of memory.
    pub oom: bool,
    /// In how many runs; `None` = in every run.
    pub times: Option<u32>,
}

impl Death {
    /// Every run crashes with code 1 after this time.
    pub const fn after(after: Duration) -> Self {
        Self { after, code: 1, oom: false, times: None }
    }
}

/// What `/health` does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthAnswer {
    /// A body made of the other fields of [`EngineProfile`], with the HTTP status its word has.
    Normal,
    /// Exactly this.
    Raw {
        /// HTTP status.
        status: u16,
        /// Body.
        body: String,
    },
    /// Connection refused.
    Refused,
    /// No answer.
    TimedOut,
    /// Something that is not HTTP.
    Unreadable,
}

/// How one engine behaves. Changes count from the next look; `boot`, `boot_jitter` and `dies` from the next run.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineProfile {
    /// From start to the first answer.
    pub boot: Duration,
    /// Up to this much is added to `boot`, drawn from the seed.
    pub boot_jitter: Duration,
    /// From SIGTERM to the end.
    pub stop_takes: Duration,
    /// SIGTERM does nothing.
    pub ignores_term: bool,
    /// How it ends by itself.
    pub dies: Option<Death>,
    /// What `/health` does.
    pub health: HealthAnswer,
    /// The word of `/health`.
    pub status: HealthStatus,
    /// The subsystems of `/health`.
    pub subsystems: Subsystems,
    /// The activity of `/health`; `None` as in older images.
    pub activity: Option<Activity>,
    /// The version; `None` = the image's tag.
    pub version: Option<String>,
    /// The brain's schema.
    pub schema_version: u32,
    /// How long every answer takes.
    pub answer_takes: Duration,
    /// Answers to other calls than `/health` are refused connections.
    pub refuses_calls: bool,
    /// Longest window of a key rotation.
    pub overlap_max: Duration,
    /// How jobs on its storage end; `None` = as the program would end them.
    pub job: Option<crate::JobOutcome>,
    /// Lines of its log besides its own.
    pub says: Vec<String>,
}

impl Default for EngineProfile {
    fn default() -> Self {
        Self {
            boot: Duration::from_millis(20),
            boot_jitter: Duration::from_millis(20),
            stop_takes: Duration::from_millis(10),
            ignores_term: false,
            dies: None,
            health: HealthAnswer::Normal,
            status: HealthStatus::Ok,
            subsystems: Subsystems {
                database: SubsystemState::Ok,
                llm_provider: SubsystemState::Ok,
                asset_directory: SubsystemState::Ok,
                embeddings: SubsystemState::Ok,
            },
            activity: Some(Activity {
                in_flight_turns: 0,
                open_streams: 0,
                last_activity_at: None,
                next_scheduled_at: None,
            }),
            version: None,
            schema_version: 1,
            answer_takes: Duration::ZERO,
            refuses_calls: false,
            overlap_max: Duration::from_secs(300),
            job: None,
            says: Vec::new(),
        }
    }
}
