//! Which layers a launcher uses when some are missing, and what works inside bubblewrap as it does without.

use super::sandbox::{Sandbox, config, eventually, processes_mentioning, unique_sleep};
use engine::outbound::{AllowList, Guard, SystemResolver};
use engine::permissions::Grants;
use engine::sandbox::proxy::Proxy;
use engine::sandbox::{
    Command, Confine, LaunchError, Launcher, LauncherConfig, Limits, Mask, ProcessGroups, SandboxMode, groups,
};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
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

/// Answers every GET and keeps the request lines.
fn web(address: (&str, u16)) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind(address).expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = [0; 4096];
            let count = stream.read(&mut head).unwrap_or(0);
            let line = String::from_utf8_lossy(&head[..count]).lines().next().unwrap_or_default().to_owned();
            kept.lock().expect("not poisoned").push(line);
            let _ =
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nwelcome");
        }
    });
    (port, seen)
}

/// What a command tries that may use the proxy: the proxy, twice, with a library that does not block and one that
/// does; the same port elsewhere; a listed host without the proxy; a lent connection turned to somebody else; and
/// to be reached.
const WAYS: &str = r#"
import errno, os, socket, struct, ctypes
from urllib.parse import urlparse
import base64
proxy = urlparse(os.environ["http_proxy"])
basic = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
here = ("127.0.0.1", proxy.port)
def ask(s, path):
    s.sendall(f"GET http://127.0.0.1:LISTED{path} HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic {basic}\r\n\r\n".encode())
    s.settimeout(10)
    got = b""
    while piece := s.recv(4096): got += piece
    return got.decode().split("\r\n\r\n")[-1]
def tries(name, act):
    try: print(name, act())
    except OSError as e: print(name, "refused", e.errno in (errno.EPERM, errno.EACCES, errno.ECONNREFUSED, errno.ENETUNREACH, errno.EADDRNOTAVAIL) or e)
def patient():
    s = socket.socket(); s.setblocking(False)
    try: s.connect(here)
    except BlockingIOError: pass
    import select; select.select([], [s], [], 10)
    assert s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    return ask(s, "/patient")
def turned():
    s = socket.create_connection(here)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.connect(s.fileno(), struct.pack("H14x", socket.AF_UNSPEC), 16)
    s.connect(("127.0.0.2", proxy.port)); s.sendall(b"GET /turned HTTP/1.0\r\n\r\n")
    return "got through"
def reached():
    s = socket.socket(); s.listen(); return "listens"
tries("proxy", lambda: ask(socket.create_connection(here), "/listed"))
tries("patient", patient)
tries("same port", lambda: socket.create_connection(("127.0.0.2", proxy.port), 5).sendall(b"GET /same HTTP/1.0\r\n\r\n"))
tries("direct", lambda: socket.create_connection(("127.0.0.1", LISTED), 5).sendall(b"GET /direct HTTP/1.0\r\n\r\n"))
tries("turned", turned)
tries("reached", reached)
"#;

/// What the command said, what the listed host was asked, and how often somebody came to another host at the
/// proxy's own port.
async fn with_a_way_out(launcher: Launcher) -> (String, Vec<String>, Vec<String>) {
    let mut s = Sandbox::new();
    s.launcher = Arc::new(launcher);
    let (listed, asked) = web(("127.0.0.1", 0));
    let list = AllowList::new([format!("127.0.0.1:{listed}")]);
    let proxy = Proxy::start(Guard::new(list, Arc::new(SystemResolver))).await.expect("it listens");
    let (_, elsewhere) = web(("127.0.0.2", proxy.port()));
    let mut command = Command::new("python3", ["-c".to_owned(), WAYS.replace("LISTED", &listed.to_string())]);
    proxy.open_for(&mut command);
    let running = s.launcher.spawn(command, &s.workspace, &s.groups).await.expect("it starts");
    let finished = running.finish(Duration::from_secs(60), &CancellationToken::new()).await;
    let said = finished.stdout.into_text() + &finished.stderr.into_text();
    let all = |seen: &Mutex<Vec<String>>| seen.lock().expect("not poisoned").clone();
    (said, all(&asked), all(&elsewhere))
}

fn line<'a>(said: &'a str, name: &str) -> &'a str {
    said.lines().find_map(|l| l.strip_prefix(name)).map_or("", str::trim)
}

