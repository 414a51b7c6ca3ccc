//! Messages of a task, in positions. Superseded ones stay, but leave the context.

use crate::{Error, Result, Tx, tasks};
use contract::conversation::{Block, Role};
use contract::{CallId, MessageId, TaskId, Timestamp, TurnId};
use rusqlite::{OptionalExtension, Row, params};

/// A message to be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct NewMessage {
    /// Its id.
    pub message_id: MessageId,
    /// Its task.
    pub task_id: TaskId,
    /// The turn that stores it.
    pub turn_id: TurnId,
    /// Who speaks.
    pub role: Role,
    /// What is said; media as blob references.
    pub content: Vec<Block>,
    /// Size in tokens, estimated.
    pub token_estimate: u64,
    /// False for text that stays visible but leaves the context (a failed answer).
    pub active: bool,
    /// The agent that speaks, for assistant messages.
    pub agent: Option<String>,
    /// The call a nested loop belongs to; `None` in the main loop.
    pub parent: Option<CallId>,
    /// Now.
    pub at: Timestamp,
}

/// A stored message.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Its id.
    pub message_id: MessageId,
    /// The turn that stored it.
    pub turn_id: TurnId,
    /// Its place in the task; gaps mean nothing.
    pub position: i64,
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: Vec<Block>,
    /// Size in tokens, estimated.
    pub token_estimate: u64,
    /// False when superseded.
    pub active: bool,
    /// When it was stored.
    pub created_at: Timestamp,
}

const COLUMNS: &str = "message_id, turn_id, position, role, content_json, token_estimate, status, created_at";

fn read(row: &Row<'_>) -> Result<Message> {
    let id: String = row.get(0)?;
    let turn: String = row.get(1)?;
    let role: String = row.get(3)?;
    let content: String = row.get(4)?;
    let status: String = row.get(6)?;
    Ok(Message {
        message_id: MessageId::parse(&id).map_err(|_| Error::bad_data("conversations.message_id", &id))?,
        turn_id: TurnId::parse(&turn).map_err(|_| Error::bad_data("conversations.turn_id", &turn))?,
        position: row.get(2)?,
        role: Role::parse(&role).ok_or_else(|| Error::bad_data("conversations.role", &role))?,
        content: serde_json::from_str(&content)
            .map_err(|_| Error::bad_data("conversations.content_json", &id))?,
        token_estimate: row.get::<_, i64>(5)?.unsigned_abs(),
        active: status == "active",
        created_at: Timestamp::from_millis(row.get(7)?),
    })
}

fn collect(tx: &Tx<'_>, sql: &str, parameters: impl rusqlite::Params) -> Result<Vec<Message>> {
    let mut statement = tx.conn().prepare_cached(sql)?;
    let mut rows = statement.query(parameters)?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(read(row)?);
    }
    Ok(out)
}

/// Stores a message at the task's next position and refers to its blobs; returns the position.
pub fn append(tx: &Tx<'_>, message: &NewMessage) -> Result<i64> {
    let position = tasks::next_position(tx, &message.task_id)?;
    let content = serde_json::to_string(&message.content)
        .map_err(|e| Error::bad_data("conversations.content_json", e.to_string()))?;
    tx.conn()
        .prepare_cached(
            "INSERT INTO conversations (message_id, task_id, turn_id, position, role, content_json, token_estimate,
                                        status, agent, parent_tool_call_id, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute(params![
            message.message_id.as_str(),
            message.task_id.as_str(),
            message.turn_id.as_str(),
            position,
            message.role.as_str(),
            content,
            i64::try_from(message.token_estimate).unwrap_or(i64::MAX),
            if message.active { "active" } else { "superseded" },
            message.agent,
            message.parent.as_ref().map_or("", CallId::as_str),
            message.at.millis(),
        ])?;
    crate::blobs::refer_blocks(tx, &message.content, "conversations", message.message_id.as_str())?;
    Ok(position)
}

/// One message of a task.
pub fn get(tx: &Tx<'_>, task: &TaskId, id: &MessageId) -> Result<Option<Message>> {
    let sql = format!("SELECT {COLUMNS} FROM conversations WHERE message_id = ?1 AND task_id = ?2");
    let mut statement = tx.conn().prepare_cached(&sql)?;
    let mut rows = statement.query(params![id.as_str(), task.as_str()])?;
    rows.next()?.map(read).transpose()
}

/// A message whose task is not known, and its task.
pub fn find(tx: &Tx<'_>, id: &MessageId) -> Result<Option<(TaskId, Message)>> {
    let task: Option<String> = tx
        .conn()
        .prepare_cached("SELECT task_id FROM conversations WHERE message_id = ?1")?
        .query_row([id.as_str()], |r| r.get(0))
        .optional()?;
    let Some(task) = task else { return Ok(None) };
    let task = TaskId::parse(&task).map_err(|_| Error::bad_data("conversations.task_id", &task))?;
    Ok(get(tx, &task, id)?.map(|message| (task, message)))
}

/// The active messages that a turn stored in its main loop, oldest first.
pub fn of_turn(tx: &Tx<'_>, turn: &TurnId) -> Result<Vec<Message>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM conversations
         WHERE turn_id = ?1 AND parent_tool_call_id = '' AND status = 'active' ORDER BY position"
    );
    collect(tx, &sql, [turn.as_str()])
}

