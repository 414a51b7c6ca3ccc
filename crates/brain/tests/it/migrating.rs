//! Schema versions: forward, once, never edited, never lost.

use crate::house::{House, fact, number, put};
use brain::schema::{self, MIGRATIONS, Migration};
use brain::{Brain, Direction, MigrationMode, OpenError, OpenOptions, lock, migrate, verify};

static TWO: &[Migration] = &[
    Migration { version: 1, name: MIGRATIONS[0].name, sql: MIGRATIONS[0].sql },
    Migration {
        version: 2,
        name: "notes",
        sql: "CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT) STRICT;",
    },
];
static BROKEN: &[Migration] = &[
    Migration { version: 1, name: MIGRATIONS[0].name, sql: MIGRATIONS[0].sql },
    Migration { version: 2, name: "broken", sql: "CREATE TABLE half (id INTEGER); CREATE TABL oops (id);" },
];
static EDITED: &[Migration] =
    &[Migration { version: 1, name: MIGRATIONS[0].name, sql: "CREATE TABLE brain_meta (key, value);" }];

fn first_only(house: &House) -> OpenOptions {
    OpenOptions { wanted: &TWO[..1], ..house.options() }
}

fn with(house: &House, wanted: &'static [Migration]) -> OpenOptions {
    OpenOptions { wanted, ..house.options() }
}

async fn old_brain(house: &House) {
    let brain = Brain::open(first_only(house)).expect("a brain of schema 1");
    put(&brain, "remember", "me").await.expect("a write");
    brain.close();
}

#[tokio::test]
async fn a_snapshot_is_kept_before_a_brain_is_migrated() {
    let house = House::new();
    old_brain(&house).await;
    assert_eq!(house.backups(), [""; 0], "a new brain needs no snapshot");
    let brain = Brain::open(with(&house, TWO)).expect("migrates");
    assert_eq!(brain.schema_version(), 2);
    brain.close();
    assert_eq!(number(&house.plain(), "SELECT count(*) FROM notes"), 0);
    assert_eq!(
        number(&house.plain(), "SELECT count(*) FROM observability_events WHERE kind = 'migration'"),
        2
    );

    let kept = house.backups();
    assert_eq!(kept.len(), 1);
    assert!(kept[0].starts_with("pre-migration-1-2-") && kept[0].ends_with(".sqlite"), "{kept:?}");

    // The way back: restore the snapshot, start the older program.
    let guard = lock::try_acquire(&house.path()).expect("free");
    let snapshot = house.options().backup_dir.join(&kept[0]);
    brain::restore::run(&first_only(&house), &snapshot, &guard).expect("restorable");
    drop(guard);
    Brain::open(first_only(&house)).expect("the older program opens it").close();
    assert_eq!(fact(&house.path(), "remember").as_deref(), Some("me"));
}

#[tokio::test]
async fn a_newer_brain_is_untouched_byte_for_byte() {
    let house = House::new();
    Brain::open(with(&house, TWO)).expect("schema 2").close();
    let before = std::fs::read(house.path()).expect("bytes");
    for migrations in [MigrationMode::Auto, MigrationMode::Gate] {
        let refused = Brain::open(OpenOptions { migrations, ..first_only(&house) }).expect_err("refused");
        let OpenError::MigrationRequired { direction, found: 2, wanted: 1, .. } = refused else {
            panic!("{refused}")
        };
        assert_eq!(direction, Direction::Downgrade);
        assert_eq!(direction.as_str(), "downgrade");
    }
    assert_eq!(std::fs::read(house.path()).expect("bytes"), before);
}

#[tokio::test]
async fn the_gate_stays_shut_until_migrate_has_run() {
    let house = House::new();
    let gated = OpenOptions { migrations: MigrationMode::Gate, ..with(&house, TWO) };
    let refused = Brain::open(gated.clone()).expect_err("a new brain, too");
    assert!(matches!(
        refused,
        OpenError::MigrationRequired { direction: Direction::Upgrade, found: 0, wanted: 2, .. }
    ));
    assert!(!house.path().exists(), "nothing was made");

    old_brain(&house).await;
    let before = std::fs::read(house.path()).expect("bytes");
    let refused = Brain::open(gated.clone()).expect_err("gated");
    assert!(matches!(
        refused,
        OpenError::MigrationRequired { direction: Direction::Upgrade, found: 1, wanted: 2, .. }
    ));
    assert!(refused.to_string().contains("september-engine migrate"));
    assert_eq!(std::fs::read(house.path()).expect("bytes"), before);

    let guard = lock::try_acquire(&house.path()).expect("free");
    let report = migrate::run(gated.clone(), guard).expect("migrates");
    assert_eq!((report.from, report.to, report.applied), (1, 2, vec!["0002_notes.sql".to_owned()]));
    assert!(report.snapshot.is_some_and(|s| s.exists()));
    Brain::open(gated).expect("the gate is open").close();
}

