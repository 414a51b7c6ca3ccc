//! Policies: what may be written into one, and what follows.

use contract::FleetCode;
use fleet::policy::{Denial, FieldProblem, PartialResources, Policy, PolicyEngine};
use fleet::rate::{Gcra, RetryAfterSeconds};
use fleet::spec::Resources;
use serde_json::{Value, json};
use std::time::Duration;

fn deployment() -> PolicyEngine {
    PolicyEngine {
        default_image: "registry:5000/september-engine:2.3.0".to_owned(),
        default_resources: Resources { memory_mb: 2048, cpus: 0.0, pids: 512 },
        idle_sleep_after: Duration::ZERO,
        admit_lease: Duration::from_secs(30),
        host_cpus: Some(4),
    }
}

fn policy(value: Value) -> Policy {
    Policy::parse(&value).expect("a policy")
}

fn wrong(value: Value) -> Vec<String> {
    let problems = Policy::parse(&value).expect_err("not a policy");
    problems.into_iter().map(|problem| problem.field).collect()
}

#[test]
fn an_empty_policy_has_no_limits() {
    assert_eq!(policy(json!({})), Policy::default());
    assert_eq!(serde_json::to_value(Policy::default()).expect("serialises"), json!({}));
}

#[test]
fn a_full_policy_reads_back_as_written() {
    let written = json!({"max_engines": 1000, "rate_limit_rpm": 600, "idle_sleep_after_s": 900,
        "allowed_versions": ["september-engine:2.*", "september-engine:2.3.0"],
        "resources": {"memory_mb": 4096, "cpus": 1.5, "pids": 0}});
    assert_eq!(serde_json::to_value(policy(written.clone())).expect("serialises"), written);
}

#[test]
fn unrecognised_policy_key_is_400() {
    assert_eq!(wrong(json!({"max_engine": 1})), ["policy.max_engine"]);
    assert_eq!(
        wrong(json!({"resources": {"memory": 1}, "cost": 2})),
        ["policy.cost", "policy.resources.memory"]
    );
    let problems = Policy::parse(&json!({"max_engine": 1})).expect_err("not a policy");
    let error = FieldProblem::refuse(&problems);
    assert_eq!(error.code, FleetCode::InvalidRequest);
    assert_eq!(
        error.body()["error"]["details"]["fields"],
        json!([{"field": "policy.max_engine", "problem": "unrecognised key"}])
    );
}

#[test]
fn every_range_is_checked_and_every_problem_named() {
    for (key, good, bad) in [
        (
            "max_engines",
            vec![json!(0), json!(1_000_000)],
            vec![json!(-1), json!(1_000_001), json!("1"), json!(1.5), json!(null)],
        ),
        ("rate_limit_rpm", vec![json!(1), json!(10_000_000)], vec![json!(0), json!(10_000_001)]),
        ("idle_sleep_after_s", vec![json!(0), json!(2_592_000)], vec![json!(2_592_001), json!(true)]),
        (
            "allowed_versions",
            vec![json!([]), json!(["a:1"]), json!(["a*"])],
            vec![json!("a"), json!(vec!["a"; 101])],
        ),
        (
            "resources",
            vec![
                json!({}),
                json!({"memory_mb": 256}),
                json!({"cpus": 0.1}),
                json!({"pids": 64, "memory_mb": 0, "cpus": 0}),
            ],
            vec![json!([])],
        ),
    ] {
        for value in good {
            assert!(Policy::parse(&json!({ key: value })).is_ok(), "{key} = {value}");
        }
        for value in bad {
            assert_eq!(wrong(json!({ key: value })), [format!("policy.{key}")], "{key} = {value}");
        }
    }
    assert_eq!(
        wrong(json!({"allowed_versions": ["a:1", "a*b", "", 1]})),
        ["policy.allowed_versions[1]", "policy.allowed_versions[2]", "policy.allowed_versions[3]"]
    );
    assert_eq!(
        wrong(json!({"resources": {"memory_mb": 255, "cpus": 0.05, "pids": 63}})),
        ["policy.resources.memory_mb", "policy.resources.pids", "policy.resources.cpus"]
    );
    assert_eq!(wrong(json!([])), ["policy"]);
}

