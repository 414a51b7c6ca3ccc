//! One word: its literal text, quotes, expansions and pattern lists, up to the character that ends it.
//!
//! The invariant: a pattern list is one `*`, which matches at least as much.

use super::token::{Part, Word, push_quoted, push_text};
use super::{Lexed, Lexer, Unreadable, ends_word};

impl Lexer<'_, '_> {
    /// One word, up to a character that ends it.
    pub(super) fn word(&mut self) -> Lexed<Word> {
        let mut parts: Vec<Part> = Vec::new();
        let from = self.at;
        loop {
            self.skip_continuations();
            let Some(c) = self.peek() else { break };
            if matches!(c, '<' | '>') && self.second() == Some('(') {
                self.at += 2;
                let inner = self.until_parenthesis()?;
                parts.push(Part::Process(inner));
                continue;
            }
            if c == '(' && self.at > from && self.opens_pattern(&parts) {
                self.pattern_list()?;
                push_text(&mut parts, '*');
                continue;
            }
            if ends_word(c) {
                break;
            }
            match c {
                '\\' => {
                    self.at += 1;
                    let escaped = self.next().ok_or(Unreadable::Syntax)?;
                    push_quoted(&mut parts, &escaped.to_string());
                }
                '\'' => {
                    self.at += 1;
                    let end = self.rest().find('\'').ok_or(Unreadable::Syntax)?;
                    let inner = self.rest()[..end].to_owned();
                    self.at += end + 1;
                    push_quoted(&mut parts, &inner);
                }
                '"' => {
                    self.at += 1;
                    push_quoted(&mut parts, "");
                    self.deeper(|l| l.double_quoted(&mut parts, Some('"')))?;
                }
                '$' => self.deeper(|l| l.dollar(&mut parts, false))?,
                '`' => self.backticks(&mut parts)?,
                c => {
                    self.at += c.len_utf8();
                    push_text(&mut parts, c);
                }
            }
        }
        Ok(Word { parts, ..Word::default() })
    }

    /// `@(`, `?(`, `+(`, `*(`, and `!(` when it is not the keyword in front of a subshell.
    fn opens_pattern(&self, parts: &[Part]) -> bool {
        match parts.last() {
            Some(Part::Text(text)) if parts.len() == 1 && text == "!" => false,
            Some(Part::Text(text)) => text.ends_with(['@', '?', '+', '*', '!']),
            _ => false,
        }
    }

    fn pattern_list(&mut self) -> Lexed<()> {
        self.at += 1;
        let mut open = 1usize;
        while open > 0 {
            match self.next().ok_or(Unreadable::Syntax)? {
                '(' => open += 1,
                ')' => open -= 1,
                // Quotes and expansions inside a pattern list are not worth following.
                '\\' | '\'' | '"' | '$' | '`' | '\n' | ';' | '&' | '<' | '>' => {
                    return Err(Unreadable::Syntax);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The text up to the `)` that closes what is already open; consumes it.
    pub(super) fn until_parenthesis(&mut self) -> Lexed<String> {
        let from = self.at;
        self.deeper(|l| l.list(Some(')')))?;
        let inner = self.text.get(from..self.at).unwrap_or("").to_owned();
        if !self.eat(')') {
            return Err(Unreadable::Syntax);
        }
        Ok(inner)
    }
}
