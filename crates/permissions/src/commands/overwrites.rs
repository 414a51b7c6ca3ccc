//! Files that a program in another language empties, where its text says so plainly.
//!
//! Not a parser: it knows the usual ways of writing a whole file, and misses the others. What it finds is a name the
//! text says, never a guess.

use crate::pattern::UNKNOWN;
use crate::words::Field;
use std::ops::Range;

/// What stands in front of the name of a file that is written anew.
const BEFORE: [&str; 8] = [
    "writeFileSync(",
    "writeFile(",
    "createWriteStream(",
    "truncateSync(",
    "truncate(",
    "File.write(",
    "IO.write(",
    "file_put_contents(",
];
/// What stands behind it.
const BEHIND: [&str; 4] = [").write_text(", ").write_bytes(", ").open('w", ").open(\"w"];
/// The second argument of an `open` that empties.
const MODES: [&str; 6] = [",'w", ",\"w", ",mode='w", ",mode=\"w", ",'>", ",\">"];

/// Names among the quoted texts of a program that it empties.
pub(super) fn emptied(code: &str, literals: &[(String, Range<usize>)]) -> Vec<String> {
    let mut out = Vec::new();
    for (text, place) in literals {
        let (Some(before), Some(behind)) = (code.get(..place.start), code.get(place.end..)) else { continue };
        let before = before.trim_end();
        let behind: String = behind.chars().filter(|c| *c != ' ').take(16).collect();
        let mode = MODES.iter().any(|mode| behind.starts_with(mode)) && !behind[2..].starts_with(">>");
        let three = before.ends_with("\">\",") || before.ends_with("'>',");
        let written = BEFORE.iter().any(|sign| before.ends_with(sign))
            || BEHIND.iter().any(|sign| behind.starts_with(sign));
        if mode || three || written {
            out.push(text.clone());
        } else if let Some(name) = text.strip_prefix('>').filter(|name| !name.starts_with(['>', '=', '&'])) {
            // Perl's two-argument open.
            out.push(name.trim().to_owned());
        }
    }
    out.retain(|name| !name.is_empty() && !name.contains('\n'));
    out
}

/// Where `print > …` of an awk program leads; what is computed is unknown.
pub(super) fn of_awk(code: &str) -> Vec<Field> {
    let mut out = Vec::new();
    let mut rest = code;
    while let Some(at) = rest.find("print") {
        let statement = &rest[at + "print".len()..];
        let end = end_of_statement(statement);
        if let Some(target) = redirection(&statement[..end]) {
            out.push(field_of(target.trim()));
        }
        rest = &statement[end..];
    }
    out
}

/// Up to `;`, `}` or the end of the line, outside of texts.
fn end_of_statement(text: &str) -> usize {
    walk(text, |c, depth| depth == 0 && matches!(c, ';' | '}' | '\n')).unwrap_or(text.len())
}

/// What stands behind a `>` that is not a comparison in parentheses and does not append.
fn redirection(statement: &str) -> Option<&str> {
    let at = walk(statement, |c, depth| depth == 0 && c == '>')?;
    let target = &statement[at + 1..];
    (!target.starts_with(['>', '='])).then_some(target)
}

/// The first character outside of quoted texts that `found` is true for.
fn walk(text: &str, found: impl Fn(char, usize) -> bool) -> Option<usize> {
    let (mut quoted, mut escaped, mut depth) = (false, false, 0usize);
    for (at, c) in text.char_indices() {
        if quoted {
            quoted = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        match c {
            '"' => quoted = true,
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            c if found(c, depth) => return Some(at),
            _ => {}
        }
    }
    None
}

/// The name an expression gives: a text, or something unknown that may end in one.
fn field_of(expression: &str) -> Field {
    let expression = expression.trim_matches(['(', ')', ' ']);
    let Some(inner) = expression.strip_suffix('"') else { return Field::unknown() };
    match inner.rsplit_once('"') {
        Some(("", text)) => Field::known(text),
        Some((_, text)) => Field { text: format!("{UNKNOWN}{text}"), many: false },
        None => Field::unknown(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn awk_writes_where_print_is_redirected_and_nowhere_else() {
        for quiet in ["$3 > 100 {print $1}", "{print ($1 > 2)}", "{print >> \"log\"}", "{print \"a > b\"}"] {
            assert_eq!(of_awk(quiet), [], "{quiet}");
        }
        let unknown = |text: &str| Field { text: format!("{UNKNOWN}{text}"), many: false };
        for (code, field) in [
            ("{print > \"big\"}", Field::known("big")),
            ("BEGIN{printf \"%s;\", $1 > \"big\"; x = 1 > 0}", Field::known("big")),
            ("{print $2 > $1\".txt\"}", unknown(".txt")),
            ("{print > $1}", Field::unknown()),
            ("{print > (\"out/\" $1)}", Field::unknown()),
        ] {
            assert_eq!(of_awk(code), [field], "{code}");
        }
    }
}
