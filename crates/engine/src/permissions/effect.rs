//! Is a shell command read-only? Then it may be run again after a crash.
//!
//! Strict on purpose: a wrong yes repeats a side effect, a wrong no only makes a call "in doubt".

use super::shell::{self, Redirect, Simple, Word};

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

/// True when every command of the text is on the read-only list, with arguments that keep it so.
pub fn is_read_only(command: &str) -> bool {
    let script = shell::parse(command, &[]);
    !script.opaque && !script.commands.is_empty() && script.commands.iter().all(is_harmless)
}

fn is_harmless(command: &Simple) -> bool {
    let writes = command
        .redirects
        .iter()
        .any(|(kind, target)| *kind != Redirect::Read && target.literal() != Some("/dev/null"));
    // An assignment can change what a command does (GIT_PAGER, LD_PRELOAD).
    if writes || command.assigns {
        return false;
    }
    let Some((name, args)) = command.words.split_first() else { return true };
    let Some(name) = name.literal() else { return false };
    READ_ONLY.contains(&name) && harmless_arguments(name, args)
}

fn harmless_arguments(name: &str, args: &[Word]) -> bool {
    let has = |flags: &[&str]| args.iter().any(|w| flags.iter().any(|f| w.text.starts_with(f)));
    // An unknown value may be an option.
    let dynamic = args.iter().any(Word::is_dynamic);
    match name {
        "find" => !dynamic && !has(&["-exec", "-ok", "-delete", "-fprint", "-fls"]),
        "git" => {
            let sub = args.first().and_then(Word::literal).unwrap_or("");
            !dynamic && GIT_READ_ONLY.contains(&sub) && !has(&["--ext-diff", "--textconv", "--output", "-O"])
        }
        "sort" => !dynamic && !has(&["-o", "--o", "--compress", "-T", "--files0"]) && !clusters(args, 'o'),
        "uniq" => !dynamic && args.iter().filter(|w| !w.text.starts_with('-')).count() <= 1,
        "date" => !dynamic && !has(&["--s"]) && !clusters(args, 's'),
        "file" => !dynamic && !has(&["--c"]) && !clusters(args, 'C'),
        "rg" => !dynamic && !has(&["--pre", "--hostname-bin"]),
        "tail" => !has(&["--f", "--retry"]) && !clusters(args, 'f') && !clusters(args, 'F'),
        _ => true,
    }
}

fn clusters(args: &[Word], flag: char) -> bool {
    args.iter().any(|w| w.text.starts_with('-') && !w.text.starts_with("--") && w.text.contains(flag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_commands_with_harmless_arguments_are_read_only() {
        for yes in [
            "ls -la",
            "cat a | grep b | sort -u | uniq -c",
            "git status && git log --oneline -5; git diff HEAD~1",
            "find . -name '*.rs' -type f 2>/dev/null",
            "echo \"$(wc -l < a)\" $HOME",
            "for f in *.rs; do head -n 3 \"$f\"; done",
            "du -sh . ; df -h ; date +%s",
        ] {
            assert!(is_read_only(yes), "{yes}");
        }
        for no in [
            "",
            "ls > out",
            "cat a >> b",
            "rm a",
            "find . -delete",
            "find . -exec rm {} ;",
            "sort -o a a",
            "sort -uo a a",
            "uniq a b",
            "date -s tomorrow",
            "git push",
            "git -c core.pager=evil log",
            "git diff --output=x",
            "GIT_PAGER=x git log",
            "echo $(rm a)",
            "$CMD a",
            "find $X",
            "ls; python3 x.py",
            "tail -f log",
            "./ls",
            "echo 'unclosed",
            "rg --pre evil x",
            "cat <<EOF\n$(rm a)\nEOF",
        ] {
            assert!(!is_read_only(no), "{no}");
        }
    }
}
