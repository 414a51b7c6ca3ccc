//! The static rules, in the order of the specification: denied, remembered, asked, allowed.
//!
//! Rules read commands, not minds: a script file or an interpreter can do what no rule sees. That is the sandbox's
//! business; a rule exists to ask before something of value is lost, and to say no at once where the sandbox would say
//! no later and less clearly.
//!
//! The invariant: denied before remembered, remembered before asked.

use crate::analysis::{Analysis, Destruction, How, Opaque, Reach, Touch};
use crate::ground::{Ground, by_name, resolve};
use crate::overwritten::LargeFiles;
use crate::places::{is_any_process, is_device};
use crate::policy::{Policy, split_port};
use crate::scope::{Remembered, Scope};
use crate::signs::has_destructive_word;
use crate::verdict::{ANSWERS_ONCE, Grants, Prompt, Verdict};
use crate::walk::{Setting, analyse};
use std::path::{Path, PathBuf};

/// A redirection that truncates a larger file asks first. Larger loses more without asking, smaller asks about every
/// little log.
pub const TRUNCATE_ASKS_ABOVE: u64 = 4096;
/// How much of a command a question shows; beyond it nobody could read it, and the full input goes with the prompt.
pub const QUESTION_MAX_CHARS: usize = 2000;
/// Touches shown with a prompt; more would hide the ones that matter, which come first.
pub const SHOWN_TOUCHES: usize = 50;

/// Why something is denied or asked.
pub mod reason {
    /// A sealed place.
    pub const PROTECTED: &str = "this path is protected and is never opened to tools";
    /// The catalog.
    pub const READ_ONLY: &str = "the catalog is read-only for tools";
    /// Destruction wherever it happens.
    pub const DESTRUCTIVE: &str = "destructive command";
    /// Destruction beyond the workspace.
    pub const DESTRUCTIVE_OUTSIDE: &str = "destructive command outside ALLOWED_ROOTS";
    /// Destruction of nobody knows what.
    pub const DESTRUCTIVE_UNKNOWN: &str = "destructive command whose target is not known before running";
    /// Destruction by something that stays dark.
    pub const DESTRUCTIVE_OPAQUE: &str = "destructive command that cannot be analysed";
    /// A limit of the analyser.
    pub const TOO_MUCH: &str = "command too long or too deep to be analysed";
    /// Writing beyond the workspace.
    pub const WRITES_OUTSIDE: &str = "writing outside ALLOWED_ROOTS";
    /// More than one question can hold.
    pub const TOO_MANY: &str =
        "this command would touch more places than one question can name; do it in smaller parts";
    /// A link was moved, or something was put in its place.
    pub const MOVED: &str = "what it would touch has changed since the answer";
    /// Emptying a file.
    pub const TRUNCATES: &str = "replaces the content of an existing file";
    /// git, losing work.
    pub const GIT: &str = "git command that discards work";
    /// A host beyond the list.
    pub const HOST: &str = "host outside TOOL_NETWORK_ALLOWLIST";
    /// Exfiltration guard.
    pub const INVENTED_URL: &str = "untrusted content was read, and this address stands in none of the messages, search results and pages of this turn";
    /// Tool JSON.
    pub const EVERY_CALL: &str = "this tool asks before every call";
    /// Tool JSON.
    pub const HIGH_COST: &str = "this tool is expensive";
    /// A pin that does not fit.
    pub const CHANGED: &str = "the definition of this tool has changed since it was approved";
    /// A tool without a pin.
    pub const APPEARED: &str = "this tool appeared after the connection was approved";
    /// Taint.
    pub const AFTER_UNTRUSTED: &str =
        "untrusted content was read in this turn, and this tool acts once and is not trusted";
}

/// What a decision may look at.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// The places of the task.
    pub policy: &'a Policy,
    /// Facts about files.
    pub ground: &'a dyn Ground,
    /// The `always` rules of this task.
    pub remembered: &'a Remembered,
}

impl std::fmt::Debug for Facts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Facts").field("policy", self.policy).finish_non_exhaustive()
    }
}

impl Facts<'_> {
    fn resolve(&self, path: &str, directory: &Path) -> PathBuf {
        resolve(Path::new(path), directory, |p| self.ground.link(p))
    }

    /// Asks, unless the rule is remembered for what the call means now.
    fn settle(&self, prompt: Prompt) -> Verdict {
        settled(prompt, self.remembered)
    }
}

