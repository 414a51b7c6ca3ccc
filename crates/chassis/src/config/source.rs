//! Where variables come from: the process environment, a `.env` file, a fixed map, or layers of these.
//!
//! This is the only code of ours that reads the process environment. An error in a `.env` file names the
//! line and never quotes it, because the line may hold a key.

use super::DEFAULT_ORIGIN;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Where variables come from.
pub trait Source: Send + Sync {
    /// The text of one variable, if there is one.
    fn get(&self, name: &str) -> Option<String>;
    /// The names of all variables.
    fn names(&self) -> Vec<String>;
    /// A word for people that says where `name` comes from, e.g. `environment`.
    fn origin(&self, name: &str) -> &'static str;
    /// Files of which some lines could not be read. The other lines count, so that one bad line hides no other mistake;
    /// whoever acts on the values refuses them all.
    fn faults(&self) -> Vec<EnvFileError> {
        Vec::new()
    }
}

/// A fixed set of variables with one origin: the process environment, a `.env` file, a command line, a test.
#[derive(Clone)]
pub struct Values {
    origin: &'static str,
    values: BTreeMap<String, String>,
    fault: Option<EnvFileError>,
}

impl Values {
    /// Variables given as pairs.
    pub fn new<N: Into<String>, V: Into<String>>(
        origin: &'static str,
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let values = pairs.into_iter().map(|(n, v)| (n.into(), v.into())).collect();
        Self { origin, values, fault: None }
    }

    /// The process environment as it is now. Bytes that are not UTF-8 become U+FFFD.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn process() -> Self {
        let text = |t: std::ffi::OsString| t.to_string_lossy().into_owned();
        Self::new("environment", std::env::vars_os().map(|(n, v)| (text(n), text(v))))
    }

    /// The variables of a `.env` file; `None` when there is no such file. Lines that cannot be read are its
    /// [`Source::faults`]; an error is a file of which nothing can be read.
    pub fn env_file(path: &Path) -> Result<Option<Self>, EnvFileError> {
        let at = |line, message: String| EnvFileError { path: path.to_owned(), lines: vec![(line, message)] };
        match std::fs::read(path) {
            Ok(bytes) => {
                let text = String::from_utf8(bytes).map_err(|_| at(0, "the file is not UTF-8".to_owned()))?;
                let (values, wrong) = readable_lines(&text);
                let fault = (!wrong.is_empty()).then(|| EnvFileError { path: path.to_owned(), lines: wrong });
                let origin = if path == Path::new(".env") { ".env" } else { "--env-file" };
                Ok(Some(Self { origin, values, fault }))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(at(0, e.to_string())),
        }
    }
}

impl Source for Values {
    fn get(&self, name: &str) -> Option<String> {
        self.values.get(name).cloned()
    }
    fn names(&self) -> Vec<String> {
        self.values.keys().cloned().collect()
    }
    fn origin(&self, _name: &str) -> &'static str {
        self.origin
    }
    fn faults(&self) -> Vec<EnvFileError> {
        self.fault.iter().cloned().collect()
    }
}

/// Several sources; the first in which a variable is not empty wins.
#[derive(Clone, Default)]
pub struct Layered(Vec<Values>);

impl Layered {
    /// Sources from strongest to weakest.
    pub fn new(layers: impl IntoIterator<Item = Values>) -> Self {
        Self(layers.into_iter().collect())
    }

    /// The same with one more layer below all others.
    #[must_use]
    pub fn with_defaults(mut self, weakest: Values) -> Self {
        self.0.push(weakest);
        self
    }

    fn layer(&self, name: &str) -> Option<&Values> {
        self.0.iter().find(|l| l.values.get(name).is_some_and(|v| !v.trim().is_empty()))
    }
}

impl Source for Layered {
    fn get(&self, name: &str) -> Option<String> {
        self.layer(name).and_then(|l| l.get(name))
    }
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.0.iter().flat_map(Source::names).collect();
        names.sort();
        names.dedup();
        names
    }
    fn origin(&self, name: &str) -> &'static str {
        self.layer(name).map_or(DEFAULT_ORIGIN, |l| l.origin)
    }
    fn faults(&self) -> Vec<EnvFileError> {
        self.0.iter().flat_map(Source::faults).collect()
    }
}

/// What is wrong with a `.env` file, by line (0 = the whole file). Never quotes the file: it holds secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct EnvFileError {
    /// The file.
    pub path: PathBuf,
    /// Line numbers from 1, and what was expected there.
    pub lines: Vec<(usize, String)>,
}

