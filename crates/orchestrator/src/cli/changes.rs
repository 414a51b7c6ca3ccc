//! Commands that change an engine: what they want is written as an operation without owner, a replica performs it,
//! the command waits.
//!
//! What a request meets is asked of `fleet::request::meet`, as the API does, so a person at the terminal is refused
//! and joined by the same rules as a product.

use super::database::{Database, no_engine, policy};
use super::{Exit, Stop, waiting};
use crate::core::backend_error;
use crate::discovery::elsewhere;
use crate::engine_client::EngineClient;
use crate::keys::{self, EngineKeys};
use crate::registry::change::{
    Change, EnginePatch, Finish, NewOperation, Open, OpenOutcome, Outcome, Reserve, ReserveOutcome,
};
use crate::registry::rows::{AuditEntry, Found, Operation, Product, SealedKey};
use backends::{BackendError, Prober as _};
use chassis::config::Secret;
use contract::{EngineId, FleetCode, FleetError, OperationId, ReplicaId, Timestamp, UserId};
use fleet::audit::AuditAction;
use fleet::health::{HealthReport, Verdict, verdict};
use fleet::idle::IdleRules;
use fleet::lifecycle::{BackendKind, Desired, Status};
use fleet::observation::{ObjectState, Observation};
use fleet::operation::{OperationKind, Step};
use fleet::policy::PolicyEngine;
use fleet::request::{Meeting, Request, Standing, meet};
use fleet::spec::Resources;
use serde_json::{Value, json};
use std::time::Duration;

/// How often a decision is made anew because the row changed under it. More hides a row that never settles; fewer
/// refuses people in an ordinary race.
const ROUNDS_MAX: usize = 16;

/// Between two looks at a row whose operation was lost.
const LOST_LOOK: Duration = Duration::from_millis(250);

/// Claim of this command on a row it forgets. Long enough for two statements; nobody else may act meanwhile.
const FORGET_LEASE: Duration = Duration::from_secs(60);

/// On whose behalf: the log's word for whoever may use the database.
const ACTOR: &str = "admin";

/// How the engine stands in the matrix.
fn standing(found: &Found) -> Standing {
    Standing {
        status: found.engine.status,
        desired: found.engine.desired,
        open: found.operation.as_ref().map(|o| o.kind),
    }
}

fn refusal(code: FleetCode, found: &Found) -> Stop {
    let message = match &found.operation {
        Some(open) => format!("the engine is {}, and its {} is under way", found.engine.status, open.kind),
        None => format!("the engine is {}", found.engine.status),
    };
    FleetError::new(code, message).into()
}

fn unsettled() -> Stop {
    FleetError::new(FleetCode::EngineBusy, "the engine keeps changing; try again").into()
}

/// An operation that any replica may take.
fn unowned(kind: OperationKind, supersedes: bool, params: Value) -> NewOperation {
    let first = kind.steps().iter().copied().find(|step| supersedes || *step != Step::Settle);
    NewOperation {
        id: OperationId::generate(),
        kind,
        step: first.unwrap_or(Step::Finish),
        params,
        actor: ACTOR.to_owned(),
        request_id: None,
        owner: None,
    }
}

/// Refuses an engine of another kind of backend than the one that is configured here, as a replica does: nobody would
/// perform what is opened on it.
fn check_backend(db: &Database, found: &Found) -> Result<(), Stop> {
    let kind = found.engine.backend;
    if kind == db.settings.engine_backend { Ok(()) } else { Err(elsewhere(kind).into()) }
}

/// The opening of an operation on an engine as it was read; `backend` as in [`Open`].
fn opening(found: &Found, kind: OperationKind, supersede: bool, backend: Option<BackendKind>) -> Open {
    let engine = &found.engine;
    let old = found.operation.as_ref().filter(|_| supersede);
    let mut params = json!({"from": engine.status, "from_desired": engine.desired});
    if let Some(old) = old {
        params["superseded"] = json!(old.kind);
        params["superseded_id"] = json!(old.id);
    }
    Open {
        engine_id: engine.id,
        revision: engine.revision,
        patch: crate::work::opening_patch(kind, engine),
        operation: unowned(kind, old.is_some(), params),
        supersede: old.map(|o| o.id),
        fence: None,
        backend,
        audit: Vec::new(),
    }
}

