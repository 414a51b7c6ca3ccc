//! How sure a memory is: where it starts, how it is confirmed, how it fades.
//!
//! The stored confidence changes only by confirmation and feedback; fading is computed from the time since the last
//! confirmation and never written back, so that reading a brain does not change it.
//!
//! The invariant: confidence is a number from 0 to 1.

use crate::retrieval::{CONFIDENCE_FLOOR, CONFIDENCE_HALF_LIFE_DAYS};
use contract::Timestamp;
use contract::memory::EpisodeKind;

/// What a turn's own episode starts with: it happened, but nobody said that it matters. Higher lets small talk stand
/// before what was kept on purpose; lower lets it sink before the Learning Centre has read it.
pub const TURN: f64 = 0.6;
/// What a note starts with: somebody meant it to be kept. Higher equals it to a person's statement.
pub const NOTE: f64 = 0.8;
/// What is written through the API or by knowledge_write starts with. Lower puts it behind guesses.
pub const STATED: f64 = 0.9;
/// The most the Learning Centre may start with, whatever it believes of itself. Higher puts what a model inferred
/// before what a person wrote.
pub const LEARNED_MOST: f64 = 0.9;
/// What one confirmation adds. Larger makes repetition truth within an afternoon; smaller makes it count for nothing.
pub const CONFIRMATION: f64 = 0.05;
/// Below this, after fading, a memory is stale: kept, ranked low, counted. Higher calls things stale that are still
/// recalled; lower never does within a few years.
pub const STALE_BELOW: f64 = 0.1;

/// Milliseconds of a day.
const DAY_MS: f64 = 86_400_000.0;

/// The starting confidence of an episode; `estimate` is the Learning Centre's own, for events.
pub fn of_episode(kind: EpisodeKind, estimate: f64) -> f64 {
    match kind {
        EpisodeKind::Turn => TURN,
        EpisodeKind::Note => NOTE,
        EpisodeKind::Event => learned(estimate),
    }
}

/// What the Learning Centre's estimate is worth.
pub fn learned(estimate: f64) -> f64 {
    within(estimate).min(LEARNED_MOST)
}

/// After one more confirmation.
pub fn confirmed(confidence: f64) -> f64 {
    rounded(within(confidence + CONFIRMATION))
}

/// After the time since the last confirmation; may become as small as you like.
pub fn faded(confidence: f64, last_confirmed: Timestamp, now: Timestamp) -> f64 {
    within(confidence) * (-days_between(last_confirmed, now) / CONFIDENCE_HALF_LIFE_DAYS).exp2()
}

/// The `conf` of ranking: faded, but never nothing.
pub fn for_ranking(confidence: f64, last_confirmed: Timestamp, now: Timestamp) -> f64 {
    faded(confidence, last_confirmed, now).max(CONFIDENCE_FLOOR)
}

/// True when a memory has faded so far that it counts as stale.
pub fn is_stale(confidence: f64, last_confirmed: Timestamp, now: Timestamp) -> bool {
    faded(confidence, last_confirmed, now) < STALE_BELOW
}

/// With the four digits that are kept: sums of 0.05 are shown as they are meant, not as binary fractions.
fn rounded(confidence: f64) -> f64 {
    (confidence * 10_000.0).round() / 10_000.0
}

/// A number from 0 to 1; what is no number is 0.
pub fn within(confidence: f64) -> f64 {
    if confidence.is_nan() { 0.0 } else { confidence.clamp(0.0, 1.0) }
}

/// Days from one instant to a later one; an instant that lies ahead counts as now.
pub fn days_between(earlier: Timestamp, now: Timestamp) -> f64 {
    (now.millis().saturating_sub(earlier.millis())).max(0) as f64 / DAY_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;
    const NOW: Timestamp = Timestamp::from_millis(1_777_293_296_000);

    #[test]
    fn confidence_halves_in_three_years_without_confirmation() {
        let long_ago = NOW.plus_millis(-1095 * DAY);
        assert!((faded(0.8, long_ago, NOW) - 0.4).abs() < 1e-12);
        assert!((faded(0.8, NOW.plus_millis(DAY), NOW) - 0.8).abs() < 1e-12, "the future is now");
        assert_eq!(for_ranking(0.0, long_ago, NOW), CONFIDENCE_FLOOR);
    }

    #[test]
    fn a_memory_is_stale_only_after_fading_below_a_tenth() {
        assert!(is_stale(0.19, NOW.plus_millis(-1095 * DAY), NOW));
        assert!(!is_stale(0.21, NOW.plus_millis(-1095 * DAY), NOW));
        assert!(!is_stale(0.1, NOW, NOW));
    }

    #[test]
    fn confirmation_ends_at_certainty() {
        assert!((confirmed(0.9) - 0.95).abs() < 1e-12);
        assert_eq!(confirmed(0.9), 0.95);
        assert_eq!(confirmed(0.98), 1.0);
        assert_eq!(confirmed(f64::NAN), 0.0);
    }

    #[test]
    fn the_learning_centre_is_never_surer_than_a_person() {
        assert_eq!(learned(1.0), LEARNED_MOST);
        assert_eq!(of_episode(EpisodeKind::Event, 0.4), 0.4);
        assert_eq!(of_episode(EpisodeKind::Turn, 1.0), TURN);
    }
}
