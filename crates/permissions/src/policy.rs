//! Which places are open, which are closed, which may only be read.
//!
//! Places are compared after links were followed; a file with several names is also compared by identity, so that a
//! hard link to the brain is the brain.
//!
//! The invariant: sealed beats every other answer.

use crate::ground::{Facts, Ground, Kind};
use std::path::{Component, Path, PathBuf};

/// How deep a sealed directory is searched for the other name of a file. Backups lie at depth 1; larger makes every
/// question about a file with several names slower.
const SEALED_DEPTH: usize = 3;
/// Names looked at in one sealed directory; more is not a directory of backups.
const SEALED_NAMES: usize = 10_000;

/// The ports that an entry of the allow-list without a port means; the proxy and web_fetch mean the same.
const WEB_PORTS: [u16; 2] = [80, 443];

/// The places of one task. All paths are absolute with links followed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// ALLOWED_ROOTS; the first is the working directory.
    pub roots: Vec<PathBuf>,
    /// The task's own temporary directory.
    pub scratch: Option<PathBuf>,
    /// Neither read nor written, with everything below: BACKUP_DIR, HOOKS_SETTINGS_PATH.
    pub sealed: Vec<PathBuf>,
    /// Databases: they and every file beside them whose name begins with theirs are sealed.
    pub brains: Vec<PathBuf>,
    /// Read, but never written: the catalog.
    pub read_only: Vec<PathBuf>,
    /// TOOL_NETWORK_ALLOWLIST; empty: no rule about hosts of commands.
    pub network: Vec<String>,
}

impl Policy {
    /// The working directory.
    pub fn directory(&self) -> &Path {
        self.roots.first().map_or(Path::new("/"), PathBuf::as_path)
    }

    /// True under a root or in the scratch directory.
    pub fn is_inside(&self, path: &Path) -> bool {
        self.roots.iter().chain(&self.scratch).any(|root| path.starts_with(root))
    }

    /// True when the path is sealed, by name or as another name of a sealed file.
    pub fn is_sealed(&self, path: &Path, ground: &dyn Ground) -> bool {
        self.sealed.iter().any(|s| path.starts_with(s))
            || self.brains.iter().any(|brain| belongs_to(brain, path))
            || ground.facts(path).is_some_and(|facts| self.is_sealed_file(facts, ground))
    }

    fn is_sealed_file(&self, facts: Facts, ground: &dyn Ground) -> bool {
        if facts.kind != Kind::File || facts.names < 2 {
            return false;
        }
        let same = |path: &Path| {
            ground.facts(path).is_some_and(|f| f.kind == Kind::File && f.identity == facts.identity)
        };
        self.brains.iter().any(|brain| companions(brain).iter().any(|p| same(p)))
            || self.sealed.iter().any(|s| same(s) || holds(s, facts.identity, ground, SEALED_DEPTH))
    }

    /// True when the path may be read but not written.
    pub fn is_read_only(&self, path: &Path) -> bool {
        self.read_only.iter().any(|r| path.starts_with(r))
    }

    /// True when something at or below `directory` must not be removed with it.
    pub fn holds_more_than_work(&self, directory: &Path) -> bool {
        self.sealed.iter().chain(&self.brains).chain(&self.read_only).any(|p| p.starts_with(directory))
    }

    /// Sealed paths that have a name, for texts that are only searched.
    pub fn sealed_names(&self) -> impl Iterator<Item = &Path> {
        self.sealed.iter().chain(&self.brains).map(PathBuf::as_path)
    }

    /// True when TOOL_NETWORK_ALLOWLIST (`host`, `host:port`, `*.suffix`, `*`) names this host at this port. An
    /// entry without a port means the ports of the web; a host whose port is not known (`None`) is allowed by any
    /// entry of its name, because the proxy will see the port.
    pub fn allows_host(&self, host: &str, port: Option<u16>) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        self.network.iter().any(|entry| {
            let entry = entry.trim().to_ascii_lowercase();
            let (name, meant) = split_port(&entry);
            let by_port = match (meant, port) {
                (_, None) => true,
                (None, Some(port)) => WEB_PORTS.contains(&port),
                (Some(meant), Some(port)) => meant == port,
            };
            let name = name.trim_end_matches('.');
            by_port
                && match name.strip_prefix("*.") {
                    Some(suffix) => {
                        host.strip_suffix(suffix).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
                    }
                    None => name == "*" || name == host,
                }
        })
    }
}

