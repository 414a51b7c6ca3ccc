//! How a command line of ours looks and speaks: colour only where a person watches, and nothing a stream could
//! hijack.
//!
//! Everything printed that came from a model, a tool, a caller or another host goes through [`clean`]: an escape
//! sequence in a name must not move the cursor or rename the window. Without a terminal, or with NO_COLOR set, the
//! same words come out without colour. Not here: what a command does, and its exit codes.

use crate::config::{Problems, Source};
use crate::telemetry::{IdFields, LogLevel, last_words};
use std::io::{IsTerminal, Write as _};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Columns assumed when there is no terminal to ask. Larger would make log viewers wrap lines,
/// smaller would cut tables that fit.
const DEFAULT_COLUMNS: usize = 100;

/// Narrowest width that is honoured. Smaller leaves no room for a name beside its facts.
const MIN_COLUMNS: usize = 30;

/// Where and how to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paint {
    /// Escape sequences for colour are welcome.
    pub colour: bool,
    /// Columns of one line.
    pub columns: usize,
}

impl Paint {
    /// For standard output as it is now.
    pub fn stdout(source: &dyn Source) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let refused = source.get("NO_COLOR").is_some_and(|v| !v.is_empty())
            || source.get("TERM").is_some_and(|v| v == "dumb");
        Self { colour: terminal && !refused, columns: columns().unwrap_or(DEFAULT_COLUMNS) }
    }

    /// No colour, for tests and pipes.
    pub const fn plain() -> Self {
        Self { colour: false, columns: DEFAULT_COLUMNS }
    }

    fn wrap(&self, code: &str, text: &str) -> String {
        if self.colour && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Beside the point.
    pub fn dim(&self, text: &str) -> String {
        self.wrap("2", text)
    }

    /// The point.
    pub fn bold(&self, text: &str) -> String {
        self.wrap("1", text)
    }

    /// Went well.
    pub fn green(&self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// Failed.
    pub fn red(&self, text: &str) -> String {
        self.wrap("31", text)
    }

    /// Look here.
    pub fn yellow(&self, text: &str) -> String {
        self.wrap("33", text)
    }

    /// Names of things.
    pub fn cyan(&self, text: &str) -> String {
        self.wrap("36", text)
    }
}

fn columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0).then(|| usize::from(size.ws_col).max(MIN_COLUMNS))
}

/// The text without control characters other than line feed and tab, and without the characters that
/// reorder what a person reads.
pub fn clean(text: &str) -> String {
    text.chars().filter(|&c| c == '\n' || c == '\t' || !(c.is_control() || reorders(c))).collect()
}

fn reorders(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A name in which everything can be seen: whatever leaves no mark of its own (control and format characters, joiners,
/// byte order marks, fillers, blanks other than the space) is written as `\u{…}`, so that two names that differ never
/// look the same for its sake. Backslashes stay as they are.
pub fn visible(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        if is_seen(c) {
            out.push(c);
        } else {
            out.extend(c.escape_unicode());
        }
    }
    out
}

fn is_seen(c: char) -> bool {
    // Letters without a mark, and what joins or varies the letter before it unseen; no format characters by category.
    let blank =
        matches!(c, '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{3164}' | '\u{ffa0}')
            || matches!(c, '\u{2800}' | '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}');
    // After a letter, so that accents that stand alone in the text count as seen.
    let printable = || ['a', c].iter().collect::<String>().escape_debug().count() == 2;
    !blank && (matches!(c, '\\' | '\'' | '"') || printable())
}

/// One line of at most `columns` columns: blanks and line ends become single spaces, the rest is cut
/// with an ellipsis.
pub fn one_line(text: &str, columns: usize) -> String {
    let joined = clean(text).split_whitespace().collect::<Vec<_>>().join(" ");
    cut(&joined, columns)
}

/// The text cut to `columns` columns, with an ellipsis when something is missing.
pub fn cut(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut out = String::new();
    let mut used = 0;
    for c in text.chars() {
        let width = c.width().unwrap_or(0);
        if used + width + 1 > columns {
            break;
        }
        used += width;
        out.push(c);
    }
    out.push('…');
    out
}

/// A duration as a person says it.
pub fn duration(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{:.1} s", ms as f64 / 1_000.0),
        60_000..3_600_000 => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1_000),
        3_600_000..86_400_000 => format!("{} h {} min", ms / 3_600_000, ms % 3_600_000 / 60_000),
        _ => format!("{} d {} h", ms / 86_400_000, ms % 86_400_000 / 3_600_000),
    }
}

