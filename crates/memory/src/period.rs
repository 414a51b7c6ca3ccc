//! The dates and periods a question names: "last week", "in April", "2026-04-27", "two weeks ago".
//!
//! English only, days begin at midnight UTC, weeks on Monday. What could mean two things ("04/05/2026") is not read at
//! all: a wrong period would lift the wrong memories, a missing one only forgoes a bonus.
//!
//! The invariant: every period begins before it ends, and the same question at the same time names the same ones.

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, Utc, Weekday};
use contract::Timestamp;

/// Periods read from one question. More only makes long pasted texts lift everything they mention.
pub const PERIODS_READ: usize = 4;
/// Words of a question that are read for periods. Fewer overlooks the date at the end of a long message; more reads
/// pasted documents.
const WORDS_READ: usize = 512;
/// Largest "N weeks ago" that is believed; beyond it the date leaves the calendar.
const MOST_UNITS: u32 = 1000;
/// The years a number may mean. Wider takes port numbers and amounts for years.
const YEARS: std::ops::RangeInclusive<i32> = 1970..=2100;

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const WEEKDAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
const NUMBERS: [&str; 12] =
    ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];
/// Words after which a month's or year's name means the time.
const LEADS: [&str; 13] = [
    "in", "on", "of", "during", "since", "last", "this", "next", "past", "previous", "from", "early", "late",
];

/// A stretch of time; `end` is no longer part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// The first instant.
    pub start: Timestamp,
    /// The first instant after it.
    pub end: Timestamp,
}

impl Period {
    /// True when the instant lies in it.
    pub fn holds(&self, at: Timestamp) -> bool {
        self.start <= at && at < self.end
    }
}

/// The periods that a question names, in its order.
pub fn periods(question: &str, now: Timestamp) -> Vec<Period> {
    let Some(today) = DateTime::<Utc>::from_timestamp_millis(now.millis()).map(|t| t.date_naive()) else {
        return Vec::new();
    };
    let words = words(question);
    let mut found: Vec<Period> = Vec::new();
    let mut at = 0;
    while at < words.len() && found.len() < PERIODS_READ {
        let Some((taken, (first, end))) = read(&words[at..], lead(&words, at), today) else {
            at += 1;
            continue;
        };
        let period = match before(&words, at) {
            // An open end: the time named is exactly the time that is not meant.
            Some("before" | "until" | "till" | "by") => None,
            Some("since") => period(first, next_day(today)),
            Some(_) | None => period(first, end),
        };
        found.extend(period.filter(|p| !found.contains(p)));
        at += taken;
    }
    found
}

/// Whether the word "may" at this place of folded words is the month.
pub(crate) fn is_the_month(words: &[String], at: usize) -> bool {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let beside = |i: usize| words.get(i).is_some_and(|w| day_of_month(w).is_some() || year(w).is_some());
    lead(&words, at).is_some() || (at > 0 && beside(at - 1)) || beside(at + 1)
}

/// Lower-case words; dashes inside numbers stay, so that an ISO date is one word.
fn words(text: &str) -> Vec<&str> {
    // The readers below compare without regard to case, so nothing is copied here.
    text.split(|c: char| !(c.is_alphanumeric() || c == '-'))
        .map(|w| w.trim_matches('-'))
        .filter(|w| !w.is_empty())
        .take(WORDS_READ)
        .collect()
}

fn is(word: &str, expected: &str) -> bool {
    word.eq_ignore_ascii_case(expected)
}

fn place(word: &str, list: &[&str]) -> Option<u32> {
    list.iter().position(|w| is(word, w)).map(|i| i as u32)
}

fn before<'a>(words: &[&'a str], at: usize) -> Option<&'a str> {
    let previous = words.get(at.checked_sub(1)?)?;
    ["before", "until", "till", "by", "since"].into_iter().find(|w| is(previous, w))
}

fn lead(words: &[&str], at: usize) -> Option<&'static str> {
    let previous = words.get(at.checked_sub(1)?)?;
    LEADS.into_iter().find(|w| is(previous, w))
}

type Span = (NaiveDate, NaiveDate);

/// The period that begins with the first of these words, and how many words it takes.
fn read(words: &[&str], lead: Option<&str>, today: NaiveDate) -> Option<(usize, Span)> {
    iso(words[0])
        .map(|span| (1, span))
        .or_else(|| named_day(words, today))
        .or_else(|| ago(words, today))
        .or_else(|| relative(words, today))
        .or_else(|| day_and_month(words, today))
        .or_else(|| month_alone(words, lead, today))
        .or_else(|| weekday(words[0]).map(|day| (1, one_day(back_to(today, day)))))
        .or_else(|| lead.and(year(words[0])).and_then(year_span).map(|span| (1, span)))
}

