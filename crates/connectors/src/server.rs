//! A server entry: how one MCP server is reached and what may be done with it (`servers/<server_name>.json`).
//!
//! Pure: an entry is read from a JSON value, every mistake is named with its JSON pointer, and all mistakes are
//! reported at once. Nothing here touches a disk, a clock or the network.
//!
//! The invariant: an [`Entry`] that exists can be used as it is; nobody checks its fields again.

use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use url::{Host, Url};

/// Longest server name. It is the first part of every tool name, which providers limit to 64 characters.
pub const NAME_MAX_CHARS: usize = 32;

/// Most elements of any list in an entry. Larger would make one entry a denial of service; smaller would refuse
/// servers whose command line is long.
pub const LIST_MAX: usize = 256;

/// Longest text in an entry. Larger serves nobody; smaller would cut long URLs.
pub const TEXT_MAX_CHARS: usize = 4_096;

/// The place in a header template that the key takes.
const KEY_PLACE: &str = "<api_key>";

/// What is wrong with one place of a JSON document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// JSON pointer (RFC 6901); empty for the whole document.
    pub pointer: String,
    /// What was expected there, for people. Never repeats a value: it may be a secret.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.pointer.is_empty() { "/" } else { &self.pointer };
        write!(f, "{place}: {}", self.message)
    }
}

/// How a server is reached.
#[derive(Clone, PartialEq, Eq)]
pub enum Transport {
    /// Streamable HTTP; falls back to the older SSE transport by itself.
    Http {
        /// The endpoint.
        url: Url,
    },
    /// The HTTP+SSE transport of 2024-11-05.
    Sse {
        /// The address of the event stream.
        url: Url,
    },
    /// A child process that speaks on its standard streams.
    Stdio {
        /// Program and arguments; no shell.
        command: Vec<String>,
        /// Variables added to its scrubbed environment.
        env: BTreeMap<String, String>,
        /// Hosts it may reach; empty = no network.
        network: Vec<String>,
    },
}

impl fmt::Debug for Transport {
    /// Without arguments and variables: they may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { url } | Self::Sse { url } => write!(f, "{}({:?})", self.word(), url.host_str()),
            Self::Stdio { command, .. } => write!(f, "stdio({:?})", command.first()),
        }
    }
}

impl Transport {
    /// The word of the API and of the entry.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Http { .. } => "http",
            Self::Sse { .. } => "sse",
            Self::Stdio { .. } => "stdio",
        }
    }

    /// The address, for servers that have one.
    pub fn url(&self) -> Option<&Url> {
        match self {
            Self::Http { url } | Self::Sse { url } => Some(url),
            Self::Stdio { .. } => None,
        }
    }
}

/// How a key is written into a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyHeader {
    /// Header name, lower case.
    pub name: String,
    before: String,
    after: String,
}

impl KeyHeader {
    /// The header's value for a key.
    pub fn value(&self, key: &str) -> String {
        format!("{}{key}{}", self.before, self.after)
    }
}

impl Default for KeyHeader {
    fn default() -> Self {
        Self { name: "authorization".into(), before: "Bearer ".into(), after: String::new() }
    }
}

/// How the person's right to use a server is shown to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// Not at all.
    None,
    /// A key or headers that the person entered once.
    Static {
        /// Where an `api_key` goes.
        header: KeyHeader,
    },
    /// OAuth 2.1.
    OAuth {
        /// A client registered beforehand.
        client_id: Option<String>,
        /// Name of the environment variable with that client's secret.
        client_secret_env: Option<String>,
        /// Scopes asked for when the server does not say which.
        scopes: Vec<String>,
    },
}

impl Auth {
    /// The word of the API and of the entry.
    pub fn word(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Static { .. } => "static",
            Self::OAuth { .. } => "oauth",
        }
    }
}

/// What repeating a tool call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Changes nothing.
    ReadOnly,
    /// Twice is the same as once.
    Idempotent,
    /// Must not be repeated.
    Once,
}

impl Effect {
    /// Every class.
    pub const ALL: [Self; 3] = [Self::ReadOnly, Self::Idempotent, Self::Once];

    /// The word of the entry.
    pub fn word(self) -> &'static str {
        match self {
            Self::ReadOnly => "read-only",
            Self::Idempotent => "idempotent",
            Self::Once => "once",
        }
    }
}

/// Which tools of a server are offered, and as what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolRules {
    /// Names, `*`, or `prefix*`.
    pub allow: Vec<String>,
    /// The same; wins over `allow`.
    pub deny: Vec<String>,
    /// Effect classes by action; win over what the server says about itself.
    pub effects: BTreeMap<String, Effect>,
}

impl ToolRules {
    /// Whether an action is offered at all.
    pub fn offers(&self, action: &str) -> bool {
        let named = |patterns: &[String]| patterns.iter().any(|pattern| fits(pattern, action));
        named(&self.allow) && !named(&self.deny)
    }
}

