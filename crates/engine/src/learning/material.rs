//! What a finished turn offers to be learned from: what was said and done in it, who said it, and what had been recalled.
//!
//! Read at one instant of the brain. The person's words are told apart from everybody else's here, once; nothing later
//! can make the one out of the other. Data that a program put beside a message is a piece of its own, and so is what the
//! person answered when asked. Recalled blocks are taken out, so that memory does not feed on itself.
//!
//! The invariant: every piece has an id that evidence can cite, and a voice that says how far it may be believed.

use crate::memory::about;
use crate::secrets::Known;
use crate::turn::compact::brief;
use crate::turn::said::{answer_of, answered, beside, said};
use ::memory::trajectory::Message;
use ::memory::trust::{Evidence, Turn as Reading};
use brain::Tx;
use brain::memory::lineage::Parent;
use brain::memory::signals::{self, Signal};
use brain::memory::{MemoryId, edges, episodes, knowledge, nodes, trajectories};
use brain::messages::{self, Message as Stored};
use brain::prompts::{self, Prompt, PromptState};
use brain::turns::{self, Turn};
use contract::conversation::{Block, Role};
use contract::memory::{ParentKind, Trust};
use contract::{Timestamp, TurnId};
use serde_json::Value;
use std::collections::BTreeSet;

/// Messages of one turn that are read. A turn that ran for days has thousands, and its first ones say what it was about;
/// fewer cuts off ordinary work.
const MESSAGES: usize = 400;
/// Memories found by tools in one turn that answers are compared with. More makes a turn that searched all day slow to
/// learn from; fewer lets it learn its own memories again.
const LOOKED_UP: usize = 200;
/// Tools whose results are memories.
const MEMORY_SEARCHES: [&str; 3] = ["knowledge_search", "episode_search", "social_search"];
/// What stands for such a result.
const FOUND: &str = "[memories, which are known already]";

/// Between the id of a message and the name of a part of it. No id holds it, so the message is found again.
const PART: char = '#';
/// How data that a program put beside a message is shown.
const DATA_ROLE: &str = "context";

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voice {
    /// The person, in the message that began the turn, in an answer during it or in feedback on it.
    Person,
    /// The assistant.
    Assistant,
    /// A tool, a hook, a sub-agent, data that a program sent along: whatever came in from elsewhere.
    Elsewhere,
}

impl Voice {
    /// What citing it is worth.
    pub const fn evidence(self) -> Evidence {
        match self {
            Voice::Person => Evidence::UserMessage,
            Voice::Assistant => Evidence::AssistantMessage,
            Voice::Elsewhere => Evidence::LocalTool,
        }
    }
}

/// Something that was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// As a model is shown it.
    pub message: Message,
    /// Who said it.
    pub voice: Voice,
}

impl Told {
    /// What a memory rests on that cites it.
    pub fn parent(&self) -> Parent {
        let is_feedback = self.message.id.starts_with("sig-");
        let kind = if is_feedback { ParentKind::Signal } else { ParentKind::Message };
        // a part of a message goes when the message goes
        let id = self.message.id.split(PART).next().unwrap_or_default();
        Parent { kind, id: id.to_owned() }
    }
}

/// A memory that the turn was reminded of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recalled {
    /// What it says.
    pub text: String,
    /// How far it may be trusted.
    pub trust: Trust,
    /// Whether it is held to be so. An episode only tells what was once said.
    pub is_fact: bool,
}

/// What is known of one turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Material {
    /// The turn.
    pub turn: Turn,
    /// When it ended.
    pub at: Timestamp,
    /// What was said, in order; empty when the person has taken it back.
    pub told: Vec<Told>,
    /// Whether somebody else's words could have had a say.
    pub reading: Reading,
    /// The feedback on it that nobody has learned from.
    pub signals: Vec<Signal>,
    /// What it was reminded of, or looked up in memory.
    pub recalled: Vec<Recalled>,
    /// Whether anybody but the person has had a say in its task up to it, which the assistant may repeat: a tool, a
    /// picture, a document, data, a hook, a server, a memory.
    pub others: bool,
    /// Whether something that it said was taken back: then feedback on it is all that is told.
    pub taken_back: bool,
}

impl Material {
    /// Everything of a pending trajectory; `None` when it is not pending any more.
    pub fn pending(tx: &Tx<'_>, turn: &TurnId, known: &Known) -> brain::Result<Option<Self>> {
        let Some(trajectory) = trajectories::get(tx, turn)? else { return Ok(None) };
        if trajectory.state != trajectories::State::Pending {
            return Ok(None);
        }
        let Some(found) = Self::read(tx, turn, known)? else { return Ok(None) };
        let outside = trajectory.turn.trust == Trust::Untrusted;
        let reading = if outside { Reading::Tainted } else { found.reading };
        Ok(Some(Self { reading, at: trajectory.turn.at, ..found }))
    }

