//! Reads a shell command into simple commands, as far as that can be done without running it.
//!
//! Quotes, escapes, lists, pipelines, subshells, here-documents, redirections and nested substitutions are
//! followed; the text inside `$(…)`, backticks and `<(…)` becomes commands of the same script. What cannot
//! be known before running (variables, computed names) is marked, never guessed. It does not understand the
//! shell's keywords beyond skipping them, and does not need to: commands are found wherever they stand.
//!
//! The invariant: a command that would run is in [`Script::commands`], or [`Script::opaque`] is set.

use std::iter::Peekable;
use std::str::Chars;

/// Substitutions nested deeper are not followed and make the script opaque. Larger risks the stack.
const MAX_DEPTH: usize = 8;
/// Stands in [`Word::text`] where an expansion has a value nobody knows before running.
pub const UNKNOWN: char = '\u{10ffff}';

/// One word after quote removal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Word {
    /// The text; [`UNKNOWN`] where a value is not known.
    pub text: String,
    /// Byte offset of the first unquoted `*`, `?` or `[`.
    pub glob_at: Option<usize>,
    /// Unquoted braces that expand to several words.
    pub braces: bool,
    /// Some part was quoted: it is not a keyword and not an assignment.
    pub quoted: bool,
}

impl Word {
    /// True when the word's value is not known before running.
    pub fn is_dynamic(&self) -> bool {
        self.braces || self.text.contains(UNKNOWN)
    }

    /// The text when it is exactly known and names one thing.
    pub fn literal(&self) -> Option<&str> {
        (!self.is_dynamic() && self.glob_at.is_none()).then_some(self.text.as_str())
    }
}

/// What a redirection does to its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redirect {
    /// `<`
    Read,
    /// `>>`, `<>`
    Append,
    /// `>`, `>|`, `&>`
    Truncate,
}

/// One command with its arguments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Simple {
    /// Name and arguments; leading assignments and keywords removed. May be empty (`> file`).
    pub words: Vec<Word>,
    /// Redirections to and from files.
    pub redirects: Vec<(Redirect, Word)>,
    /// Bodies of here-documents and here-strings it reads.
    pub here: Vec<String>,
    /// Reads the output of the command before it.
    pub piped: bool,
    /// Had leading assignments.
    pub assigns: bool,
}

/// A whole command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Script {
    /// Every simple command, nested ones included, in order of appearance.
    pub commands: Vec<Simple>,
    /// Something could not be analysed.
    pub opaque: bool,
}

/// Values of variables that are known before running.
pub type Known<'a> = &'a [(&'a str, &'a str)];

/// Reads `text`. A text that is no valid command gives an opaque script with what was understood.
pub fn parse(text: &str, known: Known<'_>) -> Script {
    let mut script = Script::default();
    parse_into(text, known, MAX_DEPTH, &mut script);
    script
}

fn parse_into(text: &str, known: Known<'_>, depth: usize, script: &mut Script) {
    if depth == 0 {
        script.opaque = true;
        return;
    }
    let line_start = script.commands.len();
    let mut reader = Reader {
        chars: text.chars().peekable(),
        known,
        depth,
        script,
        current: Simple::default(),
        pending_here: Vec::new(),
        line_start,
    };
    if reader.run().is_none() {
        reader.end_command(false);
        script.opaque = true;
    }
}

/// A command word that only introduces other commands.
const KEYWORDS: [&str; 13] =
    ["if", "then", "else", "elif", "fi", "while", "until", "do", "done", "{", "}", "!", "esac"];

struct Reader<'a, 's> {
    chars: Peekable<Chars<'a>>,
    known: Known<'a>,
    depth: usize,
    script: &'s mut Script,
    current: Simple,
    /// Delimiter, whether the body is literal, whether leading tabs are stripped.
    pending_here: Vec<(String, bool, bool)>,
    /// Commands from here on stand on the present line.
    line_start: usize,
}

