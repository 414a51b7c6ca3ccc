//! Words that make an unreadable text worth a question.
//!
//! Looked for only where nothing better is known: a word is a sign, not a fact.

/// Words of commands and of programming languages that remove or overwrite.
const DESTRUCTIVE: [&str; 22] = [
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
    "rmdirSync",
    "remove_dir_all",
    "rm_rf",
    "rm_r",
    "blkdiscard",
];
/// Words and signs of writing, for texts of which nothing was understood.
const WRITING: [&str; 21] = [
    "mv", "cp", "tee", "ln", "install", "rsync", "sed", "tar", "unzip", "curl", "wget", "touch", "mkdir",
    "git", "patch", "sh", "bash", "xargs", "find", "python3", "eval",
];

fn words(text: &str) -> Vec<String> {
    let bare: String = text.chars().filter(|c| !matches!(c, '\'' | '"' | '\\')).collect();
    bare.split(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '-' | '+'))
        .map(str::to_owned)
        .collect()
}

/// True when a bare word of the text destroys.
pub fn has_destructive_word(text: &str) -> bool {
    let words = words(text);
    let has = |w: &str| words.iter().any(|x| x == w);
    words.iter().any(|w| DESTRUCTIVE.contains(&w.as_str()) || w.starts_with("mkfs"))
        || (has("git")
            && ((has("push") && (has("-f") || text.contains("--force"))) || has("--hard") || has("clean")))
}

/// True when the text could write something somewhere.
pub fn has_writing_sign(text: &str) -> bool {
    text.contains('>') || text.contains("$'") || words(text).iter().any(|w| WRITING.contains(&w.as_str()))
}