/// `2026-04-27` and `2026-04`.
fn iso(word: &str) -> Option<Span> {
    let mut parts = word.split('-');
    let (year_text, month_text, day_text) = (parts.next()?, parts.next()?, parts.next());
    if parts.next().is_some() || month_text.len() != 2 || day_text.is_some_and(|d| d.len() != 2) {
        return None;
    }
    let (year, month) = (year(year_text)?, month_text.parse().ok()?);
    match day_text {
        Some(day) => NaiveDate::from_ymd_opt(year, month, day.parse().ok()?).map(one_day),
        None => month_span(year, month),
    }
}

fn named_day(words: &[&str], today: NaiveDate) -> Option<(usize, Span)> {
    let starts = |expected: &[&str]| {
        words.len() >= expected.len() && expected.iter().zip(words).all(|(expected, word)| is(word, expected))
    };
    let names: [(&[&str], i64); 9] = [
        (&["day", "before", "yesterday"], -2),
        (&["day", "after", "tomorrow"], 2),
        (&["today"], 0),
        (&["tonight"], 0),
        (&["this", "morning"], 0),
        (&["this", "afternoon"], 0),
        (&["yesterday"], -1),
        (&["last", "night"], -1),
        (&["tomorrow"], 1),
    ];
    let (name, days) = names.into_iter().find(|(name, _)| starts(name))?;
    Some((name.len(), one_day(moved(today, days)?)))
}

/// "three days ago", "a week ago".
fn ago(words: &[&str], today: NaiveDate) -> Option<(usize, Span)> {
    let [count, unit, word, ..] = words else { return None };
    if !is(word, "ago") {
        return None;
    }
    let (count, unit) = (count_of(count)?, Unit::parse(unit)?);
    let then = unit.back(today, count)?;
    Some((3, unit.around(then)?))
}

/// "last week", "this month", "the past ten days", "next Friday".
fn relative(words: &[&str], today: NaiveDate) -> Option<(usize, Span)> {
    let (which, rest) = words.split_first()?;
    let next = rest.first()?;
    let backward = ["last", "past", "previous"].iter().any(|w| is(which, w));
    if backward && let (Some(count), Some(unit)) = (count_of(next), rest.get(1).and_then(|w| Unit::parse(w)))
    {
        return Some((3, (unit.back(today, count)?, next_day(today))));
    }
    if let Some(unit) = Unit::parse(next) {
        let around = unit.around(today)?;
        let span = if is(which, "past") {
            (unit.back(today, 1)?, next_day(today))
        } else if backward {
            unit.around(moved(around.0, -1)?)?
        } else if is(which, "this") {
            around
        } else if is(which, "next") {
            unit.around(around.1)?
        } else {
            return None;
        };
        return Some((2, span));
    }
    if is(next, "weekend") {
        let saturday = moved(Unit::Week.around(today)?.0, 5)?;
        let first = if backward {
            moved(saturday, -7)?
        } else if is(which, "this") {
            saturday
        } else if is(which, "next") {
            moved(saturday, 7)?
        } else {
            return None;
        };
        return Some((2, (first, moved(first, 2)?)));
    }
    let day = weekday(next)?;
    if backward {
        return Some((2, one_day(back_to(moved(today, -1)?, day))));
    }
    if is(which, "next") {
        return Some((2, one_day(moved(back_to(today, day), 7)?)));
    }
    None
}

/// "April 27", "27 April", "27th of April", each with or without a year.
fn day_and_month(words: &[&str], today: NaiveDate) -> Option<(usize, Span)> {
    let (day, month, taken) = match (month_name(words[0]), words.get(1)) {
        (Some(month), Some(day)) => (day_of_month(day)?, month, 2),
        (Some(_), None) => return None,
        (None, Some(next)) => {
            let (name, taken) = if is(next, "of") { (words.get(2)?, 3) } else { (next, 2) };
            (day_of_month(words[0])?, month_name(name)?, taken)
        }
        (None, None) => return None,
    };
    if let Some(year) = words.get(taken).and_then(|w| year(w)) {
        return Some((taken + 1, one_day(NaiveDate::from_ymd_opt(year, month, day)?)));
    }
    let this_year = NaiveDate::from_ymd_opt(today.year(), month, day);
    let date = match this_year.filter(|date| *date <= today) {
        Some(date) => date,
        None => NaiveDate::from_ymd_opt(today.year() - 1, month, day).or(this_year)?,
    };
    Some((taken, one_day(date)))
}

