//! What counts as memory of a command: what is used and not what is reserved, once and not once per process, and
//! whatever way it was got. Attempts to get around it are in `tests/escapes`.

use super::sandbox::{Sandbox, config, eventually, processes_mentioning, unique_sleep};
use engine::sandbox::{Launcher, Limits, SandboxMode};
use std::sync::Arc;

const TOLD: &str = "took more than 256 MB of memory together (SANDBOX_MEMORY_MB)";

/// A launcher with 256 MB, without namespaces and control groups.
fn small() -> Sandbox {
    let mut s = Sandbox::new();
    let mut config = config(SandboxMode::BestEffort);
    config.limits = Limits { memory_mb: 256, ..config.limits };
    config.mask.cgroups = true;
    s.launcher = Arc::new(Launcher::detect(config).expect("it starts"));
    s
}

async fn python(s: &Sandbox, program: &str) -> (String, i32) {
    std::fs::write(s.base.join("data/work/program.py"), program).expect("the workspace is ours");
    s.sh("exec python3 program.py").await
}

#[tokio::test]
async fn reserved_address_space_is_not_memory() {
    // What V8 does for WebAssembly, the JVM for its heap and Go for its arenas.
    let program = r#"
import ctypes, mmap
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
at = libc.mmap(None, 16 << 30, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
assert at != ctypes.c_void_p(-1).value, "reserve"
assert libc.mprotect(at, 50 << 20, 3) == 0, "use"
ctypes.memset(at, 1, 50 << 20)
print("used; more than the limit:", libc.mprotect(at, 300 << 20, 3))
"#;
    assert_eq!(python(&small(), program).await, ("used; more than the limit: -1\n".into(), 0));
}

#[tokio::test]
async fn memory_that_processes_share_counts_once() {
    // Four processes with the same 150 MB, for longer than it takes to look twice.
    let program = r#"
import mmap, os, time
held = mmap.mmap(-1, 150 << 20)
for _ in range(150): held.write(b"x" * (1 << 20))
pids = []
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        sum(held[at] for at in range(0, len(held), 4096))
        time.sleep(2)
        os._exit(0)
    pids.append(pid)
print([os.waitpid(pid, 0)[1] for pid in pids])
"#;
    assert_eq!(python(&small(), program).await, ("[0, 0, 0]\n".into(), 0));
}

#[tokio::test]
async fn a_command_that_takes_too_much_shared_memory_is_ended_and_told_why() {
    let program = r#"
import mmap, time
held = mmap.mmap(-1, 400 << 20)
for _ in range(400): held.write(b"x" * (1 << 20))
time.sleep(60)
"#;
    let (text, code) = python(&small(), program).await;
    assert_eq!(code, 128 + 9, "{text}");
    assert!(text.contains(TOLD), "{text}");
}

#[tokio::test]
async fn what_left_its_launch_is_watched_until_the_turn_ends() {
    let s = small();
    let (bomb, other) = (unique_sleep(30), unique_sleep(31));
    // It grows only after the command that started it has ended.
    let program = r#"
import mmap, os, time
while not os.path.exists("go"): time.sleep(0.02)
held = mmap.mmap(-1, 400 << 20)
for _ in range(400): held.write(b"x" * (1 << 20))
time.sleep(60)
"#;
    std::fs::write(s.base.join("data/work/bomb.py"), program).expect("the workspace is ours");
    s.sh(&format!("setsid python3 bomb.py {bomb} >/dev/null 2>&1 & sleep 0.1; echo")).await;
    s.sh(&format!("sleep {other} & echo")).await;
    let running = |mark: &str| processes_mentioning(mark).len();
    eventually("both run", || running(&bomb) == 1 && running(&other) == 1).await;
    std::fs::write(s.base.join("data/work/go"), "").expect("the workspace is ours");
    eventually("the bomb is dead", || running(&bomb) == 0).await;
    assert_eq!(s.groups.pgids().len(), 1, "another launch was ended, too");
    assert_eq!(running(&other), 1);
    s.groups.kill_all().await;
    eventually("the rest is dead", || running(&other) == 0).await;
}
