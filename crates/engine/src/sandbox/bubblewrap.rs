//! Bubblewrap: own mount, PID, IPC, UTS, network and user namespaces around a command, where the kernel lets
//! an ordinary user make them (not in containers with Docker's default profile).
//!
//! Whether it works is found out once, by running it the way every command will be run, and not before the
//! Engine is ready: it costs as much as a whole start. What is mounted follows from the same grants as the
//! landlock rules, so that each of the two layers is enough for the file system.
//!
//! The invariant: what is not granted is not there, whatever landlock says.

use super::child::{Confinement, MAKE_NAMESPACES};
use super::gate::{Door, Kind};
use super::inside::{Orders, Word};
use super::mark::Mark;
use super::view::{Grant, Rights};
use super::{Unachievable, door, groups, view};
use rustix::fs::MemfdFlags;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where it is looked for. Not along PATH: whoever can put a program there would become the sandbox.
const PLACES: [&str; 3] = ["/usr/bin/bwrap", "/bin/bwrap", "/usr/local/bin/bwrap"];
/// How long the trial may take; a machine on which it takes longer goes without.
const TRIAL_MAX: Duration = Duration::from_secs(5);
/// Seconds of a processor for the trial, which has nobody to end it when its Engine is killed. It takes milliseconds;
/// fewer than a slow machine needs would call a working sandbox broken.
const TRIAL_CPU_S: u64 = 5;
/// How much of bubblewrap's complaint is passed on.
const COMPLAINT_MAX: u64 = 512;
/// Every namespace but that of time, which no tool needs to be apart. The network's, too, when a command may use
/// the proxy: it finds the way there inside ([`super::gate`]).
const NAMESPACES: [&str; 6] = [
    "--unshare-user",
    "--unshare-pid",
    "--unshare-ipc",
    "--unshare-uts",
    "--unshare-cgroup-try",
    "--unshare-net",
];
/// Mounts what a descriptor is open on.
const BIND: &str = "--bind-fd";
/// The same, read-only.
const BIND_READ_ONLY: &str = "--ro-bind-fd";
/// The name of the machine inside.
const HOST_NAME: &str = "sandbox";
/// Ends what is inside with the Engine. Bubblewrap's own word, because the parent of process 1 is bubblewrap.
const DIE_WITH_PARENT: &str = "--die-with-parent";
/// A program that cannot exist: getting as far as not finding it shows that everything before works.
const NO_PROGRAM: &str = "/proc/self/no-such-program";

/// A bubblewrap that works here.
#[derive(Debug)]
pub struct Bubblewrap {
    program: PathBuf,
    /// It mounts what is open. Older ones (before 0.8) look names up again; landlock then holds the difference.
    takes_descriptors: bool,
    /// This program, opened once: the file may be replaced by an upgrade while the Engine runs.
    inside: File,
}

/// What ends a launch whose Engine is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The kernel, at once.
    WithTheEngine,
    /// Itself, for a launch that is over in a moment.
    ByItself,
}

/// A command to be run inside.
pub(super) struct Order<'a> {
    pub end: End,
    pub grants: &'a [Grant],
    /// The task's scratch directory, which is also `/tmp` inside.
    pub scratch: Option<&'a Path>,
    pub cwd: &'a Path,
    /// The command's whole environment. Bubblewrap itself gets none of it.
    pub environment: Vec<(OsString, OsString)>,
    /// The landlock rules, and what is allowed below the new `/proc`.
    pub ruleset: Option<(OwnedFd, u64)>,
    /// Where the proxy listens, when the command may use it.
    pub proxy: Option<u16>,
    pub program: OsString,
    pub args: Vec<OsString>,
}

/// What to start, what it keeps open, where its words arrive, and the way to the proxy.
pub(super) struct Wrapped {
    pub command: Command,
    pub handed_over: Vec<OwnedFd>,
    pub words: OwnedFd,
    pub door: Option<Door>,
}

impl Bubblewrap {
    /// Finds it and tries it. `inside` is the program that answers to [`super::inside::ASKED`]. The trial carries
    /// `mark`, so that the next Engine finds what is left of one.
    pub fn detect(inside: &Path, mark: Option<Mark>) -> Result<Self, Unachievable> {
        let missing = |cause: String| Unachievable { layer: "bubblewrap", cause };
        let program = PLACES.iter().map(PathBuf::from).find(|path| path.exists()).ok_or_else(|| {
            missing(format!("there is no {}; install the package bubblewrap", PLACES.join(", ")))
        })?;
        trusted(&program).map_err(missing)?;
        let inside = File::open(inside).map_err(|e| missing(format!("open {}: {e}", inside.display())))?;
        let mut found = Self { program, inside, takes_descriptors: true };
        let tried = found.try_out(mark).or_else(|error| {
            if !error.to_string().contains(BIND_READ_ONLY) {
                return Err(error);
            }
            found.takes_descriptors = false;
            found.try_out(mark)
        });
        tried.map_err(|e| {
            missing(format!(
                "it does not work here ({e}); usual causes: the container runtime's seccomp profile, \
                 kernel.unprivileged_userns_clone=0, user.max_user_namespaces=0, or an AppArmor rule"
            ))
        })?;
        Ok(found)
    }

