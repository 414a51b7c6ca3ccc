//! The `<memory>` block: what of the ranked items goes into a turn, and how it is written there.
//!
//! A model reads the block as data of the past, never as instruction. What came from outside stands inside `<quoted>`
//! with every `<` escaped; what the person or a tool said cannot write the block's own tags either, so nothing inside
//! can end it, open another or pretend to be more trusted than it is.
//!
//! The invariant: between the tags that this file writes there is no tag of its vocabulary.

use crate::field::sanitised;
use crate::likeness::normalised;
use contract::Timestamp;
use contract::memory::{Store, Trust};
use std::fmt::Write;

/// Bytes per token when nobody has counted. Smaller recalls less than allowed; larger more than the budget.
pub const BYTES_PER_TOKEN: f64 = 3.5;
/// One item may take this part of the budget; a longer one is shortened. 1 lets one long turn push out everything else;
/// 16 cuts every item to a headline.
pub const ITEM_SHARE: usize = 4;
/// Bytes of the shortest piece of text that is looked for in the context. Shorter pieces ("yes") stand everywhere and
/// would keep items out that they belong to; longer ones recall what the person has just said.
pub const SHORTEST_KNOWN_BYTES: usize = 12;

const OPEN: &str = "<memory>";
const CLOSE: &str = "</memory>";
const SHORTENED: &str = " […]";
/// Words of the tags by which a model tells who speaks: those of this block, of working memory, of data beside a message, of
/// a summary and of what is summarised.
const VOCABULARY: [&str; 7] =
    ["memory", "item", "quoted", "working_memory", "context", "summary", "conversation"];

/// One ranked item with its text. Closed and weak ones are already left out: [`crate::retrieval::for_recall`].
#[derive(Debug, Clone, PartialEq)]
pub struct Item<'a> {
    /// Its public id.
    pub id: &'a str,
    /// Where it stands.
    pub store: Store,
    /// Subject, key or name.
    pub heading: &'a str,
    /// What it says: each piece is written, and looked for in the context.
    pub pieces: Vec<&'a str>,
    /// When it happened, began or was made.
    pub at: Timestamp,
    /// As stored.
    pub source: &'a str,
    /// As stored.
    pub trust: Trust,
}

/// How much may be recalled: MEMORY_RECALL_LIMIT and MEMORY_RECALL_MAX_TOKENS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Most items.
    pub items: usize,
    /// Most estimated tokens of the whole block.
    pub tokens: usize,
}

/// The texts that the model sees anyway.
#[derive(Debug, Clone, Default)]
pub struct Context(Vec<String>);

impl Context {
    /// From the messages of the task that are still in its context; cleaned as what is written to memory is.
    pub fn new<S: AsRef<str>>(texts: impl IntoIterator<Item = S>) -> Self {
        Self(texts.into_iter().map(|text| normalised(&sanitised(text.as_ref()))).collect())
    }

    /// True when every piece of an item stands in the context.
    fn knows(&self, item: &Item<'_>) -> bool {
        let pieces: Vec<String> =
            item.pieces.iter().map(|p| normalised(p)).filter(|p| !p.is_empty()).collect();
        !pieces.is_empty()
            && pieces.iter().any(|piece| piece.len() >= SHORTEST_KNOWN_BYTES)
            && pieces.iter().all(|piece| self.0.iter().any(|text| text.contains(piece.as_str())))
    }
}

/// The block of a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// What goes into the context, as a message of role user.
    pub text: String,
    /// The items in it, in order: stored with the turn.
    pub ids: Vec<String>,
}

