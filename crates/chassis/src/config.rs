//! Read variables through a small trait, collect every problem, and never show a secret.
//!
//! A program declares its variables once, as data ([`Var`]). From that one list come validation
//! ([`Reader`]), the effective-configuration report ([`Report`]) and the reference page ([`reference_page`]).
//! Nothing here stops at the first error: a person who must restart a process for each typing mistake
//! gives up after the third.
//!
//! The invariant: the value of a variable marked `secret` appears in no text this module produces.

mod form;
mod guess;
mod kind;
mod report;
mod source;
mod words;

pub use kind::{Kind, Parsed, Rejected, parse_span, show_span};
pub use report::{Report, Row, reference_page};
pub use source::{EnvFileError, Layered, Source, Values, parse_env};

use guess::{edit_distance, likely_name};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// What stands in place of a secret in every text.
pub const REDACTED: &str = "[redacted]";

/// Origin of values that nobody set.
const DEFAULT_ORIGIN: &str = "default";

/// Edit distance up to which an undeclared name is called a misspelling of a declared one. Larger would
/// warn about unrelated variables of the host; 0 would never help.
const MISSPELLING_DISTANCE: usize = 1;

/// Ending of names that are meant as flags; an undeclared one is always worth a warning.
const FLAG_SUFFIX: &str = "_ENABLED";

/// A text that must not be shown: it prints as `[redacted]` and is overwritten when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself. Call this only where it leaves for the one place it is meant for.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.0).into_bytes();
        bytes.fill(0);
        std::hint::black_box(&bytes);
    }
}

/// The value of a variable nobody set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DefaultValue {
    /// There is none: the feature is off or the variable is required in some situations.
    None,
    /// This text, parsed like a set value.
    Text(&'static str),
    /// It depends on other variables; the description is for the reference page.
    Computed(&'static str),
}

/// One variable, declared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Var {
    /// Name in the environment.
    pub name: &'static str,
    /// Heading of the reference page under which it stands.
    pub section: &'static str,
    /// Value when not set.
    pub default: DefaultValue,
    /// Accepted values.
    pub kind: Kind,
    /// True when the value must never be shown.
    pub secret: bool,
    /// What it is for and what breaks when it is larger or smaller.
    pub meaning: &'static str,
    /// False when it is checked but steers nothing in this version.
    pub takes_effect: bool,
}

impl Var {
    /// A variable that takes effect and is not secret.
    pub const fn new(
        section: &'static str,
        name: &'static str,
        default: DefaultValue,
        kind: Kind,
        meaning: &'static str,
    ) -> Self {
        Self { name, section, default, kind, secret: false, meaning, takes_effect: true }
    }

    /// Marks the value as never to be shown.
    #[must_use]
    pub const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    /// Marks the variable as checked but without effect in this version.
    #[must_use]
    pub const fn later(mut self) -> Self {
        self.takes_effect = false;
        self
    }

    /// The text to show for a value of this variable.
    fn shown(&self, value: &str) -> String {
        if self.secret { REDACTED.to_owned() } else { hide_url_secrets(value) }
    }
}

/// One variable that is wrong, or one line of a file of variables that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Its name; for a line, file and line number with a colon between them, which no variable's name has.
    pub name: String,
    /// The value given, masked if secret; `None` when not set.
    pub value: Option<String>,
    /// What would be accepted.
    pub expected: String,
    /// The nearest accepted value.
    pub nearest: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{} is `{value}`: expected {}", self.name, self.expected)?,
            None if self.name.contains(':') => write!(f, "{}: {}", self.name, self.expected)?,
            None => write!(f, "{} is not set: expected {}", self.name, self.expected)?,
        }
        match &self.nearest {
            Some(nearest) => write!(f, "; nearest: `{nearest}`"),
            None => Ok(()),
        }
    }
}

/// Something a person should know that does not stop the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The variable it is about.
    pub name: String,
    /// The sentence.
    pub text: String,
}

/// All problems at once, with the report they were found in.
#[derive(Debug, Clone, thiserror::Error)]
pub struct Problems {
    /// What is wrong, in order of declaration, then cross checks.
    pub problems: Vec<Problem>,
    /// The configuration as far as it could be read.
    pub report: Report,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} configuration problem(s)", self.problems.len())?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

/// Replaces `user:password@` and the query in anything that looks like a URL: keys travel in both.
fn hide_url_secrets(value: &str) -> String {
    let mut shown = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(start) = rest.find("://").map(|i| i + 3) {
        let authority_end = rest[start..].find(['/', '?', '#', ',', ' ']).map_or(rest.len(), |i| start + i);
        shown.push_str(&rest[..start]);
        match rest[start..authority_end].rfind('@') {
            Some(at) => {
                shown.push_str(REDACTED);
                shown.push_str(&rest[start + at..authority_end]);
            }
            None => shown.push_str(&rest[start..authority_end]),
        }
        rest = &rest[authority_end..];
        let url_end = rest.find([',', ' ']).unwrap_or(rest.len());
        if let Some(query) = rest[..url_end].find('?') {
            shown.push_str(&rest[..=query]);
            shown.push_str(REDACTED);
            rest = &rest[url_end..];
        }
    }
    shown.push_str(rest);
    shown
}

