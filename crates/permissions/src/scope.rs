//! What a question was about, and whether the answer to it covers a call.
//!
//! The words of a command stay the same while a link in them is moved, so a yes is not compared by words alone: the
//! places and hosts that made the rules ask are kept with the question and with a remembered rule. A call that now
//! means others is asked about anew.
//!
//! The invariant: an answer covers nothing that was not there, or announced, when it was given.

use crate::analysis::{How, Reach, Touch};
use crate::verdict::Prompt;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
use std::mem::discriminant;
use std::path::Path;

/// Bytes of names in one scope. It is stored with every question; beyond it nobody could check what they agree to,
/// and the command is refused. Smaller refuses honest lists of files.
pub const MAX_BYTES: usize = 256 * 1024;
/// Places a repeated question names; more would hide them.
const NAMED: usize = 5;

/// One place and what happens to it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Item {
    /// The path with links followed, in a spelling that no other path has.
    path: String,
    reach: Reach,
    #[serde(flatten)]
    how: How,
}

/// The places and hosts a question was about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    #[serde(default)]
    places: BTreeSet<Item>,
    #[serde(default)]
    hosts: BTreeSet<String>,
}

impl Scope {
    /// Takes a place in.
    pub(crate) fn add(&mut self, touch: &Touch) {
        self.places.insert(Item { path: spelled(&touch.path), reach: touch.reach, how: touch.how });
    }

    /// Takes a directory in which something without a path of its own happens.
    pub(crate) fn add_directory(&mut self, path: &Path) {
        self.places.insert(Item { path: spelled(path), reach: Reach::Exact, how: How::Write });
    }

    /// Takes a host in.
    pub(crate) fn add_host(&mut self, host: &str) {
        self.hosts.insert(host.to_owned());
    }

    /// True when it is too much to be asked about.
    pub(crate) fn is_too_large(&self) -> bool {
        let names = self.places.iter().map(|item| item.path.len()).chain(self.hosts.iter().map(String::len));
        names.sum::<usize>() > MAX_BYTES
    }

    /// True when an answer about this is also one about `later`.
    pub fn covers(&self, later: &Scope) -> bool {
        later.hosts.is_subset(&self.hosts) && later.places.iter().all(|item| self.holds(item))
    }

    fn holds(&self, item: &Item) -> bool {
        // What was announced as "something below" covers what has appeared there, for the same deed.
        let announced = |known: &Item| {
            known.reach != Reach::Exact
                && (item.reach != Reach::Unknown || known.reach == Reach::Unknown)
                && discriminant(&known.how) == discriminant(&item.how)
                && Path::new(&item.path).starts_with(&known.path)
        };
        self.places.contains(item) || self.places.iter().any(announced)
    }

    /// What of `later` an answer about this does not cover, for people; at most a handful.
    fn missing(&self, later: &Scope) -> Vec<String> {
        let places = later.places.iter().filter(|item| !self.holds(item)).map(|item| match item.reach {
            Reach::Exact => item.path.clone(),
            Reach::Below => format!("something in {}", item.path),
            Reach::Unknown => format!("something unknown, as far as is known in {}", item.path),
        });
        let mut names: Vec<String> = Vec::new();
        for name in places.chain(later.hosts.difference(&self.hosts).cloned()) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let more = names.len().saturating_sub(NAMED);
        names.truncate(NAMED);
        if more > 0 {
            names.push(format!("{more} more"));
        }
        names
    }
}

/// The path as text: as it is where that is unambiguous, else with escapes. Only the latter has backslashes.
fn spelled(path: &Path) -> String {
    match path.to_str() {
        Some(text) if !text.contains('\\') => text.to_owned(),
        Some(_) | None => path.as_os_str().as_encoded_bytes().escape_ascii().to_string(),
    }
}

/// The `always` rules of a task, each with what it was said about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remembered(HashMap<String, Scope>);

