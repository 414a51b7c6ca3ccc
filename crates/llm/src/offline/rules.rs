//! The rules: what the built-in rule set makes of a conversation. Pure; first match wins.

use super::instance::smallest;
use super::recalled::{Kind, Recalled, injected, is_data};
use super::sentences::{Asked, Statement, asks_to_forget, is_echo, statements, strip_ci};
use crate::provider::{Message, Request};
use contract::{Block, Role, sentence};
use serde_json::{Value, json};

/// What the first answer of a conversation begins with.
pub const INTRODUCTION: &str = "I am the built-in rule set of this engine (provider \"offline\"), not a language model: I follow a few \
     fixed rules and do not understand free text.";

/// Most bytes of a tool's output quoted in an answer. More would drown the sentence; less hides the result.
const MAX_QUOTE_BYTES: usize = 2000;

/// What is answered to "forget …": there is no tool for it, and to say nothing would let people think that it was done.
const FORGETTING: &str = "I forget nothing on being told: there is no tool for it, and what is remembered stays as it is. To \
     delete a memory, find its id with `POST /memory/{store}/search` and send `DELETE /memory/{store}/{id}`; of a stopped \
     Engine, `september-engine memory search WORDS` and `september-engine memory forget ID` do the same. A conversation with \
     all that was learned from it goes with `DELETE /tasks/{id}?memories=true`.";

/// What is answered: text, then tool calls.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Answer {
    /// The text; may be empty when there are calls.
    pub text: String,
    /// Tool name and input.
    pub calls: Vec<(String, Value)>,
}

/// The answer to a conversation. `messages` are those before any part of this answer was said.
pub fn answer(request: &Request, messages: &[Message]) -> Answer {
    let thread = Thread::read(messages);
    let offered = |name: &str| !request.no_calls && request.tools.iter().any(|t| t.name == name);
    if thread.results.is_empty()
        && let Some((name, input)) = tool_rule(thread.current(), &offered)
    {
        return Answer { text: String::new(), calls: vec![(name.to_owned(), input)] };
    }
    if let Some(plan) = request.output_schema.as_ref().and_then(|s| plan_rule(s, thread.current())) {
        return Answer { text: plan.to_string(), calls: Vec::new() };
    }
    if let Some(schema) = &request.output_schema {
        return Answer { text: smallest(schema).to_string(), calls: Vec::new() };
    }
    let mut parts = Vec::new();
    if !thread.answered {
        parts.push(INTRODUCTION.to_owned());
    }
    if !thread.media.is_empty() {
        let what = thread.media.join(", ");
        parts.push(format!("You sent something I keep but cannot look at ({what})."));
    }
    if thread.results.is_empty() {
        parts.push(plain_answer(&thread, &offered));
    } else {
        parts.extend(thread.results.iter().map(report));
    }
    Answer { text: parts.join("\n\n"), calls: Vec::new() }
}

struct ToolOutcome {
    name: String,
    input: Value,
    text: String,
    is_error: bool,
}

/// A conversation as the rules see it.
struct Thread {
    /// What the person said, oldest first; the last is the current message.
    said: Vec<String>,
    /// Recalled memory and working memory, by line.
    memory: Vec<Recalled>,
    /// Results that came after the current message's last calls.
    results: Vec<ToolOutcome>,
    /// Kinds of media of the current message.
    media: Vec<&'static str>,
    /// Has any answer been given before?
    answered: bool,
}

