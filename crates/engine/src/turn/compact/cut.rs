//! Old calls, results and notes shown shorter than they are stored.
//!
//! What is cut is remembered by the call's id, because results are cut one by one, the largest first. Nothing here
//! changes what is stored, and a cut never goes back to showing more: the same history is always shown the same way.

use crate::turn::checkpoint::Checkpoint;
use crate::turn::compact::MAX_REFUSALS;
use brain::compactions::Boundary;
use brain::messages::Message;
use contract::conversation::{Block, Source};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Bytes that stand for a token in the limits below; the same as in the estimates. (specification 6.8)
const BYTES_PER_TOKEN: f64 = 3.5;
/// Room for the note between head and tail: a text that is longer than both by less gains nothing from a cut.
const NOTE_BYTES: usize = 160;
/// A text of a call's input longer than this is cut when the call is shown bare. Shorter loses file names; longer
/// frees little.
const INPUT_TEXT_BYTES: usize = 200;
/// The input of a bare call; one of many short texts is left out as a whole above it.
const INPUT_BYTES: usize = 1024;
/// Share of the window the notes of a task may fill, besides its plan. Larger leaves no room for the conversation.
const NOTES_RATIO: f64 = 0.125;
/// Share of the window an answer that goes on may fill with what it has said. The model needs its end, not all of it.
const CARRIED_RATIO: f64 = 0.25;

/// How much of a call's result is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cut {
    /// Head and tail.
    Brief,
    /// A few lines of it, and of the call's input.
    Bare,
}

impl Cut {
    /// Bytes of head and tail. More frees less; less loses the part that explains the rest. The tail is where
    /// commands print their result. (specification 6.8)
    const fn ends(self) -> (usize, usize) {
        match self {
            Cut::Brief => (1024, 512),
            Cut::Bare => (160, 80),
        }
    }
}

/// Which calls are shown cut.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cuts(BTreeMap<String, Cut>);

impl Cuts {
    /// What a task's rows say about these messages.
    pub fn read(rows: &[Boundary], messages: &[Message]) -> brain::Result<Self> {
        let mut cuts = Self::default();
        for row in rows {
            if row.summary.is_empty() {
                // an earlier build cut every result up to a position
                for message in messages.iter().filter(|m| m.position <= row.up_to_position) {
                    for block in &message.content {
                        if let Block::ToolResult { tool_use_id, .. } = block {
                            cuts.add(tool_use_id, Cut::Brief);
                        }
                    }
                }
                continue;
            }
            let more: Cuts = serde_json::from_str(&row.summary)
                .map_err(|_| brain::Error::bad_data("compactions.summary", "not a list of calls"))?;
            cuts.extend(&more);
        }
        Ok(cuts)
    }

    /// As a row stores it.
    pub fn to_detail(&self) -> String {
        serde_json::to_string(self).expect("names and words have no failing serialisers")
    }

    /// How the call is shown, if not whole.
    pub fn of(&self, call: &str) -> Option<Cut> {
        self.0.get(call).copied()
    }

    /// Shows the call shorter, or leaves it as short as it is.
    pub fn add(&mut self, call: &str, cut: Cut) {
        let shown = self.0.entry(call.to_owned()).or_insert(cut);
        *shown = cut.max(*shown);
    }

    /// Adds all of `more`.
    pub fn extend(&mut self, more: &Cuts) {
        for (call, cut) in &more.0 {
            self.add(call, *cut);
        }
    }

    /// Leaves a picture or document out that the provider has refused; whether it is one that can be named.
    pub fn leave_out(&mut self, block: &Block) -> bool {
        let name = block.source().and_then(refused_name);
        if let Some(name) = &name {
            self.add(name, Cut::Bare);
        }
        name.is_some()
    }

    /// Whether a picture or document is left out because the provider has refused it.
    pub fn leaves_out(&self, block: &Block) -> bool {
        block.source().and_then(refused_name).is_some_and(|name| self.of(&name).is_some())
    }

