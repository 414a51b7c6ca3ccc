//! `find` and `fd`: what they remove, write and run.

use super::{runners, touch_all};
use crate::analysis::{How, Reach};
use crate::pattern::{BELOW, UNKNOWN, activate};
use crate::state::Input;
use crate::walk::Walker;
use crate::words::Field;

/// Parts of an expression that leave nothing out.
const ORDER: [&str; 6] = ["-delete", "-depth", "-d", "-print", "-print0", "-xdev"];

/// True when the command is one of these.
pub(super) fn run(walker: &mut Walker<'_>, name: &str, arguments: &[Field]) -> bool {
    match name {
        "find" | "gfind" => find(walker, arguments),
        "fd" | "fdfind" => {
            let at = arguments
                .iter()
                .position(|f| matches!(f.text.as_str(), "-x" | "-X" | "--exec" | "--exec-batch"));
            if let Some(at) = at {
                let command = runners::replace(&arguments[at + 1..], "{}", &[Field::unknown()]);
                let mut command = command;
                command.push(Field::unknown());
                walker.apart(|w| w.run(&command));
            }
        }
        _ => return false,
    }
    true
}

/// The pattern that every name fits, when the expression says one and has no other way through.
fn only_name(expression: &[Field]) -> Option<String> {
    let other = |f: &Field| matches!(f.text.as_str(), "!" | "-not" | "-o" | "-or" | "," | "(" | "\\(");
    if expression.iter().any(other) {
        return None;
    }
    let at = expression.iter().position(|f| f.text == "-name")?;
    let name = expression.get(at + 1)?.literal()?;
    (!name.contains(['/', '\\']) && !name.is_empty()).then(|| name.chars().map(activate).collect())
}

fn find(walker: &mut Walker<'_>, arguments: &[Field]) {
    let mut at = 0;
    let mut follows = false;
    while let Some(field) = arguments.get(at) {
        match field.text.as_str() {
            "-H" | "-P" => at += 1,
            "-L" => {
                follows = true;
                at += 1;
            }
            "-D" => at += 2,
            text if text.starts_with("-O") => at += 1,
            _ => break,
        }
    }
    let from = at.min(arguments.len());
    let length = arguments[from..].iter().take_while(|f| !f.text.starts_with(['-', '(', '!', ','])).count();
    let mut starts: Vec<Field> = arguments[from..from + length].to_vec();
    if starts.is_empty() {
        starts.push(Field::known("."));
    }
    follows |= arguments.iter().any(|f| f.text == "-follow");
    let vague = starts.iter().any(|s| s.may_be_option());
    let expression = &arguments[from + length..];
    // What is found, as an argument of another command.
    let name = only_name(expression).map(|name| format!("/{name}")).unwrap_or_default();
    let found: Vec<Field> = starts
        .iter()
        .map(|s| {
            let mark = if follows { UNKNOWN } else { BELOW };
            Field { text: format!("{}/{mark}{name}", s.text.trim_end_matches('/')), many: true }
        })
        .collect();
    let mut prints_names = true;
    let mut index = 0;
    while let Some(field) = expression.get(index) {
        index += 1;
        match field.text.as_str() {
            "-delete" => {
                prints_names = false;
                // Without a test it removes everything.
                let all =
                    !expression.iter().any(|f| f.text.starts_with('-') && !ORDER.contains(&f.text.as_str()));
                touch_all(walker, &starts, How::Delete { recursive: all, force: true });
            }
            "-fprint" | "-fprint0" | "-fls" | "-fprintf" => {
                touch_all(walker, expression.get(index), How::Truncate);
                index += 1;
            }
            "-printf" | "-ls" => prints_names = false,
            "-exec" | "-execdir" | "-ok" | "-okdir" => {
                let rest = &expression[index..];
                let length = rest.iter().position(|f| f.text == ";" || f.text == "+").unwrap_or(rest.len());
                let command = runners::replace(&rest[..length], "{}", &found);
                index += length + 1;
                walker.apart(|w| {
                    w.state.input = Input::None;
                    w.state.functions.clear();
                    // The directory of what was found: paths of the command itself start there.
                    w.state.lost |= field.text.ends_with("dir");
                    w.run(&command);
                });
            }
            text if text.contains(UNKNOWN) => walker.dynamic(),
            _ => {}
        }
    }
    if vague {
        walker.dynamic();
    }
    let places: Vec<_> = starts.iter().flat_map(|s| walker.places(s, true)).collect();
    walker.output = if prints_names && !follows && places.iter().all(|p| p.reach == Reach::Exact) {
        Input::NamesBelow(places.into_iter().map(|p| p.path).collect())
    } else {
        Input::Unknown
    };
}
