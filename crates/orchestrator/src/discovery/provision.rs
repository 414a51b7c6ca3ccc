//! A new engine: policy, room on the backend, the product's turn, a place in the start queue, then quota, port, key
//! and operation in one transaction.
//!
//! A refusal leaves nothing behind; from the commit on the work goes on whether anybody waits for it or not.

use super::refusals::{failure_of, no_engine, queue_full, refusal, unsettled};
use super::{Caller, Ended, Held, Idempotency, standing};
use crate::core::{Core, backend_error};
use crate::keys;
use crate::registry::change::{Reserve, ReserveOutcome};
use crate::registry::rows::{Found, SealedKey};
use crate::work;
use backends::BackendError;
use contract::fleet_api::ProvisionResponse;
use contract::{EngineId, FleetCode, FleetError, OperationId, UserId};
use fleet::operation::OperationKind;
use fleet::request::{Replay, replay};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a provision waits for the backend to say whether it has room. Longer holds every provision while a
/// daemon hangs; shorter lets callers in while a busy one is asked.
const ROOM_WAIT: Duration = Duration::from_secs(1);
/// When a full backend is asked again, in seconds: when engines are removed or stopped. Shorter makes refused callers
/// a load of their own; longer leaves places empty.
const ROOM_AGAIN_S: u64 = 5;

impl Core {
    /// Endpoint 1: a new engine, healthy when this returns.
    pub async fn provision(
        self: &Arc<Self>,
        caller: &Caller,
        user: &UserId,
        engine_version: Option<String>,
        idempotency: Option<Idempotency>,
    ) -> Result<Held<ProvisionResponse>, FleetError> {
        let _place = self.place()?;
        match self.reserve(caller, user, engine_version, idempotency, "endpoint").await? {
            Reserved::New(operation) => self.provisioned(caller, user, operation).await,
            Reserved::Replayed(engine) => self.replayed(caller, user, engine).await,
            Reserved::Exists => Err(FleetError::new(
                FleetCode::EngineAlreadyExists,
                "this product has an engine for this user already; use admit",
            )),
        }
    }

    async fn provisioned(
        self: &Arc<Self>,
        caller: &Caller,
        user: &UserId,
        operation: OperationId,
    ) -> Result<Held<ProvisionResponse>, FleetError> {
        match self.wait(operation).await? {
            Ended::Well(operation) => {
                let found = self.registry.find(caller.product.id, user).await?.ok_or_else(no_engine)?;
                Ok(Held { answer: self.provision_answer(&found)?, timings: operation.timings.clone() })
            }
            Ended::Superseded => Err(FleetError::new(
                FleetCode::EngineBusy,
                "another request stopped or removed the engine while it was starting",
            )
            .retry_after(1)),
            Ended::Badly(error) => Err(error),
        }
    }

    fn provision_answer(&self, found: &Found) -> Result<ProvisionResponse, FleetError> {
        Ok(ProvisionResponse {
            engine_id: found.engine.id,
            user_id: found.engine.user_id.clone(),
            status: found.engine.status.to_string(),
            url: self.url_of(&found.engine),
            api_key: self.open_key(&found.engine)?,
        })
    }

    /// The same `Idempotency-Key` with the same body again.
    async fn replayed(
        self: &Arc<Self>,
        caller: &Caller,
        user: &UserId,
        engine: EngineId,
    ) -> Result<Held<ProvisionResponse>, FleetError> {
        let found =
            self.registry.found(engine).await?.filter(|f| f.engine.user_id == *user).ok_or_else(no_engine)?;
        match replay(Some(standing(&found))) {
            Replay::Join => match self.joined(&found).await {
                Some(id) => self.provisioned(caller, user, id).await,
                None => Err(unsettled()),
            },
            Replay::Present => Ok(Held::at_once(self.provision_answer(&found)?)),
            Replay::Failure => Err(failure_of(&found.engine)),
            Replay::Refuse(code) => Err(refusal(code, &found)),
        }
    }

