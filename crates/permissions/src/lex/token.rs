//! What a command is cut into: tokens for the grammar, and the words they name with their pieces.
//!
//! Nothing here reads text. The invariant: neighbouring pieces of one kind are one piece.

/// A piece of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Unquoted text: braces, `~` and patterns in it are active.
    Text(String),
    /// Text that means itself.
    Quoted(String),
    /// `$name`, `${…}`.
    Parameter(Parameter),
    /// The text inside `$(…)` or backticks.
    Command(String),
    /// The text inside `<(…)` or `>(…)`.
    Process(String),
    /// The parts of an arithmetic expression: what is substituted in it matters, its value does not.
    Arithmetic(Vec<Part>),
}

/// A parameter expansion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// A name, a digit or one of `@*#?$!-`.
    pub name: String,
    /// `[@]`, `[*]`, `[0]` without the brackets.
    pub index: Option<String>,
    /// The operator: empty, `-`, `:-`, `=`, `%`, `/`, `!` (indirect), `#` (length) and so on.
    pub operator: String,
    /// What follows the operator.
    pub argument: Vec<Part>,
    /// Inside double quotes: no splitting, no patterns.
    pub quoted: bool,
}

/// A word as it stands in the command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Word {
    /// Its pieces.
    pub parts: Vec<Part>,
    /// The body of a here-document: what its reader gets is `parts`.
    pub is_here_document: bool,
    /// `name[…]=…` as a whole.
    pub is_element: bool,
}

impl Word {
    /// The text when the word is one unquoted literal: what can be a keyword.
    pub fn bare(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }
}

/// A token for the grammar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// An operator or a newline.
    Operator(&'static str, usize, usize),
    /// A word of [`Tokens::words`].
    Word(usize, usize, usize),
    /// A word that only the grammar reads: a keyword or the number of a descriptor.
    Raw(String, usize, usize),
    /// `name=` in front of a word of [`Tokens::words`] (`None`: an array follows).
    Assignment(String, Option<usize>, usize, usize),
}

/// A text cut into tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tokens {
    /// In order.
    pub tokens: Vec<Token>,
    /// The words they name.
    pub words: Vec<Word>,
}

impl Tokens {
    pub(super) fn word(&mut self, word: Word) -> usize {
        self.words.push(word);
        self.words.len() - 1
    }
}

impl Parameter {
    pub(super) fn plain(name: String, quoted: bool) -> Self {
        Self { name, index: None, operator: String::new(), argument: Vec::new(), quoted }
    }
}

pub(super) fn push_text(parts: &mut Vec<Part>, c: char) {
    match parts.last_mut() {
        Some(Part::Text(text)) => text.push(c),
        _ => parts.push(Part::Text(c.into())),
    }
}

pub(super) fn push_quoted(parts: &mut Vec<Part>, text: &str) {
    match parts.last_mut() {
        Some(Part::Quoted(before)) => before.push_str(text),
        _ => parts.push(Part::Quoted(text.to_owned())),
    }
}
