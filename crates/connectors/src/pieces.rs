//! How many values a message holds, counted while it is still bytes.
//!
//! A byte of JSON can cost hundreds of bytes once it is parsed: a message of sixteen megabytes made of empty parts
//! would take gigabytes. So brackets and commas are counted before any parser sees the message. Nothing is kept and
//! nothing is judged but the number.
//!
//! The invariant: for everything a parser takes for JSON, up to where it stops, the count is at least the number of
//! values it makes, keys left out, less one.

/// Values of one message. More lets one answer take a multiple of its size in memory (about 400 bytes each); fewer
/// cuts servers that answer with large tables.
pub const PIECES_MAX: usize = 100_000;

/// A count under way; bytes may come in any cut.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    count: usize,
    in_text: bool,
    escaped: bool,
}

impl Pieces {
    /// Counts on; whether it is few enough still.
    fn add(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes {
            match (self.in_text, byte) {
                (true, _) if self.escaped => self.escaped = false,
                (true, b'\\') => self.escaped = true,
                (_, b'"') => self.in_text = !self.in_text,
                (false, b'[' | b'{' | b',') => self.count += 1,
                _ => {}
            }
        }
        self.count <= PIECES_MAX
    }

    /// Counts on where each line is a message of its own; whether each is small enough.
    pub fn add_lines(&mut self, bytes: &[u8]) -> bool {
        for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            if number > 0 {
                *self = Self::default();
            }
            if !self.add(line) {
                return false;
            }
        }
        true
    }

    /// Whether a whole message is small enough.
    pub fn few(message: &str) -> bool {
        // a piece is a byte at least
        message.len() <= PIECES_MAX || Self::default().add(message.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(values: usize) -> String {
        format!("[{}]", vec!["0"; values].join(","))
    }

    #[test]
    fn values_are_counted_and_what_is_in_texts_is_not() {
        let table: [(&str, usize); 6] = [
            ("1", 0),
            ("[]", 1),
            (r#"{"a": 1, "b": [2, {}]}"#, 5),
            (r#"["a,[{", "b"]"#, 2),
            (r#"["a\",[", "\\", {}]"#, 4),
            (r#"["\\\",", "]"]"#, 2),
        ];
        for (text, count) in table {
            let mut pieces = Pieces::default();
            assert!(pieces.add(text.as_bytes()));
            assert_eq!(pieces.count, count, "{text}");
        }
    }

    #[test]
    fn the_limit_holds_whichever_way_a_message_is_written_and_cut() {
        assert!(Pieces::few(&list(PIECES_MAX)));
        assert!(!Pieces::few(&list(PIECES_MAX + 1)));
        assert!(!Pieces::few(&list(PIECES_MAX + 1).replace(',', ",\n")), "over many lines");
        assert!(Pieces::few(&format!("\"{}\"", ",".repeat(2 * PIECES_MAX))), "one text");
        for size in [1, 7, 8_192] {
            let mut pieces = Pieces::default();
            let text = format!("[\"\\\"\"{}]", ",{}".repeat(PIECES_MAX));
            assert!(!text.as_bytes().chunks(size).all(|part| pieces.add_lines(part)), "{size}");
        }
    }

    #[test]
    fn each_line_has_a_count_of_its_own() {
        let line = list(PIECES_MAX);
        let mut pieces = Pieces::default();
        // the text that is left open ends with its line
        let lines = format!("{line}\n\"\n{line}\n{line}");
        assert!(lines.as_bytes().chunks(1_000).all(|part| pieces.add_lines(part)));
        assert!(!pieces.add_lines(b","));
        assert!(!Pieces::default().add_lines(format!("\"\n{}", list(PIECES_MAX + 1)).as_bytes()));
    }
}
