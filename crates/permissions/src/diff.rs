//! What a write would change, short enough to be read.
//!
//! Bounded in what is compared and in what is shown; a comparison that takes too long is shown coarsely, never refused.
//!
//! The invariant: nothing is left out silently.

use similar::{ChangeTag, TextDiff};
use std::time::Duration;

/// Texts beyond this are not compared: it takes longer than a prompt may, and nobody reads the result.
pub const MAX_COMPARED_BYTES: usize = 1024 * 1024;
/// Lines shown.
pub const MAX_LINES: usize = 200;
/// Characters shown of one line.
pub const MAX_LINE_CHARS: usize = 300;
/// How long a comparison may look for the shortest difference.
const MAX_TIME: Duration = Duration::from_millis(100);
/// Unchanged lines around a change.
const CONTEXT: usize = 3;

/// A unified diff of a file that becomes `after`; `before` is `None` when there is none. Empty when nothing changes.
pub fn unified(before: Option<&str>, after: &str, name: &str) -> String {
    let old = before.unwrap_or("");
    if old.len() > MAX_COMPARED_BYTES || after.len() > MAX_COMPARED_BYTES {
        return format!("{name}: {} bytes become {} bytes (too large to compare)\n", old.len(), after.len());
    }
    if old == after {
        return String::new();
    }
    let diff = TextDiff::configure().timeout(MAX_TIME).diff_lines(old, after);
    let from = if before.is_some() { name } else { "/dev/null" };
    let mut lines = vec![format!("--- {from}"), format!("+++ {name}")];
    let mut left_out = 0usize;
    for hunk in diff.unified_diff().context_radius(CONTEXT).iter_hunks() {
        push(&mut lines, hunk.header().to_string(), &mut left_out);
        for change in hunk.iter_changes() {
            let sign = match change.tag() {
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
                ChangeTag::Equal => ' ',
            };
            let text = change.value().trim_end_matches(['\n', '\r']);
            let mut line = String::from(sign);
            line.extend(text.chars().take(MAX_LINE_CHARS));
            if text.chars().nth(MAX_LINE_CHARS).is_some() {
                line.push('…');
            }
            push(&mut lines, line, &mut left_out);
        }
    }
    if left_out > 0 {
        lines.push(format!("… {left_out} more lines"));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn push(lines: &mut Vec<String>, line: String, left_out: &mut usize) {
    if lines.len() < MAX_LINES {
        lines.push(line);
    } else {
        *left_out += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_shown_with_its_surroundings() {
        let diff = unified(Some("a\nb\nc\nd\ne\nf\ng\nh\n"), "a\nb\nc\nd\nE\nf\ng\nh\n", "x");
        assert_eq!(diff, "--- x\n+++ x\n@@ -2,7 +2,7 @@\n b\n c\n d\n-e\n+E\n f\n g\n h\n");
        assert_eq!(unified(None, "a\n", "x"), "--- /dev/null\n+++ x\n@@ -0,0 +1 @@\n+a\n");
        assert_eq!(unified(Some("a"), "a", "x"), "");
    }

    #[test]
    fn what_is_too_long_is_counted() {
        let long = "line\n".repeat(5000);
        let diff = unified(None, &long, "x");
        assert_eq!(diff.lines().count(), MAX_LINES + 1);
        assert!(diff.ends_with("… 4803 more lines\n"), "{}", &diff[diff.len() - 60..]);
        let wide = unified(None, &"w".repeat(1000), "x");
        assert!(wide.ends_with("…\n") && wide.len() < 400);
        let huge = "x".repeat(MAX_COMPARED_BYTES + 1);
        assert!(unified(Some("a"), &huge, "x").contains("too large to compare"));
    }
}
