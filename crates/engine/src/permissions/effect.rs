//! Is a shell command read-only? Then it may be run again after a crash.
//!
//! Strict on purpose: a wrong yes repeats a side effect, a wrong no only makes a call "in doubt".

use ::permissions::{Setting, Tree, analyse};

/// True when every command of the text is on the read-only list, with arguments that keep it so. Depends on the words
/// alone, never on files.
pub fn is_read_only(command: &str) -> bool {
    let nothing = Tree::new();
    let setting = Setting { ground: &nothing, directory: "/".into(), variables: Vec::new() };
    analyse(command, &setting).read_only
}

#[cfg(test)]
mod tests {
    use super::is_read_only;

    #[test]
    fn only_listed_commands_with_harmless_arguments_may_be_run_again() {
        for yes in ["ls -la", "cat a | grep b", "git status; git log", "find . -name '*.rs' 2>/dev/null"] {
            assert!(is_read_only(yes), "{yes}");
        }
        for no in [
            "",
            "ls > out",
            "rm a",
            "X=1 ls",
            "$CMD a",
            "tail -f log",
            "cat <<EOF\n$(rm a)\nEOF",
            "echo 'unclosed",
        ] {
            assert!(!is_read_only(no), "{no}");
        }
    }
}
