//! The audit log as people read it: the shape of every row, coalesced refusals, paging, and the numbers made of it.

use crate::trial::{Product, Trial, until};
use backends::{BackendError, Call, Death, Fault, FaultKind, HealthAnswer};
use fleet::audit::{AuditAction, check_shape};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What a row must say besides what [`check_shape`] allows: by action, and by how it ended where that differs.
fn required(action: AuditAction, failed: bool) -> &'static [&'static str] {
    match action {
        AuditAction::Provision => {
            &["via", "engine_version", "port", "boot_ms", "timings", "request_id", "operation_id", "to"]
        }
        AuditAction::ProvisionFailed => {
            &["via", "engine_version", "reason", "request_id", "operation_id", "to", "error"]
        }
        AuditAction::Start if failed => &["operation_id", "from", "to", "outcome", "error"],
        AuditAction::Start => &["boot_ms", "timings", "operation_id", "request_id", "from", "to"],
        AuditAction::Stop => &["operation_id", "request_id", "from", "to"],
        AuditAction::Sleep if failed => &["mode", "reason", "operation_id", "from", "to", "outcome", "error"],
        AuditAction::Sleep => &["mode", "reason", "operation_id", "from", "to"],
        AuditAction::Wake if failed => &["reason", "mode", "operation_id", "from", "to", "outcome", "error"],
        AuditAction::Wake => {
            &["reason", "slept_s", "mode", "boot_ms", "overhead_ms", "waiters", "operation_id", "from", "to"]
        }
        AuditAction::Destroy => &["engine_version", "age_s", "operation_id", "request_id", "from"],
        AuditAction::RotateKey if failed => &["operation_id", "request_id", "outcome", "error"],
        AuditAction::RotateKey => &["overlap_s", "operation_id", "request_id", "from", "to"],
        AuditAction::HealthCheck => &["verdict", "latency_ms"],
        AuditAction::HealthFailed => &["reason", "failures", "from", "to"],
        AuditAction::AutoRestartStart => &["attempt", "delay_s", "operation_id"],
        AuditAction::AutoRestartSuccess => &["attempt", "by", "from", "to"],
        AuditAction::AutoRestartFailed => &["attempt", "reason", "operation_id"],
        AuditAction::AutoRestartGaveUp => &["attempts", "reason"],
        AuditAction::AdmitDenied => &["reason", "count"],
        AuditAction::PolicyRegister => &["slug", "policy", "request_id"],
        AuditAction::PolicyUpdate => &["before", "after", "request_id"],
        AuditAction::ProductDelete => &["slug", "engines_destroyed", "request_id"],
        AuditAction::RotatePlatformKey => &["overlap_s", "request_id"],
        AuditAction::OrphanRemoved => &["object", "kind", "brain"],
        AuditAction::Adopt => &["field", "new"],
        // Not done by this version, or by the command line.
        AuditAction::Upgrade
        | AuditAction::Rollback
        | AuditAction::Recreate
        | AuditAction::RotateMasterKey
        | AuditAction::Backup
        | AuditAction::Restore => &[],
    }
}

