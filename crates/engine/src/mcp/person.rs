//! A server's question in the middle of a call: asked like every other question of a turn, answered the same way.
//!
//! The turn goes on running meanwhile; the call waits. The server's words lose the secrets this process knows before
//! they are stored: a server knows its own credential. The invariant: a question belongs to its call, so it is
//! settled at the latest when the turn is cancelled or the question expires.

use crate::core::Core;
use crate::secrets::Known;
use crate::turn::answers;
use async_trait::async_trait;
use brain::prompts::{self, Prompt, PromptState};
use connectors::ask::{Ask, Question, Reply, Wants};
use contract::event::{Event, HitlKind};
use contract::{CallId, HitlId, TaskId, Timestamp, TurnId};
use serde_json::json;
use std::sync::Weak;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How often the answer is looked for. The person takes seconds; more often only reads the brain for nothing.
const LOOK: Duration = Duration::from_millis(200);
/// Longest question shown. A server's form may be long; the person reads a page, not a book.
const QUESTION_MAX_CHARS: usize = 4_000;

/// Asks the person on behalf of one call.
pub struct Person {
    core: Weak<Core>,
    task_id: TaskId,
    turn_id: TurnId,
    call_id: CallId,
    asked: AtomicU32,
}

impl Person {
    /// For the questions of this call.
    pub fn new(core: Weak<Core>, task_id: TaskId, turn_id: TurnId, call_id: CallId) -> Self {
        Self { core, task_id, turn_id, call_id, asked: AtomicU32::new(0) }
    }

    fn prompt(&self, core: &Core, question: &Question) -> Option<Prompt> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let now = Timestamp::now();
        Some(Prompt {
            request_id: HitlId::generate(),
            task_id: self.task_id.clone(),
            turn_id: self.turn_id.clone(),
            // a call may ask its permission and several questions: each is a row of its own
            call_id: CallId::parse(&format!("{}.q{number}", self.call_id)).ok()?,
            round: 1,
            kind: HitlKind::Question,
            question: text(question, &core.known),
            options: Vec::new(),
            details: json!({"server": question.server}),
            state: PromptState::Pending,
            answer: None,
            feedback: None,
            content_blocks: Vec::new(),
            created_at: now,
            expires_at: core.hitl_expiry(now),
        })
    }
}

#[async_trait]
impl Ask for Person {
    async fn ask(&self, question: Question) -> Reply {
        let Some(core) = self.core.upgrade() else { return Reply::Cancelled };
        let Some(prompt) = self.prompt(&core, &question) else { return Reply::Cancelled };
        let (request, call) = (prompt.request_id.clone(), self.call_id.clone());
        let asked = core
            .record("a connector asks", move |tx, out| {
                if prompts::ask(tx, &prompt)? {
                    let event = Event::HitlRequest {
                        request_id: prompt.request_id.clone(),
                        kind: prompt.kind,
                        question: prompt.question.clone(),
                        options: Vec::new(),
                        created_at: prompt.created_at,
                        expires_at: prompt.expires_at,
                        tool_call_id: call,
                        tool: None,
                        input: None,
                        reason: None,
                        rule: None,
                    };
                    out.emit(tx, &prompt.task_id, &prompt.turn_id, &event, None)?;
                }
                Ok(())
            })
            .await;
        if let Err(error) = asked {
            tracing::warn!(error = %error, "A connector's question could not be asked");
            return Reply::Cancelled;
        }
        answers::refresh_expiry(&core).await;
        loop {
            tokio::time::sleep(LOOK).await;
            let id = request.clone();
            let Ok(found) = core.brain.read("look for an answer", move |tx| prompts::get(tx, &id)).await
            else {
                return Reply::Cancelled;
            };
            match found.map(|prompt| (prompt.state, prompt.answer)) {
                Some((PromptState::Pending, _)) => {}
                Some((PromptState::Answered, Some(answer))) => return Reply::Text(answer),
                Some((PromptState::Answered | PromptState::Expired | PromptState::Cancelled, _)) | None => {
                    return Reply::Cancelled;
                }
            }
        }
    }
}

/// What the person reads: who asks, what, and how to answer.
fn text(question: &Question, known: &Known) -> String {
    let how = match &question.wants {
        Wants::Visit(url) => format!("Visit {url}, then answer `done`; `no` refuses."),
        Wants::Form(schema) => {
            let properties = schema["properties"].as_object();
            match properties.map(|all| all.keys().map(String::as_str).collect::<Vec<_>>()) {
                Some(names) if names.len() > 1 => {
                    format!("Answer with a JSON object of: {}; `no` refuses.", names.join(", "))
                }
                _ => "`no` refuses.".to_owned(),
            }
        }
    };
    let message = crate::http::sanitise::text(&question.message);
    let all = format!("The connector {} asks: {message}\n{how}", question.server);
    // before it is cut: half a secret is not found any more
    known.scrub(&all).chars().take(QUESTION_MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_says_who_asks_and_how_to_answer() {
        let known = Known::new(["canary-value-1"]);
        let question =
            |wants| Question { server: "notes".into(), message: "Your\u{202E} name?".into(), wants };
        let form = |properties| Wants::Form(json!({"type": "object", "properties": properties}));
        let one = text(&question(form(json!({"name": {"type": "string"}}))), &known);
        assert_eq!(one, "The connector notes asks: Your name?\n`no` refuses.");
        let two = text(&question(form(json!({"a": {}, "b": {}}))), &known);
        assert!(two.ends_with("Answer with a JSON object of: a, b; `no` refuses."), "{two}");
        let visit = text(&question(Wants::Visit("https://x.example.com/canary-value-1".into())), &known);
        assert!(visit.contains("Visit https://x.example.com/[redacted:secret]"), "{visit}");
    }
}
