//! Orphans and mass absence: two passes, two brakes.

use contract::{EngineId, Timestamp};
use fleet::orphans::{Absence, ListVerdict, OrphanPass, Orphans};
use std::collections::BTreeSet;
use std::time::Duration;

const GRACE: Duration = Duration::from_secs(900);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(10_000_000 + seconds * 1000)
}

fn engine(number: u32) -> EngineId {
    EngineId::parse(&format!("00000000-0000-4000-8000-{number:012x}")).expect("a UUID")
}

fn objects(count: u32, made: Timestamp) -> Vec<(EngineId, Option<Timestamp>)> {
    (0..count).map(|number| (engine(number), Some(made))).collect()
}

#[test]
fn an_orphan_is_old_and_seen_in_two_passes() {
    let mut orphans = Orphans::default();
    let all = objects(100, at(-2000));
    let has_row = |id| id != engine(7);
    assert_eq!(orphans.pass(&all, has_row, GRACE, at(0)), OrphanPass { waiting: 1, ..OrphanPass::default() });
    assert_eq!(orphans.pass(&all, has_row, GRACE, at(30)).remove, [engine(7)]);
    // A row that appeared in between clears it, and it begins anew.
    assert_eq!(orphans.pass(&all, |_| true, GRACE, at(60)), OrphanPass::default());
    assert_eq!(orphans.pass(&all, has_row, GRACE, at(90)).waiting, 1);
}

#[test]
fn a_young_object_is_left_alone() {
    let mut orphans = Orphans::default();
    let all = objects(1, at(-100));
    for second in [0, 400, 800] {
        assert_eq!(orphans.pass(&all, |_| false, GRACE, at(second)).remove, []);
    }
    assert_eq!(orphans.pass(&all, |_| false, GRACE, at(801)).remove, [engine(0)]);
}

#[test]
fn an_object_of_unknown_age_is_as_old_as_its_first_sighting() {
    let mut orphans = Orphans::default();
    let all = [(engine(0), None)];
    assert_eq!(orphans.pass(&all, |_| false, GRACE, at(0)).remove, []);
    assert_eq!(orphans.pass(&all, |_| false, GRACE, at(900)).remove, []);
    assert_eq!(orphans.pass(&all, |_| false, GRACE, at(901)).remove, [engine(0)]);
}

#[test]
fn orphan_brake_after_old_restore() {
    let pass = |count: u32, lost: u32| {
        let mut orphans = Orphans::default();
        let all = objects(count, at(-2000));
        let lost: BTreeSet<EngineId> = (0..lost).map(engine).collect();
        let has_row = |id: EngineId| !lost.contains(&id);
        orphans.pass(&all, has_row, GRACE, at(0));
        let pass = orphans.pass(&all, has_row, GRACE, at(30));
        (pass.remove.len(), pass.braked.len())
    };
    assert_eq!(pass(100, 10), (10, 0), "ten percent is not more than ten percent");
    assert_eq!(pass(100, 11), (0, 11));
    assert_eq!(pass(2, 2), (2, 0), "fewer than three never set the brake");
    assert_eq!(pass(3, 3), (0, 3));
}

fn missing(numbers: std::ops::Range<u32>) -> BTreeSet<EngineId> {
    numbers.map(engine).collect()
}

#[test]
fn mass_absence_waits_for_agreement() {
    let mut absence = Absence::default();
    let gone = missing(0..60);
    assert_eq!(absence.judge(100, &gone, at(0)), ListVerdict::Doubted);
    assert_eq!(absence.judge(100, &gone, at(10)), ListVerdict::Doubted, "too soon to count");
    assert_eq!(absence.judge(100, &gone, at(30)), ListVerdict::Doubted, "one agrees");
    assert_eq!(absence.judge(100, &gone, at(59)), ListVerdict::Doubted);
    assert_eq!(absence.judge(100, &gone, at(60)), ListVerdict::Believed, "two agree");
    assert_eq!(absence.judge(100, &gone, at(61)), ListVerdict::Believed);
    assert_eq!(absence.judge(100, &missing(0..3), at(62)), ListVerdict::Believed);
    assert_eq!(absence.judge(100, &gone, at(63)), ListVerdict::Doubted, "a new silence begins anew");
}

#[test]
fn lists_that_lack_different_engines_do_not_agree() {
    let mut absence = Absence::default();
    assert_eq!(absence.judge(100, &missing(0..60), at(0)), ListVerdict::Doubted);
    assert_eq!(absence.judge(100, &missing(40..100), at(30)), ListVerdict::Doubted);
    assert_eq!(
        absence.judge(100, &missing(40..100), at(60)),
        ListVerdict::Doubted,
        "only one agrees with the second"
    );
    assert_eq!(absence.judge(100, &missing(40..100), at(90)), ListVerdict::Believed);
}

#[test]
fn few_or_half_are_no_mass() {
    let mut absence = Absence::default();
    assert_eq!(absence.judge(4, &missing(0..4), at(0)), ListVerdict::Believed);
    assert_eq!(absence.judge(10, &missing(0..5), at(0)), ListVerdict::Believed);
    assert_eq!(absence.judge(9, &missing(0..5), at(0)), ListVerdict::Doubted);
}
