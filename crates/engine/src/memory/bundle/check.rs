//! What a row of a bundle may hold: the first step of the write gate, for every field.
//!
//! Texts are cleaned and refused when they are empty or too long, exactly as those of the API. Trust is kept as it is
//! written. Nothing is compared with the brain here.
//!
//! The invariant: a checked row checks again to itself, and fits into the brain.

use super::kinds::{Attributes, Few};
use super::rows::{EdgeRow, EpisodeRow, FactRow, NodeRow, Row, SignalRow, SkillRow, SoulRow, VersionRow};
use crate::catalog::document::is_plain_name;
use crate::catalog::skill::{
    CAPABILITY_MAX, CATEGORY_MAX, DESCRIPTION_MAX, PROMPT_MAX, SCRIPT_MAX, is_script_name,
};
use ::memory::field::{self, Field, Refused};
use ::memory::soul::lines;
use brain::soul::Source;
use contract::Timestamp;
use contract::memory::{EpisodeKind, ParentKind, Trust};

/// Characters of a comment on an answer. (specification 3.8)
pub(super) const COMMENT_CHARS: usize = 10_000;
/// Characters of a corrected answer. (specification 3.8)
pub(super) const CORRECTED_CHARS: usize = 100_000;
/// Characters of what a memory stems from: an id of ours, or the name of a bundle.
const PARENT_CHARS: usize = 300;
/// Characters of why there is a version of the soul: what was learned names every turn it was seen in.
const REASON_CHARS: usize = 100_000;
/// Longest name of a skill. (specification 3.7)
const SKILL_NAME_CHARS: usize = 64;

/// What is wrong, and with which field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// The field, from its row on, as a JSON pointer without the first slash; empty for the row itself.
    pub field: String,
    /// What would have been right.
    pub expected: String,
    /// What came instead, where the value itself would not say it.
    pub came: Option<String>,
}

impl Wrong {
    pub(super) fn new(field: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { field: field.into(), expected: expected.into(), came: None }
    }

    /// The same under the name that the field has in a bundle.
    fn named(field: &str, refused: &Refused) -> Self {
        Self { field: field.to_owned(), expected: refused.expected(), came: refused.came() }
    }
}

fn text(field: &str, kind: Field, raw: &str) -> Result<String, Wrong> {
    field::text(kind, raw).map_err(|refused| Wrong::named(field, &refused))
}

fn long(field: &str, raw: Option<String>, max: usize) -> Result<Option<String>, Wrong> {
    let clean = raw.map(|text| crate::http::sanitise::text(&text)).filter(|text| !text.is_empty());
    match clean {
        Some(text) if text.chars().count() > max => {
            let came = Some(format!("{} characters", text.chars().count()));
            Err(Wrong { came, ..Wrong::new(field, format!("at most {max} characters")) })
        }
        other => Ok(other),
    }
}

/// The fields that every memory carries. A macro, because the rows have no type in common.
macro_rules! standing {
    ($row:ident, $name:ident) => {
        $row.source = Some(match &$row.source {
            Some(source) => text("source", Field::Source, source)?,
            None => format!("import:{}", $name),
        });
        $row.rationale = text("rationale", Field::Rationale, &$row.rationale)?;
        $row.last_confirmed_at = Some($row.last_confirmed_at.unwrap_or($row.created_at));
        $row.updated_at = Some($row.updated_at.unwrap_or($row.created_at));
        for (at, parent) in $row.lineage.0.iter().enumerate() {
            let fits = match parent.kind {
                ParentKind::Memory => brain::memory::MemoryId::parse(&parent.id).is_some(),
                ParentKind::Message | ParentKind::Trajectory | ParentKind::Signal | ParentKind::Import => {
                    !parent.id.is_empty()
                        && parent.id.chars().count() <= PARENT_CHARS
                        && field::sanitised(&parent.id) == parent.id
                }
            };
            if !fits {
                return Err(Wrong::new(format!("lineage/{at}/id"), "an id"));
            }
        }
    };
}

/// The cleaned row, or what is wrong with it. `bundle` is the name that stands for a missing source.
pub fn checked(row: Row, bundle: &str) -> Result<Row, Wrong> {
    Ok(match row {
        Row::Soul(row) => Row::Soul(soul(row)?),
        Row::Version(row) => Row::Version(version(row)?),
        Row::Episode(row) => Row::Episode(episode(row, bundle)?),
        Row::Fact(row) => Row::Fact(fact(row, bundle)?),
        Row::Node(row) => Row::Node(node(row, bundle)?),
        Row::Edge(row) => Row::Edge(edge(row, bundle)?),
        Row::Skill(row) => Row::Skill(skill(row, bundle)?),
        Row::Signal(row) => Row::Signal(signal(row)?),
    })
}

fn episode(mut row: EpisodeRow, bundle: &str) -> Result<EpisodeRow, Wrong> {
    standing!(row, bundle);
    row.key = text("key", Field::Key, &row.key)?;
    let (description, value) = match row.kind {
        EpisodeKind::Turn => (Field::TurnText, Field::TurnText),
        EpisodeKind::Event | EpisodeKind::Note => (Field::Description, Field::Value),
    };
    row.description = text("description", description, &row.description)?;
    let kept = row.value.as_deref().map(|raw| text("value", value, raw)).transpose()?;
    row.value = kept.filter(|value| !value.is_empty());
    Ok(row)
}

