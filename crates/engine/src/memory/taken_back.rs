//! What a person forgets or corrects does not come back by itself: turns that said it, and that nobody has learned from
//! yet, teach nothing; nor does a turn under way that had it before it.
//!
//! A turn is learned from minutes or hours after it ended, and a model may put what was said there in other words. So
//! nothing that is learned is compared with what was forgotten, of which nothing may be kept; the turn itself is passed
//! over, with whatever else it said. What was written down in it before stays.
//!
//! The invariant: no trajectory is pending, now or when a turn that is under way ends, that the memory came from, or in
//! which it stands.

use super::{find, write};
use ::memory::likeness::words_found;
use brain::Tx;
use brain::memory::lineage::{self, Parent};
use brain::memory::{MemoryId, edges, episodes, knowledge, nodes, search, trajectories};
use brain::messages::{self, Message};
use brain::turns;
use contract::conversation::Block;
use contract::memory::{ParentKind, Store};
use contract::{Timestamp, TurnId};

/// Part of the words of a memory that a message must hold to say it. Higher lets it come back in other words; lower passes
/// over turns that were about something else.
const SAID_SHARE: f64 = 0.5;
/// Turns nobody has learned from that are looked at, the oldest first. More holds up other writers; fewer lets a memory
/// come back from a turn that has waited behind so many others.
const TURNS: u32 = 1000;

/// Part of the words of a forgotten memory that another must hold to be named as one that says it still. Higher misses what
/// was said in other forms ("I drink tea" of "the user drinks tea" holds two of three); lower names what is about
/// something else.
const STILL_SAID_SHARE: f64 = 0.6;
/// Memories of a store that are looked at for it, the nearest by words first. More makes a deletion read more; fewer misses
/// some of what was said often.
const STILL_SAID_IN: usize = 20;

/// A memory as it was before somebody took it back.
pub(super) struct TakenBack {
    id: MemoryId,
    /// Every text of it.
    whole: String,
    /// What a message says that says it.
    says: String,
    parents: Vec<Parent>,
}

impl TakenBack {
    /// To be asked before the change; `None` when there is no such memory.
    pub(super) fn before(tx: &Tx<'_>, id: &MemoryId) -> brain::Result<Option<Self>> {
        let texts = texts_of(tx, id)?;
        let parents = lineage::parents(tx, id)?;
        Ok(texts.map(|(whole, says)| Self { id: id.clone(), whole, says, parents }))
    }

    /// Whether the memory says something else now, or nothing any more.
    pub(super) fn is_changed(&self, tx: &Tx<'_>, id: &MemoryId) -> brain::Result<bool> {
        Ok(texts_of(tx, id)?.is_none_or(|(whole, _)| whole != self.whole))
    }

    /// Nobody learns from the turns that said it.
    pub(super) fn end_pending(&self, tx: &Tx<'_>, now: Timestamp) -> brain::Result<()> {
        for waiting in trajectories::waiting(tx, TURNS)? {
            if self.is_of(tx, &waiting.turn_id)? {
                trajectories::processed(tx, &waiting.turn_id, now)?;
            }
        }
        for under_way in turns::open(tx)? {
            let id = &under_way.turn_id;
            // what a model that was shown it has said of it is in no message yet
            if turns::recalled(tx, id)?.contains(&self.id) || self.is_of(tx, id)? {
                trajectories::pass_over(tx, &under_way, now)?;
            }
        }
        Ok(())
    }

    /// The memories that say it still: an episode of the turn it was said in, for one. They are memories of their own, and
    /// stay until they are forgotten, too.
    pub(super) fn still_said_in(&self, tx: &Tx<'_>) -> brain::Result<Vec<MemoryId>> {
        let mut found = Vec::new();
        for store in Store::ALL.iter().copied() {
            let rows: Vec<i64> = find::by_words(tx, store, &self.says, STILL_SAID_IN)?
                .into_iter()
                .map(|(row, _)| row)
                .collect();
            let mut texts = search::texts(tx, store, &rows)?;
            texts.retain(|text| words_found(&self.says, &text.item) >= STILL_SAID_SHARE);
            let rows: Vec<i64> = texts.into_iter().map(|text| text.row).collect();
            found.extend(search::ids(tx, store, &rows)?.into_iter().map(|row| row.item));
        }
        Ok(found)
    }

    fn is_of(&self, tx: &Tx<'_>, turn: &TurnId) -> brain::Result<bool> {
        let came_from =
            |kind, id: &str| self.parents.iter().any(|parent| parent.kind == kind && parent.id == id);
        if came_from(ParentKind::Trajectory, turn.as_str()) {
            return Ok(true);
        }
        let said = said_in(tx, turn)?;
        Ok(said.iter().any(|message| {
            came_from(ParentKind::Message, message.message_id.as_str())
                || words_found(&self.says, &words_of(&message.content)) >= SAID_SHARE
        }))
    }
}

/// Everything a memory says, and what of it a message would say.
fn texts_of(tx: &Tx<'_>, id: &MemoryId) -> brain::Result<Option<(String, String)>> {
    Ok(match id {
        MemoryId::Episode(id) => episodes::get(tx, id)?.map(|row| {
            let text = write::compared(&row.item.description, row.item.value.as_deref());
            (format!("{}\n{text}", row.item.key), text)
        }),
        MemoryId::Fact(id) => knowledge::get(tx, id)?
            .map(|row| (format!("{}\n{}", row.item.subject, row.item.content), row.item.content)),
        MemoryId::Node(id) => nodes::get(tx, id)?.map(|row| {
            let node = row.item;
            let attributes = serde_json::Value::Object(node.attributes).to_string();
            (format!("{}\n{}\n{attributes}", node.name, node.aliases.join("\n")), node.name)
        }),
        MemoryId::Edge(id) => match edges::get(tx, id)? {
            Some(row) => {
                let name =
                    |id| Ok::<_, brain::Error>(nodes::get(tx, id)?.map(|n| n.item.name).unwrap_or_default());
                let relation = row.item.relation.replace('_', " ");
                let text = format!("{} {relation} {}", name(&row.item.from)?, name(&row.item.to)?);
                Some((text.clone(), text))
            }
            None => None,
        },
    })
}

/// The messages of a turn and the one that began it, which of a retry belongs to the turn before.
fn said_in(tx: &Tx<'_>, turn: &TurnId) -> brain::Result<Vec<Message>> {
    let mut said = messages::of_turn(tx, turn)?;
    if let Some(turn) = turns::get(tx, turn)?
        && !said.iter().any(|message| message.message_id == turn.user_message_id)
    {
        said.extend(messages::get(tx, &turn.task_id, &turn.user_message_id)?);
    }
    Ok(said)
}

/// All words of a message: what was said, what tools were asked and what they answered.
fn words_of(content: &[Block]) -> String {
    let words = content.iter().map(|block| match block {
        Block::Text { text } | Block::Thinking { text, .. } => text.clone(),
        Block::ToolUse { input, .. } => input.to_string(),
        Block::ToolResult { content, .. } => words_of(content),
        _ => String::new(),
    });
    words.collect::<Vec<_>>().join("\n")
}
