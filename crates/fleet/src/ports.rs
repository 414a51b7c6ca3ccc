//! Which host port a new engine gets: the next free one above the last handed out, else the smallest free.
//!
//! The same choice the registry makes in SQL under its advisory lock; here it is pure, for proofs and for the
//! backends without a database. It refuses to reuse early: next fit keeps a port that was just given back unused
//! for as long as possible. The invariant: a port that is taken or in quarantine is never chosen.

/// Why a range is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RangeProblem {
    /// Ports below 1024 need privileges.
    #[error("the lowest port must be at least 1024")]
    TooLow,
    /// Nothing between the ends.
    #[error("the lowest port is above the highest")]
    Empty,
    /// An engine would take the orchestrator's own port.
    #[error("port {0} of a listener lies inside the range")]
    ListenerInside(u16),
}

/// Checks `ORCH_PORT_MIN`..=`ORCH_PORT_MAX` against the ports of the orchestrator's own listeners.
pub fn validate(min: u16, max: u16, listeners: &[u16]) -> Result<(), RangeProblem> {
    if min < 1024 {
        return Err(RangeProblem::TooLow);
    }
    if min > max {
        return Err(RangeProblem::Empty);
    }
    match listeners.iter().find(|port| (min..=max).contains(port)) {
        Some(&port) => Err(RangeProblem::ListenerInside(port)),
        None => Ok(()),
    }
}

/// The port to hand out after `cursor`; `None` = exhausted. `is_taken` answers for rows and quarantines.
pub fn pick(min: u16, max: u16, cursor: u16, is_taken: impl Fn(u16) -> bool) -> Option<u16> {
    let above = (min.max(cursor.saturating_add(1))..=max).filter(|&port| port > cursor);
    let below = min..=max.min(cursor);
    above.chain(below).find(|&port| !is_taken(port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn ports_are_handed_out_next_fit() {
        assert_eq!(pick(9001, 9003, 0, |_| false), Some(9001));
        assert_eq!(pick(9001, 9003, 9001, |_| false), Some(9002));
        assert_eq!(pick(9001, 9003, 9003, |_| false), Some(9001));
        assert_eq!(pick(9001, 9003, 9001, |p| p == 9002), Some(9003));
        assert_eq!(pick(9001, 9003, 9001, |p| p != 9001), Some(9001));
        assert_eq!(pick(9001, 9003, 9001, |_| true), None);
        assert_eq!(pick(65535, 65535, 65535, |_| false), Some(65535));
        assert_eq!(pick(9001, 9003, 20000, |_| false), Some(9001));
    }

    #[test]
    fn ranges_that_hurt_are_refused() {
        assert_eq!(validate(9001, 9999, &[8000, 9090 - 1000]), Ok(()));
        assert_eq!(validate(80, 9999, &[]), Err(RangeProblem::TooLow));
        assert_eq!(validate(9002, 9001, &[]), Err(RangeProblem::Empty));
        assert_eq!(validate(9001, 9999, &[8000, 9090]), Err(RangeProblem::ListenerInside(9090)));
        assert_eq!(validate(9001, 9001, &[9002]), Ok(()));
    }

    proptest! {
        /// The same order as the statement of the registry: `ORDER BY (p <= cursor), p`.
        #[test]
        fn the_choice_is_that_of_the_statement(
            min in 1024u16..1100, span in 0u16..40, cursor in 0u16..1200,
            taken in prop::collection::btree_set(1024u16..1140, 0..60),
        ) {
            let max = min + span;
            let free: BTreeSet<(bool, u16)> =
                (min..=max).filter(|p| !taken.contains(p)).map(|p| (p <= cursor, p)).collect();
            let expected = free.first().map(|&(_, p)| p);
            prop_assert_eq!(pick(min, max, cursor, |p| taken.contains(&p)), expected);
        }
    }
}