/// "April", "in May", "April 2025". A month that has not begun this year is last year's.
fn month_alone(words: &[&str], lead: Option<&str>, today: NaiveDate) -> Option<(usize, Span)> {
    let month = month_name(words[0])?;
    if let Some(year) = words.get(1).and_then(|w| year(w)) {
        return Some((2, month_span(year, month)?));
    }
    // Short forms, "may" and "march" are other words, too.
    let plain = words[0].len() > 3 && !is(words[0], "march") && !is(words[0], "sept");
    if !plain && lead.is_none() {
        return None;
    }
    let backward = lead.is_some_and(|w| ["last", "past", "previous"].contains(&w));
    let year = if lead == Some("next") {
        today.year() + i32::from(month <= today.month())
    } else {
        today.year() - i32::from(month > today.month() || (backward && month == today.month()))
    };
    Some((1, month_span(year, month)?))
}

fn month_name(word: &str) -> Option<u32> {
    let full = place(word, &MONTHS);
    let short = || match word.len() {
        3 => MONTHS.iter().position(|m| is(word, &m[..3])).map(|i| i as u32),
        4 if is(word, "sept") => Some(8),
        _ => None,
    };
    full.or_else(short).map(|index| index + 1)
}

fn weekday(word: &str) -> Option<Weekday> {
    u8::try_from(place(word, &WEEKDAYS)?).ok().and_then(|index| Weekday::try_from(index).ok())
}

/// `27`, `27th`.
fn day_of_month(word: &str) -> Option<u32> {
    let digits = ["st", "nd", "rd", "th"]
        .into_iter()
        .find_map(|suffix| word.len().checked_sub(2).filter(|&cut| word.get(cut..) == Some(suffix)))
        .map_or(word, |cut| &word[..cut]);
    number(digits).filter(|day| (1..=31).contains(day))
}

fn year(word: &str) -> Option<i32> {
    let year = number(word).filter(|_| word.len() == 4)?;
    i32::try_from(year).ok().filter(|year| YEARS.contains(year))
}

fn number(word: &str) -> Option<u32> {
    if word.is_empty() || !word.bytes().all(|b| b.is_ascii_digit()) { None } else { word.parse().ok() }
}

fn count_of(word: &str) -> Option<u32> {
    let named =
        || if is(word, "a") || is(word, "an") { Some(1) } else { place(word, &NUMBERS).map(|i| i + 1) };
    number(word).or_else(named).filter(|count| (1..=MOST_UNITS).contains(count))
}

#[derive(Clone, Copy)]
enum Unit {
    Day,
    Week,
    Month,
    Year,
}

impl Unit {
    fn parse(word: &str) -> Option<Self> {
        let named = |one: &str, many: &str| is(word, one) || is(word, many);
        if named("day", "days") {
            Some(Unit::Day)
        } else if named("week", "weeks") {
            Some(Unit::Week)
        } else if named("month", "months") {
            Some(Unit::Month)
        } else if named("year", "years") {
            Some(Unit::Year)
        } else {
            None
        }
    }

    fn back(self, from: NaiveDate, count: u32) -> Option<NaiveDate> {
        match self {
            Unit::Day => from.checked_sub_days(Days::new(count.into())),
            Unit::Week => from.checked_sub_days(Days::new(7 * u64::from(count))),
            Unit::Month => from.checked_sub_months(Months::new(count)),
            Unit::Year => from.checked_sub_months(Months::new(12 * count)),
        }
    }

    /// The day, week, month or year that a date lies in.
    fn around(self, date: NaiveDate) -> Option<Span> {
        match self {
            Unit::Day => Some(one_day(date)),
            Unit::Week => {
                let monday = back_to(date, Weekday::Mon);
                Some((monday, moved(monday, 7)?))
            }
            Unit::Month => month_span(date.year(), date.month()),
            Unit::Year => year_span(date.year()),
        }
    }
}

fn month_span(year: i32, month: u32) -> Option<Span> {
    let first = NaiveDate::from_ymd_opt(year, month, 1)?;
    Some((first, first.checked_add_months(Months::new(1))?))
}

fn year_span(year: i32) -> Option<Span> {
    Some((NaiveDate::from_ymd_opt(year, 1, 1)?, NaiveDate::from_ymd_opt(year + 1, 1, 1)?))
}

fn one_day(date: NaiveDate) -> Span {
    (date, next_day(date))
}

fn next_day(date: NaiveDate) -> NaiveDate {
    date.succ_opt().unwrap_or(date)
}

fn moved(date: NaiveDate, days: i64) -> Option<NaiveDate> {
    let distance = Days::new(days.unsigned_abs());
    if days < 0 { date.checked_sub_days(distance) } else { date.checked_add_days(distance) }
}

