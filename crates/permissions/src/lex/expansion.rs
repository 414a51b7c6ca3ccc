//! What begins with `$`: parameters with their operators, command substitutions, arithmetic, quotes.
//!
//! The invariant: every substitution inside an argument is a piece of that argument.

use super::token::{Parameter, Part, push_quoted, push_text};
use super::{Lexed, Lexer, Unreadable, is_name_char};

impl Lexer<'_, '_> {
    pub(super) fn dollar(&mut self, parts: &mut Vec<Part>, quoted: bool) -> Lexed<()> {
        self.spend()?;
        self.at += 1;
        if self.rest().starts_with("\\\n") {
            return Err(Unreadable::Syntax);
        }
        match self.peek() {
            Some('(') => {
                if self.second() == Some('(') {
                    let from = self.at;
                    self.at += 2;
                    if let Some(inner) = self.arithmetic(")", ')')? {
                        parts.push(Part::Arithmetic(inner));
                        return Ok(());
                    }
                    self.at = from;
                }
                self.at += 1;
                let inner = self.until_parenthesis()?;
                parts.push(Part::Command(inner));
            }
            Some('[') => {
                self.at += 1;
                let inner = self.arithmetic("", ']')?.ok_or(Unreadable::Syntax)?;
                parts.push(Part::Arithmetic(inner));
            }
            Some('{') => {
                self.at += 1;
                self.braced(parts, quoted)?;
            }
            Some('\'') if !quoted => {
                self.at += 1;
                let text = self.ansi_c()?;
                push_quoted(parts, &text);
            }
            Some('"') if !quoted => {
                self.at += 1;
                push_quoted(parts, "");
                self.double_quoted(parts, Some('"'))?;
            }
            Some(c) if c.is_ascii_alphabetic() || c == '_' => {
                let name = self.name();
                parts.push(Part::Parameter(Parameter::plain(name, quoted)));
            }
            Some(c @ ('0'..='9' | '@' | '*' | '#' | '?' | '$' | '!' | '-')) => {
                self.at += 1;
                parts.push(Part::Parameter(Parameter::plain(c.to_string(), quoted)));
            }
            _ if quoted => push_quoted(parts, "$"),
            _ => push_text(parts, '$'),
        }
        Ok(())
    }

    fn name(&mut self) -> String {
        let rest = self.rest();
        let end = rest.find(|c| !is_name_char(c)).unwrap_or(rest.len());
        let name = rest[..end].to_owned();
        self.at += end;
        name
    }

    /// After `${`, up to and including `}`.
    fn braced(&mut self, parts: &mut Vec<Part>, quoted: bool) -> Lexed<()> {
        let mut operator = String::new();
        if matches!(self.peek(), Some('!' | '#'))
            && self.second().is_some_and(|c| c != '}' && !":-=?+%/".contains(c))
        {
            operator.extend(self.next());
        }
        let name = match self.peek() {
            Some(c) if is_name_char(c) => self.name(),
            Some(c @ ('@' | '*' | '#' | '?' | '$' | '!' | '-')) => {
                self.at += 1;
                c.to_string()
            }
            _ => return Err(Unreadable::Syntax),
        };
        let mut argument = Vec::new();
        let mut index = None;
        if self.eat('[') {
            let from = self.at;
            let inner = self.arithmetic("", ']')?.ok_or(Unreadable::Syntax)?;
            index = Some(self.text.get(from..self.at - 1).unwrap_or("").to_owned());
            if !inner.is_empty() {
                argument.push(Part::Arithmetic(inner));
            }
        }
        while let Some(c) = self.peek().filter(|c| ":-=?+%#/^,@!*".contains(*c)) {
            operator.push(c);
            self.at += 1;
            if operator.len() >= 2 && !operator.ends_with([':', '%', '#', '/', '^', ',']) {
                break;
            }
            if operator.len() >= 3 {
                break;
            }
            if matches!(
                operator.as_str(),
                "-" | "=" | "?" | "+" | ":-" | ":=" | ":?" | ":+" | "%%" | "##" | "//"
            ) {
                break;
            }
        }
        loop {
            let Some(c) = self.peek() else { return Err(Unreadable::Syntax) };
            match c {
                '}' => {
                    self.at += 1;
                    break;
                }
                '\\' => {
                    self.at += 1;
                    let c = self.next().ok_or(Unreadable::Syntax)?;
                    push_quoted(&mut argument, &c.to_string());
                }
                // Whether it quotes depends on the operator and on the quotes around.
                '\'' if quoted => return Err(Unreadable::Syntax),
                '\'' => {
                    self.at += 1;
                    let end = self.rest().find('\'').ok_or(Unreadable::Syntax)?;
                    let inner = self.rest()[..end].to_owned();
                    self.at += end + 1;
                    push_quoted(&mut argument, &inner);
                }
                '"' => {
                    self.at += 1;
                    push_quoted(&mut argument, "");
                    self.deeper(|l| l.double_quoted(&mut argument, Some('"')))?;
                }
                '$' => self.deeper(|l| l.dollar(&mut argument, quoted))?,
                '`' => self.backticks(&mut argument)?,
                '<' | '>' if self.second() == Some('(') => return Err(Unreadable::Syntax),
                c => {
                    self.at += c.len_utf8();
                    push_text(&mut argument, c);
                }
            }
        }
        parts.push(Part::Parameter(Parameter { name, index, operator, argument, quoted }));
        Ok(())
    }
}
