//! The words the shell rules know: which commands they judge, and how options and operands are told apart.

use super::shell::Word;

/// Shells whose `-c` text is followed.
pub(super) const SHELLS: [&str; 6] = ["sh", "bash", "dash", "zsh", "ksh", "ash"];
/// Programs that run another command given as their arguments.
pub(super) const WRAPPERS: [&str; 26] = [
    "sudo", "doas", "env", "nice", "ionice", "nohup", "setsid", "time", "timeout", "stdbuf", "command",
    "builtin", "exec", "xargs", "find", "fd", "busybox", "toybox", "flock", "chrt", "taskset", "strace",
    "unshare", "chroot", "rtk", "setpriv",
];
/// Programs that run text which is not read here.
pub(super) const OPAQUE: [&str; 22] = [
    "python", "python2", "python3", "perl", "ruby", "node", "nodejs", "deno", "php", "lua", "awk", "gawk",
    "mawk", "watch", "parallel", "script", "su", "ssh", "alias", "tclsh", "expect", "make",
];
/// Commands with rules of their own; found behind wrappers as well.
pub(super) const JUDGED: [&str; 42] = [
    "rm", "rmdir", "unlink", "shred", "dd", "truncate", "chmod", "chown", "chgrp", "git", "cp", "mv", "tee",
    "mkdir", "touch", "ln", "install", "rsync", "sed", "tar", "unzip", "sort", "curl", "wget", "find",
    "eval", "trap", "cd", "pushd", "wipefs", "mkfifo", "mknod", "sh", "bash", "dash", "zsh", "ksh", "ash",
    "fd", "xargs", "python3", "perl",
];
/// Words that make an unreadable command worth a question.
pub(super) const DESTRUCTIVE_WORDS: [&str; 17] = [
    "rm",
    "rmdir",
    "unlink",
    "shred",
    "dd",
    "truncate",
    "wipefs",
    "rmtree",
    "remove",
    "removedirs",
    "unlinkSync",
    "rmSync",
    "chmod",
    "chown",
    "delete",
    "mkfs",
    "fdisk",
];
/// Devices that swallow or give harmless bytes.
pub(super) const DEVICES: [&str; 7] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/stdout", "/dev/stderr", "/dev/stdin", "/dev/tty"];

/// The arguments of one command, with the usual conventions for options.
pub(super) struct Args<'a> {
    /// In order.
    pub args: &'a [Word],
    /// More arguments come from a pipe.
    pub piped_args: bool,
}

impl<'a> Args<'a> {
    /// Arguments that are not options, and everything after `--`.
    pub fn operands(&self) -> impl Iterator<Item = &'a Word> + use<'a> {
        let mut only_operands = false;
        self.args.iter().filter(move |w| {
            if w.text == "--" && !only_operands {
                only_operands = true;
                return false;
            }
            only_operands || !w.text.starts_with('-') || w.text == "-"
        })
    }

    /// `-x` alone or in a cluster, or `--long` (also with `=`).
    pub fn has_flag(&self, short: char, long: &str) -> bool {
        self.args.iter().take_while(|w| w.text != "--").any(|w| match w.text.strip_prefix("--") {
            Some(name) => !long.is_empty() && name.split('=').next().is_some_and(|n| abbreviates(n, long)),
            None => w.text.strip_prefix('-').is_some_and(|cluster| cluster.contains(short)),
        })
    }

    /// The value of `-x value`, `-xvalue`, `--long value` or `--long=value`.
    pub fn value(&self, short: char, long: &str) -> Option<Word> {
        let short = format!("-{short}");
        for (at, word) in self.args.iter().enumerate() {
            let named = word.text.strip_prefix("--").filter(|_| !long.is_empty());
            if let Some((name, value)) = named.and_then(|n| n.split_once('='))
                && abbreviates(name, long)
            {
                return Some(Word { text: value.into(), glob_at: None, ..word.clone() });
            }
            if word.text == short || named.is_some_and(|n| abbreviates(n, long)) {
                return self.args.get(at + 1).cloned();
            }
            if let Some(value) = word.text.strip_prefix(&short) {
                return Some(Word { text: value.into(), glob_at: None, ..word.clone() });
            }
        }
        None
    }
}

/// GNU programs accept unambiguous beginnings of long options; three letters are enough to be careful.
fn abbreviates(given: &str, long: &str) -> bool {
    given == long || (given.len() >= 3 && long.starts_with(given))
}

pub(super) fn base_name(text: &str) -> &str {
    text.rsplit('/').next().unwrap_or(text)
}

pub(super) fn is_opaque(name: &str) -> bool {
    OPAQUE.contains(&name)
        || (name.starts_with("python") && name[6..].starts_with(|c: char| c.is_ascii_digit()))
}

pub(super) fn joined(words: &[Word]) -> String {
    words.iter().map(|w| w.text.as_str()).collect::<Vec<_>>().join(" ")
}

pub(super) fn is_destructive_word(word: &str) -> bool {
    DESTRUCTIVE_WORDS.contains(&word) || word.starts_with("mkfs")
}

/// Looks at the bare words of a text that could not be analysed.
pub(super) fn has_destructive_word(text: &str) -> bool {
    let bare: String = text.chars().filter(|c| !matches!(c, '\'' | '"' | '\\')).collect();
    let words: Vec<&str> =
        bare.split(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '-' | '+')).collect();
    let has = |w: &str| words.contains(&w);
    words.iter().any(|w| is_destructive_word(w))
        || (has("git")
            && ((has("push") && (has("-f") || bare.contains("--force"))) || has("--hard") || has("clean")))
}
