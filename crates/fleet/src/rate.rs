//! The rate limit of a product: a generic cell rate algorithm on whole numbers.
//!
//! Emission interval T = 60 s ÷ rpm, tolerance 60 s − T: a quiet product may spend its whole minute at once. Times
//! are kept in units of 1/rpm ms, in which T is exactly 60 000, so nothing is rounded. It refuses to remember more
//! than one number per product. The invariants: any window of 60 s admits fewer than twice the limit, and a refused
//! call consumes nothing.

use std::fmt;

/// One minute, the span every limit is given for.
const MINUTE_MS: i128 = 60_000;

/// Refused: so many whole seconds, at least 1, until the next call passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RetryAfterSeconds(pub u64);

impl fmt::Display for RetryAfterSeconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rate limit exceeded. Retry in {} seconds.", self.0)
    }
}

impl std::error::Error for RetryAfterSeconds {}

/// State of one product's limit: the theoretical arrival time, and the limit it was counted under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Gcra {
    tat: i128,
    rpm: u32,
}

impl Gcra {
    /// Asks for one call at `now_ms` of a clock that does not go backwards. Another limit than at the last call
    /// (a policy change) begins afresh. A limit of 0 is none the policy accepts and admits nothing.
    pub fn check(&mut self, rpm: u32, now_ms: i64) -> Result<(), RetryAfterSeconds> {
        let scale = i128::from(rpm);
        if scale == 0 {
            return Err(RetryAfterSeconds(60));
        }
        let now = i128::from(now_ms) * scale;
        let mut tat = if self.rpm == rpm { self.tat } else { now };
        tat = tat.max(now);
        let tolerance = MINUTE_MS * scale - MINUTE_MS;
        if tat - tolerance > now {
            let wait = tat - tolerance - now;
            let second = 1000 * scale;
            let seconds = (wait + second - 1) / second;
            return Err(RetryAfterSeconds(u64::try_from(seconds).unwrap_or(u64::MAX).max(1)));
        }
        *self = Self { tat: tat + MINUTE_MS, rpm };
        Ok(())
    }

    /// True when it remembers nothing that a new one would not: the product may be forgotten.
    pub fn is_idle(&self, now_ms: i64) -> bool {
        self.tat <= i128::from(now_ms) * i128::from(self.rpm)
    }
}
