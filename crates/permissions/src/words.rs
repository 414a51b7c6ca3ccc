//! What the words of a command stand for: braces, `~`, variables, patterns, substitutions.
//!
//! A word gives the fields it may become. Where several values are possible there are several fields, because the
//! question is what may be touched, not what will be. What is not known is marked, never guessed.
//!
//! The invariant: a field without marks is a value the command can really see.

use crate::lex::{Parameter, Part, Word};
use crate::pattern::{self, BELOW, UNKNOWN, activate};
use crate::walk::Walker;

/// Fields of one word. More comes from braces or many possible values; beyond it the command counts as opaque.
pub const MAX_FIELDS: usize = 512;
/// Possible values of one variable. Beyond it the value counts as unknown.
pub const MAX_VALUES: usize = 64;
/// Characters of one field. Doubling a variable again and again would fill the memory.
pub const MAX_FIELD_CHARS: usize = 16_384;
/// Braces in one word that are looked at. Finding their partners takes time with the square of it.
const MAX_BRACES: usize = 64;
/// Braces inside braces.
const MAX_BRACE_DEPTH: usize = 8;
/// A longer sequence (`{1..1000}`) is numbers nobody needs to see one by one.
const MAX_SEQUENCE: i64 = 64;

/// One argument.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Field {
    /// The text, with the marks of [`crate::pattern`].
    pub text: String,
    /// May become any number of arguments.
    pub many: bool,
}

impl Field {
    /// A field that is this text.
    pub fn known(text: impl Into<String>) -> Self {
        Self { text: text.into(), many: false }
    }

    /// A field nobody knows.
    pub fn unknown() -> Self {
        Self { text: UNKNOWN.into(), many: true }
    }

    /// True when some of it is not known before running.
    pub fn is_dynamic(&self) -> bool {
        self.text.contains([UNKNOWN, BELOW])
    }

    /// The text when it is known and is no pattern.
    pub fn literal(&self) -> Option<&str> {
        (!self.text.contains(pattern::is_mark)).then_some(self.text.as_str())
    }

    /// The text with patterns as they were written.
    pub fn shown(&self) -> String {
        pattern::plain(&self.text)
    }

    /// The text with patterns as they were written, and the mark of the unknown where something is not known.
    pub fn as_far_as_known(&self) -> String {
        let unmarked = |c: char| match c {
            UNKNOWN | BELOW => UNKNOWN.to_string(),
            c => pattern::plain(c.encode_utf8(&mut [0; 4])),
        };
        self.text.chars().map(unmarked).collect()
    }

    /// True when it could turn out to be an option.
    pub fn may_be_option(&self) -> bool {
        self.text.starts_with([UNKNOWN, '-'])
    }
}

/// The possible values of a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// One of these.
    Known(Vec<String>),
    /// Nobody knows.
    Unknown,
}

impl Value {
    /// Both this and another value are possible.
    pub fn or(self, other: Value) -> Value {
        match (self, other) {
            (Value::Known(mut a), Value::Known(b)) => {
                for value in b {
                    if !a.contains(&value) {
                        a.push(value);
                    }
                }
                if a.len() > MAX_VALUES { Value::Unknown } else { Value::Known(a) }
            }
            (Value::Unknown, _) | (_, Value::Unknown) => Value::Unknown,
        }
    }
}

/// How a word is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// As arguments: split and matched.
    Arguments,
    /// As one value: of an assignment or a redirection.
    Single,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Atom<'a> {
    Char(char),
    Part(&'a Part),
}

enum Expansion {
    /// One of these texts.
    OneOf(Vec<String>),
    /// All of these, each an argument of its own.
    All(Vec<String>),
}

