//! Where connections are written down. The Engine implements it on the brain; this crate has no SQL.
//!
//! Rows are plain data. A guard that must hold against another writer (the version of a credential, a state
//! that may be used once) is part of the operation, and the answer says whether it held.

use crate::tools::Action;
use async_trait::async_trait;
use contract::{ConnectionId, Timestamp};
use serde_json::Value;
use std::fmt;

/// The store refused or is gone.
#[derive(Debug, thiserror::Error)]
#[error("the connector's books cannot be read or written")]
pub struct BooksError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl BooksError {
    /// Wraps the store's own error.
    pub fn new(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self(Box::new(error))
    }
}

/// A result of the books.
pub type Written<T> = Result<T, BooksError>;

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The person has not finished the authorization.
    PendingOauth,
    /// Usable.
    Connected,
    /// The credentials ran out and could not be renewed.
    Expired,
    /// The last attempt failed.
    Error,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 4] = [Self::PendingOauth, Self::Connected, Self::Expired, Self::Error];

    /// The word of the API and of storage.
    pub fn word(self) -> &'static str {
        match self {
            Self::PendingOauth => "pending_oauth",
            Self::Connected => "connected",
            Self::Expired => "expired",
            Self::Error => "error",
        }
    }

    /// Reads the word back.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.word() == word)
    }
}

/// A sealed credential and what may be known of it without opening it.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The Fernet token.
    pub token: String,
    /// Which key sealed it.
    pub key_fingerprint: String,
    /// Granted scopes.
    pub scopes: Vec<String>,
    /// When the access token ends.
    pub expires_at: Option<Timestamp>,
    /// When it shall be renewed.
    pub refresh_at: Option<Timestamp>,
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealed").field("key_fingerprint", &self.key_fingerprint).finish_non_exhaustive()
    }
}

/// One connection.
#[derive(Debug, Clone, PartialEq)]
pub struct Connection {
    /// Its id.
    pub ref_id: ConnectionId,
    /// Its server.
    pub server_name: String,
    /// First part of its tools' names: the server's name, or with `_2` and so on.
    pub alias: String,
    /// The word of [`crate::server::Auth`].
    pub auth_method: String,
    /// Where it stands.
    pub status: Status,
    /// Its credential.
    pub credential: Option<Sealed>,
    /// Grows with every new credential.
    pub credential_version: i64,
    /// Scopes to ask for at the next connect, beyond the granted ones.
    pub wanted_scopes: Vec<String>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// Where an entry comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A catalog file.
    Catalog,
    /// The body of a request.
    Adhoc,
}

impl Source {
    /// The word in storage.
    pub fn word(self) -> &'static str {
        match self {
            Self::Catalog => "catalog",
            Self::Adhoc => "adhoc",
        }
    }

    /// Reads the word back.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Catalog, Self::Adhoc].into_iter().find(|source| source.word() == word)
    }
}

/// What is known about a server.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Its name.
    pub server_name: String,
    /// Its entry as it was given.
    pub entry: Value,
    /// Where the entry comes from.
    pub source: Source,
    /// How it was last spoken to: the words of [`crate::transport::Era`].
    pub era: Option<String>,
    /// The revision agreed on.
    pub protocol_version: Option<String>,
    /// What it says it is.
    pub server_info: Option<Value>,
}

/// An authorization that a person has begun.
#[derive(Clone, PartialEq, Eq)]
pub struct OauthState {
    /// SHA-256 of the state parameter.
    pub state_hash: String,
    /// Whose it is.
    pub ref_id: ConnectionId,
    /// The sealed verifier and what the exchange needs.
    pub verifier_enc: String,
    /// Whose answer is awaited.
    pub issuer: String,
    /// Where the answer comes.
    pub redirect_uri: String,
    /// When it began.
    pub created_at: Timestamp,
}

impl fmt::Debug for OauthState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OauthState").field("ref_id", &self.ref_id).finish_non_exhaustive()
    }
}

/// A client registered at an authorization server.
#[derive(Clone, PartialEq, Eq)]
pub struct OauthClient {
    /// The authorization server. The client is used with no other.
    pub issuer: String,
    /// The redirect URI it was registered with.
    pub redirect_uri: String,
    /// Its id.
    pub client_id: String,
    /// Its sealed secret.
    pub client_secret_enc: Option<String>,
    /// What the server said about it, without secrets.
    pub metadata: Value,
}

impl fmt::Debug for OauthClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OauthClient").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

/// The store.
#[async_trait]
pub trait Books: Send + Sync {
    /// Every connection, oldest first.
    async fn connections(&self) -> Written<Vec<Connection>>;
    /// One connection.
    async fn connection(&self, id: &ConnectionId) -> Written<Option<Connection>>;
    /// Adds a connection, in one step with the removal of those it replaces.
    async fn add(&self, connection: Connection, replaces: Vec<ConnectionId>) -> Written<()>;
    /// Sets the status; false when there is no such connection.
    async fn set_status(&self, id: &ConnectionId, status: Status, error: Option<String>) -> Written<bool>;
    /// Stores a new credential and marks the connection as connected, when the version is still the expected one.
    async fn put_credential(&self, id: &ConnectionId, expected: i64, sealed: Sealed) -> Written<bool>;
    /// Remembers scopes for the next connect and marks the connection as expired.
    async fn want_scopes(&self, id: &ConnectionId, scopes: Vec<String>, error: String) -> Written<()>;
    /// Removes a connection with its actions and authorizations; false when there was none.
    async fn remove(&self, id: &ConnectionId) -> Written<bool>;
    /// Every known server.
    async fn servers(&self) -> Written<Vec<Server>>;
    /// Stores what is known about a server; what was agreed with it is kept while the entry is the same.
    async fn put_server(&self, name: String, entry: Value, source: Source) -> Written<()>;
    /// Stores what was agreed with a server.
    async fn put_era(
        &self,
        name: &str,
        era: Option<String>,
        version: Option<String>,
        info: Option<Value>,
    ) -> Written<()>;
    /// The actions of a connection, by name.
    async fn actions(&self, id: &ConnectionId) -> Written<Vec<Action>>;
    /// Replaces the actions of a connection; nothing happens when the connection is gone.
    async fn put_actions(&self, id: &ConnectionId, actions: Vec<Action>) -> Written<()>;
    /// Stores a begun authorization.
    async fn put_state(&self, state: OauthState) -> Written<()>;
    /// Takes a begun authorization out for good, when it began at or after `oldest`.
    async fn take_state(&self, state_hash: &str, oldest: Timestamp) -> Written<Option<OauthState>>;
    /// The client registered for this issuer and redirect URI.
    async fn client(&self, issuer: &str, redirect_uri: &str) -> Written<Option<OauthClient>>;
    /// Every registered client.
    async fn clients(&self) -> Written<Vec<OauthClient>>;
    /// Puts the same credential under another key, when the version is still the expected one.
    async fn reseal(
        &self,
        id: &ConnectionId,
        expected: i64,
        token: String,
        key_fingerprint: String,
    ) -> Written<bool>;
    /// Stores a registered client.
    async fn put_client(&self, client: OauthClient) -> Written<()>;
}
