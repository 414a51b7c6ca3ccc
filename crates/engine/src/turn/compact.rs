//! Compaction: old context made smaller so that a task can always go on. Originals stay in the brain.
//!
//! Three steps, each stopping as soon as enough is free: long tool results are cut to head and tail; turns
//! before the last few are summarised by LIGHT_MODEL; what is still too much is dropped behind a note. The
//! current message is never given up. What to do is planned by pure functions over positions and sizes.

use crate::config::Config;
use crate::turn::checkpoint::Checkpoint;
use crate::turn::context::{self, History};
use crate::turn::frame::Seat;
use crate::turn::message::{Spent, record_usage};
use brain::compactions::{self, Boundary};
use brain::messages::Message;
use brain::snapshots::Step;
use contract::conversation::{Block, Role, Usage};
use contract::event::{CompactionStrategy, Event, Purpose};
use contract::{MessageId, Timestamp};
use futures::StreamExt;
use llm::{Piece, Request, SystemPart};
use std::time::Instant;

/// Share of the window to get below once compaction runs. Higher compacts again soon; lower forgets more
/// than it must. (specification 6.8)
const TARGET_RATIO: f64 = 0.6;
/// Output limit of a summary. Longer summaries eat the room they were to free.
const SUMMARY_TOKENS: u32 = 2048;
/// Share of the window the text to be summarised may fill; the rest is for prompt and answer.
const SUMMARY_INPUT_RATIO: f64 = 0.5;

const SUMMARY_PROMPT: &str = "Summarise the conversation below so that it can go on without the original. Keep: goals, \
decisions and their reasons, open points, names of files and other things worked on, ids and exact values that may \
be needed again, and what was promised. Write short factual lines. Do not address anyone; do not add anything new.";

/// Whether a call with this estimate needs room first.
pub fn is_due(config: &Config, request: &Request, estimate: u64) -> bool {
    let limit = config.compact_at_ratio * f64::from(config.context_window(&request.model));
    config.reactive_compact_enabled && (estimate + u64::from(request.max_tokens)) as f64 > limit
}

/// One turn's stretch of the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stretch {
    first: i64,
    last: i64,
}

/// The history cut into turns; the current one begins with its user message.
fn stretches(list: &[Message], current: &MessageId) -> Vec<Stretch> {
    let mut out: Vec<Stretch> = Vec::new();
    let mut before = None;
    for message in list {
        let begins = before != Some(&message.turn_id) && message.role == Role::User;
        if out.is_empty() || begins || message.message_id == *current {
            out.push(Stretch { first: message.position, last: message.position });
        } else if let Some(last) = out.last_mut() {
            last.last = message.position;
        }
        before = Some(&message.turn_id);
    }
    out
}

/// The last position that may be summarised when the newest `keep` turns are pinned.
fn boundary_before(stretches: &[Stretch], keep: usize) -> Option<i64> {
    let pinned_from = stretches.len().checked_sub(keep.max(1))?;
    pinned_from.checked_sub(1).map(|i| stretches[i].last)
}

/// The last tool message whose results the model has already answered.
fn answered_results(list: &[Message]) -> Option<i64> {
    let last_assistant = list.iter().rposition(|m| m.role == Role::Assistant)?;
    list[..last_assistant].iter().rev().find(|m| m.role == Role::Tool).map(|m| m.position)
}

/// Tokens of the messages after `boundary`, with tool results up to `shrunk` shortened.
fn weight(list: &[Message], boundary: i64, shrunk: i64) -> u64 {
    list.iter()
        .filter(|m| m.position > boundary)
        .map(|m| {
            if m.position > shrunk || m.role != Role::Tool {
                return context::estimate_blocks(&m.content);
            }
            m.content
                .iter()
                .map(|b| match b {
                    Block::ToolResult { content, .. } => {
                        8 + context::estimate_blocks(
                            &content.iter().map(context::shorten).collect::<Vec<_>>(),
                        )
                    }
                    other => context::estimate_blocks(std::slice::from_ref(other)),
                })
                .sum()
        })
        .sum()
}

/// What is asked of a compaction.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// Tokens that cannot be freed.
    pub fixed: u64,
    /// The context window of the call's model.
    pub window: u32,
    /// Estimated input tokens of the call.
    pub estimate: u64,
    /// The provider has refused the call as too large.
    pub forced: bool,
}

