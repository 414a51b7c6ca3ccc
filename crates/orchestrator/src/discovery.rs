//! From a user to an engine: what each request about an engine does, as policy + registry + operations.
//!
//! Every function here reads the row, asks [`fleet::request::meet`] what the request meets, and does that: answers,
//! opens an operation, joins one or takes its place. Nothing here changes a backend; operations do. Nothing is
//! cancelled when the caller goes away.

mod refusals;
mod admit;
mod provision;
pub mod turns;

pub(crate) use refusals::{elsewhere, queue_full};

use crate::core::{Core, between};
use crate::hub::News;
use crate::registry::change::{EnginePatch, NewOperation, Open, OpenOutcome, Outcome};
use crate::registry::rows::{Engine, Found, Operation, Product, Vitals};
use crate::work;
use contract::fleet_api::{
    DestroyResponse, EngineRecord, IssuedKey, RotateKeyResponse, SleepResponse, StartResponse, StopResponse,
};
use contract::{FleetCode, FleetError, OperationId, RequestId, Timestamp, UserId};
use fleet::lifecycle::{Desired, Status};
use fleet::operation::{OperationKind, OperationStatus, Step};
use fleet::policy::Policy;
use fleet::request::{Meeting, Request, Standing, meet};
use refusals::{error_of, no_engine, refusal, retrying, unheard, unsettled};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;

/// How often a decision is made anew because the row changed under it. More rounds hide a row that never settles;
/// fewer refuse callers in an ordinary race.
const ROUNDS_MAX: usize = 16;

/// Between two looks at a row whose operation was lost. Longer makes callers wait; shorter is load.
const LOST_LOOK: Duration = Duration::from_millis(250);

/// Who asks, already authenticated.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The product.
    pub product: Product,
    /// Its policy.
    pub policy: Policy,
    /// The request, for logs and audit.
    pub request_id: RequestId,
}

/// An answer with the time its parts took, for `Server-Timing`.
#[derive(Debug, Clone, PartialEq)]
pub struct Held<T> {
    /// The answer.
    pub answer: T,
    /// Phase → milliseconds.
    pub timings: BTreeMap<String, u64>,
}

impl<T> Held<T> {
    fn at_once(answer: T) -> Self {
        Self { answer, timings: BTreeMap::new() }
    }
}

/// The `Idempotency-Key` of a provision and the hash of its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// The key, 1–128 printable ASCII characters.
    pub key: String,
    /// SHA-256 of the canonical body.
    pub request_hash: String,
}

/// What an operation's waiter is told.
enum Ended {
    Well(Arc<Operation>),
    /// Another operation took its place: read again.
    Superseded,
    Badly(FleetError),
}

fn standing(found: &Found) -> Standing {
    Standing {
        status: found.engine.status,
        desired: found.engine.desired,
        open: found.operation.as_ref().map(|o| o.kind),
    }
}

impl Core {
    // ---- reading

    /// The URL products reach an engine under.
    pub fn url_of(&self, engine: &Engine) -> String {
        match engine.port {
            Some(port) if !self.urls_by_network => format!("http://127.0.0.1:{port}"),
            _ => format!("http://engine-{}:8000", engine.id.short()),
        }
    }

    /// Vitals as last seen: what this process has seen and not yet written is newer than the row.
    pub(crate) fn latest_vitals(&self, found: &Found) -> Vitals {
        let pending = self.vitals.lock().unwrap_or_else(PoisonError::into_inner);
        pending.get(&found.engine.id).unwrap_or(&found.vitals).clone()
    }

    /// The engine record; with the key only where the contract shows it.
    pub fn record(&self, found: &Found, with_key: bool) -> Result<EngineRecord, FleetError> {
        let engine = &found.engine;
        let api_key = if with_key { Some(self.open_key(engine)?) } else { None };
        let vitals = self.latest_vitals(found);
        Ok(EngineRecord {
            engine_id: engine.id,
            user_id: engine.user_id.clone(),
            status: engine.status.to_string(),
            url: self.url_of(engine),
            api_key,
            engine_version: engine.engine_version.clone(),
            created_at: engine.created_at,
            last_health_at: vitals.last_health_at,
            degraded: engine.status == Status::Running && vitals.degraded,
            operation: found.operation.as_ref().map(|o| o.kind.to_string()),
        })
    }

    fn open_key(&self, engine: &Engine) -> Result<IssuedKey, FleetError> {
        self.keys.open(&engine.key.sealed).map(|k| IssuedKey::new(k.expose())).map_err(|_| {
            tracing::error!(engine_id = %engine.id, "the stored key of this engine cannot be decrypted; run `bap-engine engines reissue-key`");
            FleetError::new(
                FleetCode::Internal,
                format!(
                    "the stored key of engine {} cannot be decrypted; the operator repairs it with `bap-engine engines reissue-key`",
                    engine.id
                ),
            )
        })
    }

