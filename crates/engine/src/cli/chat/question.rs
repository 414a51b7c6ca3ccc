//! A question to the person: what it says on the screen, and what an answer means.

use super::command::{self, Permission};
use super::view;
use chassis::terminal::{self, Paint};
use serde_json::Value;

/// A HITL request, from a `hitl_request` event or from GET /hitl/pending.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Answer with this.
    pub request_id: String,
    permission: bool,
    question: String,
    options: Vec<String>,
    tool: String,
    input: Value,
    touches: Value,
    diff: String,
    reason: String,
    rule: String,
}

/// What the person's line amounts to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Send this.
    Send {
        /// The answer.
        answer: String,
        /// For the agent.
        feedback: Option<String>,
    },
    /// Not an answer; the text says what is.
    Unclear(&'static str),
}

impl Question {
    /// Reads the payload of an event or an element of the pending list.
    pub fn read(data: &Value) -> Self {
        let text = |field: &str| data.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let options = data.get("options").and_then(Value::as_array);
        Self {
            request_id: text("request_id"),
            permission: text("kind") == "permission",
            question: text("question"),
            options: options.map(|o| o.iter().map(view::plain).collect()).unwrap_or_default(),
            tool: text("tool"),
            input: data.get("input").cloned().unwrap_or(Value::Null),
            touches: data.get("touches").cloned().unwrap_or(Value::Null),
            diff: text("diff"),
            reason: text("reason"),
            rule: text("rule"),
        }
    }

    /// The lines above the prompt.
    pub fn lines(&self, paint: Paint) -> Vec<String> {
        let room = paint.columns.saturating_sub(12);
        let mut lines = Vec::new();
        if self.permission {
            // A person must see all of what they allow: nothing here is cut.
            let question = terminal::clean(&self.question);
            let mut parts = question.lines();
            let first = parts.next().unwrap_or_default();
            lines.push(format!("{} {}", paint.yellow("▲"), paint.bold(first)));
            lines.extend(parts.map(|part| format!("  │ {part}")));
            let input = self.whole_input();
            if !input.trim().is_empty() && !self.question.contains(input.trim()) {
                lines.extend(input.lines().map(|line| format!("  {} {line}", paint.cyan(&self.tool))));
            }
            for touched in self.touches.as_array().into_iter().flatten() {
                let path = touched["path"].as_str().unwrap_or_default();
                lines.push(paint.dim(&format!("  on    {}", terminal::visible(path))));
            }
            lines.extend(terminal::clean(&self.diff).lines().map(|line| format!("  │ {line}")));
            if !self.reason.is_empty() {
                lines.push(paint.dim(&format!("  why   {}", terminal::one_line(&self.reason, room))));
            }
            if !self.rule.is_empty() && self.offers_always() {
                lines.push(paint.dim(&format!("  rule  {}", terminal::one_line(&self.rule, room))));
            }
        } else {
            let text = terminal::clean(&self.question);
            let mut parts = text.lines();
            let first = parts.next().unwrap_or_default();
            lines.push(format!("{} {}", paint.yellow("?"), paint.bold(first)));
            lines.extend(parts.map(|p| format!("  {p}")));
            let options = self.options.iter().enumerate();
            lines.extend(options.map(|(i, o)| format!("  {}) {}", i + 1, terminal::one_line(o, room))));
        }
        lines
    }

    /// Everything the tool is given; of a file to be written only its path where the difference is shown.
    fn whole_input(&self) -> String {
        let text = match self.input.as_object() {
            None => view::plain(&self.input),
            Some(input) => match input.get("command").and_then(Value::as_str) {
                Some(command) if input.len() == 1 => command.to_owned(),
                _ if input.is_empty() => String::new(),
                _ => {
                    let mut input = input.clone();
                    if !self.diff.is_empty() {
                        input.retain(|name, _| name == "path");
                    }
                    serde_json::to_string_pretty(&input).expect("JSON always serialises")
                }
            },
        };
        terminal::clean(&text)
    }

