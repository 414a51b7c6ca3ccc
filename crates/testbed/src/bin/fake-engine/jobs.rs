//! The commands that run on storage without serving: what the Engine offers for jobs, and what tests want to see from
//! inside a container. Those that read or replace the brain hold its lock.

use crate::{PROBLEMS_FOUND, brain_path, lock, opened_by};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

unsafe extern "C" {
    fn unshare(flags: i32) -> i32;
    fn mount(source: *const u8, target: *const u8, kind: *const u8, flags: u64, data: *const u8) -> i32;
}

pub fn verify(file: &Path) -> i32 {
    let _held = match lock(&brain_path()) {
        Ok(held) => held,
        Err(code) => return code,
    };
    match opened_by(file) {
        Some(last) => {
            println!("ok: last opened by generation {last}");
            0
        }
        None => {
            eprintln!("not a brain: {}", file.display());
            PROBLEMS_FOUND
        }
    }
}

fn copy(from: &Path, to: &Path) -> i32 {
    if let Some(parent) = to.parent() {
        let _ = fs::create_dir_all(parent);
    }
    match fs::copy(from, to) {
        Ok(bytes) => {
            println!("copied {bytes} bytes");
            0
        }
        Err(e) => {
            eprintln!("{}: {e}", from.display());
            PROBLEMS_FOUND
        }
    }
}

pub fn backup(file: &Path) -> i32 {
    let brain = brain_path();
    lock(&brain).map_or_else(|code| code, |_held| copy(&brain, file))
}

pub fn restore(file: &Path) -> i32 {
    if opened_by(file).is_none() {
        eprintln!("not a brain: {}", file.display());
        return PROBLEMS_FOUND;
    }
    let brain = brain_path();
    lock(&brain).map_or_else(|code| code, |_held| copy(file, &brain))
}

pub fn print(file: &Path) -> i32 {
    match fs::read(file).and_then(|bytes| std::io::stdout().write_all(&bytes)) {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("{}: {e}", file.display());
            PROBLEMS_FOUND
        }
    }
}

/// Names of the network interfaces, one a line: a job without a network sees `lo` only.
pub fn interfaces() -> i32 {
    let table = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    for line in table.lines().skip(2) {
        println!("{}", line.split(':').next().unwrap_or_default().trim());
    }
    0
}

/// Does what a sandbox of unprivileged user namespaces begins with; says where it is refused.
pub fn namespaces() -> i32 {
    const NEW_USER_AND_MOUNTS: i32 = 0x1000_0000 | 0x0002_0000;
    const PRIVATE_BELOW: u64 = (1 << 18) | (1 << 14);
    let none = std::ptr::null();
    // SAFETY: the texts end with zero and live on; this process has one thread.
    let steps: [(&str, &dyn Fn() -> i32); 3] = [
        ("unshare", &|| unsafe { unshare(NEW_USER_AND_MOUNTS) }),
        ("private", &|| unsafe { mount(none, c"/".as_ptr().cast(), none, PRIVATE_BELOW, none) }),
        ("tmpfs", &|| unsafe {
            mount(c"tmpfs".as_ptr().cast(), c"/tmp".as_ptr().cast(), c"tmpfs".as_ptr().cast(), 0, none)
        }),
    ];
    for (name, step) in steps {
        if step() != 0 {
            println!("{name}: {}", std::io::Error::last_os_error());
            return PROBLEMS_FOUND;
        }
    }
    println!("made");
    0
}

pub fn hang() -> i32 {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

pub fn remove(args: &[String]) -> i32 {
    let force = args.iter().any(|a| a == "-f");
    let mut code = 0;
    for path in args.iter().filter(|a| !a.starts_with('-')) {
        match fs::remove_file(path) {
            Ok(()) => {}
            Err(e) if force && e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => {
                eprintln!("rm: {path}: {e}");
                code = 1;
            }
        }
    }
    code
}