    /// Everything of a turn, whether it was learned from or not; `None` when the turn is gone.
    pub fn read(tx: &Tx<'_>, turn: &TurnId, known: &Known) -> brain::Result<Option<Self>> {
        let Some(turn) = turns::get(tx, turn)? else { return Ok(None) };
        let reading = if turns::was_tainted(tx, &turn)? { Reading::Tainted } else { Reading::Clean };
        let on_it = signals::of_turn(tx, &turn.turn_id)?;
        let signals: Vec<Signal> = on_it.into_iter().filter(|s| s.processed_at.is_none()).collect();
        let mut told = said_in(tx, &turn, reading, known)?;
        if !told.is_empty() {
            told.extend(signals.iter().filter_map(|signal| feedback(signal, known)));
        }
        let mut recalled = Vec::new();
        let mut ids = turns::recalled(tx, &turn.turn_id)?;
        ids.extend(looked_up(tx, &turn.turn_id)?);
        for id in ids {
            recalled.extend(said_by(tx, &id, turn.ended_at.unwrap_or(turn.created_at))?);
        }
        let at = turn.ended_at.unwrap_or(turn.created_at);
        // what was shown is noted; of turns from before that only what left rows is known
        let others = turns::has_heard_others(tx, &turn)? || messages::others_heard(tx, &turn.task_id)?;
        let taken_back = trajectories::is_taken_back(tx, &turn.turn_id)?;
        if taken_back {
            told.retain(|told| told.parent().kind == ParentKind::Signal);
        }
        Ok(Some(Self { at, told, reading, signals, recalled, turn, others, taken_back }))
    }

    /// Whether the person's words are to be read alone, because others were heard who could speak in their name: pages,
    /// tools, data that a program put beside the very message, and an assistant that may repeat any of these or a
    /// memory that is not the person's. A question shares its words with its answer, so no comparison of words tells
    /// whose a statement is.
    pub fn is_heard_apart(&self) -> bool {
        self.reading == Reading::Tainted
            || self.others
            || self.told.iter().any(|told| told.voice == Voice::Elsewhere)
            || self.recalled.iter().any(|recalled| recalled.trust < Trust::User)
    }

    /// One piece by its id.
    pub fn told(&self, id: &str) -> Option<&Told> {
        self.told.iter().find(|told| told.message.id == id)
    }
}

/// What was said in a turn, when what the person said to begin it still stands.
fn said_in(tx: &Tx<'_>, turn: &Turn, reading: Reading, known: &Known) -> brain::Result<Vec<Told>> {
    let mut stored = messages::of_turn(tx, &turn.turn_id)?;
    if !stored.iter().any(|m| m.message_id == turn.user_message_id) {
        // of a retry it belongs to the turn before
        let first = messages::get(tx, &turn.task_id, &turn.user_message_id)?;
        let Some(first) = first.filter(|message| message.active) else { return Ok(Vec::new()) };
        stored.insert(0, first);
    }
    let searches = memory_searches(&stored);
    let mut answers = prompts::of_turn(tx, &turn.turn_id)?;
    answers.retain(|prompt| prompt.state == PromptState::Answered);
    let pieces = stored.iter().take(MESSAGES).flat_map(|stored| match stored.role {
        Role::User if stored.message_id == turn.user_message_id => opening(stored, &searches),
        // what a hook wanted to be read
        Role::User => vec![piece(stored, "", ("note", Voice::Elsewhere), &stored.content, &searches)],
        Role::Assistant => {
            vec![piece(stored, "", ("assistant", Voice::Assistant), &stored.content, &searches)]
        }
        Role::Tool => results(stored, &answers, reading, &searches),
    });
    Ok(pieces.filter_map(|told| scrubbed(told, known)).collect())
}

fn piece(
    stored: &Stored,
    part: &str,
    (role, voice): (&str, Voice),
    content: &[Block],
    searches: &BTreeSet<String>,
) -> Told {
    let lines: Vec<String> = content.iter().filter_map(|block| line_of(block, searches)).collect();
    Told { message: Message::new(format!("{}{part}", stored.message_id), role, &lines.join("\n")), voice }
}

fn scrubbed(told: Told, known: &Known) -> Option<Told> {
    let Told { message, voice } = told;
    let text = known.scrub(&message.text).into_owned();
    let message = Message::new(&message.id, &message.role, &text);
    (!message.text.trim().is_empty()).then_some(Told { message, voice })
}

/// The message that began the turn: what the person said, and apart from it what a program put beside it.
fn opening(stored: &Stored, searches: &BTreeSet<String>) -> Vec<Told> {
    let media = stored.content.iter().filter(|block| block.source().is_some()).cloned();
    let words: Vec<Block> = [Block::text(said(&stored.content))].into_iter().chain(media).collect();
    let data = [Block::text(beside(&stored.content))];
    vec![
        piece(stored, "", ("user", Voice::Person), &words, searches),
        piece(stored, &format!("{PART}{DATA_ROLE}"), (DATA_ROLE, Voice::Elsewhere), &data, searches),
    ]
}

