//! Migrations: applied once by whoever comes first, refused when changed, careful with the future.

use super::registry::*;
use contract::Slug;
use orchestrator::registry::migrate::{MIGRATIONS, Migration};
use orchestrator::registry::{DeletionMark, MigrateError, ProductRef, Registry};
use testbed::postgres::{TestDatabase, Version};

/// A file of the next release.
const NEXT: Migration =
    Migration { version: 3, name: "next", compatible_from: 1, sql: "CREATE TABLE next (id INTEGER)" };

fn and_next(compatible_from: i32, sql: &'static str) -> Vec<Migration> {
    let mut all = MIGRATIONS.to_vec();
    all.push(Migration { compatible_from, sql, ..NEXT });
    all
}

async fn from_the_first_version(version: Version) {
    let database = TestDatabase::create_on(version).await;
    let registry = connect(&database.url, 4);
    assert_eq!(registry.server_version().await, Ok(version.major()));
    let status = registry.schema_status().await.expect("reads");
    assert_eq!((status.database, status.program, status.is_current()), (0, 2, false));
    let pending = registry.pending_sql().await.expect("reads");
    assert_eq!(
        pending.iter().map(|(file, _)| file.as_str()).collect::<Vec<_>>(),
        ["0001_orchestrator.sql", "0002_engines_to_destroy.sql"]
    );
    assert_eq!(registry.migrate("one").await.expect("migrates").applied, [1, 2]);
    let again = registry.migrate("two").await.expect("nothing to do");
    assert_eq!((again.applied, again.level), (vec![], 2));
    let status = registry.schema_status().await.expect("reads");
    assert!(status.is_current());
    assert_eq!(
        status.applied.iter().map(|(v, n, _, by)| (*v, n.as_str(), by.as_str())).collect::<Vec<_>>(),
        [(1, "orchestrator", "one"), (2, "engines_to_destroy", "one")]
    );
    assert!(registry.pending_sql().await.expect("reads").is_empty());
    let instance = registry.instance().await.expect("is made by the first migration");
    assert_eq!((instance.spec_salt.len(), instance.backend_identity.clone()), (32, None));
    assert_eq!(registry.set_backend_identity(Some("other"), "daemon-1").await, Ok(false));
    assert_eq!(registry.set_backend_identity(None, "daemon-1").await, Ok(true));
    assert_eq!(registry.instance().await.expect("reads").backend_identity.as_deref(), Some("daemon-1"));
    let later = registry.migrate_to(&and_next(1, NEXT.sql), "three").await.expect("migrates");
    assert_eq!((later.applied, later.level), (vec![3], 3));
}

#[tokio::test]
async fn migrations_from_the_first_version_forward() {
    from_the_first_version(Version::V18).await;
}

#[tokio::test]
async fn migrations_from_the_first_version_forward_on_the_oldest_server() {
    from_the_first_version(Version::V16).await;
}

/// Release 1 has begun a deletion and knows nothing of the count.
#[tokio::test]
async fn a_deletion_begun_by_the_first_release_is_ended_by_this_one() {
    let database = TestDatabase::create().await;
    let registry = connect(&database.url, 4);
    registry.migrate_to(&MIGRATIONS[..1], "one").await.expect("migrates");
    let connected = tokio_postgres::connect(&database.url, tokio_postgres::NoTls).await;
    let (sql, connection) = connected.expect("the server is up");
    tokio::spawn(connection);
    sql.batch_execute(
        "INSERT INTO products (slug, display_name, api_key_hash, deleting) VALUES ('old', 'Old', repeat('a', 64), TRUE)",
    )
    .await
    .expect("is what release 1 writes");
    assert_eq!(registry.migrate("two").await.expect("migrates").applied, [2]);
    let old = ProductRef::Slug(Slug::parse("old").expect("is a slug"));
    let product = registry.product(&old).await.expect("reads").expect("is there");
    assert!(product.deleting);
    assert_eq!(registry.mark_deleting(product.id, true).await, Ok(DeletionMark::Deleting(0)));
}

#[tokio::test]
async fn changed_migration_file_is_refused() {
    let database = TestDatabase::create().await;
    let registry = connect(&database.url, 2);
    registry.migrate_to(&and_next(1, NEXT.sql), "one").await.expect("migrates");
    let changed = and_next(1, "CREATE TABLE next (id BIGINT)");
    let refused = Err(MigrateError::ChangedFile("0003_next.sql".to_owned()));
    assert_eq!(registry.migrate_to(&changed, "two").await, refused);
    assert!(matches!(registry.schema_status_of(&changed).await, Err(MigrateError::ChangedFile(_))));
}

#[tokio::test]
async fn newer_schema_is_refused_or_accepted_by_compatible_from() {
    for (compatible_from, accepted) in [(2, true), (3, false)] {
        let database = TestDatabase::create().await;
        let registry = connect(&database.url, 2);
        registry.migrate_to(&and_next(compatible_from, NEXT.sql), "newer").await.expect("migrates");
        let older = registry.migrate("older").await;
        if accepted {
            let report = older.expect("may run on it");
            assert_eq!((report.applied, report.level), (vec![], 3));
            assert!(registry.schema_status().await.expect("reads").is_current());
        } else {
            assert_eq!(older, Err(MigrateError::TooNew { database: 3, program: 2 }));
        }
    }
}

#[tokio::test]
async fn a_failing_migration_leaves_the_database_as_before_it() {
    let database = TestDatabase::create().await;
    let registry = connect(&database.url, 2);
    let broken = and_next(1, "CREATE TABLE next (id INTEGER); SELECT nothing_of_the_kind()");
    let error = registry.migrate_to(&broken, "one").await.expect_err("fails");
    assert!(matches!(&error, MigrateError::Failed { file, .. } if file == "0003_next.sql"), "{error}");
    assert_eq!(registry.schema_status().await.expect("reads").database, 2);
    assert_eq!(registry.migrate_to(&and_next(1, NEXT.sql), "two").await.expect("repeats").applied, [3]);
}

#[tokio::test]
async fn replicas_that_start_together_apply_each_file_once() {
    let database = TestDatabase::create().await;
    let replicas: Vec<Registry> = (0..6).map(|_| connect(&database.url, 2)).collect();
    let mut tasks = tokio::task::JoinSet::new();
    for (n, replica) in replicas.into_iter().enumerate() {
        tasks.spawn(async move {
            replica.migrate(&format!("replica-{n}")).await.expect("migrates").applied.len()
        });
    }
    assert_eq!(tasks.join_all().await.into_iter().sum::<usize>(), MIGRATIONS.len());
}

/// Release N+1 has migrated (expand); release N goes on writing next to it.
#[tokio::test]
async fn old_and_new_release_share_a_database() {
    let stage = Stage::set().await;
    let old = &stage.registry;
    let product = stage.product("demo", serde_json::json!({})).await.id;
    let engine = stage.running(product, "before").await;
    let new = stage.replica(4);
    let expand = "ALTER TABLE engines ADD COLUMN color TEXT NOT NULL DEFAULT 'grey'; ALTER TABLE operations ADD COLUMN size INTEGER";
    new.migrate_to(&and_next(1, expand), "newer").await.expect("migrates");
    assert_eq!(old.found(engine.id).await.expect("reads").map(|found| found.engine), Some(engine));
    stage.running(product, "after").await;
    let seen = new.list(Some(product), None, None, 10, 0).await.expect("lists");
    assert_eq!(seen.1, 2);
}
