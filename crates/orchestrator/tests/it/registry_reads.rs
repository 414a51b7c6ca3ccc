//! Reading: the steady path of admit, lists, snapshots, vitals, products and their keys, damaged rows.

use super::registry::*;
use contract::{EngineId, Slug, Timestamp};
use fleet::audit::AuditAction;
use fleet::lifecycle::{BackendKind, Desired, Status};
use fleet::operation::OperationKind;
use orchestrator::registry::{
    AuditFilter, DeletionMark, EnginePatch, ProductRef, ProductRemoval, RegistryError, Vitals,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use testbed::postgres::Version;

async fn admit_in_one_statement(version: Version) {
    let stage = Stage::set_on(version).await;
    let product = stage.product("demo", json!({"max_engines": 3})).await;
    let engine = stage.running(product.id, "ada").await;
    let registry = &stage.registry;
    let hash = hash_of("demo");
    let before = registry.statements();
    let (found_product, found) =
        registry.admit_read(&hash, &user("ada")).await.expect("reads").expect("the key is good");
    assert_eq!(registry.statements() - before, 1);
    assert_eq!(found_product.policy, json!({"max_engines": 3}));
    assert_eq!(
        found,
        registry.find(product.id, &user("ada")).await.expect("reads").map(|f| {
            let mut f = f;
            f.now = found.as_ref().expect("is there").now;
            f
        })
    );
    assert_eq!(found.expect("is there").engine, engine);
    let (_, nobody) =
        registry.admit_read(&hash, &user("bob")).await.expect("reads").expect("the key is good");
    assert_eq!(nobody, None);
    assert_eq!(registry.admit_read(&hash_of("other"), &user("ada")).await, Ok(None));
    // With an open operation it is part of the answer.
    let (_, operation) =
        opened(registry.open(&open(&engine, OperationKind::Stop, Desired::Stopped)).await.expect("opens"));
    let (_, found) = registry.admit_read(&hash, &user("ada")).await.expect("reads").expect("the key is good");
    assert_eq!(found.expect("is there").operation, Some(operation));
    registry.mark_deleting(product.id, true).await.expect("marks");
    assert_eq!(registry.admit_read(&hash, &user("ada")).await, Ok(None));
}

#[tokio::test]
async fn the_steady_path_of_admit_is_one_statement() {
    admit_in_one_statement(Version::V18).await;
}

#[tokio::test]
async fn the_steady_path_of_admit_is_one_statement_on_the_oldest_server() {
    admit_in_one_statement(Version::V16).await;
}

/// Plans of the statements that the server ran for us, as it chose them.
#[tokio::test]
async fn admit_reads_by_index_in_a_large_fleet() {
    let stage = Stage::set().await;
    let sql = stage.sql().await;
    sql.batch_execute(
        "INSERT INTO products (slug, display_name, api_key_hash) \
           SELECT 'p' || n, 'P', encode(sha256(n::text::bytea), 'hex') FROM generate_series(1, 200) n; \
         INSERT INTO engines (id, product_id, user_id, status, desired, backend, engine_version, engine_key_hash, engine_key_enc) \
           SELECT gen_random_uuid(), p.id, 'user-' || n, 'running', 'running', 'simulated', 'v', repeat('0', 64), 'x' \
           FROM products p, generate_series(1, 500) n; \
         INSERT INTO engine_vitals (engine_id) SELECT id FROM engines; \
         INSERT INTO operations (id, engine_id, product_id, user_id, kind, step, status, finished_at) \
           SELECT gen_random_uuid(), id, product_id, user_id, 'provision', 'finish', 'succeeded', now() FROM engines; \
         INSERT INTO operations (id, engine_id, product_id, user_id, kind, step) \
           SELECT gen_random_uuid(), id, product_id, user_id, 'wake', 'resume' FROM engines WHERE user_id LIKE 'user-1%'; \
         ANALYZE",
    )
    .await
    .expect("fills");
    let reads = "SELECT COALESCE(sum(seq_tup_read + idx_tup_fetch), 0)::bigint FROM pg_stat_user_tables \
         WHERE relname IN ('engines', 'engine_vitals', 'operations')";
    let settled = async || {
        sql.batch_execute("SELECT pg_stat_force_next_flush(); SELECT pg_stat_clear_snapshot()")
            .await
            .expect("flushes");
        sql.query_one(reads, &[]).await.expect("reads").get::<_, i64>(0)
    };
    let one = stage.replica(1);
    let row =
        sql.query_one("SELECT api_key_hash, id FROM products WHERE slug = 'p7'", &[]).await.expect("reads");
    let (hash, product): (String, uuid::Uuid) = (row.get(0), row.get(1));
    let before = settled().await;
    for n in 1..=20 {
        let name = user(&format!("user-{n}"));
        let (_, found) = one.admit_read(&hash, &name).await.expect("reads").expect("the key is good");
        let found = found.expect("is there");
        assert_eq!(
            one.find(contract::ProductId::from_uuid(product), &name)
                .await
                .expect("reads")
                .map(|f| f.engine.id),
            Some(found.engine.id)
        );
        one.found(found.engine.id).await.expect("reads").expect("is there");
        one.take_lease(found.engine.id, LEASE).await.expect("takes").expect("is running");
    }
    // The counters of a session are written when it ends.
    drop(one);
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'bap-engine-test' AND datname = current_database()";
    for left in 0..200 {
        if stage.count(sessions).await == 0 {
            break;
        }
        assert!(left < 199, "the session does not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let read = settled().await - before;
    // 80 statements look at three tables, at a row or two each.
    assert!((80..1000).contains(&read), "{read} rows were read");
}

#[tokio::test]
async fn snapshots_hold_every_engine_once_and_name_damaged_rows() {
    let stage = Stage::set().await;
    let product = stage.product("demo", json!({})).await.id;
    let sql = stage.sql().await;
    let fill = "INSERT INTO engines (id, product_id, user_id, status, desired, backend, engine_version, engine_key_hash, engine_key_enc) \
         SELECT gen_random_uuid(), $1, 'user-' || n, 'stopped', 'stopped', CASE WHEN n > 2500 THEN 'docker' ELSE 'simulated' END, 'v', \
           repeat('0', 64), 'x' FROM generate_series(1, 2600) n";
    sql.execute(fill, &[&product.uuid()]).await.expect("fills");
    let snapshot = async || {
        let mut seen = BTreeMap::new();
        let damaged = stage.registry.snapshot(BackendKind::Simulated, |found, slug| {
            assert_eq!(slug.as_str(), "demo");
            assert!(seen.insert(found.engine.id, found.engine.user_id).is_none(), "twice");
        });
        let damaged = damaged.await.expect("reads");
        (seen, damaged)
    };
    let (seen, damaged) = snapshot().await;
    assert_eq!((seen.len(), damaged), (2500, vec![]));
    sql.batch_execute("UPDATE engines SET user_id = E'a\\tb' WHERE user_id = 'user-77'")
        .await
        .expect("damages");
    let (seen, damaged) = snapshot().await;
    assert_eq!(seen.len(), 2499);
    assert!(
        matches!(damaged.as_slice(), [(_, RegistryError::Corrupt(text))] if text.contains("user_id")),
        "{damaged:?}"
    );
    let mut keys = 0;
    stage.registry.keys(|_, _, _| keys += 1).await.expect("walks");
    assert_eq!(keys, 2600);
}

#[tokio::test]
async fn damaged_stored_data_is_corrupt_never_a_default() {
    let stage = Stage::set().await;
    let product = stage.product("demo", json!({})).await.id;
    let sql = stage.sql().await;
    sql.batch_execute(
        "ALTER TABLE engines DROP CONSTRAINT engines_status_check; ALTER TABLE engines DROP CONSTRAINT engines_sleep_mode_check; \
         ALTER TABLE operations DROP CONSTRAINT operations_kind_check; ALTER TABLE engines DROP CONSTRAINT engines_port_check; \
         ALTER TABLE engines DROP CONSTRAINT engines_check; ALTER TABLE engines DROP CONSTRAINT engines_check1",
    )
    .await
    .expect("drops the guards");
    let damages = [
        ("UPDATE engines SET status = 'asleep'", "status"),
        ("UPDATE engines SET sleep_mode = 'nap'", "sleep_mode"),
        ("UPDATE engines SET port = 70000", "port"),
        ("UPDATE engines SET failure_code = 'tired'", "failure_code"),
        ("UPDATE engines SET next_engine_key_hash = 'x'", "next_engine_key_enc"),
        ("UPDATE engines SET wake_at = 'infinity'", "wake_at"),
        ("UPDATE engine_vitals SET subsystems = '{\"provider\": 1}'", "subsystems"),
        ("UPDATE operations SET kind = 'dance'", "kind"),
        ("UPDATE operations SET step = 'hop'", "step"),
        ("UPDATE operations SET timings = '{\"boot\": -1}'", "timings"),
    ];
    for (damage, column) in damages {
        let (engine, _) = stage.engine(product, "ada").await;
        sql.batch_execute(damage).await.expect(damage);
        let error = stage.registry.found(engine.id).await.expect_err(damage);
        assert!(matches!(&error, RegistryError::Corrupt(text) if text.contains(column)), "{damage}: {error}");
        sql.batch_execute("DELETE FROM engines; DELETE FROM operations").await.expect("clears");
    }
    sql.batch_execute("UPDATE products SET policy = '{\"max_engines\": \"many\"}'").await.expect("damages");
    let refused = stage.registry.reserve(&wish(product, "ada")).await;
    assert!(matches!(refused, Err(RegistryError::Corrupt(_))), "{refused:?}");
}

#[tokio::test]
async fn lists_are_ordered_filtered_and_counted() {
    let stage = Stage::set().await;
    let demo = stage.product("demo", json!({})).await.id;
    let other = stage.product("other", json!({})).await.id;
    for n in 0..5 {
        stage.running(demo, &format!("user-{n}")).await;
    }
    stage.engine(other, "ada").await;
    let registry = &stage.registry;
    let names = |rows: &[orchestrator::registry::Found]| {
        rows.iter().map(|found| found.engine.user_id.as_str().to_owned()).collect::<Vec<_>>()
    };
    let (page, total) = registry.list(Some(demo), None, None, 2, 2).await.expect("lists");
    assert_eq!((names(&page), total), (vec!["user-2".to_owned(), "user-3".to_owned()], 5));
    let (page, total) = registry.list(None, Some(Status::Provisioning), None, 10, 0).await.expect("lists");
    assert_eq!((names(&page), total), (vec!["ada".to_owned()], 1));
    let (page, total) = registry.list(None, None, Some("september-engine:2"), 10, 0).await.expect("lists");
    assert_eq!((page.len(), total), (0, 0));
    let counts = registry.status_counts(Some(demo)).await.expect("counts");
    assert_eq!(counts.len(), Status::ALL.len(), "every status is there");
    assert_eq!((counts[&Status::Running], counts[&Status::Failed]), (5, 0));
    assert_eq!(registry.status_counts(None).await.expect("counts").values().sum::<i64>(), 6);
    assert_eq!(registry.open_counts().await, Ok(vec![(OperationKind::Provision, 1)]));
    assert!(registry.oldest_open_seconds().await.expect("reads") > 0.0);
    assert_eq!(registry.users_product_slug(demo).await, Ok(Some(Slug::parse("demo").expect("a slug"))));
}

async fn vitals_round_trip(version: Version) {
    let stage = Stage::set_on(version).await;
    let product = stage.product("demo", json!({})).await.id;
    let fill = "WITH made AS (INSERT INTO engines (id, product_id, user_id, status, desired, backend, engine_version, engine_key_hash, \
         engine_key_enc) SELECT gen_random_uuid(), $1, 'user-' || n, 'running', 'running', 'simulated', 'v', repeat('0', 64), 'x' \
         FROM generate_series(1, 2100) n RETURNING id) INSERT INTO engine_vitals (engine_id) SELECT id FROM made RETURNING engine_id";
    let ids: Vec<EngineId> = stage
        .sql()
        .await
        .query(fill, &[&product.uuid()])
        .await
        .expect("fills")
        .iter()
        .map(|r| EngineId::from_uuid(r.get(0)))
        .collect();
    let time = Timestamp::from_millis(1_777_293_296_123);
    let vitals = |n: usize| Vitals {
        last_health_at: Some(time),
        last_probe_at: Some(time.plus_millis(1)),
        health_failures: i32::try_from(n).expect("is small"),
        healthy_streak: 2,
        healthy_since: Some(time),
        degraded: n.is_multiple_of(2),
        subsystems: BTreeMap::from([(
            "provider".to_owned(),
            if n == 0 { "err\0or" } else { "error" }.to_owned(),
        )]),
        reported_version: Some("1.2.3".to_owned()),
        schema_version: Some(7),
        in_flight_turns: Some(1),
        open_streams: None,
        last_activity_at: Some(time),
        next_scheduled_at: None,
        backend_restarts: 3,
    };
    let mut all: Vec<(EngineId, Vitals)> = ids.iter().enumerate().map(|(n, &id)| (id, vitals(n))).collect();
    all.push((EngineId::generate(), vitals(1)));
    let before = stage.registry.statements();
    stage.registry.flush_vitals(&all).await.expect("flushes");
    assert_eq!(stage.registry.statements() - before, 3, "a thousand rows a statement");
    let mut seen = 0;
    let expected: BTreeMap<EngineId, Vitals> = all.into_iter().collect();
    let damaged = stage.registry.snapshot(BackendKind::Simulated, |found, _| {
        let mut wanted = expected[&found.engine.id].clone();
        wanted.subsystems.values_mut().for_each(|state| *state = state.replace('\0', "\u{fffd}"));
        assert_eq!(found.vitals, wanted);
        seen += 1;
    });
    assert!(damaged.await.expect("reads").is_empty());
    assert_eq!(seen, 2100);
    assert_eq!(stage.registry.degraded_count(Some(product)).await, Ok(1050));
    let engine = stage.registry.found(ids[5]).await.expect("reads").expect("is there").engine;
    let reset = EnginePatch { reset_vitals: true, ..EnginePatch::default() };
    changed(stage.registry.change(&change(&engine, reset)).await.expect("changes"));
    let vitals = stage.reread(&engine).await.vitals;
    assert_eq!((vitals.health_failures, vitals.healthy_streak, vitals.healthy_since), (0, 0, None));
    assert_eq!(vitals.backend_restarts, 3);
}

#[tokio::test]
async fn vitals_are_written_in_batches_and_read_back() {
    vitals_round_trip(Version::V18).await;
}

#[tokio::test]
async fn vitals_are_written_in_batches_on_the_oldest_server() {
    vitals_round_trip(Version::V16).await;
}

#[tokio::test]
async fn platform_key_overlap_and_second_rotation() {
    let stage = Stage::set().await;
    let registry = &stage.registry;
    let id = stage.product("demo", json!({})).await.id;
    let rotate = async |hash: &str, overlap| {
        let log = entry(AuditAction::RotatePlatformKey, json!({"overlap_s": 60}));
        registry
            .rotate_platform_key(id, &hash_of(hash), overlap, log)
            .await
            .expect("rotates")
            .expect("exists")
    };
    let works = async |name: &str| registry.product_by_key(&hash_of(name)).await.expect("reads").is_some();
    let ends = rotate("two", Duration::from_secs(60)).await.expect("an overlap");
    assert!(ends > registry.now().await.expect("a clock").plus_millis(50_000));
    assert_eq!([works("demo").await, works("two").await], [true, true]);
    rotate("three", Duration::from_secs(60)).await;
    assert_eq!([works("demo").await, works("two").await, works("three").await], [false, true, true]);
    stage
        .sql()
        .await
        .execute("UPDATE products SET previous_key_expires_at = now()", &[])
        .await
        .expect("ends");
    assert_eq!([works("two").await, works("three").await], [false, true]);
    assert_eq!(rotate("four", Duration::ZERO).await, None);
    assert_eq!([works("three").await, works("four").await], [false, true]);
    registry.mark_deleting(id, false).await.expect("marks");
    assert!(!works("four").await);
    let log = entry(AuditAction::RotatePlatformKey, json!({}));
    let nobody =
        registry.rotate_platform_key(contract::ProductId::generate(), &hash_of("x"), LEASE, log).await;
    assert_eq!(nobody, Ok(None));
}

#[tokio::test]
async fn products_are_registered_changed_listed_and_removed_with_their_rows_in_the_log() {
    let stage = Stage::set().await;
    let registry = &stage.registry;
    let demo = stage.product("demo", json!({"max_engines": 1})).await;
    let slug = Slug::parse("demo").expect("a slug");
    let log = |action, metadata: Value| entry(action, metadata);
    let again = log(AuditAction::PolicyRegister, json!({}));
    assert_eq!(registry.register(&slug, "Again", &hash_of("again"), &json!({}), again).await, Ok(None));
    let policy = json!({"rate_limit_rpm": 60});
    let updated = registry.set_policy(demo.id, &policy, log(AuditAction::PolicyUpdate, json!({}))).await;
    assert_eq!(updated.expect("sets").expect("exists").policy, policy);
    for n in 0..4 {
        stage.product(&format!("p{n}"), json!({})).await;
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = registry.products(2, after).await.expect("lists");
        let Some((last, _)) = page.last() else { break };
        after = Some((last.created_at, last.id));
        seen.extend(page.iter().map(|(product, _)| product.slug.as_str().to_owned()));
    }
    // Registered within one millisecond, products stand in the order of their ids.
    seen.sort();
    assert_eq!(seen, ["demo", "p0", "p1", "p2", "p3"]);
    assert_eq!(registry.product(&ProductRef::Slug(slug)).await.expect("reads").map(|p| p.id), Some(demo.id));
    assert!(
        registry.product(&ProductRef::Id(contract::ProductId::generate())).await.expect("reads").is_none()
    );

    let engine = stage.running(demo.id, "ada").await;
    let remove = async || {
        let row = log(AuditAction::ProductDelete, json!({"slug": "demo"}));
        registry.delete_product_if_empty(demo.id, row).await.expect("an answer")
    };
    assert_eq!(registry.mark_deleting(demo.id, true).await, Ok(DeletionMark::Deleting(1)));
    assert_eq!(remove().await, ProductRemoval::EnginesLeft(1));
    stage
        .sql()
        .await
        .execute("DELETE FROM engines WHERE id = $1", &[&engine.id.uuid()])
        .await
        .expect("deletes");
    assert_eq!(registry.mark_deleting(demo.id, false).await, Ok(DeletionMark::Deleting(0)));
    assert_eq!(remove().await, ProductRemoval::Removed);
    assert_eq!(remove().await, ProductRemoval::Missing);
    let filter = AuditFilter { product: Some(demo.id), ..Default::default() };
    let rows = registry.audit(&filter, 10, None).await.expect("reads");
    let told: Vec<_> = rows.iter().map(|row| row.action.as_str()).collect();
    assert_eq!(told, ["product_delete", "provision", "policy_update", "policy_register"]);
    assert_eq!(rows[0].metadata, json!({"slug": "demo", "engines_destroyed": 1}), "as counted at first");
    assert_eq!(rows[2].metadata, json!({"before": {"max_engines": 1}, "after": {"rate_limit_rpm": 60}}));
}

#[tokio::test]
async fn operation_rows_are_pruned() {
    let stage = Stage::set().await;
    let product = stage.product("demo", json!({})).await.id;
    stage.running(product, "ada").await;
    stage.running(product, "bob").await;
    let (_, open) = stage.engine(product, "cleo").await;
    let sql = stage.sql().await;
    let age = "UPDATE operations SET finished_at = now() - interval '8 days' WHERE user_id = 'ada'; \
         UPDATE operations SET started_at = now() - interval '30 days' WHERE status = 'open'";
    sql.batch_execute(age).await.expect("ages");
    assert_eq!(stage.registry.housekeeping().await.expect("sweeps").operations, 1);
    assert_eq!(stage.registry.housekeeping().await.expect("sweeps").operations, 0);
    assert_eq!(stage.count("SELECT count(*) FROM operations").await, 2);
    assert!(stage.registry.operation(open.id).await.expect("reads").is_some());
}
