//! Attempts to take more than was given: processes, disk, time after the turn. Memory is in [`super::memory`].

use super::attempt::{Attempt, Control, Network, Outcome, Promise, Root, Scene};
use super::calls::call;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Argument of the program that only lives on.
pub const LINGER: &str = "__linger";
/// Argument of the program that goes on in a child of its own, again and again.
pub const HOP: &str = "__hop";
/// More than the limit of the matrix by far.
const BOMB: usize = 300;
/// Longer than the launcher takes to notice.
const LONG_ENOUGH: Duration = Duration::from_secs(4);
/// A lingering program that nobody ends stops by itself, so that a failed run leaves nothing for long.
const LINGER_MAX: Duration = Duration::from_secs(120);

const fn greedy(name: &'static str, act: fn(&Scene) -> Outcome) -> Attempt {
    Attempt {
        name,
        promise: Promise::Always,
        control: Control::No,
        root: Root::Beside,
        network: Network::Off,
        act,
    }
}

pub fn linger() {
    let end = Instant::now() + LINGER_MAX;
    while Instant::now() < end {
        std::thread::park_timeout(end - Instant::now());
    }
}

pub fn hop() {
    let end = Instant::now() + LINGER_MAX;
    while Instant::now() < end {
        // SAFETY: this process has one thread.
        match unsafe { libc::fork() } {
            // SAFETY: plain system calls.
            0 => unsafe {
                libc::setsid();
            },
            // The parent ends; the child goes on.
            1.. => std::process::exit(0),
            _ => return,
        }
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Starts a program that leaves the session, its parent and its environment.
fn leave(role: &str, scene: &Scene) -> Outcome {
    let own = std::fs::read_link("/proc/self/exe").unwrap_or_else(|_| PathBuf::from("/proc/self/exe"));
    let mut command = Command::new(own);
    command.args([role, &scene.mark]).env_clear();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: setsid is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            Ok(())
        });
    }
    match command.spawn() {
        // The judge looks for it when the turn is over.
        Ok(_) => Outcome::Refused,
        Err(e) => Outcome::CannotTry(format!("it did not start: {e}")),
    }
}

pub const ATTEMPTS: &[Attempt] = &[
    greedy("one huge file", |s| {
        // SAFETY: a plain call; the default would end this program, which counts as refused as well.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
        let chunk = vec![1; 1 << 20];
        let written = std::fs::File::create(s.here("huge"))
            .and_then(|mut file| (0..16).try_for_each(|_| file.write_all(&chunk)));
        Outcome::of(written)
    }),
    greedy("many files that fill the disk", |_| {
        let dir = std::env::temp_dir();
        let chunk = vec![1; 1 << 20];
        for number in 0..48 {
            if std::fs::write(dir.join(format!("part-{number}")), &chunk).is_err() {
                return Outcome::Refused;
            }
        }
        std::thread::park_timeout(LONG_ENOUGH);
        Outcome::Did("48 MB lie there".into())
    }),
    greedy("leave a core dump of the shell", |_| {
        let mut limit = [1_u64; 2];
        let at = limit.as_mut_ptr() as i64;
        let read = call(libc::SYS_prlimit64, [0, libc::RLIMIT_CORE.into(), 0, at, 0, 0]);
        if read.is_ok() && limit == [0, 0] { Outcome::Refused } else { Outcome::Did(format!("{limit:?}")) }
    }),
    greedy("live on after the turn", |s| leave(LINGER, s)),
    greedy("live on after the turn by hopping", |s| leave(HOP, s)),
    greedy("fork bomb", |_| {
        let mut made = 0;
        for _ in 0..BOMB {
            // SAFETY: the child makes system calls only.
            match unsafe { libc::fork() } {
                0 => loop {
                    // SAFETY: a plain system call.
                    unsafe { libc::pause() };
                },
                1.. => made += 1,
                _ => return Outcome::Refused,
            }
        }
        std::thread::park_timeout(LONG_ENOUGH);
        Outcome::Did(format!("{made} processes live on"))
    }),
];
