//! `sed`: which files its scripts write, what they run, and whether an edit in place leaves anything.
//!
//! A script is read command by command, so that a `w` inside a text to be replaced is not taken for one that writes.
//! What cannot be read so is still searched for paths.

use super::{base_name, touch_all};
use crate::analysis::How;
use crate::args::{Args, Options};
use crate::walk::Walker;
use crate::words::Field;

const SED: Options = Options { short: "efl", long: &["expression", "file", "line-length"] };

/// What one command of a script does beyond changing text.
#[derive(Debug, PartialEq, Eq)]
enum Deed<'s> {
    /// Empties this file and writes into it.
    Writes(&'s str),
    /// Runs this.
    Runs(&'s str),
    /// Runs whatever the text has become.
    RunsText,
    /// Prints something that `-n` does not hold back.
    Prints,
    /// Removes every line.
    Empties,
}

pub(super) fn run(walker: &mut Walker<'_>, arguments: &[Field]) {
    let args = Args::read(arguments, SED);
    let mut scripts: Vec<Field> = args.values("e", "expression").cloned().collect();
    let given = !scripts.is_empty() || args.values("f", "file").next().is_some();
    let mut files = args.operands.as_slice();
    if !given && let Some((script, rest)) = files.split_first() {
        scripts.push(script.clone());
        files = rest;
    }
    let given_here = !scripts.is_empty() && args.values("f", "file").next().is_none();
    // Several expressions are lines of one script.
    let script = scripts.iter().map(Field::shown).collect::<Vec<_>>().join("\n");
    let deeds = deeds(&script);
    if args.has("i", "in-place") || args.vague {
        let silent = args.has("n", "quiet") && !deeds.contains(&Deed::Prints);
        let empties = deeds.contains(&Deed::Empties) || (silent && given_here);
        touch_all(walker, files, if empties { How::Truncate } else { How::Write });
    }
    for deed in deeds {
        match deed {
            Deed::Writes(file) => walker.touch(&Field::known(file), How::Truncate),
            Deed::Runs(command) => walker.substitution(command),
            Deed::RunsText => walker.dynamic(),
            Deed::Prints | Deed::Empties => {}
        }
    }
    if scripts.iter().any(Field::is_dynamic) {
        walker.dynamic();
    }
    paths_of(walker, &script);
}

/// What looks like a path behind `w`, and a command behind `e`, wherever it stands.
fn paths_of(walker: &mut Walker<'_>, script: &str) {
    for line in script.split(['\n', ';']) {
        for (at, letter) in line.char_indices().filter(|(_, c)| matches!(c, 'w' | 'W' | 'e')) {
            let rest = &line[at + 1..];
            let before = line[..at].chars().next_back();
            let Some(argument) = rest.strip_prefix([' ', '\t']).map(str::trim) else {
                continue;
            };
            if before.is_some_and(|c| c.is_alphabetic() && !"gpiIme".contains(c)) {
                continue;
            }
            if letter == 'e' {
                walker.substitution(argument);
            } else if argument.starts_with(['/', '.', '~']) && base_name(argument) != argument {
                walker.touch(&Field::known(argument), How::Truncate);
            }
        }
    }
}

fn deeds(script: &str) -> Vec<Deed<'_>> {
    let mut out = Vec::new();
    let mut rest = script;
    // Commands that may run for some lines only: in a block, or after a jump.
    let (mut blocks, mut jumps) = (0usize, false);
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ';');
        let addressed = address(&mut rest);
        rest = rest.trim_start_matches([' ', '\t', '!']);
        let Some(command) = rest.chars().next() else { return out };
        rest = &rest[command.len_utf8()..];
        match command {
            's' => {
                replacement(&mut rest);
                flags(&mut rest, &mut out);
            }
            'y' => replacement(&mut rest),
            'w' | 'W' => out.push(Deed::Writes(line(&mut rest))),
            'e' => out.push(match line(&mut rest) {
                "" => Deed::RunsText,
                command => Deed::Runs(command),
            }),
            '#' => {
                line(&mut rest);
            }
            'r' | 'R' | 'a' | 'i' | 'c' => {
                line(&mut rest);
                out.push(Deed::Prints);
            }
            'p' | 'P' | '=' | 'l' => out.push(Deed::Prints),
            '{' => blocks += 1,
            '}' => blocks = blocks.saturating_sub(1),
            'b' | 't' | 'T' | ':' => {
                jumps = true;
                rest = &rest[rest.find([';', '\n', '}']).unwrap_or(rest.len())..];
            }
            'n' | 'N' => jumps = true,
            'd' if !addressed && blocks == 0 && !jumps && !out.contains(&Deed::Prints) => {
                out.push(Deed::Empties);
            }
            _ => {}
        }
    }
}

