//! Housekeeping of the supervisor: gauges of the fleet, partitions, retention.

use super::{Supervisor, every, never};
use crate::registry::{Registry, RegistryError};
use crate::telemetry::{self, FleetGauges};
use contract::{EngineId, ProductId};
use fleet::lifecycle::Status;
use fleet::policy::Policy;
use fleet::spec::drift;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// Period of the gauges (§12.2).
const GAUGES: Duration = Duration::from_secs(60);
/// Rounds of the gauges per round of the rest: hourly.
const ROUNDS_PER_HOUR: u64 = 60;
/// Full sweeps of one hour. More keeps the database busy for long; fewer falls behind above 270 operations a second.
const SWEEPS_MAX: usize = 100;
/// Months of the audit log that exist ahead (§9.3).
const MONTHS_AHEAD: u32 = 2;

/// Engines whose specification is compared under one lock. More holds up probes; fewer locks more often.
const DRIFT_PIECE: usize = 200;

/// The loop.
pub(super) async fn run(supervisor: Arc<Supervisor>) {
    let round = AtomicU64::new(0);
    let hourly_at = AtomicU64::new(0);
    every("housekeeping", GAUGES, supervisor.over.clone(), never, || async {
        let n = round.fetch_add(1, Ordering::Relaxed);
        let mut parts = Parts::default();
        if n >= hourly_at.load(Ordering::Relaxed) {
            let core = &supervisor.core;
            parts.note("partitions", core.registry.ensure_partitions(MONTHS_AHEAD).await.map(drop));
            parts.note("sweep", sweep(&core.registry).await);
            parts.note("retention", retain(&core.registry, core.config.audit_retention_months).await);
            // What failed is tried again in the next round, not in the next hour.
            if parts.failed.is_none() {
                hourly_at.store(n + ROUNDS_PER_HOUR, Ordering::Relaxed);
            }
        }
        parts.note("deletions", finish_deletions(&supervisor).await);
        parts.note("gauges", gauges(&supervisor).await);
        parts.failed.map_or(Ok(()), Err)
    })
    .await;
}

/// The parts of one round: each fails on its own.
#[derive(Default)]
struct Parts {
    failed: Option<RegistryError>,
}

impl Parts {
    fn note(&mut self, part: &'static str, outcome: Result<(), RegistryError>) {
        if let Err(error) = outcome {
            tracing::warn!(part, %error, "a part of the housekeeping failed");
            self.failed = Some(error);
        }
    }
}

/// Removes what has outlived its use, sweep after sweep until one is not full.
async fn sweep(registry: &Registry) -> Result<(), RegistryError> {
    for _ in 0..SWEEPS_MAX {
        if !registry.housekeeping().await?.is_full() {
            return Ok(());
        }
    }
    tracing::warn!(sweeps = SWEEPS_MAX, "rows that outlived their use are left for the next hour");
    Ok(())
}

/// Drops the months of the log that were exported and are older than what is kept; 0 keeps all.
async fn retain(registry: &Registry, months: u32) -> Result<(), RegistryError> {
    if months == 0 {
        return Ok(());
    }
    let report = registry.prune(months, false).await?;
    if !report.dropped.is_empty() {
        tracing::info!(months = ?report.dropped, "dropped exported months of the audit log (ORCH_AUDIT_RETENTION_MONTHS)");
    }
    Ok(())
}

/// Products whose deletion was begun by a replica that is gone.
async fn finish_deletions(supervisor: &Supervisor) -> Result<(), RegistryError> {
    let mut begun = Vec::new();
    super::reconcile::each_product(supervisor, |product| {
        if product.deleting {
            begun.push(product.clone());
        }
    })
    .await?;
    for product in begun {
        if let Err(error) = supervisor.core.go_on_deleting(&product).await {
            tracing::warn!(product_id = %product.id, code = %error.code, "cannot go on with a deletion: {}", error.message);
        }
    }
    Ok(())
}

/// Marks the engines whose object differs from what would be made now.
async fn find_drift(supervisor: &Supervisor) -> Result<(), RegistryError> {
    let policies = policies(supervisor).await?;
    let ids: Vec<EngineId> = supervisor.view.lock().keys().copied().collect();
    // In pieces, so that nothing else waits for the view meanwhile.
    for piece in ids.chunks(DRIFT_PIECE) {
        mark_drift(supervisor, piece, &policies);
        tokio::task::yield_now().await;
    }
    Ok(())
}

fn mark_drift(supervisor: &Supervisor, piece: &[EngineId], policies: &HashMap<ProductId, Policy>) {
    let mut entries = supervisor.view.lock();
    for id in piece {
        let Some(entry) = entries.get_mut(id) else { continue };
        let engine = &entry.found.engine;
        entry.drifted = match (engine.spec_hash.as_deref(), policies.get(&engine.product_id)) {
            (Some(made_of), Some(policy)) => drift(made_of, &supervisor.core.spec(engine, policy).spec_hash),
            _ => false,
        };
    }
}

async fn policies(supervisor: &Supervisor) -> Result<HashMap<ProductId, Policy>, RegistryError> {
    let mut policies = HashMap::new();
    super::reconcile::each_product(supervisor, |product| {
        if let Ok(policy) = crate::discovery::parse_policy(product) {
            policies.insert(product.id, policy);
        }
    })
    .await?;
    Ok(policies)
}

async fn gauges(supervisor: &Supervisor) -> Result<(), RegistryError> {
    let registry = &supervisor.core.registry;
    find_drift(supervisor).await?;
    let mut fleet = FleetGauges::default();
    {
        let entries = supervisor.view.lock();
        for entry in entries.values() {
            let engine = &entry.found.engine;
            *fleet.by_status.entry((engine.status, entry.slug.to_string())).or_default() += 1;
            *fleet.by_version.entry((engine.engine_version.clone(), engine.status)).or_default() += 1;
            let running = engine.status == Status::Running;
            fleet.degraded += u64::from(running && entry.vitals.degraded);
            fleet.drifted += u64::from(entry.drifted);
            fleet.given_up += u64::from(
                engine.status == Status::Failed
                    && engine.next_restart_at.is_none()
                    && entry.found.operation.is_none(),
            );
        }
    }
    fleet.keys_unreadable = supervisor.core.keys_unreadable.load(Ordering::Relaxed);
    telemetry::fleet(&fleet);
    if let Some((min, max)) = supervisor.core.ports() {
        telemetry::ports(registry.ports_used().await?, i64::from(max) - i64::from(min) + 1);
    }
    let braked = {
        let interval = supervisor.core.config.health_check_interval_s;
        let brake = supervisor.brake.lock().unwrap_or_else(PoisonError::into_inner);
        brake.is_active(interval, supervisor.core.clock.now())
    };
    telemetry::failure_brake(braked);
    let sizes = registry.audit_sizes().await?;
    telemetry::audit_sizes(sizes.bytes, sizes.default_rows, sizes.unexported_partitions);
    let open = registry.open_counts().await?;
    telemetry::open_operations(&open, registry.oldest_open_seconds().await?);
    Ok(())
}