impl Walker<'_> {
    /// What the word may become.
    pub(crate) fn fields(&mut self, word: &Word, usage: Use) -> Vec<Field> {
        if let [Part::Quoted(text)] = word.parts.as_slice() {
            return vec![Field::known(text.clone())];
        }
        let mut atoms = Vec::new();
        for part in &word.parts {
            match part {
                Part::Text(text) => atoms.extend(text.chars().map(Atom::Char)),
                part => atoms.push(Atom::Part(part)),
            }
        }
        let members = match usage {
            Use::Arguments => braces(&atoms, MAX_BRACE_DEPTH),
            Use::Single => Some(vec![atoms]),
        };
        let Some(members) = members else {
            self.meet_limit();
            return vec![Field::unknown()];
        };
        let mut fields = Vec::new();
        for atoms in &members {
            let lines = self.expand(atoms, usage);
            fields.extend(lines.into_iter().flatten());
            if fields.len() > MAX_FIELDS {
                self.meet_limit();
                return vec![Field::unknown()];
            }
        }
        fields.dedup();
        fields
    }

    /// What the word may become, each possibility a list of fields of its own.
    pub(crate) fn possibilities(&mut self, word: &Word) -> Vec<Vec<Field>> {
        let mut atoms = Vec::new();
        for part in &word.parts {
            match part {
                Part::Text(text) => atoms.extend(text.chars().map(Atom::Char)),
                part => atoms.push(Atom::Part(part)),
            }
        }
        let mut out: Vec<Vec<Field>> = vec![Vec::new()];
        let Some(members) = braces(&atoms, MAX_BRACE_DEPTH) else {
            self.meet_limit();
            return vec![vec![Field::unknown()]];
        };
        for atoms in members {
            let lines = self.expand(&atoms, Use::Arguments);
            if out.len() * lines.len() > MAX_VALUES {
                self.meet_limit();
                return vec![vec![Field::unknown()]];
            }
            out = out
                .iter()
                .flat_map(|head| lines.iter().map(move |line| [head.as_slice(), line].concat()))
                .collect();
        }
        if out.iter().map(Vec::len).sum::<usize>() > MAX_FIELDS {
            self.meet_limit();
            return vec![vec![Field::unknown()]];
        }
        out
    }

    /// The one text a word stands for, with all its possible values.
    pub(crate) fn value(&mut self, word: &Word) -> Value {
        let fields = self.fields(word, Use::Single);
        let known: Vec<String> = fields.into_iter().map(|f| f.text).collect();
        if known.is_empty() { Value::Known(vec![String::new()]) } else { Value::Known(known) }
    }

    fn expand(&mut self, atoms: &[Atom<'_>], usage: Use) -> Vec<Vec<Field>> {
        // Every alternative is a list of fields whose last one is still open; `true` when it has begun.
        let mut lines: Vec<(Vec<Field>, bool)> = vec![(vec![Field::default()], false)];
        let mut at = 0;
        while at < atoms.len() {
            let mut step = 1;
            let (expansion, quoted) = match &atoms[at] {
                Atom::Char('~') if tilde_counts(&atoms[..at]) => {
                    let name: String = atoms[at + 1..]
                        .iter()
                        .map_while(|a| match a {
                            Atom::Char(c) if !matches!(c, '/' | ':') => Some(*c),
                            Atom::Char(_) | Atom::Part(_) => None,
                        })
                        .collect();
                    step += name.chars().count();
                    let glued = matches!(atoms.get(at + step), Some(Atom::Part(_)));
                    (Expansion::OneOf(if glued { vec![UNKNOWN.into()] } else { self.tilde(&name) }), true)
                }
                Atom::Char(c) => {
                    let c = if usage == Use::Arguments { activate(*c) } else { *c };
                    (Expansion::OneOf(vec![c.into()]), true)
                }
                Atom::Part(Part::Quoted(text)) => (Expansion::OneOf(vec![text.clone()]), true),
                Atom::Part(Part::Text(text)) => (Expansion::OneOf(vec![text.clone()]), true),
                Atom::Part(Part::Arithmetic(inner)) => {
                    self.look_inside(inner);
                    (Expansion::OneOf(vec![UNKNOWN.into()]), true)
                }
                Atom::Part(Part::Process(text)) => {
                    self.substituted = match self.output(text).as_deref() {
                        Some([only]) => Some(only.clone()),
                        Some(_) | None => None,
                    };
                    // A pipe: whatever it is called, it is no file.
                    (Expansion::OneOf(vec!["/dev/fd/63".into()]), true)
                }
                Atom::Part(Part::Command(text)) => {
                    let output = self.output(text);
                    // Splitting what nobody knows gives anything.
                    (Expansion::OneOf(output.unwrap_or_else(|| vec![UNKNOWN.into()])), false)
                }
                Atom::Part(Part::Parameter(parameter)) => {
                    let leads =
                        atoms[..at].iter().all(|a| matches!(a, Atom::Part(Part::Quoted(t)) if t.is_empty()));
                    let mut expansion = self.parameter(parameter);
                    // `$X/etc` is `/etc` where nobody has set X.
                    if let Expansion::OneOf(values) = &mut expansion
                        && leads
                        && parameter.operator.is_empty()
                        && self.may_be_unset(&parameter.name)
                    {
                        values.push(String::new());
                    }
                    (expansion, parameter.quoted)
                }
            };
            at += step;
            let split = usage == Use::Arguments && !quoted;
            lines = self.append(lines, expansion, split);
        }
        let mut out: Vec<Vec<Field>> = Vec::new();
        for (mut line, begun) in lines {
            // An unquoted expansion that was empty leaves no argument.
            let empty = line.last().is_some_and(|f| f.text.is_empty());
            if empty && !begun && !atoms.is_empty() {
                line.pop();
            }
            out.push(line);
        }
        out.dedup();
        out
    }

    fn append(
        &mut self,
        lines: Vec<(Vec<Field>, bool)>,
        expansion: Expansion,
        split: bool,
    ) -> Vec<(Vec<Field>, bool)> {
        let mut out = Vec::new();
        match expansion {
            Expansion::All(texts) => {
                for (mut line, begun) in lines {
                    for (index, text) in texts.iter().enumerate() {
                        if index > 0 {
                            line.push(Field::default());
                        }
                        self.extend_last(&mut line, text);
                    }
                    out.push((line, begun || !texts.is_empty()));
                }
            }
            Expansion::OneOf(texts) => {
                if lines.len() * texts.len() > MAX_FIELDS {
                    self.meet_limit();
                    return vec![(vec![Field::unknown()], true)];
                }
                for (line, begun) in &lines {
                    for text in &texts {
                        let mut line = line.clone();
                        let begun = if split { self.split_into(&mut line, text) || *begun } else { true };
                        if !split {
                            self.extend_last(&mut line, text);
                        }
                        out.push((line, begun));
                    }
                }
            }
        }
        out
    }

    fn extend_last(&mut self, line: &mut [Field], text: &str) {
        if let Some(last) = line.last_mut() {
            if last.text.len() + text.len() > MAX_FIELD_CHARS {
                *last = Field::unknown();
                self.meet_limit();
            } else {
                last.text.push_str(text);
            }
        }
    }

    /// Splits an unquoted value; true when it left text in the open field.
    fn split_into(&mut self, line: &mut Vec<Field>, text: &str) -> bool {
        if self.separators_changed() {
            if let Some(last) = line.last_mut() {
                last.text.push(UNKNOWN);
                last.many = true;
            }
            return true;
        }
        let mut begun = false;
        for c in text.chars() {
            if matches!(c, ' ' | '\t' | '\n') {
                if line.last().is_some_and(|f| !f.text.is_empty()) {
                    line.push(Field::default());
                }
                begun = false;
                continue;
            }
            begun = true;
            if let Some(last) = line.last_mut() {
                last.text.push(activate(c));
                last.many |= c == UNKNOWN;
            }
        }
        begun
    }

    fn tilde(&mut self, name: &str) -> Vec<String> {
        match name {
            "" => match self.variable("HOME") {
                Value::Known(values) => values,
                Value::Unknown => vec![UNKNOWN.into()],
            },
            "+" => self.working_directories(),
            _ => vec![UNKNOWN.into()],
        }
    }

    fn parameter(&mut self, parameter: &Parameter) -> Expansion {
        self.look_inside(&parameter.argument);
        if let Some(index) = &parameter.index
            && !matches!(index.as_str(), "@" | "*")
        {
            return Expansion::OneOf(match self.variable(&parameter.name) {
                Value::Known(values) if parameter.operator.is_empty() => values,
                Value::Known(_) | Value::Unknown => vec![UNKNOWN.into()],
            });
        }
        if matches!(parameter.name.as_str(), "@" | "*") || parameter.index.is_some() {
            let all = match parameter.index {
                Some(_) => self.variable(&parameter.name),
                None => self.positional(),
            };
            return match all {
                Value::Known(values) if parameter.operator.is_empty() => Expansion::All(values),
                Value::Known(_) | Value::Unknown => Expansion::OneOf(vec![UNKNOWN.into()]),
            };
        }
        let value = match parameter.name.parse::<usize>() {
            Ok(0) => self.variable("0"),
            Ok(number) => match self.positional() {
                Value::Known(values) => {
                    Value::Known(vec![values.get(number - 1).cloned().unwrap_or_default()])
                }
                Value::Unknown => Value::Unknown,
            },
            Err(_) => self.variable(&parameter.name),
        };
        let unknown = || vec![UNKNOWN.to_string()];
        let argument = |walker: &mut Self| {
            let word = Word { parts: parameter.argument.clone(), ..Word::default() };
            match walker.value(&word) {
                Value::Known(values) => values,
                Value::Unknown => unknown(),
            }
        };
        Expansion::OneOf(match (parameter.operator.as_str(), value) {
            ("", Value::Known(values)) => values,
            ("-" | ":-" | "=" | ":=", value) => {
                let default = Value::Known(argument(self));
                let value = match value {
                    Value::Known(values) => Value::Known(values).or(default),
                    // An unset variable is possible, too.
                    Value::Unknown => Value::Known(unknown()).or(default),
                };
                if parameter.operator.ends_with('=') {
                    self.assign(&parameter.name, value.clone());
                }
                match value {
                    Value::Known(values) => values,
                    Value::Unknown => unknown(),
                }
            }
            ("+" | ":+", _) => {
                let mut values = argument(self);
                values.push(String::new());
                values
            }
            ("?" | ":?", Value::Known(values)) => values,
            ("%" | "%%" | "#" | "##", Value::Known(values)) => {
                let word = Word { parts: parameter.argument.clone(), ..Word::default() };
                let pattern = self.fields(&word, Use::Arguments);
                match pattern.as_slice() {
                    [pattern] => {
                        values.iter().map(|v| strip(v, &pattern.text, &parameter.operator)).collect()
                    }
                    _ => unknown(),
                }
            }
            (_, _) => unknown(),
        })
    }

    /// Walks the substitutions in parts whose own value does not matter.
    pub(crate) fn look_inside(&mut self, parts: &[Part]) {
        for part in parts {
            match part {
                Part::Command(text) | Part::Process(text) => self.substitution(text),
                Part::Arithmetic(inner) => self.look_inside(inner),
                Part::Parameter(parameter) => self.look_inside(&parameter.argument),
                Part::Text(_) | Part::Quoted(_) => {}
            }
        }
    }
}

