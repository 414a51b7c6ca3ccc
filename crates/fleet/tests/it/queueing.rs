//! The start queue: order, reserve, fairness, ageing, bounds and truthful waiting times.

use contract::{ProductId, Timestamp};
use fleet::start_queue::{Class, Full, StartQueue, Ticket};
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_000_000_000 + seconds * 1000)
}

fn product(letter: char) -> ProductId {
    let text = format!("00000000-0000-4000-8000-{:012x}", u32::from(letter));
    ProductId::parse(&text).expect("a UUID")
}

fn put(queue: &mut StartQueue, number: u64, class: Class, of: char, now: Timestamp) {
    queue.enqueue(Ticket(number), class, product(of), now).expect("there is room");
}

fn drain(queue: &mut StartQueue, now: Timestamp) -> Vec<u64> {
    let mut order = Vec::new();
    while let Some(ticket) = queue.next(now) {
        queue.release(ticket);
        order.push(ticket.0);
    }
    order
}

#[test]
fn classes_go_in_order() {
    let mut queue = StartQueue::new(1, 100);
    for (number, &class) in Class::ALL.iter().rev().enumerate() {
        put(&mut queue, number as u64, class, 'a', at(0));
    }
    assert_eq!(drain(&mut queue, at(0)), [4, 3, 2, 1, 0]);
}

#[test]
fn products_take_turns_and_each_is_served_in_order() {
    let mut queue = StartQueue::new(1, 100);
    for number in 0..4 {
        put(&mut queue, number, Class::Interactive, 'a', at(0));
    }
    put(&mut queue, 10, Class::Interactive, 'b', at(0));
    put(&mut queue, 11, Class::Interactive, 'b', at(0));
    put(&mut queue, 20, Class::Interactive, 'c', at(0));
    assert_eq!(drain(&mut queue, at(0)), [0, 10, 20, 1, 11, 2, 3]);
}

#[test]
fn a_quarter_of_the_permits_serves_people_only() {
    let mut queue = StartQueue::new(8, 100);
    assert_eq!(queue.interactive_only(), 2);
    for number in 0..10 {
        put(&mut queue, number, Class::Restart, 'a', at(0));
    }
    let restarts = std::iter::from_fn(|| queue.next(at(0))).count();
    assert_eq!(restarts, 6);
    put(&mut queue, 100, Class::Interactive, 'a', at(0));
    put(&mut queue, 101, Class::Interactive, 'a', at(0));
    put(&mut queue, 102, Class::Interactive, 'a', at(0));
    assert_eq!(queue.next(at(0)), Some(Ticket(100)));
    assert_eq!(queue.next(at(0)), Some(Ticket(101)));
    assert_eq!(queue.next(at(0)), None, "eight permits are out");
    queue.release(Ticket(0));
    queue.release(Ticket(0));
    assert_eq!(queue.next(at(0)), Some(Ticket(102)), "a double release frees one permit");
    assert_eq!(queue.next(at(0)), None);
}

#[test]
fn aged_restarts_do_not_eat_the_reserve_of_people() {
    let mut queue = StartQueue::new(4, 100);
    for number in 0..10 {
        put(&mut queue, number, Class::Restart, 'a', at(0));
    }
    assert_eq!(std::iter::from_fn(|| queue.next(at(100))).count(), 3);
    put(&mut queue, 50, Class::Interactive, 'b', at(100));
    assert_eq!(queue.next(at(100)), Some(Ticket(50)));
}

#[test]
fn waiting_thirty_seconds_moves_up_one_class() {
    let mut queue = StartQueue::new(1, 100);
    put(&mut queue, 1, Class::Schedule, 'a', at(0));
    put(&mut queue, 2, Class::Restart, 'a', at(29));
    assert_eq!(queue.next(at(29)), Some(Ticket(2)));
    queue.release(Ticket(2));
    put(&mut queue, 3, Class::Restart, 'a', at(29));
    assert_eq!(queue.next(at(30)), Some(Ticket(1)), "as old as its new class, it is first come");
}

#[test]
fn nothing_starves_under_endless_interactive_load() {
    let mut queue = StartQueue::new(1, 1000);
    put(&mut queue, 0, Class::Removal, 'z', at(0));
    let mut served_at = None;
    for second in 0..300 {
        put(&mut queue, 1 + second, Class::Interactive, 'a', at(second as i64));
        put(&mut queue, 1001 + second, Class::Interactive, 'b', at(second as i64));
        let ticket = queue.next(at(second as i64)).expect("somebody waits");
        queue.release(ticket);
        if ticket == Ticket(0) {
            served_at = Some(second);
            break;
        }
    }
    assert!(served_at.is_some_and(|second| (120..130).contains(&second)), "{served_at:?}");
}

