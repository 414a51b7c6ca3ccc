//! A stand-in for the Engine, small enough to be linked statically and put into an image FROM scratch.
//!
//! It keeps the Engine's side of the contract with whoever runs it: `GET /health`, `GET /version`, key rotation, a
//! clean end on SIGTERM, exit codes 2, 3 and 4, a lock on its brain and the refusal of an older generation. It
//! thinks nothing and stores nothing else. Only std and a few C calls, so that `rustc` alone builds it.
//!
//! Called as `rm` it removes files, because jobs on storage need one. Knobs, all by environment:
//! `FAKE_EXIT_CODE` (end at once), `FAKE_CRASH_AFTER_MS` (end later, with `FAKE_CRASH_CODE`, default 1),
//! `FAKE_BOOT_MS` (503 `starting` until then), `FAKE_IGNORE_SIGTERM=1`, `FAKE_DRAIN_MS` (how long a drain takes),
//! `FAKE_HEALTH_STATUS` (any status word), `FAKE_IN_FLIGHT_TURNS`, `FAKE_ALLOC_MB` (touch that much memory),
//! `FAKE_HANG_FILE` (while it exists, `/health` is not answered), `FAKE_SAY` (a line on stderr at the start), `FAKE_VERSION`, `FAKE_SCHEMA_VERSION`, `FAKE_MIGRATE_CODE`.
//!
//! The one invariant: two of them never write one brain, and an older generation never opens a newer one's.

// A program of its own without our configuration; it waits in threads, there is nothing else it could do.
#![allow(clippy::disallowed_methods)]

mod jobs;
mod sha256;

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::exit;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const BAD_CONFIG: i32 = 2;
const PROBLEMS_FOUND: i32 = 3;
const BRAIN_REFUSED: i32 = 4;
/// Requests larger than this are refused; nothing of the contract comes near.
const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// A peer that sends nothing for this long is dropped, so that its thread ends.
const READ_TIMEOUT: Duration = Duration::from_secs(75);
/// What a brain of ours begins with.
const BRAIN_MARK: &str = "fake brain";

static TERMINATE: AtomicBool = AtomicBool::new(false);
static DRAINING: AtomicBool = AtomicBool::new(false);
/// A rotated key: hash of the new one.
static ROTATED: Mutex<Option<String>> = Mutex::new(None);

unsafe extern "C" {
    fn signal(number: i32, handler: usize) -> usize;
    fn flock(fd: i32, operation: i32) -> i32;
}
const SIGTERM: i32 = 15;
const SIGINT: i32 = 2;
const LOCK_EX_NB: i32 = 2 | 4;

extern "C" fn on_terminate(_: i32) {
    TERMINATE.store(true, Ordering::SeqCst);
}

