//! What a person forgets or corrects does not come back by itself: turns and feedback that said it, and that nobody has
//! learned from yet, teach nothing; nor does a turn under way that had it before it.
//!
//! A turn is learned from minutes or hours after it ended, and a model may put what was said there in other words. So
//! nothing that is learned is compared with what was forgotten, of which nothing may be kept; the turn itself is passed
//! over, with whatever else it said. What was written down in it before stays. The turns that a memory came from are
//! passed over whatever they say, and marked: feedback that comes later does not have them read again.
//!
//! The texts of the turns are read before the write that takes the memory back, which holds up other writers; in the
//! write only those are read that came since.
//!
//! The invariant: no trajectory is pending, now or when a turn that is under way ends, that the memory came from, nor one of
//! the oldest [`TURNS`] in which it stands.

use super::{find, write};
use crate::turn::compact::brief;
use ::memory::statement::{Statement, Words};
use brain::memory::lineage::{self, Parent};
use brain::memory::{MemoryId, edges, episodes, knowledge, nodes, search, signals, trajectories};
use brain::messages::{self, Message};
use brain::{Brain, Tx, turns};
use contract::conversation::Block;
use contract::memory::{ParentKind, Store};
use contract::{MessageId, SignalId, Timestamp, TurnId};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap};

/// Turns nobody has learned from whose words are looked at, the oldest first. More makes a deletion take longer; fewer lets
/// a memory come back from a turn that it did not come from and that has waited behind so many others.
const TURNS: u32 = 5_000;
/// Turns of one reading. More keeps a snapshot of the brain open for longer, which the log grows by; fewer asks more often.
const TURNS_AT_ONCE: usize = 50;
/// Pieces of feedback nobody has learned from whose words are looked at. More holds up other writers; fewer lets a memory
/// come back from feedback that waited behind so many others.
const SIGNALS: u32 = 1_000;
/// Part of the words of a forgotten memory that another must hold to be named as one that says it still. Higher misses what
/// was said in other forms; lower names what is about something else.
const STILL_SAID_SHARE: f64 = 0.6;
/// Memories of a store that are looked at for it, the nearest by words first. More makes a deletion read more; fewer misses
/// some of what was said often.
const STILL_SAID_IN: usize = 20;

/// Something a memory says, which can be taken back by itself: who says it says every part of it. A value of a person says
/// nothing without the person, nor does one end of a relation without the other.
type Saying = Vec<String>;

/// A memory as it was before somebody took it back.
pub(super) struct TakenBack {
    id: MemoryId,
    /// Every text of it.
    whole: String,
    says: Vec<Saying>,
    parents: Vec<Parent>,
}

/// What of a memory the turns say that wait to be learned from.
#[derive(Default)]
pub(super) struct Heard {
    /// What was listened for.
    says: Vec<Saying>,
    by_turn: HashMap<TurnId, BTreeSet<Saying>>,
    /// The last trajectory there was.
    last_row: i64,
}

impl Heard {
    /// Listens to what waits, a few turns at a time.
    pub(super) async fn of(brain: &Brain, id: &MemoryId) -> brain::Result<Self> {
        let wanted = id.clone();
        let (says, last_row, waiting) = brain
            .read("memory.waiting", move |tx| {
                let waiting: Vec<TurnId> =
                    trajectories::waiting(tx, TURNS)?.into_iter().map(|one| one.turn_id).collect();
                let says = texts_of(tx, &wanted)?.map(|(_, says)| says).unwrap_or_default();
                Ok((says, trajectories::last_row(tx)?, waiting))
            })
            .await?;
        let mut heard = Self { says: says.clone(), by_turn: HashMap::new(), last_row };
        for some in waiting.chunks(TURNS_AT_ONCE) {
            let (some, says) = (some.to_vec(), says.clone());
            let found = brain
                .read("memory.heard", move |tx| {
                    some.into_iter()
                        .map(|turn| Ok((said_of(tx, &turn, &says)?, turn)))
                        .collect::<brain::Result<Vec<_>>>()
                })
                .await?;
            heard.by_turn.extend(found.into_iter().map(|(said, turn)| (turn, said)));
        }
        Ok(heard)
    }
}