/// Writes the block from the best items that are not known and fit; None when there are none.
pub fn block(items: &[Item<'_>], context: &Context, budget: Budget) -> Option<Block> {
    let mut body = String::new();
    let mut ids: Vec<String> = Vec::new();
    for item in items.iter().filter(|item| !context.knows(item)) {
        if ids.len() == budget.items {
            break;
        }
        let written = rendered(item, budget.tokens / ITEM_SHARE);
        if whole_tokens(body.len() + written.len()) <= budget.tokens {
            body.push_str(&written);
            ids.push(item.id.to_owned());
        }
    }
    (!ids.is_empty()).then(|| Block { text: format!("{OPEN}\n{body}{CLOSE}"), ids })
}

/// Estimated tokens of a text: bytes / 3.5, rounded up.
pub fn estimated_tokens(text: &str) -> usize {
    tokens_of_bytes(text.len())
}

/// A text without its recalled blocks. A tag without its counterpart is text.
pub fn without_recalled(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find(OPEN) {
        let Some(length) = block_length(&rest[start..]) else { break };
        kept.push_str(&rest[..start]);
        rest = &rest[start + length..];
    }
    kept.push_str(rest);
    kept
}

/// The length of the block that begins here, with blocks inside it; None without an end.
fn block_length(text: &str) -> Option<usize> {
    let mut depth = 0usize;
    let mut at = 0;
    loop {
        let close = at + text[at..].find(CLOSE)?;
        match text[at..close].find(OPEN) {
            Some(open) => {
                depth += 1;
                at += open + OPEN.len();
            }
            None => {
                depth -= 1;
                at = close + CLOSE.len();
                if depth == 0 {
                    return Some(at);
                }
            }
        }
    }
}

fn tokens_of_bytes(bytes: usize) -> usize {
    (bytes as f64 / BYTES_PER_TOKEN).ceil() as usize
}

fn whole_tokens(body: usize) -> usize {
    tokens_of_bytes(OPEN.len() + 1 + body + CLOSE.len())
}

fn rendered(item: &Item<'_>, most_tokens: usize) -> String {
    let mut text = item.heading.to_owned();
    for piece in item.pieces.iter().filter(|p| !p.trim().is_empty()) {
        let _ = write!(text, "\n{piece}");
    }
    let (before, after) = match item.trust {
        Trust::Untrusted => ("<quoted>\n", "\n</quoted>"),
        Trust::Tool | Trust::User => ("", ""),
    };
    let mut written = String::new();
    let _ = write!(
        written,
        "<item id=\"{}\" store=\"{}\" date=\"{}\" source=\"{}\" trust=\"{}\">\n{before}",
        attribute(item.id),
        item.store,
        &item.at.to_string().get(..10).unwrap_or_default(),
        attribute(item.source),
        item.trust,
    );
    let end = format!("{after}\n</item>\n");
    let room = ((most_tokens as f64 * BYTES_PER_TOKEN) as usize).saturating_sub(written.len() + end.len());
    let body = match item.trust {
        Trust::Untrusted => text.replace('<', "&lt;"),
        Trust::Tool | Trust::User => without_our_tags(&text),
    };
    written.push_str(&shortened(&body, room));
    written.push_str(&end);
    written
}

/// At most `room` bytes, with a sign that something is missing.
fn shortened(text: &str, room: usize) -> String {
    if text.len() <= room {
        return text.to_owned();
    }
    let cut = text.floor_char_boundary(room.saturating_sub(SHORTENED.len()));
    format!("{}{SHORTENED}", text[..cut].trim_end())
}

/// Escapes `<` only where a tag of the block could begin, so that code stays readable.
pub fn without_our_tags(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        let begins = || {
            let word = text[at + 1..].trim_start_matches(|c: char| c == '/' || c.is_whitespace());
            VOCABULARY
                .iter()
                .any(|tag| word.get(..tag.len()).is_some_and(|head| head.eq_ignore_ascii_case(tag)))
        };
        if c == '<' && begins() {
            out.push_str("&lt;");
        } else {
            out.push(c);
        }
    }
    out
}

/// The value of an attribute: nothing in it can end it.
fn attribute(value: &str) -> String {
    value
        .chars()
        .map(|c| if c.is_control() || matches!(c, '"' | '<' | '>' | '&') { '_' } else { c })
        .collect()
}
