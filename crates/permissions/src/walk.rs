//! Walks a syntax tree and notes what every command in it would touch.
//!
//! Lists, pipelines, subshells, loops, branches, functions and substitutions are followed with the state they leave:
//! a branch that may not run leaves both possibilities, a loop is walked until nothing changes. Nothing is run.
//!
//! The invariant: what is not walked is noted as opaque.

use crate::analysis::{Analysis, Destruction, How, Opaque, Reach, Touch};
use crate::commands;
use crate::ground::{Ground, Imagined};
use crate::lex::{self, Unreadable};
use crate::pattern::{self, UNKNOWN};
use crate::state::{Function, Input, State};
use crate::tree::{self, Tree};
use crate::words::{Field, Use, Value};
use brush_parser::ast;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Commands and loops walked in one analysis. A larger number lets a small text keep a core busy; honest commands
/// need a few hundred.
pub const MAX_STEPS: usize = 4000;
/// Texts inside texts: `sh -c`, `eval`, substitutions, functions. More needs more stack than a thread has.
pub const MAX_NESTING: usize = 8;
/// Commands formed from words with several possible values before only every value counts. More multiplies the steps.
const MAX_COMBINATIONS: usize = 32;
/// Touches of one command. More could not be shown to anybody.
pub const MAX_TOUCHES: usize = 10_000;

