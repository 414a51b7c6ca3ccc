//! What the daemon's answers say about an engine: ours or not, and doing what.
//!
//! Pure. The one invariant: an object without our instance label, our engine id and the role `engine` is not ours,
//! whatever it is called.

use super::ProbeAddress;
use super::object::{ENGINE_PORT, ENGINE_PORT_KEY};
use bollard::models::{
    ContainerInspectResponse, ContainerState, ContainerStateStatusEnum as Status, ContainerSummary,
};
use contract::{EngineId, InstanceId, Timestamp};
use fleet::observation::{Object, ObjectState};
use fleet::spec::{LABEL_ENGINE, LABEL_GENERATION, LABEL_INSTANCE, LABEL_ROLE, LABEL_SPEC_HASH};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// An existing container of ours.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// The daemon's id: unlike the name, it never comes to mean another container.
    pub id: String,
    /// As the rest of the house sees it.
    pub object: Object,
    /// Host port it publishes.
    pub port: Option<u16>,
    /// User and group of its processes, where they are numbers.
    pub user: Option<(u32, u32)>,
}

/// Do these labels say that it is this engine's object of this role?
pub(crate) fn is_ours(
    labels: Option<&HashMap<String, String>>,
    instance: InstanceId,
    engine: EngineId,
    role: &str,
) -> bool {
    let says = |name: &str, value: &str| labels.and_then(|l| l.get(name)).is_some_and(|v| v == value);
    says(LABEL_INSTANCE, &instance.to_string())
        && says(LABEL_ENGINE, &engine.to_string())
        && says(LABEL_ROLE, role)
}

/// Reads an inspected container; the caller has checked that it is ours.
pub(crate) fn found(answer: ContainerInspectResponse, network: &str, probe: ProbeAddress) -> Found {
    let port = published_port(&answer);
    let address = match probe {
        ProbeAddress::Network => container_ip(&answer, network).map(|ip| SocketAddr::new(ip, ENGINE_PORT)),
        ProbeAddress::HostPort => port.map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)),
    };
    let config = answer.config.unwrap_or_default();
    let label = |name: &str| config.labels.as_ref().and_then(|l| l.get(name)).cloned().unwrap_or_default();
    let restarts = answer.restart_count.and_then(|count| u32::try_from(count).ok()).unwrap_or(0);
    let id = answer.id.unwrap_or_default();
    Found {
        object: Object {
            state: state_of(&answer.state.unwrap_or_default(), restarts, address),
            generation: label(LABEL_GENERATION).parse().unwrap_or(0),
            spec_hash: label(LABEL_SPEC_HASH),
            image: config.image.unwrap_or_default(),
            container_id: id.clone(),
            created_at: answer.created.as_deref().and_then(moment),
        },
        id,
        port,
        user: config.user.as_deref().and_then(numeric_user),
    }
}

fn state_of(state: &ContainerState, restarts: u32, address: Option<SocketAddr>) -> ObjectState {
    let exit_code = state.exit_code.and_then(|code| i32::try_from(code).ok());
    let exited = || ObjectState::Exited {
        code: exit_code,
        oom: state.oom_killed.unwrap_or(false),
        at: state.finished_at.as_deref().and_then(moment),
    };
    match state.status.unwrap_or(Status::EMPTY) {
        Status::CREATED => ObjectState::Created,
        // `stopping`: the process still lives.
        Status::RUNNING | Status::STOPPING => ObjectState::Running {
            started_at: state.started_at.as_deref().and_then(moment).unwrap_or(Timestamp::from_millis(0)),
            restarts,
            address,
        },
        Status::PAUSED => ObjectState::Paused,
        Status::RESTARTING => ObjectState::Restarting { code: exit_code },
        Status::REMOVING => ObjectState::Removing,
        // `dead`: a removal that failed half-way; it runs no more and can be removed again.
        Status::EXITED | Status::DEAD | Status::EMPTY => exited(),
    }
}