/// `~` is special at the beginning, and after the `=` or `:` of what looks like an assignment.
fn tilde_counts(before: &[Atom<'_>]) -> bool {
    let Some(last) = before.last() else { return true };
    if !matches!(last, Atom::Char('=' | ':')) {
        return false;
    }
    let name: Vec<&Atom<'_>> = before.iter().take_while(|a| **a != Atom::Char('=')).collect();
    !name.is_empty()
        && name.len() < before.len()
        && name.iter().all(|a| matches!(a, Atom::Char(c) if c.is_ascii_alphanumeric() || *c == '_'))
}

/// `${v%p}` and its kin on a value; unknown where several readings are possible.
fn strip(value: &str, pattern: &str, operator: &str) -> String {
    if value.contains(UNKNOWN) || pattern.contains([UNKNOWN, BELOW]) {
        return UNKNOWN.into();
    }
    let boundaries: Vec<usize> = value.char_indices().map(|(i, _)| i).chain([value.len()]).collect();
    if boundaries.len() > 1024 {
        return UNKNOWN.into();
    }
    let suffix = operator.starts_with('%');
    let greedy = operator.len() == 2;
    let mut order = boundaries;
    // Shortest suffix: from the end; longest: from the front. Prefixes the other way round.
    if suffix != greedy {
        order.reverse();
    }
    for at in order {
        let (head, tail) = value.split_at(at);
        let (stripped, kept) = if suffix { (tail, head) } else { (head, tail) };
        if pattern::matches(pattern, stripped) {
            return kept.to_owned();
        }
    }
    value.to_owned()
}

/// Brace expansion; `None` when it is too much.
fn braces<'a>(atoms: &[Atom<'a>], depth: usize) -> Option<Vec<Vec<Atom<'a>>>> {
    let is = |atom: &Atom<'_>, c: char| *atom == Atom::Char(c);
    let opening: Vec<usize> = (0..atoms.len()).filter(|i| is(&atoms[*i], '{')).collect();
    if opening.is_empty() {
        return Some(vec![atoms.to_vec()]);
    }
    if opening.len() > MAX_BRACES {
        return None;
    }
    for open in opening {
        let (mut level, mut commas, mut close) = (0usize, Vec::new(), None);
        for (index, atom) in atoms.iter().enumerate().skip(open) {
            if is(atom, '{') {
                level += 1;
            } else if is(atom, '}') {
                level -= 1;
                if level == 0 {
                    close = Some(index);
                    break;
                }
            } else if is(atom, ',') && level == 1 {
                commas.push(index);
            }
        }
        let Some(close) = close else { continue };
        let depth = depth.checked_sub(1)?;
        let mut members: Vec<Vec<Atom<'a>>> = Vec::new();
        if commas.is_empty() {
            match sequence(&atoms[open + 1..close]) {
                Some(texts) => members.extend(texts.iter().map(|t| t.chars().map(Atom::Char).collect())),
                None => continue,
            }
        } else {
            let mut from = open + 1;
            for comma in commas.into_iter().chain([close]) {
                members.extend(braces(&atoms[from..comma], depth)?);
                from = comma + 1;
            }
        }
        let tails = braces(&atoms[close + 1..], depth)?;
        if members.len() * tails.len() > MAX_FIELDS {
            return None;
        }
        let join = |member: &Vec<Atom<'a>>, tail: &Vec<Atom<'a>>| {
            [&atoms[..open], member.as_slice(), tail.as_slice()].concat()
        };
        return Some(members.iter().flat_map(|m| tails.iter().map(move |t| join(m, t))).collect());
    }
    Some(vec![atoms.to_vec()])
}

