//! Hooks: programs of the operator that are asked before and after tool calls, and before a turn ends.
//! (specification 6.10)
//!
//! They run in the sandbox like any child, get one JSON object and give one back. What they say is read by
//! pure functions. What they say is somebody's output like a tool's: known secrets are taken out of it before
//! anything is read, stored or told, so a hook cannot hand a secret to the command it changes either.
//!
//! The invariant: a hook before a call that fails in any way denies the call; every other hook's failure is
//! only logged.

mod answer;

use crate::catalog::hooks::Hook;
use crate::sandbox::{Command, Launcher, ProcessGroups, Workspace};
use crate::secrets::{Known, leaving};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Characters of a reason or message that is passed on.
const TEXT_MAX: usize = 4000;
/// Characters of text added to a result; more would crowd out the result itself.
const APPEND_MAX: usize = 16 * 1024;
/// Characters of a hook's complaints that are logged with its failure.
const STDERR_SHOWN: usize = 300;
/// Times a stop hook may send the model back to work in one turn. (specification 6.10)
pub const MAX_REFUSALS: u32 = 3;

/// What the hooks before a call decided together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gate {
    /// Go on with the permission rules.
    Go(Passed),
    /// Answer the call without running it.
    Deny(String),
    /// The turn is being stopped.
    Stopped,
}

/// What the hooks before a call changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Passed {
    /// The input to be used instead.
    pub input: Option<Value>,
    /// A person must be asked, for this reason.
    pub ask: Option<String>,
}

/// What a hook before a call said.
#[derive(Debug, Clone, PartialEq, Eq)]
enum PreAnswer {
    Allow(Option<Value>),
    Ask(Option<Value>, String),
    Deny(String),
}

/// What a stop hook said.
#[derive(Debug, Clone, PartialEq, Eq)]
enum StopAnswer {
    Stop,
    Continue(String),
}

fn short(text: &str, max: usize) -> String {
    text.chars().take(max).collect()
}

fn reason_of(answer: &Map<String, Value>, otherwise: &str) -> Result<String, String> {
    match answer.get("reason") {
        None | Some(Value::Null) => Ok(otherwise.to_owned()),
        Some(Value::String(text)) => Ok(short(text, TEXT_MAX)),
        Some(_) => Err("`reason` is no string".to_owned()),
    }
}

fn read_pre(answer: &Map<String, Value>) -> Result<PreAnswer, String> {
    let input = match answer.get("input") {
        None | Some(Value::Null) => None,
        Some(input @ Value::Object(_)) => Some(input.clone()),
        Some(_) => return Err("`input` is no object".to_owned()),
    };
    match answer.get("decision").and_then(Value::as_str) {
        Some("allow") => Ok(PreAnswer::Allow(input)),
        Some("ask") => Ok(PreAnswer::Ask(input, reason_of(answer, "a hook wants a person to decide")?)),
        Some("deny") => Ok(PreAnswer::Deny(reason_of(answer, "a hook denied this call")?)),
        _ => Err("`decision` is not allow, deny or ask".to_owned()),
    }
}

fn read_post(answer: &Map<String, Value>) -> Result<Option<String>, String> {
    match answer.get("append") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(short(text, APPEND_MAX)).filter(|t| !t.is_empty())),
        Some(_) => Err("`append` is no string".to_owned()),
    }
}

fn read_stop(answer: &Map<String, Value>) -> Result<StopAnswer, String> {
    match answer.get("decision").and_then(Value::as_str) {
        Some("stop") => Ok(StopAnswer::Stop),
        Some("continue") => match answer.get("message") {
            Some(Value::String(text)) if !text.trim().is_empty() => {
                Ok(StopAnswer::Continue(short(text, TEXT_MAX)))
            }
            None | Some(Value::Null) => {
                Ok(StopAnswer::Continue("The work is not finished yet. Go on.".into()))
            }
            Some(_) => Err("`message` is no text".to_owned()),
        },
        _ => Err("`decision` is not stop or continue".to_owned()),
    }
}