    /// Makes the command that runs `order` inside.
    pub(super) fn wrap(&self, order: Order<'_>) -> io::Result<Wrapped> {
        let (words, speaker) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&words, true)?;
        let environment = environment_file(&order.environment)?;
        let inside = OwnedFd::from(self.inside.try_clone()?);
        let ruleset = order.ruleset.as_ref().map(|(fd, facts)| (fd.as_raw_fd(), *facts));
        let (mut ours, mut theirs) = (None, None);
        if let Some(port) = order.proxy {
            let (end, inner) = door::pair()?;
            ours = Some(Door { end, kind: Kind::Listener, port });
            theirs = Some((inner, port));
        }
        let orders = Orders {
            words: speaker.as_raw_fd(),
            environment: environment.as_raw_fd(),
            ruleset,
            door: theirs.as_ref().map(|(fd, port)| (fd.as_raw_fd(), *port)),
        };
        let mut command = Command::new(&self.program);
        let (arguments, descriptors) = self.arguments(&order, ruleset.is_some())?;
        command.args(arguments);
        command.arg("--").arg(format!("/proc/self/fd/{}", inside.as_raw_fd()));
        command.args(orders.to_args()).arg(order.program).args(order.args).env_clear();
        let mut handed_over = descriptors;
        handed_over.extend([speaker, environment, inside]);
        handed_over.extend(order.ruleset.map(|(fd, _)| fd));
        handed_over.extend(theirs.map(|(fd, _)| fd));
        Ok(Wrapped { command, handed_over, words, door: ours })
    }

    /// Nothing kills the trial when the Engine is killed: its processes wait for each other and for nobody else, so all
    /// of them end by themselves. A bubblewrap that is killed before process 1 inside has been told of its user
    /// namespace leaves that one waiting for ever.
    fn try_out(&self, mark: Option<Mark>) -> io::Result<()> {
        let mut system: Vec<Grant> = view::system();
        // One of them by descriptor, to see whether that is understood.
        if self.takes_descriptors
            && let Some(first) = system.first_mut()
        {
            first.held = Some(Arc::new(OwnedFd::from(File::open(&first.path)?)));
        }
        let order = Order {
            end: End::ByItself,
            grants: &system,
            scratch: None,
            cwd: Path::new("/"),
            environment: Vec::new(),
            ruleset: None,
            proxy: None,
            program: NO_PROGRAM.into(),
            args: Vec::new(),
        };
        let Wrapped { mut command, handed_over, words, door: _ } = self.wrap(order)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let carried = mark.map(|mark| (libc::RLIMIT_RTTIME, mark.value()));
        let confinement = Confinement {
            parent: None,
            limits: carried.into_iter().chain([(libc::RLIMIT_CPU, TRIAL_CPU_S)]).collect(),
            capabilities: Some(MAKE_NAMESPACES),
            group: None,
            ruleset: None,
            programs: Vec::new(),
            asks: None,
            handed_over,
        };
        confinement.install(&mut command);
        let (mut child, _waited_for) = groups::spawn(&mut command)?;
        // With it goes our copy of the writing end.
        drop(command);
        let outcome = first_word(&words);
        // Ended by itself or hanging: either way nothing of it may stay, and bubblewrap is not all of it.
        groups::kill_group(child.id().cast_signed());
        let complaint = child.stderr.take().map(complaint).unwrap_or_default();
        child.wait()?;
        match outcome? {
            Some(Word::NotStarted(libc::ENOENT)) => Ok(()),
            Some(other) => Err(io::Error::other(format!("the trial ended with {other:?}"))),
            None if complaint.is_empty() => Err(io::Error::other("it said nothing")),
            None => Err(io::Error::other(complaint)),
        }
    }
}

/// A setuid bubblewrap would be an other program than the one tried here, and one that others can write is
/// anybody's.
fn trusted(program: &Path) -> Result<(), String> {
    let meta = fs::metadata(program).map_err(|e| format!("look at {}: {e}", program.display()))?;
    if meta.uid() != 0 || meta.mode() & 0o022 != 0 {
        return Err(format!("{} can be changed by others than root", program.display()));
    }
    Ok(())
}

