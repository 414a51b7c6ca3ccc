//! A private PostgreSQL: found, initialised once, on a Unix socket only, stopped with us.
//!
//! It never runs as root: started by root it becomes `postgres` or `nobody`, and where that user cannot reach the data
//! directory, files of the server are kept below `/var/lib/bap-engine` and linked from it.

use super::{FAILURE, NOTHING_THERE, REFUSED, secrets, stop};
use crate::registry::{DatabaseSettings, Registry};
use crate::serve::Stop;
use chassis::config::{Layered, Secret, Source};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Oldest server that is used at all; 16 and newer are supported.
const MAJOR_MIN: u32 = 15;
/// Longest path of a Unix socket.
const SOCKET_PATH_MAX: usize = 107;
/// The port in the socket's name; nothing listens on TCP.
const PORT: u16 = 5432;
/// Longest wait for the server to answer, recovery after a crash included.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Longest wait for it to stop.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// Users the server may run as when we are root, in order.
const USERS: [&str; 2] = ["postgres", "nobody"];
/// Role and database of the orchestrator.
const ROLE: &str = "orch_user";
const DATABASE: &str = "orchestrator";

/// A running server.
pub(super) struct Postgres {
    child: Child,
    socket_dir: PathBuf,
}

/// Whom the server runs as.
#[derive(Clone, Copy)]
struct Owner {
    uid: u32,
    gid: u32,
    /// We are root and have to become it.
    becomes: bool,
}

impl Postgres {
    /// Finds the programs, makes the cluster when there is none, starts the server and makes the database.
    pub(super) async fn start(data_dir: &Path, bin: Option<&Path>, source: &Layered) -> Result<Self, Stop> {
        let found = find(bin, source)?;
        let owner = owner().map_err(|e| stop(FAILURE, e))?;
        let home =
            home(data_dir, owner).map_err(|e| stop(FAILURE, format!("directory of PostgreSQL: {e}")))?;
        let bin =
            reachable(&found, &home, owner).map_err(|e| stop(FAILURE, format!("copy PostgreSQL: {e}")))?;
        let major = major(&bin)?;
        let cluster = home.join("data");
        check_version(&cluster, major)?;
        let socket = home.join(format!(".s.PGSQL.{PORT}"));
        if socket.as_os_str().len() > SOCKET_PATH_MAX {
            return Err(stop(
                REFUSED,
                format!(
                    "the socket path {} is longer than {SOCKET_PATH_MAX} bytes; say a shorter --data-dir",
                    socket.display()
                ),
            ));
        }
        if !cluster.join("PG_VERSION").exists() {
            tracing::debug!("making a database cluster");
            initialise(&bin, &cluster, owner).map_err(|e| stop(FAILURE, format!("initdb: {e}")))?;
        }
        let child = launch(&bin, &cluster, &home, owner)
            .map_err(|e| stop(FAILURE, format!("start PostgreSQL: {e}")))?;
        let mut server = Self { child, socket_dir: home };
        server.until_ready().await?;
        Ok(server)
    }

    /// The URL of the orchestrator's database.
    pub(super) fn url(&self) -> String {
        self.url_of(DATABASE)
    }

    fn url_of(&self, database: &str) -> String {
        let dir: String = self.socket_dir.display().to_string().bytes().map(escape).collect();
        format!("postgresql://{ROLE}@{dir}:{PORT}/{database}?sslmode=disable")
    }

    async fn until_ready(&mut self) -> Result<(), Stop> {
        let url = Secret::new(self.url_of("postgres"));
        let settings =
            DatabaseSettings { url, max_connections: 1, application_name: "bap-engine up".to_owned() };
        let registry = Registry::connect(settings).map_err(|e| stop(FAILURE, e.to_string()))?;
        let began = Instant::now();
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(stop(
                    FAILURE,
                    format!("PostgreSQL ended ({status}); see {}", self.log().display()),
                ));
            }
            if registry.ping().await.is_ok() {
                break;
            }
            if began.elapsed() > START_LIMIT {
                return Err(stop(
                    FAILURE,
                    format!("PostgreSQL does not answer; see {}", self.log().display()),
                ));
            }
            tokio::time::sleep(LOOK).await;
        }
        registry.create_database(DATABASE).await.map_err(|e| stop(FAILURE, e.to_string()))
    }

    fn log(&self) -> PathBuf {
        self.socket_dir.join("postgres.log")
    }

    /// Stops the server: no new connections, open ones ended, everything written.
    pub(super) async fn stop(mut self) {
        let Some(pid) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) else {
            return;
        };
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        let began = Instant::now();
        while began.elapsed() < STOP_LIMIT {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
        tracing::warn!("PostgreSQL does not stop; ending it, it recovers at the next start");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let (Ok(None), Some(pid)) = (
            self.child.try_wait(),
            i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw),
        ) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
            let _ = self.child.wait();
        }
    }
}

