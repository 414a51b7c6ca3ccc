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

/// An earlier, or the present, version of the soul.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// 1, 2, 3, …
    pub version: i64,
    /// What it said.
    pub soul: Soul,
    /// Who wrote it.
    pub source: Source,
    /// Why.
    pub rationale: String,
    /// When.
    pub created_at: Timestamp,
}

fn list(text: &str, column: &'static str) -> Result<Vec<String>> {
    serde_json::from_str(text).map_err(|_| Error::bad_data(column, text))
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

/// Why there is a version that is the catalog's template.
const TEMPLATE: &str = "template of the catalog";

/// Writes the catalog's template: into a brain without a soul, and over an earlier template. What was learned
/// or written by a person stays. True when something was written.
pub fn put_template(tx: &Tx<'_>, soul: &Soul, now: Timestamp) -> Result<bool> {
    let present = get(tx)?;
    if present.as_ref().is_some_and(|p| p.source != Source::Catalog || p.soul == *soul) {
        return Ok(false);
    }
    set(tx, soul, Source::Catalog, TEMPLATE, now)?;
    Ok(true)
}

/// Puts the catalog's template in the place of whoever wrote the present soul; the number of the present version then.
/// `None` in a brain that never had one.
pub fn reset(tx: &Tx<'_>, template: &Soul, now: Timestamp) -> Result<Option<i64>> {
    let Some(present) = get(tx)? else { return Ok(None) };
    if present.source == Source::Catalog && present.soul == *template {
        return Ok(Some(present.version));
    }
    set(tx, template, Source::Catalog, TEMPLATE, now).map(Some)
}

/// Versions of the soul, newest first: those before `before`, or the newest.
pub fn history(tx: &Tx<'_>, before: Option<i64>, limit: u32) -> Result<Vec<Version>> {
    let mut statement = tx.conn().prepare_cached(
        "SELECT version, identity, values_json, patterns_json, source, rationale, created_at FROM soul_history
         WHERE version < ?1 ORDER BY version DESC LIMIT ?2",
    )?;
    let mut rows = statement.query(params![before.unwrap_or(i64::MAX), limit])?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        let (values, patterns, source): (String, String, String) = (row.get(2)?, row.get(3)?, row.get(4)?);
        out.push(Version {
            version: row.get(0)?,
            soul: Soul {
                identity: row.get(1)?,
                values: list(&values, "soul_history.values_json")?,
                patterns: list(&patterns, "soul_history.patterns_json")?,
            },
            source: Source::parse(&source).ok_or_else(|| Error::bad_data("soul_history.source", &source))?,
            rationale: row.get(5)?,
            created_at: Timestamp::from_millis(row.get(6)?),
        });
    }
    Ok(out)
}

/// Writes a new version of the soul and returns its number. A number is never given twice.
pub fn set(tx: &Tx<'_>, soul: &Soul, source: Source, rationale: &str, now: Timestamp) -> Result<i64> {
    let version: i64 = tx
        .conn()
        .prepare_cached(
            "SELECT 1 + max(coalesce((SELECT max(version) FROM soul_history), 0),
                            coalesce((SELECT version FROM soul), 0))",
        )?
        .query_row([], |r| r.get(0))?;
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
    Ok(version)
}

/// Forgets the versions before this one for good, as far as they are not the present one: how many. Their numbers are not
/// given again.
pub fn forget_before(tx: &Tx<'_>, version: i64) -> Result<usize> {
    let rows = tx
        .conn()
        .prepare_cached(
            "DELETE FROM soul_history WHERE version < ?1
               AND version < coalesce((SELECT version FROM soul), 0)",
        )?
        .execute([version])?;
    if rows > 0 {
        tx.forget();
    }
    Ok(rows)
}
