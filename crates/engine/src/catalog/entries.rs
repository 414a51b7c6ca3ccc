//! What CATALOG_DIR and the hook settings file hold: each file read alone, a bad one keeping its last good
//! version. (specification 8.1)
//!
//! Pure but for [`Files`]. The invariant: the entries that come out are valid one by one; whether they fit
//! together is judged where the snapshot is made.

use super::agent::{self, Agent};
use super::files::{Files, Unread, bytes_of};
use super::hooks::{self, Hook};
use super::problem::Problem;
use super::skill::{self, Skill};
use super::soul;
use super::tool::{self, ToolFile};
use super::{document, server};
use crate::tools::registry::Registry;
use brain::soul::Soul;
use connectors::server::Entry;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of the hook settings file; more is not a list of hooks.
const HOOKS_FILE_MAX: usize = 1024 * 1024;

/// Valid entries by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Entries {
    /// agents/
    pub agents: BTreeMap<String, Arc<Agent>>,
    /// tools/
    pub tools: BTreeMap<String, Arc<ToolFile>>,
    /// skills/
    pub skills: BTreeMap<String, Arc<Skill>>,
    /// servers/
    pub servers: BTreeMap<String, Arc<Entry>>,
    /// core_soul.json
    pub soul: Option<Soul>,
    /// The hook settings file.
    pub hooks: Arc<Vec<Hook>>,
}

/// A hook settings file that may be read.
#[derive(Debug, Clone)]
pub struct HooksFile {
    /// HOOKS_SETTINGS_PATH.
    pub path: PathBuf,
    /// ALLOWED_ROOTS: a file below one of them is never read, because a model could have written it.
    pub roots: Vec<PathBuf>,
}

/// Reads everything; what is bad keeps what `before` has of that name.
pub fn read(
    files: &dyn Files,
    hooks: Option<&HooksFile>,
    platform: &Registry,
    before: &Entries,
    problems: &mut Vec<Problem>,
) -> Entries {
    let tool = |name: &str, files: &dyn Files, problems: &mut Vec<Problem>| {
        let file = tool::read(name, files, problems)?;
        let wrong = tool::misfits(&file, platform);
        let fits = !wrong.iter().any(Problem::is_error);
        problems.extend(wrong);
        fits.then_some(file)
    };
    let mut entries = Entries {
        agents: folder(files, "agents", "", &before.agents, problems, agent::read),
        tools: folder(files, "tools", ".json", &before.tools, problems, tool),
        skills: folder(files, "skills", "", &before.skills, problems, skill::read),
        servers: folder(files, "servers", ".json", &before.servers, problems, server::read),
        soul: None,
        hooks: Arc::default(),
    };
    if files.read(soul::FILE, 0) != Err(Unread::Missing) {
        entries.soul = soul::read(files, problems).or_else(|| before.soul.clone());
    }
    if let Some(file) = hooks {
        entries.hooks = hooks_of(file, problems).unwrap_or_else(|| Arc::clone(&before.hooks));
    }
    one_default(&entries.agents, problems);
    entries
}

fn folder<T>(
    files: &dyn Files,
    dir: &str,
    ending: &str,
    before: &BTreeMap<String, Arc<T>>,
    problems: &mut Vec<Problem>,
    read: impl Fn(&str, &dyn Files, &mut Vec<Problem>) -> Option<T>,
) -> BTreeMap<String, Arc<T>> {
    let listed = files.names(dir);
    if let Some(trouble) = listed.trouble {
        problems.push(Problem::error(dir, "", trouble, "look at what is in the directory"));
    }
    let mut out = BTreeMap::new();
    for entry in listed.names {
        let name = match entry.strip_suffix(ending) {
            Some(name) if !ending.is_empty() || document::is_plain_name(name) => name,
            _ => {
                let fix = if ending.is_empty() {
                    "name the folder with small letters and digits, with single dashes between words"
                        .to_owned()
                } else {
                    format!("rename it to end in {ending}, or move it away")
                };
                problems.push(Problem::warning(&format!("{dir}/{entry}"), "", "is not read", fix));
                continue;
            }
        };
        let kept = || before.get(name).cloned();
        if let Some(value) = read(name, files, problems).map(Arc::new).or_else(kept) {
            out.insert(name.to_owned(), value);
        }
    }
    out
}

/// Several defaults: the first by name counts.
fn one_default(agents: &BTreeMap<String, Arc<Agent>>, problems: &mut Vec<Problem>) {
    let mut defaults = agents.values().filter(|a| a.default);
    let Some(first) = defaults.next() else { return };
    for other in defaults {
        let why = format!("is true for {} as well, which comes first by name and counts", first.name);
        let file = format!("agents/{}/agent.json", other.name);
        problems.push(Problem::warning(&file, "/default", why, "write false here, or there"));
    }
}

/// The hooks of a settings file; `None` when the ones before stay. An absent file is no hooks.
fn hooks_of(file: &HooksFile, problems: &mut Vec<Problem>) -> Option<Arc<Vec<Hook>>> {
    let shown = file.path.file_name().map_or_else(|| "hooks.json".into(), |n| n.to_string_lossy());
    let real = match std::fs::canonicalize(&file.path) {
        Ok(real) => real,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Some(Arc::default()),
        Err(error) => {
            let why = format!("cannot be read: {error}");
            problems.push(Problem::error(&shown, "", why, "make it readable for the Engine's user"));
            return None;
        }
    };
    if file.roots.iter().any(|root| below(&real, root)) {
        let why = "lies below ALLOWED_ROOTS, where a model could write it, and is not read";
        problems.push(Problem::error(&shown, "", why, "move it out, and set HOOKS_SETTINGS_PATH"));
        return None;
    }
    let why = match bytes_of(&real, HOOKS_FILE_MAX) {
        Ok(bytes) => return hooks::read(&shown, &bytes, problems).map(Arc::new),
        Err(Unread::Missing) => return Some(Arc::default()),
        Err(Unread::TooLarge) => format!("is larger than {HOOKS_FILE_MAX} bytes"),
        Err(Unread::Refused(why)) => format!("cannot be read: {why}"),
    };
    problems.push(Problem::error(&shown, "", why, "repair the file"));
    None
}

fn below(real: &Path, root: &Path) -> bool {
    std::fs::canonicalize(root).is_ok_and(|root| real.starts_with(root))
}