/// The members of `{1..5}` and `{a..e..2}`.
fn sequence(inner: &[Atom<'_>]) -> Option<Vec<String>> {
    let text: Option<String> =
        inner.iter().map(|a| if let Atom::Char(c) = a { Some(*c) } else { None }).collect();
    let text = text?;
    let parts: Vec<&str> = text.split("..").collect();
    let (first, last, step) = match parts.as_slice() {
        [first, last] => (*first, *last, 1),
        [first, last, step] => (*first, *last, step.parse::<i64>().ok()?.checked_abs()?.max(1)),
        _ => return None,
    };
    if let (Ok(a), Ok(b)) = (first.parse::<i64>(), last.parse::<i64>()) {
        let padded = first.starts_with('0') || last.starts_with('0');
        if padded || a.checked_sub(b)?.checked_abs()? / step > MAX_SEQUENCE {
            return Some(vec![UNKNOWN.into()]);
        }
        let direction = if a <= b { step } else { -step };
        let mut out = Vec::new();
        let mut at = a;
        while (direction > 0 && at <= b) || (direction < 0 && at >= b) {
            out.push(at.to_string());
            at = at.checked_add(direction)?;
        }
        return Some(out);
    }
    let single = |t: &str| Some(t.chars().next().filter(|c| c.is_ascii_alphabetic() && t.len() == 1)? as u8);
    let (a, b) = (single(first)?, single(last)?);
    let step = usize::try_from(step).ok()?;
    let letters: Vec<u8> = if a <= b { (a..=b).collect() } else { (b..=a).rev().collect() };
    Some(letters.into_iter().step_by(step).map(|b| char::from(b).to_string()).collect())
}