/// The flags behind a replacement.
fn flags<'s>(rest: &mut &'s str, out: &mut Vec<Deed<'s>>) {
    while let Some(flag) = rest.chars().next() {
        if !(flag.is_ascii_digit() || "gpiImMew".contains(flag)) {
            return;
        }
        *rest = &rest[1..];
        match flag {
            'w' => return out.push(Deed::Writes(line(rest))),
            'p' => out.push(Deed::Prints),
            'e' => out.push(Deed::RunsText),
            _ => {}
        }
    }
}

/// Reads an address away; false when every line is meant.
fn address(rest: &mut &str) -> bool {
    let whole = *rest;
    while let Some(first) = rest.chars().next() {
        match first {
            '0'..='9' | '$' | ',' | '~' | '+' | ' ' | '\t' => *rest = &rest[1..],
            '/' => {
                *rest = &rest[1..];
                skip(rest, '/');
                *rest = rest.trim_start_matches(['I', 'M']);
            }
            '\\' => {
                *rest = &rest[1..];
                let Some(delimiter) = rest.chars().next() else { break };
                *rest = &rest[delimiter.len_utf8()..];
                skip(rest, delimiter);
                *rest = rest.trim_start_matches(['I', 'M']);
            }
            _ => break,
        }
    }
    let address = whole[..whole.len() - rest.len()].trim();
    !matches!(address, "" | "1,$" | "0~1" | "1~1")
}

/// Reads `/a/b/` away, whatever stands for the slash.
fn replacement(rest: &mut &str) {
    let Some(delimiter) = rest.chars().next() else { return };
    *rest = &rest[delimiter.len_utf8()..];
    skip(rest, delimiter);
    skip(rest, delimiter);
}

/// Reads up to and with the next `delimiter` that is not escaped.
fn skip(rest: &mut &str, delimiter: char) {
    let mut escaped = false;
    for (at, c) in rest.char_indices() {
        if !escaped && c == delimiter {
            *rest = &rest[at + c.len_utf8()..];
            return;
        }
        escaped = !escaped && c == '\\';
    }
    *rest = "";
}

/// The rest of the line, read away.
fn line<'s>(rest: &mut &'s str) -> &'s str {
    let end = rest.find('\n').unwrap_or(rest.len());
    let line = rest[..end].trim();
    *rest = &rest[end..];
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_commands_write_and_run_and_not_the_texts_between_slashes() {
        for quiet in [
            "s/world/w x/",
            "s/a/b/g;p",
            "/how w/p",
            "y/we/ew/",
            "a w x",
            "5,7d",
            "/x/d",
            "s,a/w b,c,",
            "2{s/a/b/;d}",
            "p;d",
            "n;d",
            "/a/b;d",
            "# w x",
            ":w x;n",
        ] {
            let found: Vec<_> = deeds(quiet).into_iter().filter(|d| *d != Deed::Prints).collect();
            assert_eq!(found, [], "{quiet}");
        }
        for (script, deed) in [
            ("w big", Deed::Writes("big")),
            ("wbig", Deed::Writes("big")),
            ("1,3w big", Deed::Writes("big")),
            ("/a/w big", Deed::Writes("big")),
            ("s/a/b/gw big", Deed::Writes("big")),
            ("s|a|b\\||w big", Deed::Writes("big")),
            ("s/a/b/;w big", Deed::Writes("big")),
            ("\\,a,w big", Deed::Writes("big")),
            ("e rm x", Deed::Runs("rm x")),
            ("s/a/rm x/e", Deed::RunsText),
            ("d", Deed::Empties),
            ("1,$d", Deed::Empties),
        ] {
            assert_eq!(deeds(script), [deed], "{script}");
        }
    }
}
