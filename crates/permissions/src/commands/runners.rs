//! Programs that run another program given as their arguments.

use super::{after_options, base_name, builtins, shells};
use crate::args::{Args, Options};
use crate::pattern::{BELOW, UNKNOWN};
use crate::state::Input;
use crate::walk::Walker;
use crate::words::{Field, Value};

/// Runners whose options are known: name, options, operands in front of the command.
const PLAIN: [(&str, Options, usize); 19] = [
    (
        "sudo",
        Options {
            short: "ugCDhpRrtTU",
            long: &[
                "user",
                "group",
                "close-from",
                "chdir",
                "host",
                "prompt",
                "chroot",
                "role",
                "type",
                "command-timeout",
                "other-user",
            ],
        },
        0,
    ),
    ("doas", Options { short: "Cu", long: &[] }, 0),
    ("nice", Options { short: "n", long: &["adjustment"] }, 0),
    ("ionice", Options { short: "cnpPu", long: &["class", "classdata"] }, 0),
    ("nohup", Options { short: "", long: &[] }, 0),
    ("setsid", Options { short: "", long: &[] }, 0),
    ("timeout", Options { short: "ks", long: &["kill-after", "signal"] }, 1),
    ("time", Options { short: "fo", long: &["format", "output"] }, 0),
    ("gtime", Options { short: "fo", long: &["format", "output"] }, 0),
    ("stdbuf", Options { short: "ioe", long: &["input", "output", "error"] }, 0),
    ("command", Options { short: "", long: &[] }, 0),
    ("builtin", Options { short: "", long: &[] }, 0),
    ("exec", Options { short: "a", long: &[] }, 0),
    ("busybox", Options { short: "", long: &[] }, 0),
    ("toybox", Options { short: "", long: &[] }, 0),
    ("chrt", Options { short: "TPD", long: &["sched-runtime", "sched-period", "sched-deadline"] }, 1),
    ("taskset", Options { short: "", long: &[] }, 1),
    ("chronic", Options { short: "", long: &[] }, 0),
    ("setarch", Options { short: "p", long: &["pid"] }, 0),
];
const ENV: Options = Options { short: "uCS", long: &["unset", "chdir", "split-string"] };
const XARGS: Options = Options {
    short: "aEILnPsd",
    long: &["arg-file", "delimiter", "max-lines", "max-args", "max-procs", "max-chars", "process-slot-var"],
};

/// Runners whose options are not known: every argument that is the name of a command may be the command.
const SCANNED: [&str; 26] = [
    "flock",
    "strace",
    "ltrace",
    "unshare",
    "chroot",
    "setpriv",
    "firejail",
    "bwrap",
    "watch",
    "parallel",
    "entr",
    "su",
    "runuser",
    "pkexec",
    "systemd-run",
    "script",
    "valgrind",
    "gdb",
    "perf",
    "hyperfine",
    "fakeroot",
    "rtk",
    "prlimit",
    "numactl",
    "unbuffer",
    "nsenter",
];
/// Commands looked for behind [`SCANNED`].
pub(super) const JUDGED: [&str; 40] = [
    "rm", "rmdir", "unlink", "shred", "dd", "truncate", "chmod", "chown", "chgrp", "git", "cp", "mv", "tee",
    "mkdir", "touch", "ln", "install", "rsync", "sed", "tar", "unzip", "sort", "curl", "wget", "find",
    "wipefs", "mkfifo", "mknod", "sh", "bash", "dash", "zsh", "ksh", "fd", "xargs", "env", "sudo", "nice",
    "timeout", "python3",
];

/// Runs of one command with known items; beyond it the item counts as unknown.
const MAX_RUNS: usize = 64;

/// True when the command is one of these.
pub(super) fn run(walker: &mut Walker<'_>, name: &str, arguments: &[Field]) -> bool {
    match name {
        "env" => env(walker, arguments),
        "xargs" => xargs(walker, arguments),
        _ => {
            if let Some((_, options, skip)) = PLAIN.iter().find(|(plain, ..)| *plain == name) {
                plain(walker, name, arguments, *options, *skip);
            } else if SCANNED.contains(&name) {
                scan(walker, arguments);
            } else {
                return false;
            }
        }
    }
    true
}

fn plain(walker: &mut Walker<'_>, name: &str, arguments: &[Field], options: Options, skip: usize) {
    let (given, rest) = after_options(arguments, options);
    if name == "command" && given.has("vV", "") {
        return;
    }
    let mut rest = rest.get(skip..).unwrap_or_default();
    while name == "sudo" && rest.first().is_some_and(|f| f.text.contains('=')) {
        rest = &rest[1..];
    }
    let moves: Vec<Field> = given.values("D", "chdir").cloned().collect();
    let outputs: Vec<Field> =
        if name.ends_with("time") { given.values("o", "output").cloned().collect() } else { Vec::new() };
    super::touch_all(walker, &outputs, crate::analysis::How::Truncate);
    let bare = name == "command" || name == "builtin";
    inner(walker, rest, bare, |w| {
        if name == "sudo" && !moves.is_empty() {
            builtins::enter(w, &moves);
        }
    });
}

/// Runs the command in a process of its own, or, for `bare`, in this shell without its functions.
fn inner(walker: &mut Walker<'_>, command: &[Field], bare: bool, before: impl FnOnce(&mut Walker<'_>)) {
    if command.is_empty() {
        return;
    }
    if bare {
        let functions = std::mem::take(&mut walker.state.functions);
        walker.run(command);
        for (name, function) in functions {
            walker.state.functions.entry(name).or_insert(function);
        }
    } else {
        walker.apart(|w| {
            w.state.functions.clear();
            before(w);
            w.run(command);
        });
    }
}

