//! What operators are given is held to what the program has: alerts, their runbooks, and dashboards.
//!
//! An alert on a metric that is spelled differently never fires, and nobody notices until the night it should have.

mod promql;
mod yaml;

use promql::Kind;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The alerts as the specification has them (section 14.3): name, expression, for, severity. `BackupOld` is missing on
/// purpose: no command of this version makes backups, so nothing would feed it.
const ALERTS: [(&str, &str, &str, &str); 10] = [
    ("OrchestratorUnhealthy", "max(bap_health_ok) < 1 or absent(bap_health_ok)", "1m", "Sev1"),
    ("PostgresUnreachable", "max(bap_db_up) < 1", "1m", "Sev1"),
    ("EngineRestartRate", "sum(rate(bap_engine_restarts_total[5m])) * 60 > 5", "5m", "Sev2"),
    ("EnginesFailed", "sum(max by (product) (bap_engines{status=\"failed\"})) > 0", "5m", "Sev2"),
    ("PortsNearlyUsed", "max(bap_ports_used) / max(bap_ports_total) > 0.8", "1h", "Sev3"),
    ("AuditLogLarge", "max(bap_audit_log_bytes) > 40e9", "1d", "Sev3"),
    ("BackendUnreachable", "max(bap_backend_up) < 1", "2m", "Sev1"),
    ("NoSupervisor", "sum(bap_supervisor) != 1", "1m", "Sev2"),
    ("OperationStuck", "max(bap_operation_oldest_seconds) > 900", "5m", "Sev2"),
    ("BrakeActive", "max(bap_failure_brake_active) + max(bap_orphan_brake_active) > 0", "1m", "Sev2"),
];

/// The dashboards there are.
const DASHBOARDS: [&str; 4] = ["audit-and-capacity.json", "control-plane.json", "fleet.json", "wake.json"];
/// What every runbook answers, in this order.
const RUNBOOK_SECTIONS: [&str; 5] = [
    "## What it means",
    "## What users notice",
    "## Look here first",
    "## What to do",
    "## When to wake somebody",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("testbed lies in crates/").to_path_buf()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|err| panic!("{path}: {err}"))
}

fn names_in(folder: &str) -> BTreeSet<String> {
    fs::read_dir(root().join(folder))
        .unwrap_or_else(|err| panic!("{folder}: {err}"))
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect()
}

fn rules() -> Vec<Value> {
    let file = yaml::parse(&read("deploy/prometheus/alerts.yaml")).expect("alerts.yaml is plain YAML");
    let keys = |value: &Value| -> Vec<String> {
        let mut keys: Vec<String> = value.as_object().expect("a mapping").keys().cloned().collect();
        keys.sort();
        keys
    };
    assert_eq!(keys(&file), ["groups"]);
    let groups = file["groups"].as_array().expect("groups");
    let mut rules = Vec::new();
    for group in groups {
        assert_eq!(keys(group), ["name", "rules"]);
        rules.extend(group["rules"].as_array().expect("rules").iter().cloned());
    }
    for rule in &rules {
        assert_eq!(keys(rule), ["alert", "annotations", "expr", "for", "labels"], "{rule}");
        assert_eq!(keys(&rule["labels"]), ["severity"], "{rule}");
        assert_eq!(keys(&rule["annotations"]), ["description", "runbook_url", "summary"], "{rule}");
    }
    rules
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} is text in {value}"))
}

#[test]
fn the_alerts_are_those_of_the_specification() {
    let rules = rules();
    let found: Vec<_> = rules
        .iter()
        .map(|rule| {
            (text(rule, "alert"), text(rule, "expr"), text(rule, "for"), text(&rule["labels"], "severity"))
        })
        .collect();
    assert_eq!(found, ALERTS);
}

