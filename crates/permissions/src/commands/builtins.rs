//! What the shell itself does: directories, variables, evaluation, traps.

use super::{joined, touch_all};
use crate::analysis::How;
use crate::analysis::Reach;
use crate::args::{Args, FLAGS, Options};
use crate::ground::by_name;
use crate::pattern::{BELOW, UNKNOWN};
use crate::state::Input;
use crate::walk::Walker;
use crate::words::{Field, Value};
use std::path::{Path, PathBuf};

const READ: Options = Options { short: "adinNptu", long: &[] };
const MAPFILE: Options = Options { short: "dnOsuCc", long: &[] };

/// True when the command is one of these.
pub(super) fn run(walker: &mut Walker<'_>, name: &str, arguments: &[Field]) -> bool {
    match name {
        "cd" | "chdir" => change_directory(walker, arguments),
        "pushd" => change_directory(walker, arguments),
        "popd" => back(walker),
        "eval" => {
            if arguments.iter().any(Field::is_dynamic) {
                walker.dynamic();
            }
            walker.script(&Field::known(joined(arguments)).as_far_as_known());
        }
        "trap" => {
            if let Some(action) = arguments.iter().find(|f| f.text != "--") {
                super::shells::text(walker, action);
            }
        }
        "alias" if arguments.iter().any(|f| f.text.contains('>')) => walker.runs_anything(),
        "alias" => walker.dynamic(),
        "shopt" if arguments.iter().any(|f| f.text.contains("expand_aliases")) => walker.dynamic(),
        "let" => {
            arguments.iter().for_each(|f| walker.looked_at_again(&f.text, false));
            return false;
        }
        "test" | "[" => arguments.iter().for_each(|f| walker.looked_at_again(&f.text, false)),
        "enable" | "complete" | "compgen" | "bind" => walker.dynamic(),
        "set" => set(walker, arguments),
        "shift" => {
            let next = match (walker.positional(), arguments.first().map(Field::shown)) {
                (Value::Known(values), None) => Value::Known(values.into_iter().skip(1).collect()),
                (Value::Known(values), Some(n)) => match n.parse::<usize>() {
                    Ok(n) => Value::Known(values.into_iter().skip(n).collect()),
                    Err(_) => Value::Unknown,
                },
                (Value::Unknown, _) => Value::Unknown,
            };
            walker.state.positional = next;
        }
        "export" | "declare" | "local" | "readonly" | "typeset" => {
            let exports_function = name == "export" || name == "declare" || name == "typeset";
            if exports_function
                && Args::read(arguments, FLAGS).has("fx", "")
                && arguments.iter().any(|f| f.text.starts_with('-') && f.text.contains('f'))
            {
                walker.dynamic();
            }
            let refers = name != "export" && Args::read(arguments, FLAGS).has("n", "");
            let exports = name == "export" || Args::read(arguments, FLAGS).has("x", "");
            for field in arguments {
                assign_text(walker, &field.text);
                // Another variable under this name: whatever that one holds.
                if refers {
                    let name = field.text.split('=').next().unwrap_or("");
                    walker.assign(name, Value::Unknown);
                }
                if exports {
                    let name = field.text.split(['=', '+']).next().unwrap_or("");
                    walker.state.exported.insert(name.to_owned());
                }
            }
        }
        "unset" => {
            for field in arguments {
                walker.assign(&field.text, Value::Unknown);
                walker.state.exported.remove(&field.text);
                if walker.state.functions.remove(&field.text).is_some() {
                    walker.harmless = false;
                }
            }
        }
        "read" => {
            let names = Args::read(arguments, READ);
            let value = match walker.state.input.clone() {
                Input::NamesBelow(directories) => {
                    Value::Known(directories.iter().map(|d| format!("{}/{BELOW}", d.display())).collect())
                }
                Input::None | Input::Unknown | Input::Text(_) => Value::Unknown,
            };
            let arrays: Vec<Field> = names.values("a", "").cloned().collect();
            for field in names.operands.iter().chain(&arrays) {
                walker.assign(&field.text, value.clone());
            }
            walker.assign("REPLY", Value::Unknown);
        }
        "mapfile" | "readarray" => {
            let args = Args::read(arguments, MAPFILE);
            args.operands.iter().for_each(|f| walker.assign(&f.text, Value::Unknown));
            walker.assign("MAPFILE", Value::Unknown);
            let calls: Vec<Field> = args.values("C", "").cloned().collect();
            calls.iter().for_each(|c| super::shells::text(walker, c));
        }
        "getopts" => {
            for field in arguments.iter().skip(1).take(1) {
                walker.assign(&field.text, Value::Unknown);
            }
        }
        "printf" => {
            let mut rest = arguments.iter();
            if rest.next().is_some_and(|f| f.text == "-v")
                && let Some(name) = rest.next()
            {
                walker.assign(&name.text, Value::Unknown);
            }
            let plain = |f: &Field| f.literal().is_some_and(|t| !t.contains(['%', '\\']));
            if let [only] = arguments
                && plain(only)
            {
                walker.output = Input::Text(only.text.clone());
            }
            if let [format, only] = arguments
                && matches!(format.text.as_str(), "%s" | "%s\\n" | "%b")
                && plain(only)
            {
                walker.output = Input::Text(only.text.clone());
            }
        }
        "echo" => {
            let words: Vec<&str> = arguments.iter().map(|f| f.text.as_str()).collect();
            let flag =
                |w: &str| w.len() > 1 && w.starts_with('-') && w[1..].chars().all(|c| "neE".contains(c));
            let flags = words.iter().take_while(|w| flag(w)).count();
            let escapes = words[..flags].iter().any(|w| w.contains('e'));
            if !escapes || !words.iter().any(|w| w.contains('\\')) {
                walker.output = Input::Text(words[flags..].join(" "));
            }
        }
        "pwd" => {
            if let [only] = walker.state.directories.as_slice()
                && !walker.state.lost
                && walker.state.named == walker.state.directories
            {
                walker.output = Input::Text(only.to_string_lossy().into_owned());
            }
        }
        "source" | "." => {
            touch_all(walker, arguments.first(), How::Read);
            if let Some(file) = arguments.first() {
                super::shells::file_of_commands(walker, file, |w, text| w.script(text));
            }
        }
        "[[" | "((" | ":" | "true" | "false" => {}
        _ => return false,
    }
    true
}