/// Looks, decides, opens or joins, and waits until the answer is known.
async fn perform(
    db: &Database,
    reference: &str,
    request: Request,
    prepare: impl Fn(&Found, &mut Open) + Sync,
) -> Result<Operation, Stop> {
    let (product, user) = db.user(reference).await?;
    for _ in 0..ROUNDS_MAX {
        let found = db.registry.find(product.id, &user).await?.ok_or_else(no_engine)?;
        check_backend(db, &found)?;
        let (kind, supersede) = match meet(request, Some(standing(&found))) {
            Meeting::Refuse(code) => return Err(refusal(code, &found)),
            Meeting::Answer(_) | Meeting::NotAdmitted(_) => return Err(unsettled()),
            Meeting::Open(kind) => (kind, false),
            Meeting::Supersede(kind) => (kind, true),
            joined @ (Meeting::Join | Meeting::JoinClearingCounters) => {
                if joined == Meeting::JoinClearingCounters {
                    forgive(db, &found).await?;
                }
                match &found.operation {
                    Some(open) => return waiting::until_done(db, open.id).await,
                    None => tokio::time::sleep(LOST_LOOK).await,
                }
                continue;
            }
        };
        let mut open = opening(&found, kind, supersede, Some(db.settings.engine_backend));
        prepare(&found, &mut open);
        match db.registry.open(&open).await? {
            OpenOutcome::Opened(opened) => return waiting::until_done(db, opened.1.id).await,
            OpenOutcome::Unchanged => {}
            OpenOutcome::OtherBackend(kind) => return Err(elsewhere(kind).into()),
            OpenOutcome::Missing => return Err(no_engine()),
        }
    }
    Err(unsettled())
}

/// A start that joins a restart clears the counters, so that the restart under way is not the last.
async fn forgive(db: &Database, found: &Found) -> Result<(), Stop> {
    let change = Change {
        engine_id: found.engine.id,
        revision: found.engine.revision,
        only_without_operation: false,
        patch: EnginePatch { restart_attempts: Some(0), reset_vitals: true, ..EnginePatch::default() },
        audit: Vec::new(),
    };
    db.registry.change(&change).await?;
    Ok(())
}

/// A key as the registry keeps it.
fn sealed(sealer: &EngineKeys, key: &Secret) -> SealedKey {
    let (hash, sealed) = sealer.seal(key);
    SealedKey { hash, sealed }
}

/// Makes an engine for a user; the answer is its key and its operation.
pub async fn provision(
    db: &Database,
    reference: &str,
    version: Option<&str>,
) -> Result<(EngineId, Secret), Stop> {
    let (product, user) = db.user(reference).await?;
    let sealer = db.keys()?;
    let image = allowed_image(db, &product, version)?;
    let place = db.place().await?;
    if let Err(full @ BackendError::Capacity(_)) = place.backend.room().await {
        return Err(backend_error(&full).into());
    }
    let (key, _) = keys::new_engine_key();
    let sealed = sealed(&sealer, &key);
    let ports =
        place.backend.capabilities().host_ports.then_some((db.settings.port_min, db.settings.port_max));
    let reserve = Reserve {
        engine_id: EngineId::generate(),
        product_id: product.id,
        user_id: user.clone(),
        backend: place.backend.kind(),
        engine_version: image.clone(),
        key: sealed,
        ports,
        operation: unowned(OperationKind::Provision, false, json!({"via": "cli", "engine_version": image})),
        idempotency: None,
    };
    let refused = |code, message: &str| -> Stop { FleetError::new(code, message).into() };
    match db.registry.reserve(&reserve).await? {
        ReserveOutcome::Reserved(reserved) => {
            waiting::until_done(db, reserved.1.id).await?;
            Ok((reserved.0.id, key))
        }
        ReserveOutcome::AlreadyExists | ReserveOutcome::Replayed(_) | ReserveOutcome::OtherBody => {
            Err(refused(FleetCode::EngineAlreadyExists, "this product has an engine for this user already"))
        }
        ReserveOutcome::QuotaExceeded(limit) => {
            Err(refused(FleetCode::QuotaExceeded, &format!("Product at max_engines limit ({limit}).")))
        }
        ReserveOutcome::NoPort => {
            Err(refused(FleetCode::PortExhaustion, "no free port in the range; raise ORCH_PORT_MAX"))
        }
        ReserveOutcome::ProductGone => Err(refused(FleetCode::PolicyDenied, "the product is being deleted")),
    }
}

