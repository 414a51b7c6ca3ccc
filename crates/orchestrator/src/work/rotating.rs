//! A new engine key without restart: stored first, told to the engine, then made the key.

use super::{AWAY_MAX, Flow, StepError, Work};
use crate::core::Core;
use crate::keys;
use crate::registry::change::{EnginePatch, Open};
use crate::registry::rows::{Engine, SealedKey};
use backends::ProbeReply;
use bytes::Bytes;
use contract::engine_api::RotateKeyResponse;
use contract::{FleetCode, FleetError, Timestamp};
use fleet::audit::AuditAction;
use fleet::lifecycle::Status;
use fleet::observation::{ObjectState, Observation};
use fleet::operation::Step;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How often the engine is asked before the next key is tried out (§6.8).
const TRIES: u32 = 3;
/// All tries and the waits between them fit into this (§6.8). Longer holds the caller; shorter calls an engine silent
/// that is busy.
const TRIES_WITHIN: Duration = Duration::from_secs(10);
/// Between two of them.
const BETWEEN_TRIES: Duration = Duration::from_millis(1_500);
/// Longest wait for one answer of the engine. With three tries and two waits this leaves a second for the looks at its
/// address.
const CALL_LIMIT: Duration = Duration::from_secs(2);
const _: () = assert!(
    TRIES as u128 * CALL_LIMIT.as_millis() + (TRIES - 1) as u128 * BETWEEN_TRIES.as_millis()
        < TRIES_WITHIN.as_millis()
);

/// What the engine said.
enum Told {
    /// It has the key; the old one is good until then.
    Taken(Timestamp),
    /// It says no.
    Refused(String),
    /// An earlier window is open.
    Window,
    /// Its current key is not the one we hold.
    OtherKey,
    /// No usable answer.
    Silent(String),
}

/// Adds a new key to the opening of a rotation.
pub(crate) fn with_new_key(core: &Core, mut open: Open) -> Open {
    let (key, _) = keys::new_engine_key();
    let (hash, sealed) = core.keys.seal(&key);
    open.patch = EnginePatch { next_key: Some(Some(SealedKey { hash, sealed })), ..open.patch };
    open
}

impl Work {
    /// Step `engine`: tell the engine; the same hash again gets the same answer.
    pub(super) async fn tell_engine(&mut self) -> Result<Flow, StepError> {
        let Some(next) = self.engine().next_key.clone() else {
            return self.refuse_rotation("there is no next key in the row").await;
        };
        let (Ok(current), Ok(new)) =
            (self.core.keys.open(&self.engine().key.sealed), self.core.keys.open(&next.sealed))
        else {
            return self.refuse_rotation("the stored key cannot be decrypted").await;
        };
        let began = Instant::now();
        let mut silence = "it has no address".to_owned();
        for attempt in 0..TRIES {
            if attempt > 0 {
                tokio::select! {
                    () = tokio::time::sleep(BETWEEN_TRIES) => {}
                    () = self.claim.lost() => return Ok(Flow::Lost),
                }
                if began.elapsed() + CALL_LIMIT > TRIES_WITHIN {
                    break;
                }
                if !self.refresh().await? {
                    return Ok(Flow::Lost);
                }
            }
            // A crash beside it is written down at once, and the restart waits for this to end.
            if self.engine().status != Status::Running {
                return self.suspend_rotation().await;
            }
            self.may_act()?;
            let Some(address) = self.engine_address().await? else { continue };
            match self.rotate_call(address, current.expose(), &next.hash).await {
                Told::Taken(until) => return Ok(self.rotated(until)),
                Told::Window => return self.window_open().await,
                Told::OtherKey => {
                    return if self.knows(address, new.expose()).await == Some(true) {
                        Ok(self.rotated(Timestamp::now().plus_millis(self.overlap_s() * 1000)))
                    } else {
                        self.refuse_rotation("the engine accepts neither the current nor the next key").await
                    };
                }
                Told::Refused(why) => silence = why,
                Told::Silent(why) => silence = why,
            }
        }
        let known = match self.engine_address().await? {
            Some(address) => self.knows(address, new.expose()).await,
            None => None,
        };
        match known {
            Some(true) => Ok(self.rotated(Timestamp::now().plus_millis(self.overlap_s() * 1000))),
            Some(false) => self.refuse_rotation(&silence).await,
            // It stays open (§6.8). The sweep looks after the engine meanwhile, and its failure ends this.
            None => {
                let told = FleetError::new(
                    FleetCode::BackendError,
                    format!("the engine did not take the new key: {silence}"),
                );
                Ok(Flow::Later(self.retry_delay(AWAY_MAX), told))
            }
        }
    }

    /// The overlap that is asked for, in seconds; the engine clamps it to its own window.
    fn overlap_s(&self) -> i64 {
        i64::try_from(self.core.config.key_overlap_s.as_secs()).unwrap_or(i64::MAX / 1000)
    }

    async fn engine_address(&self) -> Result<Option<SocketAddr>, StepError> {
        Ok(match self.core.backend.observe(self.operation.engine_id).await? {
            Observation::Present(object) => match object.state {
                ObjectState::Running { address, .. } => address,
                _ => None,
            },
            Observation::Absent => None,
        })
    }

