//! The commands that fit on a page: hash-key, health, openapi, version, reference.

use super::{Exit, emit, emit_json};
use chassis::config::Source;
use chassis::terminal;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::Path;
use std::time::Duration;

/// Accepted lengths of a key, as ENGINE_API_KEY has them: a shorter one can be guessed, a longer one is
/// probably a file that was piped in by mistake.
const KEY_CHARS: std::ops::RangeInclusive<usize> = 8..=512;

/// Random bytes of a new key: beyond guessing. More would only make it longer to paste.
const NEW_KEY_BYTES: usize = 32;

/// What new keys begin with, so that scanners (ours too) know them when they leak.
const NEW_KEY_PREFIX: &str = "sk-sept-";

/// How long `health` waits for each step. Longer than a container's health-check limit would never be
/// seen; shorter would call an Engine sick that waits for a slow disk.
const HEALTH_LIMIT: Duration = Duration::from_secs(3);

/// Largest health answer read. Larger answers come from something that is not an Engine.
const HEALTH_BYTES: u64 = 64 * 1024;

/// `version`.
pub fn version(json: bool) -> String {
    let facts = crate::version::json(brain::schema::newest(brain::schema::MIGRATIONS));
    if json {
        return format!("{facts:#}\n");
    }
    let text = |field: &str| match &facts[field] {
        Value::String(text) => text.clone(),
        Value::Null => "unknown".to_owned(),
        other => other.to_string(),
    };
    format!(
        "september-engine {}\ncommit {}\nschema {}\nSQLite {}\n",
        text("version"),
        text("commit"),
        text("schema_version"),
        text("sqlite_version")
    )
}

/// `hash-key`: of a key from standard input, or of a new one.
pub fn hash_key(new: bool, json: bool) -> Exit {
    if new {
        let key = new_key();
        let hash = sha256_hex(&key);
        if json {
            return emit_json(&json!({"key": key, "hash": hash}));
        }
        return emit(&format!(
            "ENGINE_API_KEY={key}\nENGINE_KEY_HASH={hash}\n\n\
             The key goes to callers (header X-Engine-Key) and is shown only now; the hash goes to the Engine.\n"
        ));
    }
    let key = match read_key() {
        Ok(key) => key,
        Err(why) => return Exit::fail(&why),
    };
    let hash = sha256_hex(&key);
    if json { emit_json(&json!({"hash": hash})) } else { emit(&format!("{hash}\n")) }
}

fn new_key() -> String {
    use base64::Engine as _;
    let bytes: [u8; NEW_KEY_BYTES] = rand::random();
    format!("{NEW_KEY_PREFIX}{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes))
}

fn sha256_hex(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

/// A key from standard input, blanks around it removed as the configuration does; unseen on a terminal.
fn read_key() -> Result<String, String> {
    let stdin = std::io::stdin();
    let mut text = String::new();
    if stdin.is_terminal() {
        eprint!("Key (not shown): ");
        let _ = std::io::stderr().flush();
        let hidden = Hidden::start();
        let read = stdin.read_line(&mut text);
        drop(hidden);
        eprintln!();
        read.map_err(|e| format!("could not read the key: {e}"))?;
    } else {
        let limit = *KEY_CHARS.end() as u64 * 4 + 2;
        stdin
            .lock()
            .take(limit)
            .read_to_string(&mut text)
            .map_err(|e| format!("could not read the key: {e}"))?;
    }
    let key = text.trim();
    let count = key.chars().count();
    if !KEY_CHARS.contains(&count) || key.chars().any(char::is_control) {
        let (min, max) = (KEY_CHARS.start(), KEY_CHARS.end());
        return Err(format!(
            "expected a key of {min}..{max} characters on standard input, got {count}; `hash-key --new` makes one"
        ));
    }
    Ok(key.to_owned())
}

/// The terminal without echo, until dropped.
struct Hidden(Option<rustix::termios::Termios>);

impl Hidden {
    fn start() -> Self {
        let Ok(before) = tcgetattr(std::io::stdin()) else { return Self(None) };
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        match tcsetattr(std::io::stdin(), OptionalActions::Now, &quiet) {
            Ok(()) => Self(Some(before)),
            Err(_) => Self(None),
        }
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// `health`: one plain request, without a client library, because it runs every few seconds for years.
pub fn health(url: Option<String>, source: &dyn Source, json: bool) -> Exit {
    let url = url.unwrap_or_else(|| super::default_url(source));
    match ask_health(&url) {
        Ok((status, body)) => {
            let word = serde_json::from_str::<Value>(&body)
                .ok()
                .and_then(|v| v["status"].as_str().map(|s| terminal::one_line(s, 40)))
                .unwrap_or_else(|| "no Engine".to_owned());
            if json {
                emit(&format!("{}\n", body.trim_end()));
            } else {
                emit(&format!("{word} ({status}) at {url}\n"));
            }
            if status == 200 { Exit::Success } else { Exit::Failure }
        }
        Err(why) => Exit::fail(&format!("no health from {url}: {why}")),
    }
}

/// Status and body of GET /health.
fn ask_health(url: &str) -> Result<(u16, String), String> {
    let rest = url.strip_prefix("http://").ok_or("expected an address that starts with http://")?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = path.trim_end_matches('/');
    let address = if has_port(authority) { authority.to_owned() } else { format!("{authority}:80") };
    let mut addresses = address.to_socket_addrs().map_err(|e| e.to_string())?;
    let address = addresses.next().ok_or("the name has no address")?;
    let mut stream = TcpStream::connect_timeout(&address, HEALTH_LIMIT).map_err(|e| e.to_string())?;
    stream.set_read_timeout(Some(HEALTH_LIMIT)).map_err(|e| e.to_string())?;
    stream.set_write_timeout(Some(HEALTH_LIMIT)).map_err(|e| e.to_string())?;
    let slash = if path.is_empty() { "" } else { "/" };
    // HTTP/1.0, so that the answer is neither chunked nor kept open.
    let request = format!("GET {slash}{path}/health HTTP/1.0\r\nHost: {authority}\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(|e| e.to_string())?;
    let mut answer = Vec::new();
    stream.take(HEALTH_BYTES).read_to_end(&mut answer).map_err(|e| e.to_string())?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("it does not speak HTTP")?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or("it does not speak HTTP")?;
    Ok((status, body.to_owned()))
}

fn has_port(authority: &str) -> bool {
    authority
        .rsplit_once(':')
        .is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

/// `reference --out DIR`.
pub fn reference(out: &Path) -> Exit {
    for (name, text) in crate::reference::pages() {
        if let Err(error) = std::fs::write(out.join(name), text) {
            return Exit::fail(&format!("could not write {}: {error}", out.join(name).display()));
        }
    }
    Exit::Success
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_key_is_long_marked_and_never_the_same() {
        let key = new_key();
        assert!(key.starts_with(NEW_KEY_PREFIX) && key.len() == NEW_KEY_PREFIX.len() + 43, "{key}");
        assert_ne!(key, new_key());
    }

    #[test]
    fn the_hash_is_the_standard_one() {
        assert_eq!(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_port_is_told_from_an_address() {
        assert!(has_port("127.0.0.1:8000") && has_port("[::1]:80"));
        assert!(!has_port("localhost") && !has_port("[::1]"));
    }
}
