//! The documents of a call's own task, for the tool that reads them.
//!
//! The invariant: a name that another task's document has finds nothing.

use crate::core::Core;
use crate::tools::tool::{Documents, Failure, WantedPieces};
use crate::turn::accept::storage;
use ::memory::query;
use brain::Tx;
use brain::memory::chunks::{self, Chunk};
use contract::{TaskId, ToolReason};
use futures::future::BoxFuture;
use std::sync::Arc;

/// Documents for the calls of one task.
pub(super) struct OfTask {
    core: Arc<Core>,
    task: TaskId,
}

impl OfTask {
    pub fn new(core: &Arc<Core>, task: &TaskId) -> Self {
        Self { core: Arc::clone(core), task: task.clone() }
    }
}

impl Documents for OfTask {
    fn pieces(&self, wanted: WantedPieces) -> BoxFuture<'_, Result<Vec<(i64, String)>, Failure>> {
        let task = self.task.clone();
        Box::pin(async move {
            let read = self.core.brain.read("read document", move |tx| find(tx, &task, &wanted)).await;
            read.map_err(|e| Failure::new(ToolReason::Failed, storage(&e).message))?
        })
    }
}

fn find(
    tx: &Tx<'_>,
    task: &TaskId,
    wanted: &WantedPieces,
) -> brain::Result<Result<Vec<(i64, String)>, Failure>> {
    let names = match chunks::of_document(tx, task, &wanted.media, -1, 1)?.is_empty() {
        true => chunks::documents_of(tx, task, &wanted.media)?,
        false => vec![wanted.media.clone()],
    };
    let name = match names.as_slice() {
        [name] => name,
        [] => {
            let text =
                format!("there is no document `{}` in this conversation that was set aside", wanted.media);
            return Ok(Err(Failure::new(ToolReason::NotFound, text)));
        }
        several => {
            let text = format!("the message has several documents; name one of them: {}", several.join(", "));
            return Ok(Err(Failure::new(ToolReason::InvalidInput, text)));
        }
    };
    let found = match &wanted.query {
        None => chunks::of_document(tx, task, name, i64::from(wanted.offset) - 1, wanted.limit)?,
        Some(query) => match query::match_expression(&query::terms(query)) {
            Some(expression) => {
                chunks::matching_in(tx, task, name, &expression, wanted.offset, wanted.limit)?
            }
            None => Vec::new(),
        },
    };
    Ok(Ok(found.into_iter().map(|Chunk { position, text, .. }| (position, text)).collect()))
}