impl Remembered {
    /// Takes a rule in.
    pub fn insert(&mut self, rule: impl Into<String>, scope: Scope) {
        self.0.insert(rule.into(), scope);
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// What the rule was said about, when it is remembered.
    pub fn of(&self, rule: &str) -> Option<&Scope> {
        self.0.get(rule)
    }

    /// True when the question needs no asking.
    pub fn answers(&self, question: &Prompt) -> bool {
        self.of(&question.rule).is_some_and(|scope| scope.covers(&question.scope))
    }
}

impl<S: Into<String>> FromIterator<(S, Scope)> for Remembered {
    fn from_iter<I: IntoIterator<Item = (S, Scope)>>(rules: I) -> Self {
        Self(rules.into_iter().map(|(rule, scope)| (rule.into(), scope)).collect())
    }
}

impl Prompt {
    /// The same question, saying what has changed since it was answered about `before`.
    #[must_use]
    pub fn asked_again(mut self, before: &Scope) -> Self {
        let names = before.missing(&self.scope);
        self.reason = format!("{}; {}", self.reason, crate::rules::reason::MOVED);
        if !names.is_empty() {
            let named = names.join(", ");
            self.question = format!("{} It would now touch {named}: not what was agreed to.", self.question);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    fn touch(path: &str, reach: Reach, how: How) -> Touch {
        Touch { path: path.into(), reach, how, names: String::new(), foreign_process: false }
    }

    fn scope(touches: &[Touch]) -> Scope {
        let mut scope = Scope::default();
        touches.iter().for_each(|t| scope.add(t));
        scope
    }

    const REMOVE: How = How::Delete { recursive: true, force: true };
    const REMOVE_NAME: How = How::Delete { recursive: false, force: true };

    #[test]
    fn an_answer_covers_the_same_or_less_and_nothing_beside_it() {
        let a = touch("/a/x", Reach::Exact, How::Truncate);
        let b = touch("/b/x", Reach::Exact, How::Truncate);
        let (only_a, both) = (scope(std::slice::from_ref(&a)), scope(&[a, b]));
        assert!(both.covers(&both) && both.covers(&only_a) && both.covers(&Scope::default()));
        assert!(!only_a.covers(&both) && !Scope::default().covers(&only_a));
        assert!(!only_a.covers(&scope(&[touch("/a/x/y", Reach::Exact, How::Truncate)])));
    }

    #[test]
    fn two_places_that_change_roles_are_not_the_same_answer() {
        let before = scope(&[touch("/a/x", Reach::Exact, REMOVE), touch("/b/x", Reach::Exact, How::Write)]);
        let after = scope(&[touch("/b/x", Reach::Exact, REMOVE), touch("/a/x", Reach::Exact, How::Write)]);
        assert!(!before.covers(&after));
    }

    #[test]
    fn what_was_announced_below_a_directory_covers_what_appears_there_for_the_same_deed() {
        let before = scope(&[touch("/a", Reach::Below, REMOVE_NAME)]);
        assert!(before.covers(&scope(&[touch("/a/new", Reach::Exact, REMOVE)])));
        for beyond in [
            touch("/ab", Reach::Exact, REMOVE),
            touch("/a/new", Reach::Exact, How::Truncate),
            touch("/a/new", Reach::Unknown, REMOVE_NAME),
        ] {
            assert!(!before.covers(&scope(&[beyond])));
        }
    }

    #[test]
    fn every_path_has_a_spelling_of_its_own_that_survives_storage() {
        let raw = |bytes: &'static [u8]| spelled(Path::new(OsStr::from_bytes(bytes)));
        let names =
            [raw(b"/a"), raw(b"/\xff"), raw(b"/\\xff"), raw("/\u{fffd}".as_bytes()), raw(b"/\\\\xff")];
        let distinct: BTreeSet<&String> = names.iter().collect();
        assert_eq!(distinct.len(), names.len(), "{names:?}");
        let mut kept = scope(&[touch("/a/x", Reach::Below, REMOVE), touch("/b", Reach::Exact, How::Append)]);
        kept.add_host("h.test:80");
        let text = serde_json::to_string(&kept).expect("text");
        assert_eq!(serde_json::from_str::<Scope>(&text).expect("the same"), kept);
    }
}