    // ---- opening and waiting

    /// One of the bounded places for those who wait; taken before anything is written, so that who is sent away
    /// leaves nothing behind.
    fn place(&self) -> Result<OwnedSemaphorePermit, FleetError> {
        Arc::clone(&self.waiters).try_acquire_owned().map_err(|_| {
            FleetError::new(FleetCode::CapacityExhausted, "too many requests wait on this replica")
                .retry_after(1)
        })
    }

    /// The place a meeting needs: none when it is answered at once.
    fn place_for(&self, meeting: &Meeting) -> Result<Option<OwnedSemaphorePermit>, FleetError> {
        match meeting {
            Meeting::Open(_) | Meeting::Supersede(_) | Meeting::Join | Meeting::JoinClearingCounters => {
                self.place().map(Some)
            }
            Meeting::Answer(_) | Meeting::Refuse(_) | Meeting::NotAdmitted(_) => Ok(None),
        }
    }

    /// Waits until an operation ended, in a place for waiters that the caller holds.
    async fn wait(&self, id: OperationId) -> Result<Ended, FleetError> {
        crate::telemetry::waiters(self.config.admit_waiters_max - self.waiters.available_permits());
        let news = tokio::select! {
            news = self.hub.wait(id, &self.registry) => news,
            () = self.drain.closing() => {
                return Err(FleetError::new(FleetCode::Draining, "this replica is going down; the work goes on")
                    .retry_after(1));
            }
        };
        Ok(match news {
            News::Ended(operation) => match operation.status {
                OperationStatus::Succeeded => Ended::Well(operation),
                OperationStatus::Superseded | OperationStatus::Open => Ended::Superseded,
                OperationStatus::Failed => Ended::Badly(error_of(&operation)),
            },
            News::Retrying(operation) => Ended::Badly(retrying(&operation)),
            News::Gone => Ended::Superseded,
            News::Silence(error) => return Err(unheard(id, error)),
        })
    }

    /// Opens an operation owned by this replica and starts its executor.
    pub(crate) async fn begin(
        self: &Arc<Self>,
        open: Open,
    ) -> Result<Option<Box<(Engine, Operation)>>, FleetError> {
        let core = Arc::clone(self);
        let superseded = open.operation.params["superseded"].as_str().and_then(OperationKind::parse);
        let began_at = open.operation.params["superseded_at"].as_str().and_then(Timestamp::parse);
        // Under `tasks`, so that a caller that hangs up between the commit and the executor changes nothing.
        self.to_the_end(async move {
            let sent = Instant::now();
            match core.registry.open(&open).await? {
                OpenOutcome::Opened(opened) => {
                    if let Some(old) = open.supersede {
                        core.claims.lose(old);
                        core.hub.poke(old);
                        if let Some(kind) = superseded {
                            let took = between(began_at.unwrap_or(opened.1.started_at), opened.1.started_at);
                            crate::telemetry::operation_ended(kind, OperationStatus::Superseded, took);
                        }
                    }
                    if opened.1.owner == Some(core.replica) {
                        work::spawn(&core, opened.1.clone(), sent);
                    }
                    Ok(Some(opened))
                }
                OpenOutcome::Unchanged => Ok(None),
                OpenOutcome::OtherBackend(kind) => Err(elsewhere(kind)),
                OpenOutcome::Missing => Err(no_engine()),
            }
        })
        .await
    }

    fn new_operation(
        &self,
        kind: OperationKind,
        supersedes: bool,
        params: Value,
        actor: &str,
        request_id: Option<&RequestId>,
    ) -> NewOperation {
        let first = kind.steps().iter().copied().find(|s| supersedes || *s != Step::Settle);
        NewOperation {
            id: OperationId::generate(),
            kind,
            step: first.unwrap_or(Step::Finish),
            params,
            actor: actor.to_owned(),
            request_id: request_id.map(|r| r.as_str().to_owned()),
            // A replica that goes down performs nothing new: another one finds it in the queue.
            owner: (!self.halt.is_cancelled()).then_some((self.replica, self.config.operation_lease_s)),
        }
    }

