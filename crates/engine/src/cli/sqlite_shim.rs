//! The program under the name `sqlite3`, as the image links it: enough for backup scripts and a look inside.
//!
//! Understood are `<file> ".backup <dest>"`, `"PRAGMA integrity_check;"` and one SELECT, with the output of
//! sqlite3's list mode. Everything else is refused, above all writing.

use super::Exit;
use brain::backup::{self, OnExisting};
use brain::shim;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};

const USAGE: &str = "usage: sqlite3 [-readonly] [-batch] FILE COMMAND\n\
    This is september-engine under the name sqlite3. COMMAND is one of:\n  \
    \".backup DEST\"              copy the database, also while an Engine serves it\n  \
    \"PRAGMA integrity_check;\"   check it\n  \
    \"SELECT …\"                  read it\n\
    Anything else, above all writing, is refused: an Engine's brain is changed only by its Engine.";

/// Runs one command; exit 0 or 1, as sqlite3 has it.
pub fn run(args: &[OsString]) -> Exit {
    let mut rest = Vec::new();
    for arg in args {
        match arg.to_str() {
            Some(
                "-readonly" | "--readonly" | "-batch" | "--batch" | "-list" | "--list" | "-bail" | "--bail",
            ) => {}
            Some("-version" | "--version") => {
                return super::emit(&format!(
                    "{} (september-engine {})\n",
                    shim::sqlite_version(),
                    env!("CARGO_PKG_VERSION")
                ));
            }
            Some("-help" | "--help") => return super::emit(&format!("{USAGE}\n")),
            Some(option) if option.starts_with('-') => {
                return complain(&format!("unknown option: {option}\n{USAGE}"));
            }
            _ => rest.push(arg),
        }
    }
    let [file, command] = rest.as_slice() else { return complain(USAGE) };
    let Some(command) = command.to_str() else { return complain(USAGE) };
    let file = Path::new(file);
    if !file.exists() {
        return complain(&format!("unable to open database \"{}\": there is no such file", file.display()));
    }
    match command.trim().split_once(char::is_whitespace) {
        Some((".backup", arguments)) => back_up(file, arguments),
        _ if command.trim().starts_with('.') => complain(USAGE),
        _ => select(file, command),
    }
}

fn back_up(file: &Path, arguments: &str) -> Exit {
    let Some(words) = shlex::split(arguments) else { return complain(USAGE) };
    let dest = match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [dest] | ["main", dest] => PathBuf::from(dest),
        _ => return complain(USAGE),
    };
    match backup::online(file, &dest, OnExisting::Replace) {
        Ok(_) => Exit::Success,
        Err(error) => complain(&error.to_string()),
    }
}

fn select(file: &Path, sql: &str) -> Exit {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let read = shim::query(file, sql, |cells| {
        // A reader that has gone away is no failure.
        let _ = out.write_all(&cells.join(&b"|"[..])).and_then(|()| out.write_all(b"\n"));
    });
    let _ = out.flush();
    match read {
        Ok(()) => Exit::Success,
        Err(error) => complain(&error.to_string()),
    }
}

fn complain(text: &str) -> Exit {
    eprintln!("Error: {text}");
    Exit::Failure
}
