//! `name=value`: recognised in a word, and the arrays that may follow the `=`.
//!
//! Elements of arrays are not followed. The invariant: an assignment that is not understood is marked as one.

use super::token::{Part, Token, Tokens, Word};
use super::{Lexed, Lexer, Unreadable, ends_word, is_name_char};

/// `name=value`, `name+=value` (the name then ends in `+`) and `name[…]=value`.
pub(super) fn assignment(word: &Word) -> Option<(String, Word)> {
    let Some(Part::Text(first)) = word.parts.first() else { return None };
    let end = first.find(|c| !is_name_char(c))?;
    if end == 0 || first.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let (name, rest) = first.split_at(end);
    if rest.starts_with('[') {
        // The element is not followed; the array's value is no longer known.
        let whole =
            word.parts.iter().any(|p| matches!(p, Part::Text(t) if t.contains("]=") || t.contains("]+=")));
        return whole.then(|| (name.to_owned(), Word { is_element: true, ..word.clone() }));
    }
    let (mark, value) = match rest.strip_prefix("+=") {
        Some(value) => ("+", value),
        None => ("", rest.strip_prefix('=')?),
    };
    let mut parts = Vec::new();
    if !value.is_empty() {
        parts.push(Part::Text(value.to_owned()));
    }
    parts.extend(word.parts.iter().skip(1).cloned());
    Some((format!("{name}{mark}"), Word { parts, ..Word::default() }))
}

impl Lexer<'_, '_> {
    /// `(…)` after `name=`.
    pub(super) fn array(&mut self, out: &mut Tokens) -> Lexed<()> {
        out.tokens.push(Token::Operator("(", self.at, self.at + 1));
        self.at += 1;
        loop {
            self.skip_continuations();
            let start = self.at;
            match self.peek() {
                None => return Err(Unreadable::Syntax),
                Some(' ' | '\t' | '\n') => self.at += 1,
                Some('#') => self.at += self.rest().find('\n').unwrap_or(self.rest().len()),
                Some(')') => {
                    self.at += 1;
                    out.tokens.push(Token::Operator(")", start, self.at));
                    return Ok(());
                }
                Some('<' | '>') if self.second() == Some('(') => self.element(out)?,
                Some(c) if ends_word(c) => return Err(Unreadable::Syntax),
                Some(_) => self.element(out)?,
            }
        }
    }

    fn element(&mut self, out: &mut Tokens) -> Lexed<()> {
        self.spend()?;
        let start = self.at;
        let word = self.word()?;
        let index = out.word(word);
        out.tokens.push(Token::Word(index, start, self.at));
        Ok(())
    }
}
