//! The read-only list: commands that change nothing and may be run again after a crash.
//!
//! Strict on purpose: a wrong yes repeats a side effect, a wrong no only makes a call "in doubt".

use crate::words::Field;

/// Commands that change nothing, whatever their arguments, except those judged in [`harmless_arguments`].
const READ_ONLY: [&str; 24] = [
    "ls",
    "cat",
    "head",
    "tail",
    "wc",
    "file",
    "stat",
    "du",
    "df",
    "pwd",
    "echo",
    "printf",
    "date",
    "grep",
    "rg",
    "find",
    "sort",
    "uniq",
    "cut",
    "tr",
    "diff",
    "cmp",
    "sha256sum",
    "git",
];
/// git commands that change nothing.
const GIT_READ_ONLY: [&str; 4] = ["status", "log", "diff", "show"];

/// True when running the command twice is the same as running it once.
pub(super) fn is_harmless(name: &str, arguments: &[Field]) -> bool {
    READ_ONLY.contains(&name) && harmless_arguments(name, arguments)
}

fn harmless_arguments(name: &str, args: &[Field]) -> bool {
    let has = |flags: &[&str]| args.iter().any(|w| flags.iter().any(|f| w.text.starts_with(f)));
    // An unknown value may be an option.
    let dynamic = args.iter().any(Field::is_dynamic);
    match name {
        "find" => !dynamic && !has(&["-exec", "-ok", "-delete", "-fprint", "-fls"]),
        "git" => {
            let sub = args.first().and_then(Field::literal).unwrap_or("");
            !dynamic && GIT_READ_ONLY.contains(&sub) && !has(&["--ext-diff", "--textconv", "--output", "-O"])
        }
        "sort" => !dynamic && !has(&["-o", "--o", "--compress", "-T", "--files0"]) && !clusters(args, 'o'),
        "uniq" => !dynamic && args.iter().filter(|w| !w.text.starts_with('-')).count() <= 1,
        "date" => !dynamic && !has(&["--s"]) && !clusters(args, 's'),
        "file" => !dynamic && !has(&["--c"]) && !clusters(args, 'C'),
        "rg" => !dynamic && !has(&["--pre", "--hostname-bin"]),
        "tail" => !has(&["--f", "--retry"]) && !clusters(args, 'f') && !clusters(args, 'F'),
        "printf" => !has(&["-v"]),
        _ => true,
    }
}

fn clusters(args: &[Field], flag: char) -> bool {
    args.iter().any(|w| w.text.starts_with('-') && !w.text.starts_with("--") && w.text.contains(flag))
}
