//! People's answers: how a question is settled, and how its turn goes on.

use crate::core::{Core, Emitted, to_the_end};
use crate::turn::accept::{by_url, is_somebody_elses, presend};
use crate::turn::frame::asker;
use brain::permissions::Always;
use brain::prompts::{Answer, Prompt, PromptState};
use brain::turns::{Change, TurnState};
use brain::{Tx, blobs, permissions, prompts, tasks, turns};
use contract::event::{Event, HitlKind, Resolution};
use contract::{ApiError, ErrorCode, HitlId, TaskId, Timestamp, TurnId};
use serde_json::{Value, json};
use std::sync::Arc;

/// Which question an answer is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The exact question.
    pub request: Option<HitlId>,
    /// The oldest pending question of this task, or a check on `request`.
    pub task: Option<TaskId>,
}

enum Settled {
    Done { request: HitlId, turn: TurnId, requeued: bool },
    Refused(ApiError),
}

/// Settles a question with a person's answer and lets its turn go on.
pub async fn answer(core: &Arc<Core>, target: Target, mut answer: Answer) -> Result<HitlId, ApiError> {
    let untrusted = answer.content_blocks.iter().any(is_somebody_elses);
    let ours_to_fetch = by_url::are_ours_to_fetch(core, &answer.content_blocks);
    let mut media = match ours_to_fetch && is_open(core, target.clone()).await? {
        true => by_url::fetched(core, &mut answer.content_blocks, "content_blocks").await?,
        // what cannot be answered is refused below, and fetched for nobody
        false => Vec::new(),
    };
    presend::prepared(core, &mut answer.content_blocks, &mut media, "content_blocks").await?;
    to_the_end(commit_answer(Arc::clone(core), target, answer, Attached { media, untrusted })).await
}

/// What came with an answer.
struct Attached {
    /// Bytes and types that the answer's blocks refer to.
    media: Vec<(Vec<u8>, String)>,
    /// Some of it was written by somebody else.
    untrusted: bool,
}

async fn is_open(core: &Core, target: Target) -> Result<bool, ApiError> {
    let found = core.brain.read("is question open", move |tx| find(tx, &target)).await;
    let found = found.map_err(|e| crate::turn::accept::storage(&e))?;
    Ok(found.is_ok_and(|prompt| prompt.state == PromptState::Pending))
}

async fn commit_answer(
    core: Arc<Core>,
    target: Target,
    answer: Answer,
    attached: Attached,
) -> Result<HitlId, ApiError> {
    let core = &core;
    let settled = core
        .record("answer question", move |tx, out| {
            let prompt = match find(tx, &target)? {
                Ok(prompt) => prompt,
                Err(error) => return Ok(Settled::Refused(error)),
            };
            let reason = match prompt.state {
                PromptState::Pending => None,
                PromptState::Answered => Some("already_answered"),
                PromptState::Expired | PromptState::Cancelled => Some("expired"),
            };
            if let Some(reason) = reason {
                return Ok(Settled::Refused(
                    ApiError::new(ErrorCode::Conflict, format!("the question was settled before ({reason})"))
                        .with(json!({"reason": reason, "request_id": prompt.request_id})),
                ));
            }
            let answer = match normalise(&prompt, answer) {
                Ok(answer) => answer,
                Err(error) => return Ok(Settled::Refused(error)),
            };
            let now = Timestamp::now();
            for (bytes, media_type) in &attached.media {
                blobs::put(tx, bytes, media_type, now)?;
            }
            if attached.untrusted {
                turns::taint(tx, &prompt.turn_id)?;
            }
            prompts::settle(tx, &prompt.request_id, PromptState::Answered, Some(&answer), now)?;
            if answer.text == "always" && prompt.kind == HitlKind::Permission {
                let tool = prompt.details["tool"].as_str().unwrap_or_default();
                let rule = prompt.details["rule"].as_str().unwrap_or_default();
                let scope = prompt.details.get("scope");
                let always = Always { tool, rule, scope, request: &prompt.request_id };
                permissions::remember(tx, &prompt.task_id, always, now)?;
            }
            let requeued = wake(tx, out, &prompt, Resolution::Answered, Some(answer.text))?;
            tasks::touch(tx, &prompt.task_id, now)?;
            Ok(Settled::Done { request: prompt.request_id, turn: prompt.turn_id, requeued })
        })
        .await
        .map_err(|e| crate::turn::accept::storage(&e))?;
    match settled {
        Settled::Refused(error) => Err(error),
        Settled::Done { request, turn, requeued } => {
            core.pulse.activity();
            go_on(core, turn, requeued);
            refresh_expiry(core).await;
            Ok(request)
        }
    }
}

