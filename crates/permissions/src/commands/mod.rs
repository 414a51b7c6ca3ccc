//! What each known command touches.
//!
//! A command that is not in the table is taken to read what it names and nothing else: what it really does is the
//! sandbox's business. A command that runs another one is followed into it.
//!
//! The invariant: a path named by any argument is at least noted as read.

mod files;
mod sed;
mod copies;
mod archives;
mod git;
mod network;
mod runners;
mod shells;
mod finding;
mod builtins;
mod interpreters;
mod overwrites;
mod read_only;

use crate::analysis::How;
use crate::args::{Args, Options};
use crate::walk::Walker;
use crate::words::Field;

/// The last part of a path.
fn base_name(text: &str) -> &str {
    text.rsplit('/').next().unwrap_or(text)
}

/// Notes one command with its arguments.
pub(crate) fn run(walker: &mut Walker<'_>, name: &str, arguments: &[Field]) {
    let path = Field::known(name);
    if name.contains('/') {
        walker.touch(&path, How::Read);
    }
    mention(walker, arguments);
    let base = base_name(name).to_owned();
    if !read_only::is_harmless(name, arguments) {
        walker.harmless = false;
    }
    network::hosts(walker, &base, arguments);
    let known = files::run(walker, &base, arguments)
        || copies::run(walker, &base, arguments)
        || archives::run(walker, &base, arguments)
        || builtins::run(walker, &base, arguments)
        || shells::run(walker, &base, arguments)
        || finding::run(walker, &base, arguments)
        || runners::run(walker, &base, arguments)
        || interpreters::run(walker, &base, arguments);
    if !known && base == "git" {
        git::run(walker, arguments);
    }
}

/// A command whose name is partly known: every destructive command it may be.
pub(crate) fn guess(walker: &mut Walker<'_>, name: &str, arguments: &[Field]) {
    let base = base_name(name);
    // Nothing known: the name says nothing.
    if base.chars().all(|c| matches!(c, crate::pattern::UNKNOWN | crate::pattern::BELOW)) {
        return;
    }
    for known in runners::JUDGED {
        if crate::pattern::matches(base, known) {
            run(walker, known, arguments);
        }
    }
}

/// Notes every path an argument may name.
pub(crate) fn mention(walker: &mut Walker<'_>, arguments: &[Field]) {
    for field in arguments {
        walker.touch(field, How::Read);
        let text = field.text.as_str();
        let after_equals = text.split_once('=').map(|(_, value)| value);
        // `-f/path`, `-Ipath`: what is glued to a letter.
        let glued = text.strip_prefix('-').and_then(|t| t.get(1..)).filter(|t| t.contains('/'));
        let after_at = text.strip_prefix('@').or_else(|| text.split_once("=@").map(|(_, v)| v));
        for part in [after_equals, glued, after_at].into_iter().flatten() {
            walker.touch(&Field { text: part.to_owned(), many: false }, How::Read);
        }
    }
}

/// Notes the same for several arguments.
fn touch_all<'f>(walker: &mut Walker<'_>, fields: impl IntoIterator<Item = &'f Field>, how: How) {
    for field in fields {
        walker.touch(field, how);
    }
}

/// What comes after the leading options of a command that runs another one.
fn after_options(arguments: &[Field], options: Options) -> (Args, &[Field]) {
    let mut at = 0;
    while let Some(field) = arguments.get(at) {
        let text = field.text.as_str();
        if text == "--" {
            return (Args::read(&arguments[..at], options), arguments.get(at + 1..).unwrap_or_default());
        }
        if !text.starts_with('-') || text == "-" {
            break;
        }
        at += 1;
        if takes_next(text, options) {
            at += 1;
        }
    }
    let at = at.min(arguments.len());
    (Args::read(&arguments[..at], options), &arguments[at..])
}

/// True when the value of this option is the next argument.
fn takes_next(text: &str, options: Options) -> bool {
    if let Some(long) = text.strip_prefix("--") {
        return !long.contains('=') && !long.is_empty() && options.long.iter().any(|l| l.starts_with(long));
    }
    match text.char_indices().skip(1).find(|(_, c)| options.short.contains(*c)) {
        Some((at, letter)) => at + letter.len_utf8() == text.len(),
        None => false,
    }
}

/// Arguments as one text, as `eval` and some programs join them.
fn joined(arguments: &[Field]) -> String {
    arguments.iter().map(|f| f.text.as_str()).collect::<Vec<_>>().join(" ")
}

/// `base` with `name` below it.
fn below(base: &Field, name: &str) -> Field {
    let glue = if base.text.ends_with('/') { "" } else { "/" };
    Field { text: format!("{}{glue}{name}", base.text), many: base.many }
}
