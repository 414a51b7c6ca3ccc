//! `admit`: the call before every user request, and what it answers.
//!
//! The steady path is one statement; everything else joins or opens an operation and comes back to it, so that the
//! lease is always taken in the row. No lease is ever invented.

use super::provision::Reserved;
use super::*;

/// Boots whose mean is added to the time of the next restart (§3.4). More would remember an older image.
const BOOTS_AVERAGED: i64 = 20;

/// How long an admit that memory could answer waits for the database. Longer makes users wait for a database that
/// froze; shorter answers from memory where the row would have come.
const SLOW_DATABASE: Duration = Duration::from_secs(1);

impl Core {
    /// Endpoint 3: the call before every user request. Authenticates in the statement that reads the engine.
    pub async fn admit(
        self: &Arc<Self>,
        platform_key: &str,
        user: &UserId,
        wish: AdmitRequest,
        request_id: &RequestId,
    ) -> Result<Held<AdmitResponse>, FleetError> {
        let hash = keys::hash_hex(platform_key);
        let began = Instant::now();
        let mut kind = AdmitKind::Plain;
        let mut timings = BTreeMap::new();
        for round in 0..ROUNDS_MAX {
            let (product, found) = match self.read_or_remember(&hash, user).await {
                Ok(Some(read)) => read,
                Ok(None) => {
                    return Err(FleetError::new(
                        FleetCode::InvalidPlatformKey,
                        "X-Platform-Key is absent or matches no product",
                    ));
                }
                Err(error) if error.is_unavailable() => return self.remembered(&hash, user, error.into()),
                Err(error) => return Err(error.into()),
            };
            let policy = parse_policy(&product)?;
            if round == 0
                && let Err(seconds) = self.rates.check(product.id, policy.rate_limit_rpm, Timestamp::now())
            {
                crate::telemetry::rate_limited(product.slug.as_str());
                self.denials.note(&product, user, FleetCode::RateLimited.as_str());
                return Err(rate_limited(seconds));
            }
            let request = Request::Admit { auto_provision: wish.auto_provision, auto_wake: wish.auto_wake };
            let caller = || Caller {
                product: product.clone(),
                policy: policy.clone(),
                request_id: request_id.clone(),
            };
            let slug = product.slug.as_str();
            let meeting = meet(request, found.as_ref().map(standing));
            let _place = self.place_for(&meeting).inspect_err(|e| {
                crate::telemetry::admitted(slug, e.code.as_str());
            })?;
            let operation = match (meeting, &found) {
                (Meeting::Answer(Answer::Admitted), Some(found)) => {
                    match self.grant(&hash, &product, found).await {
                        Ok(Some(answer)) => {
                            crate::telemetry::admitted(slug, kind.result());
                            crate::telemetry::admit_waited(kind.word(), began.elapsed());
                            return Ok(Held { answer, timings });
                        }
                        Ok(None) => continue,
                        // The lease cannot be renewed; what is left of it may be enough.
                        Err(error) if error.code == FleetCode::DatabaseUnavailable => {
                            return self.remembered(&hash, user, error);
                        }
                        Err(error) => return Err(error),
                    }
                }
                (Meeting::NotAdmitted(reason), found) => {
                    self.memory.forget(&hash, user);
                    return Ok(Held::at_once(
                        self.not_admitted(&product, user, reason, found.as_ref()).await?,
                    ));
                }
                (Meeting::Open(OperationKind::Provision), None) => {
                    match self.reserve(&caller(), user, None, None, "admit").await.inspect_err(|e| {
                        crate::telemetry::admitted(slug, e.code.as_str());
                    })? {
                        Reserved::New(id) => {
                            kind = AdmitKind::Provision;
                            id
                        }
                        Reserved::Replayed(_) | Reserved::Exists => continue,
                    }
                }
                (Meeting::Open(to_open), Some(found)) => {
                    let open = self.opening(
                        found,
                        to_open,
                        false,
                        json!({"reason": "admit"}),
                        slug,
                        Some(request_id),
                    );
                    match self.begin(open).await? {
                        Some(opened) => {
                            kind = AdmitKind::Wake;
                            opened.1.id
                        }
                        None => continue,
                    }
                }
                (Meeting::Supersede(to_open), Some(found)) => {
                    let open = self.opening(
                        found,
                        to_open,
                        true,
                        json!({"reason": "admit"}),
                        slug,
                        Some(request_id),
                    );
                    match self.begin(open).await? {
                        Some(opened) => {
                            kind = AdmitKind::Wake;
                            opened.1.id
                        }
                        None => continue,
                    }
                }
                (Meeting::Join | Meeting::JoinClearingCounters, Some(found)) => {
                    if kind == AdmitKind::Plain {
                        kind = AdmitKind::Join;
                    }
                    match self.joined(found).await {
                        Some(id) => id,
                        None => continue,
                    }
                }
                (Meeting::Refuse(code), Some(found)) => return Err(refusal(code, found)),
                _ => continue,
            };
            match self.wait(operation).await {
                Ok(Ended::Well(operation)) => timings.clone_from(&operation.timings),
                Ok(Ended::Superseded) => {}
                Ok(Ended::Badly(error)) | Err(error) => {
                    crate::telemetry::admitted(slug, error.code.as_str());
                    return Err(error);
                }
            }
        }
        Err(unsettled())
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

    fn remembered(
        &self,
        hash: &str,
        user: &UserId,
        error: FleetError,
    ) -> Result<Held<AdmitResponse>, FleetError> {
        let Some((product, found, _)) = self.memory.recall(hash, user) else {
            return Err(error);
        };
        let policy = parse_policy(&product)?;
        self.rates.check(product.id, policy.rate_limit_rpm, Timestamp::now()).map_err(rate_limited)?;
        let until = found.engine.admit_lease_until.ok_or(error)?;
        Ok(Held::at_once(AdmitResponse::admitted(self.record(&found, true)?, until)))
    }

    async fn not_admitted(
        &self,
        product: &Product,
        user: &UserId,
        reason: Reason,
        found: Option<&Found>,
    ) -> Result<AdmitResponse, FleetError> {
        crate::telemetry::admitted(product.slug.as_str(), reason.as_str());
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
