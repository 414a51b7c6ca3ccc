//! How far an import is: the state of its job, written in the transaction of every step.
//!
//! The invariant: rows that are counted are stored, and rows that are stored are counted.

use brain::memory::marks::Marks;
use serde::{Deserialize, Serialize};

/// What an import does with what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It stays, and the bundle adds to it.
    Merge,
    /// It goes; the bundle takes its place.
    Replace,
}

impl Mode {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Mode::Merge => "merge",
            Mode::Replace => "replace",
        }
    }

    /// Reads the word.
    pub fn parse(text: &str) -> Option<Self> {
        [Mode::Merge, Mode::Replace].into_iter().find(|mode| mode.as_str() == text)
    }
}

/// Rows that were written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Episodes.
    pub episodes: u64,
    /// Facts.
    pub knowledge: u64,
    /// People, organizations and others.
    pub social: u64,
    /// Custom skills.
    pub skills: u64,
}

/// What an import is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Pieces of the bundle are being stored; no memory has been touched, and after a restart none will be.
    Staging,
    /// In `replace`: what was to be learned from the time before is ended. From here on the import will be completed.
    Settling,
    /// Rows are being written.
    Applying,
    /// What was there before is going.
    Removing,
    /// The pieces are going.
    Releasing,
}

/// A piece of a staged bundle: some rows of one kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Piece {
    /// Its kind's place in the order in which kinds are applied.
    pub order: u8,
    /// Its own place among them.
    pub number: u32,
    /// The blob that holds it.
    pub blob: String,
}

/// Tables whose previous rows go, in this order: relations before the nodes they join.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Table {
    /// Relations.
    Edges,
    /// Nodes.
    Nodes,
    /// Facts.
    Facts,
    /// Episodes.
    Episodes,
    /// Feedback.
    Signals,
    /// Everything small: skills, versions of the soul.
    Rest,
}

impl Table {
    /// The one after it.
    pub const fn next(self) -> Option<Self> {
        match self {
            Table::Edges => Some(Table::Nodes),
            Table::Nodes => Some(Table::Facts),
            Table::Facts => Some(Table::Episodes),
            Table::Episodes => Some(Table::Signals),
            Table::Signals => Some(Table::Rest),
            Table::Rest => None,
        }
    }
}

/// The state of an import.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// merge or replace.
    pub mode: Mode,
    /// The name of the bundle: the beginning of its SHA-256.
    pub bundle: String,
    /// What it is doing.
    pub phase: Phase,
    /// What there was before.
    pub marks: Marks,
    /// The staged bundle.
    pub pieces: Vec<Piece>,
    /// The piece that is being applied.
    pub piece: usize,
    /// Rows of it that are done.
    pub row: usize,
    /// Rows written so far.
    pub counts: Counts,
    /// Rows that were there already.
    pub skipped: u64,
    /// Whether the soul of the bundle is taken over.
    pub takes_soul: bool,
    /// Whether the soul goes back to the catalog's template: a replacement with a bundle that has none.
    #[serde(default)]
    pub clears_soul: bool,
    /// The turn up to which what turns have shown is taken away.
    #[serde(default)]
    pub shown_to: Option<String>,
    /// The first version of the soul that stays.
    pub first_version: Option<i64>,
    /// Custom skills there were before.
    pub skills_before: Vec<String>,
    /// Where the removal is.
    pub table: Table,
    /// The row of that table up to which it is done.
    pub removed_to: i64,
    /// The same for feedback, which has no row numbers.
    pub signals_to: Option<String>,
}

impl Progress {
    /// At the beginning.
    pub fn new(mode: Mode, bundle: String) -> Self {
        Self {
            mode,
            bundle,
            phase: Phase::Staging,
            marks: Marks::default(),
            pieces: Vec::new(),
            piece: 0,
            row: 0,
            counts: Counts::default(),
            skipped: 0,
            takes_soul: false,
            clears_soul: false,
            shown_to: None,
            first_version: None,
            skills_before: Vec::new(),
            table: Table::Edges,
            removed_to: 0,
            signals_to: None,
        }
    }
}
