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