impl Thread {
    fn read(messages: &[Message]) -> Self {
        let mut thread = Self {
            said: Vec::new(),
            memory: Vec::new(),
            results: Vec::new(),
            media: Vec::new(),
            answered: false,
        };
        let mut calls: Vec<(&str, &str, &Value)> = Vec::new();
        for message in messages {
            if message.role == Role::Assistant {
                thread.results.clear();
                thread.answered |= message
                    .content
                    .iter()
                    .any(|b| matches!(b, Block::Text { text } if !text.trim().is_empty()));
            }
            let (mut said, mut has_media) = (Vec::new(), false);
            for block in &message.content {
                match block {
                    Block::ToolUse { id, name, input, .. } => calls.push((id, name, input)),
                    Block::ToolResult { tool_use_id, content, is_error } => {
                        let call = calls.iter().rev().find(|(id, ..)| id == tool_use_id);
                        thread.results.push(ToolOutcome {
                            name: call
                                .map_or_else(|| "unknown".to_owned(), |(_, name, _)| (*name).to_owned()),
                            input: call.map_or(Value::Null, |(.., input)| (*input).clone()),
                            text: content.iter().map(text_of).collect::<Vec<_>>().join("\n"),
                            is_error: *is_error,
                        });
                    }
                    Block::Text { text } if message.role == Role::User => {
                        // a program's data stands behind the words or media of a message; in front, a person typed it
                        let is_first = said.is_empty() && !has_media;
                        match injected(text).filter(|_| !(is_first && is_data(text))) {
                            Some(lines) => thread.memory.extend(lines),
                            None if !text.trim().is_empty() => said.push(text.trim().to_owned()),
                            None => {}
                        }
                    }
                    other if medium(other).is_some() => has_media = true,
                    _ => {}
                }
            }
            let media: Vec<&'static str> = message.content.iter().filter_map(medium).collect();
            if message.role == Role::User && (!said.is_empty() || !media.is_empty()) {
                thread.results.clear();
                thread.said.push(said.join("\n"));
                thread.media = media;
            }
        }
        thread.memory.sort_by_key(|line| line.kind); // stable: otherwise best first
        thread
    }

    fn current(&self) -> &str {
        self.said.last().map_or("", String::as_str)
    }

    fn earlier(&self) -> &[String] {
        self.said.split_last().map_or(&[], |(_, earlier)| earlier)
    }
}

fn text_of(block: &Block) -> String {
    match block {
        Block::Text { text } => text.clone(),
        other => medium(other).map(|kind| format!("[{kind}]")).unwrap_or_default(),
    }
}

fn medium(block: &Block) -> Option<&'static str> {
    match block {
        Block::Image { .. } => Some("image"),
        Block::Document { .. } => Some("document"),
        Block::Audio { .. } => Some("audio"),
        Block::Video { .. } => Some("video"),
        Block::Text { .. } | Block::Thinking { .. } | Block::ToolUse { .. } | Block::ToolResult { .. } => {
            None
        }
    }
}

/// The rest of a text that begins with one of these words, whatever their case, with blanks, a final
/// question mark and quotes or back-ticks around it removed.
fn after<'a>(text: &'a str, starts: &[&str]) -> Option<&'a str> {
    let text = text.trim();
    let text = strip_ci(text, "please ").unwrap_or(text).trim_start();
    starts.iter().find_map(|start| strip_ci(text, start)).map(str::trim).filter(|rest| !rest.is_empty())
}

fn unquoted(text: &str) -> &str {
    let text = text.trim();
    for quote in ['`', '"', '\''] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|t| t.strip_suffix(quote)) {
            return inner.trim();
        }
    }
    text
}

fn unasked(text: &str) -> &str {
    text.trim_end_matches(['?', '!', '.', ' '])
}

/// The rules that call a tool; each only when its tool is offered.
fn tool_rule(text: &str, offered: &dyn Fn(&str) -> bool) -> Option<(&'static str, Value)> {
    let call = |tool: &'static str, input: Value| offered(tool).then_some((tool, input));
    if let Some(command) = after(text, &["run "]).and_then(|c| call("bash", json!({"command": unquoted(c)})))
    {
        return Some(command);
    }
    if let Some(read) = after(text, &["read "]).and_then(|p| call("read_file", json!({"path": unquoted(p)})))
    {
        return Some(read);
    }
    if let Some(words) = after(text, &["search for ", "search "]) {
        let words = unquoted(unasked(words));
        let found =
            call("file_search", json!({"query": words})).or_else(|| call("grep", json!({"pattern": words})));
        if found.is_some() {
            return found;
        }
    }
    if let Some(fact) = after(text, &["remember that ", "remember: "]) {
        let mut input = json!({"subject": sentence::subject(fact), "content": fact});
        if sentence::is_preference(fact) {
            input["type"] = json!("preference");
        }
        if let Some(write) = call("knowledge_write", input) {
            return Some(write);
        }
    }
    if let Some(topic) = after(text, &["what do you know about "])
        && let Some(search) = call("knowledge_search", json!({"query": query_of(unasked(topic))}))
    {
        return Some(search);
    }
    if let Some(question) = after(text, &["ask me "]).and_then(|q| call("ask_user", json!({"question": q}))) {
        return Some(question);
    }
    after(text, &["plan "]).and_then(|goal| call("plan", json!({"goal": goal})))
}

