//! Committing a question to a person.

use super::MAX_PENDING;
use crate::core::Emitted;
use brain::Tx;
use brain::prompts::{self, Prompt, PromptState};
use contract::event::{Event, HitlKind};

/// Stores a question and tells of it; asking again changes nothing. False when too many wait.
pub(super) fn commit(tx: &Tx<'_>, out: &mut Emitted, prompt: Prompt) -> brain::Result<bool> {
    let asked = prompts::of_turn(tx, &prompt.turn_id)?;
    if asked.iter().filter(|p| p.state == PromptState::Pending).count() >= MAX_PENDING {
        return Ok(false);
    }
    if prompts::ask(tx, &prompt)? {
        let permission = prompt.kind == HitlKind::Permission;
        let text = |key: &str| prompt.details[key].as_str().map(str::to_owned);
        let event = Event::HitlRequest {
            request_id: prompt.request_id,
            kind: prompt.kind,
            question: prompt.question,
            options: prompt.options,
            created_at: prompt.created_at,
            expires_at: prompt.expires_at,
            tool_call_id: prompt.call_id,
            tool: text("tool"),
            input: permission.then(|| prompt.details["input"].clone()),
            reason: text("reason"),
            rule: text("rule"),
        };
        out.emit(tx, &prompt.task_id, &prompt.turn_id, &event, None)?;
    }
    Ok(true)
}
