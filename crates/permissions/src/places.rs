//! From an argument to the paths it means.
//!
//! A pattern is matched against what is there, and also counts for what may be made below its directory until it is
//! used. A path with an unknown part is known up to the directory in front of it.
//!
//! The invariant: every possible working directory is tried.

use crate::analysis::{How, Reach, Touch};
use crate::ground::by_name;
use crate::pattern::{self, BELOW, UNKNOWN};
use crate::walk::Walker;
use crate::words::Field;
use std::path::{Path, PathBuf};

/// Names of one directory that are compared with a pattern. More takes longer than a question to a person may.
pub const MAX_NAMES: usize = 20_000;
/// Paths one pattern may stand for. Beyond it the command counts as opaque.
pub const MAX_MATCHES: usize = 2000;

/// Devices that swallow or give harmless bytes.
const DEVICES: [&str; 8] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/stdout",
    "/dev/stderr",
    "/dev/stdin",
    "/dev/tty",
    "/dev/random",
];

/// True for a place that keeps nothing.
pub fn is_device(text: &str) -> bool {
    DEVICES.contains(&text) || text == "/dev/urandom" || text.starts_with("/dev/fd/") || text == "-"
}

/// True for a name that opens whatever a descriptor of the shell leads to once more: writing to it empties that
/// file. Output and errors are written by this name every day; 63 is the name of a process substitution.
fn opens_anew(text: &str) -> bool {
    text == "/dev/stdin"
        || text.strip_prefix("/dev/fd/").is_some_and(|number| !matches!(number, "1" | "2" | "63"))
}

/// A path an argument may mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub path: PathBuf,
    pub reach: Reach,
    /// The path as it is written, for places that are judged by name.
    pub named: PathBuf,
    /// Only what may be made until then: what is there now and matches has places of its own.
    pub later: bool,
}

impl Walker<'_> {
    /// Notes what happens to the path an argument names.
    pub(crate) fn touch(&mut self, field: &Field, how: How) {
        self.touch_as(field, how, !matches!(how, How::Delete { .. }));
    }

    /// The same, with the last link followed or not.
    pub(crate) fn touch_as(&mut self, field: &Field, how: How, follow: bool) {
        if how == How::Truncate && opens_anew(&field.text) {
            return self.touch_as(&Field::unknown(), how, follow);
        }
        if field.text.is_empty() || is_device(&field.text) {
            return;
        }
        for place in self.places(field, follow) {
            let foreign = is_foreign_process(&place.named);
            let how = match how {
                How::Delete { recursive: true, .. } if place.later => {
                    How::Delete { recursive: false, force: true }
                }
                // What is made until then is not what lies there now.
                How::Truncate if place.later => How::Write,
                how => how,
            };
            let names = if place.reach == Reach::Exact { String::new() } else { last_part(&field.text) };
            let Place { path, reach, .. } = place;
            self.note(Touch { path, reach, how, names, foreign_process: foreign });
        }
    }

    /// Where an argument points, from every possible directory; the last link is followed when `follow` says so.
    pub(crate) fn places(&mut self, field: &Field, follow: bool) -> Vec<Place> {
        let text = &field.text;
        let mut out = Vec::new();
        if self.state.lost && !text.starts_with('/') {
            let certain = self.state.directories.first().cloned().unwrap_or_else(|| PathBuf::from("/"));
            out.push(Place { named: certain.clone(), path: certain, reach: Reach::Unknown, later: false });
        }
        for directory in self.state.directories.clone() {
            if text.contains(UNKNOWN) {
                out.push(self.unknown(text, &directory));
            } else if text.contains(BELOW) {
                out.push(self.below(text, &directory));
            } else if text.contains(pattern::is_active) {
                self.matching(text, &directory, follow, &mut out);
            } else {
                out.push(self.exact(text, &directory, follow));
            }
        }
        out
    }

    fn exact(&self, text: &str, directory: &Path, follow: bool) -> Place {
        let path = Path::new(text);
        let resolved = if follow {
            self.world.resolve(path, directory)
        } else {
            self.world.resolve_name(path, directory)
        };
        Place { path: resolved, reach: Reach::Exact, named: by_name(path, directory), later: false }
    }

    fn unknown(&self, text: &str, directory: &Path) -> Place {
        let at = text.find(pattern::is_mark).unwrap_or(text.len());
        let base = text[..at].rfind('/').map_or("", |slash| &text[..=slash]);
        let named = by_name(Path::new(text), directory);
        Place {
            path: self.world.resolve(Path::new(base), directory),
            reach: Reach::Unknown,
            named,
            later: false,
        }
    }

    fn below(&self, text: &str, directory: &Path) -> Place {
        let at = text.find(pattern::is_mark).unwrap_or(text.len());
        let base = text[..at].rfind('/').map_or("", |slash| &text[..=slash]);
        let reach = if climbs(&text[at..]) { Reach::Unknown } else { Reach::Below };
        let named = by_name(Path::new(text), directory);
        Place { path: self.world.resolve(Path::new(base), directory), reach, named, later: false }
    }

    fn matching(&mut self, text: &str, directory: &Path, follow: bool, out: &mut Vec<Place>) {
        let first = text.find(pattern::is_active).unwrap_or(0);
        let split = text[..first].rfind('/').map_or(0, |slash| slash + 1);
        let (base, rest) = text.split_at(split);
        let named = by_name(Path::new(text), directory);
        let reach = if climbs(rest) { Reach::Unknown } else { Reach::Below };
        let path = self.world.resolve(Path::new(base), directory);
        out.push(Place { path, reach, named, later: true });
        // Matched names, as they would be written.
        let mut found: Vec<String> = vec![base.to_owned()];
        for (depth, component) in rest.split('/').enumerate() {
            let mut next = Vec::new();
            for prefix in found {
                let glue = if depth > 0 && !prefix.ends_with('/') { "/" } else { "" };
                if !component.contains(pattern::is_active) {
                    next.push(format!("{prefix}{glue}{component}"));
                    continue;
                }
                let here = self.world.resolve(Path::new(&prefix), directory);
                match self.world.ground.names(&here, MAX_NAMES) {
                    Some(names) => {
                        let hidden = component.starts_with('.') || self.dotglob();
                        let fits =
                            |n: &&String| (hidden || !n.starts_with('.')) && pattern::matches(component, n);
                        next.extend(names.iter().filter(fits).map(|n| format!("{prefix}{glue}{n}")));
                    }
                    None if self.world.is_directory(&here) => return self.meet_limit(),
                    None => {}
                }
                if next.len() > MAX_MATCHES {
                    return self.meet_limit();
                }
            }
            found = next;
        }
        for text in found {
            let place = self.exact(&text, directory, follow);
            out.push(place);
        }
        // A pattern that matches nothing means itself.
        let place = self.exact(&pattern::plain(text), directory, follow);
        out.push(place);
    }
}

