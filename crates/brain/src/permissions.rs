//! Remembered `always` answers, per task.

use crate::{Error, Result, Tx};
use contract::{HitlId, PermissionId, TaskId, Timestamp};
use rusqlite::{Row, params};
use serde_json::Value;

/// A remembered answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// Its id.
    pub id: PermissionId,
    /// Its task.
    pub task_id: TaskId,
    /// Tool name.
    pub tool: String,
    /// The exact rule that is allowed from now on.
    pub rule: String,
    /// The question that was answered.
    pub request_id: String,
    /// When.
    pub created_at: Timestamp,
}

fn read(row: &Row<'_>) -> Result<Remembered> {
    let id: String = row.get(0)?;
    let task: String = row.get(1)?;
    Ok(Remembered {
        id: PermissionId::parse(&id).map_err(|_| Error::bad_data("permissions.id", &id))?,
        task_id: TaskId::parse(&task).map_err(|_| Error::bad_data("permissions.task_id", &task))?,
        tool: row.get(2)?,
        rule: row.get(3)?,
        request_id: row.get(4)?,
        created_at: Timestamp::from_millis(row.get(5)?),
    })
}

/// What an `always` says.
#[derive(Debug, Clone, Copy)]
pub struct Always<'a> {
    /// Tool name.
    pub tool: &'a str,
    /// The exact rule.
    pub rule: &'a str,
    /// What the question was about; absent for questions asked before that was kept.
    pub scope: Option<&'a Value>,
    /// The question that was answered.
    pub request: &'a HitlId,
}

/// Remembers a rule for what its question was about; said again about something else, that holds from now on.
pub fn remember(tx: &Tx<'_>, task: &TaskId, always: Always<'_>, now: Timestamp) -> Result<()> {
    let Always { tool, rule, scope, request } = always;
    tx.conn()
        .prepare_cached(
            "INSERT INTO permissions (id, task_id, tool, rule, request_id, created_at, scope_json)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (task_id, rule) DO UPDATE SET scope_json = excluded.scope_json,
                                                       request_id = excluded.request_id",
        )?
        .execute(params![
            PermissionId::generate().as_str(),
            task.as_str(),
            tool,
            rule,
            request.as_str(),
            now.millis(),
            scope.map(Value::to_string),
        ])?;
    Ok(())
}

/// The rules a task has been granted for good, each with what it was granted for.
pub fn rules_of(tx: &Tx<'_>, task: &TaskId) -> Result<Vec<(String, Option<Value>)>> {
    let mut statement =
        tx.conn().prepare_cached("SELECT rule, scope_json FROM permissions WHERE task_id = ?1")?;
    let mut rows = statement.query([task.as_str()])?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        let (rule, scope): (String, Option<String>) = (row.get(0)?, row.get(1)?);
        let bad = |_| Error::bad_data("permissions.scope_json", &rule);
        let scope = scope.map(|text| serde_json::from_str(&text)).transpose().map_err(bad)?;
        out.push((rule, scope));
    }
    Ok(out)
}

/// Remembered answers, oldest first, after the id `after`.
pub fn list(tx: &Tx<'_>, task: Option<&TaskId>, after: Option<&str>, limit: u32) -> Result<Vec<Remembered>> {
    let mut statement = tx.conn().prepare_cached(
        "SELECT id, task_id, tool, rule, request_id, created_at FROM permissions
         WHERE (?1 IS NULL OR task_id = ?1) AND id > ?2 ORDER BY id LIMIT ?3",
    )?;
    let mut rows = statement.query(params![task.map(TaskId::as_str), after.unwrap_or(""), limit])?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(read(row)?);
    }
    Ok(out)
}

/// Forgets one; false when there was none.
pub fn revoke(tx: &Tx<'_>, id: &PermissionId) -> Result<bool> {
    Ok(tx.conn().prepare_cached("DELETE FROM permissions WHERE id = ?1")?.execute([id.as_str()])? == 1)
}
