//! Shell patterns: which names they match, and what a word with patterns stands for.
//!
//! Active characters of a pattern are private marks in a text, so that a quoted `*` stays a star.
//!
//! The invariant: matching never takes longer than the product of both lengths.

/// Stands for a value nobody knows before running.
pub const UNKNOWN: char = '\u{10ffff}';
/// An active `*`.
pub const STAR: char = '\u{10fffe}';
/// An active `?`.
pub const ANY: char = '\u{10fffd}';
/// An active `[`.
pub const SET: char = '\u{10fffc}';
/// Stands for the name of something that exists below what is in front of it.
pub const BELOW: char = '\u{10fffb}';

/// True when `c` is one of the marks; a command that contains one is not read.
pub fn is_mark(c: char) -> bool {
    (BELOW..=UNKNOWN).contains(&c)
}

/// True for the marks of a pattern.
pub fn is_active(c: char) -> bool {
    matches!(c, STAR | ANY | SET)
}

/// Turns the active characters of an unquoted text into marks.
pub fn activate(c: char) -> char {
    match c {
        '*' => STAR,
        '?' => ANY,
        '[' => SET,
        c => c,
    }
}

/// The text as it was written.
pub fn plain(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            STAR => '*',
            ANY => '?',
            SET => '[',
            UNKNOWN | BELOW => '…',
            c => c,
        })
        .collect()
}

/// Whether `pattern` (with marks) matches the whole of `name`.
pub fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut p, mut n) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while n < name.len() {
        match one(&pattern, p, name[n]) {
            Step::Star => {
                back = Some((p + 1, n));
                p += 1;
                continue;
            }
            Step::Matched(next) => {
                p = next;
                n += 1;
                continue;
            }
            Step::Not => {}
        }
        let Some((after, at)) = back else { return false };
        back = Some((after, at + 1));
        p = after;
        n = at + 1;
    }
    pattern[p..].iter().all(|c| matches!(*c, STAR | UNKNOWN | BELOW))
}

enum Step {
    Star,
    Matched(usize),
    Not,
}

fn one(pattern: &[char], at: usize, c: char) -> Step {
    match pattern.get(at) {
        None => Step::Not,
        // What nobody knows may be anything.
        Some(&(STAR | UNKNOWN | BELOW)) => Step::Star,
        Some(&ANY) => Step::Matched(at + 1),
        Some(&SET) => match set(&pattern[at + 1..], c) {
            Some((found, length)) if found => Step::Matched(at + 1 + length),
            Some(_) => Step::Not,
            // No closing bracket: a bracket.
            None if c == '[' => Step::Matched(at + 1),
            None => Step::Not,
        },
        Some(&literal) if literal == c => Step::Matched(at + 1),
        Some(_) => Step::Not,
    }
}

/// Whether a bracket expression holds `c`, and how long it is. Classes and ranges in odd places hold everything.
fn set(rest: &[char], c: char) -> Option<(bool, usize)> {
    let negated = matches!(rest.first(), Some('!' | '^'));
    let mut at = usize::from(negated);
    let from = at;
    let mut found = false;
    loop {
        let first = *rest.get(at)?;
        if first == ']' && at > from {
            break;
        }
        if (first == '[' || first == SET) && matches!(rest.get(at + 1), Some(':' | '.' | '=')) {
            let end = rest.iter().skip(at + 1).position(|c| *c == ']')?;
            at += end + 2;
            found = true;
            continue;
        }
        if rest.get(at + 1) == Some(&'-') && rest.get(at + 2).is_some_and(|c| *c != ']') {
            let last = rest[at + 2];
            // Which characters lie between depends on the language.
            found |= (first..=last).contains(&c) || !(first.is_ascii_digit() && last.is_ascii_digit());
            at += 3;
            continue;
        }
        found |= first == c || is_mark(first);
        at += 1;
    }
    // Negation of a guess is a guess.
    Some((if negated { true } else { found }, at + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn active(text: &str) -> String {
        text.chars().map(activate).collect()
    }

    #[test]
    fn patterns_match_at_least_what_bash_matches() {
        for (pattern, name) in [
            ("*", "a"),
            ("*.txt", "a.txt"),
            ("a*b*c", "aXbYbc"),
            ("?", "x"),
            ("[abc]x", "bx"),
            ("[a-c]x", "bx"),
            ("[!a]x", "bx"),
            ("[[:alpha:]]x", "bx"),
            ("a[", "a["),
            ("", ""),
            ("[]]", "]"),
        ] {
            assert!(matches(&active(pattern), name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("*.txt", "a.rs"), ("?", ""), ("[abc]", "d"), ("a", "ab"), ("[0-3]", "7"), ("a*c", "ab")]
        {
            assert!(!matches(&active(pattern), name), "{pattern} {name}");
        }
        assert!(!matches("*", "a"), "a quoted star is a star");
        assert!(matches("*", "*"));
    }

    #[test]
    fn a_hostile_pattern_ends_soon() {
        let pattern = format!("{}b", STAR.to_string().repeat(2000));
        assert!(!matches(&pattern, &"a".repeat(2000)));
    }
}
