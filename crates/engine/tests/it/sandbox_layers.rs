//! Which layers a launcher uses when some are missing, and what works inside bubblewrap as it does without.

use super::sandbox::{Sandbox, config, eventually, processes_mentioning, unique_sleep};
use engine::sandbox::{
    Command, Confine, LaunchError, Launcher, LauncherConfig, Limits, Mask, ProcessGroups, SandboxMode, groups,
};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const NO_LANDLOCK: Mask =
    Mask { landlock_beyond: Some(0), seccomp: false, namespaces: false, cgroups: false };
const NO_NAMESPACES: Mask = Mask { landlock_beyond: None, seccomp: false, namespaces: true, cgroups: false };

fn with(mode: SandboxMode, mask: Mask) -> LauncherConfig {
    // The test program is none that can be run inside; the Engine is.
    let inside = Some(env!("CARGO_BIN_EXE_september-engine").into());
    LauncherConfig { mask, inside, ..config(mode) }
}

fn wrapped() -> Launcher {
    let launcher = Launcher::detect(with(SandboxMode::BestEffort, Mask::default())).expect("it starts");
    launcher.settle();
    launcher
}

/// False on machines where an ordinary user gets no namespaces; then the launcher must say why.
fn works_here(launcher: &Launcher) -> bool {
    let missing = launcher.missing();
    let why = missing.iter().find(|m| m.layer == "bubblewrap");
    let works = launcher.layers().iter().any(|layer| layer == "bubblewrap");
    assert_ne!(works, why.is_some_and(|m| !m.cause.is_empty()), "{missing:?}");
    works
}

#[test]
fn required_is_met_by_landlock_or_bubblewrap_and_by_nothing_without_seccomp() {
    let detect = |mask| Launcher::detect(with(SandboxMode::Required, mask));
    assert!(detect(NO_NAMESPACES).is_ok(), "landlock alone is enough");
    let no_seccomp = detect(Mask { seccomp: true, ..Mask::default() }).unwrap_err();
    assert_eq!(no_seccomp.layer, "seccomp");
    let neither = detect(Mask { namespaces: true, ..NO_LANDLOCK }).unwrap_err();
    assert_eq!(neither.layer, "landlock");
    assert!(neither.cause.contains("nor is bubblewrap"), "{}", neither.cause);
    match detect(NO_LANDLOCK) {
        Ok(launcher) => assert_eq!(launcher.layers(), ["seccomp", "rlimits", "bubblewrap"]),
        Err(missing) => assert!(!works_here(&wrapped()), "{missing}"),
    }
}

#[test]
fn best_effort_uses_what_is_there_and_names_the_rest() {
    let mask = Mask { seccomp: true, cgroups: true, ..NO_NAMESPACES };
    let launcher = Launcher::detect(with(SandboxMode::BestEffort, mask)).expect("best effort starts");
    launcher.settle();
    assert_eq!(launcher.layers(), ["landlock", "rlimits"]);
    let missing: Vec<&str> = launcher.missing().iter().map(|m| m.layer).collect();
    assert_eq!(missing, ["seccomp", "network", "bubblewrap"]);
    assert!(!launcher.network_is_off() && !launcher.can_reach_a_proxy());
}

#[tokio::test]
async fn inside_bubblewrap_a_command_works_as_without() {
    let mut s = Sandbox::new();
    s.launcher = Arc::new(wrapped());
    if !works_here(&s.launcher) {
        return;
    }
    let script = "cat hello; echo new > sub/new && cat sub/new; echo t > $TMPDIR/t && cat $TMPDIR/t; \
                  printf '#!/bin/sh\\necho ran\\n' > x.sh && chmod +x x.sh && ./x.sh; echo err >&2; \
                  python3 -c 'print(1)'; env | cut -d= -f1 | grep -v -e '^_' -e SHLVL -e PWD | sort | tr '\\n' ' '";
    let (text, code) = s.sh(script).await;
    assert_eq!((text.as_str(), code), ("hello\nnew\nt\nran\n1\nHOME LANG PATH TERM TMPDIR TZ err\n", 0));
    assert_eq!(s.sh("exit 3").await.1, 3);
    assert_eq!(s.sh("kill -SEGV $$").await.1, 128 + 11);
    let own = "hostname; [ $(ls /proc | grep -c '^[0-9]') -lt 10 ] && echo few";
    assert_eq!(s.sh(own).await.0, "sandbox\nfew\n", "it sees processes of its own only");
    let missing = s.launcher.spawn(Command::new("/no/such", [""; 0]), &s.workspace, &s.groups).await;
    assert!(matches!(missing, Err(LaunchError::NotFound)), "{missing:?}");
    assert_eq!(s.groups.pgids(), [0; 0], "nothing stays of a command without background processes");
}

