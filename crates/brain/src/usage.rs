//! What model calls consumed.

use crate::{Result, Tx};
use contract::conversation::Usage;
use contract::event::Purpose;
use contract::{TaskId, Timestamp, TurnId};
use rusqlite::params;

/// One model call.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// The turn it served; none for a call of POST /rpc.
    pub turn_id: Option<TurnId>,
    /// The task it served.
    pub task_id: Option<TaskId>,
    /// The word of LLM_PROVIDER.
    pub provider: String,
    /// The model that answered.
    pub model: String,
    /// What it was for.
    pub purpose: Purpose,
    /// Tokens.
    pub usage: Usage,
    /// True when the provider sent no counts.
    pub estimated: bool,
    /// How long it ran.
    pub duration_ms: u64,
    /// Now.
    pub at: Timestamp,
}

/// Records one model call.
pub fn record(tx: &Tx<'_>, call: &Call) -> Result<()> {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    tx.conn()
        .prepare_cached(
            "INSERT INTO usage_log (turn_id, task_id, provider, model, purpose, input_tokens, output_tokens,
                                    cache_hit_tokens, estimated, duration_ms, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute(params![
            call.turn_id.as_ref().map(TurnId::as_str),
            call.task_id.as_ref().map(TaskId::as_str),
            call.provider,
            call.model,
            call.purpose.as_str(),
            number(call.usage.input_tokens),
            number(call.usage.output_tokens),
            number(call.usage.cache_hit_tokens),
            call.estimated,
            number(call.duration_ms),
            call.at.millis(),
        ])?;
    Ok(())
}

/// Calls and tokens of one turn.
pub fn of_turn(tx: &Tx<'_>, turn: &TurnId) -> Result<(u64, Usage)> {
    Ok(tx
        .conn()
        .prepare_cached(
            "SELECT count(*), coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0),
                    coalesce(sum(cache_hit_tokens), 0) FROM usage_log WHERE turn_id = ?1",
        )?
        .query_row([turn.as_str()], |r| {
            Ok((
                r.get::<_, i64>(0)?.unsigned_abs(),
                Usage {
                    input_tokens: r.get::<_, i64>(1)?.unsigned_abs(),
                    output_tokens: r.get::<_, i64>(2)?.unsigned_abs(),
                    cache_hit_tokens: r.get::<_, i64>(3)?.unsigned_abs(),
                },
            ))
        })?)
}

/// What a usage report is grouped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupBy {
    /// UTC day.
    Day,
    /// Model name.
    Model,
    /// Task.
    Task,
    /// Purpose.
    Purpose,
}

/// One group of a usage report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The day, model, task or purpose; empty when no longer known.
    pub key: String,
    /// Model calls.
    pub calls: u64,
    /// Tokens.
    pub usage: Usage,
}

/// Calls and tokens between two instants, by group.
pub fn report(tx: &Tx<'_>, from: Timestamp, to: Timestamp, by: GroupBy) -> Result<Vec<Group>> {
    let key = match by {
        GroupBy::Day => "strftime('%Y-%m-%d', created_at / 1000, 'unixepoch')",
        GroupBy::Model => "model",
        GroupBy::Task => "coalesce(task_id, '')",
        GroupBy::Purpose => "purpose",
    };
    let sql = format!(
        "SELECT {key}, sum(calls), sum(input_tokens), sum(output_tokens), sum(cache_hit_tokens) FROM usage_log
         WHERE created_at >= ?1 AND created_at < ?2 GROUP BY 1 ORDER BY 1"
    );
    let mut statement = tx.conn().prepare_cached(&sql)?;
    let rows = statement.query_map(params![from.millis(), to.millis()], |r| {
        Ok(Group {
            key: r.get(0)?,
            calls: r.get::<_, i64>(1)?.unsigned_abs(),
            usage: Usage {
                input_tokens: r.get::<_, i64>(2)?.unsigned_abs(),
                output_tokens: r.get::<_, i64>(3)?.unsigned_abs(),
                cache_hit_tokens: r.get::<_, i64>(4)?.unsigned_abs(),
            },
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
