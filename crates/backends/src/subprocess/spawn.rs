//! Starting a program in a session of its own, without copying this process.
//!
//! `posix_spawn` shares memory with the child until it has become the program, so a large orchestrator starts an
//! engine as fast as a small one. A session of its own is needed, not only a group: a frozen group whose parent ends
//! would otherwise be told to hang up and continue by the kernel. The one invariant: the child has exactly the given
//! environment, default signals, and no descriptor of ours but the ones named.

use rustix::fd::{AsFd, AsRawFd, BorrowedFd};
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A program to start.
pub(super) struct Program<'a> {
    /// Absolute path.
    pub(super) path: &'a Path,
    /// Arguments after the program's own name.
    pub(super) args: &'a [String],
    pub(super) env: &'a BTreeMap<String, String>,
    pub(super) dir: &'a Path,
    /// Standard input.
    pub(super) input: BorrowedFd<'a>,
    /// Standard output and standard error.
    pub(super) output: BorrowedFd<'a>,
    /// A descriptor that stays open in the child, as number 3.
    pub(super) keep: Option<BorrowedFd<'a>>,
}

fn c_text(text: &OsStr) -> std::io::Result<CString> {
    CString::new(text.as_bytes())
        .map_err(|_| std::io::Error::other("text for a program contains a zero byte"))
}

fn check(code: libc::c_int) -> std::io::Result<()> {
    if code == 0 { Ok(()) } else { Err(std::io::Error::from_raw_os_error(code)) }
}

/// Attributes and file actions, destroyed on every way out.
struct Plan {
    attributes: MaybeUninit<libc::posix_spawnattr_t>,
    actions: MaybeUninit<libc::posix_spawn_file_actions_t>,
}

impl Plan {
    fn new() -> std::io::Result<Self> {
        let mut plan = Self { attributes: MaybeUninit::uninit(), actions: MaybeUninit::uninit() };
        // SAFETY: both calls initialise what they are given; when the second fails, the first is undone here.
        unsafe {
            check(libc::posix_spawnattr_init(plan.attributes.as_mut_ptr()))?;
            if let Err(e) = check(libc::posix_spawn_file_actions_init(plan.actions.as_mut_ptr())) {
                libc::posix_spawnattr_destroy(plan.attributes.as_mut_ptr());
                std::mem::forget(plan);
                return Err(e);
            }
        }
        Ok(plan)
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: a `Plan` exists only when both were initialised.
        unsafe {
            libc::posix_spawn_file_actions_destroy(self.actions.as_mut_ptr());
            libc::posix_spawnattr_destroy(self.attributes.as_mut_ptr());
        }
    }
}

/// Starts the program and answers its pid. The caller must reap it.
pub(super) fn spawn(program: &Program<'_>) -> std::io::Result<i32> {
    let path = c_text(program.path.as_os_str())?;
    let dir = c_text(program.dir.as_os_str())?;
    let args: Vec<CString> = std::iter::once(Ok(path.clone()))
        .chain(program.args.iter().map(|arg| c_text(OsStr::new(arg))))
        .collect::<std::io::Result<_>>()?;
    let env: Vec<CString> = program
        .env
        .iter()
        .map(|(name, value)| c_text(OsStr::new(&format!("{name}={value}"))))
        .collect::<std::io::Result<_>>()?;
    let pointers = |texts: &[CString]| -> Vec<*mut libc::c_char> {
        texts.iter().map(|t| t.as_ptr().cast_mut()).chain([std::ptr::null_mut()]).collect()
    };
    let (argv, envp) = (pointers(&args), pointers(&env));

    let mut plan = Plan::new()?;
    let signals = libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF;
    let flags = libc::c_short::try_from(signals).map_err(std::io::Error::other)? | libc::POSIX_SPAWN_SETSID;
    let mut pid = 0;
    // duplicates above 3, so that putting one in its place never overwrites another that is still needed
    let high = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 10).map_err(std::io::Error::from);
    let (input, output) = (high(program.input)?, high(program.output)?);
    let keep = program.keep.map(high).transpose()?;
    let mut places = vec![(input.as_fd(), 0), (output.as_fd(), 1), (output.as_fd(), 2)];
    places.extend(keep.as_ref().map(|fd| (fd.as_fd(), 3)));
    // SAFETY: every pointer is to something that lives until after posix_spawn; lists end with null; the sets are
    // initialised by the calls before they are read.
    unsafe {
        let (attributes, actions) = (plan.attributes.as_mut_ptr(), plan.actions.as_mut_ptr());
        let mut none = MaybeUninit::<libc::sigset_t>::uninit();
        let mut all = MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigfillset(all.as_mut_ptr());
        check(libc::posix_spawnattr_setsigmask(attributes, none.as_ptr()))?;
        check(libc::posix_spawnattr_setsigdefault(attributes, all.as_ptr()))?;
        check(libc::posix_spawnattr_setflags(attributes, flags))?;
        for (fd, place) in places {
            check(libc::posix_spawn_file_actions_adddup2(actions, fd.as_raw_fd(), place))?;
        }
        check(libc::posix_spawn_file_actions_addchdir_np(actions, dir.as_ptr()))?;
        check(libc::posix_spawn(&mut pid, path.as_ptr(), actions, attributes, argv.as_ptr(), envp.as_ptr()))?;
    }
    Ok(pid)
}
