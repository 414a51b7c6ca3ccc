//! Reading a bundle: one pass over the bytes, row by row, with the place of whatever is wrong.
//!
//! Nothing is kept but the row at hand; who wants more than a look keeps what it needs ([`Rows`]). A bundle is read
//! twice: once to find everything that is wrong, once to be staged.
//!
//! The invariant: what is refused is named by a JSON pointer, and nothing of it has been handed on after that.

use super::check::Wrong;
use super::place;
use super::rows::Row;
use serde::de::{DeserializeOwned, DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_path_to_error::{Path, Segment, Track};
use std::collections::BTreeSet;
use std::fmt;

/// The only format there is.
pub const FORMAT: &str = "september-memory/1";
/// What every bundle has, if only to say that there is nothing of it: a bundle without a list would be taken for an empty
/// memory, and `replace` would erase what the list was about.
const SECTIONS: [&str; 7] = ["soul", "soul_history", "episodes", "knowledge", "social", "skills", "signals"];
/// The same of `social`.
const SOCIAL_SECTIONS: [&str; 2] = ["nodes", "edges"];
/// Rows of one list. More would take an import's own books (one id per row) beyond the memory of a small machine; a
/// bundle of the largest size has fewer real rows.
const ROWS_MAX: usize = 1_000_000;
/// Levels of the document, as of any body. (specification 14.6)
const DEPTH_MAX: usize = 128;
/// Characters of a pointer or of an explanation that an answer repeats.
const SHOWN_CHARS: usize = 200;

/// Why a document is no bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unreadable {
    /// It is no JSON at all.
    NotJson(String),
    /// Something in it is wrong.
    Refused(Refusal),
}

/// What is wrong in a bundle, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// JSON pointer.
    pub pointer: String,
    /// What would have been right.
    pub expected: String,
    /// What came instead, shortened.
    pub came: Option<Value>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}", self.expected)?;
        match &self.came {
            Some(came) => write!(f, ", got {came}"),
            None => Ok(()),
        }
    }
}

impl Refusal {
    /// Something wrong at a place.
    pub fn new(pointer: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), expected: expected.into(), came: None }
    }

    /// With what stands at its place in the document, unless that is known better.
    pub(super) fn seen_in(mut self, bytes: &[u8]) -> Self {
        self.came = self.came.or_else(|| Some(place::shown(bytes, &self.pointer)));
        self
    }
}

/// Who is shown every row.
pub trait Rows {
    /// One row, in the order of the document.
    fn row(&mut self, row: Row) -> Result<(), Wrong>;
}

/// Whether brackets stand inside each other deeper than any document of ours: what is passed over unread is not counted
/// by the parser.
pub fn is_too_deep(bytes: &[u8]) -> bool {
    let (mut depth, mut in_text, mut escaped) = (0usize, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => depth += 1,
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return true;
        }
    }
    false
}

/// Shows every row of a bundle.
pub fn read(bytes: &[u8], to: &mut impl Rows) -> Result<(), Unreadable> {
    let mut track = Track::new();
    let mut wrong = None;
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let whole = Whole { to, wrong: &mut wrong };
    let read = whole.deserialize(serde_path_to_error::Deserializer::new(&mut json, &mut track));
    let error = match read.and_then(|()| json.end()) {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    if let Some(refusal) = wrong {
        return Err(Unreadable::Refused(refusal.seen_in(bytes)));
    }
    let said = error.to_string();
    if !error.is_data() {
        return Err(Unreadable::NotJson(said.chars().take(SHOWN_CHARS).collect()));
    }
    let (field, expected) = place::plainly(&said);
    let slash = if field.is_empty() { "" } else { "/" };
    let pointer: String = format!("{}{slash}{field}", pointer(&track.path()));
    let expected: String = expected.chars().take(SHOWN_CHARS).collect();
    Err(Unreadable::Refused(Refusal::new(pointer, expected).seen_in(bytes)))
}

fn pointer(path: &Path) -> String {
    let steps = path.iter().map(|segment| match segment {
        Segment::Seq { index } => format!("/{index}"),
        Segment::Map { key } => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
        Segment::Enum { .. } | Segment::Unknown => String::new(),
    });
    steps.collect::<String>().chars().take(SHOWN_CHARS).collect()
}

/// The document.
struct Whole<'r, R> {
    to: &'r mut R,
    wrong: &'r mut Option<Refusal>,
}

