//! `admit`: the call before every user request, and what it answers.
//!
//! The steady path is one statement; everything else joins or opens an operation and comes back to it, so that the
//! lease is always taken in the row. No lease is ever invented. Every call that is answered is counted once, by what
//! it was answered, and charged to the rate limit at most once, whatever ways it takes.

use super::provision::Reserved;
use super::refusals::{refusal, unsettled};
use super::{Caller, Ended, Held, ROUNDS_MAX, parse_policy, standing};
use crate::core::{Core, between};
use crate::keys;
use crate::registry::RegistryError;
use crate::registry::rows::{Found, Product};
use contract::fleet_api::{AdmitRefusal, AdmitRequest, AdmitResponse};
use contract::{FleetCode, FleetError, OperationId, RequestId, Slug, Timestamp, UserId};
use fleet::operation::OperationKind;
use fleet::policy::Policy;
use fleet::request::{Answer, Meeting, Reason, Request, meet};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Boots whose mean is added to the time of the next restart (§3.4). More would remember an older image.
const BOOTS_AVERAGED: i64 = 20;

/// How long an admit that memory could answer waits for the database. Longer makes users wait for a database that
/// froze; shorter answers from memory where the row would have come.
const SLOW_DATABASE: Duration = Duration::from_secs(1);

/// One call on its way to its answer.
struct Call<'a> {
    hash: String,
    user: &'a UserId,
    wish: AdmitRequest,
    request_id: &'a RequestId,
    /// What it had to wait for.
    kind: AdmitKind,
    timings: BTreeMap<String, u64>,
    /// Whose call it is, once that is known.
    slug: Option<Slug>,
    /// It has been asked of the rate limit.
    charged: bool,
}

impl Core {
    /// Endpoint 3: the call before every user request. Authenticates in the statement that reads the engine.
    pub async fn admit(
        self: &Arc<Self>,
        platform_key: &str,
        user: &UserId,
        wish: AdmitRequest,
        request_id: &RequestId,
    ) -> Result<Held<AdmitResponse>, FleetError> {
        let began = Instant::now();
        let mut call = Call {
            hash: keys::hash_hex(platform_key),
            user,
            wish,
            request_id,
            kind: AdmitKind::Plain,
            timings: BTreeMap::new(),
            slug: None,
            charged: false,
        };
        let outcome = self.answer(&mut call).await;
        if let Some(slug) = &call.slug {
            crate::telemetry::admitted(slug.as_str(), result(&outcome, call.kind));
        }
        if let Ok(AdmitResponse::Admitted { .. }) = &outcome {
            crate::telemetry::admit_waited(call.kind.word(), began.elapsed());
        }
        Ok(Held { answer: outcome?, timings: call.timings })
    }

