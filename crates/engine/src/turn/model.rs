//! Streaming one model call into the event log.
//!
//! Deltas of one block are merged and committed in groups; what has been committed is what readers see.
//! While a commit is under way the provider's stream is simply not read, so a slow disk slows the stream
//! down instead of filling memory.

use crate::core::Core;
use crate::secrets::{Kind, Scan, leaving};
use crate::tools::toolbox::Toolbox;
use crate::turn::frame::Seat;
use crate::turn::message::{Spent, record_usage};
use crate::turn::settle::OpenBlock;
use brain::turns::Turn;
use contract::conversation::{Block, Usage};
use contract::event::{BlockType, Delta, Event};
use futures::StreamExt;
use llm::{CallError, ErrorKind, Piece, Request, Stop};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Deltas are committed at most this often. Longer makes text arrive in visible lumps; shorter spends an
/// fsync on every few words. (specification 4.1)
const COMMIT_EVERY: Duration = Duration::from_millis(20);
/// Merged deltas above this size become a second event, so that one frame stays readable for clients.
const DELTA_BYTES: usize = 32 * 1024;

/// How a call ended.
#[derive(Debug)]
pub enum CallEnd {
    /// The message is complete; its last events wait to be committed with it.
    Complete(Complete),
    /// The provider failed; everything streamed is committed.
    Failed {
        /// Why.
        error: CallError,
        /// Text of this call that readers have seen.
        text: String,
        /// Whether any block of this call was shown.
        streamed: bool,
    },
    /// The turn is being cancelled; everything streamed is committed.
    Cancelled {
        /// Text of this call that readers have seen.
        text: String,
    },
    /// The process is about to stop; everything streamed is committed.
    Halted,
}

/// A complete model message.
#[derive(Debug)]
pub struct Complete {
    /// Its blocks in the stored form.
    pub blocks: Vec<Block>,
    /// Its text.
    pub text: String,
    /// Why it ended.
    pub stop: Stop,
    /// What it cost.
    pub usage: Usage,
    /// True when the provider sent no counts.
    pub estimated: bool,
    /// The model that answered.
    pub model: String,
    /// Events not yet committed.
    pub pending: Vec<Event>,
    /// What was taken out of their text.
    pub scrubbed: BTreeSet<Kind>,
    /// The stop of the last text block, kept back until output_schema has been checked.
    pub held_stop: Option<OpenBlock>,
    /// The next free `block_index`.
    pub next_block: u32,
    /// How long the call took.
    pub duration: Duration,
}

struct Streamer<'a> {
    core: &'a Arc<Core>,
    turn: &'a Turn,
    toolbox: &'a Toolbox,
    pending: Vec<Event>,
    next_block: u32,
    open: Option<OpenBlock>,
    /// Reads the text of the open block; holds back what may be the beginning of a secret.
    scan: Option<Scan>,
    scrubbed: BTreeSet<Kind>,
    silent: bool,
    hidden: bool,
    held_stop: Option<OpenBlock>,
    hold_text_stops: bool,
    last_commit: Instant,
    text: String,
    blocks: Vec<Block>,
    shown: bool,
}

