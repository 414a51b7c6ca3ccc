//! git: where it works, what it discards, what it runs.

use super::{copies, shells, takes_next, touch_all};
use crate::analysis::{Destruction, How, Reach};
use crate::args::{Args, FLAGS, Options};
use crate::pattern::{BELOW, UNKNOWN, activate};
use crate::walk::Walker;
use crate::words::Field;
use std::path::PathBuf;

const GLOBAL: Options = Options {
    short: "Cc",
    long: &["git-dir", "work-tree", "namespace", "exec-path", "config-env", "super-prefix", "attr-source"],
};
const CLEAN: Options = Options { short: "e", long: &["exclude"] };
const CLONE: Options = Options {
    short: "bocjuR",
    long: &[
        "branch",
        "origin",
        "config",
        "jobs",
        "upload-pack",
        "depth",
        "reference",
        "separate-git-dir",
        "template",
        "filter",
        "shallow-since",
        "shallow-exclude",
        "server-option",
        "bundle-uri",
        "initial-branch",
        "object-format",
    ],
};
/// Subcommands that only look.
const LOOKING: [&str; 22] = [
    "status",
    "log",
    "diff",
    "show",
    "blame",
    "grep",
    "ls-files",
    "ls-tree",
    "ls-remote",
    "rev-parse",
    "rev-list",
    "cat-file",
    "describe",
    "shortlog",
    "reflog",
    "help",
    "version",
    "name-rev",
    "for-each-ref",
    "merge-base",
    "check-ignore",
    "var",
];

pub(super) fn run(walker: &mut Walker<'_>, arguments: &[Field]) {
    let mut at = 0;
    let mut elsewhere: Vec<Field> = Vec::new();
    let mut trees: Vec<Field> = Vec::new();
    while let Some(field) = arguments.get(at).filter(|f| f.text.starts_with('-')) {
        let step = 1 + usize::from(takes_next(&field.text, GLOBAL));
        let args = Args::read(&arguments[at..(at + step).min(arguments.len())], GLOBAL);
        elsewhere.extend(args.values("C", "").cloned());
        trees.extend(args.values("", "git-dir").chain(args.values("", "work-tree")).cloned());
        let settings: Vec<Field> = args.values("c", "config-env").cloned().collect();
        for setting in settings {
            configured(walker, &setting);
        }
        at += step;
    }
    let rest = arguments.get(at..).unwrap_or_default();
    let Some((sub, rest)) = rest.split_first() else { return };
    walker.apart(|w| {
        for directory in &elsewhere {
            super::builtins::enter(w, std::slice::from_ref(directory));
        }
        super::mention(w, rest);
        let Some(sub) = sub.literal().map(str::to_owned) else { return w.dynamic() };
        if !LOOKING.contains(&sub.as_str()) {
            touch_all(w, &trees, How::Write);
            // What lies in the directory it works in is written.
            if !elsewhere.is_empty() {
                w.touch(&Field::known("."), How::Write);
            }
        }
        let vague_tree = !trees.is_empty();
        subcommand(w, &sub, rest, vague_tree);
    });
}

/// Changes that nobody has committed are lost.
fn hard(walker: &mut Walker<'_>) {
    walker.found.destructive.insert(Destruction::HardReset(walker.state.directories.clone()));
}

/// What is committed takes the place of these files, or of everything below.
fn discard(walker: &mut Walker<'_>, path: &Field) {
    let everything = || Field { text: BELOW.into(), many: true };
    match path.literal() {
        // A pattern of git's own, or a place from the top of the repository.
        Some(text) if text.starts_with(':') => walker.touch(&everything(), How::Truncate),
        Some(text) if text.contains(['*', '?', '[']) => {
            let pattern: String = text.chars().map(activate).collect();
            walker.touch(&Field { text: format!("{BELOW}/{pattern}"), many: true }, How::Truncate);
        }
        Some(_) | None => {
            let places = walker.places(path, true);
            if places.iter().any(|p| walker.world.is_directory(&p.path)) {
                walker.touch(&super::below(path, &BELOW.to_string()), How::Truncate);
            } else {
                walker.touch(path, How::Truncate);
            }
        }
    }
}

/// `-c name=value`: some settings are commands.
fn configured(walker: &mut Walker<'_>, setting: &Field) {
    let Some((name, value)) = setting.text.split_once('=') else { return };
    let name = name.to_ascii_lowercase();
    if let Some(command) = value.strip_prefix('!') {
        shells::text(walker, &Field::known(command));
    } else if name.starts_with("alias.") {
        let words: Vec<Field> = value.split_whitespace().map(Field::known).collect();
        walker.apart(|w| run(w, &words));
    } else if [
        "command",
        "editor",
        "pager",
        "textconv",
        "helper",
        "hookspath",
        "sshcommand",
        "fsmonitor",
        "cmd",
    ]
    .iter()
    .any(|w| name.contains(w))
    {
        shells::text(walker, &Field::known(value));
    }
    if setting.text.contains(UNKNOWN) {
        walker.dynamic();
    }
}