    /// The opening of an operation that leads an engine to `desired`.
    pub(crate) fn opening(
        &self,
        found: &Found,
        kind: OperationKind,
        supersede: bool,
        mut params: Value,
        actor: &str,
        request_id: Option<&RequestId>,
    ) -> Open {
        let engine = &found.engine;
        let old = found.operation.as_ref().filter(|_| supersede);
        params["from"] = json!(engine.status);
        params["from_desired"] = json!(engine.desired);
        if let Some(old) = old {
            params["superseded"] = json!(old.kind);
            params["superseded_id"] = json!(old.id);
            params["superseded_at"] = json!(old.started_at);
        }
        Open {
            engine_id: engine.id,
            revision: engine.revision,
            patch: work::opening_patch(kind, engine),
            operation: self.new_operation(kind, old.is_some(), params, actor, request_id),
            supersede: old.map(|o| o.id),
            fence: None,
            backend: Some(self.backend.kind()),
            audit: Vec::new(),
        }
    }

    /// What most requests do: look, decide, act, wait, until the answer is known.
    async fn settle<T>(
        self: &Arc<Self>,
        caller: &Caller,
        user: &UserId,
        request: Request,
        params: Value,
        answer: impl Fn(&Core, &Found, Option<&Operation>) -> Result<T, FleetError>,
    ) -> Result<Held<T>, FleetError> {
        let mut displaced = false;
        for _ in 0..ROUNDS_MAX {
            let found = self.registry.find(caller.product.id, user).await?.ok_or_else(no_engine)?;
            let meeting = meet(request, Some(standing(&found)));
            let _place = self.place_for(&meeting)?;
            let (operation, forgive) = match meeting {
                // A later request took the place of this one: the last word stands, or the two would go on taking
                // each other's place.
                Meeting::Open(_) | Meeting::Supersede(_) if displaced => {
                    return Err(refusal(FleetCode::EngineBusy, &found));
                }
                Meeting::Answer(_) => return Ok(Held::at_once(answer(self, &found, None)?)),
                Meeting::Refuse(code) => return Err(refusal(code, &found)),
                Meeting::NotAdmitted(_) => return Err(unsettled()),
                Meeting::Join => (self.joined(&found).await, false),
                Meeting::JoinClearingCounters => (self.joined(&found).await, true),
                Meeting::Open(kind) => {
                    let mut open = self.opening(
                        &found,
                        kind,
                        false,
                        params.clone(),
                        caller.product.slug.as_str(),
                        Some(&caller.request_id),
                    );
                    // A key that was told to the engine and not confirmed is told again: it may be the one it takes.
                    if kind == OperationKind::RotateKey && found.engine.next_key.is_none() {
                        open = work::with_new_key(self, open);
                    }
                    match self.begin(open).await? {
                        Some(opened) => (Some(opened.1.id), false),
                        None => continue,
                    }
                }
                Meeting::Supersede(kind) => {
                    let open = self.opening(
                        &found,
                        kind,
                        true,
                        params.clone(),
                        caller.product.slug.as_str(),
                        Some(&caller.request_id),
                    );
                    match self.begin(open).await? {
                        Some(opened) => (Some(opened.1.id), false),
                        None => continue,
                    }
                }
            };
            if forgive {
                self.forgive(&found).await?;
            }
            let Some(operation) = operation else {
                continue;
            };
            match self.wait(operation).await? {
                Ended::Well(operation) => {
                    let found = match self.registry.find(caller.product.id, user).await? {
                        Some(now) => now,
                        None => found,
                    };
                    return Ok(Held {
                        answer: answer(self, &found, Some(&operation))?,
                        timings: operation.timings.clone(),
                    });
                }
                Ended::Superseded => displaced = true,
                Ended::Badly(error) => return Err(error),
            }
        }
        Err(unsettled())
    }

    /// The operation to wait for. A transitional row may have lost its operation: the planner opens a new one, and
    /// the caller looks again after a moment.
    async fn joined(self: &Arc<Self>, found: &Found) -> Option<OperationId> {
        if let Some(open) = &found.operation {
            return Some(open.id);
        }
        self.nudge.look_at(found.engine.id);
        tokio::time::sleep(LOST_LOOK).await;
        None
    }

    /// A start that joins a restart clears the counters, so that the restart under way is not the last.
    async fn forgive(&self, found: &Found) -> Result<(), FleetError> {
        let mut engine = found.engine.clone();
        for _ in 0..ROUNDS_MAX {
            if engine.restart_attempts == 0 || engine.status != Status::Failed {
                return Ok(());
            }
            let change = crate::registry::change::Change {
                engine_id: engine.id,
                revision: engine.revision,
                only_without_operation: false,
                patch: EnginePatch {
                    restart_attempts: Some(0),
                    reset_vitals: true,
                    ..EnginePatch::default()
                },
                audit: Vec::new(),
            };
            if let Outcome::Changed(_) = self.registry.change(&change).await? {
                return Ok(());
            }
            let Some(now) = self.registry.found(engine.id).await? else { return Ok(()) };
            engine = now.engine;
        }
        Ok(())
    }

    // ---- the requests

