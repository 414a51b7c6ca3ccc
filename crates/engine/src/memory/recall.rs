//! Recall into a turn: which memories fit what is said now, and the block they are shown in.
//!
//! One search over all three stores with the message as the question, the rules of specification 10.5 on what comes
//! back, and the block of the crate `memory`. It asks no language model and waits no longer than its deadline: a turn
//! that remembers nothing is worth more than one that waits.
//!
//! The invariant: whatever goes wrong here, the answer is a block or none, never a failure.

use super::{Hit, Item, Memory};
use ::memory::fixed_rules::states_something;
use ::memory::period::{self, Period};
use ::memory::recall::{self, Budget, Context};
use ::memory::retrieval::RECALL_THRESHOLD;
use brain::memory::MemoryId;
use brain::memory::edges::Relation;
use brain::memory::nodes::Node;
use contract::memory::{EpisodeKind, Trust};
use contract::{Timestamp, TurnId};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

/// Time for the search beside its query embedding. Shorter leaves turns of a busy machine without memory; longer holds
/// them up for it.
const SEARCH_TIME: Duration = Duration::from_secs(2);
/// Characters of what is asked with: the words that decide are few, and a whole file pasted into a message is no better
/// question than its beginning. More makes the embedder read it all.
const QUESTION_CHARS: usize = 10_000;
/// Items looked at for each that may be recalled: some stand in the conversation already. More reads rows that nobody
/// needs; fewer recalls less than is known in a long conversation.
const CANDIDATES_PER_ITEM: usize = 4;
/// What stands over an earlier turn: its key is only the beginning of its message.
const TURN_HEADING: &str = "An earlier turn: what was asked, then what was answered";
/// What is shown in place of an answer that a page or a connector may have dictated. With the answer, every turn near
/// such a turn would count as having read it, and so on from turn to turn; the person's own message is no danger.
const ANSWER_LEFT_OUT: &str = "(The answer may hold words from elsewhere; episode_search shows it.)";

/// What is being said, and what the model sees anyway.
#[derive(Debug, Clone, Default)]
pub struct Occasion {
    /// The message, or the task of an agent.
    pub question: String,
    /// The texts of the conversation as it will be shown.
    pub seen: Vec<String>,
    /// The turns that are in it.
    pub turns: BTreeSet<TurnId>,
}

/// What is recalled into one loop of a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recalled {
    /// The block, as it is shown.
    pub text: String,
    /// What is in it.
    pub ids: Vec<MemoryId>,
    /// Whether any of it may be somebody else's words: then the turn has read something untrusted.
    pub untrusted: bool,
    /// Whether any of it is not the person's word: what is said in the turn may repeat it.
    pub others: bool,
}

impl Memory {
    /// What is recalled on an occasion at this time; `None` when nothing fits, or it took too long.
    pub async fn recall(&self, occasion: Occasion, budget: Budget, now: Timestamp) -> Option<Recalled> {
        if budget.items == 0 || budget.tokens == 0 {
            return None;
        }
        let question: String = occasion.question.chars().take(QUESTION_CHARS).collect();
        let limit = budget.items.saturating_mul(CANDIDATES_PER_ITEM);
        let search = self.search_all(&question, limit, now);
        match tokio::time::timeout(self.deadline + SEARCH_TIME, search).await {
            Ok(Ok(hits)) => block(&hits, &occasion, budget, now),
            Ok(Err(brain::Error::Closed)) => None,
            Ok(Err(error)) => {
                tracing::warn!(error = %error, "Nothing is recalled: the memories could not be searched");
                None
            }
            Err(_late) => {
                tracing::info!("Nothing is recalled: the search took too long");
                None
            }
        }
    }
}

/// The block of the best hits that fit, hold and are not seen anyway.
fn block(hits: &[Hit], occasion: &Occasion, budget: Budget, now: Timestamp) -> Option<Recalled> {
    let periods = period::periods(&occasion.question, now);
    let mut fitting: Vec<&Item> = hits
        .iter()
        .filter(|hit| hit.score >= RECALL_THRESHOLD)
        .map(|hit| &hit.item)
        .filter(|item| item.valid_until().is_none_or(|until| until > now) && !is_shown(item, occasion))
        .filter(|item| has_begun(item, &periods, now))
        .collect();
    // stable: otherwise best first
    fitting.sort_by_key(|item| tells_nothing(item));
    let written: Vec<Written> = fitting.iter().map(|item| Written::of(item, now)).collect();
    let items: Vec<recall::Item<'_>> =
        fitting.iter().zip(&written).map(|(item, written)| written.shown(item)).collect();
    let block = recall::block(&items, &Context::new(&occasion.seen), budget)?;
    let ids: Vec<MemoryId> = block.ids.iter().filter_map(|id| MemoryId::parse(id)).collect();
    let (mut untrusted, mut others) = (false, false);
    for (item, written) in fitting.iter().zip(&written).filter(|(_, written)| ids.contains(&written.id)) {
        untrusted |= written.trust == Trust::Untrusted && !is_turn(item);
        others |= written.trust < Trust::User;
    }
    Some(Recalled { text: block.text, ids, untrusted, others })
}

