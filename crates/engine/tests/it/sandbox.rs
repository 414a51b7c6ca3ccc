//! The launcher with real children: what they cannot do, and that none of them stays behind.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use engine::permissions::Grants;
use engine::sandbox::scrub::{Parent, ScrubMode};
use engine::sandbox::{
    Command, Finished, Launcher, LauncherConfig, Limits, Mask, ProcessGroups, SandboxMode, Workspace, groups,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// `data/{brain.sqlite,backups/b1,work/…,tmp/t1}`, `outside/secret`, and a launcher.
pub struct Sandbox {
    _dir: tempfile::TempDir,
    pub base: PathBuf,
    pub workspace: Workspace,
    pub launcher: Arc<Launcher>,
    pub groups: Arc<ProcessGroups>,
}

pub fn config(mode: SandboxMode) -> LauncherConfig {
    let variables = [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("CANARY_API_KEY", "canary"), ("TZ", "UTC")];
    let limits = Limits { cpu_s: 30, max_processes: 512, max_file_mb: 4, ..Limits::default() };
    let parent = Parent {
        variables: variables.iter().map(|(n, v)| (n.into(), v.into())).collect(),
        secret_names: vec!["CANARY_API_KEY".into()],
    };
    // These tests are about what holds without namespaces, too; the escapes are tried with them.
    let mask = Mask { namespaces: true, ..Mask::default() };
    LauncherConfig { mask, ..LauncherConfig::new(mode, ScrubMode::Strict, limits, parent) }
}

impl Sandbox {
    pub fn new() -> Self {
        Self::with_root("data/work")
    }

    /// `root` is the only allowed root, relative to the base.
    pub fn with_root(root: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        for sub in ["data/work/sub", "data/backups", "data/tmp/t1", "outside"] {
            fs::create_dir_all(base.join(sub)).unwrap();
        }
        fs::write(base.join("data/brain.sqlite"), "BRAIN").unwrap();
        fs::write(base.join("data/backups/b1"), "BACKUP").unwrap();
        fs::write(base.join("data/work/hello"), "hello\n").unwrap();
        fs::write(base.join("outside/secret"), "SECRET").unwrap();
        let tmp = base.join("data/tmp/t1");
        let workspace = Workspace::new([base.join(root)])
            .unwrap()
            .seal_brain(&base.join("data/brain.sqlite"))
            .seal(&base.join("data/backups"))
            .for_task(&tmp)
            .unwrap();
        let launcher = Arc::new(Launcher::detect(config(SandboxMode::BestEffort)).unwrap());
        Self { _dir: dir, base, workspace, launcher, groups: Arc::new(ProcessGroups::new(tmp)) }
    }

    async fn finish(&self, script: &str, change: impl FnOnce(&mut Command), limit: Duration) -> Finished {
        let mut command = Command::new("/bin/bash", ["-c", script]);
        change(&mut command);
        let running = self.launcher.spawn(command, &self.workspace, &self.groups).await.unwrap();
        running.finish(limit, &CancellationToken::new()).await
    }

    /// stdout + stderr and the exit code.
    pub async fn sh(&self, script: &str) -> (String, i32) {
        let f = self.finish(script, |_| {}, Duration::from_secs(20)).await;
        (f.stdout.into_text() + &f.stderr.into_text(), f.exit_code)
    }

    /// Asserts that a script fails and shows nothing of `secret`.
    async fn refuses(&self, script: &str, secret: &str) {
        let (text, code) = self.sh(script).await;
        assert_ne!(code, 0, "{script}: {text}");
        assert!(secret.is_empty() || !text.contains(secret), "{script}: {text}");
    }
}

pub fn processes_mentioning(mark: &str) -> Vec<String> {
    let own = std::process::id().to_string();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|pid| pid.bytes().all(|b| b.is_ascii_digit()) && *pid != own)
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(mark)
        })
        .collect()
}

pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(5);
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A sleep that can be recognised in /proc.
pub fn unique_sleep(n: u32) -> String {
    format!("{}", 1_000_000 + u64::from(std::process::id()) * 10 + u64::from(n))
}

#[tokio::test]
async fn this_machine_gives_every_layer() {
    // Landlock and seccomp are part of every supported kernel; CI must not silently test less.
    let launcher = Launcher::detect(config(SandboxMode::Required)).unwrap();
    assert_eq!(launcher.layers(), ["landlock", "seccomp", "rlimits"]);
    assert!(launcher.network_is_off() && launcher.missing().is_empty());
    let off = Launcher::detect(config(SandboxMode::Off)).unwrap();
    assert_eq!(off.layers(), ["rlimits"]);
}

