//! `((…))`, `for ((…))` and `$((…))`: the substitutions in them matter, their values do not.
//!
//! `((` may also open two subshells; then nothing is consumed and the list decides.

use super::token::{Part, Token, Tokens, Word};
use super::{Lexed, Lexer, Unreadable};

impl Lexer<'_, '_> {
    /// `(( … ))` as one word; false when these are two subshells.
    pub(super) fn arithmetic_command(&mut self, out: &mut Tokens) -> Lexed<bool> {
        let start = self.at;
        self.at += 2;
        match self.arithmetic(")", ')')? {
            Some(parts) => {
                let index = out.word(Word { parts: vec![Part::Quoted("((".into())], ..Word::default() });
                out.tokens.push(Token::Word(index, start, self.at));
                let index = out.word(Word { parts: vec![Part::Arithmetic(parts)], ..Word::default() });
                out.tokens.push(Token::Word(index, start, self.at));
                Ok(true)
            }
            None => {
                self.at = start;
                Ok(false)
            }
        }
    }

    /// `for ((…;…;…))` becomes `while` with the expression as its condition.
    pub(super) fn arithmetic_for(&mut self, out: &mut Tokens, start: usize) -> Lexed<bool> {
        let from = self.at;
        self.blanks();
        if !self.rest().starts_with("((") {
            self.at = from;
            return Ok(false);
        }
        out.tokens.push(Token::Raw("while".into(), start, from));
        if !self.arithmetic_command(out)? {
            return Err(Unreadable::Syntax);
        }
        loop {
            self.skip_continuations();
            match self.peek() {
                Some(' ' | '\t' | '\n' | ';') => self.at += 1,
                _ => break,
            }
        }
        out.tokens.push(Token::Operator(";", self.at, self.at));
        Ok(true)
    }

    /// The parts of an arithmetic expression up to `))` (or `]`); `None`, at any position, when it is none.
    pub(super) fn arithmetic(&mut self, second: &str, close: char) -> Lexed<Option<Vec<Part>>> {
        let mut parts = Vec::new();
        let mut open = 0usize;
        loop {
            let Some(c) = self.peek() else { return Ok(None) };
            match c {
                '\\' => {
                    self.next();
                    self.next();
                }
                '\'' => {
                    self.next();
                    let Some(end) = self.rest().find('\'') else { return Ok(None) };
                    self.at += end + 1;
                }
                '"' => {
                    self.next();
                    self.deeper(|l| l.double_quoted(&mut parts, Some('"')))?;
                }
                '$' => self.deeper(|l| l.dollar(&mut parts, true))?,
                '`' => self.backticks(&mut parts)?,
                '(' if close == ')' => {
                    open += 1;
                    self.at += 1;
                }
                '[' if close == ']' => {
                    open += 1;
                    self.at += 1;
                }
                c if c == close && open > 0 => {
                    open -= 1;
                    self.at += 1;
                }
                c if c == close => {
                    self.at += 1;
                    if self.rest().starts_with(second) {
                        self.at += second.len();
                        return Ok(Some(parts));
                    }
                    return Ok(None);
                }
                c => self.at += c.len_utf8(),
            }
        }
    }
}