    async fn rotate_call(&self, address: SocketAddr, key: &str, hash: &str) -> Told {
        let body = json!({"new_key_hash": hash, "overlap_seconds": self.overlap_s()}).to_string();
        let reply = self
            .core
            .prober
            .call(address, "POST", "/admin/rotate-key", key, Bytes::from(body), CALL_LIMIT)
            .await;
        match reply {
            ProbeReply::Answer { status: 200, body } => {
                match serde_json::from_slice::<RotateKeyResponse>(&body) {
                    Ok(answer) => Told::Taken(answer.old_key_valid_until),
                    Err(_) => Told::Silent("the engine's answer does not parse".to_owned()),
                }
            }
            ProbeReply::Answer { status: 401, .. } => Told::OtherKey,
            ProbeReply::Answer { status: 409, .. } => Told::Window,
            ProbeReply::Answer { status, .. } if status >= 500 => {
                Told::Silent(format!("the engine answered {status}"))
            }
            ProbeReply::Answer { status, .. } => Told::Refused(format!("the engine answered {status}")),
            ProbeReply::Refused => Told::Silent("the connection was refused".to_owned()),
            ProbeReply::TimedOut => Told::Silent("no answer in time".to_owned()),
            ProbeReply::Unreadable => Told::Silent("the answer is not HTTP".to_owned()),
        }
    }

    async fn knows(&self, address: SocketAddr, key: &str) -> Option<bool> {
        knows(&self.core, address, key).await
    }

    fn rotated(&mut self, until: Timestamp) -> Flow {
        let overlap = crate::core::between(Timestamp::now(), until).as_secs_f64().round() as i64;
        self.operation.params["overlap_s"] = json!(overlap);
        self.operation.params["previous_key_valid_until"] = json!(until);
        Flow::Next(self.after(Step::Engine))
    }

    /// Step `finish` of a rotation: the next key becomes the key.
    pub(super) async fn finish_rotation(&mut self) -> Result<Flow, StepError> {
        self.end(|work| {
            let params = &work.operation.params;
            let overlap = params["overlap_s"].as_i64().unwrap_or(work.overlap_s());
            let until = match &params["previous_key_valid_until"] {
                Value::Null => json!(work.found.now.plus_millis(overlap * 1000)),
                known => known.clone(),
            };
            let mut finish = work.finish(true);
            finish.params = Some(json!({"overlap_s": overlap, "previous_key_valid_until": until}));
            finish.patch = EnginePatch { promote_next_key: true, ..EnginePatch::default() };
            let more = json!({"overlap_s": overlap});
            finish.audit = vec![work.entry(AuditAction::RotateKey, Some(work.engine().status), None, more)];
            finish
        })
        .await
    }

    async fn refuse_rotation(&mut self, why: &str) -> Result<Flow, StepError> {
        let told =
            FleetError::new(FleetCode::BackendError, format!("the engine did not take the new key: {why}"));
        self.end_rotation(told, json!({})).await
    }

    /// The engine stopped serving meanwhile. Whether it took the key is found out when it serves again
    /// ([`settled_rotation`]), so the next key stays in the row and the restart gets its turn.
    async fn suspend_rotation(&mut self) -> Result<Flow, StepError> {
        let told = FleetError::new(
            FleetCode::BackendError,
            "the engine stopped serving while its key was being replaced",
        );
        self.end(move |work| {
            let mut finish = work.finish(false);
            finish.error = Some((told.code.as_str().to_owned(), told.message.clone()));
            finish.audit =
                vec![work.entry(AuditAction::RotateKey, Some(work.engine().status), Some(&told), json!({}))];
            finish
        })
        .await
    }

    async fn window_open(&mut self) -> Result<Flow, StepError> {
        let since = self.engine().key_rotated_at;
        let ends = since.map(|at| at.plus_millis(self.overlap_s() * 1000));
        let wait = ends.map_or(self.overlap_s().unsigned_abs(), |at| {
            crate::core::between(self.found.now, at).as_secs().max(1)
        });
        let told = FleetError::new(FleetCode::EngineBusy, "the window of the last rotation is still open");
        self.end_rotation(
            told,
            json!({"error_details": {"reason": "rotation_window"}, "retry_after_s": wait}),
        )
        .await
    }

    async fn end_rotation(&mut self, told: FleetError, params: Value) -> Result<Flow, StepError> {
        self.end(move |work| {
            let mut finish = work.finish(false);
            finish.error = Some((told.code.as_str().to_owned(), told.message.clone()));
            finish.params = Some(params.clone());
            finish.patch = EnginePatch { next_key: Some(None), ..EnginePatch::default() };
            finish.audit =
                vec![work.entry(AuditAction::RotateKey, Some(work.engine().status), Some(&told), json!({}))];
            finish
        })
        .await
    }
}

/// Does the engine accept this key? `None`: no usable answer.
async fn knows(core: &Core, address: SocketAddr, key: &str) -> Option<bool> {
    let reply = core.prober.call(address, "GET", "/version", key, Bytes::new(), CALL_LIMIT).await;
    match reply.status() {
        Some(200) => Some(true),
        Some(401 | 403) => Some(false),
        _ => None,
    }
}

/// An engine serves again whose rotation was broken off: which of the two keys does it take? `None`: nothing is to be
/// settled, or the engine does not say; then the planner has it asked again.
pub(crate) async fn settled_rotation(
    core: &Core,
    engine: &Engine,
    address: Option<SocketAddr>,
) -> Option<EnginePatch> {
    let next = engine.next_key.as_ref()?;
    let key = core.keys.open(&next.sealed).ok()?;
    match knows(core, address?, key.expose()).await? {
        true => Some(EnginePatch { promote_next_key: true, ..EnginePatch::default() }),
        false => Some(EnginePatch { next_key: Some(None), ..EnginePatch::default() }),
    }
}