fn main() {
    let args: Vec<String> = env::args().collect();
    if Path::new(&args[0]).file_name().is_some_and(|name| name == "rm") {
        exit(jobs::remove(&args[1..]));
    }
    if let Some(code) = number("FAKE_EXIT_CODE") {
        eprintln!("{{\"level\":\"ERROR\",\"message\":\"FAKE_EXIT_CODE is set\"}}");
        exit(code as i32);
    }
    let words: Vec<&str> = args[1..].iter().map(String::as_str).collect();
    exit(match words.as_slice() {
        [] | ["serve"] => serve(),
        ["verify"] => jobs::verify(&brain_path()),
        ["verify", file] => jobs::verify(Path::new(file)),
        ["backup", file] => jobs::backup(Path::new(file)),
        ["restore", file] => jobs::restore(Path::new(file)),
        ["migrate"] => {
            number("FAKE_MIGRATE_CODE").map_or_else(|| jobs::verify(&brain_path()), |code| code as i32)
        }
        ["print", file] => jobs::print(Path::new(file)),
        ["hang"] => jobs::hang(),
        ["interfaces"] => jobs::interfaces(),
        ["namespaces"] => jobs::namespaces(),
        _ => {
            eprintln!("unknown command");
            BAD_CONFIG
        }
    });
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

fn flag(name: &str) -> bool {
    env::var(name).is_ok_and(|value| value == "1" || value == "true")
}

fn brain_path() -> PathBuf {
    match env::var("SQLITE_DB_PATH") {
        Ok(path) => PathBuf::from(path),
        Err(_) => {
            eprintln!("SQLITE_DB_PATH is not set");
            exit(BAD_CONFIG)
        }
    }
}

fn generation() -> u64 {
    match env::var("BRAIN_GENERATION").map(|text| text.parse()) {
        Err(_) => 0,
        Ok(Ok(generation)) => generation,
        Ok(Err(_)) => {
            eprintln!("BRAIN_GENERATION is not a number");
            exit(BAD_CONFIG)
        }
    }
}

/// The lock lies beside the brain, so that replacing the brain's file does not replace the lock.
fn lock(brain: &Path) -> Result<fs::File, i32> {
    let path = brain.with_extension("lock");
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(|e| {
        eprintln!("{{\"level\":\"ERROR\",\"message\":\"brain cannot be locked: {e}\"}}");
        BRAIN_REFUSED
    })?;
    // SAFETY: the descriptor belongs to `file`, which lives on.
    if unsafe { flock(file.as_raw_fd(), LOCK_EX_NB) } != 0 {
        eprintln!("{{\"level\":\"ERROR\",\"message\":\"brain is locked by another process\"}}");
        return Err(BRAIN_REFUSED);
    }
    Ok(file)
}

/// The generation that last opened this brain; `None` for a file that is no brain.
fn opened_by(brain: &Path) -> Option<u64> {
    fs::read_to_string(brain).ok()?.strip_prefix(BRAIN_MARK)?.split_whitespace().next()?.parse().ok()
}

/// Opens the brain under the lock, makes an empty one where there is none, and refuses a newer generation's.
fn open_brain(brain: &Path) -> Result<fs::File, i32> {
    let held = lock(brain)?;
    let mine = generation();
    if brain.exists() {
        match opened_by(brain) {
            None => {
                eprintln!("{{\"level\":\"ERROR\",\"message\":\"not a brain\"}}");
                return Err(PROBLEMS_FOUND);
            }
            Some(last) if last > mine => {
                eprintln!("{{\"level\":\"ERROR\",\"message\":\"fenced: generation {mine} after {last}\"}}");
                return Err(BRAIN_REFUSED);
            }
            Some(_) => {}
        }
    }
    let boots =
        fs::read_to_string(brain).map_or(0, |text| text.lines().filter(|l| l.starts_with("boot")).count());
    let mut text = format!("{BRAIN_MARK} {mine}\n");
    for boot in 0..=boots {
        text.push_str(&format!("boot {boot}\n"));
    }
    fs::write(brain, text).map_err(|e| {
        eprintln!("{{\"level\":\"ERROR\",\"message\":\"brain cannot be written: {e}\"}}");
        BRAIN_REFUSED
    })?;
    Ok(held)
}

fn serve() -> i32 {
    let handler = on_terminate as extern "C" fn(i32) as usize;
    // SAFETY: the handler only stores into an atomic; SIG_IGN is 1.
    unsafe {
        signal(SIGTERM, if flag("FAKE_IGNORE_SIGTERM") { 1 } else { handler });
        signal(SIGINT, handler);
    }
    if let Ok(line) = env::var("FAKE_SAY") {
        eprintln!("{line}");
    }
    let brain = brain_path();
    let _held = match open_brain(&brain) {
        Ok(held) => held,
        Err(code) => return code,
    };
    let hoard = vec![1_u8; number("FAKE_ALLOC_MB").unwrap_or(0) as usize * 1024 * 1024];
    let host = env::var("ENGINE_HOST").unwrap_or_else(|_| "0.0.0.0".to_owned());
    let port = number("ENGINE_PORT").unwrap_or(8000);
    let listener = match TcpListener::bind(format!("{host}:{port}")) {
        Ok(listener) => listener,
        Err(e) => {
            eprintln!("{{\"level\":\"ERROR\",\"message\":\"cannot listen on {host}:{port}: {e}\"}}");
            return BAD_CONFIG;
        }
    };
    eprintln!("{{\"level\":\"INFO\",\"message\":\"serving generation {}\"}}", generation());
    let born = Instant::now();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer_all(stream, born));
        }
    });
    let crash_after = number("FAKE_CRASH_AFTER_MS").map(Duration::from_millis);
    loop {
        std::thread::sleep(Duration::from_millis(5));
        if crash_after.is_some_and(|after| born.elapsed() >= after) {
            eprintln!("{{\"level\":\"ERROR\",\"message\":\"crashing as told\"}}");
            return number("FAKE_CRASH_CODE").unwrap_or(1) as i32;
        }
        if TERMINATE.load(Ordering::SeqCst) {
            DRAINING.store(true, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(number("FAKE_DRAIN_MS").unwrap_or(0)));
            eprintln!("{{\"level\":\"INFO\",\"message\":\"drained\"}}");
            drop(hoard);
            return 0;
        }
    }
}

