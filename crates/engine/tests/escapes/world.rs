//! What is attacked: a brain with all that belongs to it, daemons that note who comes, and afterwards the
//! question what has changed.

use super::attempt::{BACKUP, BRAIN, CATALOG, Root, SECRET, Scene};
use engine::sandbox::Workspace;
use std::fs;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// SIGURG that reached this process; ignored by default, so the attempts use it.
static SIGNALS: AtomicUsize = AtomicUsize::new(0);
/// Each world has names of its own.
static NUMBER: AtomicUsize = AtomicUsize::new(0);
/// How long what was killed may take to disappear.
const GONE_WITHIN: Duration = Duration::from_secs(5);

extern "C" fn count(_: i32) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// Counts signals from now on.
pub fn listen_for_signals() {
    // SAFETY: the handler touches one atomic number.
    unsafe { libc::signal(libc::SIGURG, count as *const () as libc::sighandler_t) };
}

pub struct World {
    _dir: tempfile::TempDir,
    pub base: PathBuf,
    pub mark: String,
    abstract_name: String,
    tcp4: TcpListener,
    tcp6: Option<TcpListener>,
    udp4: UdpSocket,
    udp6: Option<UdpSocket>,
    /// Stands for the Engine's proxy, and notes nothing: it may be reached.
    proxy: TcpListener,
    /// Another host at the same port.
    elsewhere: TcpListener,
    daemon: UnixListener,
    datagrams: UnixDatagram,
    hidden: UnixListener,
    signals: usize,
}

