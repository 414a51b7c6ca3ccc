//! What a server says its tools are, made fit to be shown to a model, pinned, and compared with what was pinned.
//!
//! Pure. A server's words are not believed: texts are cleaned, cut and hashed, and a definition that changed or
//! appeared later waits for a person. What was approved is what the model sees until a person says yes.
//!
//! The invariant: [`Definition::hash`] covers everything of a tool that a model gets to see.

mod difference;

pub use difference::Difference;

use crate::server::{Effect, Entry};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Most tools of one connection. More would crowd everything else out of the model's context.
pub const TOOLS_MAX: usize = 512;
/// Longest description in bytes; longer ones are cut. Larger is a way to smuggle a second system prompt in.
pub const DESCRIPTION_MAX_BYTES: usize = 4 * 1024;
/// Longest action name; with the server's name it must stay within what providers accept.
pub const ACTION_MAX_CHARS: usize = 128;
/// Largest input schema as text. Larger ones are refused: they would be sent with every model call.
pub const SCHEMA_MAX_BYTES: usize = 64 * 1024;
/// Tools that a listing is said to lack. More would fill an answer with a server's nonsense; the rest is counted.
pub const LEFT_OUT_MAX: usize = 20;
/// Longest name of such a tool, and longest reason.
const LEFT_OUT_MAX_CHARS: usize = 400;

/// Cleans a text of what people cannot see but models read, and of secrets: what is listed is stored and shown.
pub type Clean = dyn Fn(&str) -> String + Send + Sync;

/// One tool as it is shown to a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// The server's name for it.
    pub action: String,
    /// Cleaned and cut.
    pub description: String,
    /// JSON Schema, type object.
    pub input_schema: Value,
    /// The server's hints about itself.
    pub annotations: Value,
}

/// A tool that is listed, but cannot be offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// Its name, cleaned and cut; empty when it has none.
    pub action: String,
    /// What is wrong with it.
    pub reason: String,
}

impl LeftOut {
    fn of(tool: &Value, reason: &str, clean: &Clean) -> Self {
        let short = |text: &str| clean(text).chars().take(LEFT_OUT_MAX_CHARS).collect();
        let name = tool.get("name").and_then(Value::as_str).unwrap_or_default();
        Self { action: short(name), reason: short(reason) }
    }
}

/// What a listing comes to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Listed {
    /// What can be offered, by name.
    pub definitions: Vec<Definition>,
    /// What cannot, at most [`LEFT_OUT_MAX`].
    pub left_out: Vec<LeftOut>,
}

impl Definition {
    /// Reads one element of `tools/list`, or says why it cannot be offered.
    pub fn read(tool: &Value, clean: &Clean) -> Result<Self, LeftOut> {
        let refuse = |reason: &str| LeftOut::of(tool, reason, clean);
        let action = tool.get("name").and_then(Value::as_str).ok_or_else(|| refuse("it has no name"))?;
        if !action_is_valid(action) {
            return Err(refuse(
                "its name is empty, too long, or has other characters than letters, digits, _ - . /",
            ));
        }
        let mut input_schema = tool.get("inputSchema").cloned().unwrap_or_else(|| json!({"type": "object"}));
        clean_texts(&mut input_schema, clean);
        let Some(map) = input_schema.as_object_mut() else {
            return Err(refuse("its input schema is not an object"));
        };
        map.entry("type").or_insert_with(|| json!("object"));
        if input_schema.to_string().len() > SCHEMA_MAX_BYTES {
            return Err(refuse(&format!("its input schema is larger than {SCHEMA_MAX_BYTES} bytes")));
        }
        schemas::check(&input_schema)
            .map_err(|why| refuse(&format!("its input schema is refused: {why}")))?;
        let mut annotations = tool.get("annotations").cloned().unwrap_or_else(|| json!({}));
        clean_texts(&mut annotations, clean);
        let description = cut(&clean(tool.get("description").and_then(Value::as_str).unwrap_or_default()));
        Ok(Self { action: action.to_owned(), description, input_schema, annotations })
    }

    /// SHA-256 over name, description, input schema and annotations, as lower-case hex.
    pub fn hash(&self) -> String {
        let mut text = String::new();
        canonical(&self.json(), &mut text);
        Sha256::digest(text.as_bytes()).iter().fold(String::with_capacity(64), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }

    /// As one JSON object, for storage.
    pub fn json(&self) -> Value {
        json!({
            "name": self.action,
            "description": self.description,
            "inputSchema": self.input_schema,
            "annotations": self.annotations,
        })
    }

    /// Reads what [`Definition::json`] wrote.
    pub fn stored(value: &Value) -> Option<Self> {
        Some(Self {
            action: value.get("name")?.as_str()?.to_owned(),
            description: value.get("description")?.as_str()?.to_owned(),
            input_schema: value.get("inputSchema")?.clone(),
            annotations: value.get("annotations")?.clone(),
        })
    }

    fn hints(&self, name: &str) -> bool {
        self.annotations.get(name).and_then(Value::as_bool) == Some(true)
    }
}

/// What a person has said about an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Approved as it is.
    Pinned,
    /// Appeared after connecting; not yet approved.
    New,
    /// Approved, but the server now says something else.
    Changed,
    /// Approved, but no longer listed.
    Gone,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Pinned, Self::New, Self::Changed, Self::Gone];

    /// The word in storage.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::New => "new",
            Self::Changed => "changed",
            Self::Gone => "gone",
        }
    }

    /// Reads the word back.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }
}

