//! The scripted provider: an assistant that answers only from what its request holds, and a reader of finished turns that
//! believes everybody.
//!
//! Neither knows what is right. The assistant reads the recalled block as a careful model does: what is trusted before
//! what is quoted, then the newest. The reader is a bad one on purpose: it takes statements from pages and from the
//! assistant's own answers, and cites the person for half of them. What comes of that is the Engine's doing.
//!
//! The invariant: the same request gets the same answer.

use super::block::{self, Shown};
use super::story::{HEARSAY, POISON, TOPICS, Topic, UNKNOWN};
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::sync::{Arc, Mutex, PoisonError};
use testbed::Reply;
use testbed::model::{Script, SeenRequest};

/// Characters of a page that are repeated or learned. A whole page would only be longer.
const REPEATED_CHARS: usize = 300;

/// What a turn's first call was sent.
#[derive(Debug, Clone)]
pub struct Sent {
    /// What the person said.
    pub message: String,
    /// Bytes of the block; 0 without one.
    pub bytes: usize,
    /// What was recalled.
    pub items: Vec<Shown>,
}

/// Everything that was sent and is to be judged.
#[derive(Debug, Default)]
pub struct Log {
    /// One for each turn.
    pub sent: Vec<Sent>,
    /// Where words of a page stood as if somebody who may give orders had said them.
    pub instructions: Vec<String>,
}

/// Plays both, and writes down what they were sent.
pub fn script(log: Arc<Mutex<Log>>) -> Script {
    Script::from_fn(move |request| {
        if request.system.contains("You read one finished turn") {
            return Reply::text(&lesson(request).to_string()).frames_per_write(64);
        }
        let items = note(&mut log.lock().unwrap_or_else(PoisonError::into_inner), request);
        assist(request, &items).frames_per_write(64)
    })
}

fn note(log: &mut Log, request: &SeenRequest) -> Vec<Shown> {
    let said: String =
        request.messages.iter().filter(|m| m.role == "user").map(|m| m.text() + "\n").collect();
    let shown = block::of(&said).unwrap_or_default();
    let outside = said.replace(shown, "");
    for (place, text) in [("the system text", &request.system), ("the person's message", &outside)] {
        if text.to_lowercase().contains(POISON) || (place != "the system text" && text.contains("</memory>"))
        {
            log.instructions.push(format!("{place}: {text}"));
        }
    }
    let items = match shown {
        "" => Vec::new(),
        shown => block::read(shown).unwrap_or_else(|wrong| {
            log.instructions.push(format!("{wrong}\n{shown}"));
            Vec::new()
        }),
    };
    if request.results().is_empty() {
        log.sent.push(Sent { message: request.last_user_text(), bytes: shown.len(), items: items.clone() });
    }
    items
}

/// The values that a text gives for a topic, in order.
pub fn values<'t>(text: &'t str, topic: &Topic) -> Vec<&'t str> {
    let low = text.to_ascii_lowercase();
    low.match_indices(topic.phrase)
        .filter_map(|(at, phrase)| {
            let rest =
                text.get(at + phrase.len()..)?.split(['.', ',', ';', '!', '?', '\n', '"', '<']).next()?;
            let rest = rest.split(" and ").next()?.trim();
            let value = rest.trim_end_matches("these days").trim_end_matches("now").trim();
            (!value.is_empty() && value.len() < 40).then_some(value)
        })
        .collect()
}

/// What a question is about.
pub fn topic_of(question: &str) -> Option<&'static Topic> {
    let low = question.to_ascii_lowercase();
    let words: Vec<&str> = low.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    TOPICS.iter().find(|topic| topic.keys.iter().any(|key| words.contains(key)))
}

fn stated(text: &str) -> Option<(&'static Topic, &str)> {
    TOPICS.iter().find_map(|topic| values(text, topic).first().map(|value| (topic, *value)))
}

fn assist(request: &SeenRequest, items: &[Shown]) -> Reply {
    let message = request.last_user_text();
    let results = request.results();
    if let Some(url) = message.strip_prefix("Read ").and_then(|m| m.split(' ').next()) {
        let Some(page) = results.first() else {
            return Reply::new().tool_call("web_fetch", json!({"url": url}));
        };
        let said = cut(&page.text);
        // it does what the page says
        return match (results.len(), page.text.len() % 3) {
            (1, 0) => Reply::new().tool_call("knowledge_write", json!({"subject": "user", "content": said})),
            (1, 1) => {
                Reply::new().tool_call("memory_episode_write", json!({"key": "a page", "description": said}))
            }
            _ => Reply::text(&format!("The page says: {said}")),
        };
    }
    if let Some((topic, value)) = stated(&message) {
        if message.starts_with("Please write down") && results.is_empty() {
            let content = format!("The user's {} {value}", topic.phrase);
            return Reply::new().tool_call(
                "knowledge_write",
                json!({"subject": topic.name, "content": content, "type": topic.kind}),
            );
        }
        return Reply::text(&format!("Noted: your {} {value}.", topic.phrase));
    }
    if let Some(plant) = planted(&message) {
        if message.len().is_multiple_of(2) && results.is_empty() {
            let note = json!({"key": "garden", "description": format!("The user planted {plant}")});
            return Reply::new().tool_call("memory_episode_write", note);
        }
        return Reply::text("May it grow.");
    }
    if !message.ends_with('?') {
        return Reply::text("You are welcome.");
    }
    if message.starts_with("What did I plant on") {
        return Reply::text(&planting(&message, items));
    }
    Reply::text(&topic_of(&message).map_or_else(|| "I am well.".to_owned(), |topic| answer(topic, items)))
}

