//! Days of the corpus: counted from 1 July 2025, written as people write them.

use contract::Timestamp;

/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;
/// Between two turns of a conversation.
const TURN_MS: i64 = 90_000;
/// The hour at which conversations begin.
const BEGIN_MS: i64 = 17 * 3_600_000;
/// The first day, 2025-07-01, in days since 1970.
const FIRST: i64 = 20_270;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A day.
pub struct Date {
    day_ms: i64,
    /// Its year.
    pub year: i64,
    month: usize,
    /// Its day in the month.
    pub day: i64,
}

impl Date {
    /// The day so many days after the first.
    pub fn of(offset: i64) -> Self {
        let day_ms = (FIRST + offset) * DAY_MS;
        let written = Timestamp::from_millis(day_ms).to_string();
        let number = |from: usize, to: usize| written[from..to].parse::<i64>().expect("an ISO date");
        Self { day_ms, year: number(0, 4), month: number(5, 7) as usize, day: number(8, 10) }
    }

    /// A turn of a conversation on that day.
    pub fn at(&self, position: i64) -> Timestamp {
        Timestamp::from_millis(self.day_ms + BEGIN_MS + position * TURN_MS)
    }

    /// "March".
    pub fn month_name(&self) -> &'static str {
        MONTHS[self.month - 1]
    }

    /// "2026-03-14".
    pub fn iso(&self) -> String {
        format!("{}-{:02}-{:02}", self.year, self.month, self.day)
    }
}