struct Work<'a> {
    seat: Seat<'a>,
    /// Stored with every change: what the provider counted before is no longer true.
    checkpoint: Checkpoint,
    list: &'a [Message],
    boundary: i64,
    summary: String,
    shrunk: i64,
    estimate: u64,
    target: u64,
    changed: bool,
}

/// Makes room for the next call of a loop; returns the new estimate, or `None` when nothing could be done
/// or the turn is to stop. A nested loop is all one stretch: its results are shortened, its task is never given up.
pub async fn run(
    seat: Seat<'_>,
    checkpoint: &mut Checkpoint,
    history: &History,
    ask: Ask,
) -> brain::Result<Option<u64>> {
    let window = f64::from(ask.window);
    // after a provider's refusal its idea of the size counts, not ours
    let room = if ask.forced { ask.estimate as f64 } else { window };
    let target = ((room * TARGET_RATIO) as u64).max(ask.fixed);
    checkpoint.counted = None;
    let mut work = Work {
        seat,
        checkpoint: checkpoint.clone(),
        list: &history.messages,
        boundary: history.boundary.as_ref().map_or(-1, |b| b.up_to_position),
        summary: history.boundary.as_ref().map(|b| b.summary.clone()).unwrap_or_default(),
        shrunk: history.shrunk_up_to.unwrap_or(-1),
        estimate: ask.estimate,
        target,
        changed: false,
    };
    work.shrink(answered_results(work.list), CompactionStrategy::Shrink).await?;
    let parts = stretches(work.list, &history.current);
    let keep = seat.core.config.compact_keep_turns;
    if work.too_big() {
        work.summarise(boundary_before(&parts, keep)).await?;
    }
    if seat.must_stop() {
        return Ok(None);
    }
    if work.too_big() {
        work.drop_up_to(boundary_before(&parts, keep)).await?;
    }
    if work.too_big() {
        let newest = work.list.iter().rev().find(|m| m.role == Role::Tool).map(|m| m.position);
        work.shrink(newest, CompactionStrategy::Truncate).await?;
    }
    for pinned in (1..keep).rev() {
        if work.too_big() {
            work.drop_up_to(boundary_before(&parts, pinned)).await?;
        }
    }
    if !work.changed {
        return Ok(None);
    }
    let estimate = work.estimate;
    checkpoint.shrunk_up_to = work.checkpoint.shrunk_up_to;
    if !seat.frame.is_main() {
        return Ok(Some(estimate));
    }
    let owned = seat.turn.clone();
    checkpoint.working_memory = seat
        .core
        .brain
        .read("render working memory", move |tx| context::render_working_memory(tx, &owned))
        .await?;
    Ok(Some(estimate))
}