/// Whether a fact holds by now, or is of the time that is asked about: "what is on tomorrow".
fn has_begun(item: &Item, periods: &[Period], now: Timestamp) -> bool {
    match item {
        Item::Fact(f) => f.item.valid_from <= now || periods.iter().any(|p| p.holds(f.item.valid_from)),
        Item::Episode(_) | Item::Node(..) => true,
    }
}

fn is_turn(item: &Item) -> bool {
    matches!(item, Item::Episode(e) if e.item.kind == EpisodeKind::Turn)
}

/// Whether what is shown of an item is only that something was asked once. It is most like the question that is asked
/// again, and would take the places of what answers it.
fn tells_nothing(item: &Item) -> bool {
    let Item::Episode(e) = item else { return false };
    is_turn(item) && item.provenance().trust == Trust::Untrusted && !states_something(&e.item.description)
}

/// Whether an item is a turn that stands in the conversation itself; its episode may be shorter than it.
fn is_shown(item: &Item, occasion: &Occasion) -> bool {
    match item {
        Item::Episode(e) if e.item.kind == EpisodeKind::Turn => {
            e.item.turn_id.as_ref().is_some_and(|turn| occasion.turns.contains(turn))
        }
        Item::Episode(_) | Item::Fact(_) | Item::Node(..) => false,
    }
}

/// The texts of an item that are made for the block.
struct Written {
    id: MemoryId,
    about: Vec<String>,
    /// The least of all that is shown: a relation may be less trusted than the node it is shown with.
    trust: Trust,
}

impl Written {
    fn of(item: &Item, now: Timestamp) -> Self {
        let about = match item {
            Item::Node(node, relations) => about(&node.item, relations, now),
            Item::Episode(_) | Item::Fact(_) => Vec::new(),
        };
        let trust = about.iter().map(|(_, trust)| *trust).chain([item.provenance().trust]).min();
        let trust = trust.unwrap_or(Trust::Untrusted);
        Self { id: item.id(), about: about.into_iter().map(|(line, _)| line).collect(), trust }
    }

    fn shown<'w>(&'w self, item: &'w Item) -> recall::Item<'w> {
        let (heading, pieces): (&str, Vec<&str>) = match item {
            Item::Episode(e) => {
                let e = &e.item;
                let (heading, value) = match (e.kind, e.provenance.trust) {
                    (EpisodeKind::Turn, Trust::Untrusted) => (TURN_HEADING, Some(ANSWER_LEFT_OUT)),
                    (EpisodeKind::Turn, Trust::Tool | Trust::User) => (TURN_HEADING, e.value.as_deref()),
                    (EpisodeKind::Event | EpisodeKind::Note, _) => (e.key.as_str(), e.value.as_deref()),
                };
                (heading, [Some(e.description.as_str()), value].into_iter().flatten().collect())
            }
            Item::Fact(f) => (&f.item.subject, vec![&f.item.content]),
            Item::Node(n, _) => (&n.item.name, self.about.iter().map(String::as_str).collect()),
        };
        recall::Item {
            id: self.id.as_str(),
            store: item.store(),
            heading,
            pieces,
            at: item.at(),
            source: &item.provenance().source,
            trust: self.trust,
        }
    }
}

/// What is known of a node beside its name, a line each with how far it may be trusted; relations that have ended are
/// left out.
pub fn about(node: &Node, relations: &[Relation], now: Timestamp) -> Vec<(String, Trust)> {
    let trust = node.provenance.trust;
    let mut lines = vec![node.kind.as_str().to_owned()];
    if !node.aliases.is_empty() {
        lines.push(format!("also called {}", node.aliases.join(", ")));
    }
    lines.extend(node.attributes.iter().map(|(name, value)| match value {
        Value::String(text) => format!("{name}: {text}"),
        other => format!("{name}: {other}"),
    }));
    let holds = |r: &&Relation| r.edge.valid_until.is_none_or(|until| until > now);
    let mut lines: Vec<(String, Trust)> = lines.into_iter().map(|line| (line, trust)).collect();
    lines.extend(relations.iter().filter(holds).map(|r| {
        let line = match r.outgoing {
            true => format!("{} {} {}", node.name, r.edge.relation, r.other_name),
            false => format!("{} {} {}", r.other_name, r.edge.relation, node.name),
        };
        (line, r.edge.provenance.trust)
    }));
    lines
}
