//! What opening refuses, and what it leaves behind.

use crate::house::{House, SmallDisk, fact, get, names_in, number, options_at, put};
use brain::filesystem::{Kind, classify};
use brain::{Brain, Error, OpenError, OpenOptions, meta};
use std::os::unix::fs::PermissionsExt;

#[tokio::test]
async fn a_new_brain_is_private_and_has_the_pragmas_it_needs() {
    let house = House::new();
    let brain = house.open();
    put(&brain, "k", "v").await.expect("a write");
    for name in ["brain.sqlite", "brain.sqlite-wal", "brain.sqlite.lock"] {
        let mode = std::fs::metadata(house.dir().join(name)).expect(name).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    brain.close();
    let plain = house.plain();
    assert_eq!(number(&plain, "PRAGMA auto_vacuum"), 2, "incremental");
    let mode: String = plain.query_row("PRAGMA journal_mode", [], |r| r.get(0)).expect("mode");
    assert_eq!(mode, "wal");
    assert_eq!(
        number(&plain, "SELECT max(version) FROM schema_migrations"),
        i64::from(brain.schema_version())
    );
}

#[tokio::test]
async fn closing_leaves_one_file_and_a_note_and_what_was_written() {
    let house = House::new();
    let brain = house.open();
    put(&brain, "k", "v").await.expect("a write");
    brain.close();
    brain.close();
    assert_eq!(names_in(house.dir()), ["brain.sqlite", "brain.sqlite.lock"]);
    assert!(fact(&house.path(), meta::LAST_CLEAN_SHUTDOWN).is_some());
    assert!(matches!(put(&brain, "k", "w").await, Err(Error::Closed)));
    assert!(matches!(brain.read("test", |tx| meta::get(tx, "k")).await, Err(Error::Closed)));

    let again = house.open();
    assert_eq!(get(&again, "k").await.as_deref(), Some("v"));
    put(&again, "k", "w").await.expect("a write");
    assert_eq!(get(&again, meta::LAST_CLEAN_SHUTDOWN).await, None, "removed while open");
    assert_eq!(get(&again, meta::CRASH_COUNT).await, None, "an orderly close is no crash");
}

#[test]
fn a_brain_keeps_its_id() {
    let house = House::new();
    house.open().close();
    let id = fact(&house.path(), meta::BRAIN_ID).expect("an id");
    house.open().close();
    assert_eq!(fact(&house.path(), meta::BRAIN_ID), Some(id));
}

#[test]
fn an_older_generation_is_fenced_out() {
    let house = House::new();
    let with = |generation| Brain::open(OpenOptions { generation, ..house.options() });
    with(Some(7)).expect("the first").close();
    with(Some(7)).expect("the same again").close();
    with(None).expect("no number, no check").close();
    let refused = with(Some(6)).expect_err("an older one");
    assert!(matches!(refused, OpenError::Fenced { stored: 7, given: 6 }), "{refused}");
    assert_eq!(refused.exit_code(), 4);
    with(Some(8)).expect("a newer one").close();
    assert!(with(Some(7)).is_err());
}

#[test]
fn a_missing_directory_is_named() {
    let house = House::new();
    let refused = Brain::open(options_at(house.dir().join("nowhere/brain.sqlite"))).expect_err("refused");
    assert!(matches!(&refused, OpenError::NoDirectory(d) if d.ends_with("nowhere")), "{refused}");
    assert_eq!(refused.exit_code(), 1);
}

#[test]
fn a_read_only_directory_is_refused_with_the_fix() {
    let disk = SmallDisk::new("4m");
    let path = disk.dir().join("brain.sqlite");
    Brain::open(options_at(path.clone())).expect("writable at first").close();
    disk.make_read_only();
    let refused = Brain::open(options_at(path)).expect_err("refused");
    assert!(matches!(refused, OpenError::NotWritable { .. }), "{refused}");
    assert!(refused.to_string().contains("SQLITE_DB_PATH"));
}

#[test]
fn a_file_that_is_no_database_is_corrupt_and_the_message_says_what_to_run() {
    let house = House::new();
    std::fs::write(house.path(), "no database, ".repeat(1000)).expect("a file");
    let before = std::fs::read(house.path()).expect("bytes");
    let refused = Brain::open(house.options()).expect_err("refused");
    assert!(matches!(refused, OpenError::Corrupt { .. }), "{refused}");
    let text = refused.to_string();
    assert!(text.contains("september-engine verify") && text.contains("september-engine restore"), "{text}");
    assert_eq!(std::fs::read(house.path()).expect("bytes"), before);
}

#[test]
fn another_programs_database_is_left_alone() {
    let house = House::new();
    house.plain().execute_batch("CREATE TABLE theirs (x)").expect("a table");
    let before = std::fs::read(house.path()).expect("bytes");
    let refused = Brain::open(house.options()).expect_err("refused");
    assert!(matches!(refused, OpenError::NotABrain(_)), "{refused}");
    assert_eq!(std::fs::read(house.path()).expect("bytes"), before);
}

#[test]
fn shared_file_systems_are_refused_by_their_magic_number() {
    let table = [
        (0x6969, Kind::Refused("NFS")),
        (0x0102_1997, Kind::Refused("9p")),
        (0x6573_5546, Kind::Refused("FUSE or virtiofs")),
        (0x6a65_6a63, Kind::Refused("virtiofs")),
        (0xef53, Kind::Local("ext4")),
        (0x5846_5342, Kind::Local("xfs")),
        (0x0102_1994, Kind::Local("tmpfs")),
        (0x794c_7630, Kind::Local("overlayfs")),
        (0xdead_beef, Kind::Unknown(0xdead_beef)),
    ];
    for (magic, kind) in table {
        assert_eq!(classify(magic), kind, "{magic:#x}");
    }
    let refused = OpenError::UnsafeFilesystem { kind: "NFS".to_owned(), path: "/data".into() };
    assert!(refused.to_string().contains("BRAIN_ALLOW_UNSAFE_FS"));
    assert_eq!(refused.exit_code(), 4);
}
