//! The places all tests speak of: a workspace in `/data/work`, a brain beside it, `/srv` outside.

use permissions::rules::{self, Facts};
use permissions::{Policy, Remembered, Tree, Verdict};
use std::path::PathBuf;

pub struct World {
    pub tree: Tree,
    pub policy: Policy,
    pub remembered: Remembered,
}

pub fn world() -> World {
    let tree = Tree::new()
        .directory("/data/work/sub/deep")
        .directory("/data/work/repo/.git")
        .directory("/data/work/catalog/tools")
        .directory("/data/tmp/t1/home")
        .directory("/srv/old")
        .directory("/etc")
        .file("/data/work/small", 10)
        .file("/data/work/other", 20)
        .file("/data/work/big", 5000)
        .file("/data/work/a.txt", 5)
        .file("/data/work/b.txt", 5)
        .file("/data/work/a.o", 5)
        .file("/data/work/sub/c.txt", 5)
        .file("/data/work/script.py", 100)
        .file("/srv/old/f", 9000)
        .file("/etc/hosts", 100)
        .file("/data/brain.sqlite", 100_000)
        .file("/data/brain.sqlite-wal", 4000)
        .file("/data/backups/b1", 100)
        .file("/data/hooks.json", 10)
        .symlink("/data/work/link", "/data/brain.sqlite")
        .symlink("/data/work/later", "../brain.sqlite-shm")
        .symlink("/data/work/out", "/srv")
        .symlink("/data/work/deep", "sub/deep")
        .symlink("/data/work/loop", "loop")
        .symlink("/proc/self/root", "/")
        .hard_link("/data/work/hard", "/data/brain.sqlite")
        .hard_link("/data/work/hard-backup", "/data/backups/b1");
    let policy = Policy {
        roots: vec!["/data/work".into()],
        scratch: Some(PathBuf::from("/data/tmp/t1")),
        sealed: vec!["/data/backups".into(), "/data/hooks.json".into()],
        brains: vec!["/data/brain.sqlite".into()],
        read_only: vec!["/data/work/catalog".into()],
        network: vec!["example.org".into(), "*.allowed.net".into()],
    };
    World { tree, policy, remembered: Remembered::default() }
}

impl World {
    pub fn facts(&self) -> Facts<'_> {
        Facts { policy: &self.policy, ground: &self.tree, remembered: &self.remembered }
    }

    pub fn bash(&self, command: &str) -> Verdict {
        rules::bash(command, None, &self.facts())
    }
}
