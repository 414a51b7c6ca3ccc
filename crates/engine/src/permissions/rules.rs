//! The static rules: what is never run, and what a person is asked about.
//!
//! Rules read commands, not minds: a script file, an interpreter or a computed name can do what no rule
//! sees. That is the sandbox's business; a rule exists to ask before something of value is lost, and to
//! say no at once where the sandbox would say no later and less clearly.
//!
//! The invariant: a path that cannot be known before running never counts as harmless in a destructive
//! command.

use super::shell::{self, Redirect, Script, Simple, UNKNOWN, Word};
use super::words::{
    Args, DEVICES, JUDGED, SHELLS, WRAPPERS, base_name, has_destructive_word, is_destructive_word, is_opaque,
    joined,
};
use super::{ANSWERS, Grants, PermissionContext, Prompt, Verdict};
use crate::sandbox::{Place, Workspace, workspace};
use std::path::{Component, Path, PathBuf};

/// A redirection that truncates a larger file asks first. Larger loses more without asking, smaller asks
/// about every little log.
pub const TRUNCATE_ASKS_ABOVE: u64 = 4096;
/// How much of a command a question shows; beyond it the person could not read it anyway, and the full
/// input goes with the prompt.
const QUESTION_MAX_CHARS: usize = 2000;
/// Nested `sh -c` and `eval` followed; deeper counts as not analysable.
const MAX_NESTING: usize = 4;
/// Possible working directories followed in one command. More than a script honestly needs; the rest
/// counts as unknown.
const MAX_CWDS: usize = 16;

/// A file tool that reads `path`.
pub fn read_path(path: &str, context: &PermissionContext<'_>) -> Verdict {
    let resolved = context.workspace.resolve(path);
    if is_foreign_proc(path, context.workspace.cwd(), Own::Denied) || context.workspace.is_sealed(&resolved) {
        return Verdict::deny(PROTECTED);
    }
    Verdict::allow()
}

/// A file tool that writes `path`.
pub fn write_path(path: &str, context: &PermissionContext<'_>) -> Verdict {
    if let denied @ Verdict::Deny { .. } = read_path(path, context) {
        return denied;
    }
    let resolved = context.workspace.resolve(path);
    if context.workspace.is_read_only(&resolved) {
        return Verdict::deny(READ_ONLY);
    }
    if context.workspace.place(&resolved) == Place::Inside {
        return Verdict::allow();
    }
    Verdict::Prompt(Prompt {
        rule: format!("write:{}", resolved.display()),
        reason: "writing outside ALLOWED_ROOTS".into(),
        question: format!("Write {}?", resolved.display()),
        options: ANSWERS.map(String::from).to_vec(),
        grants: Grants { write: vec![resolved] },
    })
}

/// A shell command run in `cwd` (the workspace's when `None`).
pub fn bash(command: &str, cwd: Option<&str>, context: &PermissionContext<'_>) -> Verdict {
    let workspace = context.workspace;
    let start = cwd.map_or_else(|| workspace.cwd().to_path_buf(), |c| workspace.resolve(c));
    if workspace.is_sealed(&start) {
        return Verdict::deny(PROTECTED);
    }
    let mut judge = Judge { workspace, cwds: vec![start.clone()], found: Findings::default() };
    judge.text(command, MAX_NESTING);
    let Findings { denied, mut reasons, outside, opaque, .. } = judge.found;
    if let Some(reason) = denied {
        return Verdict::deny(reason);
    }
    if opaque {
        if names_sealed_path(command, workspace) {
            return Verdict::deny(PROTECTED);
        }
        if has_destructive_word(command) {
            reasons.push("destructive command that cannot be analysed");
        }
    }
    if reasons.is_empty() {
        return Verdict::allow();
    }
    let mut seen = std::collections::HashSet::new();
    reasons.retain(|reason| seen.insert(*reason));
    let mut normal = shell::normalised(command);
    if start != workspace.cwd() {
        // The same words in another directory are another command.
        let quoted = start.to_string_lossy();
        let quoted = shlex::try_quote(&quoted).unwrap_or_default();
        normal = format!("cd {quoted} && {normal}");
    }
    let shown: String = normal.chars().take(QUESTION_MAX_CHARS).collect();
    let more = if shown.len() < normal.len() { " …" } else { "" };
    Verdict::Prompt(Prompt {
        rule: format!("bash:{normal}"),
        reason: reasons.join("; "),
        question: format!("Run {shown}{more}?"),
        options: ANSWERS.map(String::from).to_vec(),
        grants: Grants { write: outside },
    })
}

