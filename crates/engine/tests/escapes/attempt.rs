//! What an attempt is, what it is told, and what it may answer. Shared by both sides of the sandbox's wall.

use std::io;
use std::path::PathBuf;

/// What became of an attempt, as the hostile program sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It worked; what was got.
    Did(String),
    /// It was refused.
    Refused,
    /// The means are missing here; why.
    CannotTry(String),
}

impl Outcome {
    /// Success is an escape.
    pub fn of<T>(result: io::Result<T>) -> Self {
        match result {
            Ok(_) => Outcome::Did(String::new()),
            Err(_) => Outcome::Refused,
        }
    }

    /// Showing this secret is an escape.
    pub fn shows(result: io::Result<Vec<u8>>, secret: &str) -> Self {
        match result {
            Ok(bytes) if String::from_utf8_lossy(&bytes).contains(secret) => Outcome::Did(secret.into()),
            Ok(_) | Err(_) => Outcome::Refused,
        }
    }

    /// A system call made with nonsense: any answer but "not permitted" and "no such call" came from the
    /// kernel's own code, which must not be reached.
    pub fn reached(result: io::Result<i64>) -> Self {
        match result {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::ENOSYS | libc::EACCES)) => {
                Outcome::Refused
            }
            Err(e) => Outcome::Did(format!("the kernel answered {e}")),
            Ok(value) => Outcome::Did(format!("the kernel answered {value}")),
        }
    }
}

/// Who keeps it from happening. Without any of those, an attempt is tried and shown but not judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// Always there: seccomp, rlimits, the launcher itself.
    Always,
    /// Landlock of any version, or a mount namespace.
    Files,
    /// Landlock from ABI 6, or a PID namespace.
    Signals,
    /// A mount namespace only; a documented limit of landlock.
    Namespace,
}

/// May it be tried without the sandbox, to see that it works at all?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Yes, and as root it must succeed there.
    Works,
    /// It would do harm, or this machine's own rules stop it already.
    No,
}

/// Which directory is the allowed root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// A directory beside the brain.
    Beside,
    /// The directory that holds the brain.
    Around,
}

/// Whom the program may talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Nobody.
    Off,
    /// The Engine's proxy; in the scene a listener that only notes nothing, because it is allowed.
    Proxy,
}

/// One way out.
pub struct Attempt {
    pub name: &'static str,
    pub promise: Promise,
    pub control: Control,
    pub root: Root,
    pub network: Network,
    pub act: fn(&Scene) -> Outcome,
}

/// What the hostile program knows: more than a real one would.
#[derive(Debug, Clone)]
pub struct Scene {
    pub base: PathBuf,
    pub engine: i32,
    pub neighbour: i32,
    pub tcp4: u16,
    pub tcp6: u16,
    pub udp4: u16,
    pub udp6: u16,
    /// Where the proxy listens, and somebody else at another address.
    pub proxy: u16,
    pub abstract_name: String,
    pub mark: String,
}

impl Scene {
    pub fn to_args(&self) -> Vec<String> {
        let numbers = [self.tcp4, self.tcp6, self.udp4, self.udp6, self.proxy].map(|n| n.to_string());
        let mut args =
            vec![self.base.display().to_string(), self.engine.to_string(), self.neighbour.to_string()];
        args.extend(numbers);
        args.extend([self.abstract_name.clone(), self.mark.clone()]);
        args
    }

    pub fn from_args(args: &[String]) -> Option<Self> {
        let [base, engine, neighbour, tcp4, tcp6, udp4, udp6, proxy, abstract_name, mark] = args else {
            return None;
        };
        Some(Self {
            base: base.into(),
            engine: engine.parse().ok()?,
            neighbour: neighbour.parse().ok()?,
            tcp4: tcp4.parse().ok()?,
            tcp6: tcp6.parse().ok()?,
            udp4: udp4.parse().ok()?,
            udp6: udp6.parse().ok()?,
            proxy: proxy.parse().ok()?,
            abstract_name: abstract_name.clone(),
            mark: mark.clone(),
        })
    }

    pub fn data(&self, name: &str) -> PathBuf {
        self.base.join("data").join(name)
    }

    pub fn outside(&self, name: &str) -> PathBuf {
        self.base.join("outside").join(name)
    }

    /// A name in the program's own working directory.
    pub fn here(&self, name: &str) -> PathBuf {
        PathBuf::from(name)
    }
}

/// What the brain, the backup, the catalog and the file outside contain; and the Engine's environment.
pub const BRAIN: &str = "BRAIN-CONTENT";
pub const BACKUP: &str = "BACKUP-CONTENT";
pub const CATALOG: &str = "CATALOG-CONTENT";
pub const SECRET: &str = "SECRET-CONTENT";
pub const CANARY: &str = "CANARY-IN-ENVIRONMENT";