#[tokio::test]
async fn ordinary_work_works() {
    let s = Sandbox::new();
    let work = "cat hello; echo new > sub/new && mkdir -p a/b && mv sub/new a/b/ && cat a/b/new; \
                echo t > $TMPDIR/t && cat $TMPDIR/t; pwd; ls -d /usr >/dev/null && echo listed; \
                printf '#!/bin/sh\\necho ran\\n' > x.sh && chmod +x x.sh && ./x.sh; rm -r a; umask";
    let (text, code) = s.sh(work).await;
    let work = s.base.join("data/work");
    assert_eq!((text, code), (format!("hello\nnew\nt\n{}\nlisted\nran\n0022\n", work.display()), 0));
    let (text, _) = s.sh("cat | wc -c; [ -t 0 ] || echo no-terminal").await;
    assert_eq!(text, "0\nno-terminal\n");
    let f = s.finish("cat", |c| c.stdin = Some(b"given".to_vec()), Duration::from_secs(5)).await;
    assert_eq!(f.stdout.into_text(), "given");
}

#[tokio::test]
async fn nothing_outside_the_roots_is_read_or_written() {
    let s = Sandbox::new();
    let out = s.base.join("outside");
    let out = out.display();
    s.refuses(&format!("cat {out}/secret"), "SECRET").await;
    s.refuses(&format!("ls {out}"), "secret").await;
    s.refuses("cat sub/../../../outside/secret", "SECRET").await;
    s.refuses(&format!("ln -s {out} l && cat l/secret"), "SECRET").await;
    s.refuses(&format!("ln {out}/secret hard && cat hard"), "SECRET").await;
    s.refuses(&format!("mv {out}/secret ."), "").await;
    s.refuses(&format!("echo x > {out}/new"), "").await;
    s.refuses(&format!("echo x > {out}/secret"), "").await;
    s.refuses(&format!("rm {out}/secret"), "").await;
    s.refuses(&format!("truncate -s 0 {out}/secret"), "").await;
    s.refuses("cat /etc/shadow", "root").await;
    s.refuses("ls /root", "").await;
    s.refuses("echo x > /tmp/engine-sandbox-test", "").await;
    s.refuses("ls /tmp", "").await;
    s.refuses("echo x > /usr/engine-sandbox-test", "").await;
    s.refuses("mknod disk b 8 0", "").await;
    assert_eq!(fs::read_to_string(s.base.join("outside/secret")).unwrap(), "SECRET");
    assert!(!s.base.join("outside/new").exists());
}

#[tokio::test]
async fn the_brain_is_invisible_even_in_a_root_that_contains_it() {
    let s = Sandbox::with_root("data");
    let (text, _) = s.sh("cat work/hello; echo y > work/y && cat work/y").await;
    assert_eq!(text, "hello\ny\n");
    for script in [
        "cat brain.sqlite",
        "cat ./work/../brain.sqlite",
        "ls",
        "ls backups",
        "cat backups/b1",
        "cp brain.sqlite work/copy",
        "ln brain.sqlite work/hard",
        "mv brain.sqlite work/moved",
        "echo x >> brain.sqlite",
        "echo x > brain.sqlite-wal",
        "rm brain.sqlite",
        "mv work work2",
        "cat /proc/self/cwd/brain.sqlite",
        "ln -s ../brain.sqlite work/l; cat work/l",
    ] {
        s.refuses(script, "BRAIN").await;
    }
    assert_eq!(fs::read_to_string(s.base.join("data/brain.sqlite")).unwrap(), "BRAIN");
    assert!(!s.base.join("data/brain.sqlite-wal").exists());
}

#[tokio::test]
async fn a_hard_link_to_the_brain_in_a_root_stops_every_launch_until_it_is_gone() {
    let s = Sandbox::new();
    let link = s.base.join("data/work/sub/innocent");
    fs::hard_link(s.base.join("data/brain.sqlite"), &link).unwrap();
    let spawned = s.launcher.spawn(Command::new("/bin/true", [""; 0]), &s.workspace, &s.groups).await;
    let error = spawned.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("innocent"), "{cause}");
    fs::rename(&link, s.base.join("outside/elsewhere")).unwrap();
    assert_eq!(s.sh("cat hello").await, ("hello\n".into(), 0), "a link outside the roots harms nobody");
}

