//! The program inside bubblewrap: process 1 of the sandbox.
//!
//! Landlock and seccomp must come after the mounts that bubblewrap makes, so something has to run in between.
//! It is this program itself, started once more with [`ASKED`] as first argument. It confines itself, starts
//! the command, says over a pipe what became of it, and stays as long as background processes live; when it
//! ends, the kernel ends everything in its PID namespace.
//!
//! The invariant: the command starts after every layer is on, or not at all.

use super::child;
use super::door;
use super::syscalls::{self, Internet, Task, UnixSockets};
use rustix::process::{WaitOptions, wait};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

/// The first argument that asks for this role.
pub const ASKED: &str = "__inside-sandbox";
/// Largest environment taken over; the kernel's own limit for arguments and environment is of this order.
const ENVIRONMENT_MAX: u64 = 4 * 1024 * 1024;
/// What a failed start answers, when nobody listens any more.
const FAILED: i32 = 126;

/// What process 1 tells the Engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// The command runs.
    Started,
    /// It could not be started; the kernel's error number.
    NotStarted(i32),
    /// It has ended while others go on; 128 + signal for a killed one. Without others, process 1 ends with
    /// the same code and says nothing.
    Exited(i32),
}

impl Word {
    /// One word on the wire: its kind, and a number in this machine's byte order. A pipe takes it whole.
    pub(super) const BUFFER: [u8; 5] = [0; 5];

    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (&kind, number) = bytes.split_first()?;
        let number = i32::from_ne_bytes(number.try_into().ok()?);
        match kind {
            b's' => Some(Word::Started),
            b'n' => Some(Word::NotStarted(number)),
            b'e' => Some(Word::Exited(number)),
            _ => None,
        }
    }

    fn bytes(self) -> [u8; 5] {
        let (kind, number) = match self {
            Word::Started => (b's', 0),
            Word::NotStarted(errno) => (b'n', errno),
            Word::Exited(code) => (b'e', code),
        };
        let [a, b, c, d] = i32::to_ne_bytes(number);
        [kind, a, b, c, d]
    }
}

/// What process 1 is told on its command line. No secret is in it; the environment comes by descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Orders {
    /// Where to say what became of the command.
    pub words: RawFd,
    /// The command's environment, `NAME=value` with a zero byte after each.
    pub environment: RawFd,
    /// Landlock, and what it allows below `/proc`.
    pub ruleset: Option<(RawFd, u64)>,
    /// Where to hand out a listener on this port of the own loopback, so that the command finds the proxy there;
    /// without it there are no sockets of the internet.
    pub door: Option<(RawFd, u16)>,
}

impl Orders {
    /// As arguments, [`ASKED`] first.
    pub(super) fn to_args(&self) -> Vec<OsString> {
        let ruleset = self.ruleset.map_or("-".to_owned(), |(fd, facts)| format!("{fd}:{facts}"));
        let door = self.door.map_or("-".to_owned(), |(fd, port)| format!("{fd}:{port}"));
        [ASKED, &self.words.to_string(), &self.environment.to_string(), &ruleset, &door]
            .iter()
            .map(Into::into)
            .collect()
    }

    fn from_args(args: &[OsString]) -> Option<(Self, &OsStr, &[OsString])> {
        let [asked, words, environment, ruleset, door, program, rest @ ..] = args else {
            return None;
        };
        if asked != ASKED {
            return None;
        }
        let ruleset = match ruleset.to_str()? {
            "-" => None,
            both => {
                let (fd, facts) = both.split_once(':')?;
                Some((fd.parse().ok()?, facts.parse().ok()?))
            }
        };
        let door = match door.to_str()? {
            "-" => None,
            both => {
                let (fd, port) = both.split_once(':')?;
                Some((fd.parse().ok()?, port.parse().ok()?))
            }
        };
        let (words, environment) = (words.to_str()?.parse().ok()?, environment.to_str()?.parse().ok()?);
        Some((Self { words, environment, ruleset, door }, program, rest))
    }
}

/// Plays process 1 and ends, when the first argument asks for it; else returns. The first thing `main` does.
pub fn run_if_asked() {
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|first| first == ASKED) {
        std::process::exit(play(&args));
    }
}