fn env(walker: &mut Walker<'_>, arguments: &[Field]) {
    let (given, mut rest) = after_options(arguments, ENV);
    let mut variables = Vec::new();
    while let Some(field) = rest.first()
        && let Some((name, value)) = field.text.split_once('=')
    {
        variables.push((name.to_owned(), value.to_owned()));
        rest = &rest[1..];
    }
    let moves: Vec<Field> = given.values("C", "chdir").cloned().collect();
    let texts: Vec<Field> = given.values("S", "split-string").cloned().collect();
    walker.apart(|w| {
        if !moves.is_empty() {
            builtins::enter(w, &moves);
        }
        for (name, value) in variables {
            w.assign(&name, Value::Known(vec![value]));
            w.state.exported.insert(name);
        }
        w.state.functions.clear();
        for text in texts {
            let mut whole = vec![text];
            whole.extend(rest.iter().cloned());
            shells::joined_text(w, &whole);
        }
        if !rest.is_empty() {
            w.run(rest);
        }
    });
}

fn xargs(walker: &mut Walker<'_>, arguments: &[Field]) {
    let (given, rest) = after_options(arguments, XARGS);
    let from_file = given.has("a", "arg-file");
    // `-i`, `-I R`, `--replace[=R]`, `-iR`.
    let mut mark = given.values("I", "").next().map(Field::shown);
    for field in &arguments[..arguments.len() - rest.len()] {
        let text = field.text.as_str();
        if let Some(r) = text.strip_prefix("--replace") {
            mark = Some(r.strip_prefix('=').unwrap_or("{}").to_owned());
        } else if let Some(r) = text.strip_prefix("-i") {
            mark = Some(if r.is_empty() { "{}".into() } else { r.to_owned() });
        }
    }
    let values: Vec<Field> = match walker.state.input.clone() {
        Input::None if !from_file => Vec::new(),
        Input::NamesBelow(directories) if !from_file => directories
            .iter()
            .map(|d| Field { text: format!("{}/{BELOW}", d.display()), many: true })
            .collect(),
        Input::Text(text) if !from_file && !given.has("d0", "delimiter") => {
            items(&text, mark.is_some()).unwrap_or_else(|| vec![Field::unknown()])
        }
        Input::None | Input::Unknown | Input::Text(_) | Input::NamesBelow(_) => vec![Field::unknown()],
    };
    let echo = [Field::known("echo")];
    let rest = if rest.is_empty() { &echo[..] } else { rest };
    let commands: Vec<Vec<Field>> = match mark {
        // One run per item.
        Some(mark) if !mark.is_empty() && values.len() <= MAX_RUNS => {
            values.iter().map(|value| replace(rest, &mark, std::slice::from_ref(value))).collect()
        }
        Some(mark) if !mark.is_empty() => vec![replace(rest, &mark, &[Field::unknown()])],
        Some(_) | None => vec![rest.iter().chain(&values).cloned().collect()],
    };
    walker.apart(|w| {
        w.state.input = Input::None;
        w.state.functions.clear();
        for command in &commands {
            w.run(command);
        }
    });
}

/// What xargs makes of a text: items between blanks, or lines; quotes and backslashes are its own. `None` when a
/// quote stays open.
fn items(text: &str, lines: bool) -> Option<Vec<Field>> {
    let (mut out, mut item, mut begun) = (Vec::new(), String::new(), false);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' | '"' => {
                begun = true;
                loop {
                    match chars.next()? {
                        end if end == c => break,
                        inner => item.push(inner),
                    }
                }
            }
            '\\' => {
                begun = true;
                item.push(chars.next()?);
            }
            ' ' | '\t' if lines && begun => item.push(c),
            ' ' | '\t' | '\n' => {
                if std::mem::take(&mut begun) {
                    out.push(Field::known(std::mem::take(&mut item)));
                }
            }
            c => {
                begun = true;
                item.push(c);
            }
        }
    }
    if begun {
        out.push(Field::known(item));
    }
    Some(out)
}

/// Puts values where the mark stands: whole arguments become the values, parts of one become unknown.
pub(super) fn replace(command: &[Field], mark: &str, values: &[Field]) -> Vec<Field> {
    let mut out = Vec::new();
    for field in command {
        if field.text == mark {
            out.extend(values.iter().cloned());
        } else if field.text.contains(mark) {
            match values {
                [only] if only.literal().is_some() => {
                    out.push(Field { text: field.text.replace(mark, &only.text), many: false });
                }
                _ => out.push(Field { text: field.text.replace(mark, &UNKNOWN.to_string()), many: false }),
            }
        } else {
            out.push(field.clone());
        }
    }
    out
}

fn scan(walker: &mut Walker<'_>, arguments: &[Field]) {
    for (at, field) in arguments.iter().enumerate() {
        let base = base_name(&field.text);
        if JUDGED.contains(&base) || base.starts_with("mkfs") {
            let command = &arguments[at..];
            walker.apart(|w| w.run(command));
        } else if field.text.contains(' ') {
            shells::text(walker, field);
        } else if field.text.starts_with(UNKNOWN) {
            walker.dynamic();
        }
    }
    let args = Args::read(arguments, Options { short: "c", long: &["command"] });
    let texts: Vec<Field> = args.values("c", "command").cloned().collect();
    texts.iter().for_each(|t| shells::text(walker, t));
}