impl Reader<'_, '_> {
    /// `None` on a syntax that is not understood (unclosed quotes, mostly).
    fn run(&mut self) -> Option<()> {
        while let Some(&c) = self.chars.peek() {
            match c {
                ' ' | '\t' | '\r' => {
                    self.chars.next();
                }
                '\n' => {
                    self.chars.next();
                    self.end_command(false);
                    self.read_here_documents();
                }
                ';' | '(' | ')' => {
                    self.chars.next();
                    self.end_command(false);
                }
                '|' => {
                    self.chars.next();
                    let or = self.chars.next_if_eq(&'|').is_some();
                    self.chars.next_if_eq(&'&');
                    self.end_command(!or);
                }
                '&' => {
                    self.chars.next();
                    if self.chars.next_if_eq(&'>').is_some() {
                        let append = self.chars.next_if_eq(&'>').is_some();
                        self.redirect(if append { Redirect::Append } else { Redirect::Truncate })?;
                    } else {
                        self.end_command(false);
                    }
                }
                '#' => while self.chars.next_if(|&c| c != '\n').is_some() {},
                '<' | '>' => self.angle()?,
                _ => {
                    let word = self.word()?;
                    let is_fd = !word.quoted
                        && word.text.bytes().all(|b| b.is_ascii_digit())
                        && matches!(self.chars.peek(), Some('<' | '>'));
                    if !is_fd {
                        self.current.words.push(word);
                    }
                }
            }
        }
        self.end_command(false);
        self.pending_here.is_empty().then_some(())
    }

    fn angle(&mut self) -> Option<()> {
        let first = self.chars.next()?;
        if self.chars.peek() == Some(&'(') {
            self.substitution()?;
            self.current.words.push(Word { text: UNKNOWN.into(), ..Word::default() });
            return Some(());
        }
        if first == '>' {
            if self.chars.next_if_eq(&'>').is_some() {
                return self.redirect(Redirect::Append);
            }
            self.chars.next_if_eq(&'|');
            if self.chars.next_if_eq(&'&').is_some() {
                return self.duplicate(Redirect::Truncate);
            }
            return self.redirect(Redirect::Truncate);
        }
        if self.chars.next_if_eq(&'>').is_some() {
            return self.redirect(Redirect::Append);
        }
        if self.chars.next_if_eq(&'&').is_some() {
            return self.duplicate(Redirect::Read);
        }
        if self.chars.next_if_eq(&'<').is_none() {
            return self.redirect(Redirect::Read);
        }
        if self.chars.next_if_eq(&'<').is_some() {
            let word = self.next_word()?;
            self.current.here.push(word.text);
            return Some(());
        }
        let strip = self.chars.next_if_eq(&'-').is_some();
        let word = self.next_word()?;
        self.pending_here.push((word.text, word.quoted, strip));
        Some(())
    }

    /// `>&2` copies a descriptor, `>&file` writes a file.
    fn duplicate(&mut self, kind: Redirect) -> Option<()> {
        let word = self.next_word()?;
        let is_fd =
            word.literal().is_some_and(|t| t == "-" || t.trim_end_matches('-').parse::<u32>().is_ok());
        if !is_fd {
            self.current.redirects.push((kind, word));
        }
        Some(())
    }

    fn redirect(&mut self, kind: Redirect) -> Option<()> {
        let word = self.next_word()?;
        self.current.redirects.push((kind, word));
        Some(())
    }

    fn next_word(&mut self) -> Option<Word> {
        while self.chars.next_if(|c| matches!(c, ' ' | '\t')).is_some() {}
        match self.chars.peek() {
            None | Some('\n' | ';' | '|' | '&' | '(' | ')') => None,
            Some('<' | '>') => {
                self.chars.next();
                self.substitution()?;
                Some(Word { text: UNKNOWN.into(), ..Word::default() })
            }
            Some(_) => self.word(),
        }
    }