#[tokio::test]
async fn a_command_that_may_use_the_proxy_reaches_it_and_no_other_address_in_every_mode() {
    let no_landlock = Mask { namespaces: false, ..NO_LANDLOCK };
    for (name, mask, listens) in [
        ("landlock alone", NO_NAMESPACES, false),
        ("bubblewrap", Mask::default(), true),
        ("bubblewrap alone", no_landlock, true),
    ] {
        let launcher = Launcher::detect(with(SandboxMode::BestEffort, mask)).expect("it starts");
        launcher.settle();
        if !mask.namespaces && !works_here(&launcher) {
            continue;
        }
        assert!(launcher.can_reach_a_proxy(), "{name}");
        let (said, asked, elsewhere) = with_a_way_out(launcher).await;
        assert_eq!((line(&said, "proxy"), line(&said, "patient")), ("welcome", "welcome"), "{name}: {said}");
        for way in ["same port", "direct", "turned"] {
            assert_eq!(line(&said, way), "refused True", "{name}: {said}");
        }
        // in a network of its own it may listen: nobody else is there
        assert_eq!(line(&said, "reached") == "listens", listens, "{name}: {said}");
        assert_eq!(asked, ["GET /listed HTTP/1.1", "GET /patient HTTP/1.1"], "{name}");
        assert_eq!(elsewhere, [""; 0], "{name}");
    }
}

#[tokio::test]
async fn without_namespaces_and_a_landlock_that_sees_connections_there_is_no_way_out() {
    for beyond in [0, 3] {
        let mask = Mask { landlock_beyond: Some(beyond), ..NO_NAMESPACES };
        let launcher = Launcher::detect(with(SandboxMode::BestEffort, mask)).expect("it starts");
        assert!(!launcher.can_reach_a_proxy());
        let (said, asked, elsewhere) = with_a_way_out(launcher).await;
        assert_eq!(line(&said, "proxy"), "refused True", "{said}");
        assert_eq!((asked.len(), elsewhere.len()), (0, 0), "{said}");
    }
}

#[tokio::test]
async fn what_was_put_in_the_place_of_an_allowed_path_before_the_start_is_not_opened() {
    for mask in [Mask::default(), NO_NAMESPACES, Mask { namespaces: false, ..NO_LANDLOCK }] {
        let mut s = Sandbox::new();
        let Ok(launcher) = Launcher::detect(with(SandboxMode::Required, mask)) else { continue };
        launcher.settle();
        s.launcher = Arc::new(launcher);
        let mode = s.launcher.layers().join("+");
        let outside = s.base.join("outside");
        for (dir, text) in [("shown", "shown"), ("other", "other")] {
            fs::create_dir(outside.join(dir)).expect("made");
            fs::write(outside.join(dir).join("f"), text).expect("written");
        }
        let read = |name: &str| fs::read_to_string(outside.join(name)).unwrap_or_default();
        let attempt = async |script: String, path: &str| {
            let mut command = Command::new("/bin/bash", ["-c", &script]);
            command.grants = Grants::paths(vec![outside.join(path)]);
            let started = s.launcher.spawn(command, &s.workspace, &s.groups).await;
            let end = started?.finish(Duration::from_secs(20), &CancellationToken::new()).await;
            Ok::<_, LaunchError>((end.exit_code, end.stderr.into_text()))
        };
        // as it was when it was allowed
        let through = format!("echo changed > {}", outside.join("shown/f").display());
        let (code, said) = attempt(through.clone(), "shown/f").await.expect("it starts");
        assert_eq!((code, read("shown/f").as_str()), (0, "changed\n"), "{mode}: {said}");

        // the file has become a link: its name may be replaced, what it leads to stays closed
        fs::remove_file(outside.join("shown/f")).expect("removed");
        std::os::unix::fs::symlink(outside.join("other/f"), outside.join("shown/f")).expect("linked");
        let (code, said) = attempt(through.clone(), "shown/f").await.expect("it starts");
        assert!(code != 0 && read("other/f") == "other", "{mode}: {said}");
        fs::remove_file(outside.join("shown/f")).expect("removed");

        // the directory has become a link: nothing starts
        fs::remove_dir_all(outside.join("shown")).expect("removed");
        std::os::unix::fs::symlink(outside.join("other"), outside.join("shown")).expect("linked");
        for path in ["shown/f", "shown/new"] {
            let script = format!("rm -rf {0}; echo changed > {0}", outside.join(path).display());
            let refused = attempt(script, path).await;
            assert!(matches!(refused, Err(LaunchError::Sandbox(_))), "{mode}: {refused:?}");
        }
        assert_eq!((read("other/f").as_str(), read("other/new").as_str()), ("other", ""), "{mode}");
    }
}
