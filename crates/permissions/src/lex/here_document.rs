//! Here-documents: the tag behind `<<`, and the body after the line.
//!
//! The invariant: a line that could end the body for bash but not for this file makes the command unreadable.

use super::token::{Part, Token, Tokens, Word};
use super::{Lexed, Lexer, Unreadable, ends_word};

pub(super) struct Here {
    word: usize,
    delimiter: String,
    literal: bool,
    strip_tabs: bool,
}

impl Lexer<'_, '_> {
    pub(super) fn here_tag(&mut self, strip_tabs: bool, out: &mut Tokens) -> Lexed<Here> {
        self.blanks();
        let start = self.at;
        if self.peek().is_none_or(ends_word) {
            return Err(Unreadable::Syntax);
        }
        let word = self.word()?;
        let mut delimiter = String::new();
        let mut literal = false;
        for part in &word.parts {
            match part {
                Part::Text(text) => delimiter.push_str(text),
                Part::Quoted(text) => {
                    literal = true;
                    delimiter.push_str(text);
                }
                Part::Parameter(_) | Part::Command(_) | Part::Process(_) | Part::Arithmetic(_) => {
                    return Err(Unreadable::Syntax);
                }
            }
        }
        if delimiter.contains('\n') {
            return Err(Unreadable::Syntax);
        }
        let tag = out.word(word);
        let body = out.word(Word { is_here_document: true, ..Word::default() });
        out.tokens.push(Token::Word(tag, start, self.at));
        out.tokens.push(Token::Word(body, start, self.at));
        out.tokens.push(Token::Word(tag, start, self.at));
        Ok(Here { word: body, delimiter, literal, strip_tabs })
    }

    pub(super) fn here_document(&mut self, here: Here, out: &mut Tokens) -> Lexed<()> {
        let mut body = String::new();
        while self.at < self.text.len() {
            let rest = self.rest();
            let (line, taken) = match rest.find('\n') {
                Some(end) => (&rest[..end], end + 1),
                None => (rest, rest.len()),
            };
            let line = if here.strip_tabs { line.trim_start_matches('\t') } else { line };
            let done = line == here.delimiter;
            // In a body that is expanded, a line that ends in a backslash joins the next one, and the delimiter with it.
            if !here.literal && line.ends_with('\\') && !line.ends_with("\\\\") {
                let next = rest[taken..].lines().next().unwrap_or("");
                let next = if here.strip_tabs { next.trim_start_matches('\t') } else { next };
                if next == here.delimiter || line.trim_end_matches('\\') == here.delimiter {
                    return Err(Unreadable::Syntax);
                }
            }
            if !done {
                body.push_str(line);
                body.push('\n');
            }
            self.at += taken;
            if done {
                break;
            }
        }
        let parts = if here.literal {
            vec![Part::Quoted(body)]
        } else {
            let mut inner = Lexer { text: &body, at: 0, depth: self.depth, budget: &mut *self.budget };
            let mut parts = Vec::new();
            inner.double_quoted(&mut parts, None)?;
            parts
        };
        if let Some(word) = out.words.get_mut(here.word) {
            word.parts = parts;
        }
        Ok(())
    }
}
