//! The soul: one row with identity, values and patterns, and every version it has had.

use crate::{Error, Result, Tx};
use contract::Timestamp;
use rusqlite::{OptionalExtension, params};

/// Where the present soul comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The template of the catalog.
    Catalog,
    /// Learned.
    Learning,
    /// Written by a person.
    User,
}

impl Source {
    /// The word in the brain.
    pub const fn as_str(self) -> &'static str {
        match self {
            Source::Catalog => "catalog",
            Source::Learning => "learning",
            Source::User => "user",
        }
    }

    /// Reads the word back.
    pub fn parse(text: &str) -> Option<Self> {
        [Source::Catalog, Source::Learning, Source::User].into_iter().find(|s| s.as_str() == text)
    }
}

/// What the soul says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Soul {
    /// Who the assistant is.
    pub identity: String,
    /// What it holds to.
    pub values: Vec<String>,
    /// How it goes about things.
    pub patterns: Vec<String>,
}

/// The stored soul.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// What it says.
    pub soul: Soul,
    /// 1, 2, 3, …
    pub version: i64,
    /// Who wrote this version.
    pub source: Source,
    /// When.
    pub updated_at: Timestamp,
}

/// The present soul; `None` in a brain that never had one.
pub fn get(tx: &Tx<'_>) -> Result<Option<Stored>> {
    let row = tx
        .conn()
        .prepare_cached("SELECT identity, values_json, patterns_json, version, source, updated_at FROM soul")?
        .query_row([], |r| {
            let texts: (String, String, String) = (r.get(0)?, r.get(1)?, r.get(2)?);
            let rest: (i64, String, i64) = (r.get(3)?, r.get(4)?, r.get(5)?);
            Ok((texts, rest))
        })
        .optional()?;
    let Some(((identity, values, patterns), (version, source, updated_at))) = row else { return Ok(None) };
    let list = |text: &str, column| serde_json::from_str(text).map_err(|_| Error::bad_data(column, "1"));
    Ok(Some(Stored {
        soul: Soul {
            identity,
            values: list(&values, "soul.values_json")?,
            patterns: list(&patterns, "soul.patterns_json")?,
        },
        version,
        source: Source::parse(&source).ok_or_else(|| Error::bad_data("soul.source", &source))?,
        updated_at: Timestamp::from_millis(updated_at),
    }))
}

/// Writes the catalog's template: into a brain without a soul, and over an earlier template. What was learned
/// or written by a person stays. True when something was written.
pub fn put_template(tx: &Tx<'_>, soul: &Soul, now: Timestamp) -> Result<bool> {
    let present = get(tx)?;
    if present.as_ref().is_some_and(|p| p.source != Source::Catalog || p.soul == *soul) {
        return Ok(false);
    }
    let version = present.map_or(0, |p| p.version) + 1;
    put(tx, soul, version, Source::Catalog, "template of the catalog", now)?;
    Ok(true)
}

fn put(
    tx: &Tx<'_>,
    soul: &Soul,
    version: i64,
    source: Source,
    rationale: &str,
    now: Timestamp,
) -> Result<()> {
    let text = |list: &[String]| serde_json::to_string(list).expect("lists of texts always serialise");
    let (values, patterns) = (text(&soul.values), text(&soul.patterns));
    tx.conn()
        .prepare_cached(
            "INSERT INTO soul (id, identity, values_json, patterns_json, version, source, updated_at)
             VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (id) DO UPDATE SET identity = excluded.identity, values_json = excluded.values_json,
                patterns_json = excluded.patterns_json, version = excluded.version, source = excluded.source,
                updated_at = excluded.updated_at",
        )?
        .execute(params![soul.identity, values, patterns, version, source.as_str(), now.millis()])?;
    tx.conn()
        .prepare_cached(
            "INSERT INTO soul_history (version, identity, values_json, patterns_json, source, rationale, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![version, soul.identity, values, patterns, source.as_str(), rationale, now.millis()])?;
    Ok(())
}
