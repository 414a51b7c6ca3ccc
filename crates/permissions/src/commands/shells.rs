//! Shells that are given a text: as an argument, as a here-document, through a pipe.

use super::{after_options, joined};
use crate::args::{Args, Options};
use crate::pattern::{self, UNKNOWN};
use crate::state::Input;
use crate::walk::Walker;
use crate::words::{Field, Value};
use std::collections::BTreeMap;

const SHELLS: [&str; 9] = ["sh", "bash", "dash", "zsh", "ksh", "ash", "mksh", "rbash", "yash"];
const SHELL: Options = Options { short: "oO", long: &["rcfile", "init-file"] };

/// True when the command is one of these.
pub(super) fn run(walker: &mut Walker<'_>, name: &str, arguments: &[Field]) -> bool {
    if !SHELLS.contains(&name) {
        return false;
    }
    let (options, rest) = after_options(arguments, SHELL);
    before_anything(walker, &options);
    if arguments.iter().take(arguments.len() - rest.len()).any(Field::is_dynamic) {
        walker.dynamic();
    }
    if options.has("c", "") {
        let Some((command, positional)) = rest.split_first() else { return true };
        if command.is_dynamic() {
            walker.dynamic();
        }
        let zero = positional.first().map_or("bash", |f| f.text.as_str()).to_owned();
        let positional: Vec<Field> = positional.iter().skip(1).cloned().collect();
        // What is not known of it stands where it stands: the rest of the text is read.
        let text = command.as_far_as_known();
        child(walker, &positional, |w| {
            w.assign("0", Value::Known(vec![zero]));
            w.script(&text);
        });
        return true;
    }
    let reads_input = rest.is_empty() || options.has("s", "") || rest.first().is_some_and(|f| f.text == "-");
    if let Some(file) = rest.first().filter(|_| !reads_input) {
        // A script file may hold anything; only one that is made while running is worth a question.
        file_of_commands(walker, file, |w, text| child(w, &[], |w| w.script(text)));
        return true;
    }
    match walker.state.input.clone() {
        Input::None => {}
        Input::Text(text) => given(walker, &text, |w, text| child(w, &[], |w| w.script(text))),
        Input::Unknown | Input::NamesBelow(_) => walker.dynamic(),
    }
    true
}

/// Files that a shell reads before its own text: `BASH_ENV`, `ENV`, `--rcfile`.
fn before_anything(walker: &mut Walker<'_>, options: &Args) {
    let mut files: Vec<Field> =
        options.values("", "rcfile").chain(options.values("", "init-file")).cloned().collect();
    // An interactive shell reads ENV; others leave it alone, and many programs use the name for something else.
    for name in ["BASH_ENV", "ENV"] {
        if walker.state.variables.contains_key(name) {
            match walker.variable(name) {
                Value::Known(values) => files.extend(values.into_iter().map(Field::known)),
                Value::Unknown => files.push(Field::unknown()),
            }
        }
    }
    for file in &files {
        file_of_commands(walker, file, |w, text| child(w, &[], |w| w.script(text)));
    }
}

/// A file that is read as commands. It may hold anything; only one that is made while running is looked at.
pub(super) fn file_of_commands(
    walker: &mut Walker<'_>,
    file: &Field,
    run: impl FnOnce(&mut Walker<'_>, &str),
) {
    match file.literal() {
        Some("/dev/stdin" | "/dev/fd/0" | "/proc/self/fd/0") => match walker.state.input.clone() {
            Input::Text(text) => given(walker, &text, run),
            Input::None => {}
            Input::Unknown | Input::NamesBelow(_) => walker.dynamic(),
        },
        Some(name) if name.starts_with("/dev/fd/") || name.starts_with("/proc/self/fd/") => {
            match walker.substituted.clone() {
                Some(text) => given(walker, &text, run),
                None => walker.dynamic(),
            }
        }
        Some(_) => {}
        None if file.text.contains(UNKNOWN) => walker.dynamic(),
        None => {}
    }
}

/// A text that is read as commands, as far as it is known.
fn given(walker: &mut Walker<'_>, text: &str, run: impl FnOnce(&mut Walker<'_>, &str)) {
    if text.contains([UNKNOWN, pattern::BELOW]) {
        walker.dynamic();
    }
    run(walker, &Field::known(text).as_far_as_known());
}

/// A text some program hands to a shell.
pub(super) fn text(walker: &mut Walker<'_>, field: &Field) {
    if field.is_dynamic() {
        walker.dynamic();
    } else {
        let text = field.shown();
        child(walker, &[], |w| w.script(&text));
    }
}

/// Walks in another process: it sees only what was exported, which is not followed.
fn child(walker: &mut Walker<'_>, positional: &[Field], inner: impl FnOnce(&mut Walker<'_>)) {
    walker.apart(|w| {
        let exported = w.state.exported.clone();
        let seen: BTreeMap<String, Value> = std::mem::take(&mut w.state.variables)
            .into_iter()
            .map(|(name, value)| {
                let value = if exported.contains(&name) {
                    value
                } else {
                    value.or(Value::Known(vec![String::new()]))
                };
                (name, value)
            })
            .collect();
        w.state.variables = seen;
        w.state.functions.clear();
        w.state.positional = if positional.iter().any(|f| f.many) {
            Value::Unknown
        } else {
            Value::Known(positional.iter().map(|f| f.text.clone()).collect())
        };
        inner(w);
    });
}

/// A program that hands its joined arguments to a shell.
pub(super) fn joined_text(walker: &mut Walker<'_>, arguments: &[Field]) {
    let many = arguments.iter().any(|f| f.many);
    text(walker, &Field { text: joined(arguments), many });
}