/// Variables a shell sets by itself.
const SET_BY_SHELL: [&str; 20] = [
    "PWD",
    "OLDPWD",
    "UID",
    "EUID",
    "PPID",
    "RANDOM",
    "SRANDOM",
    "SECONDS",
    "LINENO",
    "HOSTNAME",
    "HOSTTYPE",
    "OSTYPE",
    "MACHTYPE",
    "PATH",
    "SHELL",
    "SHLVL",
    "EPOCHSECONDS",
    "EPOCHREALTIME",
    "HOME",
    "IFS",
];

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

    fn list(&mut self, tree: &Arc<Tree>, list: &ast::CompoundList) {
        for ast::CompoundListItem(item, separator) in &list.0 {
            match separator {
                ast::SeparatorOperator::Async => self.apart(|w| w.and_or(tree, item)),
                ast::SeparatorOperator::Sequence => self.and_or(tree, item),
            }
        }
    }

    fn and_or(&mut self, tree: &Arc<Tree>, list: &ast::AndOrList) {
        let before = self.state.directories.clone();
        let before_named = self.state.named.clone();
        self.pipeline(tree, &list.first);
        if !list.additional.is_empty() {
            let mut possible = self.state.clone();
            for next in &list.additional {
                let pipeline = match next {
                    ast::AndOr::And(pipeline) => pipeline,
                    ast::AndOr::Or(pipeline) => {
                        self.state.join(possible.clone());
                        self.state.also_in(before.clone());
                        self.state.also_named(before_named.clone());
                        pipeline
                    }
                };
                self.pipeline(tree, pipeline);
                possible.join(self.state.clone());
            }
            self.state = possible;
        }
        // A `cd` into something that is not certainly there may have failed.
        let arrived = |d: &PathBuf| self.world.is_directory(d) && !self.removed;
        if self.state.directories != before && !self.state.directories.iter().all(arrived) {
            self.state.also_in(before);
            self.state.also_named(before_named);
        }
    }

    fn pipeline(&mut self, tree: &Arc<Tree>, pipeline: &ast::Pipeline) {
        if let [only] = pipeline.seq.as_slice() {
            self.command(tree, only);
            return;
        }
        let mut input = self.state.input.clone();
        for command in &pipeline.seq {
            let from = std::mem::replace(&mut input, Input::Unknown);
            input = self.apart(|w| {
                w.state.input = from;
                w.output = Input::Unknown;
                w.command(tree, command);
                std::mem::replace(&mut w.output, Input::Unknown)
            });
        }
        self.output = input;
    }

    fn command(&mut self, tree: &Arc<Tree>, command: &ast::Command) {
        if !self.step() {
            return;
        }
        match command {
            ast::Command::Simple(simple) => self.simple(tree, simple),
            ast::Command::Compound(compound, redirects) => {
                let input = self.state.input.clone();
                for redirect in redirects.iter().flat_map(|r| &r.0) {
                    self.redirect(tree, redirect);
                }
                self.compound(tree, compound);
                self.output = Input::Unknown;
                self.state.input = input;
            }
            ast::Command::Function(function) => {
                let name = self.fields(&tree.word(&function.fname), Use::Single);
                let Some(name) = name.first().and_then(Field::literal).map(str::to_owned) else {
                    return self.dynamic();
                };
                let kept = Function { tree: Arc::clone(tree), body: Arc::new(function.body.clone()) };
                self.defined.insert(name.clone(), kept.clone());
                self.state.functions.insert(name, vec![kept]);
                self.harmless = false;
            }
            // The lexer hands these over as simple commands.
            ast::Command::ExtendedTest(..) => self.meet_limit(),
        }
    }

    fn compound(&mut self, tree: &Arc<Tree>, command: &ast::CompoundCommand) {
        match command {
            ast::CompoundCommand::Arithmetic(arithmetic) => {
                // The lexer has found that this is no arithmetic: bash takes it as two subshells.
                let source = tree.source(&arithmetic.loc).to_owned();
                match source.strip_prefix('(').and_then(|s| s.strip_suffix(')')) {
                    Some(inner) => self.substitution(inner),
                    None => self.meet_limit(),
                }
            }
            ast::CompoundCommand::ArithmeticForClause(_) => self.meet_limit(),
            ast::CompoundCommand::BraceGroup(group) => self.list(tree, &group.list),
            ast::CompoundCommand::Subshell(shell) => self.apart(|w| w.list(tree, &shell.list)),
            ast::CompoundCommand::ForClause(clause) => {
                let values = match &clause.values {
                    Some(words) => {
                        let words: Vec<_> = words.iter().map(|w| tree.word(w)).collect();
                        let fields: Vec<Field> =
                            words.iter().flat_map(|w| self.fields(w, Use::Arguments)).collect();
                        Value::Known(fields.into_iter().map(|f| f.text).collect())
                    }
                    None => self.positional(),
                };
                let values = match values {
                    Value::Known(values) if values.len() > crate::words::MAX_FIELDS => Value::Unknown,
                    values => values,
                };
                let name = tree.word(&ast::Word::new(&clause.variable_name));
                let name = name.bare().map(str::to_owned).unwrap_or_default();
                self.repeat(|w| {
                    w.assign(&name, values.clone());
                    w.list(tree, &clause.body.list);
                });
            }
            ast::CompoundCommand::CaseClause(clause) => {
                self.value(&tree.word(&clause.value));
                let before = self.state.clone();
                let mut possible = before.clone();
                for item in &clause.cases {
                    for pattern in &item.patterns {
                        self.value(&tree.word(pattern));
                    }
                    if let Some(list) = &item.cmd {
                        // It may be entered from above, too (`;&`).
                        self.state = possible.clone();
                        self.list(tree, list);
                        possible.join(self.state.clone());
                    }
                }
                self.state = possible;
            }
            ast::CompoundCommand::IfClause(clause) => {
                self.list(tree, &clause.condition);
                let mut otherwise = self.state.clone();
                self.list(tree, &clause.then);
                let mut possible = self.state.clone();
                let mut complete = false;
                for part in clause.elses.iter().flatten() {
                    self.state = otherwise.clone();
                    match &part.condition {
                        Some(condition) => {
                            self.list(tree, condition);
                            otherwise = self.state.clone();
                        }
                        None => complete = true,
                    }
                    self.list(tree, &part.body);
                    possible.join(self.state.clone());
                }
                if !complete {
                    possible.join(otherwise);
                }
                self.state = possible;
            }
            ast::CompoundCommand::WhileClause(clause) | ast::CompoundCommand::UntilClause(clause) => {
                self.repeat(|w| {
                    w.list(tree, &clause.0);
                    w.list(tree, &clause.1.list);
                });
            }
            ast::CompoundCommand::Coprocess(coprocess) => {
                self.apart(|w| {
                    w.state.input = Input::Unknown;
                    w.command(tree, &coprocess.body);
                });
            }
        }
    }

    /// Walks a body that may run any number of times, until walking it again changes nothing.
    pub fn repeat(&mut self, mut body: impl FnMut(&mut Self)) {
        for pass in 0..3 {
            let before = self.state.clone();
            body(self);
            self.state.join(before.clone());
            if self.state.same_as(&before) || !self.step() {
                return;
            }
            if pass > 0 {
                self.state.forget_changes(&before);
            }
        }
    }

    fn simple(&mut self, tree: &Arc<Tree>, command: &ast::SimpleCommand) {
        let before_input = self.state.input.clone();
        let items = command.prefix.iter().flat_map(|p| &p.0);
        let mut assigned: Vec<(String, Value)> = Vec::new();
        for item in items {
            match item {
                ast::CommandPrefixOrSuffixItem::IoRedirect(redirect) => self.redirect(tree, redirect),
                ast::CommandPrefixOrSuffixItem::AssignmentWord(assignment, _) => {
                    self.harmless = false;
                    let (name, value) = self.assigned(tree, assignment);
                    if command.word_or_name.is_none() {
                        self.assign(&name, value);
                    } else {
                        assigned.push((name, value));
                    }
                }
                ast::CommandPrefixOrSuffixItem::Word(_)
                | ast::CommandPrefixOrSuffixItem::ProcessSubstitution(..) => self.meet_limit(),
            }
        }
        let Some(name) = &command.word_or_name else {
            self.state.input = before_input;
            return;
        };
        let mut columns = vec![self.possibilities(&tree.word(name))];
        for item in command.suffix.iter().flat_map(|s| &s.0) {
            match item {
                ast::CommandPrefixOrSuffixItem::IoRedirect(redirect) => self.redirect(tree, redirect),
                ast::CommandPrefixOrSuffixItem::Word(word) => {
                    columns.push(self.possibilities(&tree.word(word)));
                }
                ast::CommandPrefixOrSuffixItem::AssignmentWord(assignment, word) => {
                    if matches!(assignment.value, ast::AssignmentValue::Array(_)) {
                        let (name, value) = self.assigned(tree, assignment);
                        self.assign(&name, value);
                    } else {
                        columns.push(self.possibilities(&tree.word(word)));
                    }
                }
                ast::CommandPrefixOrSuffixItem::ProcessSubstitution(..) => self.meet_limit(),
            }
        }
        let kept_names: Vec<String> = assigned.iter().map(|(name, _)| name.clone()).collect();
        let kept: Vec<(String, Option<Value>)> = assigned
            .iter()
            .map(|(name, _)| (name.clone(), self.state.variables.get(name).cloned()))
            .collect();
        let exported = self.state.exported.clone();
        for (name, value) in assigned {
            self.state.exported.insert(name.clone());
            self.state.variables.insert(name, value);
        }
        self.output = Input::Unknown;
        let mut texts: Option<Vec<String>> = Some(Vec::new());
        let commands = combinations(&columns);
        for arguments in &commands {
            self.output = Input::Unknown;
            self.run(arguments);
            texts = match (&self.output, texts) {
                (Input::Text(text), Some(mut texts)) => {
                    texts.push(text.clone());
                    Some(texts)
                }
                (_, _) => None,
            };
        }
        if commands.len() > 1 {
            // One of several texts: a reader of lines may get any of them.
            self.output = texts.map_or(Input::Unknown, |texts| Input::Text(texts.join("\n")));
        }
        for (name, value) in kept {
            match value {
                Some(value) => self.state.variables.insert(name, value),
                None => self.state.variables.remove(&name),
            };
        }
        if !kept_names.is_empty() {
            self.state.exported = exported;
        }
        self.state.input = before_input;
    }

    fn assigned(&mut self, tree: &Arc<Tree>, assignment: &ast::Assignment) -> (String, Value) {
        let (name, element) = match &assignment.name {
            ast::AssignmentName::VariableName(name) => (name.clone(), false),
            ast::AssignmentName::ArrayElementName(name, _) => (name.clone(), true),
        };
        let value = match &assignment.value {
            ast::AssignmentValue::Scalar(word) => {
                let word = tree.word(word);
                let value = self.value(&word);
                if element || word.is_element { Value::Unknown } else { value }
            }
            ast::AssignmentValue::Array(elements) => {
                let words: Vec<_> = elements.iter().map(|(_, w)| tree.word(w)).collect();
                let fields: Vec<Field> = words.iter().flat_map(|w| self.fields(w, Use::Arguments)).collect();
                if fields.len() > crate::words::MAX_FIELDS {
                    Value::Unknown
                } else {
                    Value::Known(fields.into_iter().map(|f| f.text).collect())
                }
            }
        };
        if !assignment.append {
            return (name, value);
        }
        let before = self.variable(&name);
        let array = matches!(assignment.value, ast::AssignmentValue::Array(_));
        let value = match (before, value) {
            (Value::Known(a), Value::Known(b)) if array => Value::Known(a).or(Value::Known(b)),
            (Value::Known(a), Value::Known(b)) if a.len() * b.len() <= crate::words::MAX_VALUES => {
                let joined: Vec<String> =
                    a.iter().flat_map(|x| b.iter().map(move |y| format!("{x}{y}"))).collect();
                let long = joined.iter().any(|v| v.len() > crate::words::MAX_FIELD_CHARS);
                if long { Value::Unknown } else { Value::Known(joined) }
            }
            (_, _) => Value::Unknown,
        };
        (name, value)
    }

    fn redirect(&mut self, tree: &Arc<Tree>, redirect: &ast::IoRedirect) {
        match redirect {
            ast::IoRedirect::File(_, kind, target) => {
                let word = match target {
                    ast::IoFileRedirectTarget::Filename(word)
                    | ast::IoFileRedirectTarget::Duplicate(word) => tree.word(word),
                    ast::IoFileRedirectTarget::Fd(_) => return,
                    ast::IoFileRedirectTarget::ProcessSubstitution(..) => return self.meet_limit(),
                };
                let duplicates = matches!(target, ast::IoFileRedirectTarget::Duplicate(_));
                for field in self.fields(&word, Use::Arguments) {
                    let text = field.literal().unwrap_or("");
                    let descriptor = text == "-"
                        || (!text.is_empty()
                            && text.trim_end_matches('-').bytes().all(|b| b.is_ascii_digit()));
                    if duplicates && descriptor {
                        continue;
                    }
                    let how = match kind {
                        ast::IoFileRedirectKind::Read | ast::IoFileRedirectKind::DuplicateInput => How::Read,
                        ast::IoFileRedirectKind::Append => How::Append,
                        ast::IoFileRedirectKind::ReadAndWrite => How::Write,
                        ast::IoFileRedirectKind::Write
                        | ast::IoFileRedirectKind::Clobber
                        | ast::IoFileRedirectKind::DuplicateOutput => How::Truncate,
                    };
                    if how == How::Read {
                        self.state.input = Input::Unknown;
                    }
                    self.redirects_to(&field, how);
                }
            }
            ast::IoRedirect::OutputAndError(word, append) => {
                let word = tree.word(word);
                for field in self.fields(&word, Use::Arguments) {
                    self.redirects_to(&field, if *append { How::Append } else { How::Truncate });
                }
            }
            ast::IoRedirect::HereDocument(_, document) => {
                let word = tree.word(&document.doc);
                self.state.input = self.text_input(&word);
            }
            ast::IoRedirect::HereString(_, word) => {
                let word = tree.word(word);
                self.state.input = self.text_input(&word);
            }
        }
    }

    fn text_input(&mut self, word: &lex::Word) -> Input {
        match self.value(word) {
            Value::Known(values) => match values.as_slice() {
                [text] => Input::Text(text.clone()),
                _ => Input::Unknown,
            },
            Value::Unknown => Input::Unknown,
        }
    }

    fn redirects_to(&mut self, field: &Field, how: How) {
        let shown = field.shown();
        if let Some(rest) = shown.strip_prefix("/dev/tcp/").or_else(|| shown.strip_prefix("/dev/udp/")) {
            let host = rest.split('/').next().unwrap_or("");
            self.found.hosts.insert(host.to_owned());
            self.harmless = false;
            return;
        }
        if how.changes() && shown != "/dev/null" {
            self.harmless = false;
        }
        self.touch(field, how);
    }

    /// Runs one command: a function, or what the table knows of it.
    pub fn run(&mut self, arguments: &[Field]) {
        if !self.step() {
            return;
        }
        self.ran += 1;
        let Some((name, rest)) = arguments.split_first() else { return };
        let Some(name) = name.literal().map(str::to_owned) else {
            self.harmless = false;
            self.dynamic();
            commands::guess(self, &name.text, rest);
            return commands::mention(self, arguments);
        };
        match self.state.functions.get(&name).cloned() {
            Some(functions) => self.call(&name, &functions, rest),
            None => commands::run(self, &name, rest),
        }
    }

    fn call(&mut self, name: &str, functions: &[Function], arguments: &[Field]) {
        self.called.insert(name.to_owned());
        self.harmless = false;
        if self.nesting == 0 {
            return self.meet_limit();
        }
        let many = arguments.iter().any(|f| f.many);
        let given = if many {
            Value::Unknown
        } else {
            Value::Known(arguments.iter().map(|f| f.text.clone()).collect())
        };
        let kept = std::mem::replace(&mut self.state.positional, given);
        self.nesting -= 1;
        for function in functions {
            let body = Arc::clone(&function.body);
            for redirect in body.1.iter().flat_map(|r| &r.0) {
                self.redirect(&function.tree, redirect);
            }
            self.compound(&function.tree, &body.0);
        }
        self.nesting += 1;
        self.state.positional = kept;
    }

    /// Functions nobody seemed to call may still be called: by a trap, or by a computed name.
    fn uncalled_functions(&mut self) {
        for (name, function) in self.defined.clone() {
            if !self.called.contains(&name) {
                self.state.functions.remove(&name);
                self.call(&name, &[function], &[Field::unknown()]);
            }
        }
    }

    /// The value of a variable.
    pub fn variable(&self, name: &str) -> Value {
        match name {
            "PWD" if !self.state.lost => Value::Known(self.working_directories()),
            _ => self.state.variables.get(name).cloned().unwrap_or(Value::Unknown),
        }
    }

    /// True for a variable that neither the command nor the shell has set.
    pub fn may_be_unset(&self, name: &str) -> bool {
        let ordinary = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        ordinary
            && !SET_BY_SHELL.contains(&name)
            && !name.starts_with("BASH")
            && !self.state.variables.contains_key(name)
    }

    /// `$@`.
    pub fn positional(&self) -> Value {
        self.state.positional.clone()
    }

    /// Sets a variable.
    pub fn assign(&mut self, name: &str, value: Value) {
        let value = match value {
            Value::Known(values) if values.is_empty() => Value::Known(vec![String::new()]),
            value => value,
        };
        self.state.variables.insert(name.to_owned(), value);
    }

    /// IFS is not what it is by default.
    pub fn separators_changed(&self) -> bool {
        self.state.variables.contains_key("IFS")
    }

    /// Patterns may match names that begin with a dot.
    pub fn dotglob(&self) -> bool {
        self.whole.contains("dotglob")
    }

    /// The directories the shell may be in.
    pub fn working_directories(&self) -> Vec<String> {
        if self.state.lost {
            return vec![UNKNOWN.into()];
        }
        self.state.directories.iter().map(|d| d.to_string_lossy().into_owned()).collect()
    }

    /// Notes a touch of an exact path.
    pub fn touch_path(&mut self, path: &Path, reach: Reach, how: How, foreign_process: bool) {
        if self.found.touches.len() >= MAX_TOUCHES {
            return self.meet_limit();
        }
        self.removed |= matches!(how, How::Delete { .. });
        self.found.touches.insert(Touch { path: path.to_path_buf(), reach, how, foreign_process });
    }
}

/// Commands that words with several possible values may form: all of them when they are few, else enough of them that
/// every value stands in its place once.
fn combinations(columns: &[Vec<Vec<Field>>]) -> Vec<Vec<Field>> {
    let all = columns.iter().try_fold(1usize, |product, c| product.checked_mul(c.len().max(1)));
    let row = |choice: &dyn Fn(usize) -> usize| -> Vec<Field> {
        columns.iter().enumerate().filter_map(|(at, c)| c.get(choice(at))).flatten().cloned().collect()
    };
    if let Some(all) = all.filter(|all| *all <= MAX_COMBINATIONS) {
        return (0..all)
            .map(|number| {
                let mut left = number;
                let digits: Vec<usize> = columns
                    .iter()
                    .map(|c| {
                        let digit = left % c.len().max(1);
                        left /= c.len().max(1);
                        digit
                    })
                    .collect();
                row(&|at| digits[at])
            })
            .collect();
    }
    let mut rows = vec![row(&|_| 0)];
    for (column, values) in columns.iter().enumerate() {
        rows.extend((1..values.len()).map(|value| row(&|at| if at == column { value } else { 0 })));
    }
    rows
}
