//! What a command would do: the answer of the analyser and the question of the rules.
//!
//! An analysis says what is known and marks what is not; it never decides.

use serde::{Deserialize, Serialize, Serializer};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What happens to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "how")]
pub enum How {
    /// Read, or named in a way that may mean reading.
    Read,
    /// Made, or written into.
    Write,
    /// Written at the end.
    Append,
    /// Emptied before it is written.
    Truncate,
    /// Removed.
    Delete {
        /// With everything below.
        recursive: bool,
        /// Without asking.
        force: bool,
    },
    /// Owner, mode or times.
    Metadata {
        /// With everything below.
        recursive: bool,
    },
}

impl How {
    /// False only for reading.
    pub fn changes(self) -> bool {
        self != How::Read
    }
}

/// How much of a path is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// This very path.
    Exact,
    /// Something in it or below it.
    Below,
    /// Somewhere: the path is only what is certain of it.
    Unknown,
}

/// One path a command would touch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Touch {
    /// Absolute, links followed.
    #[serde(serialize_with = "shown")]
    pub path: PathBuf,
    /// How much of it is known.
    pub reach: Reach,
    /// What happens to it.
    #[serde(flatten)]
    pub how: How,
    /// The last part as it was written, with the marks of patterns, where the path is not exact.
    #[serde(skip)]
    pub names: String,
    /// `/proc/<pid>/{environ,mem,root}` of another process, whatever it resolves to.
    #[serde(skip)]
    pub foreign_process: bool,
}

/// A name need not be text; for people it is shown as far as it is.
fn shown<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// Why a part of a command could not be analysed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Opaque {
    /// The text is no command as far as this crate can read.
    Unreadable,
    /// A limit was met.
    Limit,
    /// A command whose name or text is made while running; the words that matter are those of this text.
    Dynamic(String),
}

/// Destruction that is asked about wherever it happens, or has no path of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Destruction {
    /// `shred`, `wipefs`, `mkfs`.
    Wipe,
    /// `dd of=`.
    CopyOver,
    /// `git push --force` and its kin, in these directories.
    ForcedPush(Vec<PathBuf>),
    /// `git reset --hard` and its kin, in these directories.
    HardReset(Vec<PathBuf>),
    /// `git clean -f`, in these directories (empty: nobody knows where).
    Clean(Vec<PathBuf>),
}

/// What a command would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Analysis {
    /// Paths, without repetition.
    pub touches: BTreeSet<Touch>,
    /// Hosts it would talk to, `name` or, where the command says the port, `name:port`.
    pub hosts: BTreeSet<String>,
    /// Parts that stay dark.
    pub opaque: BTreeSet<Opaque>,
    /// Destruction beyond what the touches say.
    pub destructive: BTreeSet<Destruction>,
    /// Only commands of the read-only list, with arguments that keep them so.
    pub read_only: bool,
    /// The command as it is shown and remembered.
    pub normalised: String,
}
