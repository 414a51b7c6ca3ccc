//! What every replica does: claims, renewals, listening, the lease, the pulse, batches.

use super::{every, never, tenure};
use crate::core::Core;
use crate::registry::notify::Notice;
use crate::registry::{Reach, RegistryError};
use crate::watched::Trust;
use crate::{telemetry, work};
use backends::BackendError;
use contract::{FleetError, Timestamp};
use fleet::operation::OperationStatus;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Period of the claims loop (§12.2); a notification wakes it earlier.
const CLAIMS: Duration = Duration::from_secs(5);
/// Operations this replica works on at once; the rest waits for other replicas or for an end. More is memory and
/// tasks; fewer lets waiting operations hold up others.
const CLAIMED_MAX: usize = 1024;
/// Period of the looks at database and backend for /health (§3.4 endpoint 21: at most 1 s old), each in a loop of its
/// own. Longer shows what is past; shorter is load on a daemon that is slow already.
const PULSE: Duration = Duration::from_secs(1);
/// Looks in a row to which the backend may be too slow before its calls are refused unasked. More trusts a hung daemon
/// for longer; fewer refuses every start under way because one answer was late.
const SLOW_PINGS_MAX: u32 = 2;
/// Vitals are written at most this old (§12.2).
const VITALS: Duration = Duration::from_secs(5);
/// Longest writing of vitals before the lease goes. Longer leaves the fleet without a supervisor; shorter loses what
/// the last probes saw when the database is slow.
const LAST_VITALS: Duration = Duration::from_secs(2);
/// Rows per statement (§11.2).
const VITALS_ROWS_MAX: usize = 1000;
/// Refusals are written once a minute (§9.2).
const DENIALS: Duration = Duration::from_secs(60);
/// How much earlier than the database we stop believing in the lease (§11.4).
const DISTRUST: Duration = Duration::from_secs(1);

/// Starts the loops; they end with `over`.
pub(crate) fn start(core: &Arc<Core>, trust: Trust, over: &CancellationToken) -> TaskTracker {
    let loops = TaskTracker::new();
    loops.spawn(claims(Arc::clone(core), over.clone()));
    loops.spawn(renew(Arc::clone(core), over.clone()));
    loops.spawn(listen(Arc::clone(core), over.clone()));
    loops.spawn(lease(Arc::clone(core), over.clone()));
    loops.spawn(pulse(Arc::clone(core), over.clone()));
    loops.spawn(ping(Arc::clone(core), trust, over.clone()));
    loops.spawn(vitals(Arc::clone(core), over.clone()));
    loops.spawn(denials(Arc::clone(core), over.clone()));
    loops.close();
    loops
}

/// Starts what a read-only replica needs: it looks, and changes nothing.
pub(crate) fn start_reading(core: &Arc<Core>, trust: Trust, over: &CancellationToken) -> TaskTracker {
    let loops = TaskTracker::new();
    loops.spawn(pulse(Arc::clone(core), over.clone()));
    loops.spawn(ping(Arc::clone(core), trust, over.clone()));
    loops.close();
    loops
}

/// Claims operations that nobody works on.
async fn claims(core: Arc<Core>, over: CancellationToken) {
    every("claims", CLAIMS, over, || async { core.nudge.claims.notified().await }, || async {
        let reach = match core.pulse.backend_ok() {
            true => Reach::Backend(core.backend.kind()),
            false => Reach::WithoutBackend(core.backend.kind()),
        };
        while core.claims.count() < CLAIMED_MAX {
            let sent = Instant::now();
            let Some((operation, _)) = core.registry.claim_next(core.replica, reach, core.config.operation_lease_s).await? else {
                break;
            };
            tracing::info!(operation_id = %operation.id, engine_id = %operation.engine_id, kind = operation.kind.as_str(),
                step = operation.step.as_str(), attempt = operation.attempt, "taking up an operation");
            work::spawn(&core, operation, sent);
        }
        take_up_own(&core, reach).await
    })
    .await;
}

