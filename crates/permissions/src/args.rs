//! The arguments of one command, with the usual conventions for options.
//!
//! The invariant: an argument that could be an operand is one; only a known option takes a value away.

use crate::words::Field;

/// How a command reads its options.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Letters whose value follows.
    pub short: &'static str,
    /// Long names whose value follows, without `--`.
    pub long: &'static [&'static str],
}

/// No option takes a value.
pub const FLAGS: Options = Options { short: "", long: &[] };

/// Parsed arguments.
#[derive(Debug, Clone, Default)]
pub struct Args {
    /// As given, with the dashes, one letter each; with values.
    options: Vec<(String, Option<Field>)>,
    /// Everything else.
    pub operands: Vec<Field>,
    /// Something unknown could be an option.
    pub vague: bool,
}

impl Args {
    /// Reads arguments as GNU programs do: options anywhere, `--` ends them, letters in clusters.
    pub fn read(fields: &[Field], options: Options) -> Self {
        let mut out = Self::default();
        let mut fields = fields.iter();
        while let Some(field) = fields.next() {
            let text = field.text.as_str();
            if text == "--" {
                out.operands.extend(fields.cloned());
                break;
            }
            if let Some(long) = text.strip_prefix("--") {
                let (name, value) = match long.split_once('=') {
                    Some((name, value)) => (name, Some(Field::known(value))),
                    None => (long, None),
                };
                let takes =
                    value.is_none() && !name.is_empty() && options.long.iter().any(|l| l.starts_with(name));
                let value = if takes { fields.next().cloned() } else { value };
                out.options.push((format!("--{name}"), value));
                continue;
            }
            if text.len() > 1 && text.starts_with('-') {
                for (at, letter) in text[1..].char_indices() {
                    if options.short.contains(letter) {
                        let attached = &text[1 + at + letter.len_utf8()..];
                        let value = if attached.is_empty() {
                            fields.next().cloned()
                        } else {
                            Some(Field::known(attached))
                        };
                        out.options.push((format!("-{letter}"), value));
                        break;
                    }
                    out.options.push((format!("-{letter}"), None));
                }
                continue;
            }
            out.operands.push(field.clone());
        }
        // A lone quoted value that turns out to be an option leaves the command without operands.
        let several = out.operands.iter().filter(|f| !f.text.is_empty()).count() > 1;
        out.vague = out.operands.iter().any(|f| f.may_be_option() && (f.many || several));
        out
    }

    /// `-x`, or `--long`, also abbreviated.
    pub fn has(&self, short: &str, long: &str) -> bool {
        self.options.iter().any(|(name, _)| names(name, short, long))
    }

    /// The values of an option, in order.
    pub fn values<'a>(&'a self, short: &'a str, long: &'a str) -> impl Iterator<Item = &'a Field> {
        self.options
            .iter()
            .filter(move |(name, _)| names(name, short, long))
            .filter_map(|(_, value)| value.as_ref())
    }
}

/// GNU programs accept unambiguous beginnings of long options; which are unambiguous depends on the version.
fn names(given: &str, short: &str, long: &str) -> bool {
    match given.strip_prefix("--") {
        Some(name) => !name.is_empty() && long.starts_with(name),
        None => given.strip_prefix('-').is_some_and(|letter| short.contains(letter)),
    }
}
