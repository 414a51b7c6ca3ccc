//! The places all tests speak of: a workspace in `/data/root`, a brain beside it, `/srv` outside.

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
        .directory("/data/root/sub/deep")
        .directory("/data/root/repo/.git")
        .directory("/data/root/catalog/tools")
        .directory("/data/scratch/t1/home")
        .directory("/srv/old")
        .directory("/etc")
        .file("/data/root/small", 10)
        .file("/data/root/other", 20)
        .file("/data/root/big", 5000)
        .file("/data/root/a.txt", 5)
        .file("/data/root/b.txt", 5)
        .file("/data/root/a.o", 5)
        .file("/data/root/sub/c.txt", 5)
        .file("/data/root/script.py", 100)
        .file("/srv/old/f", 9000)
        .file("/etc/hosts", 100)
        .file("/data/brain.sqlite", 100_000)
        .file("/data/brain.sqlite-wal", 4000)
        .file("/data/backups/b1", 100)
        .file("/data/hooks.json", 10)
        .symlink("/data/root/link", "/data/brain.sqlite")
        .symlink("/data/root/later", "../brain.sqlite-shm")
        .symlink("/data/root/out", "/srv")
        .symlink("/data/root/deep", "sub/deep")
        .symlink("/data/root/loop", "loop")
        .symlink("/proc/self/root", "/")
        .hard_link("/data/root/hard", "/data/brain.sqlite")
        .hard_link("/data/root/hard-backup", "/data/backups/b1");
    let policy = Policy {
        roots: vec!["/data/root".into()],
        scratch: Some(PathBuf::from("/data/scratch/t1")),
        sealed: vec!["/data/backups".into(), "/data/hooks.json".into()],
        brains: vec!["/data/brain.sqlite".into()],
        read_only: vec!["/data/root/catalog".into()],
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
