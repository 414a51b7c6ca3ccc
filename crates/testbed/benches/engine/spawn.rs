//! What the sandbox costs per command: `/bin/true`, from asking the launcher until it has ended, with and
//! without the layers, one after the other in turn so that a busy moment hits all alike.

use super::table::{Aim, Sample, Table};
use engine::sandbox::scrub::{Parent, ScrubMode};
use engine::sandbox::{
    Command, Launcher, LauncherConfig, Limits, Mask, ProcessGroups, SandboxMode, Workspace,
};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Commands per kind.
const COMMANDS: usize = 300;
/// What landlock and seccomp may add, in milliseconds.
const ADDED_MAX_MS: f64 = 2.0;

fn launcher(mode: SandboxMode, namespaces: bool) -> Launcher {
    let mask = Mask { namespaces: !namespaces, ..Mask::default() };
    let (limits, parent) = (Limits::default(), Parent::default());
    let config = LauncherConfig { mask, ..LauncherConfig::new(mode, ScrubMode::Strict, limits, parent) };
    let launcher = Launcher::detect(config).expect("best effort always starts");
    launcher.settle();
    launcher
}

/// Measures and adds its rows; `less` divides the number of commands.
pub fn measure(runtime: &tokio::runtime::Runtime, dir: &Path, less: usize, table: &mut Table) -> Vec<String> {
    let (work, scratch) = (dir.join("work"), dir.join("scratch"));
    for path in [&work, &scratch] {
        std::fs::create_dir_all(path).expect("a directory");
    }
    let workspace = Workspace::new([&work]).and_then(|w| w.for_task(&scratch)).expect("a workspace");
    let (off, confined, wrapped) = (
        launcher(SandboxMode::Off, false),
        launcher(SandboxMode::BestEffort, false),
        launcher(SandboxMode::BestEffort, true),
    );
    let count = (COMMANDS / less).max(20);
    let (mut plain, mut limits, mut both, mut all) = (vec![], vec![], vec![], vec![]);
    for _ in 0..count {
        let began = Instant::now();
        let mut child = std::process::Command::new("/bin/true").spawn().expect("it starts");
        child.wait().expect("it ends");
        plain.push(began.elapsed().as_secs_f64() * 1e3);
        for (launcher, times) in [(&off, &mut limits), (&confined, &mut both), (&wrapped, &mut all)] {
            times.push(runtime.block_on(one(launcher, &workspace)));
        }
    }
    let added: Vec<f64> = both.iter().zip(&limits).map(|(with, without)| with - without).collect();
    table.row("Command: fork, exec, wait, nothing else", "ms", &Sample::of(plain), Aim::None);
    table.row("— by the launcher, rlimits and environment only", "ms", &Sample::of(limits), Aim::None);
    table.row("— with landlock and seccomp", "ms", &Sample::of(both), Aim::None);
    table.row("— what landlock and seccomp add", "ms", &Sample::of(added), Aim::AtMost(ADDED_MAX_MS));
    let layers = wrapped.layers();
    if layers.iter().any(|layer| layer == "bubblewrap") {
        table.row("— with bubblewrap besides", "ms", &Sample::of(all), Aim::None);
        return vec![format!("Sandbox: {}", wrapped.details())];
    }
    let missing = wrapped.missing().iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    vec![format!("Sandbox: {}; not measured: {missing}", wrapped.details())]
}

async fn one(launcher: &Launcher, workspace: &Workspace) -> f64 {
    let groups = Arc::new(ProcessGroups::new(workspace.scratch().expect("it has one")));
    let began = Instant::now();
    let running =
        launcher.spawn(Command::new("/bin/true", [""; 0]), workspace, &groups).await.expect("it starts");
    running.ended().await.expect("it ends");
    began.elapsed().as_secs_f64() * 1e3
}