/// One action of one connection.
#[derive(Debug, Clone, PartialEq)]
pub struct Action {
    /// What the model sees.
    pub definition: Definition,
    /// What a person has said about it.
    pub state: State,
    /// What the server says now, when that differs (state [`State::Changed`]).
    pub pending: Option<Definition>,
}

impl Action {
    /// The hash a yes would pin: of the pending definition when there is one.
    pub fn wanted_hash(&self) -> String {
        self.pending.as_ref().unwrap_or(&self.definition).hash()
    }

    /// Whether the first call needs a person's yes.
    pub fn needs_consent(&self) -> bool {
        matches!(self.state, State::New | State::Changed)
    }

    /// The action after a yes to the definition with this hash; unchanged when the hash is another one.
    #[must_use]
    pub fn approved(self, hash: &str) -> Self {
        if self.wanted_hash() != hash || self.state == State::Gone {
            return self;
        }
        let definition = self.pending.unwrap_or(self.definition);
        Self { definition, state: State::Pinned, pending: None }
    }

    /// What is different, for the person who is asked.
    pub fn difference(&self) -> Difference {
        match &self.pending {
            None => difference::new_tool(&self.definition),
            Some(pending) => difference::changed(&self.definition, pending),
        }
    }
}

/// All definitions of a listing, without duplicates, without what the entry does not offer, at most [`TOOLS_MAX`].
/// Judges every schema: callers give it a thread. One bad tool costs nobody the others.
pub fn read_listing(listed: &[Value], entry: &Entry, clean: &Clean) -> Listed {
    let mut seen = BTreeMap::new();
    let mut left_out = Vec::new();
    for tool in listed {
        let wanted = tool.get("name").and_then(Value::as_str).is_none_or(|name| entry.tools.offers(name));
        if !wanted || seen.len() >= TOOLS_MAX {
            continue;
        }
        match Definition::read(tool, clean) {
            Ok(definition) => {
                seen.entry(definition.action.clone()).or_insert(definition);
            }
            Err(bad) if left_out.len() < LEFT_OUT_MAX => left_out.push(bad),
            Err(_) => {}
        }
    }
    Listed { definitions: seen.into_values().collect(), left_out }
}

/// Compares what is stored with what the server lists now. `approve` pins everything: the person has just
/// connected this server.
pub fn reconcile(stored: &[Action], listed: Vec<Definition>, approve: bool) -> Vec<Action> {
    let mut now: BTreeMap<String, Definition> =
        listed.into_iter().map(|definition| (definition.action.clone(), definition)).collect();
    let mut actions = Vec::with_capacity(now.len());
    for old in stored {
        let found = now.remove(&old.definition.action);
        actions.extend(match found {
            Some(definition) if approve => Some(pinned(definition)),
            Some(definition) => Some(meet(old, definition)),
            // what nobody ever approved leaves no trace
            None if old.state == State::New => None,
            None => Some(Action { definition: old.definition.clone(), state: State::Gone, pending: None }),
        });
    }
    actions.extend(now.into_values().map(|definition| match approve {
        true => pinned(definition),
        false => Action { definition, state: State::New, pending: None },
    }));
    actions.sort_by(|a, b| a.definition.action.cmp(&b.definition.action));
    actions
}

fn pinned(definition: Definition) -> Action {
    Action { definition, state: State::Pinned, pending: None }
}

fn meet(old: &Action, listed: Definition) -> Action {
    let same = old.definition.hash() == listed.hash();
    match old.state {
        State::New => Action { definition: listed, state: State::New, pending: None },
        State::Pinned | State::Changed | State::Gone if same => pinned(listed),
        State::Pinned | State::Changed | State::Gone => {
            Action { definition: old.definition.clone(), state: State::Changed, pending: Some(listed) }
        }
    }
}

/// The effect class of an action: the entry's word, then the hints of a trusted server, else `once`.
pub fn effect(entry: &Entry, definition: &Definition) -> Effect {
    if let Some(effect) = entry.tools.effects.get(&definition.action) {
        return *effect;
    }
    match entry.trusted {
        true if definition.hints("readOnlyHint") => Effect::ReadOnly,
        true if definition.hints("idempotentHint") => Effect::Idempotent,
        true | false => Effect::Once,
    }
}

fn action_is_valid(action: &str) -> bool {
    !action.is_empty()
        && action.len() <= ACTION_MAX_CHARS
        && action.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/'))
}

fn cut(text: &str) -> String {
    if text.len() <= DESCRIPTION_MAX_BYTES {
        return text.to_owned();
    }
    let mark = "…";
    let mut end = DESCRIPTION_MAX_BYTES - mark.len();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{mark}", &text[..end])
}

/// Cleans every text value. Names of properties stay as they are: arguments are sent under them.
fn clean_texts(value: &mut Value, clean: &Clean) {
    match value {
        Value::String(text) => *text = clean(text),
        Value::Array(items) => items.iter_mut().for_each(|item| clean_texts(item, clean)),
        Value::Object(map) => map.values_mut().for_each(|inner| clean_texts(inner, clean)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// JSON with sorted keys and without blanks, whatever the order of a map in memory.
fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<&String, &Value> = map.iter().collect();
            out.push('{');
            for (index, (key, inner)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                let _ = write!(out, "{}:", Value::String(key.clone()));
                canonical(inner, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                canonical(item, out);
            }
            out.push(']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            let _ = write!(out, "{value}");
        }
    }
}

#[cfg(test)]
mod tests;