/// Makes one call and streams it; what a nested loop's model says is kept for its caller and never streamed.
pub async fn call(seat: Seat<'_>, next_block: u32, request: Request) -> brain::Result<CallEnd> {
    let Seat { core, turn, frame, toolbox, control } = seat;
    let started = Instant::now();
    let mut model = request.model.clone();
    let purpose = frame.purpose().as_str();
    let mut usage = (Usage::default(), true);
    let mut streamer = Streamer {
        core,
        turn,
        toolbox,
        pending: Vec::new(),
        next_block,
        open: None,
        scan: None,
        scrubbed: BTreeSet::new(),
        silent: !frame.is_main(),
        hidden: false,
        held_stop: None,
        hold_text_stops: turn.output_schema.is_some(),
        last_commit: started.checked_sub(COMMIT_EVERY).unwrap_or(started),
        text: String::new(),
        blocks: Vec::new(),
        shown: false,
    };
    let mut stream = core.herald.complete(request);
    let outcome = loop {
        let due = streamer.last_commit + COMMIT_EVERY;
        tokio::select! {
            biased;
            () = control.cancel.cancelled() => {
                streamer.release_text();
                streamer.commit().await?;
                pay(seat, usage, model, started, streamer.stopped(|_| false)).await?;
                return Ok(CallEnd::Cancelled { text: streamer.text() });
            }
            () = core.halt.cancelled() => {
                streamer.release_text();
                streamer.commit().await?;
                pay(seat, usage, model, started, streamer.stopped(|kind| kind != BlockType::Text)).await?;
                return Ok(CallEnd::Halted);
            }
            () = tokio::time::sleep_until(due), if !streamer.pending.is_empty() => streamer.commit().await?,
            piece = stream.next() => match piece {
                Some(Ok(Piece::Began { model: name })) => model = name,
                Some(Ok(Piece::Usage { usage: counts, estimated })) => usage = (counts, estimated),
                Some(Ok(Piece::Stop(stop))) => break Ok(stop),
                Some(Ok(piece)) => {
                    if !streamer.shown && !streamer.silent {
                        metrics::histogram!("engine_first_delta_seconds").record(started.elapsed().as_secs_f64());
                    }
                    streamer.take(piece);
                }
                Some(Err(error)) => break Err(error),
                None => break Err(CallError::new(ErrorKind::Stream, "the provider's stream ended early")),
            },
        }
    };
    drop(stream);
    let labels = |outcome: &'static str| {
        [
            ("provider", core.config.llm_provider.as_str().to_owned()),
            ("model", model.clone()),
            ("purpose", purpose.to_owned()),
            ("outcome", outcome.to_owned()),
        ]
    };
    match outcome {
        Ok(stop) => {
            metrics::counter!("engine_llm_calls_total", &labels("ok")).increment(1);
            core.pulse.provider(false);
            Ok(CallEnd::Complete(Complete {
                text: streamer.text(),
                blocks: streamer.blocks,
                stop,
                usage: usage.0,
                estimated: usage.1,
                model,
                pending: streamer.pending,
                scrubbed: streamer.scrubbed,
                held_stop: streamer.held_stop,
                next_block: streamer.next_block,
                duration: started.elapsed(),
            }))
        }
        Err(error) => {
            metrics::counter!("engine_llm_calls_total", &labels("error")).increment(1);
            core.pulse.provider(error.marks_provider_down());
            streamer.release_text();
            streamer.release_held();
            streamer.commit().await?;
            // what was said before the window was full goes on in the next call
            let goes_on = error.kind == ErrorKind::Overflow;
            let stop = streamer.stopped(|kind| !goes_on || kind != BlockType::Text);
            pay(seat, usage, model, started, stop).await?;
            Ok(CallEnd::Failed { error, text: streamer.text(), streamed: streamer.shown })
        }
    }
}

/// Writes what a call cost that ended early, as far as the provider has told it: it is paid for all the same. An
/// estimate is not, because nobody knows whether it was. The block that is open is stopped before.
async fn pay(
    seat: Seat<'_>,
    usage: (Usage, bool),
    model: String,
    started: Instant,
    stop: Option<Event>,
) -> brain::Result<()> {
    let (tokens, estimated) = usage;
    if estimated || tokens == Usage::default() {
        return Ok(());
    }
    let Seat { core, turn, frame, .. } = seat;
    let spent = Spent { tokens, estimated, model, purpose: frame.purpose(), took: started.elapsed() };
    let (turn, nested, provider) = (turn.clone(), seat.nested(), core.config.llm_provider.as_str());
    core.record("pay for a call that ended early", move |tx, out| {
        if let Some(stop) = stop {
            out.emit(tx, &turn.task_id, &turn.turn_id, &stop, None)?;
        }
        record_usage(tx, out, &turn, &spent, provider, nested.as_ref())
    })
    .await
}

