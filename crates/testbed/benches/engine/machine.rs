//! What the numbers were measured on: named by its parts, never by its name or its paths.

use crate::table::Sample;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Instant;

/// Writes whose flush is timed.
const FLUSHES: usize = 300;
/// Bytes of one such write: two pages of a write-ahead log, the size of a small commit.
const FLUSHED: usize = 8 * 1024;

/// How long this disk needs to make a small write durable.
pub struct Disk {
    /// A file that grows, then `fsync`.
    pub appended: Sample,
    /// A file that keeps its size, then `fdatasync`.
    pub overwritten: Sample,
}

/// One small write to the end of a file at a time, timed while something else is measured: on a shared disk
/// a flush takes ten times longer in one minute than in the next.
pub struct Flusher(File);

impl Flusher {
    /// Writes to a file of its own in `dir`.
    pub fn new(dir: &Path) -> Self {
        Self(File::create(dir.join("flusher")).expect("a file to flush"))
    }

    /// Milliseconds for one append and its `fsync`.
    pub fn flush(&mut self) -> f64 {
        self.0.write_all(&[7; FLUSHED]).expect("written");
        timed(|| self.0.sync_all().expect("flushed"))
    }
}

/// Times both kinds of flush in `dir`, in milliseconds.
pub fn disk(dir: &Path) -> Disk {
    let path = dir.join("flush");
    let mut file = File::create(&path).expect("a file to flush");
    let block = vec![7_u8; FLUSHED];
    let appended = Sample::of((0..FLUSHES).map(|_| {
        file.write_all(&block).expect("written");
        timed(|| file.sync_all().expect("flushed"))
    }));
    let overwritten = Sample::of((0..FLUSHES).map(|n| {
        file.seek(SeekFrom::Start((n * FLUSHED) as u64)).expect("inside the file");
        file.write_all(&block).expect("written");
        timed(|| file.sync_data().expect("flushed"))
    }));
    fs::remove_file(path).expect("removed");
    Disk { appended, overwritten }
}

/// Milliseconds that something takes.
pub fn timed(work: impl FnOnce()) -> f64 {
    let started = Instant::now();
    work();
    started.elapsed().as_secs_f64() * 1000.0
}

/// Processor, cores, memory, kernel, file system and load.
pub fn describe(dir: &Path) -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|l| l.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory: u64 =
        field(&read("/proc/meminfo"), "MemTotal").split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    let kernel = read("/proc/sys/kernel/osrelease");
    let kind = match rustix::fs::statfs(dir).map(|s| s.f_type as u64 & 0xffff_ffff) {
        Ok(0xef53) => "ext4",
        Ok(0x0102_1994) => "tmpfs",
        Ok(0x5846_5342) => "xfs",
        Ok(0x9123_683e) => "btrfs",
        Ok(0x794c_7630) => "overlayfs",
        Ok(_) | Err(_) => "unknown file system",
    };
    let load = read("/proc/loadavg");
    format!(
        "{} ({cores} cores), {:.0} GiB memory, Linux {}, {kind}; load average before: {}",
        field(&cpuinfo, "model name"),
        memory as f64 / 1024.0 / 1024.0,
        kernel.trim(),
        load.split(' ').take(3).collect::<Vec<_>>().join(" "),
    )
}

/// Asks the kernel to forget a file, so that the next reader meets the disk.
pub fn forget(path: &Path) {
    let file = File::open(path).expect("the file is there");
    file.sync_all().expect("only clean pages can be forgotten");
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advice is taken");
}