#[test]
fn alerts_and_dashboards_name_existing_metrics() {
    let mut wrong = Vec::new();
    for rule in rules() {
        assert!(promql::is_duration(text(&rule, "for")), "{rule}");
        match promql::check(text(&rule, "expr")) {
            Ok(Kind::Instant(_)) => {}
            Ok(other) => {
                wrong.push(format!("{}: an alert is about values, not {other:?}", text(&rule, "alert")))
            }
            Err(why) => wrong.push(format!("{}: {why}", text(&rule, "alert"))),
        }
    }
    for (dashboard, panel, target) in targets() {
        let place = format!("{dashboard}, {panel}");
        match promql::check(text(&target, "expr")) {
            Ok(Kind::Instant(labels)) => {
                let legend = text(&target, "legendFormat");
                for label in legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()) {
                    if !labels.contains(label) {
                        wrong.push(format!("{place}: the legend shows {label}, the values have {labels:?}"));
                    }
                }
            }
            Ok(other) => wrong.push(format!("{place}: a panel shows values, not {other:?}")),
            Err(why) => wrong.push(format!("{place}: {why}")),
        }
    }
    assert!(wrong.is_empty(), "\n  {}\n", wrong.join("\n  "));
}

/// Every query of every dashboard: file, panel, target.
fn targets() -> Vec<(String, String, Value)> {
    let mut found = Vec::new();
    for name in DASHBOARDS {
        let dashboard: Value = serde_json::from_str(&read(&format!("deploy/grafana/{name}"))).expect("JSON");
        for panel in dashboard["panels"].as_array().expect("panels") {
            for target in panel["targets"].as_array().expect("targets") {
                found.push((name.to_owned(), text(panel, "title").to_owned(), target.clone()));
            }
        }
    }
    assert!(found.len() > 40, "only {} queries found", found.len());
    found
}

#[test]
fn dashboards_are_complete_and_their_panels_do_not_overlap() {
    assert_eq!(names_in("deploy/grafana"), DASHBOARDS.map(str::to_owned).into());
    let mut uids = BTreeSet::new();
    for name in DASHBOARDS {
        let dashboard: Value = serde_json::from_str(&read(&format!("deploy/grafana/{name}"))).expect("JSON");
        assert!(uids.insert(text(&dashboard, "uid").to_owned()), "{name}: its uid is another's");
        let mut cells = BTreeSet::new();
        let mut ids = BTreeSet::new();
        for panel in dashboard["panels"].as_array().expect("panels") {
            assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{name}: an id twice");
            assert!(!panel["targets"].as_array().expect("targets").is_empty(), "{name}: an empty panel");
            let number = |key: &str| panel["gridPos"][key].as_u64().expect("a number");
            assert!(number("x") + number("w") <= 24, "{name}: {} is too wide", text(panel, "title"));
            for x in number("x")..number("x") + number("w") {
                for y in number("y")..number("y") + number("h") {
                    assert!(cells.insert((x, y)), "{name}: {} lies on another panel", text(panel, "title"));
                }
            }
        }
    }
}

#[test]
fn every_alert_has_a_runbook_and_every_runbook_an_alert() {
    let expected: BTreeSet<String> = ALERTS.iter().map(|(alert, ..)| format!("{alert}.md")).collect();
    assert_eq!(names_in("docs/runbooks"), expected);
    for rule in rules() {
        let alert = text(&rule, "alert");
        let link = text(&rule["annotations"], "runbook_url");
        assert_eq!(link, format!("docs/runbooks/{alert}.md"));
        let page = read(link);
        assert!(page.starts_with(&format!("# {alert}\n")), "{link} does not begin with its name");
        let sections: Vec<&str> = page.lines().filter(|line| line.starts_with("## ")).collect();
        assert_eq!(sections, RUNBOOK_SECTIONS, "{link}");
        let severity = text(&rule["labels"], "severity");
        assert!(page.contains(&format!("{severity} ·")), "{link} does not say that it is {severity}");
        assert!(page.contains(&format!("`{}`", text(&rule, "expr"))), "{link} does not show the expression");
    }
}
