//! Attempts to hold more memory than was given, each in a way the kernel counts differently.

use super::attempt::{Attempt, Control, Network, Outcome, Promise, Root, Scene};
use super::calls::call;
use std::fs::File;
use std::io::Write;
use std::os::fd::FromRawFd;
use std::time::Duration;

/// More than the limit of the matrix (512 MB), and little enough for a small machine.
const BOMB_MB: usize = 768;
const MB: usize = 1 << 20;
/// Longer than the launcher takes to notice.
const LONG_ENOUGH: Duration = Duration::from_secs(4);
/// One file may have 4 MB.
const FILE_MB: usize = 4;

const fn greedy(name: &'static str, promise: Promise, act: fn(&Scene) -> Outcome) -> Attempt {
    Attempt { name, promise, control: Control::No, root: Root::Beside, network: Network::Off, act }
}

/// Whoever is still there after this while has got away with it.
fn kept(what: &str) -> Outcome {
    std::thread::park_timeout(LONG_ENOUGH);
    Outcome::Did(format!("{BOMB_MB} MB {what} are held"))
}

/// Maps this much, and writes to every page.
fn fill(mb: usize, sharing: libc::c_int) -> Result<*mut libc::c_void, ()> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = sharing | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping wherever the kernel likes, written to within its length.
    unsafe {
        let at = libc::mmap(std::ptr::null_mut(), mb * MB, protection, flags, -1, 0);
        if at == libc::MAP_FAILED {
            return Err(());
        }
        libc::memset(at, 1, mb * MB);
        Ok(at)
    }
}

fn memory_file() -> std::io::Result<File> {
    let fd = call(libc::SYS_memfd_create, [c"bomb".as_ptr() as i64, 0, 0, 0, 0, 0])?;
    // SAFETY: the kernel has just made it, for nobody else.
    Ok(unsafe { File::from_raw_fd(i32::try_from(fd).map_err(std::io::Error::other)?) })
}

/// A process that holds this much until it is ended.
fn child(mb: usize, leaves: bool) -> Option<i32> {
    // SAFETY: this program has one thread when an attempt runs.
    match unsafe { libc::fork() } {
        0 => {
            if leaves {
                // SAFETY: a plain system call.
                unsafe { libc::setsid() };
            }
            let _held = fill(mb, if leaves { libc::MAP_SHARED } else { libc::MAP_PRIVATE });
            std::thread::park_timeout(LONG_ENOUGH * 2);
            std::process::exit(0)
        }
        pid @ 1.. => Some(pid),
        _ => None,
    }
}

pub const ATTEMPTS: &[Attempt] = &[
    greedy("memory bomb", Promise::Always, |_| {
        let mut held = Vec::<u8>::new();
        match held.try_reserve_exact(BOMB_MB * MB) {
            Ok(()) => Outcome::Did(format!("{BOMB_MB} MB")),
            Err(_) => Outcome::Refused,
        }
    }),
    greedy("memory bomb of pages made read-only", Promise::Always, |_| {
        const PIECE_MB: usize = 64;
        for _ in 0..BOMB_MB / PIECE_MB {
            let Ok(at) = fill(PIECE_MB, libc::MAP_PRIVATE) else { return Outcome::Refused };
            // SAFETY: the mapping just made, which nobody writes to any more.
            unsafe { libc::mprotect(at, PIECE_MB * MB, libc::PROT_READ) };
        }
        kept("read-only")
    }),
    greedy("memory bomb of shared memory", Promise::Always, |_| match fill(BOMB_MB, libc::MAP_SHARED) {
        Ok(_) => kept("of shared memory"),
        Err(()) => Outcome::Refused,
    }),
    greedy("memory bomb of files in memory", Promise::Always, |_| {
        let chunk = vec![1; FILE_MB * MB];
        let mut held = Vec::new();
        for _ in 0..BOMB_MB / FILE_MB {
            match memory_file().and_then(|mut file| file.write_all(&chunk).map(|()| file)) {
                Ok(file) => held.push(file),
                Err(_) => return Outcome::Refused,
            }
        }
        kept("in files nobody has mapped")
    }),
    greedy("memory bomb of many processes", Promise::Always, |_| {
        let made = (0..4).filter_map(|_| child(BOMB_MB / 4, false)).count();
        if made < 4 { Outcome::Refused } else { kept("in four processes") }
    }),
    greedy("memory bomb that left its session", Promise::Always, |_| {
        let Some(pid) = child(BOMB_MB, true) else { return Outcome::Refused };
        std::thread::park_timeout(LONG_ENOUGH);
        // SAFETY: a plain system call that does not wait.
        let lives = unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) } == 0;
        if lives { Outcome::Did(format!("{BOMB_MB} MB live on")) } else { Outcome::Refused }
    }),
    greedy("memory bomb in /dev/shm", Promise::Files, |s| {
        let path = format!("/dev/shm/{}", s.mark);
        let written = std::fs::write(&path, vec![1; MB]);
        // Nothing may stay of what worked.
        let _ = std::fs::remove_file(&path);
        Outcome::of(written)
    }),
];
