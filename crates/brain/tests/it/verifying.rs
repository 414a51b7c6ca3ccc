//! What `verify` finds, and that it finds nothing in a sound brain.

use crate::house::{House, at, put, turn};
use brain::schema::MIGRATIONS;
use brain::verify;

fn checks(house: &House) -> Vec<&'static str> {
    let report = verify::run(&house.path(), MIGRATIONS).expect("a report");
    assert_eq!(report.ok, report.findings.is_empty());
    let mut checks: Vec<_> = report.findings.iter().map(|f| f.check).collect();
    checks.dedup();
    checks
}

#[tokio::test]
async fn a_brain_in_use_is_sound() {
    let house = House::new();
    let brain = house.open();
    turn(&brain, "a").await;
    put(&brain, "k", "v").await.expect("a write");
    let report = verify::run(&house.path(), MIGRATIONS).expect("a report");
    assert!(report.ok, "{:?}", report.findings);
    assert_eq!((report.tables["tasks"], report.tables["turns"]), (1, 1));
    assert_eq!(report.schema_version, brain.schema_version());
    put(&brain, "k", "w").await.expect("and goes on");
}

#[tokio::test]
async fn rows_without_parents_and_blobs_with_other_contents_are_found() {
    let house = House::new();
    let brain = house.open();
    turn(&brain, "a").await;
    brain.write("blob", |tx| brain::blobs::put(tx, b"as named", "text/plain", at(1))).await.expect("a blob");
    brain.close();
    house
        .plain()
        .execute_batch("PRAGMA foreign_keys = OFF; DELETE FROM tasks; UPDATE blobs SET data = x'00';")
        .expect("damage");
    assert_eq!(checks(&house), ["foreign_keys", "blobs"]);
}

#[tokio::test]
async fn a_damaged_page_is_found_and_writes_stop() {
    let house = House::new();
    let brain = house.open();
    for n in 0..64_u8 {
        put(&brain, &format!("key-{n}"), &"v".repeat(500)).await.expect("a write");
    }
    brain.close();
    let plain = house.plain();
    let page = crate::house::number(&plain, "SELECT rootpage FROM sqlite_schema WHERE name = 'brain_meta'");
    let size = crate::house::number(&plain, "PRAGMA page_size");
    drop(plain);
    let mut bytes = std::fs::read(house.path()).expect("bytes");
    let start = usize::try_from((page - 1) * size).expect("an offset");
    bytes[start..start + 4096].fill(0xff);
    std::fs::write(house.path(), bytes).expect("damage");
    assert!(!checks(&house).is_empty());
}

#[tokio::test]
async fn corruption_met_while_running_stops_writes_and_is_told() {
    let house = House::new();
    let brain = house.open();
    put(&brain, "k", "v").await.expect("a write");
    let met = brain
        .read("test", |_| -> brain::Result<()> { Err(brain::Error::Corrupt("page 7".to_owned())) })
        .await;
    assert!(matches!(met, Err(brain::Error::Corrupt(_))));
    assert!(brain.is_failed());
    let refused = put(&brain, "k", "w").await.expect_err("writes stopped");
    assert!(matches!(refused, brain::Error::Corrupt(_)), "{refused}");
    assert!(refused.to_string().contains("september-engine restore"));
    assert_eq!(crate::house::get(&brain, "k").await.as_deref(), Some("v"), "reads go on");
}
