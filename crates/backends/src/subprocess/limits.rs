//! Memory, processor and process limits by control groups, where the host has handed one to us.
//!
//! Only a group that its manager marked as delegated is used (systemd: `Delegate=yes`); any other group belongs to
//! somebody else. The one invariant: without a delegated group nothing is written below `/sys/fs/cgroup`.

use contract::EngineId;
use fleet::spec::Resources;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const MOUNT: &str = "/sys/fs/cgroup";
/// Our own processes go here: a group with limits for its children may hold no process itself.
const OWN: &str = "bap-engine";
/// One period of processor time in microseconds, the kernel's default.
const PERIOD_US: f64 = 100_000.0;
const MIB: u64 = 1024 * 1024;

/// A group in which groups may be made.
#[derive(Debug, Clone)]
pub(super) struct Delegated {
    path: PathBuf,
}

impl Delegated {
    /// The group of this process, if it was delegated and its controllers could be enabled.
    pub(super) fn find() -> Option<Self> {
        let text = fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let path = Path::new(MOUNT).join(own);
        let mark = |name: &str| {
            let mut value = [0; 8];
            matches!(rustix::fs::getxattr(&path, name, &mut value[..]), Ok(1) if value[0] == b'1')
        };
        if !mark("user.delegate") && !mark("trusted.delegate") {
            return None;
        }
        Self::prepare(&path).ok()
    }

    /// Moves this process one group down and hands the controllers to the children.
    fn prepare(path: &Path) -> io::Result<Self> {
        let own = path.join(OWN);
        make_group(&own)?;
        fs::write(own.join("cgroup.procs"), std::process::id().to_string())?;
        fs::write(path.join("cgroup.subtree_control"), "+memory +cpu +pids")?;
        Ok(Self { path: path.to_owned() })
    }

    fn group(&self, id: EngineId) -> PathBuf {
        self.path.join(format!("engine-{id}"))
    }

    /// Puts a process that was just started under its limits.
    pub(super) fn confine(&self, id: EngineId, pid: i32, resources: &Resources) -> io::Result<()> {
        let group = self.group(id);
        make_group(&group)?;
        for (file, value) in settings(resources) {
            match fs::write(group.join(file), &value) {
                // without swap the kernel has no such file, and nothing to limit
                Err(e) if file == "memory.swap.max" && e.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
        }
        fs::write(group.join("cgroup.procs"), pid.to_string())
    }

    /// Was something in the group killed for lack of memory?
    pub(super) fn ran_out_of_memory(&self, id: EngineId) -> bool {
        let events = fs::read_to_string(self.group(id).join("memory.events")).unwrap_or_default();
        events.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count.trim() != "0"))
    }

    /// Removes the engine's group; one that is gone or still busy is left.
    pub(super) fn release(&self, id: EngineId) {
        // a group that is still busy is used again by the successor
        let _ = fs::remove_dir(self.group(id));
    }
}

fn make_group(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => Ok(()),
    }
}

/// File and content per limit; 0 = no limit.
fn settings(resources: &Resources) -> Vec<(&'static str, String)> {
    let no_limit = || "max".to_owned();
    let number = |value: u64| if value == 0 { no_limit() } else { value.to_string() };
    let cpu = if resources.cpus > 0.0 {
        format!("{:.0} {PERIOD_US:.0}", resources.cpus * PERIOD_US)
    } else {
        no_limit()
    };
    let swap = if resources.memory_mb == 0 { no_limit() } else { "0".to_owned() };
    vec![
        ("memory.max", number(resources.memory_mb.saturating_mul(MIB))),
        ("memory.swap.max", swap),
        ("pids.max", number(resources.pids)),
        ("cpu.max", cpu),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_the_kernels_words_and_zero_means_none() {
        let some = settings(&Resources { memory_mb: 2048, cpus: 0.5, pids: 512 });
        let expected = [
            ("memory.max", "2147483648"),
            ("memory.swap.max", "0"),
            ("pids.max", "512"),
            ("cpu.max", "50000 100000"),
        ];
        assert_eq!(some, expected.map(|(file, value)| (file, value.to_owned())));
        let none = settings(&Resources { memory_mb: 0, cpus: 0.0, pids: 0 });
        assert!(none.iter().all(|(_, value)| value == "max"));
    }

    #[test]
    fn an_engine_gets_a_group_of_its_own_with_its_process_in_it() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let group = Delegated::prepare(dir.path()).expect("prepares");
        let id = EngineId::generate();
        group.confine(id, 4711, &Resources { memory_mb: 256, cpus: 0.0, pids: 64 }).expect("confines");
        let read = |file: &str| fs::read_to_string(group.group(id).join(file)).expect("was written");
        assert_eq!((read("cgroup.procs").as_str(), read("pids.max").as_str()), ("4711", "64"));
        assert!(!group.ran_out_of_memory(id));
        fs::write(group.group(id).join("memory.events"), "oom 3\noom_kill 1\n").expect("writes");
        assert!(group.ran_out_of_memory(id));
    }
}
