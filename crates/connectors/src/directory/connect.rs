//! Making a connection: from a request to a row, a credential, a tool list that the person has approved by it.

use super::{Directory, read, short};
use crate::books::{Connection, Sealed, Source, Status};
use crate::credentials::Document;
use crate::oauth::flow::{Callback, Unfinished, Wanted};
use crate::server::{Auth, Entry, KeyHeader, Problem, is_header_name};
use crate::trouble::Trouble;
use contract::ConnectionId;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use url::Url;

/// Connections in all. More is a mistake of a program, and each costs memory while it is open.
pub const CONNECTIONS_MAX: usize = 64;
/// Keys of `server_config` that are not part of an entry.
const OPTION_KEYS: [&str; 3] = ["api_key", "headers", "client_secret"];
/// Headers the protocol itself uses.
const RESERVED: [&str; 6] =
    ["accept", "content-type", "content-length", "host", "mcp-session-id", "mcp-protocol-version"];

/// A connection that was made, or that waits for the person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Connected {
    /// Usable.
    Ready(ConnectionId),
    /// The person has to visit this address.
    Pending(ConnectionId, Url),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No such server, and no entry was given.
    #[error("there is no such server, and no server entry was given")]
    NoServer,
    /// The entry or an option is wrong.
    #[error("the server configuration is not acceptable")]
    Invalid(Vec<Problem>),
    /// AD_ENCRYPTION_KEY is missing.
    #[error("this server needs credentials, and AD_ENCRYPTION_KEY is not set")]
    NoKey,
    /// The server could not be reached or used. The connection stays, in error, and can be connected again.
    #[error("the server could not be connected")]
    Failed(#[source] Trouble),
    /// The answer of an authorization was not accepted.
    #[error(transparent)]
    Unfinished(#[from] Unfinished),
    /// The books failed.
    #[error(transparent)]
    Books(#[from] crate::books::BooksError),
}

impl Directory {
    /// Connects to a server. A connection to it that is expired, pending or in error is replaced; a working one
    /// gets a sibling.
    pub async fn connect(
        &self,
        name: &str,
        config: Option<&Map<String, Value>>,
    ) -> Result<Connected, ConnectError> {
        let empty = Map::new();
        let config = config.unwrap_or(&empty);
        let (entry, raw, source) = self.resolve(name, config).await?;
        let options = Options::read(config, &entry)?;
        if entry.auth != Auth::None && !self.0.vault.has_key() {
            return Err(ConnectError::NoKey);
        }
        let books = &self.0.settings.books;
        let rows = books.connections().await?;
        let of_server: Vec<&Connection> = rows.iter().filter(|row| row.server_name == name).collect();
        let replaced: Vec<&Connection> =
            of_server.iter().copied().filter(|row| row.status != Status::Connected).collect();
        if rows.len() - replaced.len() >= CONNECTIONS_MAX {
            let message = format!("there are {CONNECTIONS_MAX} connections already");
            return Err(ConnectError::Invalid(vec![Problem { pointer: String::new(), message }]));
        }
        let taken =
            |alias: &str| rows.iter().any(|row| row.alias == alias && row.status == Status::Connected);
        let alias = free_alias(name, taken);
        let mut wanted_scopes: Vec<String> = Vec::new();
        for row in &replaced {
            let had = row.credential.iter().flat_map(|sealed| sealed.scopes.iter());
            let asked = if row.wanted_scopes.is_empty() { Vec::new() } else { had.cloned().collect() };
            for scope in row.wanted_scopes.iter().cloned().chain(asked) {
                if !wanted_scopes.contains(&scope) {
                    wanted_scopes.push(scope);
                }
            }
        }
        let gone: Vec<ConnectionId> = replaced.iter().map(|row| row.ref_id.clone()).collect();
        let ref_id = ConnectionId::generate();
        let credential = self.static_credential(&entry, &options)?;
        let row = Connection {
            ref_id: ref_id.clone(),
            server_name: name.to_owned(),
            alias,
            auth_method: entry.auth.word().to_owned(),
            // until the first listing has succeeded
            status: if matches!(entry.auth, Auth::OAuth { .. }) {
                Status::PendingOauth
            } else {
                Status::Error
            },
            credential,
            credential_version: 1,
            wanted_scopes: wanted_scopes.clone(),
            last_error: None,
            created_at: (self.0.settings.nature.now)(),
        };
        books.put_server(name.to_owned(), raw, source).await?;
        books.add(row, gone.clone()).await?;
        for id in &gone {
            self.drop_line(id).await;
        }
        self.rebuild().await?;
        match &entry.auth {
            Auth::None | Auth::Static { .. } => {
                self.first_listing(&ref_id).await.map(|()| Connected::Ready(ref_id))
            }
            Auth::OAuth { .. } => self.authorize(&ref_id, &entry, &options, &wanted_scopes).await,
        }
    }

    /// Takes what an authorization brought back and lists the tools.
    pub async fn finish(&self, callback: Callback) -> Result<ConnectionId, ConnectError> {
        match self.0.oauth.finish(callback).await {
            Ok(id) => {
                self.rebuild().await?;
                self.first_listing(&id).await?;
                Ok(id)
            }
            Err(unfinished) => {
                if let Unfinished::Exchange(id, _) | Unfinished::Issuer(id) = &unfinished {
                    let text = Some(short(&unfinished.to_string()));
                    self.0.settings.books.set_status(id, Status::Error, text).await?;
                }
                Err(unfinished.into())
            }
        }
    }

    /// What is listed now is what the person approves by connecting.
    async fn first_listing(&self, id: &ConnectionId) -> Result<(), ConnectError> {
        match self.list(id, true).await {
            Ok(()) => {
                self.0.settings.books.set_status(id, Status::Connected, None).await?;
                self.rebuild().await?;
                Ok(())
            }
            Err(trouble) => {
                let text = Some(short(&trouble.to_string()));
                self.0.settings.books.set_status(id, Status::Error, text).await?;
                self.drop_line(id).await;
                self.rebuild().await?;
                Err(ConnectError::Failed(trouble))
            }
        }
    }

    async fn authorize(
        &self,
        ref_id: &ConnectionId,
        entry: &Entry,
        options: &Options,
        also: &[String],
    ) -> Result<Connected, ConnectError> {
        let (Auth::OAuth { client_id, client_secret_env, scopes }, Some(server)) =
            (&entry.auth, entry.transport.url())
        else {
            return Err(ConnectError::NoServer);
        };
        let from_env = client_secret_env.as_ref().and_then(|name| self.0.settings.secrets.get(name).cloned());
        let client = match (&options.client_id, client_id) {
            (Some(id), _) => Some((id.clone(), options.client_secret.clone())),
            (None, Some(id)) => Some((id.clone(), options.client_secret.clone().or(from_env))),
            (None, None) => None,
        };
        let scopes = if options.scopes.is_empty() { scopes } else { &options.scopes };
        let challenge = self.challenge(server).await;
        let wanted =
            Wanted { ref_id, server, challenge: challenge.as_deref(), scopes, also, client, version: 1 };
        match self.0.oauth.begin(wanted).await {
            Ok(address) => Ok(Connected::Pending(ref_id.clone(), address)),
            Err(trouble) => {
                let text = Some(short(&trouble.to_string()));
                self.0.settings.books.set_status(ref_id, Status::Error, text).await?;
                Err(ConnectError::Failed(trouble))
            }
        }
    }

    /// The challenge of a request without credentials, which names the authorization server.
    async fn challenge(&self, server: &Url) -> Option<String> {
        let request = self.0.settings.http.post(server.clone()).timeout(super::CONNECT_MAX);
        let request = request
            .header(http::header::ACCEPT, "application/json, text/event-stream")
            .json(&serde_json::json!({"jsonrpc": "2.0", "id": 0, "method": "ping"}));
        let response = request.send().await.ok()?;
        let header = response.headers().get(http::header::WWW_AUTHENTICATE)?;
        header.to_str().ok().map(str::to_owned)
    }

    async fn resolve(
        &self,
        name: &str,
        config: &Map<String, Value>,
    ) -> Result<(Entry, Value, Source), ConnectError> {
        if let Some(entry) = read(&self.0.catalog).get(name).filter(|entry| !entry.disabled) {
            return Ok((Entry::clone(entry), entry.document.clone(), Source::Catalog));
        }
        let raw = if config.contains_key("transport") {
            let mut raw = config.clone();
            OPTION_KEYS.iter().for_each(|key| {
                raw.remove(*key);
            });
            Value::Object(raw)
        } else {
            let stored = self.0.settings.books.servers().await?;
            let known = stored.into_iter().find(|one| one.server_name == name && one.source == Source::Adhoc);
            known.ok_or(ConnectError::NoServer)?.entry
        };
        let entry = Entry::parse(name, &raw).map_err(ConnectError::Invalid)?;
        Ok((entry, raw, Source::Adhoc))
    }

    fn static_credential(&self, entry: &Entry, options: &Options) -> Result<Option<Sealed>, ConnectError> {
        let Auth::Static { header } = &entry.auth else { return Ok(None) };
        let document = Document::Static { headers: options.static_headers(header) };
        self.0.vault.sealed(&document, None).map(Some).map_err(|_| ConnectError::NoKey)
    }
}

/// What a request may add to an entry.
struct Options {
    api_key: Option<String>,
    headers: BTreeMap<String, String>,
    client_id: Option<String>,
    client_secret: Option<String>,
    scopes: Vec<String>,
}

impl Options {
    fn read(config: &Map<String, Value>, entry: &Entry) -> Result<Self, ConnectError> {
        let mut problems = Vec::new();
        let mut wrong = |pointer: String, message: &str| {
            problems.push(Problem { pointer, message: message.to_owned() });
        };
        let mut text = |key: &str| match config.get(key) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) if is_visible(text) && !text.is_empty() => Some(text.clone()),
            Some(_) => {
                wrong(format!("/{key}"), "expected a text of visible characters");
                None
            }
        };
        let (api_key, client_id, client_secret) = (text("api_key"), text("client_id"), text("client_secret"));
        let mut headers = BTreeMap::new();
        match config.get("headers") {
            None | Some(Value::Null) => {}
            Some(Value::Object(given)) => {
                for (name, value) in given {
                    let lower = name.to_ascii_lowercase();
                    match value.as_str() {
                        Some(value)
                            if is_header_name(name)
                                && !RESERVED.contains(&lower.as_str())
                                && is_visible(value) =>
                        {
                            headers.insert(lower, value.to_owned());
                        }
                        _ => {
                            wrong("/headers".into(), "expected header names with texts of visible characters")
                        }
                    }
                }
            }
            Some(_) => wrong("/headers".into(), "expected an object of texts"),
        }
        let mut scopes = Vec::new();
        match config.get("scopes") {
            None | Some(Value::Null) => {}
            Some(Value::Array(given)) => {
                for scope in given {
                    match scope.as_str().filter(|scope| crate::server::is_scope(scope)) {
                        Some(scope) => scopes.push(scope.to_owned()),
                        None => wrong("/scopes".into(), "expected a list of scopes"),
                    }
                }
            }
            Some(_) => wrong("/scopes".into(), "expected a list of scopes"),
        }
        if matches!(entry.auth, Auth::Static { .. }) && api_key.is_none() && headers.is_empty() {
            wrong("/api_key".into(), "this server needs an `api_key`, or `headers`");
        }
        match problems.is_empty() {
            true => Ok(Self { api_key, headers, client_id, client_secret, scopes }),
            false => Err(ConnectError::Invalid(problems)),
        }
    }

    fn static_headers(&self, header: &KeyHeader) -> BTreeMap<String, String> {
        let mut headers = self.headers.clone();
        if let Some(key) = &self.api_key {
            headers.insert(header.name.clone(), header.value(key));
        }
        headers
    }
}

