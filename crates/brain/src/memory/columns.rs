//! The columns of a memory's row with what is written into them: named once, for the statement that makes a row and
//! for the one that replaces it.
//!
//! It refuses to know any table. The invariant: one table's columns come in one order, so that its two statements are
//! prepared once.

use super::Provenance;
use crate::{Result, Tx};
use rusqlite::{ToSql, params_from_iter};

/// Columns and values, in order; the first is the public id, which is never replaced.
pub(crate) struct Columns<'v>(Vec<(&'static str, Box<dyn ToSql + 'v>)>);

impl<'v> Columns<'v> {
    /// The id of a memory and where it comes from.
    pub(crate) fn of(key: &'static str, id: &'v str, provenance: &'v Provenance) -> Self {
        Self(Vec::new())
            .and(key, id)
            .and("confidence", provenance.confidence)
            .and("trust", provenance.trust.as_str())
            .and("source", &provenance.source)
            .and("rationale", &provenance.rationale)
            .and("last_confirmed_at", provenance.last_confirmed_at.millis())
            .and("created_at", provenance.created_at.millis())
            .and("updated_at", provenance.updated_at.millis())
    }

    /// One more.
    pub(crate) fn and(mut self, name: &'static str, value: impl ToSql + 'v) -> Self {
        self.0.push((name, Box::new(value)));
        self
    }

    /// Makes a row and returns its number.
    pub(crate) fn insert(self, tx: &Tx<'_>, table: &str) -> Result<i64> {
        let names: Vec<&str> = self.0.iter().map(|(name, _)| *name).collect();
        let places = vec!["?"; names.len()].join(", ");
        self.execute(tx, &format!("INSERT INTO {table} ({}) VALUES ({places})", names.join(", ")))?;
        Ok(tx.conn().last_insert_rowid())
    }

    /// Writes the columns of the row with this id; returns how many rows there were.
    pub(crate) fn replace(self, tx: &Tx<'_>, table: &str) -> Result<usize> {
        // counted from 1, so that the id, which comes first, has the same number in every statement
        let mut places = self.0.iter().zip(1..).map(|((name, _), number)| format!("{name} = ?{number}"));
        let id = places.next().unwrap_or_default();
        let sets: Vec<String> = places.collect();
        self.execute(tx, &format!("UPDATE {table} SET {} WHERE {id}", sets.join(", ")))
    }

    fn execute(&self, tx: &Tx<'_>, sql: &str) -> Result<usize> {
        let values = params_from_iter(self.0.iter().map(|(_, value)| value));
        Ok(tx.conn().prepare_cached(sql)?.execute(values)?)
    }
}
