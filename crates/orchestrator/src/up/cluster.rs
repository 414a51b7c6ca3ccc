//! Where a private PostgreSQL lives: its programs, whom it runs as, its directory, its cluster made once.
//!
//! It never runs as root: started by root it becomes `postgres` or `nobody`, and where that user cannot reach the data
//! directory, files of the server are kept below `/var/lib/bap-engine` and linked from it. The link is the only thing
//! that leads there: a data directory that was made anew never finds a database of the one before it.

use super::{CONFIGURATION, FAILURE, NOTHING_THERE, REFUSED, secrets, stop};
use crate::serve::Stop;
use chassis::config::{Layered, Source};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Oldest server that is used at all; 16 and newer are supported.
const MAJOR_MIN: u32 = 15;
/// Users the server may run as when we are root, in order.
const USERS: [&str; 2] = ["postgres", "nobody"];
/// Where root's server keeps its files when its user cannot reach the data directory.
const AWAY: &str = "/var/lib/bap-engine";
/// Hexadecimal digits that name a directory there. Fewer could meet; more only lengthen the socket's path.
const NAME_HEX: usize = 12;
/// The link or directory of the server inside the data directory.
const HERE: &str = "postgres";
/// The role that owns everything.
pub(super) const ROLE: &str = "orch_user";

/// A cluster that is there, and what runs it.
pub(super) struct Cluster {
    /// Directory with `postgres`.
    pub(super) bin: PathBuf,
    /// Socket, log and, below, the data.
    pub(super) home: PathBuf,
    owner: Owner,
}

/// Whom the server runs as.
#[derive(Clone, Copy)]
struct Owner {
    uid: u32,
    gid: u32,
    /// We are root and have to become it.
    becomes: bool,
}

/// The data of a database that is there already in this data directory.
pub(super) fn existing(data_dir: &Path) -> Option<PathBuf> {
    let home = data_dir.join(HERE);
    let home = std::fs::canonicalize(&home).unwrap_or(home);
    home.join("data/PG_VERSION").exists().then_some(home)
}

impl Cluster {
    /// Finds the programs and the directory.
    pub(super) fn find(data_dir: &Path, bin: Option<&Path>, source: &Layered) -> Result<Self, Stop> {
        let found = find(bin, source)?;
        let owner = owner().map_err(|e| stop(FAILURE, e))?;
        let home =
            home(data_dir, owner).map_err(|e| stop(FAILURE, format!("directory of PostgreSQL: {e}")))?;
        let bin =
            reachable(&found, &home, owner).map_err(|e| stop(FAILURE, format!("copy PostgreSQL: {e}")))?;
        check_version(&home.join("data"), major(&bin)?)?;
        Ok(Self { bin, home, owner })
    }

    /// Where the rows are.
    pub(super) fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    /// Makes the cluster when there is none.
    pub(super) fn initialise(&self) -> Result<(), Stop> {
        if self.data().join("PG_VERSION").exists() {
            return Ok(());
        }
        tracing::debug!("making a database cluster");
        initialise(self).map_err(|e| stop(FAILURE, format!("initdb: {e}")))
    }

    /// A command that runs as the server's user, in a process group of its own so that Ctrl-C reaches only us.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.env_clear().env("LC_ALL", "C").env("TZ", "UTC").stdin(Stdio::null()).current_dir("/");
        command.process_group(0);
        if self.owner.becomes {
            command.uid(self.owner.uid).gid(self.owner.gid);
        }
        command
    }

    /// Gives a file to the server's user.
    pub(super) fn hand_over(&self, file: &std::fs::File) -> io::Result<()> {
        if self.owner.becomes {
            std::os::unix::fs::fchown(file, Some(self.owner.uid), Some(self.owner.gid))?;
        }
        Ok(())
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
            Err(stop(CONFIGURATION, format!("{} holds no `postgres` and `initdb`", dir.display())))
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
    let wanted = data_dir.join(HERE);
    let home = match std::fs::read_link(&wanted) {
        Ok(away) => away,
        Err(_) if wanted.is_dir() || passes(&wanted, owner) => wanted,
        Err(_) => {
            let mut name = uuid::Uuid::new_v4().simple().to_string();
            name.truncate(NAME_HEX);
            let away = Path::new(AWAY).join(name);
            std::os::unix::fs::symlink(&away, &wanted)?;
            away
        }
    };
    if home.starts_with(AWAY) {
        std::fs::create_dir_all(AWAY)?;
        std::fs::set_permissions(AWAY, std::fs::Permissions::from_mode(0o711))?;
    }
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

fn initialise(cluster: &Cluster) -> Result<(), String> {
    let data = cluster.data();
    let output = cluster
        .command("initdb")
        .arg("-D")
        .arg(&data)
        // Whoever gets through the socket's directory is the owner or root: there is nobody left to ask for a password.
        .args(["-U", ROLE, "--auth=trust", "--encoding=UTF8", "--locale=C"])
        .output()
        .map_err(|e| e.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    // A half-made cluster would be taken for a whole one.
    let _ = std::fs::remove_dir_all(&data);
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_data_directory_never_finds_the_database_of_the_one_before() {
        let folder = tempfile::tempdir().expect("a directory");
        let data_dir = folder.path().join("data");
        let elsewhere = folder.path().join("elsewhere");
        std::fs::create_dir_all(elsewhere.join("data")).expect("a directory");
        std::fs::write(elsewhere.join("data/PG_VERSION"), "18\n").expect("a file");
        std::fs::create_dir(&data_dir).expect("a directory");
        std::os::unix::fs::symlink(&elsewhere, data_dir.join(HERE)).expect("a link");
        let us = Owner {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            becomes: false,
        };
        assert_eq!(existing(&data_dir), Some(elsewhere.canonicalize().expect("it is there")));
        assert_eq!(home(&data_dir, us).expect("the link leads there"), elsewhere);
        std::fs::remove_dir_all(&data_dir).expect("ours");
        std::fs::create_dir(&data_dir).expect("a directory");
        assert_eq!(existing(&data_dir), None);
        assert_eq!(home(&data_dir, us).expect("a new one"), data_dir.join(HERE));
    }
}