    /// How many are not shown whole.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when everything is shown whole.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The block as it is shown; `None` when that is whole.
    pub fn apply(&self, block: &Block) -> Option<Block> {
        match block {
            Block::ToolResult { tool_use_id, content, is_error } => match self.of(tool_use_id) {
                Some(short) => Some(cut(block, short)),
                None => content.iter().any(|inner| self.leaves_out(inner)).then(|| Block::ToolResult {
                    tool_use_id: tool_use_id.clone(),
                    content: content.iter().map(|b| self.apply(b).unwrap_or_else(|| b.clone())).collect(),
                    is_error: *is_error,
                }),
            },
            Block::ToolUse { id, .. } => (self.of(id)? == Cut::Bare).then(|| cut(block, Cut::Bare)),
            media => self.leaves_out(media).then(|| Block::text(refused_note(media))),
        }
    }
}

/// A block shown this short. A result becomes one text with its media named; other blocks than calls and results
/// keep their kind.
pub fn cut(block: &Block, cut: Cut) -> Block {
    match block {
        Block::ToolResult { tool_use_id, content, is_error } => {
            let whole = content.iter().map(words_of).collect::<Vec<_>>().join("\n");
            let only_text = content.iter().all(|b| matches!(b, Block::Text { .. }));
            let content =
                match shorter(&whole, cut, &format!("result; the whole is stored with {tool_use_id}")) {
                    Some(text) => vec![Block::text(text)],
                    None if only_text => content.clone(),
                    None => vec![Block::text(whole)],
                };
            Block::ToolResult { tool_use_id: tool_use_id.clone(), content, is_error: *is_error }
        }
        Block::ToolUse { id, name, input, signature } if cut == Cut::Bare => Block::ToolUse {
            id: id.clone(),
            name: name.clone(),
            input: bare_input(input),
            signature: signature.clone(),
        },
        Block::Text { text } => Block::text(shorter(text, cut, "text").unwrap_or_else(|| text.clone())),
        other => other.clone(),
    }
}

/// One block in brief: a long text's head and tail, media by their name.
pub fn brief(block: &Block) -> Block {
    match block.source() {
        Some(_) => Block::text(words_of(block)),
        None => cut(block, Cut::Brief),
    }
}

/// What stands for a refused medium among the calls: no call's id begins so.
fn refused_name(source: &Source) -> Option<String> {
    match source {
        Source::Blob { sha256, .. } => Some(format!("media:{sha256}")),
        Source::Url { url } => Some(format!("media:{url}")),
        Source::Base64 { .. } => None,
    }
}

fn refused_note(block: &Block) -> String {
    let what = match block.source() {
        Some(Source::Blob { media_type, .. } | Source::Base64 { media_type, .. }) => media_type,
        Some(Source::Url { url }) => url,
        None => "media",
    };
    format!("[{what} left out: the provider refused it, so you cannot look at it]")
}

/// A block of a result in words.
fn words_of(block: &Block) -> String {
    match block {
        Block::Text { text } | Block::Thinking { text, .. } => text.clone(),
        other => match other.source() {
            Some(Source::Blob { sha256, media_type, .. }) => {
                format!("[{media_type} left out to save context; stored as {sha256}]")
            }
            Some(_) => "[media left out to save context]".to_owned(),
            None => String::new(),
        },
    }
}

/// Head and tail of a long text; `None` when it is short enough.
fn shorter(text: &str, cut: Cut, what: &str) -> Option<String> {
    let (head, tail) = cut.ends();
    if text.len() <= head + tail + NOTE_BYTES {
        return None;
    }
    let head = text.floor_char_boundary(head);
    let tail = text.ceil_char_boundary(text.len() - tail);
    Some(format!(
        "{}\n[… {} bytes left out of this earlier {what} …]\n{}",
        &text[..head],
        tail - head,
        &text[tail..]
    ))
}

fn bare_input(input: &Value) -> Value {
    let short = short_texts(input);
    let bytes = short.to_string().len();
    if bytes > INPUT_BYTES || !short.is_object() {
        return json!({"left_out_to_save_context": format!("{bytes} bytes")});
    }
    short
}

fn short_texts(value: &Value) -> Value {
    match value {
        Value::String(text) if text.len() > INPUT_TEXT_BYTES => {
            let head = text.floor_char_boundary(INPUT_TEXT_BYTES / 2);
            json!(format!("{} [… {} bytes left out …]", &text[..head], text.len() - head))
        }
        Value::Array(list) => list.iter().map(short_texts).collect(),
        Value::Object(fields) => fields.iter().map(|(k, v)| (k.clone(), short_texts(v))).collect(),
        other => other.clone(),
    }
}

