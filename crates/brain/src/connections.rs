//! Connections to MCP servers: the rows, their sealed credentials, and authorizations under way.
//!
//! Credentials come and go as sealed texts; this crate cannot open them. The invariant: a credential is replaced
//! only by somebody who has seen the one before, and an authorization is taken once.

pub mod servers;

use crate::{Error, Result, Tx};
use contract::{ConnectionId, Timestamp};
use rusqlite::{OptionalExtension, Row, params};

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

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealed").field("key_fingerprint", &self.key_fingerprint).finish_non_exhaustive()
    }
}

/// One connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Its id.
    pub ref_id: ConnectionId,
    /// Its server; a row of `server_registry`.
    pub server_name: String,
    /// First part of its tools' names.
    pub alias: String,
    /// none, static, oauth.
    pub auth_method: String,
    /// pending_oauth, connected, expired, error.
    pub status: String,
    /// Its credential.
    pub credential: Option<Sealed>,
    /// Grows with every new credential.
    pub credential_version: i64,
    /// Scopes to ask for at the next connect.
    pub wanted_scopes: Vec<String>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
}

const COLUMNS: &str = "ref_id, server_name, alias, auth_method, status, credentials, key_fingerprint, \
     credential_version, scopes, wanted_scopes, expires_at, refresh_at, last_error, created_at";

fn read(row: &Row<'_>) -> Result<Connection> {
    let id: String = row.get(0)?;
    let token: Option<String> = row.get(5)?;
    let fingerprint: Option<String> = row.get(6)?;
    let scopes = list("connections.scopes", &row.get::<_, String>(8)?)?;
    let instant = |index| -> Result<Option<Timestamp>> {
        Ok(row.get::<_, Option<i64>>(index)?.map(Timestamp::from_millis))
    };
    let (expires_at, refresh_at) = (instant(10)?, instant(11)?);
    let credential = token.map(|token| Sealed {
        token,
        key_fingerprint: fingerprint.unwrap_or_default(),
        scopes,
        expires_at,
        refresh_at,
    });
    Ok(Connection {
        ref_id: ConnectionId::parse(&id).map_err(|_| Error::bad_data("connections.ref_id", &id))?,
        server_name: row.get(1)?,
        alias: row.get(2)?,
        auth_method: row.get(3)?,
        status: row.get(4)?,
        credential,
        credential_version: row.get(7)?,
        wanted_scopes: list("connections.wanted_scopes", &row.get::<_, String>(9)?)?,
        last_error: row.get(12)?,
        created_at: Timestamp::from_millis(row.get(13)?),
    })
}

fn list(place: &'static str, text: &str) -> Result<Vec<String>> {
    serde_json::from_str(text).map_err(|_| Error::bad_data(place, text))
}

fn listed(items: &[String]) -> String {
    serde_json::Value::from(items).to_string()
}

/// Every connection, oldest first.
pub fn all(tx: &Tx<'_>) -> Result<Vec<Connection>> {
    let sql = format!("SELECT {COLUMNS} FROM connections ORDER BY created_at, ref_id");
    let mut statement = tx.conn().prepare_cached(&sql)?;
    let mut rows = statement.query([])?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(read(row)?);
    }
    Ok(out)
}

/// One connection.
pub fn get(tx: &Tx<'_>, id: &ConnectionId) -> Result<Option<Connection>> {
    let sql = format!("SELECT {COLUMNS} FROM connections WHERE ref_id = ?1");
    let mut statement = tx.conn().prepare_cached(&sql)?;
    let mut rows = statement.query([id.as_str()])?;
    rows.next()?.map(read).transpose()
}

/// Adds a connection in place of others.
pub fn add(tx: &Tx<'_>, new: &Connection, replaces: &[ConnectionId], now: Timestamp) -> Result<()> {
    for old in replaces {
        remove(tx, old)?;
    }
    let sealed = new.credential.as_ref();
    tx.conn()
        .prepare_cached(
            "INSERT INTO connections (ref_id, server_name, alias, config_json, auth_method, status, credentials,
               key_fingerprint, credential_version, scopes, wanted_scopes, expires_at, refresh_at, last_error,
               created_at, updated_at)
             VALUES (?1, ?2, ?3, '{}', ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
        )?
        .execute(params![
            new.ref_id.as_str(),
            new.server_name,
            new.alias,
            new.auth_method,
            new.status,
            sealed.map(|s| &s.token),
            sealed.map(|s| &s.key_fingerprint),
            new.credential_version,
            listed(sealed.map_or(&[], |s| &s.scopes)),
            listed(&new.wanted_scopes),
            sealed.and_then(|s| s.expires_at).map(Timestamp::millis),
            sealed.and_then(|s| s.refresh_at).map(Timestamp::millis),
            new.last_error,
            new.created_at.millis(),
            now.millis(),
        ])?;
    Ok(())
}