#[test]
fn foreign_image_is_denied_by_default() {
    let (deployment, open) = (deployment(), Policy::default());
    let allowed = |version: &str| deployment.check_provision(&open, false, Some(version)).allowed;
    assert!(deployment.check_provision(&open, false, None).allowed);
    assert!(allowed("registry:5000/september-engine:2.3.0"));
    assert!(allowed("registry:5000/september-engine:9.9.9"));
    let digest = "0123456789abcdef".repeat(4);
    assert!(allowed(&format!("registry:5000/september-engine@sha256:{digest}")));
    for foreign in
        ["september-engine:2.3.0", "registry:5000/evil:1", "registry:5001/september-engine:2.3.0", "x y", ""]
    {
        let decision = deployment.check_provision(&open, false, Some(foreign));
        let reason = decision.into_result().expect_err("denied");
        assert_eq!(
            (reason.code(), reason),
            (FleetCode::PolicyDenied, Denial::VersionNotAllowed { version: foreign.to_owned() })
        );
    }
}

#[test]
fn allowed_versions_prefix() {
    let deployment = deployment();
    let policy = policy(json!({"allowed_versions": ["team/engine:2.*", "team/other:1"]}));
    let allowed = |version: &str| deployment.allows_version(&policy, version);
    assert!(allowed("team/engine:2.0") && allowed("team/engine:2.9-rc1") && allowed("team/other:1"));
    assert!(allowed("registry:5000/september-engine:2.3.0"), "the default is always allowed");
    assert!(!allowed("registry:5000/september-engine:2.3.1"), "the key replaces the same-repository rule");
    assert!(!allowed("team/engine:3.0") && !allowed("team/other:12") && !allowed("team/engine:2. 0"));
}

#[test]
fn a_product_that_is_being_deleted_provisions_nothing() {
    let decision = deployment().check_provision(&Policy::default(), true, None);
    assert_eq!((decision.allowed, decision.reason), (false, Some(Denial::ProductDeleting)));
}

#[test]
fn an_admit_over_the_limit_is_told_when_to_come_again() {
    let (deployment, policy) = (deployment(), policy(json!({"rate_limit_rpm": 2})));
    let mut rate = Gcra::default();
    assert!(deployment.check_admit(&policy, &mut rate, 0).allowed);
    assert!(deployment.check_admit(&policy, &mut rate, 0).allowed);
    let reason = deployment.check_admit(&policy, &mut rate, 0).into_result().expect_err("over the limit");
    assert_eq!(reason, Denial::RateLimited(RetryAfterSeconds(30)));
    let error = reason.error();
    assert_eq!((error.code, error.retry_after_s), (FleetCode::RateLimited, Some(30)));
    assert_eq!(error.message, "Rate limit exceeded. Retry in 30 seconds.");
    assert!(deployment.check_admit(&Policy::default(), &mut rate, 0).allowed);
}

#[test]
fn retry_after_always_present() {
    let quota = fleet::quota::check(10, Some(10)).expect_err("full");
    let denials = [Denial::RateLimited(RetryAfterSeconds(1)), Denial::QuotaExceeded(quota)];
    for denial in denials {
        let error = denial.error();
        assert_eq!(
            (error.code.status(), error.retry_after_s.is_some_and(|s| s >= 1)),
            (429, true),
            "{error}"
        );
    }
}

#[test]
fn policy_overrides_idle_time_and_zero_disables() {
    let mut deployment = deployment();
    let idle = |d: &PolicyEngine, value| d.idle_after(&policy(value)).map(|idle| idle.as_secs());
    assert_eq!(idle(&deployment, json!({})), None);
    assert_eq!(idle(&deployment, json!({"idle_sleep_after_s": 600})), Some(600));
    assert_eq!(idle(&deployment, json!({"idle_sleep_after_s": 1})), Some(30), "at least an admit lease");
    deployment.idle_sleep_after = Duration::from_secs(900);
    assert_eq!(idle(&deployment, json!({})), Some(900));
    assert_eq!(idle(&deployment, json!({"idle_sleep_after_s": 0})), None);
}

#[test]
fn resources_of_the_policy_win_and_processors_are_capped_at_the_host() {
    let deployment = deployment();
    let effective = |value| deployment.resources(&policy(json!({ "resources": value })));
    assert_eq!(effective(json!({})), deployment.default_resources);
    assert_eq!(
        effective(json!({"memory_mb": 512, "cpus": 64, "pids": 0})),
        Resources { memory_mb: 512, cpus: 4.0, pids: 0 }
    );
    assert!(PartialResources::default().is_empty());
}