const PROTECTED: &str = "this path is protected and is never opened to tools";
const READ_ONLY: &str = "the catalog is read-only for tools";
const DESTRUCTIVE: &str = "destructive command";
const DESTRUCTIVE_OUTSIDE: &str = "destructive command outside ALLOWED_ROOTS";
const DESTRUCTIVE_UNKNOWN: &str = "destructive command whose target is not known before running";
const WRITES_OUTSIDE: &str = "writing outside ALLOWED_ROOTS";
const TRUNCATES: &str = "replaces the content of an existing file";
const GIT: &str = "git command that discards work";

#[derive(Default)]
struct Findings {
    denied: Option<&'static str>,
    reasons: Vec<&'static str>,
    outside: Vec<PathBuf>,
    opaque: bool,
}

/// Where the thing named by a word lies.
enum Target {
    Inside(PathBuf),
    Outside(PathBuf),
    Unknown,
}

struct Judge<'a> {
    workspace: &'a Workspace,
    /// Every directory the command may be in by then; a relative path counts from each of them.
    cwds: Vec<PathBuf>,
    found: Findings,
}

impl Judge<'_> {
    fn text(&mut self, text: &str, nesting: usize) {
        if nesting == 0 {
            self.found.opaque = true;
            return;
        }
        let tmp = self.workspace.scratch().map(|t| t.to_string_lossy().into_owned());
        let home = tmp.as_ref().map(|t| format!("{t}/home"));
        let mut known = Vec::new();
        if let (Some(tmp), Some(home)) = (&tmp, &home) {
            // Only while the command does not set them itself.
            known.extend([("HOME", home.as_str()), ("TMPDIR", tmp.as_str())]);
            known.retain(|(name, _)| !text.contains(&format!("{name}=")) && !text.contains("read "));
        }
        let Script { commands, opaque } = shell::parse(text, &known);
        self.found.opaque |= opaque;
        for command in &commands {
            self.follow_cd(&command.words);
        }
        for command in &commands {
            self.simple(command, nesting);
        }
    }

    /// Adds the directories a command may have gone to before any command is judged: the order of lists,
    /// loops and subshells then does not matter.
    fn follow_cd(&mut self, words: &[Word]) {
        let wraps = words.first().is_some_and(|w| matches!(base_name(&w.text), "env" | "sudo" | "doas"));
        if wraps && words.iter().any(|w| ["-C", "-D", "--chdir"].iter().any(|f| w.text.starts_with(f))) {
            self.cwds.push(PathBuf::from(UNKNOWN_DIR));
        }
        let Some(at) = words.iter().position(|w| matches!(w.text.as_str(), "cd" | "pushd")) else { return };
        let Some(target) = words[at + 1..].iter().find(|w| !w.text.starts_with('-')) else { return };
        let Some(path) = target.literal() else {
            self.cwds.push(PathBuf::from(UNKNOWN_DIR));
            return;
        };
        for cwd in self.cwds.clone() {
            let next = workspace::resolve(Path::new(path), &cwd);
            if self.cwds.len() >= MAX_CWDS {
                self.cwds.push(PathBuf::from(UNKNOWN_DIR));
                return;
            }
            if !self.cwds.contains(&next) {
                self.cwds.push(next);
            }
        }
    }

    fn simple(&mut self, command: &Simple, nesting: usize) {
        for word in command.words.iter().chain(command.redirects.iter().map(|(_, w)| w)) {
            self.deny_protected(word);
        }
        for (kind, word) in &command.redirects {
            match kind {
                Redirect::Read => {}
                Redirect::Append => self.writes(word),
                Redirect::Truncate => {
                    self.writes(word);
                    self.truncates(word);
                }
            }
        }
        let Some(first) = command.words.first() else { return };
        self.command(&command.words, command, nesting);
        let name = base_name(&first.text);
        if WRAPPERS.contains(&name) {
            for at in 1..command.words.len() {
                let inner = base_name(&command.words[at].text);
                if JUDGED.contains(&inner) || inner.starts_with("mkfs") {
                    self.command(&command.words[at..], command, nesting);
                } else if command.words[at].text.contains(UNKNOWN) {
                    self.found.opaque = true;
                }
            }
        }
    }

    /// Judges one command whose name is the first word.
    fn command(&mut self, words: &[Word], whole: &Simple, nesting: usize) {
        let Some((name, args)) = words.split_first() else { return };
        if name.is_dynamic() || name.glob_at.is_some() {
            self.found.opaque = true;
            return;
        }
        let piped_args = base_name(&whole.words[0].text) == "xargs";
        let args = Args { args, piped_args };
        match base_name(&name.text) {
            "rm" => self.rm(&args),
            "rmdir" | "unlink" | "tee" | "touch" | "mkdir" | "mkfifo" | "mknod" => {
                args.operands().for_each(|w| self.writes(w));
                if base_name(&name.text) == "tee" && !args.has_flag('a', "append") {
                    args.operands().for_each(|w| self.truncates(w));
                }
            }
            "truncate" => args.operands().for_each(|w| {
                self.writes(w);
                self.truncates(w);
            }),
            "shred" | "wipefs" => self.destructive(&args, DESTRUCTIVE),
            name if name == "mkfs" || name.starts_with("mkfs.") => self.destructive(&args, DESTRUCTIVE),
            "dd" => self.dd(&args),
            "chmod" | "chown" | "chgrp" => {
                if args.has_flag('R', "recursive") {
                    self.destructive(&args, DESTRUCTIVE);
                } else {
                    args.operands().skip(1).for_each(|w| self.writes(w));
                }
            }
            "cp" | "install" | "ln" | "rsync" => match args.value('t', "target-directory") {
                Some(target) => self.writes(&target),
                None => {
                    if let Some(target) = args.operands().last() {
                        self.writes(target);
                    }
                }
            },
            "mv" => {
                args.operands().for_each(|w| self.writes(w));
                if let Some(target) = args.value('t', "target-directory") {
                    self.writes(&target);
                }
            }
            "sed" if args.has_flag('i', "in-place") => {
                let script_given = args.value('e', "expression").or(args.value('f', "file")).is_some();
                args.operands().skip(usize::from(!script_given)).for_each(|w| self.writes(w));
            }
            "tar" => args.value('C', "directory").iter().for_each(|w| self.writes(w)),
            "unzip" => args.value('d', "").iter().for_each(|w| self.writes(w)),
            "sort" | "curl" => args.value('o', "output").iter().for_each(|w| self.writes(w)),
            "wget" => {
                args.value('O', "output-document").iter().for_each(|w| self.writes(w));
                args.value('P', "directory-prefix").iter().for_each(|w| self.writes(w));
            }
            "find" => self.find(&args),
            "git" => self.git(&args),
            "eval" => self.nested(&joined(args.args), args.args.iter().any(Word::is_dynamic), nesting),
            "trap" => {
                if let Some(action) = args.args.first() {
                    self.nested(&action.text, action.is_dynamic(), nesting);
                }
            }
            name if SHELLS.contains(&name) => self.shell(&args, whole, nesting),
            name if is_opaque(name) => self.found.opaque = true,
            _ => {}
        }
    }

    fn nested(&mut self, text: &str, dynamic: bool, nesting: usize) {
        if dynamic {
            self.found.opaque = true;
        } else {
            self.text(text, nesting - 1);
        }
    }

    fn shell(&mut self, args: &Args<'_>, whole: &Simple, nesting: usize) {
        let flag = args.args.iter().position(|w| {
            w.text.starts_with(['-', '+']) && !w.text.starts_with("--") && w.text[1..].contains('c')
        });
        if let Some(at) = flag {
            match args.args[at + 1..].iter().find(|w| !w.text.starts_with('-')) {
                Some(text) => self.nested(&text.text, text.is_dynamic(), nesting),
                None => self.found.opaque = true,
            }
            return;
        }
        for body in &whole.here {
            self.nested(body, body.contains(UNKNOWN), nesting);
        }
        let reads_stdin = args.operands().next().is_none() || args.has_flag('s', "");
        let from_file = whole.redirects.iter().any(|(kind, _)| *kind == Redirect::Read);
        if args.piped_args || (reads_stdin && (whole.piped || from_file)) {
            self.found.opaque = true;
        }
    }

    fn rm(&mut self, args: &Args<'_>) {
        let hard = ["recursive", "force"].iter().zip(['r', 'f']).any(|(l, s)| args.has_flag(s, l))
            || args.has_flag('R', "");
        if hard && args.piped_args {
            self.found.reasons.push(DESTRUCTIVE_UNKNOWN);
        }
        for word in args.operands() {
            for target in self.locate(word) {
                self.deny_read_only(&target);
                match target {
                    Target::Inside(path) if hard && self.holds_more_than_work(&path) => {
                        self.found.reasons.push(DESTRUCTIVE);
                    }
                    Target::Inside(_) => {}
                    Target::Outside(path) => {
                        self.found.reasons.push(if hard { DESTRUCTIVE_OUTSIDE } else { WRITES_OUTSIDE });
                        self.allow_outside(path);
                    }
                    Target::Unknown if hard => self.found.reasons.push(DESTRUCTIVE_UNKNOWN),
                    Target::Unknown => {}
                }
            }
        }
    }

    fn dd(&mut self, args: &Args<'_>) {
        for word in args.args {
            if let Some(target) = word.text.strip_prefix("of=")
                && !DEVICES.contains(&target)
            {
                self.found.reasons.push(DESTRUCTIVE);
                self.writes(&Word { text: target.into(), ..word.clone() });
            }
        }
    }

    /// Destroys whatever its operands are, wherever they lie.
    fn destructive(&mut self, args: &Args<'_>, reason: &'static str) {
        self.found.reasons.push(reason);
        args.operands().for_each(|w| self.writes(w));
    }

    fn find(&mut self, args: &Args<'_>) {
        let deletes = args.args.iter().any(|w| w.text == "-delete");
        let starts = args.args.iter().take_while(|w| !w.text.starts_with(['-', '(', '!']));
        for word in starts.filter(|_| deletes) {
            for target in self.locate(word) {
                match target {
                    Target::Inside(_) => {}
                    Target::Outside(path) => {
                        self.found.reasons.push(DESTRUCTIVE_OUTSIDE);
                        self.allow_outside(path);
                    }
                    Target::Unknown => self.found.reasons.push(DESTRUCTIVE_UNKNOWN),
                }
            }
        }
        if deletes && self.cwds.iter().any(|c| !self.is_inside(c)) {
            self.found.reasons.push(DESTRUCTIVE_UNKNOWN);
        }
        for pair in args.args.windows(2) {
            if matches!(pair[0].text.as_str(), "-fprint" | "-fls" | "-fprintf" | "-fprint0") {
                self.writes(&pair[1]);
                self.truncates(&pair[1]);
            }
            let runs = matches!(pair[0].text.as_str(), "-exec" | "-execdir" | "-ok" | "-okdir");
            if runs && (pair[1].is_dynamic() || is_destructive_word(base_name(&pair[1].text))) {
                self.found.reasons.push(DESTRUCTIVE_UNKNOWN);
            }
        }
    }

    fn git(&mut self, args: &Args<'_>) {
        let mut rest = args.args;
        let mut places = self.cwds.clone();
        while let Some((option, after)) = rest.split_first().filter(|(w, _)| w.text.starts_with('-')) {
            let takes_value =
                matches!(option.text.as_str(), "-C" | "-c" | "--git-dir" | "--work-tree" | "--namespace");
            let (value, after) =
                if takes_value { (after.first(), after.get(1..).unwrap_or_default()) } else { (None, after) };
            match (option.text.as_str(), value.and_then(Word::literal)) {
                ("-C", Some(path)) => {
                    places = places.iter().map(|cwd| workspace::resolve(Path::new(path), cwd)).collect();
                }
                ("-C", None) => places = vec![PathBuf::from(UNKNOWN_DIR)],
                ("-c" | "--config-env", _) => self.found.opaque = true,
                (other, _) if other.starts_with("--work-tree") || other.starts_with("--git-dir") => {
                    places = vec![PathBuf::from(UNKNOWN_DIR)];
                }
                _ => {}
            }
            rest = after;
        }
        let Some((sub, rest)) = rest.split_first() else { return };
        let args = Args { args: rest, piped_args: args.piped_args };
        let discards = match sub.literal() {
            None => {
                self.found.opaque = true;
                false
            }
            Some("push") => {
                args.has_flag('f', "force")
                    || args.args.iter().any(|w| {
                        w.text.starts_with("--force") || w.text.starts_with('+') || w.text == "--mirror"
                    })
            }
            Some("reset") => args.args.iter().any(|w| w.text == "--hard"),
            Some("clean") => args.has_flag('f', "force") && !places.iter().all(|p| self.in_own_repository(p)),
            Some("clone" | "init") => {
                args.operands().last().into_iter().for_each(|w| self.writes(w));
                false
            }
            Some(_) => false,
        };
        if discards {
            self.found.reasons.push(GIT);
        }
    }

    fn in_own_repository(&self, dir: &Path) -> bool {
        dir.ancestors().find(|d| d.join(".git").exists()).is_some_and(|repo| self.is_inside(repo))
    }

    fn is_inside(&self, path: &Path) -> bool {
        self.workspace.place(path) == Place::Inside
    }

    fn deny_read_only(&mut self, target: &Target) {
        if let Target::Inside(path) | Target::Outside(path) = target
            && self.workspace.is_read_only(path)
        {
            self.found.denied.get_or_insert(READ_ONLY);
        }
    }

    fn holds_more_than_work(&self, dir: &Path) -> bool {
        self.workspace.contains_sealed(dir) || self.workspace.contains_read_only(dir)
    }

    fn writes(&mut self, word: &Word) {
        for target in self.locate(word) {
            self.deny_read_only(&target);
            match target {
                Target::Inside(_) | Target::Unknown => {}
                Target::Outside(path) => {
                    self.found.reasons.push(WRITES_OUTSIDE);
                    self.allow_outside(path);
                }
            }
        }
    }

    fn truncates(&mut self, word: &Word) {
        for target in self.locate(word) {
            if let Target::Inside(path) | Target::Outside(path) = target
                && std::fs::metadata(&path).is_ok_and(|m| m.is_file() && m.len() > TRUNCATE_ASKS_ABOVE)
            {
                self.found.reasons.push(TRUNCATES);
            }
        }
    }

    fn allow_outside(&mut self, path: PathBuf) {
        if path != Path::new("/") && !path.starts_with(UNKNOWN_DIR) && !self.found.outside.contains(&path) {
            self.found.outside.push(path);
        }
    }

    /// Where a word points, from every possible working directory. For a pattern and for a path with an
    /// unknown part, the directory that is certain decides.
    fn locate(&self, word: &Word) -> Vec<Target> {
        if DEVICES.contains(&word.text.as_str()) || word.text.starts_with("/dev/fd/") {
            return Vec::new();
        }
        let unknown_at = if word.braces { Some(0) } else { word.text.find(UNKNOWN) };
        let certain = match (unknown_at, word.glob_at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        let base = certain.map_or(word.text.as_str(), |at| {
            word.text.get(..at).and_then(|t| t.rfind('/').map(|slash| &t[..=slash])).unwrap_or("")
        });
        self.cwds
            .iter()
            .map(|cwd| {
                let path = workspace::resolve(Path::new(base), cwd);
                let known_outside = unknown_at.is_none() || Path::new(base).is_absolute();
                // What follows a pattern may climb: `*/../../x`.
                let climbs = certain.is_some_and(|at| word.text[at..].contains(".."));
                if path.starts_with(UNKNOWN_DIR) {
                    Target::Unknown
                } else if !self.is_inside(&path) && known_outside {
                    Target::Outside(path)
                } else if unknown_at.is_some() || climbs {
                    Target::Unknown
                } else {
                    Target::Inside(path)
                }
            })
            .collect()
    }

    fn deny_protected(&mut self, word: &Word) {
        let text = word.text.replace(UNKNOWN, "");
        let after_equals = text.split_once('=').map(|(_, v)| v);
        let attached = text.strip_prefix('-').and_then(|t| t.get(1..)).filter(|t| t.contains('/'));
        let at_file = text.strip_prefix('@');
        for candidate in [Some(text.as_str()), after_equals, attached, at_file].into_iter().flatten() {
            if candidate.is_empty() {
                continue;
            }
            for cwd in &self.cwds {
                let path = workspace::resolve(Path::new(candidate), cwd);
                if self.workspace.is_sealed(&path)
                    || is_foreign_proc(candidate, cwd, Own::Allowed)
                    || is_foreign_proc(&word.text, cwd, Own::Allowed)
                    || (word.glob_at.is_some() && self.pattern_hits_sealed(candidate, cwd))
                {
                    self.found.denied.get_or_insert(PROTECTED);
                }
            }
        }
    }

    fn pattern_hits_sealed(&self, pattern: &str, cwd: &Path) -> bool {
        let Some(first) = pattern.find(['*', '?', '[']) else { return false };
        let split = pattern[..first].rfind('/').map_or(0, |slash| slash + 1);
        let dir = workspace::resolve(Path::new(&pattern[..split]), cwd);
        let full = dir.join(&pattern[split..]);
        let Ok(glob) = globset::GlobBuilder::new(&full.to_string_lossy()).literal_separator(true).build()
        else {
            return false;
        };
        let glob = glob.compile_matcher();
        self.workspace.sealed_paths().iter().any(|p| glob.is_match(p))
    }
}

