//! Entering a conversation: what was said last, what still waits, and the turn that is under way.

use super::client::Message;
use super::follow::Start;
use super::question::Question;
use super::{Next, Session};
use chassis::terminal;

/// Messages shown when a conversation is entered. More would bury the prompt; the whole of it is in
/// GET /tasks/{id}/messages.
const SHOWN_MESSAGES: usize = 6;

/// Lines shown of each. More would let one long answer fill the screen.
const SHOWN_LINES: usize = 10;

impl Session {
    /// Goes to another conversation.
    pub(super) async fn go_to(&mut self, id: String) -> Next {
        if let Err(error) = contract::TaskId::parse(&id) {
            self.complain(&format!("a conversation's name: {error}"));
            return Next::Prompt;
        }
        self.task = id;
        self.last_message = None;
        let text = format!("task {}", self.task);
        self.dim(&text);
        self.enter_task().await
    }

    /// Shows where the conversation stands and joins a turn that is under way.
    pub(super) async fn enter_task(&mut self) -> Next {
        let task = match self.client.task(&self.task).await {
            Ok(Some(task)) => task,
            Ok(None) => return Next::Prompt,
            Err(failure) => {
                self.complain(&failure.advice());
                return Next::Prompt;
            }
        };
        let under_way = task.last_turn.as_ref().filter(|_| task.status != "idle").map(|t| t.turn_id.clone());
        match self.client.messages(&self.task).await {
            Ok(messages) => self.show_last(&messages, under_way.as_deref()),
            Err(failure) => self.complain(&failure.advice()),
        }
        let Some(turn_id) = under_way else { return Next::Prompt };
        self.dim(match task.status.as_str() {
            "paused" => "(waiting for an answer)",
            _ => "(under way)",
        });
        let outcome =
            self.turn(Start::Join { task_id: self.task.clone(), turn_id: Some(turn_id) }, None).await;
        self.after(outcome)
    }

    /// The last messages; of a turn under way only the question, because its answer follows as a stream.
    /// A script gets no history: its output is what its own lines brought about.
    fn show_last(&mut self, messages: &[Message], under_way: Option<&str>) {
        let shown: Vec<&Message> = messages
            .iter()
            .filter(|m| m.role == "user" || (m.role == "assistant" && under_way != Some(m.turn_id.as_str())))
            .filter(|m| self.input.is_terminal() || under_way == Some(m.turn_id.as_str()))
            .filter(|m| !m.text().trim().is_empty())
            .collect();
        let skipped = shown.len().saturating_sub(SHOWN_MESSAGES);
        if skipped > 0 {
            self.dim(&format!("({skipped} earlier messages)"));
        }
        for message in &shown[skipped..] {
            let text = terminal::clean(&message.text());
            let lines: Vec<&str> = text.trim().lines().collect();
            for (i, line) in lines.iter().take(SHOWN_LINES).enumerate() {
                let lead = match (message.role.as_str(), i) {
                    ("user", 0) => self.view.paint().cyan("› "),
                    ("user", _) => "  ".to_owned(),
                    _ => String::new(),
                };
                let line = self.view.line(&format!("{lead}{line}"));
                self.print(&line);
            }
            if lines.len() > SHOWN_LINES {
                self.dim(&format!("… {} more lines", lines.len() - SHOWN_LINES));
            }
        }
        let last = messages.iter().rev().find(|m| m.role == "user");
        self.last_message = last.map(|m| (m.message_id.clone(), m.text()));
    }

    /// Lists every question that waits, and joins this conversation's turn to ask its own.
    pub(super) async fn show_pending(&mut self) -> Next {
        let pending = match self.client.pending().await {
            Ok(pending) => pending,
            Err(failure) => {
                self.complain(&failure.advice());
                return Next::Prompt;
            }
        };
        let (here, elsewhere): (Vec<_>, Vec<_>) =
            pending.iter().partition(|p| p["task_id"].as_str() == Some(self.task.as_str()));
        if pending.is_empty() {
            self.dim("(nothing waits for an answer)");
        }
        for item in elsewhere {
            let task = terminal::one_line(item["task_id"].as_str().unwrap_or_default(), 60);
            self.dim(&format!("/task {task}"));
            for line in Question::read(item).lines(self.view.paint()) {
                let line = self.view.line(&format!("  {line}"));
                self.print(&line);
            }
        }
        let Some(first) = here.first() else { return Next::Prompt };
        let turn_id = first["turn_id"].as_str().map(str::to_owned);
        let outcome = self.turn(Start::Join { task_id: self.task.clone(), turn_id }, None).await;
        self.after(outcome)
    }
}