impl<'de, R: Rows> DeserializeSeed<'de> for Whole<'_, R> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, R: Rows> Visitor<'de> for Whole<'_, R> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object, the bundle")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { to, wrong } = self;
        let mut seen = BTreeSet::new();
        while let Some(name) = map.next_key::<String>()? {
            let known = match name.as_str() {
                "format" => {
                    if map.next_value::<String>()? != FORMAT {
                        *wrong = Some(Refusal::new("/format", FORMAT));
                        return Err(A::Error::custom("another format"));
                    }
                    true
                }
                "soul" => {
                    if let Some(row) = map.next_value()? {
                        told(to.row(Row::Soul(row)), "/soul", wrong)?;
                    }
                    true
                }
                "soul_history" => listed(&mut map, to, wrong, "/soul_history", Row::Version)?,
                "episodes" => listed(&mut map, to, wrong, "/episodes", Row::Episode)?,
                "knowledge" => listed(&mut map, to, wrong, "/knowledge", Row::Fact)?,
                "social" => {
                    map.next_value_seed(Social { to: &mut *to, wrong: &mut *wrong })?;
                    true
                }
                "skills" => listed(&mut map, to, wrong, "/skills", Row::Skill)?,
                "signals" => listed(&mut map, to, wrong, "/signals", Row::Signal)?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    false
                }
            };
            once(known, &mut seen, name, "", wrong)?;
        }
        if !seen.contains("format") {
            *wrong = Some(Refusal::new("/format", FORMAT));
            return Err(A::Error::custom("no format"));
        }
        whole(&SECTIONS, &seen, "", wrong)?;
        Ok(())
    }
}

/// A name that stands twice could say two things to two readers.
fn once<E: Error>(
    known: bool,
    seen: &mut BTreeSet<String>,
    name: String,
    before: &str,
    wrong: &mut Option<Refusal>,
) -> Result<(), E> {
    if known && !seen.insert(name.clone()) {
        *wrong = Some(Refusal {
            came: Some("the second one".into()),
            ..Refusal::new(format!("{before}/{name}"), "every list once")
        });
        return Err(E::custom("a list stands twice"));
    }
    Ok(())
}

/// Whether all of these sections were there.
fn whole<E: Error>(
    sections: &[&str],
    seen: &BTreeSet<String>,
    before: &str,
    wrong: &mut Option<Refusal>,
) -> Result<(), E> {
    let Some(missing) = sections.iter().find(|section| !seen.contains(**section)) else { return Ok(()) };
    *wrong = Some(Refusal::new(format!("{before}/{missing}"), "every section, if only an empty one"));
    Err(E::custom("a section is missing"))
}

/// Keeps the place of what a reader of rows refuses.
fn told<E: Error>(answer: Result<(), Wrong>, place: &str, wrong: &mut Option<Refusal>) -> Result<(), E> {
    let Err(Wrong { field, expected, came }) = answer else { return Ok(()) };
    let slash = if field.is_empty() { "" } else { "/" };
    let pointer = format!("{place}{slash}{field}");
    *wrong = Some(Refusal { pointer, expected, came: came.map(Value::from) });
    Err(E::custom("a row is refused"))
}

/// Reads the list that is the next value; true, because it is one that is known.
fn listed<'de, A: MapAccess<'de>, T: DeserializeOwned>(
    map: &mut A,
    to: &mut impl Rows,
    wrong: &mut Option<Refusal>,
    place: &'static str,
    row: fn(T) -> Row,
) -> Result<bool, A::Error> {
    map.next_value_seed(List { to, wrong, place, row })?;
    Ok(true)
}

/// `social`, which holds two lists.
struct Social<'r, R> {
    to: &'r mut R,
    wrong: &'r mut Option<Refusal>,
}

impl<'de, R: Rows> DeserializeSeed<'de> for Social<'_, R> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, R: Rows> Visitor<'de> for Social<'_, R> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with nodes and edges")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { to, wrong } = self;
        let mut seen = BTreeSet::new();
        while let Some(name) = map.next_key::<String>()? {
            let known = match name.as_str() {
                "nodes" => listed(&mut map, to, wrong, "/social/nodes", Row::Node)?,
                "edges" => listed(&mut map, to, wrong, "/social/edges", Row::Edge)?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    false
                }
            };
            once(known, &mut seen, name, "/social", wrong)?;
        }
        whole(&SOCIAL_SECTIONS, &seen, "/social", wrong)?;
        Ok(())
    }
}

/// A list of rows of one kind.
struct List<'r, R, T> {
    to: &'r mut R,
    wrong: &'r mut Option<Refusal>,
    place: &'static str,
    row: fn(T) -> Row,
}

impl<'de, R: Rows, T: DeserializeOwned> DeserializeSeed<'de> for List<'_, R, T> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, R: Rows, T: DeserializeOwned> Visitor<'de> for List<'_, R, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut at = 0;
        while let Some(item) = seq.next_element::<T>()? {
            if at == ROWS_MAX {
                *self.wrong = Some(Refusal::new(self.place, format!("at most {ROWS_MAX} rows")));
                return Err(A::Error::custom("too many rows"));
            }
            told(self.to.row((self.row)(item)), &format!("{}/{at}", self.place), self.wrong)?;
            at += 1;
        }
        Ok(())
    }
}
