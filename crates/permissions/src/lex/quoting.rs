//! Text inside quotes: `"…"`, `` `…` `` and `$'…'`.
//!
//! Where a backslash means one thing inside double quotes and another outside, and both may hold, the text is
//! unreadable. The invariant: a quote that is never closed is unreadable, too.

use super::token::{Part, push_quoted};
use super::{Lexed, Lexer, Unreadable};

impl Lexer<'_, '_> {
    /// Inside double quotes up to `close`, or a whole text.
    pub(super) fn double_quoted(&mut self, parts: &mut Vec<Part>, close: Option<char>) -> Lexed<()> {
        loop {
            let Some(c) = self.next() else {
                return if close.is_none() { Ok(()) } else { Err(Unreadable::Syntax) };
            };
            if Some(c) == close {
                return Ok(());
            }
            match c {
                '\\' => match self.next() {
                    Some('\n') => {}
                    Some(c @ ('\\' | '$' | '`')) => push_quoted(parts, &c.to_string()),
                    Some('"') if close.is_some() => push_quoted(parts, "\""),
                    Some(c) => push_quoted(parts, &format!("\\{c}")),
                    None => push_quoted(parts, "\\"),
                },
                '$' => {
                    self.at -= 1;
                    self.deeper(|l| l.dollar(parts, true))?;
                }
                '`' => {
                    self.at -= 1;
                    self.backticks(parts)?;
                }
                c => push_quoted(parts, c.encode_utf8(&mut [0; 4])),
            }
        }
    }

    pub(super) fn backticks(&mut self, parts: &mut Vec<Part>) -> Lexed<()> {
        self.spend()?;
        self.at += 1;
        let mut inner = String::new();
        loop {
            match self.next().ok_or(Unreadable::Syntax)? {
                '`' => break,
                '\\' => match self.next().ok_or(Unreadable::Syntax)? {
                    c @ ('`' | '\\' | '$') => inner.push(c),
                    // Inside double quotes bash takes this backslash away, outside it does not.
                    '"' => return Err(Unreadable::Syntax),
                    c => inner.extend(['\\', c]),
                },
                c => inner.push(c),
            }
        }
        parts.push(Part::Command(inner));
        Ok(())
    }

    /// After `$'`, up to and including the quote.
    pub(super) fn ansi_c(&mut self) -> Lexed<String> {
        let mut out: Vec<u8> = Vec::new();
        loop {
            let c = self.next().ok_or(Unreadable::Syntax)?;
            if c == '\'' {
                break;
            }
            if c != '\\' {
                out.extend(c.encode_utf8(&mut [0; 4]).bytes());
                continue;
            }
            let escape = self.next().ok_or(Unreadable::Syntax)?;
            let byte = match escape {
                'a' => 7,
                'b' => 8,
                'e' | 'E' => 27,
                'f' => 12,
                'n' => b'\n',
                'r' => b'\r',
                't' => b'\t',
                'v' => 11,
                '0'..='7' => {
                    let mut value = escape.to_digit(8).unwrap_or(0);
                    for _ in 0..2 {
                        match self.peek().and_then(|c| c.to_digit(8)) {
                            Some(digit) => {
                                value = value * 8 + digit;
                                self.at += 1;
                            }
                            None => break,
                        }
                    }
                    (value & 0xff) as u8
                }
                'x' => self.hex(2).map_or(b'x', |v| (v & 0xff) as u8),
                'u' | 'U' => {
                    let value = self.hex(if escape == 'u' { 4 } else { 8 }).ok_or(Unreadable::Syntax)?;
                    let c = char::from_u32(value).ok_or(Unreadable::Syntax)?;
                    out.extend(c.encode_utf8(&mut [0; 4]).bytes());
                    continue;
                }
                'c' => {
                    let c = self.next().filter(char::is_ascii).ok_or(Unreadable::Syntax)?;
                    (c as u8) & 0x1f
                }
                '\\' | '\'' | '"' | '?' => escape as u8,
                c => {
                    out.extend('\\'.encode_utf8(&mut [0; 4]).bytes());
                    out.extend(c.encode_utf8(&mut [0; 4]).bytes());
                    continue;
                }
            };
            // bash ends the text at a zero.
            if byte == 0 {
                return Err(Unreadable::Syntax);
            }
            out.push(byte);
        }
        String::from_utf8(out).map_err(|_| Unreadable::Syntax)
    }

    fn hex(&mut self, most: usize) -> Option<u32> {
        let mut value = None;
        for _ in 0..most {
            let Some(digit) = self.peek().and_then(|c| c.to_digit(16)) else { break };
            value = Some(value.unwrap_or(0u32).wrapping_mul(16).wrapping_add(digit));
            self.at += 1;
        }
        value
    }
}