    /// The prompt itself.
    pub fn prompt(&self) -> String {
        match (self.permission, self.offers_always(), self.options.is_empty()) {
            // The reason belongs on this line: asked for on a line of its own, it swallowed what a person typed next.
            (true, true, _) => {
                "  allow? [y]es, [n]o (or: n because …), [a]lways in this conversation › ".into()
            }
            (true, false, _) => "  allow? [y]es, [n]o (or: n because …) › ".into(),
            (false, _, true) => "  answer › ".into(),
            (false, _, false) => "  answer (a number, or your own words) › ".into(),
        }
    }

    fn offers_always(&self) -> bool {
        self.options.iter().any(|o| o == "always")
    }

    /// Understands one line, the reason of a refusal included.
    pub fn understand(&self, line: &str) -> Answer {
        if line.trim().is_empty() {
            return Answer::Unclear("please answer; Ctrl-C cancels the turn");
        }
        if !self.permission {
            return Answer::Send { answer: command::choose(line, &self.options), feedback: None };
        }
        match Permission::parse(line) {
            Some(choice) => {
                let answer = choice.word().to_owned();
                let feedback = match choice {
                    Permission::No(why) => why,
                    Permission::Yes | Permission::Always => None,
                };
                Answer::Send { answer, feedback }
            }
            None => Answer::Unclear("please answer yes, no (or: n because …) or always"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn permission() -> Question {
        Question::read(&json!({
            "request_id": "hitl-1", "kind": "permission", "question": "Allow bash?", "options": ["yes", "no", "always"],
            "tool": "bash", "input": {"command": "cd /srv\nrm -rf old"}, "reason": "destructive", "rule": "bash:rm"
        }))
    }

    #[test]
    fn a_permission_prompt_shows_the_whole_command_the_reason_and_the_rule() {
        let lines = permission().lines(Paint::plain());
        assert_eq!(
            lines,
            [
                "▲ Allow bash?",
                "  bash cd /srv",
                "  bash rm -rf old",
                "  why   destructive",
                "  rule  bash:rm"
            ]
        );
    }

    #[test]
    fn nothing_of_what_is_allowed_is_cut() {
        let long = "Dear Asha, ".repeat(200) + "and the whole memory";
        let question = Question::read(&json!({
            "kind": "permission", "question": "Use pin.send as pin describes it now?\ndescription\n- Sends\n+ Sends all",
            "options": ["yes", "no"], "tool": "pin.send", "input": {"x": long, "to": ["b", "c"]}}));
        let lines = question.lines(Paint::plain()).join("\n");
        for part in ["  │ - Sends\n  │ + Sends all", "and the whole memory", "\"c\""] {
            assert!(lines.contains(part), "{part:?} in {lines}");
        }
        let write = Question::read(&json!({
            "kind": "permission", "question": "Write?", "tool": "write_file", "touches": [{"path": "/srv/a"}],
            "input": {"path": "/srv/a", "content": "new\n"}, "diff": "--- /srv/a\n+++ /srv/a\n-old\n+new"}));
        let lines = write.lines(Paint::plain()).join("\n");
        for part in ["  on    /srv/a", "  │ -old\n  │ +new"] {
            assert!(lines.contains(part), "{part:?} in {lines}");
        }
    }

    #[test]
    fn a_refusal_is_complete_in_its_own_line_with_or_without_a_reason() {
        let send = |answer: &str, feedback: Option<&str>| Answer::Send {
            answer: answer.into(),
            feedback: feedback.map(str::to_owned),
        };
        assert_eq!(permission().understand("n"), send("no", None));
        assert_eq!(permission().understand("no, keep it"), send("no", Some("keep it")));
        assert_eq!(permission().understand("n because it is old"), send("no", Some("because it is old")));
        assert_eq!(permission().understand("A"), send("always", None));
        assert!(matches!(permission().understand("maybe"), Answer::Unclear(_)));
        assert!(permission().prompt().contains("n because"), "the prompt says how");
    }

    #[test]
    fn a_question_takes_a_number_or_words() {
        let question =
            Question::read(&json!({"kind": "question", "question": "Where?", "options": ["here", "there"]}));
        assert_eq!(question.lines(Paint::plain()), ["? Where?", "  1) here", "  2) there"]);
        let answer = |line: &str| match question.understand(line) {
            Answer::Send { answer, .. } => answer,
            other => panic!("{other:?}"),
        };
        assert_eq!((answer("2"), answer("nowhere")), ("there".into(), "nowhere".into()));
    }
}
