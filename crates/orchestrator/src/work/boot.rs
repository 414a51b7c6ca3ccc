//! From "the backend says started" to healthy, and what counts as not getting there.

use super::{Flow, StepError, Work};
use crate::keys::mask_keys;
use crate::telemetry::Phase;
use backends::ProbeReply;
use contract::{FleetCode, FleetError};
use fleet::health::{BOOT_PROBE_TIMEOUT, ProbeOutcome, Verdict, Vitals, boot_probe_delay, verdict};
use fleet::lifecycle::FailureReason;
use fleet::observation::{ObjectState, Observation};
use fleet::operation::Step;
use serde_json::json;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How often the object itself is looked at while it does not answer. Longer notices a refused configuration
/// later; shorter is load on the backend.
const OBSERVE_EVERY: Duration = Duration::from_millis(100);
/// Lines of the engine's log that are searched for its last error.
const TAIL_LINES: u16 = 50;
/// Longest failure message in characters (§13.5).
const MESSAGE_MAX: usize = 500;

/// A boot that did not end in health.
#[derive(Debug, Clone)]
pub(super) struct BootFailure {
    pub(super) reason: FailureReason,
    pub(super) exit_code: Option<i32>,
    pub(super) message: String,
}

impl BootFailure {
    pub(super) fn told(&self) -> FleetError {
        let code = if self.reason == FailureReason::BootTimeout {
            FleetCode::BootTimeout
        } else {
            FleetCode::BackendError
        };
        FleetError::new(code, self.message.clone())
            .with(json!({"reason": self.reason, "exit_code": self.exit_code}))
    }
}

/// What a prober's reply is to the rules of health.
pub(crate) fn outcome(reply: ProbeReply) -> ProbeOutcome {
    match reply {
        ProbeReply::Answer { status, body } => ProbeOutcome::Answered { status, body: body.to_vec() },
        ProbeReply::Refused => ProbeOutcome::Refused,
        ProbeReply::TimedOut => ProbeOutcome::TimedOut,
        ProbeReply::Unreadable => ProbeOutcome::Unreadable,
    }
}

impl Work {
    /// Step `boot`: probes until healthy, or until it is clear that it will not be.
    pub(super) async fn boot(&mut self) -> Result<Flow, StepError> {
        let began = Instant::now();
        let healthy = self.until_healthy().await;
        self.took(Phase::Boot, began);
        let (verdict, restarts) = healthy?;
        let mut vitals = Vitals { backend_restarts: restarts, ..Vitals::default() };
        vitals.count(&verdict, self.core.clock.now());
        self.core.note_vitals(self.operation.engine_id, crate::vitals::to_row(&vitals));
        Ok(Flow::Next(self.after(Step::Boot)))
    }

