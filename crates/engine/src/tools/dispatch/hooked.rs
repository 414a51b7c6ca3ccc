//! Where a call meets the hooks: before it is judged, and between its outcome and the stream.
//!
//! What the hooks said before a question to a person is kept with the question, so that they are asked once
//! and the answer is about what the person saw.

use super::One;
use super::decide::Refusal;
use super::outcome::Told;
use crate::catalog::hooks::{Hook, HookEvent};
use crate::permissions::{ANSWERS_ONCE, Grants, Prompt as Question, Verdict};
use crate::sandbox::Workspace;
use crate::turn::hooks::{Gate, Passed, Runner, appended};
use brain::effects::{self, Effect, EffectState, Permission};
use brain::prompts::Prompt;
use contract::ToolReason;
use contract::event::Event;
use serde_json::{Value, json};

/// What the hooks before a call mean for it.
pub(super) enum HooksSaid {
    GoOn,
    Refuse(Refusal),
    Stopped,
}

/// The details of a question with what the hooks had said before it.
pub(super) fn kept_in(mut details: Value, passed: Option<&Passed>) -> Value {
    if let Some(passed) = passed {
        details["hook"] = json!({"input": passed.input, "ask": passed.ask});
    }
    details
}

/// What the hooks had said when a question was asked.
fn kept(prompt: &Prompt) -> Passed {
    let hook = &prompt.details["hook"];
    Passed {
        input: hook.get("input").filter(|i| i.is_object()).cloned(),
        ask: hook["ask"].as_str().map(str::to_owned),
    }
}

/// The rules' verdict, and a hook's wish that a person decides. A hook never loosens a verdict.
pub(super) fn with_question(verdict: Verdict, passed: Option<&Passed>, tool: &str) -> Verdict {
    let Some(reason) = passed.and_then(|p| p.ask.clone()) else { return verdict };
    let once = || ANSWERS_ONCE.map(String::from).to_vec();
    match verdict {
        Verdict::Deny { .. } => verdict,
        Verdict::Prompt(question) => Verdict::Prompt(Question {
            reason: format!("{}; {reason}", question.reason),
            options: once(),
            ..question
        }),
        Verdict::Allow { grants, .. } => ask(tool, reason, grants, once()),
    }
}

fn ask(tool: &str, reason: String, grants: Grants, options: Vec<String>) -> Verdict {
    let question = Question::new(format!("tool:{tool}"), reason, format!("Run {tool}?"));
    Verdict::Prompt(Question { options, grants, ..question })
}