/// Asks, unless the question's rule is remembered for everything the question is about.
fn settled(prompt: Prompt, remembered: &Remembered) -> Verdict {
    if remembered.answers(&prompt) {
        return Verdict::Allow { rule: Some(prompt.rule), grants: prompt.grants };
    }
    match remembered.of(&prompt.rule) {
        Some(before) => Verdict::ask(prompt.asked_again(before)),
        None => Verdict::ask(prompt),
    }
}

/// A file tool that reads `path`. Outside the workspace it answers `not_found` by itself: nothing to ask.
pub fn read_path(path: &str, facts: &Facts<'_>) -> Verdict {
    let directory = facts.policy.directory();
    let resolved = facts.resolve(path, directory);
    let named = by_name(Path::new(path), directory);
    if is_any_process(&named) || is_any_process(&resolved) || facts.policy.is_sealed(&resolved, facts.ground)
    {
        return Verdict::deny(reason::PROTECTED);
    }
    Verdict::allow()
}

/// A file tool that writes `path`.
pub fn write_path(path: &str, facts: &Facts<'_>) -> Verdict {
    if let denied @ Verdict::Deny { .. } = read_path(path, facts) {
        return denied;
    }
    let resolved = facts.resolve(path, facts.policy.directory());
    if facts.policy.is_read_only(&resolved) {
        return Verdict::deny(reason::READ_ONLY);
    }
    if facts.policy.is_inside(&resolved) {
        return Verdict::allow();
    }
    let shown = resolved.display();
    facts.settle(Prompt {
        grants: Grants::paths(vec![resolved.clone()]),
        touches: vec![Touch {
            path: resolved.clone(),
            reach: Reach::Exact,
            how: How::Write,
            names: String::new(),
            foreign_process: false,
        }],
        ..Prompt::new(format!("write:{shown}"), reason::WRITES_OUTSIDE, format!("Write {shown}?"))
    })
}

/// What a shell command run in `cwd` (the working directory when `None`) would do.
pub fn analyse_bash(command: &str, cwd: Option<&str>, facts: &Facts<'_>) -> Analysis {
    let directory = facts.policy.directory();
    let start = cwd.map_or_else(|| directory.to_path_buf(), |c| facts.resolve(c, directory));
    let mut variables = Vec::new();
    if let Some(scratch) = &facts.policy.scratch {
        let scratch = scratch.to_string_lossy();
        variables.push(("TMPDIR".to_owned(), scratch.clone().into_owned()));
        variables.push(("HOME".to_owned(), format!("{scratch}/home")));
    }
    analyse(command, &Setting { ground: facts.ground, directory: start, variables })
}

/// A shell command run in `cwd` (the working directory when `None`).
pub fn bash(command: &str, cwd: Option<&str>, facts: &Facts<'_>) -> Verdict {
    let analysis = analyse_bash(command, cwd, facts);
    let directory = facts.policy.directory();
    let start = cwd.map_or_else(|| directory.to_path_buf(), |c| facts.resolve(c, directory));
    if facts.policy.is_sealed(&start, facts.ground) {
        return Verdict::deny(reason::PROTECTED);
    }
    if let Some(reason) = analysis.touches.iter().find_map(|touch| denied(touch, facts)) {
        return Verdict::deny(reason);
    }
    if !analysis.opaque.is_empty() && names_sealed(command, facts.policy) {
        return Verdict::deny(reason::PROTECTED);
    }
    let wipes = analysis.destructive.iter().any(|d| matches!(d, Destruction::Wipe | Destruction::CopyOver));
    let mut found = Asked { wipes, ..Asked::default() };
    for touch in &analysis.touches {
        found.touch(touch, facts);
    }
    for destruction in &analysis.destructive {
        found.destruction(destruction, facts);
    }
    for opaque in &analysis.opaque {
        found.opaque(opaque);
    }
    if !facts.policy.network.is_empty() {
        let allowed = |named: &&String| {
            let (host, port) = split_port(named);
            facts.policy.allows_host(host, port)
        };
        for named in analysis.hosts.iter().filter(|named| !allowed(named)) {
            found.because(reason::HOST);
            found.scope.add_host(named);
            found.grants.hosts.push(named.clone());
        }
    }
    if found.reasons.is_empty() {
        return Verdict::allow();
    }
    if found.scope.is_too_large() {
        return Verdict::deny(reason::TOO_MANY);
    }
    let normal = if start == directory {
        analysis.normalised
    } else {
        // The same words in another directory are another command.
        format!("cd {} && {}", quoted(&start.to_string_lossy()), analysis.normalised)
    };
    let shown: String = normal.chars().take(QUESTION_MAX_CHARS).collect();
    let more = if shown.len() < normal.len() { " …" } else { "" };
    facts.settle(Prompt {
        grants: found.grants,
        scope: found.scope,
        touches: shown_touches(&analysis.touches, facts.policy),
        ..Prompt::new(format!("bash:{normal}"), found.reasons.join("; "), format!("Run {shown}{more}?"))
    })
}