/// Steps of a plan made here. More is a goal that nobody can follow as a list; what is left out is still in the goal.
const MAX_STEPS: usize = 20;
/// Characters of a step's title; the rest of a long part is still in the goal.
const TITLE_CHARS: usize = 200;

/// What a planner is asked for: the parts of the goal, one step each, in its order.
fn plan_rule(schema: &Value, text: &str) -> Option<Value> {
    let goal = text.strip_prefix("<goal>\n").filter(|_| schema["title"] == "plan")?;
    let goal = goal.split_once("\n</goal>")?.0.trim();
    let steps: Vec<Value> = [", and then ", ", then ", " and then ", " then "]
        .iter()
        .fold(goal.to_owned(), |text, word| text.replace(word, ";"))
        .split([';', '\n'])
        .map(|part| unasked(part.trim()))
        .filter(|part| !part.is_empty())
        .take(MAX_STEPS)
        .enumerate()
        .map(|(n, part)| {
            let title: String = part.chars().take(TITLE_CHARS).collect();
            json!({"id": (n + 1).to_string(), "title": title, "status": "open"})
        })
        .collect();
    (!steps.is_empty()).then(|| json!({"goal": goal, "steps": steps}))
}

/// What is looked for: of the person themselves all that is new, since everything known may be about them.
fn query_of(topic: &str) -> &str {
    let everything = ["me", "myself", "us", "everything", "anything"];
    if everything.iter().any(|word| topic.eq_ignore_ascii_case(word)) { "" } else { topic }
}

/// A sentence about a tool's result.
fn report(outcome: &ToolOutcome) -> String {
    let ToolOutcome { name, input, text, is_error } = outcome;
    let value: Value = serde_json::from_str(text).unwrap_or(Value::Null);
    let said = |field: &str| input[field].as_str().unwrap_or_default();
    if *is_error {
        return format!("The tool {name} did not succeed: {}", quote(text));
    }
    match name.as_str() {
        "bash" if value.is_object() => {
            let code = value["exit_code"].as_i64().map_or("unknown".to_owned(), |c| c.to_string());
            let mut told = format!("I ran `{}`; it ended with exit code {code}", said("command"));
            for (stream, verb) in [("stdout", "printed"), ("stderr", "complained")] {
                if let Some(out) = value[stream].as_str().map(str::trim).filter(|o| !o.is_empty()) {
                    told += &format!(" and {verb}:\n{}", quote(out));
                }
            }
            if value["stdout"].as_str().is_none_or(|o| o.trim().is_empty()) {
                told += " and printed nothing.";
            }
            told
        }
        "read_file" if value["content"].is_string() => {
            let content = value["content"].as_str().unwrap_or_default();
            format!("This is in {}:\n{}", said("path"), quote(content.trim_end()))
        }
        "knowledge_search" => {
            let facts: Vec<String> = items(&value).iter().map(fact).collect();
            let about = match said("query") {
                "" => String::new(),
                topic => format!(" about {topic}"),
            };
            match facts.is_empty() {
                true => format!("I know nothing{about} yet."),
                false => format!("This is what I know{about}:\n{}", quote(&facts.join("\n"))),
            }
        }
        "file_search" | "grep" => {
            let hits: Vec<String> = items(&value).iter().map(hit).collect();
            match hits.is_empty() {
                true => "I searched and found nothing.".to_owned(),
                false => format!("I found this:\n{}", quote(&hits.join("\n"))),
            }
        }
        "knowledge_write" => match value["status"].as_str() {
            Some("duplicate") => format!("I know that already: {}", said("content")),
            Some("rejected") => {
                format!("I keep nothing new: what you say is what I recalled: {}", said("content"))
            }
            _ => format!("I will remember this: {}", said("content")),
        },
        "ask_user" if value["answer"].is_string() => {
            format!("You answered: {}", value["answer"].as_str().unwrap_or_default())
        }
        "plan" if value["steps"].is_array() => {
            let steps = value["steps"].as_array().into_iter().flatten().enumerate();
            let lines: Vec<String> = steps
                .map(|(i, s)| format!("{}. {}", i + 1, s["title"].as_str().unwrap_or("(untitled)")))
                .collect();
            match lines.is_empty() {
                true => format!("The plan for {} has no steps.", said("goal")),
                false => format!("The plan for {}:\n{}", said("goal"), lines.join("\n")),
            }
        }
        _ => format!("The tool {name} returned:\n{}", quote(text)),
    }
}

