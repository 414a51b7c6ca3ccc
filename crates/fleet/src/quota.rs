//! The quota of a product: engines in any of the six states count, destroyed ones have no row.
//!
//! Pure comparison; that the count is exact is the work of the transaction that holds the product row. It refuses
//! to destroy anything: a lowered limit only refuses new engines. The invariant: never exceeded, not by one.

use std::fmt;

/// The product is at its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaExceeded {
    /// `max_engines` of the policy.
    pub limit: u64,
}

impl fmt::Display for QuotaExceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Product at max_engines limit ({}).", self.limit)
    }
}

impl std::error::Error for QuotaExceeded {}

/// May one more engine be added to `engines`? `None` = no limit.
pub fn check(engines: u64, max_engines: Option<u64>) -> Result<(), QuotaExceeded> {
    match max_engines {
        Some(limit) if engines >= limit => Err(QuotaExceeded { limit }),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quota_is_never_exceeded_not_by_one() {
        assert_eq!(check(9, Some(10)), Ok(()));
        assert_eq!(check(10, Some(10)), Err(QuotaExceeded { limit: 10 }));
        assert_eq!(check(11, Some(10)), Err(QuotaExceeded { limit: 10 }));
        assert_eq!(check(0, Some(0)), Err(QuotaExceeded { limit: 0 }));
        assert_eq!(check(u64::MAX, None), Ok(()));
    }

    #[test]
    fn the_message_is_the_documented_one() {
        assert_eq!(QuotaExceeded { limit: 1000 }.to_string(), "Product at max_engines limit (1000).");
    }
}