/// The image of a new engine, if the product's policy allows it.
fn allowed_image(db: &Database, product: &Product, version: Option<&str>) -> Result<String, Stop> {
    let settings = &db.settings;
    let resources = Resources {
        memory_mb: settings.engine_memory_mb,
        cpus: settings.engine_cpus,
        pids: settings.engine_pids,
    };
    let engine = PolicyEngine {
        default_image: settings.engine_image.clone(),
        default_resources: resources,
        idle_sleep_after: settings.idle_sleep_after_s,
        admit_lease: settings.admit_lease_s,
        host_cpus: None,
    };
    let decision = engine.check_provision(&policy(product)?, product.deleting, version);
    decision.into_result().map_err(|denial| Stop::from(denial.error()))?;
    Ok(version.map_or_else(|| settings.engine_image.clone(), str::to_owned))
}

/// Starts it.
pub async fn start(db: &Database, reference: &str) -> Result<(), Stop> {
    perform(db, reference, Request::Start, |_, _| {}).await.map(drop)
}

/// Stops it until somebody starts it.
pub async fn stop(db: &Database, reference: &str) -> Result<(), Stop> {
    perform(db, reference, Request::Stop, |_, _| {}).await.map(drop)
}

/// Removes it and its brain.
pub async fn destroy(db: &Database, reference: &str) -> Result<(), Stop> {
    perform(db, reference, Request::Destroy, |_, _| {}).await.map(drop)
}

/// Gives it a new key without restart; the answer is the key and the end of the old one's window.
pub async fn rotate_key(db: &Database, reference: &str) -> Result<(Secret, Option<String>), Stop> {
    let sealer = db.keys()?;
    let (key, hash) = keys::new_engine_key();
    let sealed = sealed(&sealer, &key);
    let operation = perform(db, reference, Request::RotateKey, |found, open| {
        // The engine may have taken the key of an unfinished rotation already: that one is finished, never replaced.
        if found.engine.next_key.is_none() {
            open.patch.next_key = Some(Some(sealed.clone()));
        }
    })
    .await?;
    let (_, found) = db.engine(reference).await?;
    if !keys::same_hash(&found.engine.key.hash, &hash) {
        return Err(Stop::failed(
            "a rotation that was unfinished or came in between was completed instead; say it again for a key of your own",
        ));
    }
    Ok((key, operation.params["previous_key_valid_until"].as_str().map(str::to_owned)))
}