/// A host with or without a port, apart: `a.test`, `a.test:81`, `::1`, `[::1]`, `[::1]:81`.
pub fn split_port(named: &str) -> (&str, Option<u16>) {
    if let Some(rest) = named.strip_prefix('[')
        && let Some((address, after)) = rest.split_once(']')
    {
        return (address, after.strip_prefix(':').and_then(|port| port.parse().ok()));
    }
    match named.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') => match port.parse() {
            Ok(port) => (name, Some(port)),
            Err(_) => (named, None),
        },
        Some(_) | None => (named, None),
    }
}

/// The other way round: `a.test:81`, `[::1]:81`.
pub fn with_port(host: &str, port: Option<u16>) -> String {
    match port {
        None => host.to_owned(),
        Some(port) if host.contains(':') => format!("[{host}]:{port}"),
        Some(port) => format!("{host}:{port}"),
    }
}

fn belongs_to(brain: &Path, path: &Path) -> bool {
    let (Some(directory), Some(name)) = (brain.parent(), brain.file_name()) else { return false };
    let Ok(rest) = path.strip_prefix(directory) else { return false };
    match rest.components().next() {
        Some(Component::Normal(first)) => first.as_encoded_bytes().starts_with(name.as_encoded_bytes()),
        _ => false,
    }
}

/// A database and what is made beside it.
fn companions(brain: &Path) -> [PathBuf; 5] {
    ["", "-wal", "-shm", "-journal", ".lock"].map(|suffix| {
        let mut name = brain.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    })
}

fn holds(directory: &Path, identity: (u64, u64), ground: &dyn Ground, depth: usize) -> bool {
    let Some(names) = ground.names(directory, SEALED_NAMES) else { return false };
    names.iter().any(|name| {
        let path = directory.join(name);
        match ground.facts(&path) {
            Some(f) if f.kind == Kind::File => f.identity == identity,
            Some(f) if f.kind == Kind::Directory && depth > 0 => holds(&path, identity, ground, depth - 1),
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_with_a_port_allows_that_port_and_one_without_means_the_web() {
        let entries = ["Example.org", "db.test:5432", "*.corp.test", "10.0.0.7:81", "::1", "[fd00::1]:8080"];
        let policy = Policy { network: entries.map(String::from).to_vec(), ..Policy::default() };
        let table = [
            ("example.org", Some(443), true),
            ("EXAMPLE.org.", Some(80), true),
            ("example.org", Some(8080), false),
            ("example.org", None, true),
            ("db.test", Some(5432), true),
            ("db.test", Some(443), false),
            ("db.test", None, true),
            ("a.corp.test", Some(443), true),
            ("a.corp.test", Some(22), false),
            ("corp.test", Some(443), false),
            ("10.0.0.7", Some(81), true),
            ("10.0.0.7", Some(80), false),
            ("::1", Some(80), true),
            ("::1", Some(81), false),
            ("fd00::1", Some(8080), true),
            ("fd00::1", Some(80), false),
            ("other.test", None, false),
        ];
        for (host, port, wanted) in table {
            assert_eq!(policy.allows_host(host, port), wanted, "{host} {port:?}");
        }
        let any = Policy { network: vec!["*:8443".into()], ..Policy::default() };
        assert!(any.allows_host("x.test", Some(8443)) && !any.allows_host("x.test", Some(443)));
    }

    #[test]
    fn a_host_and_its_port_come_apart_and_together_again() {
        for (named, apart) in [
            ("a.test", ("a.test", None)),
            ("a.test:81", ("a.test", Some(81))),
            ("::1", ("::1", None)),
            ("[::1]:81", ("::1", Some(81))),
        ] {
            assert_eq!(split_port(named), apart);
            assert_eq!(with_port(apart.0, apart.1), named);
        }
        assert_eq!(split_port("[::1]"), ("::1", None));
        assert_eq!(split_port("a.test:x"), ("a.test:x", None));
    }
}
