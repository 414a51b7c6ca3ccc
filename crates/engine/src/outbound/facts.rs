//! What the permission rules ask about a call that goes out, read from the brain at the time of the call.

use super::seen::was_shown;
use brain::turns::Turn;
use brain::{Brain, messages, turns};

/// Facts about one call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    /// The turn reads what somebody else wrote: it, or an earlier turn whose messages it sees, has called a tool
    /// that [`crate::tools::tool::Tool::reads_untrusted`].
    pub untrusted: bool,
    /// The call's URL was shown to the model; false when it has none.
    pub shown: bool,
}

/// The facts for a call of this turn, with its URL when it has one.
pub async fn of_call(brain: &Brain, turn: &Turn, url: Option<&str>) -> brain::Result<Reading> {
    let (task, id, url) = (turn.task_id.clone(), turn.turn_id.clone(), url.map(str::to_owned));
    brain
        .read("facts of an outbound call", move |tx| {
            let untrusted = turns::is_tainted(tx, &task)?;
            let shown = match url {
                // asked only where it matters
                Some(url) if untrusted => {
                    let mut said = messages::active(tx, &task, None, -1)?;
                    // what a model told its sub-agent to do is a model's word, not the person's
                    said.extend(messages::of_nested(tx, &id)?);
                    was_shown(&url, said.iter().map(|m| (m.role, m.content.as_slice())))
                }
                Some(_) | None => false,
            };
            Ok(Reading { untrusted, shown })
        })
        .await
}