/// A byte of a path as it stands in the host part of a URL.
fn escape(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_') {
        char::from(byte).to_string()
    } else {
        format!("%{byte:02X}")
    }
}

/// The first directory that has the programs (§16).
fn find(given: Option<&Path>, source: &Layered) -> Result<PathBuf, Stop> {
    let has = |dir: &Path| ["postgres", "initdb"].iter().all(|program| dir.join(program).is_file());
    if let Some(dir) = given {
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        return if has(&dir) {
            Ok(dir)
        } else {
            Err(stop(super::CONFIGURATION, format!("{} holds no `postgres` and `initdb`", dir.display())))
        };
    }
    let path = source.get("PATH").unwrap_or_default();
    let on_path: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let mut debian: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .collect();
    debian.sort_by_key(|dir| std::cmp::Reverse(version_in(dir)));
    let brew = ["/opt/homebrew/bin", "/usr/local/bin", "/home/linuxbrew/.linuxbrew/bin"].map(PathBuf::from);
    let candidates = on_path.into_iter().chain(debian).chain(brew);
    let mut usable: Vec<(u32, PathBuf)> = Vec::new();
    for dir in candidates.filter(|dir| has(dir)) {
        if let Ok(major) = major(&dir)
            && major >= MAJOR_MIN
        {
            usable.push((major, dir));
        }
    }
    usable.into_iter().next().map(|(_, dir)| dir).ok_or_else(|| {
        stop(
            NOTHING_THERE,
            "no PostgreSQL 15 or newer was found. Install one (Debian: apt-get install postgresql; macOS: brew install postgresql@18) \
             or name its programs with --postgres-bin DIR; `make up` fetches one by itself",
        )
    })
}

fn version_in(dir: &Path) -> u32 {
    let name = dir.parent().and_then(Path::file_name).and_then(|n| n.to_str());
    name.and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// The major version the programs say they are.
fn major(bin: &Path) -> Result<u32, Stop> {
    let said = Command::new(bin.join("postgres")).arg("--version").stdin(Stdio::null()).output();
    let text = said.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    let number = text.split_whitespace().find_map(|word| word.split('.').next()?.parse().ok());
    number.ok_or_else(|| {
        stop(NOTHING_THERE, format!("{}/postgres does not run: {}", bin.display(), text.trim()))
    })
}

/// A cluster of another major version is never touched.
fn check_version(cluster: &Path, major: u32) -> Result<(), Stop> {
    let Ok(text) = std::fs::read_to_string(cluster.join("PG_VERSION")) else { return Ok(()) };
    if text.trim() == major.to_string() {
        return Ok(());
    }
    Err(stop(
        REFUSED,
        format!(
            "{} was made by PostgreSQL {}, and this is {major}. Name programs of that version with --postgres-bin DIR, or say another --data-dir",
            cluster.display(),
            text.trim()
        ),
    ))
}

fn owner() -> Result<Owner, String> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if uid != 0 {
        return Ok(Owner { uid, gid, becomes: false });
    }
    let passwd = std::fs::read_to_string("/etc/passwd").map_err(|e| format!("/etc/passwd: {e}"))?;
    for user in USERS {
        let entry = passwd.lines().find(|line| line.split(':').next() == Some(user));
        let ids = entry.and_then(|line| {
            let mut fields = line.split(':').skip(2);
            Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
        });
        if let Some((uid, gid)) = ids {
            return Ok(Owner { uid, gid, becomes: true });
        }
    }
    Err("PostgreSQL does not run as root, and there is neither a user `postgres` nor `nobody`".to_owned())
}

/// May this user pass through every directory above the path?
fn passes(path: &Path, owner: Owner) -> bool {
    !owner.becomes
        || path.ancestors().skip(1).all(|dir| {
            std::fs::metadata(dir).is_ok_and(|meta| {
                meta.mode() & 0o001 != 0 || (meta.uid() == owner.uid && meta.mode() & 0o100 != 0)
            })
        })
}