/// Sets the status; false when there is no such connection.
pub fn set_status(
    tx: &Tx<'_>,
    id: &ConnectionId,
    status: &str,
    error: Option<&str>,
    now: Timestamp,
) -> Result<bool> {
    let changed = tx
        .conn()
        .prepare_cached(
            "UPDATE connections SET status = ?2, last_error = ?3, updated_at = ?4 WHERE ref_id = ?1",
        )?
        .execute(params![id.as_str(), status, error, now.millis()])?;
    Ok(changed == 1)
}

/// Stores a new credential and marks the connection as connected, when the version is still `expected`.
pub fn put_credential(
    tx: &Tx<'_>,
    id: &ConnectionId,
    expected: i64,
    sealed: &Sealed,
    now: Timestamp,
) -> Result<bool> {
    let changed = tx
        .conn()
        .prepare_cached(
            "UPDATE connections SET credentials = ?3, key_fingerprint = ?4, scopes = ?5, expires_at = ?6,
               refresh_at = ?7, credential_version = credential_version + 1, status = 'connected',
               wanted_scopes = '[]', last_error = NULL, updated_at = ?8
             WHERE ref_id = ?1 AND credential_version = ?2",
        )?
        .execute(params![
            id.as_str(),
            expected,
            sealed.token,
            sealed.key_fingerprint,
            listed(&sealed.scopes),
            sealed.expires_at.map(Timestamp::millis),
            sealed.refresh_at.map(Timestamp::millis),
            now.millis(),
        ])?;
    Ok(changed == 1)
}

/// Puts the same credential under another key, when the version is still `expected`.
pub fn reseal(
    tx: &Tx<'_>,
    id: &ConnectionId,
    expected: i64,
    token: &str,
    key_fingerprint: &str,
    now: Timestamp,
) -> Result<bool> {
    let changed = tx
        .conn()
        .prepare_cached(
            "UPDATE connections SET credentials = ?3, key_fingerprint = ?4, updated_at = ?5
             WHERE ref_id = ?1 AND credential_version = ?2 AND credentials IS NOT NULL",
        )?
        .execute(params![id.as_str(), expected, token, key_fingerprint, now.millis()])?;
    Ok(changed == 1)
}

/// Remembers scopes for the next connect and marks the connection as expired.
pub fn want_scopes(
    tx: &Tx<'_>,
    id: &ConnectionId,
    scopes: &[String],
    error: &str,
    now: Timestamp,
) -> Result<()> {
    tx.conn()
        .prepare_cached(
            "UPDATE connections SET wanted_scopes = ?2, status = 'expired', last_error = ?3, updated_at = ?4
             WHERE ref_id = ?1",
        )?
        .execute(params![id.as_str(), listed(scopes), error, now.millis()])?;
    Ok(())
}

/// Removes a connection with its actions and authorizations; false when there was none.
pub fn remove(tx: &Tx<'_>, id: &ConnectionId) -> Result<bool> {
    Ok(tx.conn().prepare_cached("DELETE FROM connections WHERE ref_id = ?1")?.execute([id.as_str()])? == 1)
}

