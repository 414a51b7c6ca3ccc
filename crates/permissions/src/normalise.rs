//! The command as it is shown and remembered.
//!
//! The invariant: two commands with the same normal form do the same.

use crate::lex::{self, Token};

/// Outer blanks removed, runs of blanks between words made one. A command of several lines, or one that cannot be
/// read, is kept as it is, because there blanks can be content.
pub fn normalised(command: &str) -> String {
    let command = command.trim_matches([' ', '\t', '\n']);
    if command.contains('\n') || command.contains('\\') {
        return command.to_owned();
    }
    let Ok(tokens) = lex::tokens(command, &mut lex::MAX_TOKENS.clone()) else { return command.to_owned() };
    let mut out = String::with_capacity(command.len());
    let mut end = 0;
    for token in tokens.tokens {
        let (start, stop) = match token {
            Token::Operator(_, start, stop) | Token::Raw(_, start, stop) => (start, stop),
            Token::Word(_, start, stop) | Token::Assignment(_, _, start, stop) => (start, stop),
        };
        if start < end || stop <= start {
            continue;
        }
        let gap = command.get(end..start).unwrap_or("");
        if gap.contains(|c| !matches!(c, ' ' | '\t')) {
            out.push_str(gap);
        } else if !gap.is_empty() && !out.is_empty() {
            out.push(' ');
        }
        out.push_str(command.get(start..stop).unwrap_or(""));
        end = stop;
    }
    out.push_str(command.get(end..).unwrap_or(""));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_blanks_between_words_are_made_one() {
        for (command, expected) in [
            ("  rm   -rf \t '/a  b'  \"c  d\" ", "rm -rf '/a  b' \"c  d\""),
            ("a\n  b", "a\n  b"),
            ("rm a\\  b", "rm a\\  b"),
            ("a   >b  2>&1", "a >b 2>&1"),
            ("echo \"$(echo \"a  b\")\"   c", "echo \"$(echo \"a  b\")\" c"),
            ("echo 'unclosed   x", "echo 'unclosed   x"),
            ("a    # b    c", "a    # b    c"),
            ("((  1 +  2 ))   &&   b", "((  1 +  2 )) && b"),
            ("for   ((i=0;  i<3; i++)); do   a; done", "for ((i=0;  i<3; i++)); do a; done"),
            ("cat <<<   'x  y'", "cat <<< 'x  y'"),
        ] {
            assert_eq!(normalised(command), expected, "{command}");
            assert_eq!(normalised(expected), expected);
        }
    }
}
