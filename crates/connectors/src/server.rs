//! A server entry: how one MCP server is reached and what may be done with it (`servers/<server_name>.json`).
//!
//! Pure: an entry is read from a JSON value, every mistake is named with its JSON pointer, and all mistakes are
//! reported at once. Nothing here touches a disk, a clock or the network.
//!
//! The invariant: an [`Entry`] that exists can be used as it is; nobody checks its fields again.

mod reader;
mod spelling;

pub(crate) use spelling::{is_header_name, is_scope};
pub use spelling::{is_loopback, usable_url};

use reader::Reader;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use url::Url;

/// Longest server name. It is the first part of every tool name, which providers limit to 64 characters.
pub const NAME_MAX_CHARS: usize = 32;

/// Most elements of any list in an entry. Larger would make one entry a denial of service; smaller would refuse
/// servers whose command line is long.
pub const LIST_MAX: usize = 256;

/// Longest text in an entry. Larger serves nobody; smaller would cut long URLs.
pub const TEXT_MAX_CHARS: usize = 4_096;

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
        reader.warn_unknown(map, "", &reader::ENTRY_KEYS);
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

#[cfg(test)]
mod tests;