/// The directory of cluster, socket and log, owned by the server's user.
fn home(data_dir: &Path, owner: Owner) -> io::Result<PathBuf> {
    let wanted = data_dir.join("postgres");
    let home = if passes(&wanted, owner) {
        wanted
    } else {
        let digest = Sha256::digest(data_dir.as_os_str().as_encoded_bytes());
        let name: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let away = Path::new("/var/lib/bap-engine").join(name);
        std::fs::create_dir_all("/var/lib/bap-engine")?;
        std::fs::set_permissions("/var/lib/bap-engine", std::fs::Permissions::from_mode(0o711))?;
        if std::fs::symlink_metadata(&wanted).is_err() {
            std::os::unix::fs::symlink(&away, &wanted)?;
        }
        away
    };
    secrets::private_dir(&home)?;
    if owner.becomes {
        std::os::unix::fs::chown(&home, Some(owner.uid), Some(owner.gid))?;
    }
    Ok(home)
}

/// The programs where the server's user can run them: as found, or copied with everything beside them.
fn reachable(bin: &Path, home: &Path, owner: Owner) -> io::Result<PathBuf> {
    let bin = bin.canonicalize()?;
    if passes(&bin.join("postgres"), owner) {
        return Ok(bin);
    }
    // <top>/pginstall/bin with its libraries beside pginstall: the programs find both by their own place.
    let install = bin.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let top = install.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let beside = top.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let (Some(top_name), Some(install_name)) = (top.file_name(), install.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let target = home.join("programs");
    let done = target.join(".complete");
    let stamp = bin.display().to_string();
    if std::fs::read_to_string(&done).is_ok_and(|text| text == stamp) {
        return Ok(target.join(top_name).join(install_name).join("bin"));
    }
    let _ = std::fs::remove_dir_all(&target);
    copy_tree(install, &target.join(top_name).join(install_name))?;
    let libraries = format!("{}.libs", top_name.to_string_lossy());
    if beside.join(&libraries).is_dir() {
        copy_tree(&beside.join(&libraries), &target.join(&libraries))?;
    }
    std::fs::write(&done, stamp)?;
    Ok(target.join(top_name).join(install_name).join("bin"))
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            copy_tree(&source, &target)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(&source)?, &target)?;
        } else {
            std::fs::copy(&source, &target)?;
        }
    }
    Ok(())
}

/// A command that runs as the server's user, in a process group of its own so that Ctrl-C reaches only us.
fn command(program: &Path, owner: Owner) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("LC_ALL", "C").env("TZ", "UTC").stdin(Stdio::null()).current_dir("/");
    command.process_group(0);
    if owner.becomes {
        command.uid(owner.uid).gid(owner.gid);
    }
    command
}

fn initialise(bin: &Path, cluster: &Path, owner: Owner) -> Result<(), String> {
    let output = command(&bin.join("initdb"), owner)
        .arg("-D")
        .arg(cluster)
        // Whoever gets through the socket's directory is the owner or root: there is nobody left to ask for a password.
        .args(["-U", ROLE, "--auth=trust", "--encoding=UTF8", "--locale=C"])
        .output()
        .map_err(|e| e.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    // A half-made cluster would be taken for a whole one.
    let _ = std::fs::remove_dir_all(cluster);
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

fn launch(bin: &Path, cluster: &Path, home: &Path, owner: Owner) -> io::Result<Child> {
    let log = File::options().create(true).append(true).open(home.join("postgres.log"))?;
    if owner.becomes {
        std::os::unix::fs::fchown(&log, Some(owner.uid), Some(owner.gid))?;
    }
    let mut command = command(&bin.join("postgres"), owner);
    command.arg("-D").arg(cluster);
    for setting in [
        "listen_addresses=".to_owned(),
        format!("unix_socket_directories={}", home.display()),
        "unix_socket_permissions=0700".to_owned(),
        format!("port={PORT}"),
        "shared_buffers=32MB".to_owned(),
        "max_connections=60".to_owned(),
        "timezone=UTC".to_owned(),
        "log_timezone=UTC".to_owned(),
    ] {
        command.arg("-c").arg(setting);
    }
    command.stdout(log.try_clone()?).stderr(log);
    // SAFETY: prctl is a plain system call; nothing is allocated between fork and exec.
    unsafe {
        command.pre_exec(|| {
            // When we are killed the server stops by itself, in order.
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::INT))?;
            Ok(())
        });
    }
    command.spawn()
}