impl Streamer<'_> {
    fn take(&mut self, piece: Piece) {
        match piece {
            Piece::BlockStart(kind) => {
                self.release_held();
                self.hidden = self.silent || (kind == BlockType::Thinking && !self.turn.super_thinking);
                if !self.hidden {
                    let index = self.next_block;
                    self.next_block += 1;
                    self.open = Some(OpenBlock { index, kind });
                    self.scan = Some(Scan::of_everything(&self.core.known));
                    self.push(Event::BlockStart { block_index: index, block_type: kind });
                }
            }
            Piece::Text(text) => {
                self.text.push_str(&text);
                self.delta(&text);
            }
            Piece::Thinking(text) if !self.hidden => self.delta(&text),
            Piece::BlockEnd(mut block) => {
                self.release_text();
                if let Block::ToolUse { name, .. } = &mut block
                    && self.toolbox.get(name).is_none()
                {
                    // what the model made up is text of the model's, wherever a tool's name is shown
                    let (clean, hits) = leaving::foreign_name(&self.core.known, name);
                    self.scrubbed.extend(hits);
                    *name = clean;
                }
                leaving::block(&self.core.known, &mut block);
                let is_text = matches!(block, Block::Text { .. });
                self.blocks.push(block);
                if let Some(open) = self.open.take() {
                    if self.hold_text_stops && is_text {
                        self.held_stop = Some(open);
                    } else {
                        self.push(stop_of(open, false));
                    }
                }
                self.hidden = false;
                // a finished block is committed without waiting for the next interval
                self.last_commit = self.last_commit.checked_sub(COMMIT_EVERY).unwrap_or(self.last_commit);
            }
            Piece::Thinking(_) | Piece::Began { .. } | Piece::Usage { .. } | Piece::Stop(_) => {}
        }
    }

    fn push(&mut self, event: Event) {
        self.shown = true;
        self.pending.push(event);
    }

    /// The text of the call without known values; for what is stored.
    fn text(&self) -> String {
        self.core.known.scrub(&self.text).into_owned()
    }

    fn delta(&mut self, text: &str) {
        let clean = self.scan.as_mut().map(|scan| scan.push(text));
        self.show(clean.unwrap_or_default());
    }

    /// The block's text is over, or will not go on: what was held back is shown.
    fn release_text(&mut self) {
        if let Some(mut scan) = self.scan.take() {
            self.show(scan.end());
            self.scrubbed.extend(scan.take_hits());
        }
    }

    fn show(&mut self, text: String) {
        let Some(open) = self.open.filter(|_| !text.is_empty()) else { return };
        if let Some(Event::TextDelta(last) | Event::ThinkingDelta(last)) = self.pending.last_mut()
            && last.block_index == open.index
            && last.text.len() + text.len() <= DELTA_BYTES
        {
            last.text.push_str(&text);
            return;
        }
        let delta = Delta { text, block_index: open.index };
        self.push(if open.kind == BlockType::Thinking {
            Event::ThinkingDelta(delta)
        } else {
            Event::TextDelta(delta)
        });
    }

    /// The stop of the block that is open, thrown away or not by its type.
    fn stopped(&self, discarded: impl Fn(BlockType) -> bool) -> Option<Event> {
        self.open.map(|open| stop_of(open, discarded(open.kind)))
    }

    fn release_held(&mut self) {
        if let Some(open) = self.held_stop.take() {
            self.push(stop_of(open, false));
        }
    }

    async fn commit(&mut self) -> brain::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let events = std::mem::take(&mut self.pending);
        let scrubbed = std::mem::take(&mut self.scrubbed);
        let (task, turn) = (self.turn.task_id.clone(), self.turn.turn_id.clone());
        self.core
            .record("stream deltas", move |tx, out| {
                out.scrubbed(scrubbed);
                for event in &events {
                    out.emit(tx, &task, &turn, event, None)?;
                }
                Ok(())
            })
            .await?;
        self.last_commit = Instant::now();
        Ok(())
    }
}

/// The stop event of a block.
pub fn stop_of(open: OpenBlock, discarded: bool) -> Event {
    Event::BlockStop { block_index: open.index, block_type: open.kind, discarded }
}
