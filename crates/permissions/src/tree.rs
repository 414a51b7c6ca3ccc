//! From tokens to a syntax tree: the grammar is `brush-parser`'s, the tokens are ours.
//!
//! The grammar sees keywords, operators and numbered place-holders for words, so neither its speed nor its log lines
//! depend on what a word says. See `docs/decisions/013-shell-parser.md` for what was measured.
//!
//! The invariant: a word of the command is in [`Tree::words`] exactly as the lexer read it.

use crate::lex::{self, Part, Token, Tokens, Unreadable, Word};
use brush_parser::{ParserOptions, SourcePosition, SourceSpan, ast};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Stands before the number of a word.
const WORD: char = '\u{e000}';

/// A parsed command.
#[derive(Debug)]
pub struct Tree {
    /// Its commands.
    pub program: ast::Program,
    words: Vec<Word>,
    text: String,
}

impl Tree {
    /// The word behind a word of the syntax tree.
    pub fn word(&self, word: &ast::Word) -> Word {
        let Some((before, number)) = word.value.split_once(WORD) else {
            return Word { parts: vec![Part::Quoted(word.value.clone())], ..Word::default() };
        };
        let found = number.parse().ok().and_then(|n: usize| self.words.get(n)).cloned().unwrap_or_default();
        if before.is_empty() || found.is_element {
            return found;
        }
        // An assignment that is an argument: `of=x`.
        let mut parts = vec![Part::Text(before.to_owned())];
        parts.extend(found.parts);
        Word { parts, ..Word::default() }
    }

    /// The text a part of the tree was made from.
    pub fn source(&self, span: &SourceSpan) -> &str {
        self.text.get(span.start.index..span.end.index).unwrap_or("")
    }
}

/// Parses a command.
pub fn parse(text: &str, budget: &mut usize) -> Result<Arc<Tree>, Unreadable> {
    let Tokens { tokens, words } = lex::tokens(text, budget)?;
    let tokens: Vec<brush_parser::Token> = tokens.into_iter().map(for_grammar).collect();
    let quiet = tracing::subscriber::NoSubscriber::default();
    let parsed = tracing::subscriber::with_default(quiet, || {
        // The parser is another's; a mistake in it must not end the turn that asked.
        catch_unwind(AssertUnwindSafe(|| brush_parser::parse_tokens(&tokens, &ParserOptions::default())))
    });
    match parsed {
        Ok(Ok(program)) => Ok(Arc::new(Tree { program, words, text: text.to_owned() })),
        Ok(Err(_)) | Err(_) => Err(Unreadable::Syntax),
    }
}

fn for_grammar(token: Token) -> brush_parser::Token {
    match token {
        Token::Operator(text, start, end) => brush_parser::Token::Operator(text.to_owned(), span(start, end)),
        Token::Raw(text, start, end) => brush_parser::Token::Word(text, span(start, end)),
        Token::Word(index, start, end) => {
            brush_parser::Token::Word(format!("{WORD}{index}"), span(start, end))
        }
        Token::Assignment(name, value, start, end) => {
            let value = value.map(|index| format!("{WORD}{index}")).unwrap_or_default();
            brush_parser::Token::Word(format!("{name}={value}"), span(start, end))
        }
    }
}

fn span(start: usize, end: usize) -> SourceSpan {
    let position = |index| Arc::new(SourcePosition { index, line: 1, column: index + 1 });
    SourceSpan { start: position(start), end: position(end) }
}