impl Work<'_> {
    fn too_big(&self) -> bool {
        self.estimate > self.target
    }

    async fn shrink(&mut self, up_to: Option<i64>, strategy: CompactionStrategy) -> brain::Result<()> {
        let Some(up_to) = up_to.filter(|p| *p > self.shrunk && *p > self.boundary) else { return Ok(()) };
        let freed = weight(self.list, self.boundary, self.shrunk) - weight(self.list, self.boundary, up_to);
        if freed == 0 {
            return Ok(());
        }
        self.shrunk = up_to;
        let Seat { core, turn, frame, .. } = self.seat;
        let (turn, frame, nested, before) = (turn.clone(), frame.clone(), self.seat.nested(), self.estimate);
        if !frame.is_main() {
            self.checkpoint.shrunk_up_to = Some(up_to);
        }
        let (checkpoint, expiry) = (self.checkpoint.clone(), core.expiry(Timestamp::now()));
        self.estimate = before.saturating_sub(freed);
        let after = self.estimate;
        self.changed = true;
        core.record("shrink context", move |tx, out| {
            if frame.is_main() {
                let now = Timestamp::now();
                compactions::shrink(tx, &turn.task_id, &turn.turn_id, up_to, before, after, now)?;
            }
            let event = Event::Compaction { before_tokens: before, after_tokens: after, strategy };
            out.emit(tx, &turn.task_id, &turn.turn_id, &event, nested.as_ref())?;
            frame.store(tx, &turn, Step::Model, &checkpoint, expiry)
        })
        .await?;
        count(strategy);
        Ok(())
    }

    async fn summarise(&mut self, up_to: Option<i64>) -> brain::Result<()> {
        let Some(up_to) = up_to.filter(|p| *p > self.boundary) else { return Ok(()) };
        let old: Vec<&Message> = self.list.iter().filter(|m| m.position <= up_to).collect();
        let started = Instant::now();
        match summary_of(self.seat, &self.summary, &old).await {
            Ok(Summary { text, usage, estimated, model }) => {
                let summary = format!(
                    "<summary>\nWhat was said and done before, shortened:\n{}\n</summary>",
                    text.trim()
                );
                let paid = (usage, estimated, model, started.elapsed());
                self.move_boundary(up_to, summary, CompactionStrategy::Summary, Some(paid)).await
            }
            Err(_) if self.seat.must_stop() => Ok(()),
            Err(error) => {
                // never the turn's failure: the truncate step takes over
                tracing::warn!(task_id = %self.seat.turn.task_id, code = %error.to_api().error, "Old context could not be summarised");
                Ok(())
            }
        }
    }

    async fn drop_up_to(&mut self, up_to: Option<i64>) -> brain::Result<()> {
        let Some(up_to) = up_to.filter(|p| *p > self.boundary) else { return Ok(()) };
        const NOTE: &str = "[Earlier messages were left out to save context.]";
        let summary = if self.summary.is_empty() || self.summary == NOTE {
            NOTE.to_owned()
        } else if self.summary.ends_with(NOTE) {
            self.summary.clone()
        } else {
            format!("{}\n{NOTE}", self.summary)
        };
        self.move_boundary(up_to, summary, CompactionStrategy::Truncate, None).await
    }

    async fn move_boundary(
        &mut self,
        up_to: i64,
        summary: String,
        strategy: CompactionStrategy,
        paid: Option<(Usage, bool, String, std::time::Duration)>,
    ) -> brain::Result<()> {
        let freed = weight(self.list, self.boundary, self.shrunk) - weight(self.list, up_to, self.shrunk);
        let grown = context::estimate_bytes(summary.len())
            .saturating_sub(context::estimate_bytes(self.summary.len()));
        let before = self.estimate;
        let after = (before + grown).saturating_sub(freed);
        self.estimate = after;
        self.boundary = up_to;
        self.summary.clone_from(&summary);
        self.changed = true;
        let Seat { core, turn, frame, .. } = self.seat;
        let (turn, frame, nested) = (turn.clone(), frame.clone(), self.seat.nested());
        let provider = core.config.llm_provider.as_str();
        let (checkpoint, expiry) = (self.checkpoint.clone(), core.expiry(Timestamp::now()));
        core.record("compact context", move |tx, out| {
            if let Some((usage, estimated, model, took)) = paid {
                let spent = Spent { tokens: usage, estimated, model, purpose: Purpose::Compaction, took };
                record_usage(tx, out, &turn, &spent, provider, nested.as_ref())?;
            }
            let boundary = Boundary { up_to_position: up_to, summary };
            let now = Timestamp::now();
            compactions::record(tx, &turn.task_id, &turn.turn_id, &boundary, strategy, before, after, now)?;
            let event = Event::Compaction { before_tokens: before, after_tokens: after, strategy };
            out.emit(tx, &turn.task_id, &turn.turn_id, &event, nested.as_ref())?;
            frame.store(tx, &turn, Step::Model, &checkpoint, expiry)
        })
        .await?;
        count(strategy);
        Ok(())
    }
}

fn count(strategy: CompactionStrategy) {
    metrics::counter!("engine_compactions_total", "strategy" => strategy.as_str()).increment(1);
}

struct Summary {
    text: String,
    usage: Usage,
    estimated: bool,
    model: String,
}

