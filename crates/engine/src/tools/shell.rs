//! The tool `bash`: one shell per call, inside the sandbox.

use super::function::{Card, Function, tool};
use super::input::{not_found, readable};
use super::shorten::head_and_tail;
use super::tool::{CallContext, Effect, Failure, Output, Tool};
use crate::permissions::{PermissionContext, Verdict, effect, rules};
use crate::sandbox::{Command, Finished, LaunchError, launcher};
use crate::secrets::Known;
use contract::ToolReason;
use serde::Deserialize;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const DESCRIPTION: &str = "Runs a shell command in the workspace and waits for it. Input: `command` (bash \
syntax, several lines allowed), optional `timeout_s` and `cwd`. Output: stdout, stderr, exit_code (128 + \
signal when killed), timed_out. Use it to build, test, run programs, move and transform files. Do not use it \
to read, write, edit or search files: read_file, write_file, edit_file, grep and find are safer and cheaper. \
No terminal, no input; no network, except hosts an operator has named, through $HTTPS_PROXY; only the workspace and $TMPDIR can be written. Each call is a new shell, so \
`cd` and variables do not last; background processes live until the end of the turn. Destructive commands ask \
a person first.";

/// Grows the part of the cap that the smaller stream leaves to the other.
const STREAMS: usize = 2;

/// The tool, with BASH_TIMEOUT_S.
pub fn bash(default_timeout: Duration) -> Arc<dyn Tool> {
    tool(Bash { default_timeout })
}

struct Bash {
    default_timeout: Duration,
}

#[derive(Deserialize)]
struct Input {
    command: String,
    timeout_s: Option<u64>,
    cwd: Option<String>,
}

impl Function for Bash {
    type Input = Input;

    fn card(&self) -> Card {
        let default_s = self.default_timeout.as_secs();
        Card {
            name: "bash",
            description: DESCRIPTION,
            effect: Effect::Once,
            required: &["command"],
            properties: json!({
                "command": {"type": "string", "minLength": 1, "maxLength": 100_000,
                    "description": "The command, in bash syntax."},
                "timeout_s": {"type": "integer", "minimum": 1, "maximum": 3600,
                    "description": format!("Seconds after which the command and its children are killed; {default_s} when absent.")},
                "cwd": {"type": "string", "minLength": 1,
                    "description": "Directory to run in, absolute or relative to the workspace; the workspace when absent."}
            }),
        }
    }

    fn effect(&self, usual: Effect, input: &Value) -> Effect {
        match input["command"].as_str() {
            Some(command) if effect::is_read_only(command) => Effect::ReadOnly,
            Some(_) | None => usual,
        }
    }

    fn check(&self, input: &Value, context: &PermissionContext<'_>) -> Verdict {
        match input["command"].as_str() {
            Some(command) => rules::bash(command, input["cwd"].as_str(), context),
            None => Verdict::deny("there is no command"),
        }
    }

    async fn run(&self, call: CallContext, input: Input) -> Result<Output, Failure> {
        let cwd = match &input.cwd {
            Some(path) => {
                let cwd = readable(&call, path)?;
                if !cwd.is_dir() {
                    return Err(not_found(path));
                }
                Some(cwd)
            }
            None => None,
        };
        let limit = input.timeout_s.map_or(self.default_timeout, Duration::from_secs);
        let (program, args) = shell(&input.command);
        let mut command = Command::new(program, args);
        command.cwd = cwd;
        command.grants = call.grants.clone();
        // held to the end of the call: a yes is for this call alone
        let pass = call.proxy.as_ref().map(|proxy| proxy.pass(&call.grants.hosts));
        if let Some(pass) = &pass {
            pass.open_for(&mut command);
        }
        let spawned = call.launcher.spawn(command, &call.workspace, &call.groups).await;
        let running = spawned.map_err(|e| launch_failure(&e))?;
        (call.on_spawn)(running.pgid()).await;
        let finished = running.finish(limit, &call.cancel).await;
        answer(finished, limit, call.output_max, &call.known)
    }
}

/// bash where there is one, else the system's shell. No profile and no rc file is read.
fn shell(command: &str) -> (&'static str, Vec<OsString>) {
    if launcher::is_program(Path::new("/bin/bash")) {
        ("/bin/bash", vec!["--noprofile".into(), "--norc".into(), "-c".into(), command.into()])
    } else {
        ("/bin/sh", vec!["-c".into(), command.into()])
    }
}

/// What a model is told when its command was not started.
pub fn launch_failure(error: &LaunchError) -> Failure {
    let cause = std::error::Error::source(error).map(|s| format!(": {s}")).unwrap_or_default();
    Failure::new(ToolReason::Failed, format!("the command was not started: {error}{cause}"))
}

/// What a model is told of a finished command.
pub fn answer(
    finished: Finished,
    limit: Duration,
    output_max: usize,
    known: &Known,
) -> Result<Output, Failure> {
    let Finished { exit_code, timed_out, cancelled, stdout, stderr } = finished;
    // before anything is cut: half a secret is not found any more
    let clean = |text: String| known.scrub(&text).into_owned();
    let (stdout, stderr) = (clean(stdout.into_text()), clean(stderr.into_text()));
    let half = output_max / STREAMS;
    // Each stream gets half, and what the other leaves of its half.
    let short_out = head_and_tail(&stdout, output_max - stderr.len().min(half));
    let short_err = head_and_tail(&stderr, output_max - stdout.len().min(half));
    let full = (short_out.is_some() || short_err.is_some()).then(|| match stderr.as_str() {
        "" => stdout.clone().into_bytes(),
        err => format!("{stdout}\n--- stderr ---\n{err}").into_bytes(),
    });
    let value = json!({
        "stdout": short_out.unwrap_or(stdout),
        "stderr": short_err.unwrap_or(stderr),
        "exit_code": exit_code,
        "timed_out": timed_out,
    });
    if cancelled {
        return Err(Failure { output: Some(value), full, ..Failure::cancelled() });
    }
    if timed_out {
        let text =
            format!("the command was killed after {} s; what it wrote until then is kept", limit.as_secs());
        return Err(Failure { output: Some(value), full, ..Failure::new(ToolReason::Timeout, text) });
    }
    Ok(Output { value, media: Vec::new(), full })
}