    async fn answer(self: &Arc<Self>, call: &mut Call<'_>) -> Result<AdmitResponse, FleetError> {
        let request =
            Request::Admit { auto_provision: call.wish.auto_provision, auto_wake: call.wish.auto_wake };
        for _ in 0..ROUNDS_MAX {
            let (product, found) = match self.read_or_remember(&call.hash, call.user).await {
                Ok(Some(read)) => read,
                Ok(None) => {
                    return Err(FleetError::new(
                        FleetCode::InvalidPlatformKey,
                        "X-Platform-Key is absent or matches no product",
                    ));
                }
                Err(error) if error.is_unavailable() => return self.remembered(call, error.into()),
                Err(error) => return Err(error.into()),
            };
            call.slug = Some(product.slug.clone());
            let policy = parse_policy(&product)?;
            self.charge(call, &product, &policy, Some(&product.policy))?;
            let meeting = meet(request, found.as_ref().map(standing));
            let _place = self.place_for(&meeting)?;
            let operation = match (meeting, &found) {
                (Meeting::Answer(Answer::Admitted), Some(found)) => {
                    match self.grant(&call.hash, &product, found).await {
                        Ok(Some(answer)) => return Ok(answer),
                        Ok(None) => continue,
                        // The lease cannot be renewed; what is left of it may be enough.
                        Err(error) if error.code == FleetCode::DatabaseUnavailable => {
                            return self.remembered(call, error);
                        }
                        Err(error) => return Err(error),
                    }
                }
                (Meeting::NotAdmitted(reason), found) => {
                    self.memory.forget(&call.hash, call.user);
                    return self.not_admitted(&product, call.user, reason, found.as_ref()).await;
                }
                (Meeting::Open(OperationKind::Provision), None) => {
                    let caller = Caller { product, policy, request_id: call.request_id.clone() };
                    match self.reserve(&caller, call.user, None, None, "admit").await? {
                        Reserved::New(id) => {
                            call.kind = AdmitKind::Provision;
                            id
                        }
                        Reserved::Replayed(_) | Reserved::Exists => continue,
                    }
                }
                (Meeting::Open(kind), Some(found)) => match self.wake(call, found, kind, false).await? {
                    Some(id) => id,
                    None => continue,
                },
                (Meeting::Supersede(kind), Some(found)) => match self.wake(call, found, kind, true).await? {
                    Some(id) => id,
                    None => continue,
                },
                (Meeting::Join | Meeting::JoinClearingCounters, Some(found)) => {
                    if call.kind == AdmitKind::Plain {
                        call.kind = AdmitKind::Join;
                    }
                    match self.joined(found).await {
                        Some(id) => id,
                        None => continue,
                    }
                }
                (Meeting::Refuse(code), Some(found)) => return Err(refusal(code, found)),
                _ => continue,
            };
            match self.wait(operation).await? {
                Ended::Well(operation) => call.timings.clone_from(&operation.timings),
                Ended::Superseded => {}
                Ended::Badly(error) => return Err(error),
            }
        }
        Err(unsettled())
    }

    /// Asks the rate limit, once per call; `document` is the policy if it was read just now.
    fn charge(
        &self,
        call: &mut Call<'_>,
        product: &Product,
        policy: &Policy,
        document: Option<&Value>,
    ) -> Result<(), FleetError> {
        if std::mem::replace(&mut call.charged, true) {
            return Ok(());
        }
        let asked = self.rates.check(product.id, policy.rate_limit_rpm, document, Timestamp::now());
        asked.map_err(|seconds| {
            crate::telemetry::rate_limited(product.slug.as_str());
            self.denials.note(product, call.user, FleetCode::RateLimited.as_str());
            rate_limited(seconds)
        })
    }

    /// Opens what makes the engine serve; `None` when its row changed meanwhile.
    async fn wake(
        self: &Arc<Self>,
        call: &mut Call<'_>,
        found: &Found,
        kind: OperationKind,
        supersede: bool,
    ) -> Result<Option<OperationId>, FleetError> {
        let actor = call.slug.as_ref().map(Slug::as_str).unwrap_or_default();
        let params = json!({"reason": "admit"});
        let open = self.opening(found, kind, supersede, params, actor, Some(call.request_id));
        let opened = self.begin(open).await?;
        if opened.is_some() {
            call.kind = AdmitKind::Wake;
        }
        Ok(opened.map(|opened| opened.1.id))
    }

    /// Product and engine as the row says. Where memory could answer, a database that is slow to speak is not waited
    /// for longer than [`SLOW_DATABASE`].
    async fn read_or_remember(
        &self,
        hash: &str,
        user: &UserId,
    ) -> Result<Option<(Product, Option<Found>)>, RegistryError> {
        let read = self.registry.admit_read(hash, user);
        if self.memory.recall(hash, user).is_none() {
            return read.await;
        }
        match tokio::time::timeout(SLOW_DATABASE, read).await {
            Ok(read) => read,
            Err(_) => Err(RegistryError::Unavailable("no answer in time".to_owned())),
        }
    }

