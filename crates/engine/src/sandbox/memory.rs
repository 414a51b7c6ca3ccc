//! How much memory processes hold together, read from `/proc`: their own pages, shared ones, page tables, and
//! files in memory that nobody has mapped.
//!
//! Two answers. The quick one counts a shared page once per process, so it is never too small; the exact one
//! divides shared pages among those that share them, and costs a walk through page tables. Not here: whose the
//! processes are ([`super::groups`]) and how much is too much ([`super::memory_watch`]).
//!
//! The invariant: what cannot be read exactly counts in full.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

/// Descriptors looked at per process. More costs a look at a process with many connections as much time; of
/// files in memory beyond it only the mapped part is seen.
const FDS_MAX: usize = 4096;
/// The lines of `/proc/<pid>/status` that are a process's own: pages without a file, shared memory, what of both
/// lies in the swap, and the tables to find them.
const HELD: [&str; 4] = ["RssAnon:", "RssShmem:", "VmSwap:", "VmPTE:"];
/// The same in `smaps_rollup`, shared pages divided by the number of processes that share them.
const SHARED_OUT: [&str; 3] = ["Pss_Anon:", "Pss_Shmem:", "SwapPss:"];
/// How the kernel names files made by `memfd_create`.
const MEMORY_FILE: &str = "/memfd:";

/// What they hold, shared pages counted once per process: never less than [`exact`].
pub(super) fn at_most(pids: &[i32]) -> u64 {
    let processes = pids.iter().map(|&pid| in_full(&read(pid, "status"))).fold(0, u64::saturating_add);
    processes.saturating_add(files_in_memory(pids))
}

/// What they hold, shared pages counted once.
pub(super) fn exact(pids: &[i32]) -> u64 {
    let files = files_in_memory(pids);
    let processes = pids.iter().map(|&pid| {
        let status = read(pid, "status");
        let shared_out = sum(&read(pid, "smaps_rollup"), &SHARED_OUT);
        // Closed to us, or a kernel before 5.4.
        let Some(held) = shared_out else { return in_full(&status) };
        let tables = sum(&status, &["VmPTE:"]).unwrap_or(0);
        // These are among the files already.
        let mapped = if files == 0 { 0 } else { mapped_files(&read(pid, "smaps")) };
        held.saturating_sub(mapped).saturating_add(tables)
    });
    processes.fold(files, u64::saturating_add)
}

/// Bytes of memory that a program may still be given; `None` where the kernel does not say.
pub(super) fn available() -> Option<u64> {
    sum(&fs::read_to_string("/proc/meminfo").ok()?, &["MemAvailable:"])
}

/// Empty when the process is gone or closed to us.
fn read(pid: i32, file: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default()
}

fn in_full(status: &str) -> u64 {
    match sum(status, &["RssAnon:"]) {
        Some(_) => sum(status, &HELD).unwrap_or(0),
        // A kernel that does not tell them apart: program text counts as well.
        None => sum(status, &["VmRSS:", "VmSwap:", "VmPTE:"]).unwrap_or(0),
    }
}

/// Bytes on these lines (`Name:   12 kB`) together; `None` when there is none of them.
fn sum(text: &str, names: &[&str]) -> Option<u64> {
    let values = text.lines().filter_map(|line| {
        let rest = names.iter().find_map(|name| line.strip_prefix(name))?;
        rest.split_whitespace().next()?.parse::<u64>().ok()
    });
    values.fold(None, |all: Option<u64>, kb| Some(all.unwrap_or(0).saturating_add(kb.saturating_mul(1024))))
}

/// Of the mappings in `smaps`, the shared-out pages of files in memory.
fn mapped_files(smaps: &str) -> u64 {
    let mut inside = false;
    let mut bytes = 0_u64;
    for line in smaps.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if !first.ends_with(':') {
            // `7f0000000000-7f0000001000 rw-s 00000000 00:01 5  /memfd:name (deleted)`
            inside = line.contains(MEMORY_FILE);
        } else if inside && first == "Pss:" {
            bytes = bytes.saturating_add(sum(line, &["Pss:"]).unwrap_or(0));
        }
    }
    bytes
}

/// Bytes of the files in memory that they have open, each file once.
fn files_in_memory(pids: &[i32]) -> u64 {
    let mut files = HashMap::new();
    for pid in pids {
        let Ok(open) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for entry in open.flatten().take(FDS_MAX) {
            let path = entry.path();
            let in_memory =
                fs::read_link(&path).is_ok_and(|to| to.to_string_lossy().starts_with(MEMORY_FILE));
            if in_memory && let Ok(meta) = fs::metadata(&path) {
                files.insert((meta.dev(), meta.ino()), meta.blocks().saturating_mul(512));
            }
        }
    }
    files.values().copied().fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_process_s_own_pages_shared_ones_swap_and_tables_count_and_program_text_does_not() {
        let status = "Name:\tx\nVmRSS:\t900 kB\nRssAnon:\t  100 kB\nRssFile:\t 700 kB\nRssShmem:\t 20 kB\n\
                      VmPTE:\t 4 kB\nVmSwap:\t 8 kB\n";
        assert_eq!(in_full(status), 132 * 1024);
        assert_eq!(in_full("VmRSS:\t900 kB\nVmSwap:\t1 kB\n"), 901 * 1024, "an old kernel");
        assert_eq!(in_full(""), 0, "it is gone");
        assert_eq!(sum("Pss_Anon: x kB\nOther: 1 kB\n", &SHARED_OUT), None);
    }

    #[test]
    fn only_mappings_of_files_in_memory_are_taken_off() {
        let smaps = "1000-2000 rw-s 00000000 00:01 5   /memfd:a b (deleted)\nRss:   9 kB\nPss:   3 kB\n\
                     2000-3000 rw-p 00000000 00:00 0 \nPss:   5 kB\n\
                     3000-4000 rw-s 00000000 00:01 6   /memfd:c (deleted)\nPss:   4 kB\nVmFlags: rd\n";
        assert_eq!(mapped_files(smaps), 7 * 1024);
    }

    #[test]
    fn a_file_in_memory_that_nobody_mapped_is_seen() {
        const MB: usize = 1 << 20;
        let own = [std::process::id().cast_signed()];
        let file = rustix::fs::memfd_create("held", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut file = fs::File::from(file);
        file.write_all(&vec![1; 32 * MB]).unwrap();
        let again = file.try_clone().unwrap();
        assert!((32 * MB as u64..64 * MB as u64).contains(&files_in_memory(&own)), "once, not twice");
        assert!(at_most(&own) >= 32 * MB as u64 && exact(&own) >= 32 * MB as u64);
        drop((file, again));
        assert!(available().is_some_and(|bytes| bytes > MB as u64));
    }
}