/// A whole number with commas between thousands.
pub fn number(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// Rows as columns of equal width; the last column is cut to what is left of the line.
/// A number of bytes as a person says it.
pub fn bytes(count: u64) -> String {
    const STEPS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match STEPS.iter().find(|(size, _)| count >= *size) {
        Some((size, unit)) => format!("{:.1} {unit}", count as f64 / *size as f64),
        None => format!("{count} bytes"),
    }
}

/// Rows as columns of equal width; the last column is cut to what is left of the line.
pub fn table(rows: &[Vec<String>], columns: usize) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count)
        .map(|i| rows.iter().filter_map(|r| r.get(i)).map(|cell| cell.width()).max().unwrap_or(0))
        .collect();
    let mut out = String::new();
    for row in rows {
        let mut used = 0;
        let mut line = String::new();
        for (i, cell) in row.iter().enumerate() {
            if i + 1 == row.len() {
                line.push_str(&cut(cell, columns.saturating_sub(used).max(MIN_COLUMNS)));
            } else {
                line.push_str(cell);
                line.push_str(&" ".repeat(widths[i] - cell.width() + 2));
                used += widths[i] + 2;
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Prints an answer; a reader that has gone away is no failure.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Prints JSON, indented and with a line end.
///
/// # Errors
/// What the serializer says of a value that is no JSON.
pub fn print_json(value: &impl serde::Serialize) -> Result<(), serde_json::Error> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?));
    Ok(())
}

/// Tells every problem of a configuration at once on standard error: for people on a terminal, and as one JSON line
/// in the name of `target`, with the program's id fields, for machines.
pub fn tell_problems(target: &'static str, ids: IdFields, problems: &Problems) {
    if std::io::stderr().is_terminal() {
        eprintln!("{problems}");
    } else {
        let errors = problems.report.to_json(&problems.problems)["errors"].take();
        let extra = serde_json::json!({"code": "CONFIGURATION", "errors": errors});
        last_words(LogLevel::Error, target, ids, &problems.to_string(), &extra, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_and_reordering_characters_never_reach_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\r\u{202e}c\td\n"), "a[2Jbc\td\n");
    }

    #[test]
    fn names_that_differ_never_look_the_same_for_what_cannot_be_seen() {
        let shown = |name: &str| visible(name);
        assert_eq!(shown("ada\u{200b}"), "ada\\u{200b}");
        assert_eq!(shown("\u{feff}ada"), "\\u{feff}ada");
        assert_eq!(shown("a\u{200d}b\u{2060}c\u{ad}d\u{202e}e"), "a\\u{200d}b\\u{2060}c\\u{ad}d\\u{202e}e");
        assert_eq!(shown("a\u{a0}b\u{3164}\u{fe0f}\u{1b}"), "a\\u{a0}b\\u{3164}\\u{fe0f}\\u{1b}");
        for plain in ["..", "a  b", r#"CORP\jane's "1""#, "日本語", "Zoë", "Zoe\u{308}", "🙂", "עברית", ""]
        {
            assert_eq!(shown(plain), plain);
        }
    }

    #[test]
    fn a_cut_line_fits_and_says_that_something_is_missing() {
        assert_eq!(one_line("ls \n -la", 20), "ls -la");
        assert_eq!(one_line("abcdefgh", 5), "abcd…");
        assert_eq!(cut("日本語テキスト", 7), "日本語…");
    }

    #[test]
    fn figures_read_like_a_person_says_them() {
        assert_eq!(
            (duration(12), duration(1_240), duration(61_000), duration(7_260_000), duration(90_000_000)),
            ("12 ms".into(), "1.2 s".into(), "1 min 1 s".into(), "2 h 1 min".into(), "1 d 1 h".into())
        );
        assert_eq!(
            (number(7), number(1_234), number(1_234_567)),
            ("7".into(), "1,234".into(), "1,234,567".into())
        );
        assert_eq!((bytes(12), bytes(2_048)), ("12 bytes".into(), "2.0 KiB".into()));
    }

    #[test]
    fn a_table_aligns_its_columns_and_cuts_only_the_last() {
        let rows = [
            vec!["a".to_owned(), "name".to_owned(), "x".repeat(80)],
            vec!["long".to_owned(), "日本".to_owned(), String::new()],
        ];
        let text = table(&rows, 60);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("a     name  xxx") && lines[0].ends_with('…'), "{text}");
        assert!(lines[0].width() <= 60);
        assert_eq!(lines[1], "long  日本");
    }

    #[test]
    fn without_colour_the_same_words_come_out() {
        assert_eq!(Paint::plain().red("x"), "x");
        assert_eq!(Paint { colour: true, columns: 80 }.red("x"), "\x1b[31mx\x1b[0m");
    }
}
