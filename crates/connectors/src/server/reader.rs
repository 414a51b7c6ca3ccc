//! Reading an entry from a JSON value: each key, what it must be, and what is said when it is not.
//!
//! Reading goes on after a mistake, so that all of them are told at once. The invariant: a value that is not taken
//! leaves a problem with its JSON pointer, and no problem repeats a value.

use super::spelling::{is_header_name, is_host_pattern, is_plain, is_scope, usable_url};
use super::{Auth, Effect, Entry, KeyHeader, LIST_MAX, Problem, TEXT_MAX_CHARS, ToolRules, Transport};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use url::Url;

/// The place in a header template that the key takes.
const KEY_PLACE: &str = "<api_key>";

pub(super) const ENTRY_KEYS: [&str; 15] = [
    "server_name",
    "display_name",
    "transport",
    "url",
    "command",
    "env",
    "network",
    "auth_method",
    "client_id",
    "client_secret_env",
    "scopes",
    "header",
    "trusted",
    "tools",
    "disabled",
];

const TOOLS_KEYS: [&str; 3] = ["allow", "deny", "effects"];

#[derive(Default)]
pub(super) struct Reader {
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
}

impl Reader {
    fn wrong(&mut self, pointer: impl Into<String>, message: impl Into<String>) {
        self.problems.push(Problem { pointer: pointer.into(), message: message.into() });
    }

    pub(super) fn server_name(&mut self, map: &Map<String, Value>, name: &str) {
        let pointer = "/server_name";
        match map.get("server_name").map(Value::as_str) {
            None => self.wrong(pointer, "is missing"),
            Some(None) => self.wrong(pointer, "expected a string"),
            Some(Some(given)) if !Entry::name_is_valid(given) => {
                self.wrong(pointer, "expected [a-z][a-z0-9_]{0,31}");
            }
            Some(Some(given)) if given != name => {
                self.wrong(pointer, format!("expected {name:?}: the name of the file, or of the request"));
            }
            Some(Some(_)) => {}
        }
    }

    pub(super) fn transport(&mut self, map: &Map<String, Value>) -> Option<Transport> {
        let Some(word) = map.get("transport").and_then(Value::as_str) else {
            self.wrong("/transport", "expected \"http\", \"sse\" or \"stdio\"");
            return None;
        };
        let strange: &[&str] = match word {
            "http" | "sse" => &["command", "env", "network"],
            "stdio" => &["url"],
            _ => {
                self.wrong("/transport", "expected \"http\", \"sse\" or \"stdio\"");
                return None;
            }
        };
        for key in strange {
            if map.contains_key(*key) {
                self.wrong(format!("/{key}"), format!("is not used with transport {word:?}"));
            }
        }
        match word {
            "http" => self.url(map).map(|url| Transport::Http { url }),
            "sse" => self.url(map).map(|url| Transport::Sse { url }),
            _ => {
                let command = self.arguments(map);
                if command.first().is_none_or(String::is_empty) {
                    self.wrong("/command", "expected a list of texts: the program and its arguments");
                }
                let env = self.env(map);
                let network = self.network(map);
                Some(Transport::Stdio { command, env, network })
            }
        }
    }

    fn url(&mut self, map: &Map<String, Value>) -> Option<Url> {
        if !map.contains_key("url") {
            self.wrong("/url", "is missing");
            return None;
        }
        let text = self.text(map, "", "url")?;
        match usable_url(&text) {
            Ok(url) => Some(url),
            Err(message) => {
                self.wrong("/url", message);
                None
            }
        }
    }

    /// Program and arguments: anything a program can be given.
    fn arguments(&mut self, map: &Map<String, Value>) -> Vec<String> {
        let given = map.get("command").and_then(Value::as_array).filter(|items| items.len() <= LIST_MAX);
        let mut command = Vec::new();
        for (index, item) in given.into_iter().flatten().enumerate() {
            match item.as_str() {
                Some(text) if !text.contains('\0') && text.chars().count() <= TEXT_MAX_CHARS => {
                    command.push(text.to_owned());
                }
                _ => self.wrong(
                    format!("/command/{index}"),
                    format!("expected a text of at most {TEXT_MAX_CHARS} characters"),
                ),
            }
        }
        command
    }

    fn env(&mut self, map: &Map<String, Value>) -> BTreeMap<String, String> {
        let mut env = BTreeMap::new();
        let Some(value) = map.get("env") else { return env };
        let Value::Object(given) = value else {
            self.wrong("/env", "expected an object of texts");
            return env;
        };
        if given.len() > LIST_MAX {
            self.wrong("/env", format!("expected at most {LIST_MAX} variables"));
        }
        for (name, value) in given {
            let pointer = format!("/env/{}", escape(name));
            let named = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            match value.as_str() {
                _ if !named => self.wrong(pointer, "expected a variable name: [A-Za-z_][A-Za-z0-9_]*"),
                Some(text) if !text.contains('\0') && text.chars().count() <= TEXT_MAX_CHARS => {
                    env.insert(name.clone(), text.to_owned());
                }
                _ => self.wrong(pointer, format!("expected a text of at most {TEXT_MAX_CHARS} characters")),
            }
        }
        env
    }

    fn network(&mut self, map: &Map<String, Value>) -> Vec<String> {
        let hosts = self.list(map, "", "network");
        for (index, host) in hosts.iter().enumerate() {
            if !is_host_pattern(host) {
                self.wrong(format!("/network/{index}"), "expected a host, *.suffix, host:port or *");
            }
        }
        hosts
    }

