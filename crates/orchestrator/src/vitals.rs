//! What probes add up to, between the registry's row and the rules.

use crate::registry::rows::Vitals;
use fleet::health::{self, Activity};

fn count(n: i32) -> u32 {
    u32::try_from(n).unwrap_or(0)
}

fn stored(n: u32) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// The activity a row remembers; absent when the last healthy answer had none.
pub(crate) fn activity(row: &Vitals) -> Option<Activity> {
    let turns = row.in_flight_turns?;
    Some(Activity {
        in_flight_turns: u64::try_from(turns).unwrap_or(0),
        open_streams: row.open_streams.map_or(0, |n| u64::try_from(n).unwrap_or(0)),
        last_activity_at: row.last_activity_at,
        next_scheduled_at: row.next_scheduled_at,
    })
}

/// The row as the rules see it.
pub(crate) fn of_row(row: &Vitals) -> health::Vitals {
    health::Vitals {
        last_health_at: row.last_health_at,
        last_probe_at: row.last_probe_at,
        health_failures: count(row.health_failures),
        healthy_streak: count(row.healthy_streak),
        healthy_since: row.healthy_since,
        degraded: row.degraded,
        subsystems: row.subsystems.clone(),
        reported_version: row.reported_version.clone(),
        schema_version: row.schema_version.map(i64::from),
        activity: activity(row),
        backend_restarts: count(row.backend_restarts),
    }
}

/// The rules' counters as a row.
pub(crate) fn to_row(vitals: &health::Vitals) -> Vitals {
    let number = |n: u64| i32::try_from(n).unwrap_or(i32::MAX);
    Vitals {
        last_health_at: vitals.last_health_at,
        last_probe_at: vitals.last_probe_at,
        health_failures: stored(vitals.health_failures),
        healthy_streak: stored(vitals.healthy_streak),
        healthy_since: vitals.healthy_since,
        degraded: vitals.degraded,
        subsystems: vitals.subsystems.clone(),
        reported_version: vitals.reported_version.clone(),
        schema_version: vitals.schema_version.and_then(|v| i32::try_from(v).ok()),
        in_flight_turns: vitals.activity.map(|a| number(a.in_flight_turns)),
        open_streams: vitals.activity.map(|a| number(a.open_streams)),
        last_activity_at: vitals.activity.and_then(|a| a.last_activity_at),
        next_scheduled_at: vitals.activity.and_then(|a| a.next_scheduled_at),
        backend_restarts: stored(vitals.backend_restarts),
    }
}