/// How many connections have each status.
pub fn count_by_status(tx: &Tx<'_>) -> Result<Vec<(String, i64)>> {
    let mut statement =
        tx.conn().prepare_cached("SELECT status, count(*) FROM connections GROUP BY status")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// An authorization that a person has begun.
#[derive(Clone, PartialEq, Eq)]
pub struct OauthState {
    /// SHA-256 of the state parameter.
    pub state_hash: String,
    /// Whose it is.
    pub ref_id: ConnectionId,
    /// Sealed.
    pub verifier_enc: String,
    /// Whose answer is awaited.
    pub issuer: String,
    /// Where the answer comes.
    pub redirect_uri: String,
    /// When it began.
    pub created_at: Timestamp,
}

/// Stores a begun authorization.
pub fn put_state(tx: &Tx<'_>, state: &OauthState) -> Result<()> {
    tx.conn()
        .prepare_cached(
            "INSERT INTO oauth_states (state_hash, ref_id, verifier_enc, issuer, redirect_uri, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            state.state_hash,
            state.ref_id.as_str(),
            state.verifier_enc,
            state.issuer,
            state.redirect_uri,
            state.created_at.millis(),
        ])?;
    Ok(())
}

/// Takes a begun authorization, once: when it began at or after `oldest` and nobody has taken it.
pub fn take_state(tx: &Tx<'_>, hash: &str, oldest: Timestamp, now: Timestamp) -> Result<Option<OauthState>> {
    let found = tx
        .conn()
        .prepare_cached(
            "UPDATE oauth_states SET used_at = ?3
             WHERE state_hash = ?1 AND created_at >= ?2 AND used_at IS NULL
             RETURNING ref_id, verifier_enc, issuer, redirect_uri, created_at",
        )?
        .query_row(params![hash, oldest.millis(), now.millis()], |row| {
            let texts: (String, String, String, String) =
                (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
            Ok((texts, row.get::<_, i64>(4)?))
        })
        .optional()?;
    let Some(((id, verifier_enc, issuer, redirect_uri), created_at)) = found else { return Ok(None) };
    Ok(Some(OauthState {
        state_hash: hash.to_owned(),
        ref_id: ConnectionId::parse(&id).map_err(|_| Error::bad_data("oauth_states.ref_id", &id))?,
        verifier_enc,
        issuer,
        redirect_uri,
        created_at: Timestamp::from_millis(created_at),
    }))
}

/// Removes authorizations that began before `oldest`; how many there were.
pub fn forget_states(tx: &Tx<'_>, oldest: Timestamp) -> Result<usize> {
    Ok(tx
        .conn()
        .prepare_cached("DELETE FROM oauth_states WHERE created_at < ?1")?
        .execute([oldest.millis()])?)
}

/// A client registered at an authorization server.
#[derive(Clone, PartialEq, Eq)]
pub struct OauthClient {
    /// The authorization server.
    pub issuer: String,
    /// The redirect URI it was registered with.
    pub redirect_uri: String,
    /// Its id.
    pub client_id: String,
    /// Sealed.
    pub client_secret_enc: Option<String>,
    /// What the server said about it.
    pub metadata: serde_json::Value,
}

/// Registered clients: the one of an issuer and redirect URI, or all.
pub fn clients(tx: &Tx<'_>, of: Option<(&str, &str)>) -> Result<Vec<OauthClient>> {
    let mut statement = tx.conn().prepare_cached(
        "SELECT issuer, redirect_uri, client_id, client_secret_enc, metadata_json FROM oauth_clients
         WHERE ?1 IS NULL OR (issuer = ?1 AND redirect_uri = ?2)",
    )?;
    let mut rows = statement.query(params![of.map(|pair| pair.0), of.map(|pair| pair.1)])?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        let metadata: String = row.get(4)?;
        out.push(OauthClient {
            issuer: row.get(0)?,
            redirect_uri: row.get(1)?,
            client_id: row.get(2)?,
            client_secret_enc: row.get(3)?,
            metadata: serde_json::from_str(&metadata)
                .map_err(|_| Error::bad_data("oauth_clients.metadata_json", &metadata))?,
        });
    }
    Ok(out)
}

/// Stores a registered client in place of the one before.
pub fn put_client(tx: &Tx<'_>, client: &OauthClient, now: Timestamp) -> Result<()> {
    tx.conn()
        .prepare_cached(
            "INSERT INTO oauth_clients (issuer, redirect_uri, client_id, client_secret_enc, metadata_json, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (issuer, redirect_uri) DO UPDATE SET client_id = excluded.client_id,
               client_secret_enc = excluded.client_secret_enc, metadata_json = excluded.metadata_json",
        )?
        .execute(params![
            client.issuer,
            client.redirect_uri,
            client.client_id,
            client.client_secret_enc,
            client.metadata.to_string(),
            now.millis(),
        ])?;
    Ok(())
}
