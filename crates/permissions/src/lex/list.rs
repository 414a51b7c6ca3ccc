//! Tokens of a list of commands: operators, keywords where a keyword may stand, words everywhere else.
//!
//! Only as much grammar as the cutting needs is followed here: what is open, and whether a command begins. The
//! invariant: a list inside `$(…)` ends at the `)` that bash would end it at, or is unreadable.

use super::assignment::assignment;
use super::here_document::Here;
use super::token::{Part, Token, Tokens, Word};
use super::{Lexed, Lexer, MAX_DEPTH, Unreadable, ends_word, is_blank};

/// Words that open, continue or close a compound command.
const KEYWORDS: [&str; 19] = [
    "!", "{", "}", "case", "do", "done", "elif", "else", "esac", "fi", "for", "if", "in", "then", "until",
    "while", "function", "coproc", "time",
];
/// Keywords after which a command begins.
const OPENING: [&str; 10] = ["!", "{", "do", "elif", "else", "if", "then", "until", "while", "time"];
/// Longest first, so that the first that fits is the token.
const OPERATORS: [&str; 22] = [
    ";;&", "&>>", "<<<", "<<-", ";;", ";&", "&&", "&>", "||", "|&", "<<", "<&", "<>", ">>", ">|", ">&", ";",
    "&", "|", "<", ">", "\n",
];

/// What has been opened in a list and not closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    Parenthesis,
    /// A `)` ends a pattern.
    Case,
    Keyword,
}

fn push_open(open: &mut Vec<Open>, what: Open) -> Lexed<()> {
    if open.len() >= MAX_DEPTH {
        return Err(Unreadable::Limit);
    }
    open.push(what);
    Ok(())
}

fn close_keyword(open: &mut Vec<Open>) {
    if matches!(open.last(), Some(Open::Keyword | Open::Case)) {
        open.pop();
    }
}

