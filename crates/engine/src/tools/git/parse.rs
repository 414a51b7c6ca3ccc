//! What git wrote, as the tools' outputs. Pure; a record that is not understood is left out.
//!
//! The invariant: no output grows with the repository.

use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Files of one status. More rarely helps a model, which should look at a part of the repository instead.
const FILES_MAX: usize = 1000;
/// Characters of an author's name or of a subject. Longer ones only fill the context.
const TEXT_CHARS: usize = 300;

/// `git status --porcelain=v2 --branch -z`.
pub(super) fn status(said: &str) -> Value {
    let (mut branch, mut ahead, mut behind) = (Value::Null, Value::Null, Value::Null);
    let (mut files, mut truncated) = (Vec::new(), false);
    let mut records = said.split_terminator('\0');
    while let Some(record) = records.next() {
        if let Some(head) = record.strip_prefix("# branch.head ") {
            branch = Some(head).filter(|head| *head != "(detached)").into();
        } else if let Some(counts) = record.strip_prefix("# branch.ab ") {
            let mut counts = counts.split(' ').map(|n| n.get(1..).and_then(|n| n.parse::<u64>().ok()));
            ahead = counts.next().flatten().into();
            behind = counts.next().flatten().into();
        } else if let Some(file) = file(record) {
            if record.starts_with("2 ") {
                // the name it had
                records.next();
            }
            truncated |= files.len() == FILES_MAX;
            if !truncated {
                files.push(file);
            }
        }
    }
    json!({"branch": branch, "ahead": ahead, "behind": behind, "files": files, "truncated": truncated})
}

fn file(record: &str) -> Option<Value> {
    let (kind, rest) = record.split_once(' ')?;
    // fields between the state and the path
    let between = match kind {
        "?" => return Some(json!({"path": rest, "state": "untracked", "staged": false})),
        "1" => 6,
        "2" => 7,
        "u" => 8,
        _ => return None,
    };
    let (letters, rest) = rest.split_once(' ')?;
    let path = rest.splitn(between + 1, ' ').nth(between)?;
    let (staged, unstaged) = (letters.chars().next()?, letters.chars().nth(1)?);
    let state = match (kind, staged, unstaged) {
        ("u", ..) => "conflicted",
        (_, 'R', _) | (_, _, 'R') => "renamed",
        (_, 'C', _) | (_, _, 'C') => "copied",
        (_, _, 'D') | (_, 'D', _) => "deleted",
        (_, 'A', _) | (_, _, 'A') => "added",
        (_, 'T', _) | (_, _, 'T') => "type_changed",
        _ => "modified",
    };
    Some(json!({"path": path, "state": state, "staged": kind != "u" && staged != '.'}))
}

/// `git log -z` with four fields for each commit.
pub(super) fn log(said: &str) -> Value {
    let fields: Vec<&str> = said.split_terminator('\0').collect();
    let short = |text: &str| match text.char_indices().nth(TEXT_CHARS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    };
    let commits = fields.chunks_exact(4);
    let commits =
        commits.map(|f| json!({"hash": f[0], "author": short(f[1]), "date": f[2], "subject": short(f[3])}));
    json!({"commits": commits.collect::<Vec<_>>()})
}

/// The filters that `git config --list --name-only -z` names, as `filter.<name>`.
pub(super) fn filters(said: &str) -> BTreeSet<String> {
    let names = said.split_terminator('\0').filter(|name| name.starts_with("filter."));
    names.filter_map(|name| name.rsplit_once('.')).map(|(filter, _)| filter.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_record_is_told_by_its_state() {
        let hashes = "N... 100644 100644 100644 aaaa bbbb";
        let said = [
            "# branch.oid aaaa".to_owned(),
            "# branch.head main".to_owned(),
            "# branch.upstream origin/main".to_owned(),
            "# branch.ab +2 -1".to_owned(),
            format!("1 .M {hashes} a file with spaces"),
            format!("1 A. {hashes} new"),
            format!("1 .D {hashes} gone"),
            format!("2 R. {hashes} R100 now"),
            "1 .M it was called like a record".to_owned(),
            "u UU N... 100644 100644 100644 100644 a b c both".to_owned(),
            "? stray".to_owned(),
        ];
        let status = status(&(said.join("\0") + "\0"));
        assert_eq!(
            (&status["branch"], &status["ahead"], &status["behind"]),
            (&"main".into(), &2.into(), &1.into())
        );
        let file =
            |path: &str, state: &str, staged: bool| json!({"path": path, "state": state, "staged": staged});
        assert_eq!(
            status["files"],
            json!([
                file("a file with spaces", "modified", false),
                file("new", "added", true),
                file("gone", "deleted", false),
                file("now", "renamed", true),
                file("both", "conflicted", false),
                file("stray", "untracked", false),
            ])
        );
        assert_eq!(super::status("# branch.head (detached)\0")["branch"], Value::Null);
    }

    #[test]
    fn a_long_list_is_cut_and_says_so() {
        let said: String = (0..=FILES_MAX).map(|n| format!("? f{n}\0")).collect();
        let status = status(&said);
        assert_eq!(status["files"].as_array().map(Vec::len), Some(FILES_MAX));
        assert_eq!(status["truncated"], true);
        let subject = "s".repeat(TEXT_CHARS + 1);
        let log = log(&format!("h\0a\0d\0{subject}\0half\0"));
        assert_eq!(log["commits"].as_array().map(Vec::len), Some(1));
        assert_eq!(log["commits"][0]["subject"].as_str().map(|s| s.chars().count()), Some(TEXT_CHARS + 1));
    }

    #[test]
    fn filters_are_found_whatever_they_are_called() {
        let said = "core.bare\0filter.a.clean\0filter.a=b.c.process\0filter.a.required\0filterx.y.clean\0";
        let found: Vec<String> = filters(said).into_iter().collect();
        assert_eq!(found, ["filter.a", "filter.a=b.c"]);
    }
}
