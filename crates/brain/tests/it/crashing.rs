//! kill -9.

use crate::child::Player;
use crate::house::{House, get};
use brain::{meta, verify};
use std::hash::{BuildHasher, RandomState};

#[tokio::test]
async fn what_write_returned_survives_kill_minus_nine() {
    let house = House::new();
    let rounds = 6;
    for round in 1..=rounds {
        let mut writer = Player::writes(&house.path());
        // At least one: an opening notes itself with its first commit.
        let enough = 1 + RandomState::new().hash_one(round) % 200;
        let mut acked = Vec::new();
        for _ in 0..enough {
            acked.push(writer.line().expect("it writes until killed"));
        }
        acked.extend(writer.killed());
        assert!(acked.iter().any(|line| line.starts_with("acked ")), "{acked:?}");
        let brain = house.open();
        for line in &acked {
            if let Some(key) = line.strip_prefix("acked ") {
                assert_eq!(get(&brain, key).await.as_deref(), Some("written"), "{key} was acknowledged");
            }
        }
        brain.close();
        let report = verify::run(&house.path(), brain::schema::MIGRATIONS).expect("a report");
        assert!(report.ok, "{:?}", report.findings);
    }
    let crashes: u32 =
        crate::house::fact(&house.path(), meta::CRASH_COUNT).expect("counted").parse().expect("n");
    assert_eq!(crashes, rounds, "every kill is counted as a crash at the next opening");
}