fn fact(mut row: FactRow, bundle: &str) -> Result<FactRow, Wrong> {
    standing!(row, bundle);
    row.subject = text("subject", Field::Subject, &row.subject)?;
    row.content = text("content", Field::Content, &row.content)?;
    in_order(row.valid_from, row.valid_until)?;
    Ok(row)
}

fn node(mut row: NodeRow, bundle: &str) -> Result<NodeRow, Wrong> {
    standing!(row, bundle);
    row.name = text("name", Field::Name, &row.name)?;
    let aliases = field::aliases(&row.name, &row.aliases.0);
    row.aliases = Few(aliases.map_err(|refused| Wrong::named("aliases", &refused))?);
    let attributes = super::super::item::attributes(row.attributes.0);
    row.attributes = Attributes(attributes.map_err(|refused| Wrong::named("attributes", &refused))?);
    Ok(row)
}

fn edge(mut row: EdgeRow, bundle: &str) -> Result<EdgeRow, Wrong> {
    standing!(row, bundle);
    row.relation = text("relation", Field::Relation, &row.relation)?;
    if row.from == row.to {
        return Err(Wrong::new("to", "another node than `from`"));
    }
    in_order(row.valid_from, row.valid_until)?;
    Ok(row)
}

/// What is replaced at once ends when it begins; nothing ends earlier.
fn in_order(from: Timestamp, until: Option<Timestamp>) -> Result<(), Wrong> {
    match until {
        Some(until) if until < from => Err(Wrong::new("valid_until", "a time that is not before valid_from")),
        Some(_) | None => Ok(()),
    }
}

fn skill(mut row: SkillRow, bundle: &str) -> Result<SkillRow, Wrong> {
    if !is_plain_name(&row.name) || row.name.len() > SKILL_NAME_CHARS {
        return Err(Wrong::new("name", "small letters and digits, with single dashes between words"));
    }
    if row.trust == Trust::Untrusted {
        return Err(Wrong::new("trust", "tool or user: what nobody vouches for is never a skill"));
    }
    row.description = long("description", Some(row.description), DESCRIPTION_MAX)?.unwrap_or_default();
    row.category = long("category", Some(row.category), CATEGORY_MAX)?.unwrap_or_default();
    row.prompt_template =
        row.prompt_template.map(|p| crate::http::sanitise::text(&p)).filter(|p| !p.is_empty());
    if row.prompt_template.as_ref().is_some_and(|prompt| prompt.len() > PROMPT_MAX) {
        return Err(Wrong::new("prompt_template", format!("at most {PROMPT_MAX} bytes")));
    }
    if row.prompt_template.is_none() && row.scripts.0.is_empty() {
        return Err(Wrong::new("prompt_template", "a prompt, because there are no scripts"));
    }
    for (at, script) in row.scripts.0.iter().enumerate() {
        let twice = row.scripts.0[..at].iter().any(|before| before.name == script.name);
        if !is_script_name(&script.name) || twice {
            return Err(Wrong::new(format!("scripts/{at}/name"), "a file name of [A-Za-z0-9._-], once"));
        }
        if script.content.len() > SCRIPT_MAX {
            return Err(Wrong::new(format!("scripts/{at}/content"), format!("at most {SCRIPT_MAX} bytes")));
        }
    }
    for (at, word) in row.capabilities.0.iter_mut().enumerate() {
        let field = format!("capabilities/{at}");
        let clean = long(&field, Some(std::mem::take(word)), CAPABILITY_MAX)?;
        *word = clean.ok_or_else(|| Wrong::new(field, "a word"))?;
    }
    row.source = Some(match &row.source {
        Some(source) => text("source", Field::Source, source)?,
        None => format!("import:{bundle}"),
    });
    Ok(row)
}

fn signal(mut row: SignalRow) -> Result<SignalRow, Wrong> {
    row.comment = long("comment", row.comment, COMMENT_CHARS)?;
    row.corrected = long("corrected", row.corrected, CORRECTED_CHARS)?;
    if row.rating.is_none() && row.comment.is_none() && row.corrected.is_none() {
        return Err(Wrong::new("rating", "one of rating, comment and corrected"));
    }
    Ok(row)
}

fn soul_lines(
    name: &'static str,
    raw: &Few<String, { 4 * ::memory::soul::LINES }>,
) -> Result<Vec<String>, Wrong> {
    lines(name, &raw.0).map_err(|refused| Wrong::named(name, &refused))
}

fn soul(mut row: SoulRow) -> Result<SoulRow, Wrong> {
    row.identity = text("identity", Field::Identity, &row.identity)?;
    row.values = Few(soul_lines("values", &row.values)?);
    row.patterns = Few(soul_lines("patterns", &row.patterns)?);
    source("source", &row.source)?;
    Ok(row)
}

fn version(mut row: VersionRow) -> Result<VersionRow, Wrong> {
    row.identity = text("identity", Field::Identity, &row.identity)?;
    row.values = Few(soul_lines("values", &row.values)?);
    row.patterns = Few(soul_lines("patterns", &row.patterns)?);
    row.rationale = long("rationale", Some(row.rationale), REASON_CHARS)?.unwrap_or_default();
    source("source", &row.source)?;
    Ok(row)
}

fn source(field: &str, word: &str) -> Result<Source, Wrong> {
    Source::parse(word).ok_or_else(|| Wrong::new(field, "catalog, learning or user"))
}
