//! Walks a syntax tree and notes what every command in it would touch.
//!
//! Lists, pipelines, subshells, loops, branches, functions and substitutions are followed with the state they leave:
//! a branch that may not run leaves both possibilities, a loop is walked until nothing changes. Nothing is run.
//!
//! The invariant: what is not walked is noted as opaque.

mod compound;
mod simple;
mod redirect;
mod call;
mod variables;

use crate::analysis::{Analysis, Destruction, How, Opaque, Reach, Touch};
use crate::ground::{Ground, Imagined};
use crate::lex::{self, Unreadable};
use crate::pattern;
use crate::state::{Function, Input, State};
use crate::tree;
use crate::words::{Field, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Commands and loops walked in one analysis. A larger number lets a small text keep a core busy; honest commands
/// need a few hundred.
pub const MAX_STEPS: usize = 4000;
/// Texts inside texts: `sh -c`, `eval`, substitutions, functions. More needs more stack than a thread has.
pub const MAX_NESTING: usize = 8;
/// Touches of one command. More could not be shown to anybody.
pub const MAX_TOUCHES: usize = 10_000;

/// What the analyser may know before it begins.
#[derive(Clone)]
pub struct Setting<'a> {
    /// Facts about files.
    pub ground: &'a dyn Ground,
    /// Where the command starts.
    pub directory: PathBuf,
    /// Variables whose value is certain (HOME, TMPDIR).
    pub variables: Vec<(String, String)>,
}

impl std::fmt::Debug for Setting<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setting").field("directory", &self.directory).finish_non_exhaustive()
    }
}

/// What `command` would do.
pub fn analyse(command: &str, setting: &Setting<'_>) -> Analysis {
    let mut walker = Walker::new(command, setting);
    if command.contains(pattern::is_mark) {
        walker.meet_limit();
    } else {
        walker.script(command);
        walker.uncalled_functions();
    }
    let Walker { found, harmless, ran, .. } = walker;
    let read_only = harmless && ran > 0 && found.opaque.is_empty() && found.destructive.is_empty();
    Analysis {
        touches: found.touches,
        hosts: found.hosts,
        opaque: found.opaque,
        destructive: found.destructive,
        read_only,
        normalised: crate::normalise::normalised(command),
    }
}

#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub touches: BTreeSet<Touch>,
    pub hosts: BTreeSet<String>,
    pub opaque: BTreeSet<Opaque>,
    pub destructive: BTreeSet<Destruction>,
}

pub(crate) struct Walker<'a> {
    pub world: Imagined<'a>,
    pub state: State,
    pub found: Findings,
    /// Every command so far is on the read-only list.
    pub harmless: bool,
    /// Something may have been removed or moved: a directory that was there may be gone.
    pub removed: bool,
    /// What the command just walked writes to a pipe.
    pub output: Input,
    /// What the latest process substitution writes, when that is certain.
    pub substituted: Option<String>,
    whole: String,
    steps: usize,
    tokens: usize,
    nesting: usize,
    called: BTreeSet<String>,
    defined: BTreeMap<String, Function>,
    ran: usize,
}

impl<'a> Walker<'a> {
    fn new(whole: &str, setting: &Setting<'a>) -> Self {
        let known = |(name, value): &(String, String)| (name.clone(), Value::Known(vec![value.clone()]));
        let state = State {
            directories: vec![setting.directory.clone()],
            named: vec![setting.directory.clone()],
            lost: false,
            visited: Vec::new(),
            variables: setting.variables.iter().map(known).collect(),
            exported: setting.variables.iter().map(|(name, _)| name.clone()).collect(),
            positional: Value::Known(Vec::new()),
            functions: BTreeMap::new(),
            input: Input::None,
        };
        Self {
            world: Imagined { ground: setting.ground, links: BTreeMap::new() },
            state,
            found: Findings::default(),
            harmless: true,
            removed: false,
            output: Input::Unknown,
            substituted: None,
            whole: whole.to_owned(),
            steps: MAX_STEPS,
            tokens: lex::MAX_TOKENS,
            nesting: MAX_NESTING,
            called: BTreeSet::new(),
            defined: BTreeMap::new(),
            ran: 0,
        }
    }

