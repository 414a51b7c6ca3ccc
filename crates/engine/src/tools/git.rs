//! The tools `git_status` and `git_log`: what a repository of the workspace says about itself.
//!
//! Git runs in the sandbox like every command. A repository's own configuration is somebody else's text and may name
//! programs (a file system monitor, a pager, hooks, filters, signature checkers, remote helpers), so what may start one
//! is switched off in git's environment, which wins over every file. Filters have names of their own: they are asked for
//! first and then switched off by name. Nothing is written, not even the index.
//!
//! The invariant: reading a repository starts no program but git.

mod parse;

use super::function::{Card, Function, path_property, tool};
use super::input::{not_found, readable};
use super::shell::launch_failure;
use super::tool::{CallContext, Effect, Failure, Output, Tool};
use crate::permissions::{PermissionContext, Verdict, rules};
use crate::sandbox::{Command, Finished, LaunchError};
use contract::ToolReason;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long git may take. A status of a large repository on a cold disk takes seconds; longer holds up the turn.
const TIME_MAX: Duration = Duration::from_secs(30);
/// Commits one call may ask for. (specification 7.1)
const COMMITS_MAX: u64 = 200;
/// Commits when nobody says. (specification 7.1)
const COMMITS: u64 = 20;
/// Filters a repository may have. More is no repository that people work with, and each takes room in git's
/// environment, which the kernel limits.
const FILTERS_MAX: usize = 200;
/// Characters of git's complaint that a model is told.
const COMPLAINT_CHARS: usize = 500;

/// Settings that win over those of the repository.
const SETTINGS: [(&str, &str); 17] = [
    // programs that reading could start
    ("core.fsmonitor", "false"),
    ("core.hooksPath", "/dev/null"),
    ("core.pager", "cat"),
    ("core.sshCommand", "false"),
    ("core.gitProxy", ""),
    ("core.alternateRefsCommand", ""),
    ("diff.external", ""),
    ("gpg.program", "false"),
    ("gpg.x509.program", "false"),
    ("gpg.ssh.program", "false"),
    ("log.showSignature", "false"),
    // objects that are missing are not fetched
    ("protocol.allow", "never"),
    ("submodule.recurse", "false"),
    ("core.attributesFile", "/dev/null"),
    ("core.untrackedCache", "false"),
    ("color.ui", "false"),
    // the owner of a file says nothing inside the sandbox, and what it protects from is switched off here
    ("safe.directory", "*"),
];

/// Variables of git's environment besides the settings.
const VARIABLES: [(&str, &str); 11] = [
    ("GIT_CONFIG_NOSYSTEM", "1"),
    ("GIT_CONFIG_GLOBAL", "/dev/null"),
    ("GIT_ATTR_NOSYSTEM", "1"),
    ("GIT_OPTIONAL_LOCKS", "0"),
    ("GIT_TERMINAL_PROMPT", "0"),
    ("GIT_ASKPASS", "false"),
    ("GIT_PAGER", "cat"),
    ("GIT_ALLOW_PROTOCOL", ""),
    ("GIT_NO_LAZY_FETCH", "1"),
    ("GIT_LITERAL_PATHSPECS", "1"),
    // complaints are read by this program
    ("LC_ALL", "C"),
];

/// Both tools.
pub fn tools() -> Vec<Arc<dyn Tool>> {
    vec![tool(GitStatus), tool(GitLog)]
}

fn repo_property() -> Value {
    path_property(
        "Directory of the repository, or one inside it, absolute or relative to the workspace; the workspace when absent.",
    )
}

/// The tool `git_status`.
struct GitStatus;

#[derive(Deserialize)]
struct StatusInput {
    repo: Option<String>,
}

impl Function for GitStatus {
    type Input = StatusInput;