/// The part of an argument that names a file; anything when there is none.
fn last_part(text: &str) -> String {
    match text.rsplit('/').next() {
        Some(name) if !name.is_empty() => name.to_owned(),
        Some(_) | None => UNKNOWN.into(),
    }
}

/// What follows a pattern may leave its directory again.
fn climbs(rest: &str) -> bool {
    rest.split('/').any(|part| part == "..")
}

/// `/proc/<pid>/{environ,mem,root}` of another process, also below `task/<tid>`. Judged by name: these are links of
/// the kernel, and what they resolve to depends on who asks.
pub fn is_foreign_process(named: &Path) -> bool {
    owner_and_file(named).is_some_and(|(owner, secret)| secret && owner != Owner::Itself)
}

/// The same for a path that the Engine itself would open: there its own process is the one to protect.
pub fn is_any_process(named: &Path) -> bool {
    owner_and_file(named).is_some_and(|(_, secret)| secret)
}

#[derive(PartialEq, Eq)]
enum Owner {
    Itself,
    Another,
}

fn owner_and_file(named: &Path) -> Option<(Owner, bool)> {
    let parts: Vec<&str> = named.iter().map(|p| p.to_str().unwrap_or("\u{fffd}")).collect();
    let ["/", "proc", owner, rest @ ..] = parts.as_slice() else { return None };
    let owner = match *owner {
        "self" | "thread-self" => Owner::Itself,
        other if other.contains(pattern::is_mark) || other.starts_with(|c: char| c.is_ascii_digit()) => {
            Owner::Another
        }
        _ => return None,
    };
    let rest = match rest {
        ["task", _, rest @ ..] => rest,
        rest => rest,
    };
    let file = rest.first()?;
    let secret = ["environ", "mem", "root"].iter().any(|secret| pattern::matches(file, secret));
    Some((owner, secret))
}