fn assign_text(walker: &mut Walker<'_>, text: &str) {
    if let Some((name, value)) = text.split_once('=') {
        let (name, append) = match name.strip_suffix('+') {
            Some(name) => (name, true),
            None => (name, false),
        };
        let value = if append { Value::Unknown } else { Value::Known(vec![value.to_owned()]) };
        walker.assign(name, value);
    }
}

fn set(walker: &mut Walker<'_>, arguments: &[Field]) {
    let at = arguments.iter().position(|f| f.text == "--");
    let given = match at {
        Some(at) => &arguments[at + 1..],
        None if arguments.first().is_some_and(|f| !f.text.starts_with(['-', '+'])) => arguments,
        None => return,
    };
    walker.state.positional = if given.iter().any(|f| f.many) {
        Value::Unknown
    } else {
        Value::Known(given.iter().map(|f| f.text.clone()).collect())
    };
}

fn change_directory(walker: &mut Walker<'_>, arguments: &[Field]) {
    let operands = Args::read(arguments, FLAGS).operands;
    if walker.state.variables.contains_key("CDPATH") {
        walker.state.lost = true;
    }
    let target = match operands.as_slice() {
        [] => match walker.variable("HOME") {
            Value::Known(homes) => homes.into_iter().map(Field::known).collect(),
            Value::Unknown => vec![Field::unknown()],
        },
        fields if fields.iter().any(|f| f.text == "-") => return back(walker),
        fields => fields.to_vec(),
    };
    enter(walker, &target);
}

/// Goes to one of the directories these fields name.
pub(super) fn enter(walker: &mut Walker<'_>, targets: &[Field]) {
    let (mut directories, mut named) = (Vec::<PathBuf>::new(), Vec::<PathBuf>::new());
    for target in targets {
        for place in walker.places(target, true) {
            if place.reach != Reach::Exact {
                walker.state.lost = true;
            }
            directories.push(place.path);
        }
        // The shell takes `..` by name, from the name it knows for where it is.
        for base in walker.state.named.clone() {
            let name = by_name(Path::new(&target.shown()), &base);
            directories.push(walker.world.resolve(&name, Path::new("/")));
            named.push(name);
        }
        if target.text.contains(UNKNOWN) {
            walker.state.lost = true;
        }
    }
    walker.state.enter(directories, named);
}

fn back(walker: &mut Walker<'_>) {
    let visited = walker.state.visited.clone();
    walker.state.also_in(visited.clone());
    walker.state.also_named(visited);
}
