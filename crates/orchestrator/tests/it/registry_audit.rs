//! The audit log: partitions, export, pruning, reading, and the numbers made from it.

use super::registry::*;
use fleet::audit::AuditAction;
use orchestrator::registry::{AuditFilter, RegistryError};
use serde_json::json;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use testbed::postgres::Version;

async fn partitions_ahead(version: Version) {
    let stage = Stage::set_on(version).await;
    let registry = &stage.registry;
    let made = registry.partitions().await.expect("reads");
    assert_eq!(made.len(), 3, "present and next two");
    let now = registry.now().await.expect("a clock");
    assert!(made[0].from <= now && now < made[0].until && made[0].until == made[1].from, "{made:?}");
    assert!(made.iter().all(|p| !p.closed && !p.exported));
    assert_eq!(registry.ensure_partitions(2).await, Ok(vec![]));
    let new = registry.ensure_partitions(4).await.expect("makes");
    assert_eq!(new.len(), 2);
    assert_eq!(
        registry
            .partitions()
            .await
            .expect("reads")
            .iter()
            .map(|p| p.name.clone())
            .skip(3)
            .collect::<Vec<_>>(),
        new
    );
    // Many at once make each one once.
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let replica = stage.registry.clone();
        tasks.spawn(async move { replica.ensure_partitions(7).await.expect("makes").len() });
    }
    assert_eq!(tasks.join_all().await.into_iter().sum::<usize>(), 3);
}

#[tokio::test]
async fn partitions_exist_two_months_ahead() {
    partitions_ahead(Version::V18).await;
}

#[tokio::test]
async fn partitions_exist_two_months_ahead_on_the_oldest_server() {
    partitions_ahead(Version::V16).await;
}

#[tokio::test]
async fn default_partition_stays_empty() {
    let stage = Stage::set().await;
    let registry = &stage.registry;
    registry.append(&[entry(AuditAction::Backup, json!({"engines": 1}))]).await.expect("appends");
    assert_eq!(registry.audit_sizes().await.expect("reads").default_rows, 0);
    // A row strays: its month has no partition. As soon as it is made it holds the row.
    let last = registry.partitions().await.expect("reads").pop().expect("some");
    let stray = last.until.plus_millis(86_400_000);
    let mut lost = entry(AuditAction::Backup, json!({"engines": 2}));
    lost.started_at = Some(stray);
    registry.append(&[lost]).await.expect("appends");
    let sizes = registry.audit_sizes().await.expect("reads");
    assert_eq!((sizes.default_rows, sizes.unexported_partitions), (1, 0));
    assert!(sizes.bytes > 0);
    assert_eq!(registry.ensure_partitions(3).await.expect("makes").len(), 1);
    assert_eq!(registry.audit_sizes().await.expect("reads").default_rows, 0);
    let rows = registry
        .audit(&AuditFilter { since: Some(stray), ..Default::default() }, 10, None)
        .await
        .expect("reads");
    assert_eq!(rows.iter().map(|row| row.metadata.clone()).collect::<Vec<_>>(), [json!({"engines": 2})]);
}

#[tokio::test]
async fn export_misses_nothing_under_load() {
    let stage = Stage::set().await;
    let registry = stage.registry.clone();
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let replica = stage.replica(2);
        writers.spawn(async move {
            for n in 0..150 {
                let row = entry(AuditAction::Backup, json!({"location": format!("{writer}-{n}")}));
                replica.append(&[row]).await.expect("appends");
            }
        });
    }
    // Exports run while rows arrive; the clock is set back for what the minute would hide.
    let sql = stage.sql().await;
    let mut seen = BTreeSet::new();
    let mut rounds = 0;
    let mut collect = async |seen: &mut BTreeSet<i64>| {
        let age = "UPDATE audit_log SET recorded_at = recorded_at - interval '2 minutes' WHERE recorded_at > now() - interval '1 minute'";
        sql.execute(age, &[]).await.expect("ages");
        let mut last = None;
        registry
            .export(None, None, |row, recorded| {
                assert!(last <= Some(recorded), "ordered by recorded_at");
                last = Some(recorded);
                seen.insert(row.id);
                ControlFlow::Continue(())
            })
            .await
            .expect("exports");
        rounds += 1;
    };
    while !writers.is_empty() {
        collect(&mut seen).await;
        while writers.try_join_next().is_some() {}
    }
    collect(&mut seen).await;
    assert!(rounds > 1);
    assert_eq!(seen.len(), 600);
    assert_eq!(stage.count("SELECT count(*) FROM audit_log").await, 600);
    // The last minute is left out, and a reader may stop.
    stage.registry.append(&[entry(AuditAction::Backup, json!({}))]).await.expect("appends");
    let mut handed = 0;
    let told = stage
        .registry
        .export(None, None, |_, _| {
            handed += 1;
            ControlFlow::Continue(())
        })
        .await;
    assert_eq!((told, handed), (Ok(600), 600));
    assert_eq!(stage.registry.export(None, None, |_, _| ControlFlow::Break(())).await, Ok(1));
}