    fn word(&mut self) -> Option<Word> {
        let mut word = Word::default();
        if self.chars.next_if_eq(&'~').is_some() {
            self.tilde(&mut word);
        }
        while let Some(&c) = self.chars.peek() {
            match c {
                ' ' | '\t' | '\r' | '\n' | ';' | '|' | '&' | '(' | ')' | '<' | '>' => break,
                _ => {}
            }
            self.chars.next();
            match c {
                '\\' => match self.chars.next()? {
                    '\n' => {}
                    escaped => {
                        word.quoted = true;
                        word.text.push(escaped);
                    }
                },
                '\'' => {
                    word.quoted = true;
                    self.until_quote(&mut word.text)?;
                }
                '"' => {
                    word.quoted = true;
                    self.double_quoted(&mut word)?;
                }
                '`' => self.backticks(&mut word)?,
                '$' => self.dollar(&mut word)?,
                '*' | '?' | '[' => {
                    word.glob_at.get_or_insert(word.text.len());
                    word.text.push(c);
                }
                '{' => {
                    let rest = self.chars.clone();
                    let inner: String =
                        rest.take_while(|c| !matches!(c, ' ' | '\t' | '\n' | ';' | '|' | '&')).collect();
                    word.braces |= inner.contains('}') && (inner.contains(',') || inner.contains(".."));
                    word.text.push(c);
                }
                _ => word.text.push(c),
            }
        }
        Some(word)
    }

    fn tilde(&mut self, word: &mut Word) {
        match self.chars.peek() {
            None | Some('/' | ' ' | '\t' | '\n' | ';' | '|' | '&' | ')') => self.push_variable("HOME", word),
            Some(_) => word.text.push(UNKNOWN),
        }
    }

    fn until_quote(&mut self, text: &mut String) -> Option<()> {
        loop {
            match self.chars.next()? {
                '\'' => return Some(()),
                c => text.push(c),
            }
        }
    }

    fn double_quoted(&mut self, word: &mut Word) -> Option<()> {
        loop {
            match self.chars.next()? {
                '"' => return Some(()),
                '\\' => match self.chars.next()? {
                    '\n' => {}
                    c @ ('"' | '\\' | '$' | '`') => word.text.push(c),
                    c => word.text.extend(['\\', c]),
                },
                '`' => self.backticks(word)?,
                '$' => self.dollar(word)?,
                c => word.text.push(c),
            }
        }
    }

    fn backticks(&mut self, word: &mut Word) -> Option<()> {
        let mut inner = String::new();
        loop {
            match self.chars.next()? {
                '`' => break,
                '\\' => match self.chars.next()? {
                    c @ ('`' | '\\' | '$') => inner.push(c),
                    c => inner.extend(['\\', c]),
                },
                c => inner.push(c),
            }
        }
        parse_into(&inner, self.known, self.depth - 1, self.script);
        word.text.push(UNKNOWN);
        Some(())
    }