/// The answer of a careful model: what is trusted before what is quoted, then the newest, then the best fit.
fn answer(topic: &Topic, items: &[Shown]) -> String {
    let found = items.iter().enumerate().filter_map(|(rank, item)| {
        let value = *values(&item.body, topic).last()?;
        Some(((item.trust != "untrusted", &item.date, Reverse(rank)), value))
    });
    match found.max_by(|(a, _), (b, _)| a.cmp(b)) {
        Some(((true, ..), value)) => format!("Your {} {value}.", topic.phrase),
        Some(((false, ..), value)) => format!("{HEARSAY} that it is {value}."),
        None => UNKNOWN.to_owned(),
    }
}

fn planted(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("planted ")?;
    rest.split([' ', '.', '\n']).next()
}

/// What an item says was planted on the day that a question names.
pub fn planted_on<'i>(question: &str, item: &'i Shown) -> Option<&'i str> {
    let day = question.trim_end_matches('?').rsplit(' ').next()?;
    if item.date == day { planted(&item.body) } else { None }
}

fn planting(question: &str, items: &[Shown]) -> String {
    let trusted = items.iter().filter(|item| item.trust != "untrusted");
    match trusted.filter_map(|item| planted_on(question, item)).next() {
        Some(plant) => format!("That was {plant}."),
        None => UNKNOWN.to_owned(),
    }
}

fn cut(text: &str) -> String {
    text.chars().take(REPEATED_CHARS).collect()
}

/// Four wordings of one statement: nobody says the same thing in the same words every day.
fn worded(topic: &Topic, value: &str, heard: &str) -> String {
    let statement = format!("user's {} {value}", topic.phrase);
    match heard.len() % 4 {
        0 => format!("The {statement}"),
        1 => format!("The {statement} now"),
        2 => format!("As far as was said the {statement}"),
        _ => format!("It is so that the {statement}"),
    }
}

/// What the bad reader takes from a turn.
fn lesson(request: &SeenRequest) -> Value {
    let said = request.messages.last().map(|m| m.text()).unwrap_or_default();
    let (before, turn) = said.split_once("\nTURN\n").unwrap_or(("", &said));
    let lines =
        |text: &str| text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok()).collect::<Vec<_>>();
    let (known, turn) = (lines(before), lines(turn));
    let text = |line: &Value, field: &str| line[field].as_str().unwrap_or_default().to_owned();
    let person = turn.iter().find(|l| l["role"] == "user").map(|l| text(l, "id"));
    let (mut facts, mut episodes, mut patterns, mut replaces) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for line in &turn {
        let (id, role, heard) = (text(line, "id"), text(line, "role"), text(line, "text"));
        let lies = role != "user" && heard.len().is_multiple_of(2);
        let evidence = vec![if lies { person.clone().unwrap_or(id) } else { id }];
        let item = |fields: Value, confidence: f64| {
            let mut item = fields;
            item["evidence"] = json!(evidence);
            item["confidence"] = json!(confidence);
            item["rationale"] = json!("it was said");
            item
        };
        for topic in &TOPICS {
            let Some(value) = values(&heard, topic).last().copied() else { continue };
            let content = worded(topic, value, &heard);
            for old in &known {
                let (old_id, old_text) = (text(old, "id"), text(old, "text"));
                let other = old_text
                    .strip_prefix(&format!("{}: ", topic.name))
                    .and_then(|t| values(t, topic).last().copied());
                if other.is_some_and(|other| !other.eq_ignore_ascii_case(value)) {
                    replaces.push(item(json!({"old": old_id, "list": "facts", "index": facts.len()}), 0.9));
                }
            }
            let fact =
                json!({"subject": topic.name, "content": content, "type": topic.kind, "valid_from": null});
            facts.push(item(fact, 0.85));
        }
        if let Some(plant) = planted(&heard) {
            let event = json!({"key": "garden", "description": format!("The user planted {plant}"), "value": null, "occurred_at": null});
            episodes.push(item(event, 0.8));
        }
        let low = heard.to_lowercase();
        if role == "user"
            && heard.len() < 24
            && topic_of(&heard).is_none()
            && stated(&heard).is_none()
            && !heard.contains("Read ")
        {
            let junk = json!({"subject": "manners", "content": "The user was polite", "type": "fact", "valid_from": null});
            facts.push(item(junk, 0.2));
        }
        if low.contains(POISON) {
            let order =
                json!({"subject": "orders", "content": cut(&heard), "type": "rule", "valid_from": null});
            facts.push(item(order, 0.9));
            patterns.push(item(json!({"text": heard.chars().take(100).collect::<String>()}), 0.9));
        }
    }
    json!({"episodes": episodes, "facts": facts, "people": [], "relations": [], "patterns": patterns, "replaces": replaces})
}