    /// Something could not be followed because a limit was met.
    pub fn meet_limit(&mut self) {
        self.found.opaque.insert(Opaque::Limit);
    }

    /// A command whose name or text is made while it runs.
    pub fn dynamic(&mut self) {
        self.found.opaque.insert(Opaque::Dynamic(self.whole.clone()));
    }

    /// A text that nobody knows is run as commands: it may empty any file.
    pub fn runs_anything(&mut self) {
        self.dynamic();
        self.touch(&Field::unknown(), How::Truncate);
    }

    /// A text the shell may look at again, as it does with subscripts: its command substitutions run then.
    pub fn looked_at_again(&mut self, text: &str, everywhere: bool) {
        let Some(from) = (if everywhere { Some(0) } else { text.find('[') }) else { return };
        let mut rest = &text[from..];
        while let Some(at) = rest.find("$(") {
            let inner = &rest[at + 2..];
            let mut depth = 1_usize;
            let end = inner.find(|c| {
                match c {
                    '(' => depth += 1,
                    ')' => depth -= 1,
                    _ => {}
                }
                depth == 0
            });
            let Some(end) = end else { return };
            self.substitution(&inner[..end]);
            rest = &inner[end..];
        }
    }

    /// A program of another language: only its own words can destroy.
    pub fn foreign_text(&mut self, text: &str) {
        self.found.opaque.insert(Opaque::Dynamic(text.to_owned()));
    }

    /// Walks a text in the present shell.
    pub fn script(&mut self, text: &str) {
        if self.nesting == 0 {
            self.meet_limit();
            return;
        }
        match tree::parse(text, &mut self.tokens) {
            Ok(tree) => {
                self.nesting -= 1;
                for list in &tree.program.complete_commands {
                    self.list(&tree, list);
                }
                self.nesting += 1;
            }
            Err(Unreadable::Limit) => self.meet_limit(),
            Err(Unreadable::Syntax) => {
                self.harmless = false;
                self.found.opaque.insert(Opaque::Unreadable);
            }
        }
    }

    /// Walks in a shell of its own.
    pub fn apart<T>(&mut self, inner: impl FnOnce(&mut Self) -> T) -> T {
        let before = self.state.clone();
        let done = inner(self);
        self.state = before;
        done
    }

    /// Walks a substitution whose output does not matter.
    pub fn substitution(&mut self, text: &str) {
        self.apart(|w| w.script(text));
    }

    /// Walks a command substitution; its output when that is certain.
    pub fn output(&mut self, text: &str) -> Option<Vec<String>> {
        if text.trim() == "pwd" && !self.state.lost && !self.state.functions.contains_key("pwd") {
            self.substitution(text);
            let mut directories = self.working_directories();
            directories.extend(self.state.named.iter().map(|d| d.to_string_lossy().into_owned()));
            directories.dedup();
            return Some(directories);
        }
        let ran = self.ran;
        let output = self.apart(|w| {
            w.output = Input::Unknown;
            w.script(text);
            std::mem::replace(&mut w.output, Input::Unknown)
        });
        match output {
            Input::Text(text) if self.ran == ran + 1 => Some(vec![text.trim_end_matches('\n').to_owned()]),
            Input::Text(_) | Input::None | Input::Unknown | Input::NamesBelow(_) => None,
        }
    }

    fn step(&mut self) -> bool {
        match self.steps.checked_sub(1) {
            Some(left) => {
                self.steps = left;
                true
            }
            None => {
                self.meet_limit();
                false
            }
        }
    }

    /// Notes a touch of an exact path.
    pub fn touch_path(&mut self, path: &Path, reach: Reach, how: How, foreign_process: bool) {
        self.note(Touch { path: path.to_path_buf(), reach, how, names: String::new(), foreign_process });
    }

    /// Notes a touch.
    pub fn note(&mut self, touch: Touch) {
        if self.found.touches.len() >= MAX_TOUCHES {
            return self.meet_limit();
        }
        self.removed |= matches!(touch.how, How::Delete { .. });
        self.found.touches.insert(touch);
    }
}