async fn summary_of(seat: Seat<'_>, earlier: &str, old: &[&Message]) -> Result<Summary, llm::CallError> {
    let Seat { core, control, .. } = seat;
    let mut transcript = String::new();
    if !earlier.is_empty() {
        transcript.push_str(earlier);
        transcript.push('\n');
    }
    for message in old {
        for block in &message.content {
            transcript.push_str(message.role.as_str());
            transcript.push_str(": ");
            transcript.push_str(&line_of(block));
            transcript.push('\n');
        }
    }
    let most = (f64::from(core.config.context_window(&core.config.light_model)) * SUMMARY_INPUT_RATIO * 3.5)
        as usize;
    if transcript.len() > most {
        let mut from = transcript.len() - most;
        while !transcript.is_char_boundary(from) {
            from += 1;
        }
        transcript = format!("[the oldest part is left out]\n{}", &transcript[from..]);
    }
    let request = Request {
        model: core.config.light_model.clone(),
        system: vec![SystemPart { text: SUMMARY_PROMPT.into(), cache_here: false }],
        tools: Vec::new(),
        messages: vec![llm::Message {
            role: Role::User,
            content: vec![Block::text(format!("<conversation>\n{transcript}\n</conversation>"))],
        }],
        max_tokens: SUMMARY_TOKENS,
        thinking: false,
        thinking_budget: 0,
        output_schema: None,
        stable_messages: 0,
        no_calls: false,
        traceparent: None,
    };
    let mut summary = Summary {
        text: String::new(),
        usage: Usage::default(),
        estimated: true,
        model: request.model.clone(),
    };
    let mut stream = core.herald.complete(request);
    loop {
        let piece = tokio::select! {
            biased;
            () = control.cancel.cancelled() => return Err(stopped()),
            () = core.halt.cancelled() => return Err(stopped()),
            piece = stream.next() => piece,
        };
        let Some(piece) = piece else { break };
        match piece? {
            Piece::Text(text) => summary.text.push_str(&text),
            Piece::Began { model } => summary.model = model,
            Piece::Usage { usage, estimated } => (summary.usage, summary.estimated) = (usage, estimated),
            Piece::BlockStart(_) | Piece::Thinking(_) | Piece::BlockEnd(_) | Piece::Stop(_) => {}
        }
    }
    if summary.text.trim().is_empty() {
        return Err(llm::CallError::new(llm::ErrorKind::Stream, "the summary came back empty"));
    }
    Ok(summary)
}

fn stopped() -> llm::CallError {
    llm::CallError::new(llm::ErrorKind::Stream, "the turn is to stop")
}

fn line_of(block: &Block) -> String {
    match context::shorten(block) {
        Block::Text { text } => text,
        Block::Thinking { .. } => String::new(),
        Block::ToolUse { name, input, .. } => format!("called {name} with {input}"),
        Block::ToolResult { content, .. } => content.iter().map(line_of).collect::<Vec<_>>().join(" "),
        Block::Image { .. } | Block::Document { .. } | Block::Audio { .. } | Block::Video { .. } => {
            "[media]".into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::TurnId;

    fn message(turn: &str, position: i64, role: Role, bytes: usize) -> Message {
        let content = match role {
            Role::Tool => vec![Block::ToolResult {
                tool_use_id: "call-1".into(),
                content: vec![Block::text("x".repeat(bytes))],
                is_error: false,
            }],
            Role::User | Role::Assistant => vec![Block::text("x".repeat(bytes))],
        };
        Message {
            message_id: MessageId::generate(),
            turn_id: TurnId::parse(turn).expect("valid"),
            position,
            role,
            content,
            token_estimate: 0,
            active: true,
            created_at: Timestamp::from_millis(0),
        }
    }

    fn three_turns() -> Vec<Message> {
        vec![
            message("turn-1", 0, Role::User, 10),
            message("turn-1", 1, Role::Assistant, 10),
            message("turn-2", 2, Role::User, 10),
            message("turn-2", 3, Role::Assistant, 10),
            message("turn-2", 4, Role::Tool, 9000),
            message("turn-2", 5, Role::Assistant, 10),
            message("turn-3", 6, Role::User, 10),
        ]
    }

    #[test]
    fn the_newest_turns_are_pinned_and_a_call_is_never_split_from_its_result() {
        let list = three_turns();
        let parts = stretches(&list, &list[6].message_id);
        assert_eq!(parts.len(), 3);
        assert_eq!(boundary_before(&parts, 2), Some(1));
        assert_eq!(boundary_before(&parts, 1), Some(5));
        assert_eq!(boundary_before(&parts, 3), None);
        assert_eq!(boundary_before(&parts, 9), None);
    }

    #[test]
    fn shortening_answered_results_frees_most_of_them() {
        let list = three_turns();
        assert_eq!(answered_results(&list), Some(4));
        assert!(weight(&list, -1, -1) > weight(&list, -1, 4) + 1000);
        assert_eq!(weight(&list, 5, -1), context::estimate_bytes(10));
    }
}