impl World {
    pub fn new() -> io::Result<Self> {
        let dir = tempfile::tempdir()?;
        let base = dir.path().canonicalize()?;
        for sub in ["data/work/sub", "data/backups", "data/tmp/t1", "data/tmp/t2", "data/catalog", "outside"]
        {
            fs::create_dir_all(base.join(sub))?;
        }
        let files = [
            ("data/brain.sqlite", BRAIN),
            ("data/brain.sqlite-wal", BRAIN),
            ("data/brain.sqlite.lock", BRAIN),
            ("data/backups/b1", BACKUP),
            ("data/catalog/agent.json", CATALOG),
            ("data/hooks.json", SECRET),
            ("data/tmp/t2/f", SECRET),
            ("outside/secret", SECRET),
            ("outside/program", "#!/bin/sh\nexit 0\n"),
        ];
        for (name, text) in files {
            fs::write(base.join(name), text)?;
        }
        let mode = |name: &str, mode| fs::set_permissions(base.join(name), fs::Permissions::from_mode(mode));
        mode("data", 0o700)?;
        mode("data/brain.sqlite", 0o600)?;
        mode("outside/program", 0o755)?;
        let mark = format!("escape-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let abstract_name = format!("{mark}-abstract");
        let tcp4 = TcpListener::bind("127.0.0.1:0")?;
        let tcp6 = TcpListener::bind("[::1]:0").ok();
        let udp4 = UdpSocket::bind("127.0.0.1:0")?;
        let udp6 = UdpSocket::bind("[::1]:0").ok();
        let daemon = UnixListener::bind(base.join("outside/daemon.sock"))?;
        let datagrams = UnixDatagram::bind(base.join("outside/daemon.dgram"))?;
        let hidden = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&abstract_name)?)?;
        let proxy = TcpListener::bind("127.0.0.1:0")?;
        let elsewhere = TcpListener::bind(("127.0.0.2", proxy.local_addr()?.port()))?;
        tcp4.set_nonblocking(true)?;
        elsewhere.set_nonblocking(true)?;
        udp4.set_nonblocking(true)?;
        daemon.set_nonblocking(true)?;
        datagrams.set_nonblocking(true)?;
        hidden.set_nonblocking(true)?;
        tcp6.as_ref().map(|l| l.set_nonblocking(true)).transpose()?;
        udp6.as_ref().map(|l| l.set_nonblocking(true)).transpose()?;
        let signals = SIGNALS.load(Ordering::Relaxed);
        Ok(Self {
            _dir: dir,
            base,
            mark,
            abstract_name,
            tcp4,
            tcp6,
            udp4,
            udp6,
            proxy,
            elsewhere,
            daemon,
            datagrams,
            hidden,
            signals,
        })
    }

    pub fn workspace(&self, root: Root) -> io::Result<Workspace> {
        let data = self.base.join("data");
        let dir = match root {
            Root::Beside => data.join("work"),
            Root::Around => data.clone(),
        };
        Workspace::new([dir])?
            .seal_brain(&data.join("brain.sqlite"))
            .seal(&data.join("backups"))
            .seal(&data.join("hooks.json"))
            .seal(&data.join("hooks2.json"))
            .read_only(&data.join("catalog"))
            .for_task(&data.join("tmp/t1"))
    }

    pub fn scene(&self, neighbour: i32) -> Scene {
        let port = |l: &TcpListener| l.local_addr().map_or(0, |a| a.port());
        let udp = |s: &UdpSocket| s.local_addr().map_or(0, |a| a.port());
        Scene {
            base: self.base.clone(),
            engine: std::process::id().cast_signed(),
            neighbour,
            tcp4: port(&self.tcp4),
            tcp6: self.tcp6.as_ref().map_or(0, port),
            udp4: udp(&self.udp4),
            udp6: self.udp6.as_ref().map_or(0, udp),
            proxy: port(&self.proxy),
            abstract_name: self.abstract_name.clone(),
            mark: self.mark.clone(),
        }
    }

    /// Everything that is not as it was, after the turn has ended.
    pub fn damage(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut note = |wrong: bool, what: &str| {
            if wrong {
                found.push(what.to_owned());
            }
        };
        let path = |name: &str| self.base.join(name);
        let holds = |name: &str, text: &str| fs::read(path(name)).is_ok_and(|bytes| bytes == text.as_bytes());
        for (name, text) in [
            ("data/brain.sqlite", BRAIN),
            ("data/brain.sqlite-wal", BRAIN),
            ("data/brain.sqlite.lock", BRAIN),
            ("data/backups/b1", BACKUP),
            ("data/catalog/agent.json", CATALOG),
            ("data/hooks.json", SECRET),
            ("data/tmp/t2/f", SECRET),
            ("outside/secret", SECRET),
        ] {
            note(!holds(name, text), &format!("{name} is not what it was"));
        }
        let meta = |name: &str| fs::symlink_metadata(path(name));
        let mode = |name: &str, wanted| meta(name).is_ok_and(|m| m.mode() & 0o777 == wanted);
        note(!mode("data", 0o700), "the brain's directory has another mode");
        note(!mode("data/brain.sqlite", 0o600), "the brain has another mode");
        let own = fs::metadata(&self.base).map(|m| m.uid()).ok();
        note(meta("data/brain.sqlite").map(|m| m.uid()).ok() != own, "the brain has another owner");
        let absent = [
            "data/brain.sqlite-journal",
            "data/.env",
            "data/hooks2.json",
            "data/catalog/new.json",
            "data/gone",
            "data/tmp/t2/x",
            "outside/new",
            "outside/newdir",
            "outside/fifo",
            "outside/listen",
        ];
        for name in absent {
            note(meta(name).is_ok(), &format!("{name} was made"));
        }
        note(self.tcp4.accept().is_ok(), "somebody came over TCP");
        note(self.elsewhere.accept().is_ok(), "somebody came to another host at the proxy's port");
        note(self.tcp6.as_ref().is_some_and(|l| l.accept().is_ok()), "somebody came over TCP (IPv6)");
        let mut buffer = [0; 8];
        note(self.udp4.recv(&mut buffer).is_ok(), "something came over UDP");
        note(
            self.udp6.as_ref().is_some_and(|s| s.recv(&mut buffer).is_ok()),
            "something came over UDP (IPv6)",
        );
        note(self.daemon.accept().is_ok(), "somebody came to the daemon");
        note(self.datagrams.recv(&mut buffer).is_ok(), "something came to the daemon");
        note(self.hidden.accept().is_ok(), "somebody came to the abstract socket");
        note(SIGNALS.load(Ordering::Relaxed) != self.signals, "the Engine was signalled");
        let end = Instant::now() + GONE_WITHIN;
        while !survivors(&self.mark).is_empty() && Instant::now() < end {
            std::thread::park_timeout(Duration::from_millis(10));
        }
        for pid in survivors(&self.mark) {
            note(true, &format!("process {pid} lives on"));
        }
        found
    }
}

/// Waits until no zombies of ours are left, within a limit that only a very slow process 1 reaches.
pub fn wait_for_the_dead() {
    let end = Instant::now() + 4 * GONE_WITHIN;
    while zombies() > 0 && Instant::now() < end {
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

fn zombies() -> usize {
    let stats = fs::read_dir("/proc").into_iter().flatten().flatten();
    stats
        .filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok())
        .filter(|stat| stat.contains("(escapes") && stat.contains(") Z "))
        .count()
}

/// Processes, this one excepted, on whose command line the mark stands.
fn survivors(mark: &str) -> Vec<String> {
    let own = std::process::id().to_string();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|pid| pid.bytes().all(|b| b.is_ascii_digit()) && *pid != own)
        .filter(|pid| {
            let line = fs::read(Path::new("/proc").join(pid).join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(mark)
        })
        .collect()
}
