//! Instants as the wire and the brain carry them: whole milliseconds since the Unix epoch, UTC.

use chrono::{DateTime, Datelike, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// Milliseconds since the epoch; in JSON `2026-04-27T12:34:56.000Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The present instant of the system clock.
    pub fn now() -> Self {
        Self(Utc::now().timestamp_millis())
    }

    /// An instant from milliseconds since the epoch.
    pub const fn from_millis(ms: i64) -> Self {
        Self(ms)
    }

    /// Milliseconds since the epoch.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// This instant moved by `ms` milliseconds, saturating at the ends of the range.
    pub const fn plus_millis(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Reads ISO-8601 with any offset; the result is UTC. An offset that leads out of the years 0000 to 9999 is refused,
    /// because the result could be written but not read again.
    pub fn parse(text: &str) -> Option<Self> {
        // By way of the milliseconds: a leap second at the end of a year is the first one of the next.
        let time = Self(DateTime::parse_from_rfc3339(text).ok()?.timestamp_millis());
        let year = DateTime::<Utc>::from_timestamp_millis(time.0)?.year();
        (0..=9999).contains(&year).then_some(time)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = DateTime::<Utc>::from_timestamp_millis(self.0).unwrap_or(DateTime::<Utc>::UNIX_EPOCH);
        f.write_str(&time.to_rfc3339_opts(SecondsFormat::Millis, true))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("expected an ISO-8601 time"))
    }
}

impl utoipa::PartialSchema for Timestamp {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .format(Some(utoipa::openapi::SchemaFormat::Custom("date-time".into())))
            .into()
    }
}

impl utoipa::ToSchema for Timestamp {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_iso_with_milliseconds_and_z() {
        let t = Timestamp::from_millis(1_777_293_296_000);
        assert_eq!(t.to_string(), "2026-04-27T12:34:56.000Z");
        assert_eq!(Timestamp::parse("2026-04-27T14:34:56+02:00"), Some(t));
    }

    #[test]
    fn what_is_read_can_be_written_and_read_again() {
        for text in ["0000-01-01T00:00:00Z", "9999-12-31T23:59:59.999Z", "2016-12-31T23:59:60Z"] {
            let time = Timestamp::parse(text).expect("a time");
            assert_eq!(Timestamp::parse(&time.to_string()), Some(time), "{text}");
        }
        for beyond in ["0000-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01", "9999-12-31T23:59:60.999Z"] {
            assert_eq!(Timestamp::parse(beyond), None, "{beyond}");
        }
    }
}