impl One<'_> {
    /// Asks the hooks before the call, unless they have been asked before a question to a person.
    pub(super) async fn ask_hooks(
        &mut self,
        workspace: &Workspace,
        prompt: Option<&Prompt>,
    ) -> brain::Result<HooksSaid> {
        let hooks = self.hooks(HookEvent::PreTool);
        let passed = match prompt {
            Some(prompt) => kept(prompt),
            None if hooks.is_empty() => return Ok(HooksSaid::GoOn),
            None => match self.runner(workspace).before(&hooks, &self.subject()).await {
                Gate::Go(passed) => passed,
                Gate::Deny(reason) => {
                    let text = format!("a hook of the operator refused this call: {reason}");
                    let refusal = Refusal {
                        permission: Some(Permission::Denied),
                        ..Refusal::new(ToolReason::PermissionDenied, text)
                    };
                    return Ok(HooksSaid::Refuse(refusal));
                }
                Gate::Stopped => return Ok(HooksSaid::Stopped),
            },
        };
        if let Some(input) = &passed.input {
            self.call.input = input.clone();
            let complaints = self.toolbox.complaints(&self.call.tool, input).await;
            if !complaints.is_empty() {
                let text =
                    format!("a hook changed the input to one that does not fit: {}", complaints.join("; "));
                return Ok(HooksSaid::Refuse(Refusal::new(ToolReason::InvalidInput, text)));
            }
        }
        self.passed = Some(passed);
        Ok(HooksSaid::GoOn)
    }

    fn hooks(&self, event: HookEvent) -> Vec<Hook> {
        let config = &self.core.config;
        let on = match event {
            HookEvent::PreTool => config.pre_tool_hooks_enabled,
            HookEvent::PostTool => config.post_tool_hooks_enabled,
            HookEvent::Stop => config.stop_hooks_enabled,
        };
        if on { self.toolbox.catalog.hooks(event, &self.call.tool) } else { Vec::new() }
    }

    fn runner<'r>(&'r self, workspace: &'r Workspace) -> RunnerParts<'r> {
        RunnerParts { one: self, workspace }
    }

    fn subject(&self) -> Value {
        json!({
            "task_id": self.turn.task_id,
            "turn_id": self.turn.turn_id,
            "agent": self.turn.agent,
            "tool": self.call.tool,
            "input": self.call.input,
        })
    }

    /// When the stream hears of this call's outcome.
    pub(super) fn when_told(&self) -> Told {
        if self.hooks(HookEvent::PostTool).is_empty() { Told::Now } else { Told::AfterHooks }
    }

    /// Tells of an outcome that waits for its hooks.
    pub(super) async fn tell_after(&self, told: Told) -> brain::Result<()> {
        if told == Told::Now {
            return Ok(());
        }
        let id = self.call.id.clone();
        match self.core.brain.read("read outcome", move |tx| effects::get(tx, &id)).await? {
            Some(effect) if !effect.told => self.tell(&effect).await,
            Some(_) | None => Ok(()),
        }
    }

    /// Runs the hooks after the call and tells the stream its outcome; also for an outcome that an earlier
    /// process committed and did not tell.
    pub(super) async fn tell(&self, effect: &Effect) -> brain::Result<()> {
        let hooks = self.hooks(HookEvent::PostTool);
        let mut subject = self.subject();
        subject["input"] = effect.input.clone();
        subject["output"] = effect.output.clone();
        if effect.state != EffectState::Done {
            subject["error"] = json!(effect.error);
        }
        let added = match self.workspace() {
            Ok(workspace) if !hooks.is_empty() => self.runner(&workspace).after(&hooks, &subject).await,
            Ok(_) | Err(_) => None,
        };
        let output = match added {
            Some(text) => appended(effect.output.clone(), &text),
            None => effect.output.clone(),
        };
        let ((turn, nested, call), effect) = (self.owned(), effect.clone());
        self.core
            .record("tell outcome", move |tx, out| {
                if effects::tell(tx, &call.id, &output)? {
                    out.emit(tx, &turn.task_id, &turn.turn_id, &result_of(&effect, output), nested.as_ref())?;
                }
                Ok(())
            })
            .await
    }
}

/// The `tool_result` of a stored outcome.
pub fn result_of(effect: &Effect, output: Value) -> Event {
    let ended = effect.finished_at.unwrap_or(effect.started_at);
    Event::ToolResult {
        tool: effect.tool.clone(),
        tool_call_id: effect.call_id.clone(),
        output,
        error: effect.error.clone(),
        reason: effect.reason,
        duration_ms: (ended.millis() - effect.started_at.millis()).unsigned_abs(),
        truncated: effect.blob.is_some(),
        blob: effect.blob.clone(),
    }
}

/// A runner of hooks for one call.
struct RunnerParts<'r> {
    one: &'r One<'r>,
    workspace: &'r Workspace,
}

impl RunnerParts<'_> {
    async fn before(&self, hooks: &[Hook], subject: &Value) -> Gate {
        let groups = self.one.core.groups_of(self.one.turn);
        self.runner(&groups).before(hooks, subject).await
    }

    async fn after(&self, hooks: &[Hook], subject: &Value) -> Option<String> {
        let groups = self.one.core.groups_of(self.one.turn);
        self.runner(&groups).after(hooks, subject).await
    }

    fn runner<'g>(&'g self, groups: &'g std::sync::Arc<crate::sandbox::ProcessGroups>) -> Runner<'g> {
        Runner {
            launcher: &self.one.core.launcher,
            workspace: self.workspace,
            groups,
            readable: self.one.core.config.catalog_dir.iter().cloned().collect(),
            cancel: &self.one.control.cancel,
            known: &self.one.core.known,
        }
    }
}