/// What a person sees of the touches: changes, those outside first.
fn shown_touches(touches: &std::collections::BTreeSet<Touch>, policy: &Policy) -> Vec<Touch> {
    let mut shown: Vec<Touch> = touches.iter().filter(|t| t.how.changes()).cloned().collect();
    shown.sort_by_key(|t| policy.is_inside(&t.path));
    shown.dedup_by(|a, b| (&a.path, a.reach, a.how) == (&b.path, b.reach, b.how));
    shown.truncate(SHOWN_TOUCHES);
    shown
}

fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

fn denied(touch: &Touch, facts: &Facts<'_>) -> Option<&'static str> {
    if touch.foreign_process || facts.policy.is_sealed(&touch.path, facts.ground) {
        return Some(reason::PROTECTED);
    }
    (touch.how.changes() && facts.policy.is_read_only(&touch.path)).then_some(reason::READ_ONLY)
}

fn names_sealed(text: &str, policy: &Policy) -> bool {
    policy.sealed_names().any(|p| p.to_str().is_some_and(|p| text.contains(p)))
}

#[derive(Default)]
struct Asked {
    reasons: Vec<&'static str>,
    grants: Grants,
    scope: Scope,
    /// Something wipes what it is given, wherever that is.
    wipes: bool,
    large: LargeFiles,
}

impl Asked {
    fn because(&mut self, reason: &'static str) {
        if !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
    }

    fn touch(&mut self, touch: &Touch, facts: &Facts<'_>) {
        if !touch.how.changes() || touch.path.to_str().is_some_and(is_device) {
            return;
        }
        let mut counts = self.wipes;
        let inside = facts.policy.is_inside(&touch.path);
        let hard = match touch.how {
            How::Delete { recursive, force } => recursive || force,
            How::Metadata { recursive } => recursive,
            How::Read | How::Write | How::Append | How::Truncate => false,
        };
        if let How::Metadata { recursive: true } = touch.how {
            self.because(reason::DESTRUCTIVE);
            counts = true;
        }
        if !inside {
            let removes = matches!(touch.how, How::Delete { .. });
            self.because(if hard && removes { reason::DESTRUCTIVE_OUTSIDE } else { reason::WRITES_OUTSIDE });
            self.open(&touch.path);
            counts = true;
        } else if touch.reach == Reach::Unknown && hard {
            self.because(reason::DESTRUCTIVE_UNKNOWN);
            counts = true;
        } else if matches!(touch.how, How::Delete { recursive: true, .. })
            && facts.policy.holds_more_than_work(&touch.path)
        {
            self.because(reason::DESTRUCTIVE);
            counts = true;
        }
        if touch.how == How::Truncate && self.large.may_be_meant(touch, facts.policy, facts.ground) {
            self.because(reason::TRUNCATES);
            counts = true;
        }
        if counts {
            self.scope.add(touch);
        }
    }

    fn open(&mut self, path: &Path) {
        if path != Path::new("/") && !self.grants.write.iter().any(|p| p == path) {
            self.grants.write.push(path.to_path_buf());
        }
    }

    fn destruction(&mut self, destruction: &Destruction, facts: &Facts<'_>) {
        match destruction {
            Destruction::Wipe | Destruction::CopyOver => self.because(reason::DESTRUCTIVE),
            Destruction::ForcedPush(places) | Destruction::HardReset(places) => {
                self.because(reason::GIT);
                places.iter().for_each(|place| self.scope.add_directory(place));
            }
            Destruction::Clean(places) => {
                let own = |place: &PathBuf| {
                    let repository = place.ancestors().find(|d| facts.ground.is_repository(d));
                    repository.is_some_and(|r| facts.policy.is_inside(r))
                };
                if places.is_empty() || !places.iter().all(own) {
                    self.because(reason::GIT);
                    places.iter().for_each(|place| self.scope.add_directory(place));
                }
            }
        }
    }

    fn opaque(&mut self, opaque: &Opaque) {
        match opaque {
            Opaque::Limit => self.because(reason::TOO_MUCH),
            // bash runs the lines in front of the one it cannot read, and it may read what this parser cannot.
            Opaque::Unreadable => self.because(reason::DESTRUCTIVE_OPAQUE),
            Opaque::Dynamic(text) if has_destructive_word(text) => self.because(reason::DESTRUCTIVE_OPAQUE),
            Opaque::Dynamic(_) => {}
        }
    }
}

/// What a tool's own JSON says about asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToolFacts<'a> {
    /// Its name.
    pub name: &'a str,
    /// Every call asks.
    pub requires_permission: bool,
    /// Asks until somebody says always.
    pub high_cost: bool,
}