#[tokio::test]
async fn a_changed_migration_is_refused() {
    let house = House::new();
    old_brain(&house).await;
    let refused = Brain::open(with(&house, EDITED)).expect_err("refused");
    assert!(matches!(refused, OpenError::MigrationChanged { version: 1, .. }), "{refused}");
    let report = verify::run(&house.path(), EDITED).expect("a report");
    assert!(report.findings.iter().any(|f| f.check == "migrations"), "{report:?}");
}

#[tokio::test]
async fn a_failing_migration_leaves_the_schema_as_it_was() {
    let house = House::new();
    old_brain(&house).await;
    let refused = Brain::open(with(&house, BROKEN)).expect_err("refused");
    assert!(matches!(refused, OpenError::MigrationFailed { version: 2, .. }), "{refused}");
    let brain = Brain::open(first_only(&house)).expect("still schema 1");
    brain.close();
    let halves = number(&house.plain(), "SELECT count(*) FROM sqlite_schema WHERE name = 'half'");
    assert_eq!(halves, 0);
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_made_stops_the_migration() {
    let house = House::new();
    old_brain(&house).await;
    let blocked = house.dir().join("a-file");
    std::fs::write(&blocked, "in the way").expect("a file");
    let refused = Brain::open(OpenOptions { backup_dir: blocked, ..with(&house, TWO) }).expect_err("refused");
    assert!(
        matches!(refused, OpenError::MigrationRequired { direction: Direction::Upgrade, .. }),
        "{refused}"
    );
    assert_eq!(number(&house.plain(), "SELECT max(version) FROM schema_migrations"), 1);
}

#[tokio::test]
async fn a_dry_run_tries_everything_and_changes_nothing() {
    let house = House::new();
    old_brain(&house).await;
    let before = std::fs::read(house.path()).expect("bytes");
    let report = migrate::dry_run(&with(&house, TWO)).expect("a rehearsal");
    assert_eq!((report.from, report.to, report.snapshot), (1, 2, None));
    let failed = migrate::dry_run(&with(&house, BROKEN)).expect_err("fails in rehearsal");
    assert!(matches!(failed, OpenError::MigrationFailed { version: 2, .. }), "{failed}");
    assert_eq!(std::fs::read(house.path()).expect("bytes"), before);
    let left = crate::house::names_in(house.dir());
    assert!(left.iter().all(|n| !n.contains("dry-run")), "{left:?}");
}

#[test]
fn every_released_schema_migrates_to_what_a_fresh_brain_has() {
    let dump = |house: &House| -> Vec<String> {
        let plain = house.plain();
        let mut rows = plain
            .prepare("SELECT coalesce(sql, name) FROM sqlite_schema ORDER BY type, name")
            .expect("a schema");
        rows.query_map([], |r| r.get(0)).expect("rows").map(|r| r.expect("a row")).collect()
    };
    let fresh = House::new();
    fresh.open().close();
    for released in 1..=MIGRATIONS.len() {
        let old = House::new();
        Brain::open(OpenOptions { wanted: &MIGRATIONS[..released], ..old.options() }).expect("old").close();
        old.open().close();
        assert_eq!(dump(&old), dump(&fresh), "from schema {released}");
    }
}

#[test]
fn the_migrations_are_numbered_without_gaps_and_named_as_their_files() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    assert_eq!(schema::differences_in(&dir, MIGRATIONS), [""; 0]);
    let versions: Vec<u32> = MIGRATIONS.iter().map(|m| m.version).collect();
    let expected: Vec<u32> = (1..).take(versions.len()).collect();
    assert_eq!(versions, expected);
}

#[test]
fn a_migrations_directory_must_be_identical() {
    let house = House::new();
    let write = |name: &str, text: &str| std::fs::write(house.dir().join(name), text).expect("a file");
    assert_eq!(schema::differences_in(house.dir(), TWO).len(), 2, "both are missing");
    write("0001_engine.sql", TWO[0].sql);
    write("0002_notes.sql", "CREATE TABLE other (x);");
    write("0003_more.sql", "");
    write("README.md", "not a migration");
    let found = schema::differences_in(house.dir(), TWO);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("0002_notes.sql differs"), "{found:?}");
    assert!(found[1].starts_with("0003_more.sql is not"), "{found:?}");
}
