//! How long to wait before a failed call is sent again: arithmetic, without clock and without chance.

use std::time::Duration;

/// Wait before the first retry; doubles each time. Shorter would hammer a provider that restarts; longer
/// would be felt by the person waiting.
pub const FIRST_WAIT: Duration = Duration::from_millis(500);

/// Longest wait, jitter aside, reached at the seventh retry. Longer and the client gives up first.
pub const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Share by which a wait is stretched or shortened, so that many engines do not return in step.
pub const JITTER: f64 = 0.2;

/// The wait before retry number `retry` (0 for the first): 0.5 s × 2^retry, ±20 %. `jitter` is in 0..=1,
/// 0.5 meaning none.
pub fn back_off(retry: u32, jitter: f64) -> Duration {
    let base = FIRST_WAIT.saturating_mul(2_u32.saturating_pow(retry)).min(LONGEST_WAIT);
    base.mul_f64(1.0 + JITTER * (jitter.clamp(0.0, 1.0) * 2.0 - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_stay_within_a_fifth() {
        let middle: Vec<u128> = (0..8).map(|n| back_off(n, 0.5).as_millis()).collect();
        assert_eq!(middle, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
        assert_eq!(back_off(0, 0.0), Duration::from_millis(400));
        assert_eq!(back_off(0, 1.0), Duration::from_millis(600));
        assert_eq!(back_off(u32::MAX, 7.0), Duration::from_secs(36));
    }
}