/// Stands for a working directory nobody knows; nothing lies below it.
const UNKNOWN_DIR: &str = "/\u{1}unknown";

fn names_sealed_path(text: &str, workspace: &Workspace) -> bool {
    workspace.sealed_paths().iter().any(|p| p.to_str().is_some_and(|p| text.contains(p)))
}

/// Whether `/proc/self` is somebody else's: for the file tools it is the Engine, for a command it is itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Own {
    Allowed,
    Denied,
}

/// `/proc/<pid>/{environ,mem,root}`, also below `task/<tid>`. Judged by name: these are links of the kernel.
fn is_foreign_proc(path: &str, cwd: &Path, own: Own) -> bool {
    let full = cwd.join(path);
    let mut parts: Vec<&str> = Vec::new();
    for part in full.components() {
        match part {
            Component::ParentDir => drop(parts.pop()),
            Component::Normal(name) => parts.push(name.to_str().unwrap_or("\u{fffd}")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    let ["proc", owner, rest @ ..] = parts.as_slice() else { return false };
    let is_self = matches!(*owner, "self" | "thread-self");
    let named_process = owner.starts_with(|c: char| c.is_ascii_digit())
        || owner.contains(['*', '?', '[', '{', UNKNOWN])
        || (is_self && own == Own::Denied);
    let rest = match rest {
        ["task", _, rest @ ..] => rest,
        rest => rest,
    };
    named_process
        && rest
            .first()
            .is_some_and(|f| matches!(*f, "environ" | "mem" | "root") || f.contains(['*', '?', '[', '{']))
}
