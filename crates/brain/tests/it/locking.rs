//! One process per brain.

use crate::child::Player;
use crate::house::House;
use brain::{Brain, OpenError, OpenOptions, lock};
use std::time::Duration;

#[test]
fn a_second_process_is_told_who_holds_the_brain() {
    let house = House::new();
    let other = Player::holds(&house.path());
    let refused = Brain::open(house.options()).expect_err("locked");
    let OpenError::Locked { holder: Some(holder), .. } = &refused else { panic!("{refused}") };
    assert_eq!(holder.pid, other.pid());
    assert!(!holder.boot_id.is_empty());
    assert_eq!(refused.exit_code(), 4);
    assert!(refused.to_string().contains(&format!("process {}", other.pid())), "{refused}");

    other.released();
    house.open().close();
    assert!(lock::lock_path(&house.path()).exists(), "the lock file is never deleted");
}

#[test]
fn a_killed_holder_leaves_no_lock() {
    let house = House::new();
    Player::holds(&house.path()).killed();
    house.open().close();
}

#[test]
fn a_waiting_start_gets_the_brain_when_its_holder_ends() {
    let house = House::new();
    let other = Player::holds(&house.path());
    let path = house.path();
    let waiting = std::thread::spawn(move || {
        Brain::open(OpenOptions { lock_wait: Duration::from_secs(60), ..OpenOptions::at(path) })
    });
    other.released();
    waiting.join().expect("the waiting thread").expect("the brain").close();
}

#[test]
fn a_server_can_answer_between_its_attempts() {
    let house = House::new();
    let guard = lock::try_acquire(&house.path()).expect("free");
    let refused = lock::try_acquire(&house.path()).expect_err("held, even by ourselves");
    assert!(matches!(refused, OpenError::Locked { holder: Some(h), .. } if h.pid == std::process::id()));
    let brain = Brain::open_locked(house.options(), guard).expect("opens under the lock");
    assert!(lock::try_acquire(&house.path()).is_err());
    brain.close();
    assert!(lock::try_acquire(&house.path()).is_ok());
}

#[test]
fn a_refused_opening_gives_the_lock_back() {
    let house = House::new();
    std::fs::write(house.path(), "no database, ".repeat(1000)).expect("a file");
    Brain::open(house.options()).expect_err("corrupt");
    assert!(lock::try_acquire(&house.path()).is_ok());
}

#[test]
fn the_last_handle_to_go_lets_the_lock_go() {
    let house = House::new();
    let brain = house.open();
    let second = brain.clone();
    drop(brain);
    assert!(lock::try_acquire(&house.path()).is_err());
    drop(second);
    assert!(lock::try_acquire(&house.path()).is_ok());
}