impl TakenBack {
    /// To be asked before the change; `None` when there is no such memory.
    pub(super) fn before(tx: &Tx<'_>, id: &MemoryId) -> brain::Result<Option<Self>> {
        let parents = lineage::parents(tx, id)?;
        Ok(texts_of(tx, id)?.map(|(whole, says)| Self { id: id.clone(), whole, says, parents }))
    }

    /// What an edit has taken back of it; `None` when it says what it said, or more. What an edit takes from a person or
    /// thing is that alone: the turns it is known from may have said much else.
    pub(super) fn after(mut self, tx: &Tx<'_>) -> brain::Result<Option<Self>> {
        let Some((whole, says)) = texts_of(tx, &self.id)? else { return Ok(Some(self)) };
        if whole == self.whole {
            return Ok(None);
        }
        self.says.retain(|saying| !says.contains(saying));
        if matches!(self.id, MemoryId::Node(_)) {
            self.parents.clear();
        }
        Ok(Some(self).filter(|taken_back| !taken_back.says.is_empty()))
    }

    /// Nobody learns from the turns and the feedback that said it: how many turns that waited are passed over.
    pub(super) fn end_pending(&self, tx: &Tx<'_>, heard: &Heard, now: Timestamp) -> brain::Result<u64> {
        let mut ended = 0;
        let mut end = |turn: &TurnId| {
            ended += u64::from(trajectories::take_back(tx, turn, now)?);
            Ok::<_, brain::Error>(())
        };
        for parent in &self.parents {
            if let Some(turn) = turn_of(tx, parent)? {
                end(&turn)?;
            }
            if parent.kind == ParentKind::Signal
                && let Ok(id) = SignalId::parse(&parent.id)
            {
                signals::processed(tx, &id, now)?;
            }
        }
        for (turn, said) in &heard.by_turn {
            if said.iter().any(|saying| self.says.contains(saying)) {
                end(turn)?;
            }
        }
        // somebody else may have changed the memory since it was listened for
        let is_same = self.says.iter().all(|saying| heard.says.contains(saying));
        let since = if is_same { heard.last_row } else { 0 };
        for turn in trajectories::written_since(tx, since, TURNS)? {
            if !said_of(tx, &turn, &self.says)?.is_empty() {
                end(&turn)?;
            }
        }
        for under_way in turns::open(tx)? {
            let id = &under_way.turn_id;
            // what a model that was shown it has said of it is in no message yet
            if turns::recalled(tx, id)?.contains(&self.id) || !said_of(tx, id, &self.says)?.is_empty() {
                trajectories::pass_over(tx, &under_way, now)?;
            }
        }
        for signal in signals::unprocessed(tx, SIGNALS)? {
            let mut words = Words::default();
            signal.comment.iter().chain(&signal.corrected).for_each(|text| words.read(text));
            if self.says.iter().any(|saying| is_said_in(saying, &words)) {
                signals::processed(tx, &signal.signal_id, now)?;
            }
        }
        Ok(ended)
    }

    /// The memories that say it still: an episode of the turn it was said in, for one. They are memories of their own, and
    /// stay until they are forgotten, too.
    pub(super) fn still_said_in(&self, tx: &Tx<'_>) -> brain::Result<Vec<MemoryId>> {
        let says = self.says.first().map(|saying| saying.join(" ")).unwrap_or_default();
        let statement = Statement::of(&says);
        let mut found = Vec::new();
        for store in Store::ALL.iter().copied() {
            let rows: Vec<i64> =
                find::by_words(tx, store, &says, STILL_SAID_IN)?.into_iter().map(|(row, _)| row).collect();
            let mut texts = search::texts(tx, store, &rows)?;
            texts.retain(|text| {
                let mut words = Words::default();
                words.read(&text.item);
                statement.share_in(&words) >= STILL_SAID_SHARE
            });
            let rows: Vec<i64> = texts.into_iter().map(|text| text.row).collect();
            found.extend(search::ids(tx, store, &rows)?.into_iter().map(|row| row.item));
        }
        Ok(found)
    }
}

