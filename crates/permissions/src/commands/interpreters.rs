//! Programs in other languages given on the command line.
//!
//! They are not parsed. Their quoted texts are looked at as paths, and their words as signs of destruction.

use crate::analysis::How;
use crate::pattern::UNKNOWN;
use crate::state::Input;
use crate::walk::Walker;
use crate::words::Field;
use std::ops::Range;

const INTERPRETERS: [&str; 17] = [
    "python",
    "perl",
    "ruby",
    "node",
    "nodejs",
    "deno",
    "bun",
    "php",
    "lua",
    "awk",
    "gawk",
    "mawk",
    "nawk",
    "tclsh",
    "osascript",
    "expect",
    "Rscript",
];
/// Signs that a program changes files.
const WRITING: [&str; 30] = [
    "write", "'w'", "\"w\"", "'a'", "\"a\"", "'wb'", "\"wb\"", "'ab'", "'x'", "remove", "unlink", "rmtree",
    "rename", "replace(", "mkdir", "makedirs", "chmod", "chown", "truncate", "copy", "move", "symlink",
    "touch", "print >", "print>", ">>", "'>", "\">", "rmSync", "system",
];
/// Quoted texts looked at in one program; more are taken to be data.
const MAX_LITERALS: usize = 500;

/// True when the command is one of these.
pub(super) fn run(walker: &mut Walker<'_>, name: &str, arguments: &[Field]) -> bool {
    let versioned = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    if !INTERPRETERS.contains(&versioned) {
        return false;
    }
    let awk = versioned.ends_with("awk");
    let code: Vec<&Field> = if awk {
        arguments.iter().filter(|f| !f.text.starts_with('-')).take(1).collect()
    } else {
        let flag = |f: &Field| {
            let text = f.text.as_str();
            text.starts_with('-') && !text.starts_with("--") && text.ends_with(['c', 'e', 'E', 'r', 'p'])
                || matches!(text, "--eval" | "--print" | "eval")
        };
        arguments.windows(2).filter(|w| flag(&w[0])).map(|w| &w[1]).collect()
    };
    for field in &code {
        if field.text.contains(UNKNOWN) {
            walker.dynamic();
        }
        program(walker, &field.shown());
        if awk {
            super::overwrites::of_awk(&field.shown()).iter().for_each(|f| walker.touch(f, How::Truncate));
        }
    }
    // In place: `perl -i -pe …`, `ruby -i`.
    let in_place = arguments
        .iter()
        .any(|f| f.text.starts_with("-i") || (f.text.starts_with("-p") && f.text.contains('i')));
    if in_place && matches!(versioned, "perl" | "ruby" | "gawk") {
        for field in arguments.iter().filter(|f| !f.text.starts_with('-')) {
            walker.touch(field, How::Write);
        }
    }
    if code.is_empty() {
        match walker.state.input.clone() {
            Input::Text(text) => program(walker, &text),
            Input::Unknown | Input::NamesBelow(_) if arguments.iter().all(|f| f.text.starts_with('-')) => {
                walker.dynamic()
            }
            Input::None | Input::Unknown | Input::NamesBelow(_) => {}
        }
    }
    true
}

fn program(walker: &mut Walker<'_>, code: &str) {
    walker.foreign_text(code);
    let writes = WRITING.iter().any(|sign| code.contains(sign));
    let how = if writes { How::Write } else { How::Read };
    let literals = literals(code);
    let names = super::overwrites::emptied(code, &literals);
    names.into_iter().for_each(|name| walker.touch(&Field::known(name), How::Truncate));
    for (literal, _) in literals {
        let is_path = literal.starts_with(['/', '~', '.']) && literal.len() > 1 && !literal.contains('\n');
        if is_path || literal.contains("/..") {
            walker.touch(&Field::known(literal.clone()), how);
        } else if writes && !literal.contains([' ', '\n']) {
            walker.touch(&Field::known(literal.clone()), How::Read);
        }
        // `system("rm -rf …")`.
        if literal.contains(' ')
            && ["system", "popen", "subprocess", "exec", "spawn", "`", "%x", "|getline", "| getline"]
                .iter()
                .any(|s| code.contains(s))
        {
            walker.substitution(&literal);
        }
    }
}

/// Quoted texts, each with where it stands.
fn literals(code: &str) -> Vec<(String, Range<usize>)> {
    let mut out = Vec::new();
    let mut chars = code.chars();
    while let Some(quote) = chars.next() {
        let start = code.len() - chars.as_str().len() - quote.len_utf8();
        if !matches!(quote, '\'' | '"' | '`') {
            continue;
        }
        let mut text = String::new();
        let mut rest = chars.clone();
        let mut closed = false;
        while let Some(c) = rest.next() {
            match c {
                '\\' => text.extend(rest.next()),
                c if c == quote => {
                    closed = true;
                    break;
                }
                c => text.push(c),
            }
        }
        if closed {
            chars = rest;
            out.push((text, start..code.len() - chars.as_str().len()));
        }
        if out.len() >= MAX_LITERALS {
            break;
        }
    }
    out
}