    pub(super) async fn reserve(
        self: &Arc<Self>,
        caller: &Caller,
        user: &UserId,
        engine_version: Option<String>,
        idempotency: Option<Idempotency>,
        via: &str,
    ) -> Result<Reserved, FleetError> {
        let decision = self.policy_engine().check_provision(
            &caller.policy,
            caller.product.deleting,
            engine_version.as_deref(),
        );
        if let Err(denial) = decision.into_result() {
            self.denials.note(&caller.product, user, denial.code().as_str());
            return Err(denial.error());
        }
        if let Err(full) = self.has_room().await {
            return self.known_before(caller, user, idempotency.as_ref(), full).await;
        }
        let turn = match self.turns.take(caller.product.id).await {
            Ok(turn) => turn,
            Err(full) => {
                let full = line_full(full.retry_after_s);
                return self.known_before(caller, user, idempotency.as_ref(), full).await;
            }
        };
        let promise = match self.gate.promise() {
            Ok(promise) => promise,
            Err(full) => {
                drop(turn);
                let full = queue_full(full.retry_after_s);
                return self.known_before(caller, user, idempotency.as_ref(), full).await;
            }
        };
        let version = engine_version.unwrap_or_else(|| self.config.engine_image.clone());
        let (key, _) = keys::new_engine_key();
        let (hash, sealed) = self.keys.seal(&key);
        let params = json!({"via": via, "engine_version": version});
        let reserve = Reserve {
            engine_id: EngineId::generate(),
            product_id: caller.product.id,
            user_id: user.clone(),
            backend: self.backend.kind(),
            engine_version: version,
            key: SealedKey { hash, sealed },
            ports: self.ports(),
            operation: self.new_operation(
                OperationKind::Provision,
                false,
                params,
                caller.product.slug.as_str(),
                Some(&caller.request_id),
            ),
            idempotency: idempotency.map(|i| (i.key, i.request_hash)),
        };
        let core = Arc::clone(self);
        let (product, user) = (caller.product.clone(), user.clone());
        self.to_the_end(async move {
            let sent = Instant::now();
            let outcome = core.registry.reserve(&reserve).await;
            drop(turn);
            match outcome? {
                ReserveOutcome::Reserved(reserved) => {
                    let operation = &reserved.1;
                    if operation.owner == Some(core.replica) {
                        work::spawn_promised(&core, operation.clone(), sent, Some(promise));
                    }
                    Ok(Reserved::New(operation.id))
                }
                ReserveOutcome::AlreadyExists => Ok(Reserved::Exists),
                ReserveOutcome::Replayed(engine) => Ok(Reserved::Replayed(engine)),
                ReserveOutcome::OtherBody => Err(other_body()),
                ReserveOutcome::QuotaExceeded(limit) => {
                    core.denials.note(&product, &user, FleetCode::QuotaExceeded.as_str());
                    Err(fleet::policy::Denial::QuotaExceeded(fleet::quota::QuotaExceeded {
                        limit: u64::try_from(limit).unwrap_or(0),
                    })
                    .error())
                }
                ReserveOutcome::NoPort => Err(FleetError::new(
                    FleetCode::PortExhaustion,
                    "no free port in the range; raise ORCH_PORT_MAX",
                )
                .retry_after(60)),
                ReserveOutcome::ProductGone => {
                    Err(FleetError::new(FleetCode::PolicyDenied, "the product is being deleted"))
                }
            }
        })
        .await
    }

    /// Has the backend room for one more object? One that does not say is no reason to refuse: the work waits for it.
    async fn has_room(&self) -> Result<(), FleetError> {
        match tokio::time::timeout(ROOM_WAIT, self.backend.room()).await {
            Ok(Err(full @ BackendError::Capacity(_))) => Err(backend_error(&full).retry_after(ROOM_AGAIN_S)),
            Ok(Ok(()) | Err(_)) | Err(_) => Ok(()),
        }
    }

    /// Nobody new is taken in now; but who repeats what was done before is told so, not that nothing exists.
    async fn known_before(
        &self,
        caller: &Caller,
        user: &UserId,
        idempotency: Option<&Idempotency>,
        full: FleetError,
    ) -> Result<Reserved, FleetError> {
        let product = caller.product.id;
        if let Some(wanted) = idempotency
            && let Some((engine, hash)) = self.registry.idempotent(product, &wanted.key).await?
        {
            let same = hash == wanted.request_hash;
            return if same { Ok(Reserved::Replayed(engine)) } else { Err(other_body()) };
        }
        match self.registry.find(product, user).await? {
            Some(_) => Ok(Reserved::Exists),
            None => Err(full),
        }
    }
}

fn other_body() -> FleetError {
    FleetError::new(FleetCode::InvalidRequest, "this Idempotency-Key was used with another body")
        .with(json!({"fields": [{"field": "Idempotency-Key", "problem": "used with another body"}]}))
}

fn line_full(retry_after_s: u64) -> FleetError {
    FleetError::new(FleetCode::CapacityExhausted, "too many provisions of this product wait on this replica")
        .retry_after(retry_after_s)
}

/// What became of the first writing of an engine.
pub(super) enum Reserved {
    New(OperationId),
    Replayed(EngineId),
    Exists,
}