/// The list in an output that is a list or holds one.
fn items(value: &Value) -> Vec<Value> {
    let list = ["results", "matches", "items", "entries"].iter().find_map(|f| value[*f].as_array());
    value.as_array().or(list).cloned().unwrap_or_default()
}

fn fact(item: &Value) -> String {
    let text = ["content", "text", "description"].iter().find_map(|f| item[*f].as_str());
    let until = item["valid_until"].as_str().and_then(|time| time.get(..10));
    let until = until.map(|day| format!(" (until {day})")).unwrap_or_default();
    match (item["subject"].as_str(), text) {
        (Some(subject), Some(text)) => format!("- {subject}: {text}{until}"),
        (None, Some(text)) => format!("- {text}{until}"),
        _ => format!("- {item}"),
    }
}

fn hit(item: &Value) -> String {
    let text = ["snippet", "text"].iter().find_map(|f| item[*f].as_str()).unwrap_or_default();
    let path = item["path"].as_str().unwrap_or("?");
    format!("- {path}:{}: {}", item["line"], text.trim())
}

fn quote(text: &str) -> String {
    if text.len() <= MAX_QUOTE_BYTES {
        return text.to_owned();
    }
    let shown = &text[..text.floor_char_boundary(MAX_QUOTE_BYTES)];
    format!("{shown}\n[… {} more bytes]", text.len() - shown.len())
}

/// The answer when no tool rule applies: from what was said before and from recalled memory.
fn plain_answer(thread: &Thread, offered: &dyn Fn(&str) -> bool) -> String {
    let current = thread.current();
    let lower = current.to_lowercase();
    if asks_to_forget(current) {
        return FORGETTING.to_owned();
    }
    if let Some(fact) = after(current, &["remember that ", "remember: "]) {
        return format!(
            "I cannot write that to long-term memory here, because the tool for it is not offered; within this \
             conversation I can still quote it: “{fact}”."
        );
    }
    if let Some(topic) = after(current, &["what do you know about "]) {
        let topic = unasked(topic);
        return match recall(thread, topic) {
            Some(found) => format!("About {topic} I find this: {found}"),
            None => format!("I find nothing about {topic} in this conversation or in recalled memory."),
        };
    }
    if ["what did i say", "what have i said", "what did i tell", "what have i told"]
        .iter()
        .any(|q| lower.contains(q))
    {
        let earlier = thread.earlier();
        if earlier.is_empty() {
            return "You have not said anything before this in this conversation.".to_owned();
        }
        let quotes: Vec<String> =
            earlier.iter().rev().take(5).rev().map(|said| format!("- “{}”", quote(said))).collect();
        return format!("Earlier you said:\n{}", quotes.join("\n"));
    }
    if let Some(asked) = Asked::read(current) {
        return found(thread, &asked).unwrap_or_else(|| {
            format!(
                "You have not told me {}: I find it neither in this conversation nor in recalled memory.",
                asked.told()
            )
        });
    }
    let mut parts = vec![match current {
        "" => "There is nothing for me to answer.".to_owned(),
        said => format!("You said: “{}”.", quote(said)),
    }];
    if let Some(stated) = statements(current).into_iter().find_map(Statement::read) {
        parts.push(format!("I keep that: {}. Other conversations find it, too.", stated.told()));
    } else if let Some(found) = recall(thread, current) {
        parts.push(format!("That reminds me: {found}"));
    } else if !thread.earlier().is_empty() {
        let count = thread.earlier().len();
        let messages = if count == 1 { "message" } else { "messages" };
        parts.push(format!("I have {count} earlier {messages} of yours in this conversation."));
    }
    parts.push(abilities(offered));
    parts.join(" ")
}

