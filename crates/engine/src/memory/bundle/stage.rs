//! Cutting a checked bundle into pieces that are stored in the brain before anything is applied.
//!
//! A piece holds rows of one kind, one JSON text a line, and is small enough for one short transaction. The pieces are
//! what a restarted Engine goes on with; the bundle itself is not needed any more.
//!
//! The invariant: the pieces in their order hold every row of the bundle once, parents before what needs them.

use super::check::Wrong;
use super::progress::Piece;
use super::read::{Rows, Unreadable, read};
use super::rows::{EdgeRow, EpisodeRow, FactRow, NodeRow, Row, SignalRow, SkillRow, SoulRow, VersionRow};
use super::survey::Survey;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::Sender;

/// Bytes of a piece. Larger makes its transaction longer than 50 ms; smaller makes the list of pieces, which is written
/// with every step, longer.
const PIECE_BYTES: usize = 512 * 1024;

/// A row as it is staged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Staged {
    /// An episode.
    Episode(EpisodeRow),
    /// A fact.
    Fact(FactRow),
    /// A node.
    Node(NodeRow),
    /// A relation.
    Edge {
        /// The relation.
        row: EdgeRow,
    },
    /// A skill.
    Skill(SkillRow),
    /// Feedback.
    Signal(SignalRow),
    /// A version of the soul.
    Version(VersionRow),
    /// The present soul.
    Soul(SoulRow),
}

impl Staged {
    /// The place of its kind in the order in which kinds are applied.
    const fn order(&self) -> u8 {
        match self {
            Staged::Episode(_) => 0,
            Staged::Fact(_) => 1,
            Staged::Node(_) => 2,
            Staged::Edge { .. } => 3,
            Staged::Skill(_) => 4,
            Staged::Signal(_) => 5,
            Staged::Version(_) => 6,
            Staged::Soul(_) => 7,
        }
    }

    /// The id that a removal must not take away.
    pub fn id(&self) -> Option<&str> {
        match self {
            Staged::Episode(row) => Some(row.id.as_str()),
            Staged::Fact(row) => Some(row.id.as_str()),
            Staged::Node(row) => Some(row.id.as_str()),
            Staged::Edge { row } => Some(row.id.as_str()),
            Staged::Skill(row) => Some(&row.name),
            Staged::Signal(row) => Some(row.id.as_str()),
            Staged::Version(_) | Staged::Soul(_) => None,
        }
    }
}

/// Kinds of rows.
const KINDS: usize = 8;

/// A finished piece on its way into the brain.
#[derive(Debug)]
pub struct Cut {
    /// Its place; the blob has no name yet.
    pub place: Piece,
    /// Its lines.
    pub bytes: Vec<u8>,
}

/// What else there is to know when everything is staged.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Staging {
    /// Who wrote the soul of the bundle, if it has one.
    pub soul_source: Option<String>,
}

/// Reads the bundle again and sends it away in pieces. `None` when nobody takes them any more. Blocks.
pub fn cut(bytes: &[u8], survey: &Survey, to: &Sender<Cut>) -> Result<Option<Staging>, Unreadable> {
    let mut stager = Stager {
        survey,
        to,
        open: Default::default(),
        numbers: [0; KINDS],
        versions: Vec::new(),
        staging: Staging::default(),
        gone: false,
    };
    read(bytes, &mut stager)?;
    stager.finish();
    Ok((!stager.gone).then_some(stager.staging))
}

struct Stager<'s> {
    survey: &'s Survey,
    to: &'s Sender<Cut>,
    open: [Vec<u8>; KINDS],
    numbers: [u32; KINDS],
    versions: Vec<VersionRow>,
    staging: Staging,
    gone: bool,
}

impl Stager<'_> {
    fn put(&mut self, row: &Staged) {
        let order = row.order();
        let open = &mut self.open[usize::from(order)];
        open.extend(serde_json::to_vec(row).expect("rows of texts and numbers always serialise"));
        open.push(b'\n');
        if open.len() >= PIECE_BYTES {
            self.send(order);
        }
    }

    fn send(&mut self, order: u8) {
        let at = usize::from(order);
        let bytes = std::mem::take(&mut self.open[at]);
        let place = Piece { order, number: self.numbers[at], blob: String::new() };
        self.numbers[at] += 1;
        if !bytes.is_empty() && !self.gone {
            self.gone = self.to.blocking_send(Cut { place, bytes }).is_err();
        }
    }

    fn finish(&mut self) {
        let mut versions = std::mem::take(&mut self.versions);
        versions.sort_by_key(|row| row.version);
        for row in versions {
            self.put(&Staged::Version(row));
        }
        (0..self.open.len()).filter_map(|at| u8::try_from(at).ok()).for_each(|order| self.send(order));
    }
}

impl Rows for Stager<'_> {
    fn row(&mut self, row: Row) -> Result<(), Wrong> {
        let staged = match self.survey.settled(row)? {
            Row::Episode(row) => Staged::Episode(row),
            Row::Fact(row) => Staged::Fact(row),
            Row::Node(row) => Staged::Node(row),
            Row::Edge(row) => Staged::Edge { row },
            Row::Skill(row) => Staged::Skill(row),
            Row::Signal(row) => Staged::Signal(row),
            Row::Version(row) => {
                // the oldest comes first, wherever it stands
                self.versions.push(row);
                return Ok(());
            }
            Row::Soul(row) => {
                self.staging.soul_source = Some(row.source.clone());
                Staged::Soul(row)
            }
        };
        self.put(&staged);
        Ok(())
    }
}

/// The rows of a piece.
pub fn rows(bytes: &[u8]) -> Result<Vec<Staged>, serde_json::Error> {
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(serde_json::from_slice).collect()
}
