//! Files below an engine's `backups` directory, carried in and out.
//!
//! The engine owns that directory and may put links into it, so no link is ever followed here. The one invariant: a
//! name that was opened lies below `backups` and is an ordinary file.

use super::directory::failed;
use crate::{BackendError, ByteStream, Result};
use futures::StreamExt;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, open, openat, renameat, unlinkat};
use rustix::io::Errno;
use std::fs::File;
use std::path::Path;
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;

const DIR: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn refused(e: Errno, what: &str) -> BackendError {
    match e {
        Errno::NOENT => BackendError::Refused("no such file".into()),
        e => failed(what, &e.into()),
    }
}

/// The directory that holds the file, and the file's own name.
fn parent<'a>(dir: &Path, name: &'a str, make: Option<Mode>) -> Result<(OwnedFd, &'a str)> {
    let refuse = |e| refused(e, "open the directory of backups");
    let mut at = open(dir, DIR, Mode::empty()).map_err(refuse)?;
    let (parents, file) = name.rsplit_once('/').map_or(("", name), |(parents, file)| (parents, file));
    for part in std::iter::once("backups").chain(parents.split('/').filter(|part| !part.is_empty())) {
        if let Some(mode) = make {
            match mkdirat(&at, part, mode) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(refuse(e)),
            }
        }
        at = openat(&at, part, DIR, Mode::empty()).map_err(refuse)?;
    }
    Ok((at, file))
}

/// Opens the file for reading.
pub(super) fn read(dir: &Path, name: &str) -> Result<File> {
    let (at, name) = parent(dir, name, None)?;
    // a pipe in its place must not make us wait for a writer
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = openat(&at, name, flags, Mode::empty()).map_err(|e| refused(e, "open the file"))?;
    let file = File::from(file);
    let data = file.metadata().map_err(|e| failed("look at the file", &e))?;
    if data.is_file() { Ok(file) } else { Err(BackendError::Refused("not an ordinary file".into())) }
}

/// The file's bytes.
pub(super) fn stream(file: File) -> ByteStream {
    ReaderStream::new(tokio::fs::File::from_std(file)).boxed()
}

/// A file that appears under its name only when it is complete.
pub(super) struct Incoming {
    at: OwnedFd,
    name: String,
    beside: String,
    file: tokio::fs::File,
    kept: bool,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.kept {
            // an unfinished file; whoever waits has another error or has gone
            let _ = unlinkat(&self.at, &self.beside, AtFlags::empty());
        }
    }
}

/// Opens a file beside the one that will be written.
pub(super) fn begin(dir: &Path, name: &str) -> Result<Incoming> {
    let (at, name) = parent(dir, name, Some(Mode::RWXU))?;
    let beside = format!(".{:016x}.part", rand::random::<u64>());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file =
        openat(&at, &beside, flags, Mode::RUSR | Mode::WUSR).map_err(|e| refused(e, "make the file"))?;
    let file = tokio::fs::File::from_std(File::from(file));
    Ok(Incoming { at, name: name.to_owned(), beside, file, kept: false })
}

impl Incoming {
    /// Writes all of it and puts it in place.
    pub(super) async fn fill(mut self, mut data: ByteStream) -> Result<()> {
        let write = |e: std::io::Error| failed("write the file", &e);
        while let Some(chunk) = data.next().await {
            let chunk = chunk.map_err(|e| BackendError::Refused(format!("the file's source failed: {e}")))?;
            self.file.write_all(&chunk).await.map_err(write)?;
        }
        self.file.flush().await.map_err(write)?;
        self.file.sync_all().await.map_err(write)?;
        renameat(&self.at, &self.beside, &self.at, &self.name)
            .map_err(|e| refused(e, "put the file in place"))?;
        self.kept = true;
        Ok(())
    }
}

/// Removes the file; absent is success.
pub(super) fn remove(dir: &Path, name: &str) -> Result<()> {
    let gone = BackendError::Refused("no such file".into());
    let (at, name) = match parent(dir, name, None) {
        Err(e) if e == gone => return Ok(()),
        result => result?,
    };
    match unlinkat(&at, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(refused(e, "remove the file")),
    }
}
