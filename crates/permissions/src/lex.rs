//! Cuts a shell command into the tokens bash would see, without running anything.
//!
//! Quotes, escapes, comments, here-documents and the extent of `$(…)`, `${…}` and `` `…` `` are decided here, in
//! linear time and with a bounded depth; the grammar above it is `brush-parser`'s. Where bash's own reading depends
//! on things this file does not follow, the answer is [`Unreadable`], never a guess.
//!
//! The invariant: every byte of the text belongs to a token, a comment, a here-document or a blank.

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

struct Here {
    word: usize,
    delimiter: String,
    literal: bool,
    strip_tabs: bool,
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

    /// Tokens up to the end, or up to an unmatched `)` (not consumed) when `close` is given.
    fn list(&mut self, close: Option<char>) -> Lexed<Tokens> {
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

    fn blanks(&mut self) {
        loop {
            self.skip_continuations();
            match self.peek() {
                Some(c) if is_blank(c) => self.at += 1,
                _ => return,
            }
        }
    }

    fn here_tag(&mut self, strip_tabs: bool, out: &mut Tokens) -> Lexed<Here> {
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

    fn here_document(&mut self, here: Here, out: &mut Tokens) -> Lexed<()> {
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

    /// `(( … ))` as one word; false when these are two subshells.
    fn arithmetic_command(&mut self, out: &mut Tokens) -> Lexed<bool> {
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
    fn arithmetic_for(&mut self, out: &mut Tokens, start: usize) -> Lexed<bool> {
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
    fn arithmetic(&mut self, second: &str, close: char) -> Lexed<Option<Vec<Part>>> {
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

    /// `(…)` after `name=`.
    fn array(&mut self, out: &mut Tokens) -> Lexed<()> {
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

    /// One word, up to a character that ends it.
    fn word(&mut self) -> Lexed<Word> {
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
    fn until_parenthesis(&mut self) -> Lexed<String> {
        let from = self.at;
        self.deeper(|l| l.list(Some(')')))?;
        let inner = self.text.get(from..self.at).unwrap_or("").to_owned();
        if !self.eat(')') {
            return Err(Unreadable::Syntax);
        }
        Ok(inner)
    }

    /// Inside double quotes up to `close`, or a whole text.
    fn double_quoted(&mut self, parts: &mut Vec<Part>, close: Option<char>) -> Lexed<()> {
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

    fn backticks(&mut self, parts: &mut Vec<Part>) -> Lexed<()> {
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

    fn dollar(&mut self, parts: &mut Vec<Part>, quoted: bool) -> Lexed<()> {
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

    /// After `$'`, up to and including the quote.
    fn ansi_c(&mut self) -> Lexed<String> {
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

impl Tokens {
    fn word(&mut self, word: Word) -> usize {
        self.words.push(word);
        self.words.len() - 1
    }
}

impl Parameter {
    fn plain(name: String, quoted: bool) -> Self {
        Self { name, index: None, operator: String::new(), argument: Vec::new(), quoted }
    }
}

fn push_text(parts: &mut Vec<Part>, c: char) {
    match parts.last_mut() {
        Some(Part::Text(text)) => text.push(c),
        _ => parts.push(Part::Text(c.into())),
    }
}

fn push_quoted(parts: &mut Vec<Part>, text: &str) {
    match parts.last_mut() {
        Some(Part::Quoted(before)) => before.push_str(text),
        _ => parts.push(Part::Quoted(text.to_owned())),
    }
}

/// `name=value`, `name+=value` (the name then ends in `+`) and `name[…]=value`.
fn assignment(word: &Word) -> Option<(String, Word)> {
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