/// Adds what every tool has in common to the verdict of the tool's own rules. One call asks once: a prompt for two
/// reasons names both, and its rule is the pair, so that `always` remembers exactly what was shown.
pub fn tool(own: Verdict, tool: &ToolFacts<'_>, remembered: &Remembered) -> Verdict {
    if let Verdict::Deny { .. } = own {
        return own;
    }
    let rule = format!("tool:{}", tool.name);
    let question = format!("Run {}?", tool.name);
    let asks_for_cost = tool.high_cost && remembered.of(&rule).is_none();
    if tool.requires_permission {
        let mut prompt = Prompt::new(rule, reason::EVERY_CALL, question);
        if tool.high_cost {
            prompt.reason = format!("{}; {}", prompt.reason, reason::HIGH_COST);
        }
        return Verdict::ask(Prompt {
            options: ANSWERS_ONCE.map(String::from).to_vec(),
            ..joined(prompt, own)
        });
    }
    match own {
        Verdict::Prompt(mut prompt) if asks_for_cost => {
            prompt.reason = format!("{}; {}", prompt.reason, reason::HIGH_COST);
            prompt.rule = format!("{rule} and {}", prompt.rule);
            settled(prompt, remembered)
        }
        own if asks_for_cost => Verdict::ask(joined(Prompt::new(rule, reason::HIGH_COST, question), own)),
        own => own,
    }
}

/// A prompt that takes along what the tool's own rules found.
fn joined(prompt: Prompt, own: Verdict) -> Prompt {
    match own {
        Verdict::Prompt(own) => {
            let reason = format!("{}; {}", prompt.reason, own.reason);
            Prompt {
                reason,
                question: own.question,
                grants: own.grants,
                scope: own.scope,
                touches: own.touches,
                diff: own.diff,
                ..prompt
            }
        }
        Verdict::Allow { grants, .. } => Prompt { grants, ..prompt },
        Verdict::Deny { .. } => prompt,
    }
}

/// What is known about an address that web_fetch would read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchFacts<'a> {
    /// The host of the address, lower case.
    pub host: &'a str,
    /// Its port.
    pub port: u16,
    /// The turn has read untrusted content.
    pub untrusted: bool,
    /// The address stands, letter by letter, in a user message, a search result, or as a link of a fetched page.
    pub seen: bool,
}

/// web_fetch: an allow-list asks about everything else; without one an address that untrusted content may have made up
/// asks.
pub fn fetch(url: &FetchFacts<'_>, facts: &Facts<'_>) -> Verdict {
    let listed = !facts.policy.network.is_empty();
    let why = if listed && !facts.policy.allows_host(url.host, Some(url.port)) {
        reason::HOST
    } else if !listed && url.untrusted && !url.seen {
        reason::INVENTED_URL
    } else {
        return Verdict::allow();
    };
    facts.settle(Prompt {
        grants: Grants { write: Vec::new(), hosts: vec![url.host.to_owned()] },
        ..Prompt::new(format!("net:{}", url.host), why, format!("Read from {}?", url.host))
    })
}

/// How a connected tool stands to what was approved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// As approved.
    Same,
    /// Approved with another definition.
    Changed,
    /// Not there when the connection was approved.
    Appeared,
}

/// What is known about a call of a connected tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActionFacts<'a> {
    /// `<server>.<action>`.
    pub name: &'a str,
    /// SHA-256 of its definition.
    pub definition: &'a str,
    /// How it stands to what was approved.
    pub pin: Pin,
    /// Its effect class is `once`.
    pub once: bool,
    /// The server entry says `"trusted": true`.
    pub trusted: bool,
    /// The turn has read untrusted content.
    pub untrusted: bool,
    /// The turn has called it before and a person agreed.
    pub agreed_in_turn: bool,
}

/// A call of a connected tool.
pub fn action(call: &ActionFacts<'_>, facts: &Facts<'_>) -> Verdict {
    let why = match call.pin {
        Pin::Changed => reason::CHANGED,
        Pin::Appeared => reason::APPEARED,
        Pin::Same if call.untrusted && call.once && !call.trusted && !call.agreed_in_turn => {
            reason::AFTER_UNTRUSTED
        }
        Pin::Same => return Verdict::allow(),
    };
    let rule = format!("mcp:{}:{}", call.name, call.definition);
    facts.settle(Prompt::new(rule, why, format!("Call {}?", call.name)))
}