#[tokio::test]
async fn a_yes_opens_the_named_path_to_that_call_only() {
    let s = Sandbox::new();
    let old = s.base.join("outside/old");
    fs::create_dir(&old).unwrap();
    fs::write(old.join("f"), "x").unwrap();
    let script = format!("rm -rf {}", old.display());
    s.refuses(&script, "").await;
    let grants = Grants::paths(vec![old.clone()]);
    let f = s.finish(&script, |c| c.grants = grants, Duration::from_secs(5)).await;
    assert_eq!(f.exit_code, 0, "{}", f.stderr.into_text());
    assert!(!old.exists());
    let new = s.base.join("outside/new/deep");
    let script = format!(
        "mkdir -p {0} && echo x > {0}/f && cat {1}",
        new.display(),
        s.base.join("outside/secret").display()
    );
    let grants = Grants::paths(vec![new.clone()]);
    let f = s.finish(&script, |c| c.grants = grants, Duration::from_secs(5)).await;
    assert!(new.join("f").exists(), "{}", f.stderr.into_text());
    assert!(!f.stdout.into_text().contains("SECRET"), "neighbours stay unreadable");
    // A grant never reaches what is sealed.
    let brain = s.base.join("data/brain.sqlite");
    let grants = Grants::paths(vec![brain.clone(), s.base.join("data")]);
    let f =
        s.finish(&format!("cat {}", brain.display()), |c| c.grants = grants, Duration::from_secs(5)).await;
    assert_ne!(f.exit_code, 0);
    assert!(!f.stdout.into_text().contains("BRAIN"));
}

#[tokio::test]
async fn there_is_no_network_and_no_way_to_foreign_sockets() {
    let s = Sandbox::new();
    let listener = std::os::unix::net::UnixListener::bind(s.base.join("outside/sock")).unwrap();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    s.refuses(&format!("exec 3<>/dev/tcp/127.0.0.1/{port}"), "").await;
    let python = format!(
        "import socket, sys\n\
         def tries(f):\n    try:\n        f(); print('REACHED')\n    except OSError as e:\n        print('refused')\n\
         for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET):\n    \
             tries(lambda: socket.socket(family, socket.SOCK_RAW if family == socket.AF_PACKET else socket.SOCK_DGRAM))\n\
         tries(lambda: socket.socket(socket.AF_UNIX).connect({:?}))\n\
         tries(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'x', {:?}))\n\
         a, b = socket.socketpair(); a.send(b'ok'); print(b.recv(2).decode())\n",
        s.base.join("outside/sock"),
        s.base.join("outside/sock"),
    );
    fs::write(s.base.join("data/work/net.py"), python).unwrap();
    let (text, code) = s.sh("python3 net.py").await;
    assert_eq!((text.as_str(), code), ("refused\nrefused\nrefused\nrefused\nrefused\nrefused\nok\n", 0));
    drop(listener);
}

#[tokio::test]
async fn dangerous_system_calls_are_refused() {
    let s = Sandbox::new();
    let python = "import ctypes, os, resource, platform, fcntl\n\
        libc = ctypes.CDLL(None, use_errno=True)\n\
        def call(name, nr, *args):\n    \
            r = libc.syscall(nr, *args)\n    \
            print(name, 'ALLOWED' if r >= 0 else os.strerror(ctypes.get_errno()))\n\
        x86 = platform.machine() == 'x86_64'\n\
        call('mount', 165 if x86 else 40, b'none', b'sub', b'tmpfs', 0, None)\n\
        call('ptrace', 101 if x86 else 117, 0, 0, 0, 0)\n\
        call('bpf', 321 if x86 else 280, 0, None, 0)\n\
        call('keyctl', 250 if x86 else 219, 0, -3, 0)\n\
        call('unshare-user', 272 if x86 else 97, 0x10000000)\n\
        call('unshare-net', 272 if x86 else 97, 0x40000000)\n\
        call('io_uring', 425, 1, None)\n\
        call('userfaultfd', 323 if x86 else 282, 0)\n\
        call('clone3', 435, None, 0)\n\
        call('chroot', 161 if x86 else 51, b'sub')\n\
        if x86: call('x32-getpid', 0x40000000 + 39)\n\
        try:\n    fcntl.ioctl(0, 0x5412, b'x'); print('tiocsti ALLOWED')\n\
        except OSError as e: print('tiocsti', e.strerror)\n\
        try:\n    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2); print('rlimit ALLOWED')\n\
        except (OSError, ValueError): print('rlimit refused')\n\
        try:\n    resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1000, 1000)); print('prlimit ALLOWED')\n\
        except OSError: print('prlimit refused')\n\
        try:\n    os.setpriority(os.PRIO_PROCESS, os.getppid(), 19); print('setpriority ALLOWED')\n\
        except OSError: print('setpriority refused')\n\
        call('shmget', 29 if x86 else 194, 0, 4096, 0o1600)\n";
    fs::write(s.base.join("data/work/calls.py"), python).unwrap();
    let (text, code) = s.sh("python3 calls.py; grep -E 'NoNewPrivs|Seccomp:' /proc/self/status").await;
    assert_eq!(code, 0, "{text}");
    let refused = text.lines().filter(|l| l.ends_with("not permitted") || l.ends_with("refused")).count();
    let missing = text.lines().filter(|l| l.ends_with("not implemented")).count();
    let x32 = usize::from(cfg!(target_arch = "x86_64"));
    assert_eq!((refused, missing), (14, 1 + x32), "{text}");
    assert!(!text.contains("ALLOWED"), "{text}");
    assert!(text.contains("NoNewPrivs:\t1") && text.contains("Seccomp:\t2"), "{text}");
    s.refuses("unshare -r true", "").await;
    s.refuses("mount -t tmpfs none sub", "").await;
}

