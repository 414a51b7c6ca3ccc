//! What is written beside the brain about its process: `engine.pid` says which, `engine.exit` how it ended.
//!
//! Both are replaced whole, never edited, and an end names the process it is about, so that a late writer cannot
//! spoil a successor's record. The one invariant: no environment value is ever written here.

use super::process::{Life, ProcessId};
use contract::{InstanceId, ProductId, Timestamp};
use fleet::spec::EngineSpec;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

pub(super) const PID_FILE: &str = "engine.pid";
const EXIT_FILE: &str = "engine.exit";

/// The process of an engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PidRecord {
    #[serde(flatten)]
    pub(super) process: ProcessId,
    pub(super) generation: i64,
    pub(super) spec_hash: String,
    pub(super) instance: InstanceId,
    pub(super) product: ProductId,
    pub(super) image: String,
    pub(super) port: Option<u16>,
    pub(super) started_at: Timestamp,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ExitRecord {
    #[serde(flatten)]
    process: ProcessId,
    /// 128 + signal number when killed; `None` when it was not our child.
    pub(super) code: Option<i32>,
    pub(super) oom: bool,
    /// When its end was noticed.
    pub(super) at: Timestamp,
}

impl PidRecord {
    pub(super) fn new(spec: &EngineSpec, process: ProcessId) -> Self {
        Self {
            process,
            generation: spec.generation,
            spec_hash: spec.spec_hash.clone(),
            instance: spec.instance,
            product: spec.product_id,
            image: spec.image.clone(),
            port: spec.port,
            started_at: Timestamp::now(),
        }
    }

    /// `None` when there is no object; an error when the file says nothing that makes sense.
    pub(super) fn read(dir: &Path) -> io::Result<Option<Self>> {
        read_json(&dir.join(PID_FILE))
    }

    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        replace_json(dir, PID_FILE, self)
    }

    /// Forgets the process and its end: there is no object any more.
    pub(super) fn remove(dir: &Path) -> io::Result<()> {
        forget_exit(dir)?;
        remove_if_there(&dir.join(PID_FILE))
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    serde_json::from_slice(&text).map(Some).map_err(io::Error::from)
}

/// Writes beside and renames, so that a reader sees the old or the new, and a crash leaves one of them.
pub(super) fn replace_json(dir: &Path, name: &str, value: &impl Serialize) -> io::Result<()> {
    let beside = dir.join(format!(".{name}.{:016x}", rand::random::<u64>()));
    let written = write_new(&beside, value).and_then(|()| fs::rename(&beside, dir.join(name)));
    if written.is_err() {
        // best effort: the error that matters is the first
        let _ = fs::remove_file(&beside);
    }
    written
}

fn write_new(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    file.sync_data()
}

pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Forgets how the process before ended: to be done before a new one starts.
pub(super) fn forget_exit(dir: &Path) -> io::Result<()> {
    remove_if_there(&dir.join(EXIT_FILE))
}

/// Held from reaping a child until its code is written, so that nobody in this process sees a dead process without
/// its code in between. Children belong to the process, and so does this lock.
static REAPING: Mutex<()> = Mutex::new(());

/// How the process of this record ended, writing it down when nobody has yet; `None` while it lives.
///
/// `known` is a code the caller is sure of although the process may be somebody else's child: it killed it.
pub(super) fn settle(
    dir: &Path,
    record: &PidRecord,
    known: Option<i32>,
    oom: bool,
) -> io::Result<Option<ExitRecord>> {
    let _held = REAPING.lock().unwrap_or_else(PoisonError::into_inner);
    if record.process.life()? != Life::Dead {
        return Ok(None);
    }
    let reaped = record.process.reap()?;
    let mut written: Option<ExitRecord> = read_json(&dir.join(EXIT_FILE))?;
    if written.as_ref().is_some_and(|exit| exit.process != record.process) {
        // a predecessor's, written late
        forget_exit(dir)?;
        written = None;
    }
    if let (Some(exit), None) = (&written, reaped)
        && (exit.code.is_some() || known.is_none())
    {
        return Ok(written);
    }
    let code = reaped.or(known);
    let at = written.map_or_else(Timestamp::now, |exit| exit.at);
    let exit = ExitRecord { process: record.process.clone(), code, oom, at };
    if code.is_some() {
        replace_json(dir, EXIT_FILE, &exit)?;
        return Ok(Some(exit));
    }
    // not our child: whoever is its parent writes the code, and this must not overwrite it
    match write_new(&dir.join(EXIT_FILE), &exit) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let theirs: Option<ExitRecord> = read_json(&dir.join(EXIT_FILE)).unwrap_or(None);
            Ok(Some(theirs.filter(|theirs| theirs.process == exit.process).unwrap_or(exit)))
        }
        Err(e) => Err(e),
        Ok(()) => Ok(Some(exit)),
    }
}