/// Serves one connection until the peer closes it or stays silent.
fn answer_all(mut stream: TcpStream, born: Instant) {
    let _ = stream.set_read_timeout(Some(READ_TIMEOUT));
    let _ = stream.set_nodelay(true);
    let mut seen = Vec::new();
    loop {
        let head_end = loop {
            if let Some(at) = seen.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if seen.len() > REQUEST_BYTES_MAX || !more(&mut stream, &mut seen) {
                return;
            }
        };
        let head = String::from_utf8_lossy(&seen[..head_end]).into_owned();
        let length: usize = header(&head, "content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
        if length > REQUEST_BYTES_MAX {
            return;
        }
        while seen.len() < head_end + length {
            if !more(&mut stream, &mut seen) {
                return;
            }
        }
        let body = String::from_utf8_lossy(&seen[head_end..head_end + length]).into_owned();
        seen.drain(..head_end + length);
        let mut first = head.lines().next().unwrap_or_default().split(' ');
        let (method, path) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
        let (status, answer) = answer(method, path, &head, &body, born);
        let reason = if status < 300 { "OK" } else { "Refused" };
        let text = format!(
            "HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{answer}",
            answer.len()
        );
        let closes = header(&head, "connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
        if stream.write_all(text.as_bytes()).is_err() || closes {
            return;
        }
    }
}

fn more(stream: &mut TcpStream, seen: &mut Vec<u8>) -> bool {
    let mut chunk = [0; 4096];
    match stream.read(&mut chunk) {
        Ok(0) | Err(_) => false,
        Ok(n) => {
            seen.extend_from_slice(&chunk[..n]);
            true
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// The string value of a key in a flat JSON object.
fn text_field(body: &str, name: &str) -> Option<String> {
    let after = body.split_once(&format!("\"{name}\""))?.1.trim_start().strip_prefix(':')?.trim_start();
    Some(after.strip_prefix('"')?.split('"').next()?.to_owned())
}

fn answer(method: &str, path: &str, head: &str, body: &str, born: Instant) -> (u16, String) {
    match (method, path) {
        ("GET", "/health") => health(born),
        ("GET", "/version") => match authenticated(head) {
            Err(refusal) => refusal,
            Ok(()) => (200, format!("{{\"version\":\"{}\",\"schema_version\":{}}}", version(), schema())),
        },
        ("POST", "/admin/rotate-key") => match authenticated(head) {
            Err(refusal) => refusal,
            Ok(()) => rotate(body),
        },
        ("POST", "/admin/backup") => match authenticated(head) {
            Err(refusal) => refusal,
            Ok(()) => online_backup(body),
        },
        // Not of the contract: what tests want to see from the inside.
        ("GET", "/environ") => {
            let mut names: Vec<String> =
                env::vars().map(|(name, value)| format!("{}:{}", quoted(&name), quoted(&value))).collect();
            names.sort();
            (200, format!("{{{}}}", names.join(",")))
        }
        _ => (404, refusal("NOT_FOUND", "no such path")),
    }
}

fn refusal(code: &str, message: &str) -> String {
    format!("{{\"error\":{{\"code\":\"{code}\",\"message\":\"{message}\"}}}}")
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn version() -> String {
    env::var("FAKE_VERSION").unwrap_or_else(|_| "0.1.0".to_owned())
}

fn schema() -> u64 {
    number("FAKE_SCHEMA_VERSION").unwrap_or(1)
}

fn health(born: Instant) -> (u16, String) {
    if let Ok(file) = env::var("FAKE_HANG_FILE") {
        while Path::new(&file).exists() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    let booting = born.elapsed() < Duration::from_millis(number("FAKE_BOOT_MS").unwrap_or(0));
    let told = env::var("FAKE_HEALTH_STATUS").ok();
    let word = if DRAINING.load(Ordering::SeqCst) {
        "draining"
    } else if booting {
        "starting"
    } else {
        told.as_deref().unwrap_or("ok")
    };
    let status = if matches!(word, "ok" | "degraded") { 200 } else { 503 };
    let turns = number("FAKE_IN_FLIGHT_TURNS").unwrap_or(0);
    let text = format!(
        "{{\"status\":\"{word}\",\"uptime_seconds\":{:.3},\"subsystems\":{{\"database\":\"ok\",\
         \"llm_provider\":\"ok\",\"asset_directory\":\"ok\",\"embeddings\":\"ok\"}},\"version\":\"{}\",\
         \"schema_version\":{},\"activity\":{{\"in_flight_turns\":{turns},\"open_streams\":0,\
         \"last_activity_at\":null,\"next_scheduled_at\":null}},\
         \"sandbox\":{{\"mode\":\"off\",\"layers\":[]}},\"generation\":{}}}",
        born.elapsed().as_secs_f64(),
        version(),
        schema(),
        generation(),
    );
    (status, text)
}

fn authenticated(head: &str) -> Result<(), (u16, String)> {
    let refused = || Err((401, refusal("INVALID_KEY", "unknown key")));
    let Some(key) = header(head, "x-engine-key") else { return refused() };
    let hash = sha256::sha256_hex(key.as_bytes());
    let first = env::var("ENGINE_KEY_HASH").unwrap_or_default();
    let rotated = ROTATED.lock().map(|r| r.clone()).unwrap_or_default();
    if hash == first || Some(&hash) == rotated.as_ref() { Ok(()) } else { refused() }
}

fn rotate(body: &str) -> (u16, String) {
    let Some(hash) = text_field(body, "new_key_hash").filter(|h| h.len() == 64) else {
        return (400, refusal("INVALID_REQUEST", "new_key_hash is required"));
    };
    if let Ok(mut rotated) = ROTATED.lock() {
        if rotated.as_ref().is_some_and(|known| *known != hash) {
            return (409, refusal("CONFLICT", "an earlier window is open"));
        }
        *rotated = Some(hash);
    }
    (200, format!("{{\"status\":\"rotated\",\"old_key_valid_until\":\"{}\"}}", in_one_hour()))
}

fn in_one_hour() -> String {
    let s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()) + 3600;
    // Days to a civil date, proleptic Gregorian.
    let (days, of_day) = ((s / 86_400) as i64 + 719_468, s % 86_400);
    let era = days.div_euclid(146_097);
    let doe = days.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + i64::from(month <= 2);
    let (h, m, s) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.000Z")
}

fn online_backup(body: &str) -> (u16, String) {
    let Some(name) = text_field(body, "name").filter(|n| !n.is_empty() && !n.contains(['/', '\\'])) else {
        return (400, refusal("INVALID_REQUEST", "name is required"));
    };
    let brain = brain_path();
    let path = brain.with_file_name("backups").join(&name);
    if fs::create_dir_all(path.with_file_name("")).is_err() {
        return (500, refusal("INTERNAL", "no directory for backups"));
    }
    match fs::copy(&brain, &path) {
        Ok(bytes) => (
            200,
            format!(
                "{{\"status\":\"ok\",\"path\":{},\"size_bytes\":{bytes},\"schema_version\":{},\"verified\":true}}",
                quoted(&path.to_string_lossy()),
                schema()
            ),
        ),
        Err(_) => (500, refusal("INTERNAL", "the brain could not be copied")),
    }
}