    fn card(&self) -> Card {
        Card {
            name: "git_status",
            description: "Tells which branch a git repository is on and which files differ from its last commit. \
                Input: optional `repo`. Output: branch (null when detached), ahead and behind of its \
                upstream (null without one), files (path below the top of the repository, state: modified, \
                added, deleted, renamed, copied, type_changed, untracked, conflicted; staged) and \
                truncated; at most 1000 files. Use it before and after changing files. For what was \
                committed use git_log; for what exactly differs use bash with git diff.",
            effect: Effect::ReadOnly,
            required: &[],
            properties: json!({"repo": repo_property()}),
        }
    }

    fn check(&self, input: &Value, context: &PermissionContext<'_>) -> Verdict {
        rules::read_optional(&input["repo"], context)
    }

    async fn run(&self, call: CallContext, input: StatusInput) -> Result<Output, Failure> {
        let git = Git::at(&call, input.repo.as_deref())?;
        let args = [
            "status",
            "--porcelain=v2",
            "--branch",
            "-z",
            "--untracked-files=normal",
            // to look into a submodule, git would run there, under that one's configuration
            "--ignore-submodules=dirty",
        ];
        let said = git.ask(&args, &git.settings().await?).await?;
        Ok(Output::json(parse::status(&said)))
    }
}

/// The tool `git_log`.
struct GitLog;

#[derive(Deserialize)]
struct LogInput {
    repo: Option<String>,
    limit: Option<u64>,
    path: Option<String>,
}

impl Function for GitLog {
    type Input = LogInput;

    fn card(&self) -> Card {
        Card {
            name: "git_log",
            description: "Lists the newest commits of a git repository. Input: optional `repo`, `limit` (20), \
                `path`. Output: commits (hash, author, date, subject), the newest first. Use it to find \
                out what was done lately, by whom, or when a file changed. For changes that are not \
                committed use git_status; for a commit's content use bash with git show.",
            effect: Effect::ReadOnly,
            required: &[],
            properties: json!({
                "repo": repo_property(),
                "limit": {"type": "integer", "minimum": 1, "maximum": COMMITS_MAX, "default": COMMITS,
                    "description": "How many commits to return, the newest first."},
                "path": path_property("Only commits that changed this file or directory, absolute, relative to the workspace, or relative to `repo`.")
            }),
        }
    }

    fn check(&self, input: &Value, context: &PermissionContext<'_>) -> Verdict {
        rules::read_optional(&input["repo"], context)
    }

    async fn run(&self, call: CallContext, input: LogInput) -> Result<Output, Failure> {
        let git = Git::at(&call, input.repo.as_deref())?;
        let path = input.path.as_deref().map(|path| git.path(path)).transpose()?;
        let count = format!("-n{}", input.limit.unwrap_or(COMMITS).min(COMMITS_MAX));
        let mut args = vec![
            "log",
            "-z",
            "--format=%H%x00%an%x00%aI%x00%s",
            "--encoding=UTF-8",
            "--no-show-signature",
            "--no-ext-diff",
            "--no-textconv",
            "--no-patch",
            "--no-mailmap",
            "--no-notes",
            "--no-decorate",
            "--no-graph",
            &count,
            "--",
        ];
        args.extend(path.as_deref());
        match git.ask(&args, &git.settings().await?).await {
            Ok(said) => Ok(Output::json(parse::log(&said))),
            // a repository without a commit has a log, it is empty
            Err(failure) if failure.text.contains("does not have any commits yet") => {
                Ok(Output::json(parse::log("")))
            }
            Err(failure) => Err(failure),
        }
    }
}

type Setting = (String, String);

/// Git in one directory.
struct Git<'a> {
    call: &'a CallContext,
    dir: PathBuf,
}

impl<'a> Git<'a> {
    fn at(call: &'a CallContext, repo: Option<&str>) -> Result<Self, Failure> {
        let dir = match repo {
            None => call.workspace.cwd().to_owned(),
            Some(path) => {
                let dir = readable(call, path)?;
                if dir.is_dir() { dir } else { return Err(not_found(path)) }
            }
        };
        Ok(Self { call, dir })
    }