#[tokio::test]
async fn prune_refuses_unexported() {
    let stage = Stage::set().await;
    let registry = &stage.registry;
    let sql = stage.sql().await;
    for month in ["2024_01", "2024_02"] {
        let from = month.replace('_', "-");
        sql.batch_execute(&format!(
            "CREATE TABLE audit_log_{month} PARTITION OF audit_log FOR VALUES FROM ('{from}-01 00:00:00+00') \
             TO (timestamptz '{from}-01 00:00:00+00' + interval '1 month')"
        ))
        .await
        .expect("makes an old month");
        sql.batch_execute(&format!(
            "INSERT INTO audit_log (timestamp, action, recorded_at) SELECT t, 'backup', t FROM (SELECT timestamptz '{from}-15' t) x"
        ))
        .await
        .expect("inserts");
    }
    assert_eq!(registry.audit_sizes().await.expect("reads").unexported_partitions, 2);
    let report = registry.prune(12, false).await.expect("looks");
    assert_eq!(
        (report.dropped.len(), report.refused),
        (0, vec!["audit_log_2024_01".into(), "audit_log_2024_02".into()])
    );
    let max: i64 = sql.query_one("SELECT max(id) FROM audit_log_2024_01", &[]).await.expect("reads").get(0);
    registry.mark_exported("audit_log_2024_01", 1, max, "00").await.expect("marks");
    assert!(registry.partitions().await.expect("reads")[0].exported);
    // A row came after the export: not everything has left the house.
    sql.batch_execute("INSERT INTO audit_log (timestamp, action) VALUES ('2024-01-20', 'destroy')")
        .await
        .expect("inserts");
    assert_eq!(registry.prune(12, false).await.expect("looks").dropped, Vec::<String>::new());
    let max: i64 = sql.query_one("SELECT max(id) FROM audit_log_2024_01", &[]).await.expect("reads").get(0);
    registry.mark_exported("audit_log_2024_01", 2, max, "00").await.expect("marks");
    let report = registry.prune(12, false).await.expect("prunes");
    assert_eq!(
        (report.dropped, report.refused),
        (vec!["audit_log_2024_01".into()], vec!["audit_log_2024_02".into()])
    );
    let report = registry.prune(12, true).await.expect("prunes");
    assert_eq!((report.dropped, report.refused), (vec!["audit_log_2024_02".into()], vec![]));
    assert_eq!(registry.partitions().await.expect("reads").len(), 3, "the present is never dropped");
    let foreign = registry.mark_exported("engines", 1, 1, "00").await;
    assert!(matches!(foreign, Err(RegistryError::Defect(_))));
}

#[tokio::test]
async fn cursor_is_stable_while_rows_arrive() {
    let stage = Stage::set().await;
    let product = stage.product("demo", json!({})).await.id;
    let engine = stage.running(product, "ada").await;
    let registry = &stage.registry;
    let filter =
        AuditFilter { engine: Some(engine.id), actions: vec![AuditAction::Wake], ..Default::default() };
    let write = async |count: usize| {
        let rows: Vec<_> =
            (0..count).map(|_| about(&engine, AuditAction::Wake, json!({"reason": "admit"}))).collect();
        registry.append(&rows).await.expect("appends");
    };
    write(25).await;
    let first_ids: BTreeSet<i64> =
        registry.audit(&filter, 1000, None).await.expect("reads").iter().map(|r| r.id).collect();
    let (mut seen, mut before) = (Vec::new(), None);
    loop {
        let page = registry.audit(&filter, 10, before).await.expect("reads");
        write(3).await;
        before = page.last().map(|row| row.id);
        seen.extend(page.iter().map(|row| row.id));
        if page.len() < 10 {
            break;
        }
    }
    assert!(seen.is_sorted_by(|a, b| a > b));
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), first_ids);
    let nobody = AuditFilter { user: Some(user("bob")), ..filter };
    assert!(registry.audit(&nobody, 10, None).await.expect("reads").is_empty());
}

#[tokio::test]
async fn metrics_json_equals_sql() {
    let stage = Stage::set().await;
    let product = stage.product("demo", json!({})).await.id;
    let other = stage.product("other", json!({})).await.id;
    let mine = stage.running(product, "ada").await;
    let theirs = stage.running(other, "ada").await;
    stage
        .registry
        .append(&[
            about(&mine, AuditAction::HealthFailed, json!({"from": "running", "to": "failed"})),
            about(&mine, AuditAction::AutoRestartFailed, json!({"from": "failed", "to": "failed"})),
            about(&mine, AuditAction::AutoRestartStart, json!({"attempt": 1})),
            about(&theirs, AuditAction::AutoRestartStart, json!({"attempt": 1})),
            about(&mine, AuditAction::Provision, json!({"boot_ms": 500})),
        ])
        .await
        .expect("appends");
    let old = "INSERT INTO audit_log (timestamp, product_id, action) VALUES (now() - interval '61 minutes', $1, 'provision')";
    stage.sql().await.execute(old, &[&product.uuid()]).await.expect("inserts");
    let metrics = stage.registry.metrics(product).await.expect("counts");
    assert_eq!((metrics.provisions_1h, metrics.crashes_1h, metrics.restarts_1h), (2, 1, 1));
    assert_eq!((metrics.avg_boot_ms, metrics.total_provisions, metrics.total_destroys), (Some(456), 1, 0));
}

#[tokio::test]
async fn a_duration_is_what_passed_between_start_and_recording() {
    let stage = Stage::set().await;
    let began = stage.registry.now().await.expect("a clock").plus_millis(-1_500);
    let mut timed = entry(AuditAction::Backup, json!({"location": "nul\0"}));
    (timed.started_at, timed.has_duration) = (Some(began), true);
    stage.registry.append(&[timed]).await.expect("appends");
    let row = stage.registry.audit(&AuditFilter::default(), 1, None).await.expect("reads").remove(0);
    assert_eq!(row.timestamp, began);
    let ms = row.duration_ms.expect("has one");
    assert!((1_500..30_000).contains(&ms), "{ms}");
    assert_eq!(row.metadata, json!({"location": "nul\u{fffd}"}));
}