/// The first word, waited for at most [`TRIAL_MAX`]; blocking.
fn first_word(words: &OwnedFd) -> io::Result<Option<Word>> {
    let end = Instant::now() + TRIAL_MAX;
    loop {
        let mut bytes = Word::BUFFER;
        match rustix::io::read(words, &mut bytes) {
            Ok(count) => return Ok(Word::read(bytes.get(..count).unwrap_or(&[]))),
            Err(rustix::io::Errno::AGAIN) => {}
            Err(e) => return Err(e.into()),
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut fds = [rustix::event::PollFd::new(words, rustix::event::PollFlags::IN)];
        let left = rustix::event::Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        };
        rustix::event::poll(&mut fds, Some(&left))?;
    }
}

/// What bubblewrap wrote to stderr before it gave up.
pub(super) fn complaint(stderr: impl Read) -> String {
    let mut text = Vec::new();
    // What cannot be read is not told.
    let _ = stderr.take(COMPLAINT_MAX).read_to_end(&mut text);
    String::from_utf8_lossy(&text).trim().to_owned()
}

/// The environment as a file in memory: arguments can be read by every process of the machine.
fn environment_file(variables: &[(OsString, OsString)]) -> io::Result<OwnedFd> {
    use std::os::unix::ffi::OsStrExt;
    let mut file = File::from(rustix::fs::memfd_create("environment", MemfdFlags::CLOEXEC)?);
    let mut text = Vec::new();
    for (name, value) in variables {
        text.extend_from_slice(name.as_bytes());
        text.push(b'=');
        text.extend_from_slice(value.as_bytes());
        text.push(0);
    }
    file.write_all(&text)?;
    Ok(file.into())
}

/// One thing to be mounted.
#[derive(Clone, Copy)]
struct Mount<'a> {
    name: &'a Path,
    path: &'a Path,
    rights: Rights,
    held: Option<&'a OwnedFd>,
}

/// What is mounted, in order. `rules`: landlock works inside, too, so that a directory may be mounted of which only
/// the making of one name is granted.
fn mounts<'a>(grants: &'a [Grant], scratch: Option<&'a Path>, rules: bool) -> Vec<Mount<'a>> {
    let mut mounts: Vec<Mount<'_>> = grants
        .iter()
        .filter(|g| rules || !matches!(g.rights, Rights::Names | Rights::Fill))
        // These two are made new.
        .filter(|g| !g.name.starts_with("/dev") && !g.name.starts_with("/proc"))
        .map(|g| Mount { name: &g.name, path: &g.path, rights: g.rights, held: g.held.as_deref() })
        .collect();
    // What is mounted cannot be removed. Where its directory is mounted for its names, it is in there already.
    let named: Vec<&Path> =
        mounts.iter().filter(|m| m.rights == Rights::Names && m.name == m.path).map(|m| m.name).collect();
    mounts.retain(|m| {
        m.rights != Rights::Write
            || m.name != m.path
            || !m.name.parent().is_some_and(|dir| named.contains(&dir))
    });
    let tmp = Path::new("/tmp");
    match scratch {
        // Places for mounts would be made in the scratch directory.
        Some(_) if mounts.iter().any(|m| m.name.starts_with(tmp)) => {
            mounts.push(Mount { name: tmp, path: tmp, rights: Rights::Frame, held: None });
        }
        Some(scratch) => mounts.push(Mount { name: tmp, path: scratch, rights: Rights::Write, held: None }),
        None => {}
    }
    // A directory before what is in it; at one place the frame first, then the strongest right last.
    mounts.sort_by(|a, b| a.name.cmp(b.name).then(strength(a.rights).cmp(&strength(b.rights))));
    mounts
}

impl Bubblewrap {
    /// Its arguments, and the descriptors they speak of.
    fn arguments(&self, order: &Order<'_>, rules: bool) -> io::Result<(Vec<OsString>, Vec<OwnedFd>)> {
        let mounts = mounts(order.grants, order.scratch, rules);
        let mut descriptors = Vec::new();
        let mut out: Vec<OsString> = NAMESPACES.iter().map(Into::into).collect();
        let mut say = |words: &[&Path]| out.extend(words.iter().map(|w| w.as_os_str().to_owned()));
        let flag = |text: &'static str| Path::new(text);
        for word in ["--hostname", HOST_NAME, "--as-pid-1", "--cap-drop", "ALL"] {
            say(&[flag(word)]);
        }
        match order.end {
            End::WithTheEngine => say(&[flag(DIE_WITH_PARENT)]),
            End::ByItself => {}
        }
        for &Mount { name, path, rights, held } in &mounts {
            // Bubblewrap closes each when it has used it, so every mount gets one of its own.
            let open = match held.filter(|_| self.takes_descriptors) {
                Some(held) => {
                    let own = held.try_clone()?;
                    let number = own.as_raw_fd().to_string();
                    descriptors.push(own);
                    Some(number)
                }
                None => None,
            };
            let (by_name, by_descriptor) = match rights {
                Rights::Read | Rights::Facts => ("--ro-bind", BIND_READ_ONLY),
                Rights::Write | Rights::Names | Rights::Fill | Rights::Device => ("--bind", BIND),
                Rights::Frame => {
                    say(&[flag("--tmpfs"), name]);
                    continue;
                }
            };
            match open {
                Some(number) => say(&[flag(by_descriptor), Path::new(&number), name]),
                None => say(&[flag(by_name), path, name]),
            }
        }
        // After the rest, so that a root such as `/` does not bring the host's back.
        // Not writable: to the kernel, root in a user namespace is still root where `/proc/sys` is concerned.
        say(&[flag("--proc"), flag("/proc"), flag("--remount-ro"), flag("/proc")]);
        say(&[flag("--dev"), flag("/dev"), flag("--remount-ro"), flag("/dev")]);
        for mount in mounts.iter().filter(|m| m.rights == Rights::Frame) {
            say(&[flag("--remount-ro"), mount.name]);
        }
        say(&[flag("--remount-ro"), flag("/"), flag("--chdir"), order.cwd]);
        Ok((out, descriptors))
    }
}