    /// A path as git takes it. What is not there may have been, so it is looked for below the repository, too.
    fn path(&self, path: &str) -> Result<String, Failure> {
        let mut found = readable(self.call, path)?;
        if !found.starts_with(&self.dir) && Path::new(path).is_relative() {
            found = readable(self.call, &self.dir.join(path).to_string_lossy())?;
        }
        found.into_os_string().into_string().map_err(|_| not_found(path))
    }

    /// What wins over the repository's settings: ours, and every filter it defines is none.
    async fn settings(&self) -> Result<Vec<Setting>, Failure> {
        let ours: Vec<Setting> = SETTINGS.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let listed = self.ask(&["config", "--list", "--includes", "--name-only", "-z"], &ours).await?;
        let filters = parse::filters(&listed);
        if filters.len() > FILTERS_MAX {
            let text = format!("the repository defines more than {FILTERS_MAX} filters; it is not read");
            return Err(Failure::new(ToolReason::TooLarge, text));
        }
        let none = |name: &String| {
            let off = ["clean", "smudge", "process"].map(|key| (format!("{name}.{key}"), String::new()));
            off.into_iter().chain([(format!("{name}.required"), "false".to_owned())])
        };
        Ok(ours.into_iter().chain(filters.iter().flat_map(none).collect::<Vec<_>>()).collect())
    }

    /// Runs git; what it wrote, or its complaint.
    async fn ask(&self, args: &[&str], settings: &[Setting]) -> Result<String, Failure> {
        let Self { call, dir } = self;
        let mut command = Command::new("git", ["--no-pager", "--no-optional-locks"].iter().chain(args));
        command.cwd = Some(dir.clone());
        command.env = environment(call.workspace.roots(), settings);
        let spawned = call.launcher.spawn(command, &call.workspace, &call.groups).await;
        let running = spawned.map_err(|error| match error {
            LaunchError::NotFound => {
                Failure::new(ToolReason::Unavailable, "there is no git on this machine; install it")
            }
            other => launch_failure(&other),
        })?;
        (call.on_spawn)(running.pgid()).await;
        said(running.finish(TIME_MAX, &call.cancel).await, dir)
    }
}

fn environment(roots: &[PathBuf], settings: &[Setting]) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> =
        VARIABLES.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    // a repository that only lies around the workspace is not the workspace's
    let above: Vec<_> = roots.iter().filter_map(|root| root.parent()).map(Path::to_string_lossy).collect();
    all.push(("GIT_CEILING_DIRECTORIES".to_owned(), above.join(":")));
    all.push(("GIT_CONFIG_COUNT".to_owned(), settings.len().to_string()));
    for (index, (key, value)) in settings.iter().enumerate() {
        all.push((format!("GIT_CONFIG_KEY_{index}"), key.clone()));
        all.push((format!("GIT_CONFIG_VALUE_{index}"), value.clone()));
    }
    all
}

fn said(finished: Finished, dir: &Path) -> Result<String, Failure> {
    let Finished { exit_code, timed_out, cancelled, stdout, stderr } = finished;
    if cancelled {
        return Err(Failure::cancelled());
    }
    if timed_out {
        let text = format!("git did not answer within {} s", TIME_MAX.as_secs());
        return Err(Failure::new(ToolReason::Timeout, text));
    }
    if exit_code == 0 {
        let cut = stdout.dropped() > 0;
        let text = stdout.into_text();
        // of what was too much only the beginning is whole
        return Ok(if cut { text[..text.len() / 3].to_owned() } else { text });
    }
    let complaint: String = stderr.into_text().trim().chars().take(COMPLAINT_CHARS).collect();
    if complaint.contains("not a git repository") {
        let text = format!("there is no git repository in {}; name one with `repo`", dir.display());
        return Err(Failure::new(ToolReason::NotFound, text));
    }
    Err(Failure::new(ToolReason::Failed, format!("git ended with {exit_code}: {complaint}")))
}