/// The turn a memory came from.
fn turn_of(tx: &Tx<'_>, parent: &Parent) -> brain::Result<Option<TurnId>> {
    Ok(match parent.kind {
        ParentKind::Trajectory => TurnId::parse(&parent.id).ok(),
        ParentKind::Message => match MessageId::parse(&parent.id) {
            Ok(id) => messages::find(tx, &id)?.map(|(_, message)| message.turn_id),
            Err(_) => None,
        },
        ParentKind::Memory | ParentKind::Signal | ParentKind::Import => None,
    })
}

/// Everything a memory says, and what a message would say of it.
fn texts_of(tx: &Tx<'_>, id: &MemoryId) -> brain::Result<Option<(String, Vec<Saying>)>> {
    Ok(match id {
        MemoryId::Episode(id) => episodes::get(tx, id)?.map(|row| {
            let text = write::compared(&row.item.description, row.item.value.as_deref());
            (format!("{}\n{text}", row.item.key), vec![vec![text]])
        }),
        MemoryId::Fact(id) => knowledge::get(tx, id)?
            .map(|row| (format!("{}\n{}", row.item.subject, row.item.content), vec![vec![row.item.content]])),
        MemoryId::Node(id) => nodes::get(tx, id)?.map(|row| {
            let node = row.item;
            let names = std::iter::once(node.name.clone()).chain(node.aliases).map(|name| vec![name]);
            let values = node.attributes.iter().map(|(_, value)| match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            });
            let says: Vec<Saying> = names.chain(values.map(|value| vec![node.name.clone(), value])).collect();
            (says.concat().join("\n"), says)
        }),
        MemoryId::Edge(id) => match edges::get(tx, id)? {
            Some(row) => {
                let name =
                    |id| Ok::<_, brain::Error>(nodes::get(tx, id)?.map(|n| n.item.name).unwrap_or_default());
                let (from, to) = (name(&row.item.from)?, name(&row.item.to)?);
                Some((format!("{from} {} {to}", row.item.relation), vec![vec![from, to]]))
            }
            None => None,
        },
    })
}

/// Which of these a turn says, in one message.
fn said_of(tx: &Tx<'_>, turn: &TurnId, says: &[Saying]) -> brain::Result<BTreeSet<Saying>> {
    if says.is_empty() {
        return Ok(BTreeSet::new());
    }
    let mut by_message = Vec::new();
    for message in said_in(tx, turn)? {
        let mut words = Words::default();
        read_words(&message.content, &mut words);
        by_message.push(words);
    }
    let is_said = |saying: &&Saying| by_message.iter().any(|words| is_said_in(saying, words));
    Ok(says.iter().filter(is_said).cloned().collect())
}

fn is_said_in(saying: &[String], words: &Words) -> bool {
    saying.iter().all(|part| Statement::of(part).is_said_in(words))
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

/// All words of a message, as far as the Learning Centre reads it: what was said, what tools were asked and what they
/// answered.
fn read_words(content: &[Block], words: &mut Words) {
    for block in content {
        match brief(block) {
            Block::Text { text } | Block::Thinking { text, .. } => words.read(&text),
            Block::ToolUse { input, .. } => read_values(&input, words),
            Block::ToolResult { content, .. } => read_words(&content, words),
            _ => {}
        }
    }
}

fn read_values(value: &Value, words: &mut Words) {
    match value {
        Value::String(text) => words.read(text),
        Value::Array(items) => items.iter().for_each(|item| read_values(item, words)),
        Value::Object(fields) => fields.iter().for_each(|(name, field)| {
            words.read(name);
            read_values(field, words);
        }),
        Value::Number(number) => words.read(&number.to_string()),
        Value::Null | Value::Bool(_) => {}
    }
}
