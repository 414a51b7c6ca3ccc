//! Health, restarts and sleep of one engine as sentences: what a row of counters means now.
//!
//! Counters alone mislead: a start is confirmed by a healthy answer that no counter shows, and what was counted before it
//! is about another process. It refuses to show a time as past that is still to come. The invariant: a line is true of
//! the process that serves now.

use contract::Timestamp;
use fleet::health::Vitals;
use fleet::idle::Blocker;
use fleet::lifecycle::Status;
use std::time::Duration;

/// How probes found it.
pub(super) fn health(status: Status, since: Timestamp, vitals: &Vitals) -> String {
    // What answered before the present start or wake was another process, or one before its sleep.
    let fresh = vitals.last_probe_at.is_some_and(|at| at >= since);
    // Nothing is said when no probe has counted it: its start was healthy all the same.
    let last = |at: Option<Timestamp>| at.map_or(String::new(), |at| format!(", last healthy {at}"));
    match status {
        Status::Running if !fresh => format!("healthy at its start {since}, not probed since"),
        Status::Running if vitals.health_failures > 0 => {
            let healthy = vitals.last_health_at.map_or(since, |at| at.max(since));
            format!("{} failed in a row{}", probes(vitals.health_failures), last(Some(healthy)))
        }
        Status::Running => {
            format!("{} healthy in a row{}", probes(vitals.healthy_streak), last(vitals.last_health_at))
        }
        Status::Failed if vitals.health_failures > 0 => {
            format!("{} failed in a row{}", probes(vitals.health_failures), last(vitals.last_health_at))
        }
        Status::Provisioning | Status::Sleeping | Status::Stopped | Status::Failed | Status::Destroying => {
            format!("not probed while {status}{}", last(vitals.last_health_at))
        }
    }
}

fn probes(count: u32) -> String {
    match count {
        1 => "1 probe".to_owned(),
        count => format!("{count} probes"),
    }
}

/// How often it was restarted, and when it will be again.
pub(super) fn restarts(attempts: i32, most: u32, next: Option<Timestamp>) -> String {
    match next {
        Some(at) => format!("{attempts} of {most}, the next at {at}"),
        None => format!("{attempts} of {most}"),
    }
}

/// When it goes to sleep by itself, and what keeps it awake.
pub(super) fn sleep(
    idle_after: Option<Duration>,
    idle_since: Option<Timestamp>,
    lease_until: Option<Timestamp>,
    blocked: &[Blocker],
) -> String {
    let mut text = match idle_after {
        Some(span) => format!("after {} s idle", span.as_secs()),
        None => "never by itself (idle sleep is off)".to_owned(),
    };
    if blocked.contains(&Blocker::NotRunning) {
        return text;
    }
    if let Some(at) = idle_since {
        text.push_str(&format!("; idle since {at}"));
    }
    // Silence keeps awake what would sleep; it is no use of what never does.
    let silent = |blocker: Blocker| blocker == Blocker::NoActivityReport && idle_after.is_none();
    let reasons: Vec<String> = blocked
        .iter()
        .filter(|&&blocker| !silent(blocker))
        .filter_map(|&blocker| reason(blocker, lease_until))
        .collect();
    if !reasons.is_empty() {
        let lead = if idle_after.is_some() { "kept awake by" } else { "in use" };
        text.push_str(&format!("; {lead}: {}", reasons.join(", ")));
    }
    text
}

/// What keeps it awake, in words; nothing for what the line says anyhow.
fn reason(blocker: Blocker, lease_until: Option<Timestamp>) -> Option<String> {
    Some(match blocker {
        Blocker::NotRunning | Blocker::Disabled => return None,
        Blocker::Lease => match lease_until {
            Some(until) => format!("an admission until {until}"),
            None => "an admission".to_owned(),
        },
        Blocker::Operation => "an operation under way".to_owned(),
        Blocker::NoActivityReport => "no report of its activity yet".to_owned(),
        Blocker::InFlightTurns => "turns in flight".to_owned(),
        Blocker::OpenStreams => "open streams".to_owned(),
        Blocker::Scheduled => "planned work soon".to_owned(),
        Blocker::RecentlyActive => "recent use".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u32) -> Timestamp {
        Timestamp::parse(&format!("2026-04-27T10:00:{second:02}.000Z")).expect("is a time")
    }

    fn vitals(failures: u32, streak: u32, healthy: Option<u32>, probed: Option<u32>) -> Vitals {
        Vitals {
            health_failures: failures,
            healthy_streak: streak,
            last_health_at: healthy.map(at),
            last_probe_at: probed.map(at),
            ..Vitals::default()
        }
    }

    #[test]
    fn a_fresh_start_is_not_told_with_the_counters_of_the_process_before_it() {
        let told = health(Status::Running, at(30), &vitals(0, 0, Some(10), Some(20)));
        assert_eq!(told, "healthy at its start 2026-04-27T10:00:30.000Z, not probed since");
        assert_eq!(health(Status::Running, at(30), &vitals(0, 7, Some(10), Some(10))), told);
        assert_eq!(health(Status::Running, at(30), &vitals(0, 0, None, None)), told);
    }

    #[test]
    fn probes_of_the_process_that_serves_are_counted() {
        assert_eq!(
            health(Status::Running, at(1), &vitals(0, 1, Some(5), Some(5))),
            "1 probe healthy in a row, last healthy 2026-04-27T10:00:05.000Z"
        );
        assert_eq!(
            health(Status::Running, at(30), &vitals(2, 0, Some(10), Some(40))),
            "2 probes failed in a row, last healthy 2026-04-27T10:00:30.000Z",
            "it was healthy when it started"
        );
        assert_eq!(
            health(Status::Failed, at(50), &vitals(3, 0, Some(10), Some(50))),
            "3 probes failed in a row, last healthy 2026-04-27T10:00:10.000Z"
        );
        assert_eq!(health(Status::Stopped, at(50), &vitals(0, 0, None, None)), "not probed while stopped");
    }

    #[test]
    fn a_restart_that_is_not_planned_has_no_time() {
        assert_eq!(restarts(0, 8, None), "0 of 8");
        assert_eq!(restarts(2, 8, Some(at(31))), "2 of 8, the next at 2026-04-27T10:00:31.000Z");
    }

    #[test]
    fn what_keeps_it_awake_is_told_in_words() {
        let day = Some(Duration::from_secs(900));
        assert_eq!(
            sleep(None, None, Some(at(20)), &[Blocker::Disabled, Blocker::Lease, Blocker::NoActivityReport]),
            "never by itself (idle sleep is off); in use: an admission until 2026-04-27T10:00:20.000Z"
        );
        assert_eq!(
            sleep(day, None, None, &[Blocker::NotRunning, Blocker::RecentlyActive]),
            "after 900 s idle"
        );
        assert_eq!(
            sleep(day, Some(at(5)), Some(at(5)), &[Blocker::RecentlyActive]),
            "after 900 s idle; idle since 2026-04-27T10:00:05.000Z; kept awake by: recent use"
        );
        for &blocker in Blocker::ALL {
            let told = reason(blocker, Some(at(1)));
            assert!(told.is_none_or(|text| !text.contains('_')), "{blocker}");
        }
    }
}
