//! The rate limit: what any minute admits, and what a refusal says.

use fleet::rate::{Gcra, RetryAfterSeconds};
use proptest::prelude::*;

#[test]
fn a_quiet_product_may_spend_its_whole_minute_at_once() {
    for rpm in [1, 7, 60, 600, 59_999] {
        let mut rate = Gcra::default();
        let passed = (0..rpm + 5).filter(|_| rate.check(rpm, 1_000_000).is_ok()).count();
        assert_eq!(passed, rpm as usize, "rpm {rpm}");
    }
}

#[test]
fn one_call_comes_back_per_emission_interval() {
    let mut rate = Gcra::default();
    for _ in 0..6 {
        rate.check(6, 0).expect("the minute is unspent");
    }
    assert_eq!(rate.check(6, 0), Err(RetryAfterSeconds(10)));
    assert_eq!(rate.check(6, 9_000), Err(RetryAfterSeconds(1)));
    assert_eq!(rate.check(6, 9_999), Err(RetryAfterSeconds(1)));
    assert_eq!(rate.check(6, 10_000), Ok(()));
    assert_eq!(rate.check(6, 10_000), Err(RetryAfterSeconds(10)));
}

#[test]
fn a_policy_change_resets_the_state() {
    let mut rate = Gcra::default();
    rate.check(1, 0).expect("the first passes");
    assert_eq!(rate.check(1, 0), Err(RetryAfterSeconds(60)));
    assert_eq!(rate.check(2, 0), Ok(()));
    assert_eq!(rate.check(1, 0), Ok(()));
}

#[test]
fn the_message_names_the_same_seconds() {
    assert_eq!(RetryAfterSeconds(12).to_string(), "Rate limit exceeded. Retry in 12 seconds.");
}

#[test]
fn a_forgotten_product_is_one_that_remembers_nothing() {
    let mut rate = Gcra::default();
    assert!(rate.is_idle(0));
    rate.check(60, 0).expect("passes");
    assert!(!rate.is_idle(999));
    assert!(rate.is_idle(1000));
}

fn calls() -> impl Strategy<Value = (u32, Vec<i64>)> {
    (1u32..200, prop::collection::vec(prop_oneof![Just(0i64), 1i64..50, 1i64..3000], 1..600))
}

proptest! {
    #[test]
    fn rate_limit_any_window_below_twice_the_limit((rpm, gaps) in calls(), begin in 0i64..1_900_000_000_000) {
        let (mut rate, mut now, mut passed) = (Gcra::default(), begin, Vec::new());
        for gap in gaps {
            now += gap;
            if rate.check(rpm, now).is_ok() {
                passed.push(now);
            }
        }
        for (from, &start) in passed.iter().enumerate() {
            let inside = passed[from..].iter().take_while(|&&at| at < start + 60_000).count();
            prop_assert!(inside < 2 * rpm as usize || rpm == 1 && inside <= 1, "{} calls at limit {}", inside, rpm);
        }
    }

    /// A caller that hammers gets exactly as much as one that comes when told.
    #[test]
    fn refused_calls_do_not_consume((rpm, gaps) in calls()) {
        let (mut hammered, mut polite, mut now) = (Gcra::default(), Gcra::default(), 0);
        for gap in gaps {
            now += gap;
            let answer = hammered.check(rpm, now);
            for _ in 0..3 {
                if answer.is_err() {
                    prop_assert_eq!(hammered.check(rpm, now), answer);
                }
            }
            prop_assert_eq!(polite.check(rpm, now), answer);
        }
        prop_assert_eq!(hammered, polite);
    }

    #[test]
    fn coming_back_when_told_always_succeeds((rpm, gaps) in calls()) {
        let (mut rate, mut now) = (Gcra::default(), 0);
        for gap in gaps {
            now += gap;
            if let Err(RetryAfterSeconds(seconds)) = rate.check(rpm, now) {
                prop_assert!((1..=60).contains(&seconds));
                now += i64::try_from(seconds).expect("a minute fits") * 1000;
                prop_assert_eq!(rate.check(rpm, now), Ok(()));
            }
        }
    }
}
