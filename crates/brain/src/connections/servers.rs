//! What is known about MCP servers, and the tools that were approved.

use crate::{Error, Result, Tx};
use contract::{ConnectionId, Timestamp};
use rusqlite::params;
use serde_json::Value;

/// One server.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Its name.
    pub server_name: String,
    /// Its entry as it was given.
    pub entry: Value,
    /// catalog or adhoc.
    pub source: String,
    /// How it was last spoken to.
    pub era: Option<String>,
    /// The revision agreed on.
    pub protocol_version: Option<String>,
    /// What it says it is.
    pub server_info: Option<Value>,
}

fn json(place: &'static str, text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|_| Error::bad_data(place, text))
}

/// Every known server, by name.
pub fn all(tx: &Tx<'_>) -> Result<Vec<Server>> {
    let mut statement = tx.conn().prepare_cached(
        "SELECT server_name, entry_json, source, era, protocol_version, server_info FROM server_registry
         ORDER BY server_name",
    )?;
    let mut rows = statement.query([])?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        let info: Option<String> = row.get(5)?;
        out.push(Server {
            server_name: row.get(0)?,
            entry: json("server_registry.entry_json", &row.get::<_, String>(1)?)?,
            source: row.get(2)?,
            era: row.get(3)?,
            protocol_version: row.get(4)?,
            server_info: info.map(|info| json("server_registry.server_info", &info)).transpose()?,
        });
    }
    Ok(out)
}

/// Stores a server's entry; what was agreed with it is kept while the entry is the same.
pub fn put(tx: &Tx<'_>, name: &str, entry: &Value, source: &str) -> Result<()> {
    tx.conn()
        .prepare_cached(
            "INSERT INTO server_registry (server_name, entry_json, source) VALUES (?1, ?2, ?3)
             ON CONFLICT (server_name) DO UPDATE SET
               era = CASE WHEN entry_json = excluded.entry_json THEN era END,
               protocol_version = CASE WHEN entry_json = excluded.entry_json THEN protocol_version END,
               entry_json = excluded.entry_json, source = excluded.source",
        )?
        .execute(params![name, entry.to_string(), source])?;
    Ok(())
}

/// Stores what was agreed with a server.
pub fn put_era(
    tx: &Tx<'_>,
    name: &str,
    era: Option<&str>,
    version: Option<&str>,
    info: Option<&Value>,
    now: Timestamp,
) -> Result<()> {
    tx.conn()
        .prepare_cached(
            "UPDATE server_registry SET era = ?2, protocol_version = ?3, server_info = ?4, probed_at = ?5
             WHERE server_name = ?1",
        )?
        .execute(params![name, era, version, info.map(Value::to_string), now.millis()])?;
    Ok(())
}

/// One tool of one connection.
#[derive(Debug, Clone, PartialEq)]
pub struct Action {
    /// The server's name for it.
    pub action: String,
    /// The name models know.
    pub name: String,
    /// Cleaned and cut.
    pub description: String,
    /// JSON Schema.
    pub input_schema: Value,
    /// The server's hints.
    pub annotations: Value,
    /// SHA-256 of the four above.
    pub hash: String,
    /// pinned, new, changed, gone.
    pub state: String,
    /// The definition that waits for approval.
    pub pending: Option<Value>,
}

/// The tools of a connection, by name.
pub fn actions(tx: &Tx<'_>, id: &ConnectionId) -> Result<Vec<Action>> {
    let mut statement = tx.conn().prepare_cached(
        "SELECT action, name, description, input_schema, annotations, hash, state, pending_json
         FROM action_registry WHERE ref_id = ?1 ORDER BY action",
    )?;
    let mut rows = statement.query([id.as_str()])?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        let pending: Option<String> = row.get(7)?;
        out.push(Action {
            action: row.get(0)?,
            name: row.get(1)?,
            description: row.get(2)?,
            input_schema: json("action_registry.input_schema", &row.get::<_, String>(3)?)?,
            annotations: json("action_registry.annotations", &row.get::<_, String>(4)?)?,
            hash: row.get(5)?,
            state: row.get(6)?,
            pending: pending.map(|text| json("action_registry.pending_json", &text)).transpose()?,
        });
    }
    Ok(out)
}

/// Replaces the tools of a connection; nothing happens when the connection is gone.
pub fn put_actions(tx: &Tx<'_>, id: &ConnectionId, actions: &[Action], now: Timestamp) -> Result<()> {
    let known = super::get(tx, id)?.is_some();
    tx.conn().prepare_cached("DELETE FROM action_registry WHERE ref_id = ?1")?.execute([id.as_str()])?;
    if !known {
        return Ok(());
    }
    let mut insert = tx.conn().prepare_cached(
        "INSERT INTO action_registry (ref_id, action, name, description, input_schema, annotations, hash, state,
           pending_json, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?;
    for action in actions {
        insert.execute(params![
            id.as_str(),
            action.action,
            action.name,
            action.description,
            action.input_schema.to_string(),
            action.annotations.to_string(),
            action.hash,
            action.state,
            action.pending.as_ref().map(Value::to_string),
            now.millis(),
        ])?;
    }
    Ok(())
}