    fn dollar(&mut self, word: &mut Word) -> Option<()> {
        match self.chars.peek().copied() {
            Some('(') => {
                self.substitution()?;
                word.text.push(UNKNOWN);
            }
            Some('{') => {
                self.chars.next();
                let inner = self.balanced('{', '}')?;
                if inner.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                    self.push_variable(&inner, word);
                } else {
                    // A default value may hide a substitution.
                    self.script.opaque |= inner.contains('`') || inner.contains("$(");
                    word.text.push(UNKNOWN);
                }
            }
            Some('\'') => {
                self.chars.next();
                word.quoted = true;
                let mut inner = String::new();
                loop {
                    match self.chars.next()? {
                        '\'' => break,
                        '\\' => {
                            self.chars.next()?;
                            inner.push(UNKNOWN);
                        }
                        c => inner.push(c),
                    }
                }
                word.text.push_str(&inner);
            }
            Some('"') => {}
            Some(c) if c.is_ascii_alphabetic() || c == '_' => {
                let mut name = String::new();
                while let Some(c) = self.chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
                    name.push(c);
                }
                self.push_variable(&name, word);
            }
            Some('0'..='9' | '@' | '*' | '#' | '?' | '$' | '!' | '-') => {
                self.chars.next();
                word.text.push(UNKNOWN);
            }
            _ => word.text.push('$'),
        }
        Some(())
    }

    fn push_variable(&self, name: &str, word: &mut Word) {
        match self.known.iter().find(|(n, _)| *n == name) {
            Some((_, value)) => word.text.push_str(value),
            None => word.text.push(UNKNOWN),
        }
    }

    /// `(…)` after `$`, `<` or `>`: commands, or arithmetic whose nested substitutions are commands too.
    fn substitution(&mut self) -> Option<()> {
        self.chars.next_if_eq(&'(')?;
        let inner = self.balanced('(', ')')?;
        match inner.strip_prefix('(').and_then(|i| i.strip_suffix(')')) {
            Some(arithmetic) => self.script.opaque |= arithmetic.contains("$(") || arithmetic.contains('`'),
            None => parse_into(&inner, self.known, self.depth - 1, self.script),
        }
        Some(())
    }

    /// The text up to the closing bracket, quotes respected.
    fn balanced(&mut self, open: char, close: char) -> Option<String> {
        let mut text = String::new();
        let mut level = 1;
        let mut quote = None;
        loop {
            let c = self.chars.next()?;
            match (quote, c) {
                (_, '\\') if quote != Some('\'') => {
                    text.push(c);
                    text.push(self.chars.next()?);
                    continue;
                }
                (None, '\'' | '"') => quote = Some(c),
                (Some(q), c) if q == c => quote = None,
                // Inside double quotes a nested `$(…)` still has to be balanced.
                (None | Some('"'), c) if c == open => level += 1,
                (None | Some('"'), c) if c == close => level -= 1,
                _ => {}
            }
            if level == 0 {
                return Some(text);
            }
            text.push(c);
        }
    }

    fn read_here_documents(&mut self) {
        for (delimiter, literal, strip) in std::mem::take(&mut self.pending_here) {
            let mut body = String::new();
            while self.chars.peek().is_some() {
                let mut line = String::new();
                while let Some(c) = self.chars.next_if(|&c| c != '\n') {
                    line.push(c);
                }
                self.chars.next();
                let bare = if strip { line.trim_start_matches('\t') } else { &line };
                if bare == delimiter {
                    break;
                }
                body.push_str(bare);
                body.push('\n');
            }
            if !literal && (body.contains("$(") || body.contains('`')) {
                self.script.opaque = true;
            }
            // Which command of the line reads it does not matter to any rule: all of them get it.
            for command in &mut self.script.commands[self.line_start..] {
                command.here.push(body.clone());
            }
        }
        self.line_start = self.script.commands.len();
    }

    fn end_command(&mut self, next_is_piped: bool) {
        let mut simple = std::mem::take(&mut self.current);
        self.current.piped = next_is_piped;
        while let Some(first) = simple.words.first() {
            let plain = if first.quoted { "" } else { first.text.as_str() };
            match plain {
                // Its other words are data, up to a `do` on the same line.
                "for" | "select" => {
                    let end = simple.words.iter().position(|w| !w.quoted && w.text == "do");
                    simple.words.drain(..end.unwrap_or(simple.words.len()));
                }
                "case" => simple.words.clear(),
                "function" => drop(simple.words.drain(..simple.words.len().min(2))),
                "coproc" => {
                    self.script.opaque = true;
                    simple.words.remove(0);
                }
                word if KEYWORDS.contains(&word) => drop(simple.words.remove(0)),
                _ if is_assignment(first) => {
                    simple.assigns = true;
                    simple.words.remove(0);
                }
                _ => break,
            }
        }
        if !simple.words.is_empty() || !simple.redirects.is_empty() || simple.assigns {
            self.script.commands.push(simple);
        }
    }
}