/// Bytes of so large a share of a window.
fn share(window: u32, ratio: f64) -> usize {
    (f64::from(window) * ratio * BYTES_PER_TOKEN) as usize
}

/// Bytes the notes of a task may have besides its plan. None are left before the context is given up as too large.
pub fn room_for_notes(window: u32, checkpoint: &Checkpoint) -> usize {
    if checkpoint.overflows >= MAX_REFUSALS { 0 } else { share(window, NOTES_RATIO) }
}

/// The notes of a task within `most` bytes: the plan, which comes first, stays whole; of the others as many as fit.
pub fn notes_within(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let mut kept: Vec<&str> = Vec::new();
    let (mut room, mut left_out) = (most, 0_usize);
    for (n, line) in text.lines().enumerate() {
        let frame = line == "<working_memory>" || line == "</working_memory>";
        let plan = n == 1 && line.starts_with("plan: ");
        if frame || plan {
            kept.push(line);
        } else if line.len() <= room {
            room -= line.len();
            kept.push(line);
        } else {
            left_out += 1;
        }
    }
    let note = format!("[{left_out} notes left out to save context]");
    if left_out > 0 {
        kept.insert(kept.len().saturating_sub(1), &note);
    }
    kept.join("\n")
}

/// What a turn is told about its own steps that have left its context, so that it does not take them again; `None`
/// when there were none.
pub fn steps_left<'a>(messages: impl Iterator<Item = &'a Message>) -> Option<String> {
    let mut calls: BTreeMap<&str, usize> = BTreeMap::new();
    for block in messages.flat_map(|m| &m.content) {
        if let Block::ToolUse { name, .. } = block {
            *calls.entry(name).or_default() += 1;
        }
    }
    let told: Vec<String> = calls.iter().map(|(name, times)| format!("{name} ({times})")).collect();
    let told = told.join(", ");
    (!told.is_empty()).then(|| format!("[Steps taken since were left out to save context: {told}]"))
}