/// Results of calls; what the person answered in them is the person's.
fn results(stored: &Stored, answers: &[Prompt], reading: Reading, searches: &BTreeSet<String>) -> Vec<Told> {
    let (mut others, mut persons) = (Vec::new(), Vec::new());
    for block in &stored.content {
        let Block::ToolResult { tool_use_id, .. } = block else {
            others.push(block.clone());
            continue;
        };
        let mut is_all_the_person_s = false;
        for prompt in answers.iter().filter(|prompt| prompt.call_id.as_str() == tool_use_id) {
            let is_answer = answer_of(prompt, reading).is_some();
            is_all_the_person_s |= is_answer && prompt.content_blocks.is_empty();
            let words = answered(prompt, reading).into_iter().map(Block::text);
            let part = format!("{PART}answer-{}", persons.len() + 1);
            persons.push(piece(stored, &part, ("user", Voice::Person), &words.collect::<Vec<_>>(), searches));
        }
        if !is_all_the_person_s {
            others.push(block.clone());
        }
    }
    let mut told = vec![piece(stored, "", ("tool", Voice::Elsewhere), &others, searches)];
    told.extend(persons);
    told
}

/// The calls of a turn that looked into memory.
fn memory_searches(stored: &[Stored]) -> BTreeSet<String> {
    let calls = stored.iter().flat_map(|message| &message.content).filter_map(|block| match block {
        Block::ToolUse { id, name, .. } if MEMORY_SEARCHES.contains(&name.as_str()) => Some(id.clone()),
        _ => None,
    });
    calls.collect()
}

/// The memories that those calls found.
fn looked_up(tx: &Tx<'_>, turn: &TurnId) -> brain::Result<Vec<MemoryId>> {
    let stored = messages::of_turn(tx, turn)?;
    let searches = memory_searches(&stored);
    let blocks = stored.iter().flat_map(|message| &message.content);
    let results = blocks.filter_map(|block| match block {
        Block::ToolResult { tool_use_id, content, .. } if searches.contains(tool_use_id) => Some(content),
        _ => None,
    });
    let texts = results.flatten().filter_map(|block| match block {
        Block::Text { text } => serde_json::from_str::<Vec<Value>>(text).ok(),
        _ => None,
    });
    let ids = texts.flatten().filter_map(|hit| MemoryId::parse(hit["id"].as_str()?));
    Ok(ids.take(LOOKED_UP).collect())
}

fn line_of(block: &Block, searches: &BTreeSet<String>) -> Option<String> {
    match block {
        Block::Text { text } => Some(text.clone()),
        Block::Thinking { .. } => None,
        Block::ToolUse { name, input, .. } => {
            let Block::Text { text } = brief(&Block::text(input.to_string())) else { return None };
            Some(format!("[calls {name} with {text}]"))
        }
        // memory is no witness of itself
        Block::ToolResult { tool_use_id, .. } if searches.contains(tool_use_id) => Some(FOUND.to_owned()),
        Block::ToolResult { content, is_error, .. } => {
            let lines: Vec<String> =
                content.iter().map(brief).filter_map(|b| line_of(&b, searches)).collect();
            let mark = if *is_error { "[failed] " } else { "" };
            Some(format!("{mark}{}", lines.join("\n")))
        }
        Block::Image { .. } | Block::Document { .. } | Block::Audio { .. } | Block::Video { .. } => {
            Some("[an attachment]".to_owned())
        }
    }
}

/// Feedback in words is said by the person, about the turn.
pub fn feedback(signal: &Signal, known: &Known) -> Option<Told> {
    let parts: Vec<&str> =
        [&signal.comment, &signal.corrected].into_iter().flatten().map(String::as_str).collect();
    let text = known.scrub(&parts.join("\n")).into_owned();
    let message = Message::new(signal.signal_id.as_str(), "user", &text);
    (!message.text.trim().is_empty()).then_some(Told { message, voice: Voice::Person })
}

/// What a recalled memory says: of somebody each thing that was shown of them, with their name.
fn said_by(tx: &Tx<'_>, id: &MemoryId, now: Timestamp) -> brain::Result<Vec<Recalled>> {
    let said = match id {
        MemoryId::Episode(id) => episodes::get(tx, id)?.map(|e| {
            let text = format!("{}\n{}", e.item.description, e.item.value.unwrap_or_default());
            vec![Recalled { text, trust: e.item.provenance.trust, is_fact: false }]
        }),
        MemoryId::Fact(id) => {
            let fact = knowledge::get(tx, id)?.map(|f| f.item);
            fact.map(|f| vec![Recalled { text: f.content, trust: f.provenance.trust, is_fact: true }])
        }
        MemoryId::Node(id) => match nodes::get(tx, id)? {
            Some(node) => {
                let (node, relations) = (node.item, edges::relations(tx, id, None)?);
                let lines = about(&node, &relations, now).into_iter().map(|(line, trust)| {
                    let text = if line.contains(&node.name) { line } else { format!("{} {line}", node.name) };
                    Recalled { text, trust, is_fact: false }
                });
                Some(lines.collect())
            }
            None => None,
        },
        // relations are recalled with the nodes at their ends
        MemoryId::Edge(_) => None,
    };
    Ok(said.unwrap_or_default())
}