/// The latest such day that is not after the date.
fn back_to(date: NaiveDate, day: Weekday) -> NaiveDate {
    let days = date.weekday().days_since(day);
    moved(date, -i64::from(days)).unwrap_or(date)
}

fn period(first: NaiveDate, end: NaiveDate) -> Option<Period> {
    let instant = |date: NaiveDate| {
        Timestamp::from_millis(
            date.and_hms_opt(0, 0, 0).map_or(0, |midnight| midnight.and_utc().timestamp_millis()),
        )
    };
    let period = Period { start: instant(first), end: instant(end) };
    (period.start < period.end).then_some(period)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A Wednesday.
    const NOW: &str = "2026-05-13T15:30:00Z";

    fn read(question: &str) -> Vec<String> {
        periods(question, Timestamp::parse(NOW).expect("a time"))
            .iter()
            .map(|p| format!("{}..{}", &p.start.to_string()[..10], &p.end.to_string()[..10]))
            .collect()
    }

    #[test]
    fn named_times_are_read_from_where_the_person_stands() {
        for (question, expected) in [
            ("what happened on 2026-04-27?", "2026-04-27..2026-04-28"),
            ("costs of 2026-04", "2026-04-01..2026-05-01"),
            ("today", "2026-05-13..2026-05-14"),
            ("what did I say yesterday", "2026-05-12..2026-05-13"),
            ("the day before yesterday", "2026-05-11..2026-05-12"),
            ("Last week we met", "2026-05-04..2026-05-11"),
            ("this week", "2026-05-11..2026-05-18"),
            ("next week", "2026-05-18..2026-05-25"),
            ("over the past week", "2026-05-06..2026-05-14"),
            ("the last 10 days", "2026-05-03..2026-05-14"),
            ("last month", "2026-04-01..2026-05-01"),
            ("last year", "2025-01-01..2026-01-01"),
            ("last weekend", "2026-05-09..2026-05-11"),
            ("two weeks ago", "2026-04-27..2026-05-04"),
            ("3 days ago", "2026-05-10..2026-05-11"),
            ("a month ago", "2026-04-01..2026-05-01"),
            ("last Monday", "2026-05-11..2026-05-12"),
            ("last Wednesday", "2026-05-06..2026-05-07"),
            ("on Wednesday", "2026-05-13..2026-05-14"),
            ("next Friday", "2026-05-15..2026-05-16"),
            ("in April", "2026-04-01..2026-05-01"),
            ("in May", "2026-05-01..2026-06-01"),
            ("last May", "2025-05-01..2025-06-01"),
            ("in November", "2025-11-01..2025-12-01"),
            ("in Nov", "2025-11-01..2025-12-01"),
            ("April 2024", "2024-04-01..2024-05-01"),
            ("April 27", "2026-04-27..2026-04-28"),
            ("April 27th, 2024", "2024-04-27..2024-04-28"),
            ("27 April", "2026-04-27..2026-04-28"),
            ("the 27th of April", "2026-04-27..2026-04-28"),
            ("December 24", "2025-12-24..2025-12-25"),
            ("in 2025", "2025-01-01..2026-01-01"),
            ("February 31", "2026-02-01..2026-03-01"),
            ("since April", "2026-04-01..2026-05-14"),
        ] {
            assert_eq!(read(question), [expected], "{question}");
        }
    }

    #[test]
    fn what_names_no_time_is_not_read() {
        for question in [
            "may I ask",
            "march on",
            "port 2025 is open",
            "04/05/2026",
            "the last straw",
            "2026-13-40",
            "before April",
            "three blind mice",
            "",
        ] {
            assert_eq!(read(question), Vec::<String>::new(), "{question}");
        }
    }

    #[test]
    fn several_times_are_all_read_once() {
        assert_eq!(
            read("yesterday, last week, and yesterday again"),
            ["2026-05-12..2026-05-13", "2026-05-04..2026-05-11"]
        );
    }

    #[test]
    fn the_end_is_not_part_of_a_period() {
        let p = periods("yesterday", Timestamp::parse(NOW).expect("a time"))[0];
        assert!(p.holds(p.start) && !p.holds(p.end) && p.holds(p.end.plus_millis(-1)));
    }

    proptest! {
        #[test]
        fn any_words_at_any_time_give_sound_periods(
            question in "((last|next|past|this|since|[0-9]{1,5}|a|week|years|ago|may|april|monday|2026-0[0-9]-[0-9]{2}|[é-]) ?){0,12}",
            now in any::<i64>(),
        ) {
            for p in periods(&question, Timestamp::from_millis(now)) {
                prop_assert!(p.start < p.end);
            }
        }
    }
}