async fn live(trial: &Trial, demo: &Product) {
    let ada = demo.engine("ada").await;
    assert_eq!(demo.post("ada", "sleep").await.status, 200);
    assert_eq!(demo.admit("ada").await.body["admitted"], true);
    assert_eq!(demo.post("ada", "rotate-key").await.status, 200);
    assert_eq!(demo.post("ada", "rotate-key").await.status, 409);
    assert_eq!(demo.post("ada", "stop").await.status, 200);
    assert_eq!(demo.post("ada", "start").await.status, 200);
    trial.world.crash(ada, 137, true);
    until("it was restarted", async || trial.actions(ada).await.contains(&"auto_restart_success".to_owned()))
        .await;
    trial.world.edit(ada, |p| p.dies = Some(Death::after(Duration::from_millis(1))));
    trial.world.crash(ada, 1, false);
    until("it is given up", async || trial.actions(ada).await.contains(&"auto_restart_gave_up".to_owned()))
        .await;
    assert_eq!(demo.post("ada", "start").await.status, 502);
    trial.world.edit(ada, |p| p.dies = None);
    demo.post("ada", "start").await;

    let bob = demo.engine("bob").await;
    trial.world.fault(Fault::fail(BackendError::Refused("no".into())).on(Call::Freeze).of(bob).times(1));
    assert_eq!(demo.post("bob", "sleep").await.status, 502);
    assert_eq!(demo.post("bob", "sleep").await.status, 200);
    trial.world.restart_daemon(true);
    until("it is frozen again", async || trial.row(bob, "sleep").await["metadata"]["reason"] == "refreeze")
        .await;
    trial.world.fault(Fault::fail(BackendError::Unreachable("away".into())).on(Call::Thaw).of(bob).times(1));
    assert_eq!(demo.admit("bob").await.status, 502);
    assert_eq!(demo.destroy("bob").await.status, 200);

    trial.world.lose_image("september-engine:9");
    let broken = demo
        .call("POST", "/engines/provision", json!({"user_id": "eve", "engine_version": "september-engine:9"}))
        .await;
    assert_eq!(broken.status, 502);
    let sick = demo.engine("sick").await;
    trial.world.edit(sick, |p| p.health = HealthAnswer::Refused);
    until("it is found sick", async || trial.actions(sick).await.contains(&"health_failed".to_owned())).await;
    for user in ["ada", "nobody", "nobody"] {
        demo.call("POST", &format!("/engines/{user}/admit"), json!({})).await;
    }
    assert_eq!(
        trial.admin("PUT", "/products/demo/policy", json!({"policy": {"max_engines": 50}})).await.status,
        200
    );
    assert_eq!(
        trial
            .admin("POST", "/products/demo/rotate-platform-key", json!({"overlap_seconds": 60}))
            .await
            .status,
        200
    );
    trial.product("other", json!({})).await;
    assert_eq!(trial.admin("DELETE", "/products/other", Value::Null).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_matches_its_shape() {
    let trial = Trial::new().await.set("ORCH_RESTART_MAX_ATTEMPTS", "2").set("ORCH_BOOT_TIMEOUT_S", "2");
    let (mut trial, demo) = trial.ready().await;
    live(&trial, &demo).await;
    // The refusals are written when the replica goes.
    trial.stop(0).await;
    trial.replica().await;
    let rows = trial.rows("").await;
    let mut seen = BTreeSet::new();
    for row in &rows {
        let action = AuditAction::parse(row["action"].as_str().expect("has one")).expect("is in the list");
        let metadata = &row["metadata"];
        assert_eq!(check_shape(action, metadata), Ok(()), "{row}");
        let failed = metadata["outcome"] == "failed";
        for key in required(action, failed) {
            assert!(metadata.get(*key).is_some_and(|v| !v.is_null()), "{action} does not say {key}: {row}");
        }
        seen.insert(action.as_str());
    }
    let expected: BTreeSet<&str> = AuditAction::ALL
        .iter()
        .filter(|a| {
            !required(**a, false).is_empty() && !matches!(a, AuditAction::OrphanRemoved | AuditAction::Adopt)
        })
        .map(|a| a.as_str())
        .collect();
    let missing: Vec<_> = expected.difference(&seen).collect();
    assert!(missing.is_empty(), "this life has no rows of {missing:?}");
    for (action, actor) in [("policy_register", "admin"), ("provision", "demo"), ("health_failed", "system")]
    {
        let row = rows.iter().find(|r| r["action"] == action).expect("is there");
        assert_eq!(row["actor"], actor, "{row}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn denials_are_coalesced() {
    let (mut trial, demo) = Trial::with_product().await;
    demo.engine("ada").await;
    assert_eq!(demo.post("ada", "stop").await.status, 200);
    for _ in 0..30 {
        demo.admit("ada").await;
        demo.call("POST", "/engines/nobody/admit", json!({})).await;
    }
    assert_eq!(trial.rows("action=admit_denied").await, Vec::<Value>::new(), "not a row per refusal");
    trial.stop(0).await;
    trial.replica().await;
    let rows = trial.rows("action=admit_denied").await;
    let told: BTreeMap<&str, (&Value, &Value)> = rows
        .iter()
        .map(|r| {
            (r["user_id"].as_str().expect("has one"), (&r["metadata"]["reason"], &r["metadata"]["count"]))
        })
        .collect();
    assert_eq!(rows.len(), 2, "{rows:?}");
    assert_eq!(told["ada"], (&json!("engine_stopped"), &json!(30)));
    assert_eq!(told["nobody"], (&json!("engine_not_found"), &json!(30)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cursor_is_stable_while_rows_arrive() {
    let (trial, demo) = Trial::with_product().await;
    demo.engine("ada").await;
    let turn = async || {
        assert_eq!(demo.post("ada", "stop").await.status, 200);
        assert_eq!(demo.post("ada", "start").await.status, 200);
    };
    for _ in 0..6 {
        turn().await;
    }
    let before: Vec<i64> = trial.rows("").await.iter().filter_map(|r| r["id"].as_i64()).collect();
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = trial.admin("GET", &format!("/audit?limit=3{cursor}"), Value::Null).await.body;
        let entries = page["entries"].as_array().expect("is a list");
        assert!(entries.len() <= 3);
        seen.extend(entries.iter().filter_map(|r| r["id"].as_i64()));
        turn().await;
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, before, "every row that was there, once, newest first");
    assert!(seen.windows(2).all(|w| w[0] > w[1]), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_and_scopes_of_the_log() {
    let (trial, demo) = Trial::with_product().await;
    let other = trial.product("other", json!({})).await;
    let (ada, bob) = (demo.engine("ada").await, other.engine("bob").await);
    assert_eq!(demo.post("ada", "stop").await.status, 200);
    let actions = |rows: &[Value]| -> Vec<String> {
        rows.iter().map(|r| r["action"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(actions(&trial.rows(&format!("engine={ada}")).await), ["stop", "provision"]);
    assert_eq!(actions(&trial.rows("user=bob").await), ["provision"]);
    assert_eq!(
        actions(&trial.rows("action=stop&action=policy_register").await),
        ["stop", "policy_register", "policy_register"]
    );
    assert_eq!(actions(&trial.rows("product=other").await), ["provision", "policy_register"]);
    let own = demo.call("GET", "/audit", Value::Null).await.body;
    assert!(
        own["entries"].as_array().expect("is a list").iter().all(|r| r["engine_id"] != json!(bob)),
        "{own}"
    );
    assert_eq!(own["next_cursor"], Value::Null);
    let since = trial.rows(&format!("engine={ada}&action=stop")).await[0]["timestamp"]
        .as_str()
        .expect("is a time")
        .to_owned();
    assert_eq!(actions(&trial.rows(&format!("engine={ada}&since={since}")).await), ["stop"]);
    assert_eq!(actions(&trial.rows(&format!("engine={ada}&until={since}")).await), ["provision"]);
    for wrong in ["action=dance", "engine=7", "limit=0", "limit=1001", "since=yesterday", "cursor=x"] {
        let refused = trial.admin("GET", &format!("/audit?{wrong}"), Value::Null).await;
        assert_eq!((refused.status, refused.code()), (400, "INVALID_REQUEST"), "{wrong}: {:?}", refused.body);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_json_equals_sql() {
    let trial = Trial::new().await.set("ORCH_RESTART_MAX_ATTEMPTS", "2").set("ORCH_BOOT_TIMEOUT_S", "2");
    let (trial, demo) = trial.ready().await;
    let other = trial.product("second", json!({})).await;
    other.engine("ada").await;
    live(&trial, &demo).await;
    let rotated =
        trial.admin("POST", "/products/demo/rotate-platform-key", json!({"overlap_seconds": 60})).await.body;
    let demo = demo.with_key(rotated["platform_api_key"].as_str().expect("is shown"));
    // Nothing moves any more.
    for user in ["ada", "eve", "sick"] {
        assert_eq!(demo.destroy(user).await.status, 200);
    }
    let sql = trial.sql().await;
    let number = async |expression: &str| -> i64 {
        let text = format!(
            "SELECT ({expression})::bigint FROM audit_log a JOIN products p ON p.id = a.product_id \
             WHERE p.slug = 'demo' AND a.timestamp > now() - INTERVAL '1 hour'"
        );
        sql.query_one(&text, &[]).await.expect("the statement is right").get(0)
    };
    let told = demo.call("GET", "/metrics", Value::Null).await.body;
    for (field, expression) in [
        ("provisions_1h", "count(*) FILTER (WHERE action = 'provision')"),
        ("restarts_1h", "count(*) FILTER (WHERE action = 'auto_restart_start')"),
        (
            "crashes_1h",
            "count(*) FILTER (WHERE metadata->>'to' = 'failed' AND metadata->>'from' IS DISTINCT FROM 'failed')",
        ),
        ("avg_boot_ms", "avg((metadata->>'boot_ms')::numeric) FILTER (WHERE action = 'provision')"),
        ("total_destroys", "count(*) FILTER (WHERE action = 'destroy')"),
    ] {
        assert_eq!(told[field].as_i64(), Some(number(expression).await), "{field}: {told}");
    }
    assert_eq!(told["total_provisions"], 3, "ada, bob and sick booted, eve never did: {told}");
    assert!(told["crashes_1h"].as_i64().is_some_and(|n| n >= 3), "{told}");
    let fresh = trial.product("fresh", json!({})).await.call("GET", "/metrics", Value::Null).await.body;
    assert_eq!(
        fresh,
        json!({"provisions_1h": 0, "crashes_1h": 0, "restarts_1h": 0, "avg_boot_ms": null, "total_provisions": 0, "total_destroys": 0})
    );
}

/// A change whose row cannot be written does not happen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_without_its_row() {
    let (trial, demo) = Trial::with_product().await;
    let id = demo.engine("ada").await;
    let sql = trial.sql().await;
    // Before the stop begins; later only the function changes: DDL would want the table to itself, while work holds it.
    sql.batch_execute(
        "CREATE FUNCTION closed() RETURNS trigger LANGUAGE plpgsql AS \
           $$ BEGIN RAISE EXCEPTION 'the log takes no such row' USING ERRCODE = 'check_violation'; END $$; \
         CREATE TRIGGER closed BEFORE INSERT ON audit_log FOR EACH ROW \
           WHEN (NEW.action IN ('stop', 'policy_update')) EXECUTE FUNCTION closed()",
    )
    .await
    .expect("the log refuses");
    let stop = tokio::spawn({
        let demo = demo.clone();
        async move { demo.post("ada", "stop").await }
    });
    demo.until_standing("ada", "running-stopped+stop").await;
    until("the engine is down", async || trial.world.truth(id).word() == "exited").await;
    let policy = trial.admin("PUT", "/products/demo/policy", json!({"policy": {"max_engines": 1}})).await;
    assert_eq!((policy.status, policy.code()), (500, "INTERNAL"), "{:?}", policy.body);
    assert_eq!(trial.admin("GET", "/products/demo", Value::Null).await.body["policy"], json!({}));
    assert_ne!(demo.status("ada").await, "stopped", "the status changed without its row");
    let answer = stop.await.expect("is answered");
    assert_eq!((answer.status, answer.code()), (500, "INTERNAL"), "{:?}", answer.body);
    assert_eq!(answer.body["error"]["details"]["retrying"], true, "{:?}", answer.body);
    let open =
        "CREATE OR REPLACE FUNCTION closed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$";
    sql.batch_execute(open).await.expect("the log takes rows again");
    demo.until_standing("ada", "stopped-stopped").await;
    assert_eq!(trial.actions(id).await, ["provision", "stop"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_id_travels_into_the_log() {
    let (trial, demo) = Trial::with_product().await;
    let body = json!({"user_id": "ada"});
    let made = demo.call_with("POST", "/engines/provision", ("x-request-id", "my-request.1"), body).await;
    let id = contract::EngineId::parse(made.body["engine_id"].as_str().expect("has an id")).expect("is one");
    assert_eq!(trial.row(id, "provision").await["metadata"]["request_id"], "my-request.1");
    // What the system does has no request.
    trial.world.fault(Fault::new(FaultKind::Latency(Duration::from_millis(1))).times(1));
    trial.world.crash(id, 1, false);
    until("it was restarted", async || trial.actions(id).await.contains(&"auto_restart_success".to_owned()))
        .await;
    let row = trial.row(id, "auto_restart_success").await;
    assert_eq!(row["metadata"].get("request_id"), None, "{row}");
}