    /// Endpoint 4.
    pub async fn start(
        self: &Arc<Self>,
        caller: &Caller,
        user: &UserId,
    ) -> Result<Held<StartResponse>, FleetError> {
        self.settle(caller, user, Request::Start, json!({}), |core, found, _| {
            Ok(StartResponse { status: Status::Running.to_string(), url: core.url_of(&found.engine) })
        })
        .await
    }

    /// Endpoint 5.
    pub async fn stop(
        self: &Arc<Self>,
        caller: &Caller,
        user: &UserId,
    ) -> Result<Held<StopResponse>, FleetError> {
        self.settle(caller, user, Request::Stop, json!({}), |_, found, _| {
            Ok(StopResponse { status: Status::Stopped.to_string(), engine_id: found.engine.id })
        })
        .await
    }

    /// Endpoint 9.
    pub async fn destroy(
        self: &Arc<Self>,
        caller: &Caller,
        user: &UserId,
    ) -> Result<Held<DestroyResponse>, FleetError> {
        self.settle(caller, user, Request::Destroy, json!({}), |_, found, _| {
            Ok(DestroyResponse { status: "destroyed".to_owned(), engine_id: found.engine.id })
        })
        .await
    }

    /// Endpoint 7.
    pub async fn rotate_key(
        self: &Arc<Self>,
        caller: &Caller,
        user: &UserId,
    ) -> Result<Held<RotateKeyResponse>, FleetError> {
        self.settle(caller, user, Request::RotateKey, json!({}), |core, found, operation| {
            let params = operation.map(|o| &o.params);
            let number = |name: &str| params.and_then(|p| p[name].as_u64());
            let valid_until =
                params.and_then(|p| p["previous_key_valid_until"].as_str()).and_then(Timestamp::parse);
            Ok(RotateKeyResponse {
                engine_id: found.engine.id,
                user_id: found.engine.user_id.clone(),
                api_key: core.open_key(&found.engine)?,
                overlap_seconds: number("overlap_s").unwrap_or(0),
                previous_key_valid_until: valid_until.unwrap_or(found.now),
            })
        })
        .await
    }

    /// Endpoint 6: what the idle loop does, without asking for idle time.
    pub async fn sleep(
        self: &Arc<Self>,
        caller: &Caller,
        user: &UserId,
    ) -> Result<Held<SleepResponse>, FleetError> {
        let mut displaced = false;
        for _ in 0..ROUNDS_MAX {
            let found = self.registry.find(caller.product.id, user).await?.ok_or_else(no_engine)?;
            let answer = SleepResponse { status: Status::Sleeping.to_string(), engine_id: found.engine.id };
            let meeting = meet(Request::Sleep, Some(standing(&found)));
            let _place = self.place_for(&meeting)?;
            let operation = match meeting {
                Meeting::Answer(_) => return Ok(Held::at_once(answer)),
                Meeting::Refuse(code) => return Err(refusal(code, &found)),
                Meeting::Join | Meeting::JoinClearingCounters => match self.joined(&found).await {
                    Some(id) => id,
                    None => continue,
                },
                // Somebody started it meanwhile: the last word stands.
                Meeting::Open(_) if displaced => return Err(refusal(FleetCode::EngineBusy, &found)),
                Meeting::Open(_) => {
                    let idle = crate::idle::rules(self, &caller.policy);
                    match crate::idle::put_to_sleep(
                        self,
                        &found,
                        &idle,
                        crate::idle::Asked::ByCaller,
                        caller.product.slug.as_str(),
                        Some(&caller.request_id),
                    )
                    .await?
                    {
                        crate::idle::Slept::Opened(id) => id,
                        crate::idle::Slept::Changed => continue,
                        crate::idle::Slept::Active(error) => return Err(error),
                    }
                }
                Meeting::Supersede(_) | Meeting::NotAdmitted(_) => return Err(unsettled()),
            };
            match self.wait(operation).await? {
                Ended::Well(operation) => return Ok(Held { answer, timings: operation.timings.clone() }),
                Ended::Superseded => displaced = true,
                Ended::Badly(error) => return Err(error),
            }
        }
        Err(unsettled())
    }
}

/// The stored policy; one that does not parse is a defect, never a default.
pub fn parse_policy(product: &Product) -> Result<Policy, FleetError> {
    Policy::parse(&product.policy).map_err(|problems| {
        tracing::error!(product_id = %product.id, ?problems, "the stored policy of this product does not parse");
        FleetError::new(FleetCode::Internal, "the stored policy of this product does not parse")
    })
}

/// True when an engine should be running.
pub(crate) fn is_admittable(engine: &Engine) -> bool {
    engine.status == Status::Running && engine.desired == Desired::Running
}