/// The answer to what is asked: from this conversation, the last word first, then from what holds, then from what was said
/// in other conversations.
fn found(thread: &Thread, asked: &Asked) -> Option<String> {
    let told = |said: &Statement, sentence: &str, whose: &str| {
        let answer = said.told().replacen("your", "Your", 1);
        format!("{answer}; {whose}: “{}”.", quote(sentence))
    };
    let here = thread.earlier().iter().rev().flat_map(|said| statements(said)).find_map(|sentence| {
        let said = Statement::read(sentence)?;
        (said.thing == asked.thing && said.answers(asked)).then(|| told(&said, sentence, "you told me"))
    });
    let lines = || {
        let own = thread.memory.iter().filter(|line| !line.quoted);
        own.flat_map(|line| line.told().into_iter().map(|sentence| (line.kind, sentence)))
    };
    let in_memory = |exact: bool| {
        lines().find_map(|(kind, sentence)| {
            let said = Statement::of_memory(sentence, &asked.thing)?;
            let whose = if kind == Kind::Said { "you told me" } else { "in memory" };
            let fits = said.answers(asked) && (said.thing == asked.thing || !exact);
            fits.then(|| told(&said, sentence, whose))
        })
    };
    here.or_else(|| in_memory(true)).or_else(|| in_memory(false))
}

/// The earlier sentence or memory line that shares most long words with a text.
fn recall(thread: &Thread, about: &str) -> Option<String> {
    let words = |text: &str| -> Vec<String> {
        text.split(|c: char| !c.is_alphanumeric())
            .filter(|w| w.chars().count() >= 4)
            .map(str::to_lowercase)
            .filter(|w| {
                !["what", "that", "this", "with", "have", "know", "about", "from", "your", "please"]
                    .contains(&w.as_str())
            })
            .collect()
    };
    let wanted = words(about);
    let shared = |text: &str| words(text).iter().filter(|w| wanted.contains(w)).count();
    let new = |text: &str| !is_echo(text, thread.current());
    let memory = thread.memory.iter().flat_map(|line| {
        let whose = if line.quoted { "in memory, as somebody else's words" } else { "in memory" };
        let told = line.told().into_iter().filter(|text| new(text));
        told.map(move |text| (format!("{}\n{text}", line.heading), format!("{whose}: “{}”", quote(text))))
    });
    let said = thread.earlier().iter().rev().flat_map(|said| statements(said)).filter(|text| new(text));
    let said = said.map(|text| (text.to_owned(), format!("you said: “{}”", quote(text))));
    // The first of the best: memory before messages, recent messages before old ones.
    let mut best: Option<(usize, String)> = None;
    for (about, text) in memory.chain(said) {
        let score = shared(&about);
        if score > 0 && best.as_ref().is_none_or(|(top, _)| score > *top) {
            best = Some((score, text));
        }
    }
    best.map(|(_, text)| text)
}

fn abilities(offered: &dyn Fn(&str) -> bool) -> String {
    let known = [
        ("bash", "“run <command>”"),
        ("read_file", "“read <path>”"),
        ("file_search", "“search <words>”"),
        ("knowledge_write", "“remember that <fact>”"),
        ("knowledge_search", "“what do you know about <topic>”"),
        ("ask_user", "“ask me <question>”"),
        ("plan", "“plan <goal>”"),
    ];
    let can: Vec<&str> = known.iter().filter(|(tool, _)| offered(tool)).map(|(_, words)| *words).collect();
    match can.is_empty() {
        true => "I can quote what you said before; try “what did I say”.".to_owned(),
        false => format!("I understand {}, and “what did I say”.", can.join(", ")),
    }
}