/// The active messages of a loop after `after_position`, oldest first.
pub fn active(
    tx: &Tx<'_>,
    task: &TaskId,
    parent: Option<&CallId>,
    after_position: i64,
) -> Result<Vec<Message>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM conversations
         WHERE task_id = ?1 AND parent_tool_call_id = ?2 AND position > ?3 AND status = 'active' ORDER BY position"
    );
    collect(tx, &sql, params![task.as_str(), parent.map_or("", CallId::as_str), after_position])
}

/// What the nested loops of a turn said and read, oldest first; without what they were told to do.
pub fn of_nested(tx: &Tx<'_>, turn: &TurnId) -> Result<Vec<Message>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM conversations
         WHERE turn_id = ?1 AND parent_tool_call_id <> '' AND role <> 'user' AND status = 'active' ORDER BY position"
    );
    collect(tx, &sql, [turn.as_str()])
}

/// Messages of the main loop for people, oldest first, after `after_position`.
pub fn list(
    tx: &Tx<'_>,
    task: &TaskId,
    include_superseded: bool,
    after_position: i64,
    limit: u32,
) -> Result<Vec<Message>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM conversations
         WHERE task_id = ?1 AND parent_tool_call_id = '' AND position > ?2 AND (status = 'active' OR ?3)
         ORDER BY position LIMIT ?4"
    );
    collect(tx, &sql, params![task.as_str(), after_position, include_superseded, limit])
}

/// The last message with the given role that a turn stored in its main loop.
pub fn last_of_turn(tx: &Tx<'_>, turn: &TurnId, role: Role) -> Result<Option<Message>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM conversations
         WHERE turn_id = ?1 AND role = ?2 AND parent_tool_call_id = '' AND status = 'active'
         ORDER BY position DESC LIMIT 1"
    );
    let mut statement = tx.conn().prepare_cached(&sql)?;
    let mut rows = statement.query(params![turn.as_str(), role.as_str()])?;
    rows.next()?.map(read).transpose()
}

/// Whether anybody but the person and the assistant has had a say in a task: a tool, or a picture or document.
pub fn others_heard(tx: &Tx<'_>, task: &TaskId) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM conversations WHERE task_id = ?1 AND role = 'tool')
                   OR EXISTS (SELECT 1 FROM conversations c JOIN blob_refs r
                                ON r.owner_table = 'conversations' AND r.owner_id = c.message_id
                              WHERE c.task_id = ?1)";
    Ok(tx.conn().prepare_cached(sql)?.query_row([task.as_str()], |row| row.get(0))?)
}

/// Takes messages at and after `from_position` out of the context; they stay stored.
pub fn supersede_from(tx: &Tx<'_>, task: &TaskId, from_position: i64) -> Result<u64> {
    Ok(tx
        .conn()
        .prepare_cached(
            "UPDATE conversations SET status = 'superseded'
             WHERE task_id = ?1 AND position >= ?2 AND status = 'active'",
        )?
        .execute(params![task.as_str(), from_position])? as u64)
}