/// Reads declared variables from a source and remembers everything worth telling.
///
/// The typed accessors answer with the default where a value is refused, so that reading can go on and
/// find the other problems; [`Reader::finish`] then refuses the whole.
pub struct Reader<'a> {
    vars: &'static [Var],
    source: &'a dyn Source,
    parsed: BTreeMap<&'static str, Parsed>,
    computed: BTreeMap<&'static str, String>,
    problems: Vec<Problem>,
    warnings: Vec<Warning>,
}

impl<'a> Reader<'a> {
    /// Validates every declared variable by itself. Lines of the source that could not be read are problems, too.
    pub fn new(vars: &'static [Var], source: &'a dyn Source) -> Self {
        let mut reader = Self {
            vars,
            source,
            parsed: BTreeMap::new(),
            computed: BTreeMap::new(),
            problems: Vec::new(),
            warnings: Vec::new(),
        };
        for fault in source.faults() {
            let place = |line| format!("{}:{line}", fault.path.display());
            reader.problems.extend(fault.lines.iter().map(|(line, expected)| Problem {
                name: place(line),
                value: None,
                expected: expected.clone(),
                nearest: None,
            }));
        }
        for var in vars {
            reader.read(var);
        }
        reader.warn_of_undeclared();
        reader
    }

    fn read(&mut self, var: &'static Var) {
        let set = self.set_text(var.name).map(|text| (var.kind.parse(&text), text));
        match set {
            Some((Ok(value), _)) => {
                self.parsed.insert(var.name, value);
                if !var.takes_effect {
                    self.warn(var.name, "accepted and checked; the feature it steers is not in this version");
                }
                return;
            }
            Some((Err(rejected), text)) => self.problems.push(Problem {
                name: var.name.to_owned(),
                value: Some(var.shown(&text)),
                expected: rejected.expected,
                nearest: rejected.nearest.filter(|_| !var.secret),
            }),
            None => {}
        }
        if let DefaultValue::Text(text) = var.default
            && let Ok(value) = var.kind.parse(text)
        {
            self.parsed.insert(var.name, value);
        }
    }

    fn warn_of_undeclared(&mut self) {
        for name in self.source.names() {
            if self.vars.iter().any(|v| v.name == name) || self.set_text(&name).is_none() {
                continue;
            }
            // names whose lengths differ by more are no misspellings; comparing them all delays the start
            let similar = |v: &&str| v.len().abs_diff(name.len()) <= MISSPELLING_DISTANCE;
            if name.ends_with(FLAG_SUFFIX) {
                let flags = self.vars.iter().filter(|v| v.kind == Kind::Flag).map(|v| v.name);
                let hint = likely_name(&name, flags).map(|f| format!("; is {f} meant?")).unwrap_or_default();
                self.warn(&name, &format!("is set but no such flag exists{hint}"));
            } else if let Some(near) = self
                .vars
                .iter()
                .map(|v| v.name)
                .filter(similar)
                .find(|near| edit_distance(&name, near) <= MISSPELLING_DISTANCE)
            {
                self.warn(&name, &format!("is set but not a variable of this program; is {near} meant?"));
            }
        }
    }

    /// Warns of every set variable that begins with `prefix` and is not declared, naming the one that is probably meant.
    pub fn warn_of_undeclared_with(&mut self, prefix: &str) {
        for name in self.source.names() {
            let declared = self.vars.iter().any(|v| v.name == name);
            let told = self.warnings.iter().any(|w| w.name == name);
            if !name.starts_with(prefix) || declared || told || self.set_text(&name).is_none() {
                continue;
            }
            let near = likely_name(&name, self.vars.iter().map(|v| v.name));
            let hint = near.map(|near| format!("; is {near} meant?")).unwrap_or_default();
            self.warn(&name, &format!("is set but not a variable of this program{hint}"));
        }
    }

    /// The trimmed text of a variable that is set; an empty one counts as not set.
    fn set_text(&self, name: &str) -> Option<String> {
        let text = self.source.get(name)?;
        let trimmed = text.trim();
        (!trimmed.is_empty()).then(|| trimmed.to_owned())
    }

