//! What a person's thumb does: to memories, and to skills learned from experience.
//!
//! "up" confirms what was recalled or written in that turn, "down" doubts it. Nothing is deleted here; a skill that fell
//! too low is told to go.
//!
//! The invariant: confidence stays from 0 to 1, "down" weighs more than "up".

use crate::confidence::within;
use contract::memory::{Rating, Trust};
use std::collections::BTreeSet;

/// What "up" adds to a memory. Larger makes one thumb equal to a statement.
pub const MEMORY_UP: f64 = 0.05;
/// What "down" takes from a memory. Larger silences a right memory because of one bad answer; smaller needs ten
/// complaints.
pub const MEMORY_DOWN: f64 = 0.2;

/// What a skill learned from experience starts with: listed, not offered. Higher offers what nobody has approved.
pub const SKILL_START: f64 = 0.5;
/// What "up" adds to a skill: two of them offer it.
pub const SKILL_UP: f64 = 0.1;
/// What "down" takes from a skill.
pub const SKILL_DOWN: f64 = 0.2;
/// From here on a skill is offered to agents. Lower offers it unseen; higher hides what the person likes.
pub const SKILL_OFFERED_FROM: f64 = 0.7;
/// Below this a skill is removed. Higher removes it at the first complaint.
pub const SKILL_REMOVED_BELOW: f64 = 0.2;
/// What a skill has that the person has written.
pub const SKILL_WRITTEN: f64 = 1.0;
/// Turns that must have gone the same way. Fewer makes a skill of a coincidence.
pub const SKILL_TURNS: usize = 3;

/// Sums like 0.5 + 0.1 + 0.1 must reach 0.7: confidences are kept to this many parts of 1.
const PARTS: f64 = 1e9;

/// A memory's confidence after a rating.
pub fn memory_after(confidence: f64, rating: Rating) -> f64 {
    rounded(match rating {
        Rating::Up => confidence + MEMORY_UP,
        Rating::Down => confidence - MEMORY_DOWN,
    })
}

/// What becomes of a skill.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Skill {
    /// Listed, but not offered to agents.
    Listed(f64),
    /// Offered to agents.
    Offered(f64),
    /// To be removed.
    Removed,
}

impl Skill {
    /// What a confidence means.
    pub fn of(confidence: f64) -> Self {
        if confidence < SKILL_REMOVED_BELOW {
            Skill::Removed
        } else if confidence < SKILL_OFFERED_FROM {
            Skill::Listed(confidence)
        } else {
            Skill::Offered(confidence)
        }
    }

    /// After a rating.
    pub fn after(confidence: f64, rating: Rating) -> Self {
        Self::of(rounded(match rating {
            Rating::Up => confidence + SKILL_UP,
            Rating::Down => confidence - SKILL_DOWN,
        }))
    }
}

/// A finished turn that shows a procedure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Showing<'a> {
    /// Which turn.
    pub turn_id: &'a str,
    /// How far it may be trusted.
    pub trust: Trust,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a turn ended, as far as a procedure is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With an answer, and nobody complained.
    Succeeded,
    /// Otherwise.
    Failed,
}

/// True when enough turns that may be trusted went the same way: then it becomes a skill of [`SKILL_START`].
pub fn makes_a_skill(showings: &[Showing<'_>]) -> bool {
    let turns: BTreeSet<&str> = showings
        .iter()
        .filter(|s| s.trust >= Trust::Tool && s.outcome == Outcome::Succeeded)
        .map(|s| s.turn_id)
        .collect();
    turns.len() >= SKILL_TURNS
}

fn rounded(confidence: f64) -> f64 {
    within((confidence * PARTS).round() / PARTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn up_confirms_and_down_doubts_within_bounds() {
        assert_eq!(memory_after(0.9, Rating::Up), 0.95);
        assert_eq!(memory_after(0.98, Rating::Up), 1.0);
        assert_eq!(memory_after(0.9, Rating::Down), 0.7);
        assert_eq!(memory_after(0.1, Rating::Down), 0.0);
    }

    #[test]
    fn two_thumbs_up_offer_a_skill_and_two_down_remove_it() {
        assert_eq!(Skill::of(SKILL_START), Skill::Listed(0.5));
        assert_eq!(Skill::after(0.5, Rating::Up), Skill::Listed(0.6));
        assert_eq!(Skill::after(0.6, Rating::Up), Skill::Offered(0.7));
        assert_eq!(Skill::after(0.5, Rating::Down), Skill::Listed(0.3));
        assert_eq!(Skill::after(0.3, Rating::Down), Skill::Removed);
        assert_eq!(Skill::of(0.2), Skill::Listed(0.2));
        assert_eq!(Skill::of(SKILL_WRITTEN), Skill::Offered(1.0));
    }

    #[test]
    fn a_skill_needs_three_good_turns_that_may_be_trusted() {
        let showing = |turn_id, trust, outcome| Showing { turn_id, trust, outcome };
        let good = |turn_id| showing(turn_id, Trust::Tool, Outcome::Succeeded);
        assert!(makes_a_skill(&[good("a"), good("b"), good("c")]));
        assert!(!makes_a_skill(&[good("a"), good("b"), good("b")]));
        assert!(!makes_a_skill(&[good("a"), good("b"), showing("c", Trust::Untrusted, Outcome::Succeeded)]));
        assert!(!makes_a_skill(&[good("a"), good("b"), showing("c", Trust::User, Outcome::Failed)]));
    }
}
