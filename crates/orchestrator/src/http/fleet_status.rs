//! GET /status and GET /metrics: a product's fleet in a few numbers.

use super::answer::Answer;
use super::app::App;
use super::auth::Of;
use axum::Json;
use axum::extract::State;
use contract::fleet_api::{FleetHealth, MetricsResponse, StatusCounts, StatusResponse};
use fleet::lifecycle::Status;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Failed engines below which a fleet is never critical: one of two is a person's bad day, not the fleet's.
const CRITICAL_FAILED_MIN: i64 = 2;
/// Part of the fleet from which on it is critical: one in so many.
const CRITICAL_ONE_IN: i64 = 4;

/// 12: the fleet now.
pub async fn status(State(app): State<Arc<App>>, Of(caller): Of) -> Answer<StatusResponse> {
    let core = app.core()?;
    let counts = core.registry.status_counts(Some(caller.product.id)).await?;
    let degraded = core.registry.degraded_count(Some(caller.product.id)).await?;
    Ok(Json(snapshot(&counts, degraded)))
}

/// 13: the last hour.
pub async fn metrics(State(app): State<Arc<App>>, Of(caller): Of) -> Answer<MetricsResponse> {
    let found = app.core()?.registry.metrics(caller.product.id).await?;
    Ok(Json(MetricsResponse {
        provisions_1h: found.provisions_1h,
        crashes_1h: found.crashes_1h,
        restarts_1h: found.restarts_1h,
        avg_boot_ms: found.avg_boot_ms,
        total_provisions: found.total_provisions,
        total_destroys: found.total_destroys,
    }))
}

fn snapshot(counts: &BTreeMap<Status, i64>, degraded_count: i64) -> StatusResponse {
    let of = |status: Status| counts.get(&status).copied().unwrap_or(0);
    let by_status = StatusCounts {
        provisioning: of(Status::Provisioning),
        running: of(Status::Running),
        sleeping: of(Status::Sleeping),
        stopped: of(Status::Stopped),
        failed: of(Status::Failed),
        destroying: of(Status::Destroying),
    };
    let total = counts.values().sum();
    StatusResponse {
        total,
        by_status,
        health: health(total, by_status.failed),
        unhealthy_count: by_status.failed,
        degraded_count,
    }
}

pub(crate) fn health(total: i64, failed: i64) -> FleetHealth {
    match failed {
        0 => FleetHealth::Ok,
        n if n >= CRITICAL_FAILED_MIN && n * CRITICAL_ONE_IN >= total => FleetHealth::Critical,
        _ => FleetHealth::Degraded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_is_critical_from_a_quarter_and_two_failed_on() {
        use FleetHealth::{Critical, Degraded, Ok};
        for (total, failed, wanted) in [
            (0, 0, Ok),
            (9, 0, Ok),
            (1, 1, Degraded),
            (8, 2, Critical),
            (9, 2, Degraded),
            (2, 2, Critical),
            (247, 2, Degraded),
        ] {
            assert_eq!(health(total, failed), wanted, "{failed} of {total}");
        }
    }

    #[test]
    fn the_total_is_the_sum_over_all_six_states() {
        let counts = Status::ALL.iter().zip(1..).map(|(s, n)| (*s, n)).collect();
        let answer = snapshot(&counts, 3);
        assert_eq!((answer.total, answer.unhealthy_count, answer.degraded_count), (21, 5, 3));
    }
}