    fn var(&self, name: &str) -> &'static Var {
        match self.vars.iter().find(|v| v.name == name) {
            Some(var) => var,
            None => panic!("{name} is read but not declared"),
        }
    }

    /// Is the variable set, to whatever value?
    pub fn is_set(&self, name: &str) -> bool {
        self.set_text(name).is_some()
    }

    /// Is the variable already among the problems? What follows from its value alone is then not worth telling.
    pub fn is_refused(&self, name: &str) -> bool {
        self.problems.iter().any(|p| p.name == name)
    }

    /// A text, word, path, address, URL or hash.
    ///
    /// # Panics
    /// All accessors panic when the name is not declared: that is a mistake in the program, not in the
    /// configuration, and any test that reads the configuration finds it.
    pub fn text(&self, name: &str) -> Option<String> {
        match self.parsed.get(self.var(name).name) {
            Some(Parsed::Text(text)) => Some(text.clone()),
            _ => None,
        }
    }

    /// A text that must not be shown.
    pub fn secret(&self, name: &str) -> Option<Secret> {
        self.text(name).map(Secret::new)
    }

    /// A path.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    /// A whole number; `None` when not set and without default.
    pub fn int_opt<T: TryFrom<i64>>(&self, name: &str) -> Option<T> {
        match self.parsed.get(self.var(name).name) {
            Some(Parsed::Int(n)) => T::try_from(*n).ok(),
            _ => None,
        }
    }

    /// A whole number that has a default within the type's range.
    pub fn int<T: TryFrom<i64>>(&self, name: &str) -> T {
        self.int_opt(name).unwrap_or_else(|| panic!("{name} has no default that fits the type it is read as"))
    }

    /// A decimal number that has a default.
    pub fn float(&self, name: &str) -> f64 {
        match self.parsed.get(self.var(name).name) {
            Some(Parsed::Float(n)) => *n,
            _ => panic!("{name} is not declared as a number with a default"),
        }
    }

    /// A flag that has a default.
    pub fn flag(&self, name: &str) -> bool {
        match self.parsed.get(self.var(name).name) {
            Some(Parsed::Flag(on)) => *on,
            _ => panic!("{name} is not declared as a flag with a default"),
        }
    }

    /// A duration that has a default.
    pub fn span(&self, name: &str) -> Duration {
        match self.parsed.get(self.var(name).name) {
            Some(Parsed::Span(span)) => *span,
            _ => panic!("{name} is not declared as a duration with a default"),
        }
    }

    /// A list; empty when not set and without default.
    pub fn list(&self, name: &str) -> Vec<String> {
        match self.parsed.get(self.var(name).name) {
            Some(Parsed::List(items)) => items.clone(),
            _ => Vec::new(),
        }
    }

    /// Every value of every set variable that is marked secret, lists taken apart; without those of the
    /// variables in `except`.
    pub fn secrets(&self, except: &[&str]) -> Vec<Secret> {
        let of = |value: &Parsed| match value {
            Parsed::Text(text) => vec![Secret::new(text.clone())],
            Parsed::List(items) => items.iter().map(|i| Secret::new(i.clone())).collect(),
            _ => Vec::new(),
        };
        let kept = self.vars.iter().filter(|v| v.secret && !except.contains(&v.name));
        kept.filter_map(|v| self.parsed.get(v.name)).flat_map(of).collect()
    }

    /// Notes the value a computed default has here, for the report.
    pub fn computed(&mut self, name: &str, value: impl Into<String>) {
        let name = self.var(name).name;
        self.computed.insert(name, value.into());
    }

    /// Refuses a variable for a reason that involves more than its own value.
    pub fn refuse(&mut self, name: &str, expected: impl Into<String>, nearest: Option<String>) {
        let var = self.var(name);
        let value = self.set_text(name).or_else(|| self.default_text(var)).map(|text| var.shown(&text));
        self.problems.push(Problem { name: name.to_owned(), value, expected: expected.into(), nearest });
    }

    /// Adds something a person should know.
    pub fn warn(&mut self, name: &str, text: &str) {
        self.warnings.push(Warning { name: name.to_owned(), text: text.to_owned() });
    }

    fn default_text(&self, var: &Var) -> Option<String> {
        let computed = || self.computed.get(var.name).cloned();
        match var.default {
            DefaultValue::Text(text) => Some(text.to_owned()),
            DefaultValue::Computed(_) | DefaultValue::None => computed(),
        }
    }

    /// The report, and the problems if there are any.
    pub fn finish(self) -> Result<Report, Problems> {
        let row = |var: &'static Var| {
            let default = self.default_text(var);
            let set = self.set_text(var.name);
            Row {
                name: var.name,
                section: var.section,
                source: if set.is_some() { self.source.origin(var.name) } else { DEFAULT_ORIGIN },
                value: set.or_else(|| default.clone()).map(|text| var.shown(&text)),
                default: default.map(|text| var.shown(&text)),
                takes_effect: var.takes_effect,
            }
        };
        let report = Report { rows: self.vars.iter().map(row).collect(), warnings: self.warnings };
        if self.problems.is_empty() { Ok(report) } else { Err(Problems { problems: self.problems, report }) }
    }
}