fn is_assignment(word: &Word) -> bool {
    let Some((name, _)) = word.text.split_once('=') else { return false };
    let name = name.strip_suffix('+').unwrap_or(name);
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The command as it is shown and remembered: outer blanks removed, runs of blanks outside quotes made one.
/// Commands of several lines are kept as they are, because there blanks can be content.
pub fn normalised(command: &str) -> String {
    let command = command.trim();
    if command.contains('\n') {
        return command.to_owned();
    }
    let mut out = String::with_capacity(command.len());
    let (mut quote, mut blank) = (None, false);
    let mut chars = command.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, ' ' | '\t') => {
                blank = true;
                continue;
            }
            (None, '\'' | '"' | '`') => quote = Some(c),
            (Some(q), c) if q == c => quote = None,
            _ => {}
        }
        if std::mem::take(&mut blank) {
            out.push(' ');
        }
        out.push(c);
        if c == '\\' && quote != Some('\'') {
            out.extend(chars.next());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(text: &str) -> Vec<String> {
        parse(text, &[("HOME", "/home/me")])
            .commands
            .iter()
            .map(|c| c.words.iter().map(|w| w.text.replace(UNKNOWN, "¤")).collect::<Vec<_>>().join(" "))
            .collect()
    }

    #[test]
    fn commands_are_found_wherever_they_stand() {
        let table: &[(&str, &[&str])] = &[
            ("a b; c && d || e | f & g", &["a b", "c", "d", "e", "f", "g"]),
            ("(cd x; rm y)", &["cd x", "rm y"]),
            ("if a; then rm b; fi", &["a", "rm b"]),
            ("for i in 1 2; do rm $i; done", &["rm ¤"]),
            ("echo $(rm a; b) c", &["rm a", "b", "echo ¤ c"]),
            ("echo \"x $(rm 'a b') y\"", &["rm a b", "echo x ¤ y"]),
            ("echo `rm a`", &["rm a", "echo ¤"]),
            ("diff <(rm a) b", &["rm a", "diff ¤ b"]),
            ("X=1 Y=2 rm a", &["rm a"]),
            ("r\\m 'a;b' \"c|d\"", &["rm a;b c|d"]),
            ("f() { rm -rf a; }", &["f", "rm -rf a"]),
            ("case x in a) rm b;; esac", &["rm b"]),
            ("echo a # rm b\nc", &["echo a", "c"]),
            ("ls ~ ~/x ~bob", &["ls /home/me /home/me/x ¤bob"]),
            ("rm $HOME/x ${HOME}/y ${Z:-/}", &["rm /home/me/x /home/me/y ¤"]),
            ("rm $'\\x2fa'", &["rm ¤2fa"]),
            ("while read x; do rm \"$x\"; done < list", &["read x", "rm ¤", ""]),
            ("cat <<EOF\nrm a\nEOF\nb", &["cat", "b"]),
            ("echo a\\\nb", &["echo ab"]),
            ("! rm a", &["rm a"]),
            ("for x do rm $x; done", &["rm ¤"]),
            ("function f { rm -rf a; }", &["rm -rf a"]),
        ];
        for (text, expected) in table {
            assert_eq!(&names(text), expected, "{text}");
        }
    }

    #[test]
    fn redirections_know_what_they_do() {
        let script = parse("a > x 2>> y 2>&1 < z &> w; >| v", &[]);
        let kinds: Vec<_> =
            script.commands.iter().flat_map(|c| &c.redirects).map(|(k, w)| (*k, w.text.as_str())).collect();
        use Redirect::{Append, Read, Truncate};
        let expected = [(Truncate, "x"), (Append, "y"), (Read, "z"), (Truncate, "w"), (Truncate, "v")];
        assert_eq!(kinds, expected);
    }

    #[test]
    fn what_cannot_be_read_is_opaque() {
        for text in ["echo 'unclosed", "echo $(", "cat <<EOF\n$(rm a)\nEOF", "echo ${x:-$(rm a)}"] {
            assert!(parse(text, &[]).opaque, "{text}");
        }
        assert!(!parse("echo $((1+2)) {a,b} *.rs", &[]).opaque);
        assert!(parse("rm {a,../../b}", &[]).commands[0].words[1].is_dynamic());
    }

    #[test]
    fn normalising_changes_blanks_outside_quotes_only() {
        assert_eq!(normalised("  rm   -rf \t '/a  b'  \"c  d\" e\\  f "), "rm -rf '/a  b' \"c  d\" e\\  f");
        assert_eq!(normalised("a\n  b"), "a\n  b");
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_reader(text in "[ -~\n]{0,60}") {
            let script = parse(&text, &[]);
            prop_assert!(script.commands.len() <= text.len());
            normalised(&text);
        }
    }
}