fn container_ip(answer: &ContainerInspectResponse, network: &str) -> Option<IpAddr> {
    let networks = answer.network_settings.as_ref()?.networks.as_ref()?;
    networks.get(network)?.ip_address.as_deref()?.parse().ok()
}

fn published_port(answer: &ContainerInspectResponse) -> Option<u16> {
    let bindings = answer.host_config.as_ref()?.port_bindings.as_ref()?;
    bindings.get(ENGINE_PORT_KEY)?.as_ref()?.first()?.host_port.as_deref()?.parse().ok()
}

/// `uid`, `uid:gid`; names would have to be looked up inside the image.
pub(crate) fn numeric_user(text: &str) -> Option<(u32, u32)> {
    let (user, group) = text.split_once(':').unwrap_or((text, text));
    Some((user.parse().ok()?, group.parse().ok()?))
}

/// An instant; the daemon writes the year 1 for "never".
fn moment(text: &str) -> Option<Timestamp> {
    Timestamp::parse(text).filter(|at| at.millis() > 0)
}

/// The engine a listed container belongs to.
pub(crate) fn engine_of(summary: &ContainerSummary) -> Option<EngineId> {
    EngineId::parse(summary.labels.as_ref()?.get(LABEL_ENGINE)?).ok()
}

/// Is what was seen earlier still true of a container that the list shows now? The list names no start time and no
/// restart count, but a restart makes the time it shows jump back, so old runs need no second look.
pub(crate) fn still_as_seen(seen: &Object, summary: &ContainerSummary, now: Timestamp) -> bool {
    let word = summary.state.map(|state| state.to_string()).unwrap_or_default();
    if word != seen.state.word() || summary.id.as_deref() != Some(seen.container_id.as_str()) {
        return false;
    }
    let since = match &seen.state {
        ObjectState::Created => return true,
        ObjectState::Running { started_at, address: Some(_), .. } => *started_at,
        ObjectState::Exited { at: Some(at), .. } => *at,
        ObjectState::Running { .. }
        | ObjectState::Exited { .. }
        | ObjectState::Paused
        | ObjectState::Restarting { .. }
        | ObjectState::Removing => return false,
    };
    let age_s = (now.millis() - since.millis()) / 1000;
    let status = summary.status.as_deref().unwrap_or_default();
    age_s >= YOUNG_S
        && (age_s - CLOCK_SLACK_S..=age_s + CLOCK_SLACK_S)
            .any(|age| status.contains(&format!(" {}", duration_words(age))))
}

/// Anything younger is looked at every time: two runs of that age can show the same words.
const YOUNG_S: i64 = 120;
/// Difference of clocks and roundings that is let pass. Larger hides a quick second run; with a smaller one a
/// container is looked at once too often.
const CLOCK_SLACK_S: i64 = 3;