/// A result with a hook's text added: to the end of a text, beside the fields of an object.
pub fn appended(output: Value, text: &str) -> Value {
    match output {
        Value::String(before) => Value::String(format!("{before}\n\n{text}")),
        Value::Object(mut map) if !map.contains_key("appended") => {
            map.insert("appended".to_owned(), Value::String(text.to_owned()));
            Value::Object(map)
        }
        Value::Null => json!({"appended": text}),
        other => json!({"output": other, "appended": text}),
    }
}

/// Where hooks run.
pub struct Runner<'a> {
    /// The one way to start a process.
    pub launcher: &'a Launcher,
    /// What the call may see, with a scratch.
    pub workspace: &'a Workspace,
    /// The turn's process groups.
    pub groups: &'a Arc<ProcessGroups>,
    /// The catalog, readable for hooks.
    pub readable: Vec<PathBuf>,
    /// Cancelled with the turn.
    pub cancel: &'a CancellationToken,
    /// The values that must not be in what a hook says.
    pub known: &'a Known,
}

/// Why a hook gave no answer.
enum NoAnswer {
    Failed(String),
    Cancelled,
}

impl Runner<'_> {
    /// Asks the hooks before a call, in their order; each sees the input as the one before left it.
    pub async fn before(&self, hooks: &[Hook], subject: &Value) -> Gate {
        let mut passed = Passed::default();
        for hook in hooks {
            let mut question = subject.clone();
            question["event"] = json!(hook.event.as_str());
            if let Some(input) = &passed.input {
                question["input"] = input.clone();
            }
            let said = match self.ask(hook, &question).await {
                Ok(answer) => read_pre(&answer),
                Err(NoAnswer::Failed(why)) => Err(why),
                Err(NoAnswer::Cancelled) => return Gate::Stopped,
            };
            match said {
                Ok(PreAnswer::Allow(input)) => passed.input = input.or(passed.input),
                Ok(PreAnswer::Ask(input, reason)) => {
                    passed.input = input.or(passed.input);
                    passed.ask.get_or_insert(reason);
                }
                Ok(PreAnswer::Deny(reason)) => return Gate::Deny(reason),
                Err(why) => {
                    tracing::warn!(hook = %hook.command[0], "A pre-tool hook failed, so the call is denied: {why}");
                    return Gate::Deny(
                        "a hook that must agree to this call failed; tell the operator".to_owned(),
                    );
                }
            }
        }
        Gate::Go(passed)
    }

    /// Tells the hooks after a call; what they want added, joined.
    pub async fn after(&self, hooks: &[Hook], subject: &Value) -> Option<String> {
        let mut texts = Vec::new();
        for hook in hooks {
            let mut told = subject.clone();
            told["event"] = json!(hook.event.as_str());
            match self.ask(hook, &told).await {
                Ok(answer) => match read_post(&answer) {
                    Ok(text) => texts.extend(text),
                    Err(why) => tracing::warn!(hook = %hook.command[0], "A post-tool hook failed: {why}"),
                },
                Err(NoAnswer::Failed(why)) => {
                    tracing::warn!(hook = %hook.command[0], "A post-tool hook failed: {why}");
                }
                Err(NoAnswer::Cancelled) => break,
            }
        }
        (!texts.is_empty()).then(|| texts.join("\n"))
    }

    /// Asks the hooks at the end of a turn; the first message that sends the model back to work.
    pub async fn at_stop(&self, hooks: &[Hook], subject: &Value) -> Option<String> {
        for hook in hooks {
            let mut question = subject.clone();
            question["event"] = json!(hook.event.as_str());
            let said = match self.ask(hook, &question).await {
                Ok(answer) => read_stop(&answer),
                Err(NoAnswer::Failed(why)) => Err(why),
                Err(NoAnswer::Cancelled) => return None,
            };
            match said {
                Ok(StopAnswer::Stop) => {}
                Ok(StopAnswer::Continue(message)) => return Some(message),
                Err(why) => tracing::warn!(hook = %hook.command[0], "A stop hook failed: {why}"),
            }
        }
        None
    }

    async fn ask(&self, hook: &Hook, question: &Value) -> Result<Map<String, Value>, NoAnswer> {
        let failed = |why: String| NoAnswer::Failed(why);
        let mut command = Command::new(&hook.command[0], &hook.command[1..]);
        command.stdin = Some(question.to_string().into_bytes());
        command.read = self.readable.clone();
        let running = self
            .launcher
            .spawn(command, self.workspace, self.groups)
            .await
            .map_err(|e| failed(format!("it was not started: {e}")))?;
        let finished = running.finish(hook.timeout, self.cancel).await;
        if finished.cancelled {
            return Err(NoAnswer::Cancelled);
        }
        if finished.timed_out {
            return Err(failed(format!("no answer within {} s", hook.timeout.as_secs())));
        }
        if finished.exit_code != 0 {
            // before anything is cut: half a secret is not found any more
            let complaint = self.known.scrub(&finished.stderr.into_text()).into_owned();
            let complaint = short(complaint.trim(), STDERR_SHOWN);
            return Err(failed(format!("exit code {}: {complaint}", finished.exit_code)));
        }
        answer::read(&finished.stdout.into_text()).map(|answer| without(self.known, answer)).map_err(failed)
    }
}