/// Puts it to sleep when nobody uses it; true = it slept already.
pub async fn sleep(db: &Database, reference: &str) -> Result<bool, Stop> {
    let (product, user) = db.user(reference).await?;
    for _ in 0..ROUNDS_MAX {
        let found = db.registry.find(product.id, &user).await?.ok_or_else(no_engine)?;
        check_backend(db, &found)?;
        match meet(Request::Sleep, Some(standing(&found))) {
            Meeting::Answer(_) => return Ok(true),
            Meeting::Refuse(code) => return Err(refusal(code, &found)),
            Meeting::Join | Meeting::JoinClearingCounters => match &found.operation {
                Some(open) => return waiting::until_done(db, open.id).await.map(|_| false),
                None => tokio::time::sleep(LOST_LOOK).await,
            },
            Meeting::Open(kind) => {
                let open = fenced(db, &found, kind).await?;
                match db.registry.open(&open).await? {
                    OpenOutcome::Opened(opened) => {
                        return waiting::until_done(db, opened.1.id).await.map(|_| false);
                    }
                    OpenOutcome::Unchanged => {}
                    OpenOutcome::OtherBackend(kind) => return Err(elsewhere(kind).into()),
                    OpenOutcome::Missing => return Err(no_engine()),
                }
            }
            Meeting::Supersede(_) | Meeting::NotAdmitted(_) => return Err(unsettled()),
        }
    }
    Err(unsettled())
}

/// The opening of a sleep: judged by a probe made after `t0`, and fenced at `t0`.
async fn fenced(db: &Database, found: &Found, kind: OperationKind) -> Result<Open, Stop> {
    let settings = &db.settings;
    let rules = IdleRules {
        idle_after: None,
        mode: settings.sleep_mode,
        wake_lead: settings.wake_lead_s,
        wake_grace: settings.wake_grace_s,
    };
    let t0 = db.registry.now().await?;
    let activity = probe(db, found.engine.id).await?.activity;
    let facts = crate::idle::facts(found, activity, None);
    let blockers = fleet::idle::request_blockers(&facts, &rules, t0);
    if !blockers.is_empty() {
        let words: Vec<&str> = blockers.iter().map(|b| b.as_str()).collect();
        return Err(busy(&format!("the engine is in use ({})", words.join(", "))));
    }
    let mut open = opening(found, kind, false, Some(settings.engine_backend));
    open.operation.params["reason"] = json!("api");
    open.fence = Some(t0);
    open.patch = EnginePatch {
        desired: Some(Desired::Sleeping),
        sleep_mode: Some(Some(rules.mode)),
        wake_at: Some(fleet::idle::wake_at(activity.and_then(|a| a.next_scheduled_at), rules.wake_lead)),
        ..EnginePatch::default()
    };
    Ok(open)
}

fn busy(message: &str) -> Stop {
    FleetError::new(FleetCode::EngineBusy, message).into()
}

/// What a running engine reports about itself right now.
async fn probe(db: &Database, id: EngineId) -> Result<HealthReport, Stop> {
    let place = db.place().await?;
    let seen = place.backend.observe(id).await.map_err(|error| {
        let exit = if error.is_transient() { Exit::Unreachable } else { Exit::Failed };
        Stop::new(exit, error.to_string())
    })?;
    let address = match seen {
        Observation::Present(object) => match object.state {
            ObjectState::Running { address, .. } => address,
            _ => None,
        },
        Observation::Absent => None,
    };
    let silent = || busy("the engine does not say whether it is idle");
    let address = address.ok_or_else(silent)?;
    let reply = EngineClient::new().get_health(address, db.settings.health_check_timeout_s).await;
    match verdict(&crate::work::outcome(reply)) {
        Verdict::Healthy { report } | Verdict::Degraded { report, .. } => Ok(report),
        Verdict::Failed { .. } => Err(silent()),
    }
}

/// Drops the row of an engine whose host is lost; nothing is asked of the backend.
pub async fn forget(db: &Database, reference: &str) -> Result<EngineId, Stop> {
    let (product, user) = db.user(reference).await?;
    for _ in 0..ROUNDS_MAX {
        let found = db.registry.find(product.id, &user).await?.ok_or_else(no_engine)?;
        let mut open = opening(&found, OperationKind::Destroy, found.operation.is_some(), None);
        open.operation.owner = Some((ReplicaId::generate(), FORGET_LEASE));
        let (engine, operation) = match db.registry.open(&open).await? {
            OpenOutcome::Opened(opened) => *opened,
            OpenOutcome::Unchanged | OpenOutcome::OtherBackend(_) => continue,
            OpenOutcome::Missing => return Err(no_engine()),
        };
        let finish = Finish {
            operation: operation.id,
            claim: operation.claim,
            succeeded: true,
            error: None,
            params: None,
            timings: std::collections::BTreeMap::new(),
            engine_id: engine.id,
            revision: engine.revision,
            patch: EnginePatch::default(),
            delete_engine: true,
            count_provision: false,
            count_destroy: true,
            audit: vec![forgotten(&found, &operation)],
        };
        return match db.registry.finish(&finish).await? {
            Outcome::Changed(_) => Ok(engine.id),
            Outcome::Unchanged => Err(unsettled()),
            Outcome::Missing => Err(no_engine()),
        };
    }
    Err(unsettled())
}