/// A duration in the daemon's words.
fn duration_words(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match () {
        () if minutes < 1 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".into(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".into(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 14 => format!("{} days", hours / 24),
        () if hours < 24 * 60 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 730 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::ContainerSummaryStateEnum;

    fn answer(text: &str) -> ContainerInspectResponse {
        serde_json::from_str(text).expect("an answer of the daemon")
    }

    const RUNNING: &str = r#"{"Id":"c1","Created":"2026-01-02T03:04:05.5Z","RestartCount":2,
        "State":{"Status":"running","Running":true,"StartedAt":"2026-01-02T03:04:06Z",
                 "FinishedAt":"0001-01-01T00:00:00Z","ExitCode":0},
        "Config":{"Image":"i:1","User":"10001:10002","Labels":{"bap-engine/generation":"7","bap-engine/spec-hash":"h"}},
        "HostConfig":{"PortBindings":{"8000/tcp":[{"HostIp":"127.0.0.1","HostPort":"9001"}]}},
        "NetworkSettings":{"Networks":{"net":{"IPAddress":"10.1.2.3"}}}}"#;

    #[test]
    fn a_running_container_is_read_completely() {
        let seen = found(answer(RUNNING), "net", ProbeAddress::Network);
        assert_eq!((seen.object.generation, seen.object.spec_hash.as_str()), (7, "h"));
        assert_eq!((seen.port, seen.user), (Some(9001), Some((10001, 10002))));
        let ObjectState::Running { started_at, restarts, address } = seen.object.state else {
            panic!("runs")
        };
        assert_eq!(started_at.to_string(), "2026-01-02T03:04:06.000Z");
        assert_eq!((restarts, address), (2, "10.1.2.3:8000".parse().ok()));
        let by_port = found(answer(RUNNING), "net", ProbeAddress::HostPort);
        let ObjectState::Running { address, .. } = by_port.object.state else { panic!("runs") };
        assert_eq!(address, "127.0.0.1:9001".parse().ok());
    }

    #[test]
    fn every_word_of_the_daemon_is_a_state() {
        let state = |word: &str| {
            let text = RUNNING.replace(r#""Status":"running""#, &format!(r#""Status":"{word}""#));
            found(answer(&text), "net", ProbeAddress::Network).object.state
        };
        assert_eq!(state("created"), ObjectState::Created);
        assert_eq!(state("paused"), ObjectState::Paused);
        assert_eq!(state("restarting"), ObjectState::Restarting { code: Some(0) });
        assert_eq!(state("removing"), ObjectState::Removing);
        let ended = ObjectState::Exited { code: Some(0), oom: false, at: None };
        assert_eq!(state("exited"), ended);
        assert_eq!(state("dead"), ended);
    }

    #[test]
    fn only_labels_make_an_object_ours() {
        let (instance, engine) = (InstanceId::generate(), EngineId::generate());
        let labels = |instance: InstanceId, role: &str| {
            HashMap::from([
                (LABEL_INSTANCE.to_owned(), instance.to_string()),
                (LABEL_ENGINE.to_owned(), engine.to_string()),
                (LABEL_ROLE.to_owned(), role.to_owned()),
            ])
        };
        assert!(is_ours(Some(&labels(instance, "engine")), instance, engine, "engine"));
        assert!(!is_ours(Some(&labels(InstanceId::generate(), "engine")), instance, engine, "engine"));
        assert!(!is_ours(Some(&labels(instance, "job")), instance, engine, "engine"));
        assert!(!is_ours(None, instance, engine, "engine"));
    }

    #[test]
    fn an_old_run_is_believed_until_its_age_jumps_back() {
        let seen = found(answer(RUNNING), "net", ProbeAddress::Network).object;
        let ObjectState::Running { started_at, .. } = seen.state else { panic!("runs") };
        let listed = |status: &str| ContainerSummary {
            id: Some("c1".into()),
            state: Some(ContainerSummaryStateEnum::RUNNING),
            status: Some(status.into()),
            ..Default::default()
        };
        let after = |minutes: i64| started_at.plus_millis(minutes * 60_000 + 20_000);
        assert!(still_as_seen(&seen, &listed("Up 3 minutes"), after(3)));
        assert!(still_as_seen(&seen, &listed("Up About an hour"), after(62)));
        assert!(still_as_seen(&seen, &listed("Up 2 days"), after(51 * 60)));
        assert!(!still_as_seen(&seen, &listed("Up 23 minutes"), after(3)));
        assert!(!still_as_seen(&seen, &listed("Up 4 seconds"), after(62)));
        assert!(!still_as_seen(&seen, &listed("Up 10 seconds"), started_at.plus_millis(10_000)), "young");
        assert!(!still_as_seen(&seen, &listed("Up 3 minutes (Paused)"), after(62)));
        let other = ContainerSummary { id: Some("c2".into()), ..listed("Up 3 minutes") };
        assert!(!still_as_seen(&seen, &other, after(3)));
    }
}