#[tokio::test]
async fn other_processes_are_out_of_reach() {
    let s = Sandbox::new();
    let own = std::process::id();
    s.refuses(&format!("kill -0 {own}"), "").await;
    s.refuses(&format!("cat /proc/{own}/environ | grep -a PATH"), "PATH").await;
    s.refuses(&format!("ls /proc/{own}/root/"), "").await;
    s.refuses(&format!("cat /proc/{own}/mem"), "").await;
    s.refuses(&format!("ls -l /proc/{own}/fd/"), "").await;
    let (text, _) = s.sh("cat /proc/self/environ | tr '\\0' '\\n' | grep -c TMPDIR").await;
    assert_eq!(text, "1\n", "its own it may read");
}

#[tokio::test]
async fn the_environment_is_the_allow_list_and_no_descriptor_leaks() {
    let s = Sandbox::new();
    // A descriptor that is not close-on-exec, as a careless library would leave it.
    let file = fs::File::open(s.base.join("data/brain.sqlite")).unwrap();
    let leaky = rustix::io::dup(&file).unwrap();
    rustix::io::fcntl_setfd(&leaky, rustix::io::FdFlags::empty()).unwrap();
    let f = {
        let command = Command::new("/usr/bin/env", [""; 0]);
        let running = s.launcher.spawn(command, &s.workspace, &s.groups).await.unwrap();
        running.finish(Duration::from_secs(5), &CancellationToken::new()).await
    };
    let mut names: Vec<String> =
        f.stdout.into_text().lines().filter_map(|l| l.split('=').next().map(String::from)).collect();
    names.sort();
    assert_eq!(names, ["HOME", "LANG", "PATH", "TERM", "TMPDIR", "TZ"]);
    let command = Command::new("/bin/ls", ["/proc/self/fd"]);
    let running = s.launcher.spawn(command, &s.workspace, &s.groups).await.unwrap();
    let f = running.finish(Duration::from_secs(5), &CancellationToken::new()).await;
    assert_eq!(f.stdout.into_text(), "0\n1\n2\n3\n", "3 is the listing itself");
    let (text, _) = s.sh("echo $HOME $TMPDIR").await;
    let tmp = s.base.join("data/tmp/t1");
    assert_eq!(text, format!("{}/home {}\n", tmp.display(), tmp.display()));
    drop(leaky);
}

#[tokio::test]
async fn limits_hold() {
    let s = Sandbox::new();
    let (text, _) = s.sh("(head -c 10000000 /dev/zero > big) 2>/dev/null; stat -c %s big").await;
    assert_eq!(text.lines().next(), Some("4194304"), "{text}");
    let (text, _) = s.sh("ulimit -c; ulimit -t; ulimit -d; ulimit -u").await;
    assert_eq!(text, "0\n30\n2097152\n512\n");
    let (_, code) = s.sh("python3 -c 'x = bytearray(3 << 30)'").await;
    assert_ne!(code, 0);
}

