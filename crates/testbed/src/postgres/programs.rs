//! Where the programs of PostgreSQL are, and as whom they run.
//!
//! `ORCH_TEST_PG_BIN` (18) and `ORCH_TEST_PG16_BIN` name directories; without them the script that fetches them is
//! asked. The server refuses to run as root, so root becomes `nobody`, and gets a copy of the programs where `nobody`
//! can read them if need be.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Which PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// The oldest supported one.
    V16,
    /// The one everything is tested on.
    V18,
}

impl Version {
    /// The major number.
    pub const fn major(self) -> u32 {
        match self {
            Version::V16 => 16,
            Version::V18 => 18,
        }
    }

    const fn variable(self) -> &'static str {
        match self {
            Version::V16 => "ORCH_TEST_PG16_BIN",
            Version::V18 => "ORCH_TEST_PG_BIN",
        }
    }

    /// Directories between the package in the cache and its programs.
    const fn depth(self) -> usize {
        match self {
            Version::V16 => 2,
            Version::V18 => 3,
        }
    }
}

/// A variable of the test run. Tests are no server: `chassis::config` is not theirs.
#[expect(
    clippy::disallowed_methods,
    reason = "the harness reads what the test run sets; no program is configured here"
)]
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The user the server runs as: `None` = as whoever runs the tests.
pub(super) fn server_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let entry = |name: &str| {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    entry("nobody").or_else(|| entry("postgres")).or(Some((65534, 65534)))
}

/// A directory of this user under the temporary one, for servers and copies of programs.
pub(super) fn base() -> Result<PathBuf, String> {
    let me = rustix::process::geteuid().as_raw();
    let base = std::env::temp_dir().join(format!("bap-test-postgres-{me}"));
    fs::create_dir_all(&base).map_err(|e| format!("{}: {e}", base.display()))?;
    let owner = fs::metadata(&base).map_err(|e| format!("{}: {e}", base.display()))?.uid();
    if owner == me { Ok(base) } else { Err(format!("{} belongs to user {owner}", base.display())) }
}

/// The directory with `postgres`, `initdb` and `pg_ctl`, readable for the server's user.
pub(super) fn find(version: Version) -> Result<PathBuf, String> {
    if let Some(given) = variable(version.variable()) {
        let given = PathBuf::from(given);
        return if given.join("postgres").is_file() {
            Ok(given)
        } else {
            Err(format!("{} names {}, which holds no postgres", version.variable(), given.display()))
        };
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/fetch-postgres.sh");
    let output = Command::new("sh")
        .arg(&script)
        .arg(version.major().to_string())
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("{}: {e}", script.display()))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "));
    }
    let programs = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    if server_user().is_none() || everybody_reaches(&programs) {
        Ok(programs)
    } else {
        copy(version, &programs)
    }
}

fn everybody_reaches(path: &Path) -> bool {
    path.ancestors().all(|folder| fs::metadata(folder).is_ok_and(|meta| meta.mode() & 0o001 != 0))
}

/// Copies the package to where everybody can read it, once per package.
fn copy(version: Version, programs: &Path) -> Result<PathBuf, String> {
    let package = programs.ancestors().nth(version.depth()).ok_or("the programs lie too near to the root")?;
    let name = package.file_name().ok_or("the package has no name")?;
    let inside = programs.strip_prefix(package).map_err(|e| e.to_string())?;
    let base = base()?;
    let target = base.join(name);
    if !target.join(inside).join("postgres").is_file() {
        let aside = base.join(format!(".copy-{}-{}", version.major(), std::process::id()));
        let copied =
            Command::new("cp").arg("-a").arg(package).arg(&aside).status().map_err(|e| e.to_string())?;
        // Of several who copy at once the first one wins.
        let moved = copied.success() && fs::rename(&aside, &target).is_ok();
        if !moved {
            let _ = fs::remove_dir_all(&aside);
        }
    }
    let programs = target.join(inside);
    if everybody_reaches(&programs) && programs.join("postgres").is_file() {
        Ok(programs)
    } else {
        Err(format!("{} cannot be made readable for the user the server runs as", target.display()))
    }
}

/// Runs one of the programs as the server's user and waits for its end. Its output ends up in the error only.
pub(super) fn run(program: &Path, folder: &Path, args: &[&str]) -> Result<(), String> {
    let said = tempfile::tempfile().map_err(|e| e.to_string())?;
    let mut command = Command::new(program);
    command
        .args(args)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("LC_ALL", "C")
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(said.try_clone().map_err(|e| e.to_string())?)
        .stderr(said.try_clone().map_err(|e| e.to_string())?);
    if let Some((uid, gid)) = server_user() {
        command.uid(uid).gid(gid);
    }
    let status = command.status().map_err(|e| format!("{}: {e}", program.display()))?;
    if status.success() {
        return Ok(());
    }
    use std::io::{Read, Seek};
    let (mut said, mut words) = (said, String::new());
    let _ = said.rewind();
    let _ = said.read_to_string(&mut words);
    Err(format!("{} ended with {status}: {}", program.display(), words.trim()))
}

/// No PostgreSQL: the test cannot say anything. Noted in the list of what was not tested and left as passed, where
/// there is such a list and the test is a process of its own; otherwise it fails.
pub(super) fn cannot_test(version: Version, reason: &str) -> ! {
    let line = format!("PostgreSQL {}: {reason}", version.major());
    eprintln!("NOT TESTED: {line}");
    if let (Some(list), Some(_)) = (variable("SEPTEMBER_TEST_SKIPS"), variable("NEXTEST")) {
        let noted = fs::read_to_string(&list).is_ok_and(|lines| lines.lines().any(|known| known == line));
        let written = noted
            || fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(&list)
                .and_then(|mut file| writeln!(file, "{line}"))
                .is_ok();
        if written {
            std::process::exit(0);
        }
    }
    panic!("{line}");
}