/// The end of an answer that goes on.
pub fn end_of(text: &str, window: u32) -> String {
    let most = share(window, CARRIED_RATIO);
    if text.len() <= most {
        return text.to_owned();
    }
    format!("[… the beginning is left out …]\n{}", &text[text.ceil_char_boundary(text.len() - most)..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(text: &str) -> Block {
        Block::ToolResult { tool_use_id: "call-1".into(), content: vec![Block::text(text)], is_error: false }
    }

    fn text_of(block: &Block) -> String {
        match block {
            Block::ToolResult { content, .. } => content.iter().map(words_of).collect(),
            other => panic!("{other:?} is no result"),
        }
    }

    #[test]
    fn a_long_result_keeps_head_and_tail_between_characters_and_a_short_one_is_left_alone() {
        let long = format!("{}{}{}", "ä".repeat(600), "ü".repeat(4000), "ö".repeat(300));
        let short = text_of(&cut(&result(&long), Cut::Brief));
        assert!(short.starts_with(&"ä".repeat(512)) && short.ends_with(&"ö".repeat(256)), "{short}");
        assert!(short.contains("left out") && short.contains("call-1") && short.len() < 1800, "{short}");
        assert_eq!(cut(&result("short"), Cut::Bare), result("short"));
        assert!(text_of(&cut(&result(&long), Cut::Bare)).len() < 420);
    }

    #[test]
    fn many_short_blocks_of_one_result_are_cut_as_one_and_media_are_named() {
        let image = Source::Blob { sha256: "ab".repeat(32), media_type: "image/png".into(), size: 9 };
        let mut content: Vec<Block> =
            (0..50).map(|n| Block::text(format!("line {n} {}", "x".repeat(90)))).collect();
        content.push(Block::Image { source: image.clone() });
        let block = Block::ToolResult { tool_use_id: "call-1".into(), content, is_error: true };
        let short = cut(&block, Cut::Brief);
        let text = text_of(&short);
        assert!(
            text.len() < 1800 && text.starts_with("line 0 ") && text.contains(&"ab".repeat(32)),
            "{text}"
        );
        assert!(matches!(&short, Block::ToolResult { content, is_error: true, .. } if content.len() == 1));
        let alone = Block::ToolResult {
            tool_use_id: "call-1".into(),
            content: vec![Block::Image { source: image }],
            is_error: false,
        };
        assert!(text_of(&cut(&alone, Cut::Brief)).contains("image/png left out"));
    }

    #[test]
    fn a_bare_call_keeps_its_names_and_loses_its_bulk() {
        let call = |input: Value| Block::ToolUse {
            id: "call-1".into(),
            name: "write_file".into(),
            input,
            signature: None,
        };
        let Block::ToolUse { input, .. } =
            cut(&call(json!({"path": "a.txt", "content": "x".repeat(90_000)})), Cut::Bare)
        else {
            panic!("a call stays a call")
        };
        assert_eq!(input["path"], "a.txt");
        assert!(input.to_string().len() < 400, "{input}");
        let Block::ToolUse { input, .. } = cut(&call(json!({"list": vec!["abcdef"; 4000]})), Cut::Bare)
        else {
            panic!("a call stays a call")
        };
        assert!(input.is_object() && input.to_string().len() < 100, "{input}");
        assert_eq!(
            cut(&call(json!({"a": "b".repeat(900)})), Cut::Brief),
            call(json!({"a": "b".repeat(900)}))
        );
    }

    #[test]
    fn a_cut_is_never_undone_and_reads_back_from_its_row() {
        let mut cuts = Cuts::default();
        cuts.add("call-1", Cut::Bare);
        cuts.add("call-1", Cut::Brief);
        assert_eq!(cuts.of("call-1"), Some(Cut::Bare));
        let row = Boundary { up_to_position: 4, summary: cuts.to_detail() };
        assert_eq!(row.summary, r#"{"call-1":"bare"}"#);
        assert_eq!(Cuts::read(&[row], &[]).expect("reads"), cuts);
        let bad = Boundary { up_to_position: 4, summary: "?".into() };
        assert!(Cuts::read(&[bad], &[]).is_err());
    }

    #[test]
    fn refused_media_are_left_out_of_messages_and_results_and_others_stay() {
        let image = |n: &str| Block::Image {
            source: Source::Blob { sha256: n.repeat(64), media_type: "image/png".into(), size: 9 },
        };
        let mut cuts = Cuts::default();
        assert!(cuts.leave_out(&image("a")) && !cuts.leave_out(&Block::text("words")));
        let note = cuts.apply(&image("a")).expect("left out");
        assert!(matches!(&note, Block::Text { text } if text.contains("image/png")), "{note:?}");
        assert_eq!(cuts.apply(&image("b")), None);
        let result = |content: Vec<Block>| Block::ToolResult {
            tool_use_id: "call-1".into(),
            content,
            is_error: false,
        };
        let both = result(vec![image("a"), image("b")]);
        assert_eq!(cuts.apply(&both), Some(result(vec![note, image("b")])));
        assert_eq!(cuts.apply(&result(vec![image("b")])), None);
        let row = Boundary { up_to_position: 4, summary: cuts.to_detail() };
        assert_eq!(Cuts::read(&[row], &[]).expect("reads"), cuts);
    }

    #[test]
    fn of_the_notes_the_plan_stays_and_the_others_as_far_as_they_fit() {
        let text =
            format!("<working_memory>\nplan: {{}}\na: 1\nb: {}\nc: 2\n</working_memory>", "x".repeat(500));
        assert_eq!(notes_within(&text, 10_000), text);
        let less = notes_within(&text, 100);
        assert_eq!(
            less,
            "<working_memory>\nplan: {}\na: 1\nc: 2\n[1 notes left out to save context]\n</working_memory>"
        );
        assert_eq!(
            notes_within(&text, 0),
            "<working_memory>\nplan: {}\n[3 notes left out to save context]\n</working_memory>"
        );
    }

    #[test]
    fn an_answer_that_goes_on_shows_its_end() {
        let text = format!("{}the end", "ü".repeat(5000));
        let shown = end_of(&text, 2048);
        assert!(shown.ends_with("the end") && shown.len() < 1900, "{}", shown.len());
        assert_eq!(end_of("short", 2048), "short");
    }
}