/// The answer without known secrets, in its names as in its values.
fn without(known: &Known, answer: Map<String, Value>) -> Map<String, Value> {
    let mut answer = Value::Object(answer);
    leaving::value(known, &mut answer);
    match answer {
        Value::Object(answer) => answer,
        // scrubbing an object gives an object
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().expect("an object").clone()
    }

    #[test]
    fn a_hook_before_a_call_allows_asks_or_denies_and_anything_else_is_a_failure() {
        let pre = |value: Value| read_pre(&map(value));
        assert_eq!(pre(json!({"decision": "allow"})), Ok(PreAnswer::Allow(None)));
        let changed = json!({"command": "ls"});
        assert_eq!(pre(json!({"decision": "allow", "input": changed})), Ok(PreAnswer::Allow(Some(changed))));
        assert_eq!(pre(json!({"decision": "ask", "reason": "r"})), Ok(PreAnswer::Ask(None, "r".into())));
        assert_eq!(pre(json!({"decision": "deny"})), Ok(PreAnswer::Deny("a hook denied this call".into())));
        for bad in [
            json!({}),
            json!({"decision": "yes"}),
            json!({"decision": true}),
            json!({"decision": "allow", "input": [1]}),
            json!({"decision": "deny", "reason": 1}),
        ] {
            assert!(pre(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_hook_after_a_call_may_add_text_and_a_stop_hook_may_send_back_to_work() {
        assert_eq!(read_post(&map(json!({}))), Ok(None));
        assert_eq!(read_post(&map(json!({"append": "x"}))), Ok(Some("x".into())));
        assert!(read_post(&map(json!({"append": 1}))).is_err());
        let stop = |value: Value| read_stop(&map(value));
        assert_eq!(stop(json!({"decision": "stop"})), Ok(StopAnswer::Stop));
        let on = json!({"decision": "continue", "message": "tests fail"});
        assert_eq!(stop(on), Ok(StopAnswer::Continue("tests fail".into())));
        assert!(matches!(stop(json!({"decision": "continue"})), Ok(StopAnswer::Continue(_))));
        assert!(stop(json!({})).is_err() && stop(json!({"decision": "continue", "message": ""})).is_err());
    }

    #[test]
    fn added_text_never_replaces_what_a_tool_said() {
        assert_eq!(appended(json!("a"), "b"), json!("a\n\nb"));
        assert_eq!(appended(json!({"x": 1}), "b"), json!({"x": 1, "appended": "b"}));
        assert_eq!(
            appended(json!({"appended": 1}), "b"),
            json!({"output": {"appended": 1}, "appended": "b"})
        );
        assert_eq!(appended(json!([1]), "b"), json!({"output": [1], "appended": "b"}));
        assert_eq!(appended(Value::Null, "b"), json!({"appended": "b"}));
    }
}