    async fn until_healthy(&mut self) -> Result<(Verdict, u32), StepError> {
        let id = self.operation.engine_id;
        let limit = self.core.config.boot_timeout_s;
        // A run that began before this step gets the whole time as well: it may have been thawed, or be another
        // executor's half-finished work.
        let clock = self.started.unwrap_or_else(Instant::now);
        let mut restarts = 0;
        let mut address = self.address;
        let mut observed = None::<Instant>;
        let mut attempt = 0;
        loop {
            self.may_act()?;
            // The object is looked at first when its address or its start is not known, and now and then later.
            let look = address.is_none() || observed.is_none_or(|at| at.elapsed() >= OBSERVE_EVERY);
            let seen = if look { Some(self.core.backend.observe(id).await) } else { None };
            let seen = match seen {
                None => None,
                Some(Ok(seen)) => Some(seen),
                // A backend that hiccups says nothing about the engine, which can still be asked.
                Some(Err(error)) if error.is_transient() && address.is_some() => None,
                Some(Err(error)) => return Err(error.into()),
            };
            if look {
                observed = Some(Instant::now());
            }
            if let Some(seen) = seen {
                match &seen {
                    Observation::Present(object) => match &object.state {
                        ObjectState::Running { restarts: count, address: at, .. } => {
                            restarts = *count;
                            address = at.or(address);
                        }
                        ObjectState::Exited { code, oom, .. } => {
                            if self.is_final(*code) {
                                return Err(self.exited(*code, *oom).await.into());
                            }
                        }
                        ObjectState::Restarting { code } => {
                            if refuses(*code) {
                                return Err(self.exited(*code, false).await.into());
                            }
                        }
                        ObjectState::Paused => self.core.backend.thaw(id).await?,
                        ObjectState::Created | ObjectState::Removing => {}
                    },
                    Observation::Absent => {
                        return Err(BootFailure {
                            reason: FailureReason::ObjectMissing,
                            exit_code: None,
                            message: "the backend object vanished while the engine was starting".to_owned(),
                        }
                        .into());
                    }
                }
            }
            let mut unhealthy = None;
            if let Some(at) = address {
                let rest = limit.saturating_sub(clock.elapsed()).max(Duration::from_millis(50));
                match verdict(&outcome(self.probe(at, rest.min(BOOT_PROBE_TIMEOUT)).await)) {
                    Verdict::Failed { reason } => unhealthy = Some(reason),
                    serving => {
                        self.address = Some(at);
                        return Ok((serving, restarts));
                    }
                }
            }
            if unhealthy == Some(FailureReason::MigrationRequired) {
                return Err(BootFailure {
                    reason: FailureReason::MigrationRequired,
                    exit_code: None,
                    message: "the engine says that its brain must be migrated first".to_owned(),
                }
                .into());
            }
            if clock.elapsed() >= limit {
                let why = unhealthy.map_or("no address", FailureReason::as_str);
                let message = format!("the engine was not healthy within {} s ({why})", limit.as_secs());
                return Err(
                    BootFailure { reason: FailureReason::BootTimeout, exit_code: None, message }.into()
                );
            }
            let delay = boot_probe_delay(attempt, clock.elapsed()).min(limit.saturating_sub(clock.elapsed()));
            attempt += 1;
            tokio::select! {
                () = tokio::time::sleep(delay.max(Duration::from_millis(1))) => {}
                () = self.claim.lost() => return Err(StepError::Lost),
            }
        }
    }

    pub(super) async fn probe(&self, address: SocketAddr, limit: Duration) -> ProbeReply {
        self.core.prober.get_health(address, limit).await
    }

    /// True when nothing will start this object again, or starting it again is pointless.
    fn is_final(&self, code: Option<i32>) -> bool {
        refuses(code) || !self.core.backend.capabilities().self_restarts
    }

    async fn exited(&self, code: Option<i32>, oom: bool) -> BootFailure {
        let reason = FailureReason::of_exit(code, oom);
        let said = last_words(
            self.core.backend.tail(self.operation.engine_id, TAIL_LINES).await.unwrap_or_default(),
        );
        let exit = code.map_or("an unknown exit code".to_owned(), |c| format!("exit code {c}"));
        let message = match said {
            Some(line) => clip(format!("the engine ended with {exit}: {line}")),
            None => format!("the engine ended with {exit} while starting"),
        };
        BootFailure { reason, exit_code: code, message }
    }
}

impl From<BootFailure> for StepError {
    fn from(failure: BootFailure) -> Self {
        StepError::Boot(failure)
    }
}

/// Exit codes that mean "starting me again changes nothing" (§10.1).
fn refuses(code: Option<i32>) -> bool {
    matches!(code, Some(2 | 4))
}

/// The engine's last ERROR line (or its last line), without anything that looks like a key.
pub(crate) fn last_words(log: String) -> Option<String> {
    let is_error =
        |line: &&str| line.contains("ERROR") || line.contains("error:") || line.contains("CRITICAL");
    let line =
        log.lines().rev().find(is_error).or_else(|| log.lines().rev().find(|l| !l.trim().is_empty()))?;
    let told = serde_json::from_str::<serde_json::Value>(line)
        .ok()
        .and_then(|v| v["message"].as_str().map(str::to_owned))
        .unwrap_or_else(|| line.trim().to_owned());
    Some(mask_keys(&told))
}

/// At most [`MESSAGE_MAX`] characters.
pub(crate) fn clip(text: String) -> String {
    if text.chars().count() <= MESSAGE_MAX { text } else { text.chars().take(MESSAGE_MAX).collect() }
}