fn play(args: &[OsString]) -> i32 {
    let Some((orders, program, rest)) = Orders::from_args(args) else { return FAILED };
    // Opened again by name: that needs no unsafe code, and before the memory is closed it is allowed.
    let Ok(mut words) = File::options().write(true).open(format!("/proc/self/fd/{}", orders.words)) else {
        return FAILED;
    };
    let child = prepare(&orders).and_then(|environment| start(program, rest, &environment));
    match child {
        Ok(main) => {
            if words.write_all(&Word::Started.bytes()).is_err() {
                return FAILED;
            }
            leave_streams();
            reap(main, &mut words)
        }
        Err(error) => {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            // The Engine sees the end of the pipe when even this fails.
            let _ = words.write_all(&Word::NotStarted(errno).bytes());
            FAILED
        }
    }
}

/// Takes the environment over and puts the layers on.
fn prepare(orders: &Orders) -> io::Result<Vec<u8>> {
    let mut environment = Vec::new();
    let source = File::open(format!("/proc/self/fd/{}", orders.environment))?;
    source.take(ENVIRONMENT_MAX).read_to_end(&mut environment)?;
    if let Some((fd, port)) = orders.door {
        // SAFETY: bubblewrap passed it on for this, and nothing of this program has opened it.
        let door = unsafe { child::take_over(fd) };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        door::hand_over(door.as_fd(), listener.as_fd())?;
    }
    let internet = if orders.door.is_some() { Internet::Own } else { Internet::Off };
    // Only what is mounted exists, the network is empty, and process numbers outside do not exist: sockets by path,
    // abstract sockets and signals need no further care.
    let task = Task { unix: UnixSockets::Confined, internet, stop_truncation: false, shield: None };
    let programs = syscalls::programs(task).ok_or(io::ErrorKind::Unsupported)?;
    let (ruleset, facts) = orders.ruleset.unzip();
    child::confine_self(ruleset, facts.unwrap_or(0), &programs)?;
    Ok(environment)
}

fn start(program: &OsStr, args: &[OsString], environment: &[u8]) -> io::Result<i32> {
    let variables = environment.split(|&byte| byte == 0).filter_map(|entry| {
        let at = entry.iter().position(|&byte| byte == b'=')?;
        Some((OsStr::from_bytes(entry.get(..at)?), OsStr::from_bytes(entry.get(at + 1..)?)))
    });
    let mut command = Command::new(program);
    command.args(args).env_clear().envs(variables);
    let child = command.stdin(Stdio::inherit()).spawn()?;
    Ok(child.id().cast_signed())
}

/// Lets go of the command's streams, so that their ends are seen when the command closes them.
fn leave_streams() {
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        // A stream that cannot be replaced only delays its end.
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

/// Waits for everybody; the command's own end is told at once when others go on.
fn reap(main: i32, words: &mut File) -> i32 {
    let mut code = None;
    let mut told = false;
    loop {
        let options = if code.is_some() && !told { WaitOptions::NOHANG } else { WaitOptions::empty() };
        match wait(options) {
            Ok(Some((pid, status))) => {
                if pid.as_raw_nonzero().get() == main {
                    let ended = status.exit_status().or_else(|| status.terminating_signal().map(|s| 128 + s));
                    code = Some(ended.unwrap_or(FAILED));
                }
            }
            Ok(None) => {
                told = true;
                // If nobody listens, the Engine is gone and so is this namespace in a moment.
                let _ = words.write_all(&Word::Exited(code.unwrap_or(FAILED)).bytes());
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return code.unwrap_or(FAILED),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_and_words_survive_the_wire() {
        for ruleset in [None, Some((7, 12))] {
            for door in [None, Some((8, 40_000))] {
                let orders = Orders { words: 5, environment: 6, ruleset, door };
                let mut args = orders.to_args();
                args.extend(["/bin/sh", "-c", "true"].map(OsString::from));
                let (read, program, rest) = Orders::from_args(&args).unwrap();
                assert_eq!((read, program, rest.len()), (orders, OsStr::new("/bin/sh"), 2));
            }
        }
        for word in [Word::Started, Word::NotStarted(2), Word::Exited(137), Word::Exited(-1)] {
            assert_eq!(Word::read(&word.bytes()), Some(word));
        }
        for bad in [&b""[..], b"s", b"x1234", b"e12345"] {
            assert_eq!(Word::read(bad), None);
        }
    }
}