impl fmt::Display for EnvFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (line, message)) in self.lines.iter().enumerate() {
            let separator = if i == 0 { "" } else { "; " };
            match line {
                0 => write!(f, "{separator}{}: {message}", self.path.display())?,
                n => write!(f, "{separator}{}:{n}: {message}", self.path.display())?,
            }
        }
        Ok(())
    }
}

/// Reads the text of a `.env` file: `NAME=value` lines, `#` comments, optional quotes, no interpolation and
/// no escapes. A `#` after a blank ends an unquoted value.
pub fn parse_env(text: &str) -> Result<BTreeMap<String, String>, Vec<(usize, String)>> {
    let (values, wrong) = readable_lines(text);
    if wrong.is_empty() { Ok(values) } else { Err(wrong) }
}

/// What can be read of the text of a `.env` file, and the lines that cannot, with what was expected there.
fn readable_lines(text: &str) -> (BTreeMap<String, String>, Vec<(usize, String)>) {
    let mut values = BTreeMap::new();
    let mut wrong = Vec::new();
    for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match parse_env_line(line) {
            Ok((name, _)) if values.contains_key(name) => {
                wrong.push((index + 1, format!("{name} is set a second time")));
            }
            Ok((name, value)) => {
                values.insert(name.to_owned(), value.to_owned());
            }
            Err(message) => wrong.push((index + 1, message.to_owned())),
        }
    }
    (values, wrong)
}

fn parse_env_line(line: &str) -> Result<(&str, &str), &'static str> {
    let (name, value) = line.split_once('=').ok_or("expected NAME=value")?;
    let (name, value) = (name.trim_end(), value.trim_start());
    if name.split_once(char::is_whitespace).is_some_and(|(first, _)| first == "export") {
        return Err("expected NAME=value, no `export` before it");
    }
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if name.is_empty() || !plain || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err("expected a name of letters, digits and _ before the =");
    }
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
    let Some(quote) = quote else {
        let end = value
            .char_indices()
            .find(|&(i, c)| c == '#' && (i == 0 || value[..i].ends_with(char::is_whitespace)))
            .map_or(value.len(), |(i, _)| i);
        return Ok((name, value[..end].trim_end()));
    };
    let inner = &value[1..];
    let end = inner.find(quote).ok_or("the opening quote has no closing quote on this line")?;
    let rest = inner[end + 1..].trim_start();
    if !rest.is_empty() && !rest.starts_with('#') {
        return Err("expected nothing after the closing quote");
    }
    Ok((name, &inner[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_values_quotes_and_comments_are_read() {
        let text = "\u{feff}# head\r\nA=1\r\n\n B = two words # note\nC=\"# kept $HOME\" # note\nD='x\"y'\nE=\nF=a#b\nG=# only a note\n";
        let values = parse_env(text).expect("is well formed");
        let got: Vec<(&str, &str)> = values.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let want = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "# kept $HOME"),
            ("D", "x\"y"),
            ("E", ""),
            ("F", "a#b"),
            ("G", ""),
        ];
        assert_eq!(got, want);
    }

    #[test]
    fn every_bad_line_is_named_and_none_is_quoted() {
        let (values, wrong) = readable_lines(
            "A=1\nhunter2\n9X=hunter2\nB=\"hunter2\nC='x' hunter2\nA=hunter2\nexport D=hunter2\nE=2\n",
        );
        assert_eq!(wrong.iter().map(|w| w.0).collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7]);
        assert!(wrong.iter().all(|w| !w.1.contains("hunter2")));
        assert!(wrong[5].1.contains("no `export`"), "{wrong:?}");
        assert_eq!((values["A"].as_str(), values["E"].as_str()), ("1", "2"), "the good lines count");
    }

    #[test]
    fn the_first_source_that_is_not_empty_wins() {
        let layers = Layered::new([
            Values::new("environment", [("A", ""), ("B", "env")]),
            Values::new(".env", [("A", "file"), ("B", "file"), ("C", "file")]),
        ]);
        assert_eq!((layers.get("A").as_deref(), layers.origin("A")), (Some("file"), ".env"));
        assert_eq!((layers.get("B").as_deref(), layers.origin("B")), (Some("env"), "environment"));
        assert_eq!((layers.get("D"), layers.origin("D")), (None, "default"));
        assert_eq!(layers.names(), ["A", "B", "C"]);
    }

    proptest! {
        #[test]
        fn no_text_makes_the_env_file_parser_panic(text in "(?s).{0,200}") {
            let _ = parse_env(&text);
        }

        #[test]
        fn no_line_of_near_valid_text_makes_the_parser_panic(text in "[A-Z_=\"'# \u{e4}\t\r\n$\\\\]{0,80}") {
            let _ = parse_env(&text);
        }
    }
}