    pub(super) fn auth(&mut self, map: &Map<String, Value>, transport: Option<&Transport>) -> Option<Auth> {
        let word = map.get("auth_method").and_then(Value::as_str);
        let oauth_keys = ["client_id", "client_secret_env", "scopes"];
        for (owner, keys) in [("oauth", &oauth_keys[..]), ("static", &["header"][..])] {
            for key in keys.iter().filter(|key| map.contains_key(**key) && word != Some(owner)) {
                self.wrong(format!("/{key}"), format!("is used with auth_method {owner:?} only"));
            }
        }
        let spoken = matches!(transport, Some(Transport::Stdio { .. }));
        match word {
            Some("none") => Some(Auth::None),
            Some("static" | "oauth") if spoken => {
                self.wrong("/auth_method", "expected \"none\": a stdio server takes its secrets from `env`");
                None
            }
            Some("static") => {
                let header = match map.get("header") {
                    None => Some(KeyHeader::default()),
                    Some(_) => self.key_header(map),
                };
                header.map(|header| Auth::Static { header })
            }
            Some("oauth") => {
                let client_id = self.text(map, "", "client_id");
                let client_secret_env = self.text(map, "", "client_secret_env");
                if client_secret_env.is_some() && client_id.is_none() {
                    self.wrong("/client_secret_env", "needs a `client_id`");
                }
                let scopes = self.list(map, "", "scopes");
                for (index, scope) in scopes.iter().enumerate() {
                    if !is_scope(scope) {
                        self.wrong(format!("/scopes/{index}"), "expected a scope without blanks or quotes");
                    }
                }
                Some(Auth::OAuth { client_id, client_secret_env, scopes })
            }
            _ => {
                self.wrong("/auth_method", "expected \"oauth\", \"static\" or \"none\"");
                None
            }
        }
    }

    fn key_header(&mut self, map: &Map<String, Value>) -> Option<KeyHeader> {
        let text = self.text(map, "", "header")?;
        let parsed = text.split_once(':').and_then(|(name, value)| {
            let (before, after) = value.trim().split_once(KEY_PLACE)?;
            let visible = |part: &str| part.chars().all(|c| (' '..='~').contains(&c));
            let usable = is_header_name(name) && visible(before) && visible(after);
            usable.then(|| KeyHeader {
                name: name.to_ascii_lowercase(),
                before: before.to_owned(),
                after: after.to_owned(),
            })
        });
        if parsed.is_none() {
            self.wrong("/header", format!("expected a text like \"X-Api-Key: {KEY_PLACE}\""));
        }
        parsed
    }

    pub(super) fn tools(&mut self, map: &Map<String, Value>) -> ToolRules {
        let mut rules = ToolRules::default();
        let Some(value) = map.get("tools") else { return rules };
        let Value::Object(given) = value else {
            self.wrong("/tools", "expected an object with allow, deny, effects");
            return rules;
        };
        if given.contains_key("allow") {
            rules.allow = self.list(given, "/tools", "allow");
        }
        rules.deny = self.list(given, "/tools", "deny");
        match given.get("effects") {
            None => {}
            Some(Value::Object(effects)) => {
                for (action, word) in effects {
                    match Effect::ALL.iter().find(|effect| Some(effect.word()) == word.as_str()) {
                        Some(effect) => {
                            rules.effects.insert(action.clone(), *effect);
                        }
                        None => self.wrong(
                            format!("/tools/effects/{}", escape(action)),
                            "expected \"read-only\", \"idempotent\" or \"once\"",
                        ),
                    }
                }
            }
            Some(_) => self.wrong("/tools/effects", "expected an object: action to effect class"),
        }
        self.warn_unknown(given, "/tools", &TOOLS_KEYS);
        rules
    }

    pub(super) fn flag(&mut self, map: &Map<String, Value>, key: &str) -> bool {
        match map.get(key) {
            None => false,
            Some(Value::Bool(flag)) => *flag,
            Some(_) => {
                self.wrong(format!("/{key}"), "expected true or false");
                false
            }
        }
    }

    /// An optional text: not empty, not too long, without control characters.
    pub(super) fn text(&mut self, map: &Map<String, Value>, parent: &str, key: &str) -> Option<String> {
        let value = map.get(key)?;
        match value.as_str() {
            Some(text) if is_plain(text) && !text.is_empty() => Some(text.to_owned()),
            _ => {
                self.wrong(
                    format!("{parent}/{key}"),
                    format!("expected a text of 1..{TEXT_MAX_CHARS} characters"),
                );
                None
            }
        }
    }

    /// An optional list of texts.
    fn list(&mut self, map: &Map<String, Value>, parent: &str, key: &str) -> Vec<String> {
        let pointer = format!("{parent}/{key}");
        match map.get(key) {
            None => Vec::new(),
            Some(Value::Array(items)) if items.len() <= LIST_MAX => {
                let mut texts = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    match item.as_str() {
                        Some(text) if is_plain(text) => texts.push(text.to_owned()),
                        _ => self.wrong(
                            format!("{pointer}/{index}"),
                            format!("expected a text of at most {TEXT_MAX_CHARS} characters"),
                        ),
                    }
                }
                texts
            }
            Some(_) => {
                self.wrong(pointer, format!("expected a list of at most {LIST_MAX} texts"));
                Vec::new()
            }
        }
    }

    pub(super) fn warn_unknown(&mut self, map: &Map<String, Value>, parent: &str, known: &[&str]) {
        for key in map.keys().filter(|key| !known.contains(&key.as_str())) {
            let pointer = format!("{parent}/{}", escape(key));
            self.warnings.push(Problem { pointer, message: "means nothing here".into() });
        }
    }
}

/// A key as one step of a JSON pointer.
fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}