    /// Admits a running engine: with the lease in the row if enough of it is left, else with a new one.
    async fn grant(
        &self,
        hash: &str,
        product: &Product,
        found: &Found,
    ) -> Result<Option<AdmitResponse>, FleetError> {
        let lease = self.config.admit_lease_s;
        let rest = found.engine.admit_lease_until.map_or(Duration::ZERO, |until| between(found.now, until));
        let until = match found.engine.admit_lease_until {
            Some(until) if rest >= lease / 2 => until,
            _ => match self.registry.take_lease(found.engine.id, lease).await? {
                Some(until) => until,
                None => return Ok(None),
            },
        };
        let engine = self.record(found, true)?;
        self.memory.remember(hash, product, &with_lease(found, until), between(found.now, until));
        Ok(Some(AdmitResponse::admitted(engine, until)))
    }

    /// The answer while the database is away: from what was read lately, if enough of that lease is left.
    fn remembered(&self, call: &mut Call<'_>, error: FleetError) -> Result<AdmitResponse, FleetError> {
        let Some((product, found, _)) = self.memory.recall(&call.hash, call.user) else {
            if call.slug.is_none() {
                call.slug = self.memory.slug_of(&call.hash);
            }
            return Err(error);
        };
        call.slug = Some(product.slug.clone());
        let policy = parse_policy(&product)?;
        self.charge(call, &product, &policy, None)?;
        let until = found.engine.admit_lease_until.ok_or(error)?;
        Ok(AdmitResponse::admitted(self.record(&found, true)?, until))
    }

    async fn not_admitted(
        &self,
        product: &Product,
        user: &UserId,
        reason: Reason,
        found: Option<&Found>,
    ) -> Result<AdmitResponse, FleetError> {
        self.denials.note(product, user, reason.as_str());
        let mut retry_after_ms = None;
        if reason == Reason::EngineUnhealthy
            && let Some(found) = found
            && let Some(due) = found.engine.next_restart_at
        {
            let boots = self.registry.last_boots(BOOTS_AVERAGED).await?;
            let mean = boots.iter().map(|ms| ms.unsigned_abs()).sum::<u64>() / (boots.len() as u64).max(1);
            retry_after_ms = self.restart_rules().retry_after_ms(Some(due), mean, found.now);
        }
        Ok(AdmitResponse::refused(refusal_word(reason), retry_after_ms))
    }
}

fn refusal_word(reason: Reason) -> AdmitRefusal {
    match reason {
        Reason::EngineNotFound => AdmitRefusal::EngineNotFound,
        Reason::EngineSleeping => AdmitRefusal::EngineSleeping,
        Reason::EngineStopped => AdmitRefusal::EngineStopped,
        Reason::EngineUnhealthy => AdmitRefusal::EngineUnhealthy,
        Reason::EngineDestroying => AdmitRefusal::EngineDestroying,
    }
}

/// The word an answer is counted under.
fn result(outcome: &Result<AdmitResponse, FleetError>, kind: AdmitKind) -> &'static str {
    match outcome {
        Ok(AdmitResponse::Admitted { .. }) => kind.result(),
        Ok(AdmitResponse::Refused { reason, .. }) => reason.as_str(),
        Err(error) => error.code.as_str(),
    }
}

fn rate_limited(seconds: u64) -> FleetError {
    fleet::policy::Denial::RateLimited(fleet::rate::RetryAfterSeconds(seconds)).error()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum AdmitKind {
    Plain,
    Provision,
    Wake,
    Join,
}

impl AdmitKind {
    fn result(self) -> &'static str {
        match self {
            AdmitKind::Plain => "admitted",
            AdmitKind::Provision => "provisioned",
            AdmitKind::Wake => "woken",
            AdmitKind::Join => "joined",
        }
    }

    fn word(self) -> &'static str {
        match self {
            AdmitKind::Plain => "none",
            AdmitKind::Provision => "provision",
            AdmitKind::Wake => "wake",
            AdmitKind::Join => "join",
        }
    }
}

fn with_lease(found: &Found, until: Timestamp) -> Found {
    let mut found = found.clone();
    found.engine.admit_lease_until = Some(until);
    found
}