#[tokio::test]
async fn inside_bubblewrap_background_processes_live_until_the_end_of_the_turn() {
    let mut s = Sandbox::new();
    s.launcher = Arc::new(wrapped());
    if !works_here(&s.launcher) {
        return;
    }
    let (text, code) =
        s.sh("setsid sh -c 'while :; do date +%N > beat; sleep 0.02; done' & echo started").await;
    assert_eq!((text.as_str(), code), ("started\n", 0));
    let beat = s.base.join("data/work/beat");
    let read = || fs::read_to_string(&beat).unwrap_or_default();
    let first = read();
    eventually("it goes on after the command", || read() != first && !read().is_empty()).await;
    assert_eq!(s.groups.pgids().len(), 1);
    s.groups.kill_all().await;
    let last = read();
    tokio::time::timeout(Duration::from_millis(200), async {
        while read() == last {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect_err("it is dead");
}

#[tokio::test]
async fn limits_only_means_no_layers_but_environment_and_limits() {
    let s = Sandbox::new();
    let mut command =
        Command::new("/bin/sh", ["-c", "cat ../../outside/secret; echo; ulimit -c; env | grep -c CANARY"]);
    command.confine = Confine::LimitsOnly;
    let running = s.launcher.spawn(command, &s.workspace, &s.groups).await.expect("it starts");
    let finished = running.finish(Duration::from_secs(5), &CancellationToken::new()).await;
    assert_eq!(finished.stdout.into_text(), "SECRET\n0\n0\n");
}

#[tokio::test]
async fn an_orphan_without_session_parent_and_environment_is_known_by_its_mark() {
    let s = Sandbox::new();
    let (now, later) = (unique_sleep(20), unique_sleep(21));
    s.sh(&format!("setsid env -i /bin/sleep {now} & echo")).await;
    eventually("it runs", || processes_mentioning(&now).len() == 1).await;
    s.groups.kill_all().await;
    eventually("it is dead", || processes_mentioning(&now).is_empty()).await;
    // and so it is for the next Engine process, which knows nothing but the directory
    let next = Arc::new(ProcessGroups::new(s.base.join("data/tmp/t1")));
    let command =
        Command::new("/bin/sh", ["-c".to_string(), format!("setsid env -i /bin/sleep {later} & echo")]);
    let running = s.launcher.spawn(command, &s.workspace, &next).await.expect("it starts");
    running.finish(Duration::from_secs(5), &CancellationToken::new()).await;
    eventually("it runs", || processes_mentioning(&later).len() == 1).await;
    assert_eq!(groups::kill_orphans(&s.base.join("data/other")), 0, "another brain's are left alone");
    assert_eq!(processes_mentioning(&later).len(), 1);
    assert!(groups::kill_orphans(&s.base.join("data/tmp")) >= 1);
    eventually("it is dead", || processes_mentioning(&later).is_empty()).await;
}

#[tokio::test]
async fn a_command_that_fills_its_private_directory_is_ended_and_told_why() {
    let mut s = Sandbox::new();
    let mut config = with(SandboxMode::BestEffort, NO_NAMESPACES);
    config.limits = Limits { scratch_bytes: 8 << 20, ..config.limits };
    s.launcher = Arc::new(Launcher::detect(config).expect("it starts"));
    let fill = "for n in 1 2 3 4; do head -c 3000000 /dev/urandom > $TMPDIR/part$n; done; exec sleep 60";
    let (text, code) = s.sh(fill).await;
    assert_eq!(code, 128 + 9, "{text}");
    assert!(text.contains("its files in $TMPDIR take more than 8 MB together"), "{text}");
    let (text, code) = s.sh("rm $TMPDIR/part*; sleep 1; echo clean").await;
    assert_eq!((text.as_str(), code), ("clean\n", 0), "cleaning up is possible");
}

#[tokio::test]
async fn modes_that_a_command_changed_are_put_back() {
    let s = Sandbox::new();
    let (brain, data) = (s.base.join("data/brain.sqlite"), s.base.join("data"));
    let set = |path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("is ours");
    let mode = |path| fs::metadata(path).expect("is there").permissions().mode() & 0o777;
    set(&brain, 0o600);
    set(&data, 0o700);
    s.sh(&format!("chmod 666 {0}; chmod 755 {1}; true", brain.display(), data.display())).await;
    assert_eq!((mode(&brain), mode(&data)), (0o600, 0o700));
}