impl Default for ToolRules {
    fn default() -> Self {
        Self { allow: vec!["*".into()], deny: Vec::new(), effects: BTreeMap::new() }
    }
}

fn fits(pattern: &str, action: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => action.starts_with(prefix),
        None => pattern == action,
    }
}

/// One server, as the catalog or a caller describes it.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The document it was read from.
    pub document: Value,
    /// First part of every tool name.
    pub server_name: String,
    /// For people.
    pub display_name: String,
    /// How it is reached.
    pub transport: Transport,
    /// How the person is identified to it.
    pub auth: Auth,
    /// Whether the server's own words about its tools are believed.
    pub trusted: bool,
    /// Which tools are offered.
    pub tools: ToolRules,
    /// Hidden: cannot be connected to.
    pub disabled: bool,
    /// Keys that mean nothing here. The entry works without them.
    pub warnings: Vec<Problem>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("server_name", &self.server_name)
            .field("transport", &self.transport)
            .field("auth", &self.auth.word())
            .finish_non_exhaustive()
    }
}

impl Entry {
    /// Reads an entry. `name` is the name it must carry: the file name without `.json`, or what the caller said.
    pub fn parse(name: &str, entry: &Value) -> Result<Self, Vec<Problem>> {
        let mut reader = Reader::default();
        let Value::Object(map) = entry else {
            return Err(vec![Problem { pointer: String::new(), message: "expected an object".into() }]);
        };
        reader.server_name(map, name);
        let display_name = reader.text(map, "", "display_name").unwrap_or_else(|| name.to_owned());
        let transport = reader.transport(map);
        let auth = reader.auth(map, transport.as_ref());
        let trusted = reader.flag(map, "trusted");
        let disabled = reader.flag(map, "disabled");
        let tools = reader.tools(map);
        reader.warn_unknown(map, "", &ENTRY_KEYS);
        match (transport, auth) {
            (Some(transport), Some(auth)) if reader.problems.is_empty() => Ok(Self {
                document: entry.clone(),
                server_name: name.to_owned(),
                display_name,
                transport,
                auth,
                trusted,
                tools,
                disabled,
                warnings: reader.warnings,
            }),
            _ => Err(reader.problems),
        }
    }

    /// Whether a text can be a server's name: `[a-z][a-z0-9_]{0,31}`.
    pub fn name_is_valid(name: &str) -> bool {
        name.len() <= NAME_MAX_CHARS
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    }
}

const ENTRY_KEYS: [&str; 15] = [
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
struct Reader {
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

impl Reader {
    fn wrong(&mut self, pointer: impl Into<String>, message: impl Into<String>) {
        self.problems.push(Problem { pointer: pointer.into(), message: message.into() });
    }

    fn server_name(&mut self, map: &Map<String, Value>, name: &str) {
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

    fn transport(&mut self, map: &Map<String, Value>) -> Option<Transport> {
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

    fn auth(&mut self, map: &Map<String, Value>, transport: Option<&Transport>) -> Option<Auth> {
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

    fn tools(&mut self, map: &Map<String, Value>) -> ToolRules {
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

    fn flag(&mut self, map: &Map<String, Value>, key: &str) -> bool {
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
    fn text(&mut self, map: &Map<String, Value>, parent: &str, key: &str) -> Option<String> {
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

    fn warn_unknown(&mut self, map: &Map<String, Value>, parent: &str, known: &[&str]) {
        for key in map.keys().filter(|key| !known.contains(&key.as_str())) {
            let pointer = format!("{parent}/{}", escape(key));
            self.warnings.push(Problem { pointer, message: "means nothing here".into() });
        }
    }
}

/// An address that may be called: https, or http to this machine; no credentials, no fragment.
pub fn usable_url(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "expected an absolute URL")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("expected a URL without user name and password");
    }
    if url.fragment().is_some() {
        return Err("expected a URL without #fragment");
    }
    match url.scheme() {
        "https" if url.host().is_some() => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        _ => Err("expected https:// (http:// only for this machine: localhost, 127.0.0.1, [::1])"),
    }
}

/// Whether an address is on this machine.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn is_plain(text: &str) -> bool {
    text.chars().count() <= TEXT_MAX_CHARS && !text.chars().any(char::is_control)
}

/// A scope token of RFC 6749, section 3.3.
pub(crate) fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

/// A header name of RFC 9110, section 5.1.
pub(crate) fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn is_host_pattern(text: &str) -> bool {
    if text == "*" {
        return true;
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') => (host, Some(port)),
        _ => (text, None),
    };
    let host = host.strip_prefix("*.").unwrap_or(host);
    let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    port_fits
        && !host.is_empty()
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']'))
}

/// A key as one step of a JSON pointer.
fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests;