impl Lexer<'_, '_> {
    /// Tokens up to the end, or up to an unmatched `)` (not consumed) when `close` is given.
    pub(super) fn list(&mut self, close: Option<char>) -> Lexed<Tokens> {
        let mut out = Tokens::default();
        let mut heres: Vec<Here> = Vec::new();
        let mut open: Vec<Open> = Vec::new();
        let mut command_next = true;
        let mut in_condition = false;
        loop {
            self.skip_continuations();
            let start = self.at;
            let Some(c) = self.peek() else { break };
            if is_blank(c) {
                self.at += 1;
                continue;
            }
            if c == '#' {
                let line = self.rest().find('\n').unwrap_or(self.rest().len());
                self.at += line;
                continue;
            }
            self.spend()?;
            let process = matches!(c, '<' | '>') && self.second() == Some('(');
            if in_condition && !process && ends_word(c) && c != '\n' {
                // Operators of `[[ … ]]` are words to everybody else.
                self.at += c.len_utf8();
                let index = out.word(Word { parts: vec![Part::Quoted(c.into())], ..Word::default() });
                out.tokens.push(Token::Word(index, start, self.at));
                continue;
            }
            if c == '(' && !process {
                if command_next && self.second() == Some('(') && self.arithmetic_command(&mut out)? {
                    command_next = false;
                    continue;
                }
                self.at += 1;
                push_open(&mut open, Open::Parenthesis)?;
                out.tokens.push(Token::Operator("(", start, self.at));
                command_next = true;
                continue;
            }
            if c == ')' {
                match open.last() {
                    Some(Open::Parenthesis) => drop(open.pop()),
                    // The end of a pattern.
                    Some(Open::Case) => {}
                    None if close == Some(')') => break,
                    Some(Open::Keyword) | None => return Err(Unreadable::Syntax),
                }
                self.at += 1;
                out.tokens.push(Token::Operator(")", start, self.at));
                command_next = true;
                continue;
            }
            if ends_word(c) && !process {
                let operator = self.operator()?;
                match operator {
                    "\n" => {
                        out.tokens.push(Token::Operator(operator, start, self.at));
                        for here in heres.drain(..) {
                            self.here_document(here, &mut out)?;
                        }
                        command_next = true;
                    }
                    "<<" | "<<-" => {
                        out.tokens.push(Token::Operator(operator, start, self.at));
                        heres.push(self.here_tag(operator == "<<-", &mut out)?);
                    }
                    "<" | ">" | ">>" | ">|" | "<>" | ">&" | "<&" | "<<<" | "&>" | "&>>" => {
                        out.tokens.push(Token::Operator(operator, start, self.at));
                        let index = self.redirection_target(&mut out)?;
                        out.tokens.push(index);
                    }
                    _ => {
                        out.tokens.push(Token::Operator(operator, start, self.at));
                        command_next = true;
                    }
                }
                continue;
            }
            let word = self.word()?;
            let end = self.at;
            let redirects = matches!(self.peek(), Some('<' | '>')) && self.second() != Some('(');
            if let Some(bare) = word.bare() {
                if redirects && bare.bytes().all(|b| b.is_ascii_digit()) {
                    // The grammar holds it in 32 bits.
                    if bare.len() > 9 {
                        return Err(Unreadable::Limit);
                    }
                    out.tokens.push(Token::Raw(bare.to_owned(), start, end));
                    continue;
                }
                if in_condition && bare == "]]" {
                    in_condition = false;
                } else if in_condition {
                    // One of its words, whatever it looks like.
                } else if bare == "-p"
                    && matches!(out.tokens.last(), Some(Token::Raw(time, ..)) if time == "time")
                {
                    out.tokens.push(Token::Raw(bare.to_owned(), start, end));
                    continue;
                } else if command_next && bare == "[[" {
                    in_condition = true;
                    let index = out.word(Word { parts: vec![Part::Quoted("[[".into())], ..Word::default() });
                    out.tokens.push(Token::Word(index, start, end));
                    continue;
                } else if KEYWORDS.contains(&bare) || bare == "select" {
                    if command_next {
                        match bare {
                            "case" => push_open(&mut open, Open::Case)?,
                            "if" | "while" | "until" | "for" | "select" | "{" => {
                                push_open(&mut open, Open::Keyword)?
                            }
                            "fi" | "done" | "esac" | "}" => close_keyword(&mut open),
                            _ => {}
                        }
                    }
                    if bare == "for" && command_next && self.arithmetic_for(&mut out, start)? {
                        command_next = true;
                        continue;
                    }
                    let raw = if bare == "select" && command_next { "for" } else { bare };
                    out.tokens.push(Token::Raw(raw.to_owned(), start, end));
                    if bare == "esac" && command_next && self.closes_a_parenthesis() {
                        // The grammar takes `esac)` for one more pattern of the case. bash does not.
                        out.tokens.push(Token::Operator(";", end, end));
                    }
                    // `in` of a case is followed by patterns, where `esac` may stand.
                    let patterns = bare == "in" && open.last() == Some(&Open::Case);
                    command_next =
                        (command_next && (OPENING.contains(&bare) || bare == "coproc")) || patterns;
                    if matches!(bare, "fi" | "done" | "esac" | "}" | "do" | "then") {
                        command_next = true;
                    }
                    continue;
                }
            }
            if in_condition {
                let index = out.word(word);
                out.tokens.push(Token::Word(index, start, end));
                continue;
            }
            match assignment(&word) {
                Some((name, value)) => {
                    let array = value.parts.is_empty() && self.peek() == Some('(');
                    let value = if array { None } else { Some(out.word(value)) };
                    out.tokens.push(Token::Assignment(name, value, start, end));
                    if array {
                        self.array(&mut out)?;
                    }
                }
                None => {
                    let index = out.word(word);
                    out.tokens.push(Token::Word(index, start, end));
                    command_next = false;
                }
            }
        }
        if in_condition || open.contains(&Open::Parenthesis) {
            return Err(Unreadable::Syntax);
        }
        if close.is_some() && (self.peek().is_none() || !heres.is_empty()) {
            return Err(Unreadable::Syntax);
        }
        for here in heres {
            // bash takes what there is.
            self.here_document(here, &mut out)?;
        }
        Ok(out)
    }

    /// Whether a parenthesis is closed next, as in `(case x in *) ls;; esac)`.
    fn closes_a_parenthesis(&mut self) -> bool {
        self.blanks();
        self.peek() == Some(')')
    }

    fn operator(&mut self) -> Lexed<&'static str> {
        let mut seen = String::new();
        let from = self.at;
        loop {
            // A line continuation may stand inside an operator.
            self.skip_continuations();
            let Some(c) = self.peek() else { break };
            seen.push(c);
            if !OPERATORS.iter().any(|o| o.starts_with(seen.as_str())) {
                seen.pop();
                break;
            }
            self.at += c.len_utf8();
        }
        let found = OPERATORS.iter().find(|o| **o == seen).copied().ok_or(Unreadable::Syntax)?;
        // `a <(b)` written as `a <\n(b)` does not exist, but `>>(b)` does, and means `> >(b)` to nobody.
        if self.at == from { Err(Unreadable::Syntax) } else { Ok(found) }
    }

    fn redirection_target(&mut self, out: &mut Tokens) -> Lexed<Token> {
        self.blanks();
        let start = self.at;
        match self.peek() {
            None => return Err(Unreadable::Syntax),
            Some('<' | '>') if self.second() == Some('(') => {}
            Some(c) if ends_word(c) => return Err(Unreadable::Syntax),
            Some(_) => {}
        }
        let word = self.word()?;
        let index = out.word(word);
        Ok(Token::Word(index, start, self.at))
    }
}