#[tokio::test]
async fn a_timeout_kills_grandchildren_and_says_so() {
    let s = Sandbox::new();
    let mark = unique_sleep(1);
    let begin = Instant::now();
    let script = format!("echo begun; (bash -c 'sleep {mark} & sleep {mark}' &) ; sleep {mark}");
    let f = s.finish(&script, |_| {}, Duration::from_millis(400)).await;
    assert!(f.timed_out && !f.cancelled);
    assert_eq!(f.exit_code, 137);
    assert_eq!(f.stdout.into_text(), "begun\n");
    assert!(begin.elapsed() < Duration::from_secs(2));
    eventually("all sleeps are dead", || processes_mentioning(&mark).is_empty()).await;
}

#[tokio::test]
async fn a_cancel_ends_the_command_within_a_second() {
    let s = Sandbox::new();
    let mark = unique_sleep(2);
    let command = Command::new("/bin/bash", ["-c".to_string(), format!("trap '' TERM INT; sleep {mark}")]);
    let running = s.launcher.spawn(command, &s.workspace, &s.groups).await.unwrap();
    let cancel = CancellationToken::new();
    let finish = running.finish(Duration::from_secs(60), &cancel);
    let begin = Instant::now();
    let (f, ()) = tokio::join!(finish, async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        cancel.cancel();
    });
    assert!(f.cancelled && begin.elapsed() < Duration::from_secs(1));
    eventually("the sleep is dead", || processes_mentioning(&mark).is_empty()).await;
}

#[tokio::test]
async fn background_processes_hold_no_call_up_and_die_with_the_turn() {
    let s = Sandbox::new();
    let (stays, leaves) = (unique_sleep(3), unique_sleep(4));
    let begin = Instant::now();
    let script = format!("sleep {stays} & setsid sleep {leaves} & echo started");
    let (text, code) = s.sh(&script).await;
    assert_eq!((text.as_str(), code), ("started\n", 0));
    assert!(begin.elapsed() < Duration::from_secs(2), "the open pipe must not hold the call");
    eventually("both run", || processes_mentioning(&leaves).len() == 1).await;
    assert_eq!(processes_mentioning(&stays).len(), 1);
    assert_eq!(s.groups.pgids().len(), 1);
    s.groups.kill_all().await;
    assert_eq!(s.groups.pgids(), [0; 0]);
    eventually("both are dead", || {
        processes_mentioning(&stays).is_empty() && processes_mentioning(&leaves).is_empty()
    })
    .await;
    s.groups.kill_all().await;
}

#[tokio::test]
async fn a_turn_that_is_ended_twice_leaves_the_next_turn_s_processes_alone() {
    let mut s = Sandbox::new();
    let (first, second) = (unique_sleep(8), unique_sleep(9));
    s.sh(&format!("setsid sleep {first} & echo started")).await;
    let ended = Arc::clone(&s.groups);
    // two paths end it at once (a cancel and a deletion); both return only when all of it is dead
    tokio::join!(ended.kill_all(), ended.kill_all());
    eventually("the first is dead", || processes_mentioning(&first).is_empty()).await;
    s.groups = Arc::new(ProcessGroups::new(s.base.join("data/tmp/t1")));
    s.sh(&format!("sleep {second} & echo started")).await;
    eventually("the second runs", || processes_mentioning(&second).len() == 1).await;
    ended.kill_all().await;
    assert_eq!(processes_mentioning(&second).len(), 1, "the end of a turn killed another turn's process");
    s.groups.kill_all().await;
    eventually("the second is dead", || processes_mentioning(&second).is_empty()).await;
}

#[tokio::test]
async fn a_command_without_background_processes_leaves_no_zombie_and_no_group() {
    let s = Sandbox::new();
    for _ in 0..5 {
        s.sh("true").await;
    }
    assert_eq!(s.groups.pgids(), [0; 0]);
}

#[tokio::test]
async fn a_dropped_call_leaves_nothing_running() {
    let s = Sandbox::new();
    let mark = unique_sleep(5);
    let command = Command::new("/bin/bash", ["-c".to_string(), format!("sleep {mark}; true")]);
    let running = s.launcher.spawn(command, &s.workspace, &s.groups).await.unwrap();
    eventually("it runs", || !processes_mentioning(&mark).is_empty()).await;
    drop(running);
    eventually("it is dead", || processes_mentioning(&mark).is_empty()).await;
}