fn forgotten(found: &Found, operation: &Operation) -> AuditEntry {
    let engine = &found.engine;
    AuditEntry {
        started_at: Some(operation.started_at),
        product_id: Some(engine.product_id),
        user_id: Some(engine.user_id.clone()),
        engine_id: Some(engine.id),
        action: AuditAction::Destroy,
        actor: ACTOR.to_owned(),
        metadata: json!({
            "from": engine.status, "operation_id": operation.id, "engine_version": engine.engine_version,
            "age_s": age(engine.created_at, found.now), "forgotten": true,
        }),
        has_duration: true,
    }
}

fn age(since: Timestamp, now: Timestamp) -> u64 {
    crate::core::between(since, now).as_secs()
}

/// Replaces a key that cannot be decrypted, and makes the object anew so that the engine has the new one; the
/// answer is the key.
///
/// An object keeps the key hash it was made with, and that one wins over what the engine has stored. So a serving
/// engine is stopped, and every start under a raised generation makes a new object. An engine that is stopped takes
/// the key at its next start.
pub async fn reissue_key(db: &Database, reference: &str) -> Result<Secret, Stop> {
    let sealer = db.keys()?;
    let (product, found) = db.engine(reference).await?;
    check_backend(db, &found)?;
    let user = found.engine.user_id.clone();
    if found.engine.status == Status::Destroying || found.operation.is_some() {
        return Err(refusal(FleetCode::EngineBusy, &found));
    }
    let was_down = found.engine.desired == Desired::Stopped;
    let (key, _) = keys::new_engine_key();
    let sealed = sealed(&sealer, &key);
    let audit = AuditEntry {
        started_at: None,
        product_id: Some(product.id),
        user_id: Some(user.clone()),
        engine_id: Some(found.engine.id),
        action: AuditAction::RotateKey,
        actor: ACTOR.to_owned(),
        metadata: json!({"overlap_s": 0, "reissued": true}),
        has_duration: false,
    };
    match db.registry.replace_key(found.engine.id, found.engine.revision, &sealed, None, &[audit]).await? {
        Outcome::Changed(_) => {}
        Outcome::Unchanged => return Err(unsettled()),
        Outcome::Missing => return Err(no_engine()),
    }
    if found.engine.status == Status::Running {
        stop(db, reference).await?;
    }
    raise_generation(db, &product, &user).await?;
    if !was_down {
        start(db, reference).await?;
    }
    Ok(key)
}

/// Makes the present object one of an older generation, so that the next start replaces it.
async fn raise_generation(db: &Database, product: &Product, user: &UserId) -> Result<(), Stop> {
    for _ in 0..ROUNDS_MAX {
        let found = db.registry.find(product.id, user).await?.ok_or_else(no_engine)?;
        let change = Change {
            engine_id: found.engine.id,
            revision: found.engine.revision,
            only_without_operation: true,
            patch: EnginePatch { generation: Some(found.engine.generation + 1), ..EnginePatch::default() },
            audit: Vec::new(),
        };
        match db.registry.change(&change).await? {
            Outcome::Changed(_) => return Ok(()),
            Outcome::Unchanged => tokio::time::sleep(LOST_LOOK).await,
            Outcome::Missing => return Err(no_engine()),
        }
    }
    Err(unsettled())
}