#[test]
fn hold_is_bounded_and_shed_with_retry_after() {
    let mut queue = StartQueue::new(1, 2);
    put(&mut queue, 1, Class::Interactive, 'a', at(0));
    put(&mut queue, 2, Class::Interactive, 'a', at(0));
    let refused = queue.enqueue(Ticket(3), Class::Interactive, product('a'), at(0));
    assert_eq!(refused, Err(Full { retry_after_s: 60 }), "nothing is known to move");
    assert_eq!(queue.enqueue(Ticket(2), Class::Interactive, product('a'), at(0)), Ok(()), "waits already");
    assert!(queue.cancel(Ticket(1)));
    assert!(!queue.cancel(Ticket(1)));
    assert_eq!(queue.enqueue(Ticket(3), Class::Interactive, product('a'), at(0)), Ok(()));
    assert_eq!(drain(&mut queue, at(0)), [2, 3]);
}

#[test]
fn retry_after_is_truthful() {
    // Starts take 0.5 s each on one permit: two per second.
    let mut queue = StartQueue::new(1, 40);
    let (mut number, mut clock) = (0, 0);
    let time = |half_seconds: i64| at(0).plus_millis(half_seconds * 500);
    while clock < 240 {
        while queue.waiting() < 40 {
            put(&mut queue, number, Class::Interactive, 'a', time(clock));
            number += 1;
        }
        let ticket = queue.next(time(clock)).expect("somebody waits");
        clock += 1;
        queue.release(ticket);
        if queue.waiting() == 40 {
            continue;
        }
    }
    put(&mut queue, number, Class::Interactive, 'a', time(clock));
    let Err(Full { retry_after_s }) =
        queue.enqueue(Ticket(number + 1), Class::Interactive, product('a'), time(clock))
    else {
        panic!("the queue is full")
    };
    let truth = 40 / 2;
    assert!((truth / 2..=truth * 2).contains(&retry_after_s), "{retry_after_s} for {truth}");
    // Whoever ranks above those that wait has nobody ahead.
    let mut restarts = StartQueue::new(1, 4);
    for number in 0..4 {
        put(&mut restarts, number, Class::Restart, 'a', at(0));
    }
    assert_eq!(restarts.retry_after_s(Class::Interactive, at(0)), 1);
}

#[derive(Debug, Clone)]
enum Act {
    Put(u64, usize, char),
    Next,
    Release(u64),
    Cancel(u64),
    Wait(i64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0u64..40, 0usize..5, prop::char::range('a', 'd')).prop_map(|(n, c, p)| Act::Put(n, c, p)),
        3 => Just(Act::Next),
        2 => (0u64..40).prop_map(Act::Release),
        1 => (0u64..40).prop_map(Act::Cancel),
        1 => (0i64..40_000).prop_map(Act::Wait),
    ]
}

proptest! {
    #[test]
    fn permits_and_places_are_never_exceeded_and_no_ticket_is_served_twice(
        permits in 1usize..12, places in 1usize..20, acts in prop::collection::vec(act(), 1..300),
    ) {
        let mut queue = StartQueue::new(permits, places);
        let mut waiting: HashMap<u64, Class> = HashMap::new();
        let mut running: HashMap<u64, Class> = HashMap::new();
        let mut now = at(0);
        for act in acts {
            match act {
                Act::Put(number, class, of) => {
                    let class = Class::ALL[class];
                    let known = waiting.contains_key(&number) || running.contains_key(&number);
                    let answer = queue.enqueue(Ticket(number), class, product(of), now);
                    match answer {
                        Ok(()) if !known => { waiting.insert(number, class); }
                        Ok(()) => {}
                        Err(Full { retry_after_s }) => {
                            prop_assert!(waiting.len() == places && !known);
                            prop_assert!((1..=60).contains(&retry_after_s));
                        }
                    }
                }
                Act::Next => match queue.next(now) {
                    Some(Ticket(number)) => {
                        let class = waiting.remove(&number);
                        prop_assert!(class.is_some(), "{} did not wait", number);
                        running.extend(class.map(|class| (number, class)));
                    }
                    None => {
                        let others = running.values().filter(|c| **c != Class::Interactive).count();
                        let full = running.len() == permits;
                        let reserve_only = others == permits - permits / 4
                            && !waiting.values().any(|c| *c == Class::Interactive);
                        prop_assert!(waiting.is_empty() || full || reserve_only, "idle permits while {:?} wait", waiting);
                    }
                },
                Act::Release(number) => {
                    queue.release(Ticket(number));
                    running.remove(&number);
                }
                Act::Cancel(number) => {
                    let known = waiting.remove(&number).is_some() | running.remove(&number).is_some();
                    prop_assert_eq!(queue.cancel(Ticket(number)), known);
                }
                Act::Wait(ms) => now = now.plus_millis(ms),
            }
            prop_assert_eq!(queue.waiting(), waiting.len());
            prop_assert_eq!(queue.running(), running.len());
            prop_assert!(running.len() <= permits && waiting.len() <= places);
            let others = running.values().filter(|c| **c != Class::Interactive).count();
            prop_assert!(others <= permits - permits / 4);
            let both: HashSet<_> = waiting.keys().filter(|n| running.contains_key(n)).collect();
            prop_assert!(both.is_empty());
        }
    }
}