fn find(tx: &Tx<'_>, target: &Target) -> brain::Result<Result<Prompt, ApiError>> {
    let none = |what: &str| ApiError::new(ErrorCode::TaskNotFound, what.to_owned());
    if let Some(request) = &target.request {
        let Some(prompt) = prompts::get(tx, request)? else {
            return Ok(Err(none("there is no such question")));
        };
        if target.task.as_ref().is_some_and(|t| *t != prompt.task_id) {
            return Ok(Err(none("the question belongs to another task")));
        }
        return Ok(Ok(prompt));
    }
    let Some(task) = &target.task else {
        return Ok(Err(ApiError::invalid_field("request_id", "request_id or task_id", Value::Null)));
    };
    Ok(prompts::oldest_pending(tx, task)?.ok_or_else(|| none("nothing is pending in this task")))
}

fn normalise(prompt: &Prompt, answer: Answer) -> Result<Answer, ApiError> {
    if prompt.kind == HitlKind::Question {
        return Ok(answer);
    }
    let word = answer.text.trim().to_ascii_lowercase();
    let text = match word.as_str() {
        "yes" | "no" => word,
        // without `always` among the options the answer is for this call alone
        "always" if prompt.options.iter().any(|o| o == "always") => word,
        "always" => "yes".to_owned(),
        _ => return Err(ApiError::invalid_field("answer", "yes, no or always", json!(answer.text))),
    };
    Ok(Answer { text, ..answer })
}

/// Emits `hitl_resolved` and, when the turn is paused, queues it again; true when it was queued.
fn wake(
    tx: &Tx<'_>,
    out: &mut Emitted,
    prompt: &Prompt,
    resolution: Resolution,
    answer: Option<String>,
) -> brain::Result<bool> {
    let event =
        Event::HitlResolved { request_id: prompt.request_id.clone(), kind: prompt.kind, resolution, answer };
    out.emit(tx, &prompt.task_id, &prompt.turn_id, &event, asker(prompt).as_ref())?;
    let now = Timestamp::now();
    let change = turns::set_state(tx, &prompt.turn_id, &[TurnState::Paused], TurnState::Queued, now)?;
    Ok(change == Change::Changed)
}

fn go_on(core: &Arc<Core>, turn: TurnId, requeued: bool) {
    if requeued {
        core.coordinator.push_front(turn);
        core.pump();
    } else if let Some(control) = core.coordinator.running(&turn) {
        control.answered.send_modify(|settled| *settled += 1);
    }
}

/// Settles every question whose time is over; a permission then counts as "no".
pub async fn expire_due(core: &Arc<Core>) -> brain::Result<()> {
    let woken = core
        .record("expire questions", |tx, out| {
            let now = Timestamp::now();
            let mut woken = Vec::new();
            for prompt in prompts::pending(tx)?.into_iter().filter(|p| p.expires_at <= now) {
                if prompts::settle(tx, &prompt.request_id, PromptState::Expired, None, now)? {
                    let requeued = wake(tx, out, &prompt, Resolution::Expired, None)?;
                    woken.push((prompt.turn_id, requeued));
                }
            }
            Ok(woken)
        })
        .await?;
    for (turn, requeued) in woken {
        go_on(core, turn, requeued);
    }
    refresh_expiry(core).await;
    Ok(())
}

/// Tells /health and the expiry timer when the next question expires.
pub async fn refresh_expiry(core: &Arc<Core>) {
    match core.brain.read("next question expiry", prompts::next_expiry).await {
        Ok(at) => core.pulse.set_next_hitl_expiry(at),
        Err(error) => tracing::error!(code = "INTERNAL", error = %error, "Could not read the next expiry"),
    }
}

/// A pending question as GET /hitl/pending shows it.
pub fn pending_json(prompt: &Prompt) -> Value {
    let mut value = json!({
        "request_id": prompt.request_id,
        "task_id": prompt.task_id,
        "turn_id": prompt.turn_id,
        "tool_call_id": prompt.call_id,
        "kind": prompt.kind.as_str(),
        "question": prompt.question,
        "options": prompt.options,
        "created_at": prompt.created_at,
        "expires_at": prompt.expires_at,
    });
    if prompt.kind == HitlKind::Permission {
        for key in ["tool", "input", "reason", "rule"] {
            value[key] = prompt.details[key].clone();
        }
        // what it would change, where that is known
        for key in ["touches", "diff"] {
            if let Some(shown) = prompt.details.get(key).filter(|v| !v.is_null()) {
                value[key] = shown.clone();
            }
        }
    }
    value
}