/// Operations this replica opened or claimed and lost sight of while the database was away.
async fn take_up_own(core: &Arc<Core>, reach: Reach) -> Result<(), RegistryError> {
    let held: Vec<_> = core.claims.held().into_iter().map(|(id, _)| id).collect();
    for _ in 0..CLAIMED_MAX {
        let sent = Instant::now();
        let mine = core.registry.claim_own(core.replica, &held, reach, core.config.operation_lease_s).await?;
        let Some(operation) = mine else { break };
        work::spawn(core, operation, sent);
    }
    Ok(())
}

/// Renews what this replica works on, in one statement.
async fn renew(core: Arc<Core>, over: CancellationToken) {
    let lease = core.config.operation_lease_s;
    every("renew", lease / 3, over, never, || async {
        let held = core.claims.held();
        if held.is_empty() {
            return Ok(());
        }
        let sent = Instant::now();
        let kept = core.registry.renew(core.replica, &held, lease).await?;
        core.claims.renewed(sent, &held, &kept);
        Ok::<(), RegistryError>(())
    })
    .await;
}

/// Follows what other replicas did.
async fn listen(core: Arc<Core>, over: CancellationToken) {
    let mut notices = core.registry.listen();
    loop {
        let notice = tokio::select! {
            notice = notices.recv() => notice,
            () = over.cancelled() => return,
        };
        match notice {
            Some(Notice::Operation { id, engine, status }) => {
                if status == OperationStatus::Superseded {
                    core.claims.lose(id);
                }
                core.hub.poke(id);
                if core.pulse.is_supervisor() {
                    core.nudge.look_at(engine);
                }
            }
            Some(Notice::Engine { id, .. }) => {
                if core.pulse.is_supervisor() {
                    core.nudge.look_at(id);
                }
            }
            Some(Notice::Product { .. }) => core.nudge.reconcile.notify_one(),
            Some(Notice::Lease) => core.nudge.lease.notify_one(),
            Some(Notice::Queue) => core.nudge.claims.notify_one(),
            Some(Notice::Reconnected) => {
                core.hub.poke_all();
                core.nudge.claims.notify_one();
                core.nudge.reconcile.notify_one();
                // The lease may have been given back while nobody listened.
                core.nudge.lease.notify_one();
            }
            None => {
                tokio::time::sleep(PULSE).await;
                notices = core.registry.listen();
            }
        }
    }
}

/// Takes and keeps the supervisor lease; supervises while it holds.
async fn lease(core: Arc<Core>, over: CancellationToken) {
    let ttl = core.config.lease_ttl_s;
    let period = ttl / 3;
    let mut tenure_now: Option<(CancellationToken, tokio::task::JoinHandle<()>)> = None;
    let mut believed_until = Instant::now();
    loop {
        // Renewing dies with what it is for: a tenure that broke off gives the lease to somebody else.
        if tenure_now.as_ref().is_some_and(|(_, handle)| handle.is_finished()) {
            end(&core, &mut tenure_now, Some(believed_until + DISTRUST)).await;
            give_back(&core).await;
            tokio::select! {
                () = tokio::time::sleep(ttl) => {}
                () = over.cancelled() => return,
            }
        }
        let sent = Instant::now();
        let patience = match &tenure_now {
            // Not past the moment up to which the lease is believed in.
            Some(_) => period.min(believed_until.saturating_duration_since(sent)),
            None => period,
        };
        let attempt =
            tokio::time::timeout(patience, core.registry.try_lease(core.replica, &core.replica_name, ttl))
                .await;
        match attempt {
            Ok(Ok(Some(epoch))) => {
                believed_until = sent + ttl.saturating_sub(DISTRUST);
                core.pulse.believe_until(believed_until);
                core.pulse.saw_supervisor();
                core.pulse.set_supervisor(Some(epoch));
                if tenure_now.is_none() {
                    telemetry::supervisor_gained(epoch);
                    let stop = over.child_token();
                    let handle = tokio::spawn(tenure(Arc::clone(&core), stop.clone()));
                    tenure_now = Some((stop, handle));
                }
            }
            Ok(Ok(None)) => {
                core.pulse.saw_supervisor();
                end(&core, &mut tenure_now, None).await;
            }
            Ok(Err(_)) | Err(_) => {}
        }
        if Instant::now() >= believed_until {
            end(&core, &mut tenure_now, Some(believed_until + DISTRUST)).await;
        }
        // Wakes in time to stop acting when renewals fail.
        let pause = if tenure_now.is_some() {
            period
                .min(believed_until.saturating_duration_since(Instant::now()).max(Duration::from_millis(10)))
        } else {
            period
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = core.nudge.lease.notified() => {}
            () = over.cancelled() => break,
        }
    }
    let held = tenure_now.is_some();
    end(&core, &mut tenure_now, Some(believed_until + DISTRUST)).await;
    if held {
        give_back(&core).await;
    }
}