fn strength(rights: Rights) -> u8 {
    match rights {
        Rights::Frame => 0,
        Rights::Facts => 1,
        Rights::Read => 2,
        Rights::Device => 3,
        Rights::Fill => 4,
        Rights::Names => 5,
        Rights::Write => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(name: &str, rights: Rights) -> Grant {
        Grant { name: name.into(), path: name.into(), rights, held: None }
    }

    fn words(grants: &[Grant], rules: bool) -> String {
        let order = Order {
            end: End::WithTheEngine,
            grants,
            scratch: Some(Path::new("/data/scratch/t1")),
            cwd: Path::new("/data/root"),
            environment: Vec::new(),
            ruleset: None,
            proxy: None,
            program: "/bin/true".into(),
            args: Vec::new(),
        };
        let inside = File::open("/dev/null").unwrap();
        let wrap = Bubblewrap { program: "/usr/bin/bwrap".into(), takes_descriptors: true, inside };
        let (args, descriptors) = wrap.arguments(&order, rules).unwrap();
        assert_eq!(descriptors.len(), args.iter().filter(|a| *a == BIND || *a == BIND_READ_ONLY).count());
        let text: Vec<String> = args.into_iter().map(|a| a.into_string().unwrap()).collect();
        text.join(" ")
    }

    #[test]
    fn what_is_sealed_is_not_mounted_and_what_holds_it_is_a_read_only_frame() {
        let grants = [
            grant("/data/root", Rights::Write),
            grant("/data", Rights::Frame),
            grant("/usr", Rights::Read),
            grant("/data/root/catalog", Rights::Read),
            grant("/proc", Rights::Facts),
            grant("/dev/null", Rights::Device),
        ];
        let text = words(&grants, true);
        let mounts = "--tmpfs /data --bind /data/root /data/root --ro-bind /data/root/catalog \
                      /data/root/catalog --bind /data/scratch/t1 /tmp --ro-bind /usr /usr --proc /proc \
                      --remount-ro /proc --dev /dev --remount-ro /dev --remount-ro /data --remount-ro / --chdir /data/root";
        assert!(text.ends_with(mounts), "{text}");
        for namespace in NAMESPACES {
            assert!(text.contains(namespace));
        }
    }

    #[test]
    fn tmp_is_the_scratch_directory_unless_something_else_lies_below_it() {
        assert!(words(&[], true).contains("--bind /data/scratch/t1 /tmp"));
        let text = words(&[grant("/tmp/kept", Rights::Write)], true);
        assert!(text.contains("--tmpfs /tmp --bind /tmp/kept /tmp/kept"), "{text}");
        assert!(text.contains("--remount-ro /tmp"), "{text}");
    }

    #[test]
    fn what_a_person_let_go_can_be_removed_because_it_is_no_mount_of_its_own() {
        let grants = [grant("/else/old", Rights::Write), grant("/else", Rights::Names)];
        let text = words(&grants, true);
        assert!(text.contains("--bind /else /else") && !text.contains("/else/old"), "{text}");
        assert!(
            words(&grants, false).contains("--bind /else/old /else/old"),
            "nothing guards its neighbours"
        );
    }

    #[test]
    fn a_directory_for_one_name_is_mounted_only_where_landlock_guards_the_others() {
        let grants = [grant("/outside", Rights::Fill), grant("/else", Rights::Names)];
        assert!(words(&grants, true).contains("--bind /outside /outside"));
        let text = words(&grants, false);
        assert!(!text.contains("/outside") && !text.contains("/else"), "{text}");
    }
}
