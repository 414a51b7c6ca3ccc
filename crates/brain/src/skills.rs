//! Skills a person (or the Learning Centre) made. Platform skills are in the catalog and never in here.

use crate::{Error, Result, Tx};
use contract::Timestamp;
use rusqlite::{Row, params};

/// A stored skill, without what its scripts contain.
#[derive(Debug, Clone, PartialEq)]
pub struct Skill {
    /// Its name, unique.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// A free word; `light` runs on LIGHT_MODEL.
    pub category: String,
    /// The prompt, when it has one.
    pub prompt_template: Option<String>,
    /// The names of its scripts in the order they were given; the first is the one that is run.
    pub scripts: Vec<String>,
    /// Free words for people.
    pub capabilities: Vec<String>,
    /// How sure its maker was, 0..1.
    pub confidence: f64,
    /// Where it comes from, e.g. `user:api`.
    pub source: String,
    /// Trust class of that source.
    pub trust: String,
}

/// File names and contents, in the order they were given.
pub type Scripts = Vec<(String, String)>;

/// Whether a change met what it was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was made.
    Changed,
    /// There is no such skill.
    Missing,
    /// There is one of that name already.
    Exists,
}

// the names only: contents can be megabytes and most readers do not want them
const COLUMNS: &str = "name, description, category, prompt_template,
    (SELECT json_group_array(json_extract(value, '$[0]')) FROM json_each(scripts_json)),
    capabilities, confidence, source, trust";

fn words(text: &str, column: &'static str, name: &str) -> Result<Vec<String>> {
    serde_json::from_str(text).map_err(|_| Error::bad_data(column, name))
}

fn read(row: &Row<'_>) -> Result<Skill> {
    let name: String = row.get(0)?;
    let scripts: String = row.get(4)?;
    let capabilities: String = row.get(5)?;
    Ok(Skill {
        description: row.get(1)?,
        category: row.get(2)?,
        prompt_template: row.get(3)?,
        scripts: words(&scripts, "skills.scripts_json", &name)?,
        capabilities: words(&capabilities, "skills.capabilities", &name)?,
        confidence: row.get(6)?,
        source: row.get(7)?,
        trust: row.get(8)?,
        name,
    })
}

/// Every stored skill, by name.
pub fn list(tx: &Tx<'_>) -> Result<Vec<Skill>> {
    let sql = format!("SELECT {COLUMNS} FROM skills ORDER BY name");
    let mut statement = tx.conn().prepare_cached(&sql)?;
    let mut rows = statement.query([])?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(read(row)?);
    }
    Ok(out)
}

/// One stored skill.
pub fn get(tx: &Tx<'_>, name: &str) -> Result<Option<Skill>> {
    let sql = format!("SELECT {COLUMNS} FROM skills WHERE name = ?1");
    let mut statement = tx.conn().prepare_cached(&sql)?;
    let mut rows = statement.query([name])?;
    rows.next()?.map(read).transpose()
}

/// What the scripts of a skill contain; empty when there is no such skill.
pub fn scripts(tx: &Tx<'_>, name: &str) -> Result<Scripts> {
    let mut statement = tx.conn().prepare_cached("SELECT scripts_json FROM skills WHERE name = ?1")?;
    let mut rows = statement.query([name])?;
    let Some(row) = rows.next()? else { return Ok(Vec::new()) };
    let text: String = row.get(0)?;
    serde_json::from_str(&text).map_err(|_| Error::bad_data("skills.scripts_json", name))
}

/// How many there are.
pub fn count(tx: &Tx<'_>) -> Result<u64> {
    let count: i64 = tx.conn().query_row("SELECT count(*) FROM skills", [], |r| r.get(0))?;
    Ok(count.unsigned_abs())
}

fn json_of<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("lists of texts always serialise")
}

/// Stores a new skill. [`Change::Exists`] when the name is taken.
pub fn create(tx: &Tx<'_>, skill: &Skill, scripts: &Scripts, now: Timestamp) -> Result<Change> {
    let changed = tx
        .conn()
        .prepare_cached(
            "INSERT INTO skills (name, description, category, prompt_template, scripts_json, capabilities,
                                 confidence, source, trust, created_at, updated_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?10) ON CONFLICT (name) DO NOTHING",
        )?
        .execute(params![
            skill.name,
            skill.description,
            skill.category,
            skill.prompt_template,
            json_of(scripts),
            json_of(&skill.capabilities),
            skill.confidence,
            skill.source,
            skill.trust,
            now.millis(),
        ])?;
    Ok(if changed == 1 { Change::Changed } else { Change::Exists })
}

/// Replaces everything of a skill but its name and its age.
pub fn replace(tx: &Tx<'_>, skill: &Skill, scripts: &Scripts, now: Timestamp) -> Result<Change> {
    let changed = tx
        .conn()
        .prepare_cached(
            "UPDATE skills SET description = ?2, category = ?3, prompt_template = ?4, scripts_json = ?5,
                    capabilities = ?6, confidence = ?7, source = ?8, trust = ?9, updated_at = ?10
             WHERE name = ?1",
        )?
        .execute(params![
            skill.name,
            skill.description,
            skill.category,
            skill.prompt_template,
            json_of(scripts),
            json_of(&skill.capabilities),
            skill.confidence,
            skill.source,
            skill.trust,
            now.millis(),
        ])?;
    Ok(if changed == 1 { Change::Changed } else { Change::Missing })
}

/// Forgets a skill.
pub fn delete(tx: &Tx<'_>, name: &str) -> Result<Change> {
    tx.forget();
    let changed = tx.conn().prepare_cached("DELETE FROM skills WHERE name = ?1")?.execute([name])?;
    Ok(if changed == 1 { Change::Changed } else { Change::Missing })
}