async fn give_back(core: &Core) {
    if let Err(error) = core.registry.release_lease(core.replica).await {
        tracing::debug!(%error, "cannot give the supervisor lease back; it ends by itself");
    }
}

/// Ends the tenure. Vitals go to the row before a successor reads it (`ours`: until when the lease is certainly this
/// replica's; `None`: it is another's already), and what is not written by then is dropped: later it would overwrite
/// what the successor saw.
async fn end(
    core: &Core,
    tenure_now: &mut Option<(CancellationToken, tokio::task::JoinHandle<()>)>,
    ours: Option<Instant>,
) {
    if let Some((stop, handle)) = tenure_now.take() {
        core.pulse.set_supervisor(None);
        stop.cancel();
        if let Err(error) = handle.await {
            tracing::error!(%error, "a supervisor loop broke off");
        }
        let left = ours.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
        if !left.is_zero() {
            let written = tokio::time::timeout(left.min(LAST_VITALS), flush_vitals(core)).await;
            if !matches!(written, Ok(Ok(()))) {
                tracing::warn!("the last vitals of this supervisor are lost");
            }
        }
        core.vitals.lock().unwrap_or_else(PoisonError::into_inner).clear();
        telemetry::supervisor_lost();
    }
}

/// Looks at the database, and shows what this replica is doing. Nothing here waits for the backend or for requests.
async fn pulse(core: Arc<Core>, over: CancellationToken) {
    every("pulse", PULSE, over, never, || async {
        let up = match tokio::time::timeout(PULSE, core.registry.pulse()).await {
            Ok(Ok(now)) => {
                core.clock.set(now);
                true
            }
            Ok(Err(_)) | Err(_) => false,
        };
        if core.pulse.set_database(up) {
            if up {
                tracing::info!("the database answers again");
                core.nudge.claims.notify_one();
            } else {
                tracing::warn!("the database cannot be reached");
            }
        }
        // A replica that changes nothing never tries the lease; it looks whether somebody holds it.
        if up
            && core.config.read_only
            && let Ok(Ok(Some((_, until)))) = tokio::time::timeout(PULSE, core.registry.lease_holder()).await
            && until > core.clock.now()
        {
            core.pulse.saw_supervisor();
        }
        tell_health(&core);
        let (in_use, size) = core.registry.pool_gauges();
        telemetry::pool(in_use, size);
        let places = core.config.admit_waiters_max;
        telemetry::waiters(places.saturating_sub(core.waiters.available_permits()));
        core.gate.tick();
        let (permits, depths) = core.gate.gauges();
        telemetry::start_permits(permits);
        for (class, depth) in depths {
            telemetry::start_queue(class.as_str(), depth);
        }
        Ok::<(), RegistryError>(())
    })
    .await;
}

fn tell_health(core: &Core) {
    let (database, backend) = (core.pulse.database_ok(), core.pulse.backend_ok());
    let ok = database && backend && core.pulse.supervisor_ok();
    telemetry::health(ok, database, core.backend.kind(), backend);
}