fn is_visible(text: &str) -> bool {
    text.len() <= crate::server::TEXT_MAX_CHARS && text.bytes().all(|b| (0x20..=0x7e).contains(&b))
}

/// `name`, `name_2`, `name_3`, and so on: the first that is free.
fn free_alias(name: &str, taken: impl Fn(&str) -> bool) -> String {
    if !taken(name) {
        return name.to_owned();
    }
    let mut number = 2_usize;
    loop {
        let alias = format!("{name}_{number}");
        if !taken(&alias) {
            return alias;
        }
        number += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn siblings_are_numbered_and_gaps_are_filled() {
        let alias = |taken: &[&str]| free_alias("slack", |alias| taken.contains(&alias));
        assert_eq!(alias(&[]), "slack");
        assert_eq!(alias(&["slack"]), "slack_2");
        assert_eq!(alias(&["slack", "slack_2"]), "slack_3");
        assert_eq!(alias(&["slack_2"]), "slack");
    }

    #[test]
    fn options_are_checked_and_never_repeated() {
        let entry = json!({"server_name": "s", "transport": "http", "url": "https://x.example.com", "auth_method": "static"});
        let entry = Entry::parse("s", &entry).expect("is an entry");
        let read = |config: Value| Options::read(config.as_object().expect("object"), &entry);
        let Ok(good) = read(json!({"api_key": "k", "headers": {"X-Team": "t"}})) else { panic!("is good") };
        let headers = good.static_headers(&KeyHeader::default());
        assert_eq!(headers["authorization"], "Bearer k");
        assert_eq!(headers["x-team"], "t");
        for bad in [
            json!({}),
            json!({"api_key": ""}),
            json!({"api_key": "c4nary\r\nX: y"}),
            json!({"headers": {"Host": "c4nary"}}),
            json!({"headers": ["c4nary"]}),
            json!({"api_key": "k", "scopes": ["c4nary d"]}),
        ] {
            let Err(error) = read(bad.clone()) else { panic!("{bad} must be refused") };
            assert!(!format!("{error:?}").contains("c4nary"));
        }
    }
}