#[tokio::test]
async fn orphans_are_known_by_their_tmpdir_and_strangers_are_left_alone() {
    let s = Sandbox::new();
    let (ours, theirs) = (unique_sleep(6), unique_sleep(7));
    let command = Command::new("/bin/bash", ["-c".to_string(), format!("sleep {ours} & echo $$; wait")]);
    let running = s.launcher.spawn(command, &s.workspace, &s.groups).await.unwrap();
    let pgid = running.pgid();
    let mut stranger = std::process::Command::new("sleep");
    std::os::unix::process::CommandExt::process_group(&mut stranger, 0);
    let mut stranger = stranger.arg(&theirs).env("TMPDIR", "/somewhere/else").spawn().unwrap();
    eventually("ours runs", || !processes_mentioning(&ours).is_empty()).await;
    let tmp_base = s.base.join("data/tmp");
    assert!(!groups::kill_orphan_group(stranger.id().cast_signed(), &tmp_base));
    assert!(!groups::kill_orphan_group(pgid, Path::new("/another/engine")));
    assert!(groups::kill_orphan_group(pgid, &tmp_base));
    eventually("ours is dead", || processes_mentioning(&ours).is_empty()).await;
    groups::kill_orphans(&tmp_base);
    assert!(stranger.try_wait().unwrap().is_none());
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    drop(running);
}

#[tokio::test]
async fn output_is_kept_head_and_tail_and_never_blocks_the_child() {
    let s = Sandbox::new();
    let script = "echo first; head -c 20000000 /dev/zero | tr '\\0' 'x'; echo; echo last; echo err >&2";
    let f = s.finish(script, |_| {}, Duration::from_secs(30)).await;
    assert_eq!((f.exit_code, f.timed_out), (0, false));
    let dropped = f.stdout.dropped();
    let text = f.stdout.into_text();
    assert!(text.starts_with("first\nx") && text.ends_with("x\nlast\n"));
    assert!(dropped > 11_000_000 && text.len() < 9_000_000);
    assert_eq!(f.stderr.into_text(), "err\n");
}

#[tokio::test]
async fn a_conversation_goes_both_ways_until_it_is_dropped() {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    let s = Sandbox::new();
    let mut command = Command::new("/bin/cat", [""; 0]);
    command.converse = true;
    let mut running = s.launcher.spawn(command, &s.workspace, &s.groups).await.unwrap();
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
    for text in ["one", "two"] {
        let stdin = running.stdin.as_mut().unwrap();
        stdin.write_all(format!("{text}\n").as_bytes()).await.unwrap();
        assert_eq!(lines.next_line().await.unwrap().as_deref(), Some(text));
    }
    drop(running);
    assert_eq!(lines.next_line().await.unwrap(), None);
}

#[tokio::test]
async fn a_missing_program_and_a_signal_are_told_apart() {
    let s = Sandbox::new();
    let spawned = s.launcher.spawn(Command::new("/no/such", [""; 0]), &s.workspace, &s.groups).await;
    assert!(matches!(spawned, Err(engine::sandbox::LaunchError::NotFound)));
    assert_eq!(s.sh("kill -SEGV $$").await.1, 128 + 11);
    assert_eq!(s.sh("exit 3").await.1, 3);
}

#[tokio::test]
async fn without_a_sandbox_environment_and_limits_remain() {
    let mut s = Sandbox::new();
    s.launcher = Arc::new(Launcher::detect(config(SandboxMode::Off)).unwrap());
    let secret = s.base.join("outside/secret");
    let (text, _) =
        s.sh(&format!("cat {}; echo; ulimit -c; echo ${{CANARY_API_KEY:-none}}", secret.display())).await;
    assert_eq!(text, "SECRET\n0\nnone\n");
}

/// Set for the copy of this test that runs as nobody.
const AS_NOBODY: &str = "ENGINE_TEST_AS_NOBODY";

#[test]
fn everything_holds_without_root_too() {
    if std::env::args().any(|a| a == AS_NOBODY) || !rustix::process::geteuid().is_root() {
        // Either the suite runs unprivileged anyway, and every other test has shown it.
        return;
    }
    // A copy that nobody can reach: the build directory may be closed to other users.
    let dir = tempfile::tempdir().unwrap();
    let tmp = dir.path().join("tmp");
    fs::create_dir(&tmp).unwrap();
    for path in [dir.path(), tmp.as_path()] {
        std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
    }
    let copy = dir.path().join("it");
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let mut command = std::process::Command::new(&copy);
    std::os::unix::process::CommandExt::uid(&mut command, 65534);
    std::os::unix::process::CommandExt::gid(&mut command, 65534);
    let output = command
        .args(["sandbox::", "--skip", "everything_holds_without_root_too", "--test-threads", "2"])
        .env("TMPDIR", &tmp)
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(String::from_utf8_lossy(&output.stdout).contains("test result: ok"));
}
