//! Cuts a shell command into the tokens bash would see, without running anything.
//!
//! Quotes, escapes, comments, here-documents and the extent of `$(…)`, `${…}` and `` `…` `` are decided here, in
//! linear time and with a bounded depth; the grammar above it is `brush-parser`'s. Where bash's own reading depends
//! on things this file does not follow, the answer is [`Unreadable`], never a guess.
//!
//! The invariant: every byte of the text belongs to a token, a comment, a here-document or a blank.

mod token;
mod list;
mod word;
mod assignment;
mod quoting;
mod expansion;
mod arithmetic;
mod here_document;

pub use token::{Parameter, Part, Token, Tokens, Word};

use std::fmt;

/// Substitutions and brackets inside each other. Deeper needs more stack than a worker thread has; honest commands
/// stay below four.
pub const MAX_DEPTH: usize = 10;
/// Tokens of one command, nested ones included. More is not a command a person could judge; each costs memory.
pub const MAX_TOKENS: usize = 20_000;

/// Why a text cannot be cut into tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// bash refuses it as well, or reads on where this text ends.
    Syntax,
    /// One of the limits was met.
    Limit,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unreadable::Syntax => "the command cannot be read",
            Unreadable::Limit => "the command is too deep or too long to be read",
        })
    }
}

type Lexed<T> = Result<T, Unreadable>;

/// Cuts a whole command.
pub fn tokens(text: &str, budget: &mut usize) -> Lexed<Tokens> {
    if text.contains('\0') {
        return Err(Unreadable::Syntax);
    }
    let mut lexer = Lexer { text, at: 0, depth: MAX_DEPTH, budget };
    let tokens = lexer.list(None)?;
    Ok(tokens)
}

/// Cuts the text of a here-document or of a quoted argument, where only `$`, backticks and `\` are special.
pub fn expansions(text: &str, budget: &mut usize) -> Lexed<Vec<Part>> {
    let mut lexer = Lexer { text, at: 0, depth: MAX_DEPTH, budget };
    let mut parts = Vec::new();
    lexer.double_quoted(&mut parts, None)?;
    Ok(parts)
}

struct Lexer<'a, 'b> {
    text: &'a str,
    at: usize,
    depth: usize,
    budget: &'b mut usize,
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

fn ends_word(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | ';' | '&' | '|' | '<' | '>' | '(' | ')')
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

impl Lexer<'_, '_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn second(&self) -> Option<char> {
        self.rest().chars().nth(1)
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn eat(&mut self, c: char) -> bool {
        let found = self.peek() == Some(c);
        if found {
            self.at += c.len_utf8();
        }
        found
    }

    fn spend(&mut self) -> Lexed<()> {
        *self.budget = self.budget.checked_sub(1).ok_or(Unreadable::Limit)?;
        Ok(())
    }

    fn deeper<T>(&mut self, inner: impl FnOnce(&mut Self) -> Lexed<T>) -> Lexed<T> {
        self.depth = self.depth.checked_sub(1).ok_or(Unreadable::Limit)?;
        let done = inner(self);
        self.depth += 1;
        done
    }

    fn skip_continuations(&mut self) {
        while self.rest().starts_with("\\\n") {
            self.at += 2;
        }
    }

    fn blanks(&mut self) {
        loop {
            self.skip_continuations();
            match self.peek() {
                Some(c) if is_blank(c) => self.at += 1,
                _ => return,
            }
        }
    }
}