fn subcommand(walker: &mut Walker<'_>, sub: &str, rest: &[Field], vague_tree: bool) {
    let plain = Args::read(rest, FLAGS);
    match sub {
        "push" => {
            let forced = plain.has("f", "force")
                || rest.iter().any(|f| {
                    f.text.starts_with("--force") || f.text.starts_with('+') || f.text.contains(UNKNOWN)
                })
                || plain.has("", "mirror");
            if forced {
                walker.found.destructive.insert(Destruction::ForcedPush(walker.state.directories.clone()));
            }
        }
        "reset" if plain.has("", "hard") || plain.vague => {
            hard(walker);
        }
        "reset" if plain.has("", "merge") => hard(walker),
        "checkout" => {
            let options = Options { short: "bB", long: &["orphan", "conflict", "pathspec-from-file"] };
            let args = Args::read(rest, options);
            if args.has("f", "force") {
                hard(walker);
            }
            let paths = match rest.iter().position(|f| f.text == "--") {
                Some(at) => rest[at + 1..].to_vec(),
                None => args.operands,
            };
            paths.iter().for_each(|path| discard(walker, path));
        }
        "restore" => {
            let args = Args::read(rest, Options { short: "s", long: &["source", "pathspec-from-file"] });
            if !args.has("S", "staged") || args.has("W", "worktree") {
                args.operands.iter().for_each(|path| discard(walker, path));
            }
        }
        "switch" if plain.has("f", "force") || plain.has("", "discard-changes") => hard(walker),
        "checkout-index" if plain.has("f", "force") => hard(walker),
        "read-tree" if plain.has("", "reset") => hard(walker),
        "clean" => {
            let args = Args::read(rest, CLEAN);
            let dry = args.has("n", "dry-run");
            if (args.has("f", "force") || args.vague) && !dry {
                let known = !walker.state.lost && !vague_tree;
                let places: Vec<PathBuf> = if known { walker.state.directories.clone() } else { Vec::new() };
                walker.found.destructive.insert(Destruction::Clean(places));
            }
        }
        "clone" => {
            let args = Args::read(rest, CLONE);
            match args.operands.as_slice() {
                [source] => {
                    let name = super::base_name(source.text.trim_end_matches('/'))
                        .trim_end_matches(".git")
                        .to_owned();
                    walker.touch(&Field::known(name), How::Write);
                }
                [_, target, ..] => walker.touch(target, How::Write),
                [] => {}
            }
            let other: Vec<Field> = args.values("", "separate-git-dir").cloned().collect();
            touch_all(walker, &other, How::Write);
            let programs: Vec<Field> = args.values("u", "upload-pack").cloned().collect();
            programs.iter().for_each(|p| shells::text(walker, p));
        }
        "init" => {
            let args = Args::read(rest, CLONE);
            touch_all(walker, &args.operands, How::Write);
        }
        "rm" => touch_all(walker, &plain.operands, How::Delete { recursive: false, force: false }),
        "mv" => {
            copies::run(walker, "mv", rest);
        }
        "worktree" => {
            if let Some(path) = plain.operands.get(1) {
                walker.touch(path, How::Write);
            }
        }
        "archive" | "format-patch" | "diff" | "log" | "show" | "bundle" => {
            let args = Args::read(
                rest,
                Options { short: "o", long: &["output", "output-directory", "remote", "exec"] },
            );
            let outputs: Vec<Field> = args.values("o", "output").cloned().collect();
            touch_all(walker, &outputs, How::Truncate);
            if sub == "bundle" {
                touch_all(walker, args.operands.get(1), How::Write);
            }
        }
        "config" => {
            let args = Args::read(rest, Options { short: "f", long: &["file", "type", "default"] });
            let files: Vec<Field> = args.values("f", "file").cloned().collect();
            touch_all(walker, &files, How::Write);
            if let Some(value) = args.operands.get(1) {
                let setting = Field::known(format!("{}={}", args.operands[0].text, value.text));
                configured(walker, &setting);
            }
        }
        "submodule" => {
            if let Some(at) = rest.iter().position(|f| f.text == "foreach") {
                shells::joined_text(walker, &rest[at + 1..]);
            }
        }
        "bisect" => {
            if let Some(at) = rest.iter().position(|f| f.text == "run") {
                let command = rest[at + 1..].to_vec();
                walker.apart(|w| w.run(&command));
            }
        }
        "rebase" | "difftool" | "filter-branch" => {
            let args = Args::read(
                rest,
                Options {
                    short: "x",
                    long: &[
                        "exec",
                        "extcmd",
                        "tree-filter",
                        "index-filter",
                        "msg-filter",
                        "env-filter",
                        "commit-filter",
                        "parent-filter",
                        "tag-name-filter",
                    ],
                },
            );
            let mut texts: Vec<Field> =
                args.values("x", "exec").chain(args.values("", "extcmd")).cloned().collect();
            for filter in [
                "tree-filter",
                "index-filter",
                "msg-filter",
                "env-filter",
                "commit-filter",
                "parent-filter",
                "tag-name-filter",
            ] {
                texts.extend(args.values("", filter).cloned());
            }
            texts.iter().for_each(|t| shells::text(walker, t));
        }
        "grep" => {
            let pagers = Args::read(rest, FLAGS).has("O", "open-files-in-pager");
            if pagers {
                walker.dynamic();
            }
        }
        _ => {}
    }
    let unknown = walker.state.directories.first().cloned().filter(|_| walker.state.lost && sub != "clean");
    if let Some(directory) = unknown.filter(|_| !LOOKING.contains(&sub)) {
        walker.touch_path(&directory, Reach::Unknown, How::Write, false);
    }
}