/// Looks whether the backend answers, and whether it is the one the engines are on.
async fn ping(core: Arc<Core>, trust: Trust, over: CancellationToken) {
    let identity = Mutex::new(core.instance.backend_identity.clone());
    let slow = AtomicU32::new(0);
    every("ping", PULSE, over, never, || async {
        let known = identity.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let answer = core.backend.ping().await;
        let backend = match answer {
            Ok(found) => {
                slow.store(0, Ordering::Relaxed);
                core.host_cpus.store(found.cpus.unwrap_or(0), Ordering::Relaxed);
                let known_one = confirm(&core, &identity, known, &found.id).await;
                trust.set(known_one);
                known_one
            }
            // A daemon under load is slow before it is gone: nothing new is opened, but calls under way go on.
            Err(BackendError::TimedOut { .. }) if slow.fetch_add(1, Ordering::Relaxed) < SLOW_PINGS_MAX => {
                false
            }
            Err(_) => {
                trust.set(false);
                false
            }
        };
        if core.pulse.set_backend(backend) {
            if backend {
                tracing::info!(backend = core.backend.kind().as_str(), "the backend answers");
                core.nudge.claims.notify_one();
                core.nudge.reconcile.notify_one();
            } else {
                tracing::warn!(
                    backend = core.backend.kind().as_str(),
                    "the backend cannot be reached, or is not the one it was"
                );
            }
            tell_health(&core);
        }
        Ok::<(), RegistryError>(())
    })
    .await;
}

/// Is this the backend the engines are on? The first one that answers is remembered.
async fn confirm(core: &Core, identity: &Mutex<Option<String>>, known: Option<String>, found: &str) -> bool {
    if known.as_deref() == Some(found) {
        return true;
    }
    // Somebody may have confirmed another one in between (`engines adopt-backend`, another replica).
    let Ok(instance) = core.registry.instance().await else { return false };
    match instance.backend_identity {
        Some(stored) if stored == found => {}
        Some(stored) => {
            if known.as_deref() != Some(stored.as_str()) {
                *identity.lock().unwrap_or_else(PoisonError::into_inner) = Some(stored.clone());
            }
            tracing::error!(expected = %stored, %found, "another backend answers than the one the engines are on; if that is right, run `bap-engine engines adopt-backend`");
            return false;
        }
        None if core.config.read_only => return true,
        None => match core.registry.set_backend_identity(None, found).await {
            Ok(true) => {}
            Ok(false) | Err(_) => return false,
        },
    }
    *identity.lock().unwrap_or_else(PoisonError::into_inner) = Some(found.to_owned());
    true
}

/// Writes remembered vitals in batches.
async fn vitals(core: Arc<Core>, over: CancellationToken) {
    every("vitals", VITALS, over, never, || async { flush_vitals(&core).await }).await;
}

/// Writes what is remembered; what cannot be written is kept unless something newer has come.
pub(crate) async fn flush_vitals(core: &Core) -> Result<(), RegistryError> {
    let pending = std::mem::take(&mut *core.vitals.lock().unwrap_or_else(PoisonError::into_inner));
    let rows: Vec<_> = pending.into_iter().collect();
    for (at, batch) in rows.chunks(VITALS_ROWS_MAX).enumerate() {
        if let Err(error) = core.registry.flush_vitals(batch).await {
            let mut memory = core.vitals.lock().unwrap_or_else(PoisonError::into_inner);
            for (id, row) in rows.iter().skip(at * VITALS_ROWS_MAX) {
                memory.entry(*id).or_insert_with(|| row.clone());
            }
            return Err(error);
        }
    }
    Ok(())
}

async fn denials(core: Arc<Core>, over: CancellationToken) {
    every("denials", DENIALS, over, never, || async { flush_denials(&core).await }).await;
}

/// Writes coalesced refusals.
pub(crate) async fn flush_denials(core: &Core) -> Result<(), FleetError> {
    let rows = core.denials.take();
    if rows.is_empty() {
        return Ok(());
    }
    if let Err(error) = core.registry.append(&rows).await {
        core.denials.put_back(rows);
        return Err(error.into());
    }
    Ok(())
}

/// The database's clock, as last read: never ahead of it.
#[derive(Debug)]
pub struct DatabaseClock(Mutex<(Instant, Timestamp)>);

impl DatabaseClock {
    /// A clock that was just read.
    pub fn new(now: Timestamp) -> Self {
        Self(Mutex::new((Instant::now(), now)))
    }

    /// Takes over a reading that has just arrived.
    pub fn set(&self, now: Timestamp) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (Instant::now(), now);
    }

    /// About now.
    pub fn now(&self) -> Timestamp {
        let (at, reading) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reading.plus_millis(crate::core::millis(at.elapsed()))
    }
}
