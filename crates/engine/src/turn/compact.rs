//! Compaction: old context made smaller so that a task can always go on. Originals stay in the brain.
//!
//! [`layout`] plans in pure code what can go; [`cut`] says how old calls are shown shorter; [`summary`] asks for the
//! words that stand for old turns. This performs the steps in their order, each one transaction with its row and its
//! event, until enough is free: long results of old steps, the largest first; a summary of the turns before the last
//! few; the oldest of these turns behind a note; results of the running turn; the pinned turns, oldest first, summarised
//! too; the old steps of the running turn. What is being answered is never given up or summarised, nor a call parted
//! from its result.
//!
//! A run asks for one summary at most, and only for turns which it gives up in any case, with the summary or behind a
//! note. So each summary that is asked for moves the boundary past one earlier turn at least: a task asks for no more
//! summaries than it has turns, and a call of the model for no more than [`MAX_REFUSALS`], however they end.

mod cut;
mod layout;
mod summary;

pub use cut::{Cuts, brief, end_of, notes_within, room_for_notes, steps_left};

use crate::config::Config;
use crate::turn::checkpoint::Checkpoint;
use crate::turn::context::{self, History};
use crate::turn::frame::Seat;
use crate::turn::message::{Spent, record_usage};
use crate::turn::once::Failed;
use brain::compactions::{self, Boundary};
use brain::snapshots::Step;
use contract::Timestamp;
use contract::event::{CompactionStrategy, Event};
use cut::Cut;
use layout::{Layout, View};
use llm::Request;

/// Share of the window to get below once compaction runs. Higher compacts again soon; lower forgets more
/// than it must. (specification 6.8)
const TARGET_RATIO: f64 = 0.6;
/// Share of what the fixed parts leave of the window that history may always fill: with large tools in a small window
/// [`TARGET_RATIO`] alone would forget everything in every call.
const ROOM_RATIO: f64 = 0.25;
/// Refusals of one call as too large before it is given up. The last try is made with nothing but what cannot go;
/// fewer tries would forget too much at the first, more would only cost calls.
pub const MAX_REFUSALS: u32 = 4;
/// Least output limit of a call in a nearly full window. A smaller one says nothing useful.
const LEAST_OUTPUT: u32 = 256;
const NOTE: &str = "[Earlier messages were left out to save context.]";

/// Whether a call with this estimate needs room first.
pub fn is_due(config: &Config, request: &Request, estimate: u64) -> bool {
    let limit = config.compact_at_ratio * f64::from(config.context_window(&request.model));
    config.reactive_compact_enabled && (estimate + u64::from(request.max_tokens)) as f64 > limit
}

/// The output limit of a call: what the window leaves, and less after refusals, because providers refuse input and
/// output limit together.
pub fn output_limit(max_tokens: u32, window: u32, estimate: u64, refusals: u32) -> u32 {
    let left = u32::try_from(u64::from(window).saturating_sub(estimate)).unwrap_or(u32::MAX);
    let wanted = max_tokens >> refusals.saturating_sub(1).min(MAX_REFUSALS);
    wanted.min(left).max(LEAST_OUTPUT).min(max_tokens)
}

/// What stands for messages that were left out without a summary.
pub fn left_out(up_to_position: i64) -> Boundary {
    Boundary { up_to_position, summary: NOTE.to_owned() }
}

/// What this turn is shown of a summary.
pub fn shown_summary<'a>(summary: &'a str, checkpoint: &Checkpoint) -> &'a str {
    if checkpoint.without_summary { NOTE } else { summary }
}

/// What is asked of a compaction.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// The context window of the call's model.
    pub window: u32,
    /// Estimated input tokens of the call.
    pub estimate: u64,
    /// How often the provider has refused the call as too large.
    pub refusals: u32,
}

impl Ask {
    /// Tokens to get down to, when so many of the estimate cannot be freed.
    fn target(self, fixed: u64) -> u64 {
        match self.refusals {
            0 => {
                let window = f64::from(self.window);
                let room = (window - fixed as f64).max(0.0) * ROOM_RATIO;
                ((window * TARGET_RATIO) as u64).max(fixed + room as u64)
            }
            // after a provider's refusal its idea of the size counts, not ours
            n if n < MAX_REFUSALS => (self.estimate as f64 * TARGET_RATIO) as u64,
            _ => 0,
        }
    }
}

struct Work<'a> {
    seat: Seat<'a>,
    /// Stored with every change: what the provider counted before is no longer true.
    checkpoint: Checkpoint,
    layout: Layout<'a>,
    view: View,
    /// What stands for the messages up to the boundary, whole; this turn may be shown a note in its place.
    summary: String,
    /// Estimated tokens of what is shown of it.
    summary_shown: u64,
    /// Output limit of the summary this run may ask for.
    summary_limit: u32,
    estimate: u64,
    target: u64,
    changed: bool,
}

/// Makes room for the next call of a loop; true when anything changed. A nested loop is all one turn: its task is
/// never given up.
pub async fn run(
    seat: Seat<'_>,
    checkpoint: &mut Checkpoint,
    history: &History,
    ask: Ask,
) -> brain::Result<bool> {
    let layout = Layout::new(&history.messages, &history.current, &seat.turn.turn_id);
    let summary = history.boundary.as_ref().map(|b| b.summary.clone()).unwrap_or_default();
    let view = View {
        boundary: history.boundary.as_ref().map_or(-1, |b| b.up_to_position),
        cuts: history.cuts.clone(),
    };
    let summary_shown = context::estimate_bytes(shown_summary(&summary, checkpoint).len());
    let can_go = layout.weight(&view).saturating_sub(layout.opening()) + summary_shown;
    let fixed = ask.estimate.saturating_sub(can_go);
    let target = ask.target(fixed);
    let stored = Checkpoint { counted: None, ..checkpoint.clone() };
    let config = &seat.core.config;
    let window = ask.window.min(config.context_window(&config.light_model));
    let mut work = Work {
        seat,
        checkpoint: stored,
        layout,
        view,
        summary,
        summary_shown,
        summary_limit: summary::limit(window, target.saturating_sub(fixed)),
        estimate: ask.estimate,
        target,
        changed: false,
    };
    work.all_steps(ask.refusals < MAX_REFUSALS).await?;
    if !work.changed {
        return Ok(false);
    }
    checkpoint.counted = None;
    checkpoint.cuts = work.checkpoint.cuts;
    checkpoint.left_up_to = work.checkpoint.left_up_to;
    checkpoint.without_summary = work.checkpoint.without_summary;
    if seat.frame.is_main() {
        let owned = seat.turn.clone();
        let read = seat
            .core
            .brain
            .read("render working memory", move |tx| context::render_working_memory(tx, &owned));
        checkpoint.working_memory = read.await?;
    }
    Ok(true)
}

impl Work<'_> {
    /// Tokens that must still go; `None` when enough are free.
    fn need(&self) -> Option<u64> {
        self.estimate.checked_sub(self.target).filter(|n| *n > 0)
    }

    async fn all_steps(&mut self, may_summarise: bool) -> brain::Result<()> {
        use CompactionStrategy::{Shrink, Truncate};
        let main = self.seat.frame.is_main();
        let keep = self.seat.core.config.compact_keep_turns;
        self.shrink(self.layout.answered(), Cut::Brief, Shrink).await?;
        let mut may_summarise = main && may_summarise;
        if may_summarise {
            // where these turns are not enough, the one summary waits for those that must go with them
            let enough = self.layout.before_pinned(keep).filter(|p| self.is_enough(*p));
            may_summarise = !self.summarise(enough).await?;
            if self.seat.must_stop() {
                return Ok(());
            }
        }
        if main && !may_summarise {
            self.leave_turns(keep).await?;
        }
        self.shrink(self.layout.newest(), Cut::Brief, Truncate).await?;
        if may_summarise {
            let need = self.need().map(|n| n + self.summary_growth());
            self.summarise(need.and_then(|n| self.layout.without_turns(&self.view, 1, n))).await?;
            if self.seat.must_stop() {
                return Ok(());
            }
        }
        if main {
            self.leave_turns(1).await?;
        }
        self.shrink(self.layout.answered(), Cut::Bare, Truncate).await?;
        let boundary = self.need().and_then(|need| self.layout.without_steps(&self.view, need));
        self.leave(boundary).await?;
        self.shrink(self.layout.newest(), Cut::Bare, Truncate).await?;
        if main && self.need().is_some() && self.summary_shown > context::estimate_bytes(NOTE.len()) {
            // for this turn only: a turn that is too large by itself must not cost the task what it knew
            self.checkpoint.without_summary = true;
            self.move_boundary(self.view.boundary, self.summary.clone(), Truncate, None).await?;
        }
        Ok(())
    }

    /// Tokens the context may grow by when a summary takes the place of what stands there now.
    fn summary_growth(&self) -> u64 {
        u64::from(self.summary_limit).saturating_sub(self.summary_shown)
    }

    /// Whether a summary of the turns up to a position frees all that must go.
    fn is_enough(&self, up_to: i64) -> bool {
        let need = self.need().map(|n| n + self.summary_growth());
        up_to > self.view.boundary && need.is_some_and(|n| self.freed_by(up_to) >= n)
    }

    async fn shrink(
        &mut self,
        up_to: Option<i64>,
        cut: Cut,
        strategy: CompactionStrategy,
    ) -> brain::Result<()> {
        let Some((need, up_to)) = self.need().zip(up_to) else { return Ok(()) };
        let Some(picked) = self.layout.pick(&self.view, up_to, cut, need) else { return Ok(()) };
        let weight = self.layout.weight(&self.view);
        self.view.cuts.extend(&picked.cuts);
        let freed = weight.saturating_sub(self.layout.weight(&self.view));
        let Seat { core, turn, frame, .. } = self.seat;
        let main = frame.is_main();
        if !main {
            self.checkpoint.cuts.extend(&picked.cuts);
        }
        let (before, after) = self.free(freed, 0);
        let (turn, frame, nested) = (turn.clone(), frame.clone(), self.seat.nested());
        let (checkpoint, expiry) = (self.checkpoint.clone(), core.expiry(Timestamp::now()));
        core.record("shrink context", move |tx, out| {
            if main {
                let (detail, now) = (picked.cuts.to_detail(), Timestamp::now());
                compactions::shrink(
                    tx,
                    &turn.task_id,
                    &turn.turn_id,
                    picked.up_to,
                    detail,
                    before,
                    after,
                    now,
                )?;
            }
            let event = Event::Compaction { before_tokens: before, after_tokens: after, strategy };
            out.emit(tx, &turn.task_id, &turn.turn_id, &event, nested.as_ref())?;
            frame.store(tx, &turn, Step::Model, &checkpoint, expiry)
        })
        .await?;
        count(strategy);
        Ok(())
    }

    /// Notes what a step frees; the estimates before and after it.
    fn free(&mut self, freed: u64, grown: u64) -> (u64, u64) {
        let before = self.estimate;
        self.estimate = (before + grown).saturating_sub(freed);
        self.changed = true;
        (before, self.estimate)
    }

    fn freed_by(&self, boundary: i64) -> u64 {
        let after = View { boundary, cuts: self.view.cuts.clone() };
        self.layout.weight(&self.view).saturating_sub(self.layout.weight(&after))
    }

    /// Lets a summary take the place of the turns up to a position; true when one was asked for. None is asked for
    /// what a note would not be shorter than: these turns could not be given up, and each step would ask again.
    async fn summarise(&mut self, up_to: Option<i64>) -> brain::Result<bool> {
        let Some(up_to) = up_to.filter(|p| *p > self.view.boundary && self.need().is_some()) else {
            return Ok(false);
        };
        let freed = self.freed_by(up_to);
        if freed <= self.note_growth() {
            return Ok(false);
        }
        let old = self.layout.shown_up_to(&self.view, up_to);
        let reason = match summary::ask(self.seat, self.summary_limit, &self.summary, &old).await {
            Ok((text, spent)) => {
                if summary::is_worth_it(&text, self.summary_shown, freed) {
                    self.move_boundary(up_to, text, CompactionStrategy::Summary, Some(spent)).await?;
                    return Ok(true);
                }
                self.pay(spent).await?;
                "the summary is longer than what it stands for".to_owned()
            }
            Err(_) if self.seat.must_stop() => return Ok(true),
            Err(Failed { error, paid }) => {
                if let Some(spent) = paid {
                    self.pay(spent).await?;
                }
                error.to_api().error.to_string()
            }
        };
        // never the turn's failure: the truncate step takes over
        tracing::warn!(task_id = %self.seat.turn.task_id, reason, "Old context could not be summarised");
        Ok(true)
    }

    async fn leave_turns(&mut self, keep: usize) -> brain::Result<()> {
        let need = self.need().map(|n| n + self.note_growth());
        self.leave(need.and_then(|n| self.layout.without_turns(&self.view, keep, n))).await
    }

    /// The summary as it stands, with the note that more was left out since.
    fn noted(&self) -> String {
        if self.summary.is_empty() || self.summary == NOTE {
            NOTE.to_owned()
        } else if self.summary.ends_with(NOTE) {
            self.summary.clone()
        } else {
            format!("{}\n{NOTE}", self.summary)
        }
    }

    /// Tokens that note adds.
    fn note_growth(&self) -> u64 {
        self.tokens_shown(&self.noted()).saturating_sub(self.summary_shown)
    }

    fn tokens_shown(&self, summary: &str) -> u64 {
        context::estimate_bytes(shown_summary(summary, &self.checkpoint).len())
    }

    /// Leaves messages up to a position out, behind a note.
    async fn leave(&mut self, up_to: Option<i64>) -> brain::Result<()> {
        let Some(up_to) = up_to else { return Ok(()) };
        self.move_boundary(up_to, self.noted(), CompactionStrategy::Truncate, None).await
    }

    async fn move_boundary(
        &mut self,
        up_to: i64,
        summary: String,
        strategy: CompactionStrategy,
        spent: Option<Spent>,
    ) -> brain::Result<()> {
        let (new, old) = (self.tokens_shown(&summary), self.summary_shown);
        let (freed, grown) = (self.freed_by(up_to) + old.saturating_sub(new), new.saturating_sub(old));
        if freed <= grown {
            return Ok(());
        }
        let (before, after) = self.free(freed, grown);
        self.view.boundary = up_to;
        self.summary.clone_from(&summary);
        self.summary_shown = new;
        let Seat { core, turn, frame, .. } = self.seat;
        let main = frame.is_main();
        if !main {
            self.checkpoint.left_up_to = Some(up_to);
        }
        let (turn, frame, nested) = (turn.clone(), frame.clone(), self.seat.nested());
        let provider = core.config.llm_provider.as_str();
        let (checkpoint, expiry) = (self.checkpoint.clone(), core.expiry(Timestamp::now()));
        core.record("compact context", move |tx, out| {
            if let Some(spent) = spent {
                record_usage(tx, out, &turn, &spent, provider, nested.as_ref())?;
            }
            if main {
                let (boundary, now) = (Boundary { up_to_position: up_to, summary }, Timestamp::now());
                compactions::record(
                    tx,
                    &turn.task_id,
                    &turn.turn_id,
                    &boundary,
                    strategy,
                    before,
                    after,
                    now,
                )?;
            }
            let event = Event::Compaction { before_tokens: before, after_tokens: after, strategy };
            out.emit(tx, &turn.task_id, &turn.turn_id, &event, nested.as_ref())?;
            frame.store(tx, &turn, Step::Model, &checkpoint, expiry)
        })
        .await?;
        count(strategy);
        Ok(())
    }

    /// Writes what a call cost whose answer is of no use.
    async fn pay(&self, spent: Spent) -> brain::Result<()> {
        let Seat { core, turn, .. } = self.seat;
        let (turn, nested, provider) = (turn.clone(), self.seat.nested(), core.config.llm_provider.as_str());
        core.record("pay for a summary", move |tx, out| {
            record_usage(tx, out, &turn, &spent, provider, nested.as_ref())
        })
        .await
    }
}

fn count(strategy: CompactionStrategy) {
    metrics::counter!("engine_compactions_total", "strategy" => strategy.as_str()).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compaction_goes_below_the_target_but_leaves_history_its_room_beside_large_tools() {
        let ask = |window, refusals| Ask { window, estimate: 50_000, refusals };
        assert_eq!(ask(100_000, 0).target(1000), 60_000);
        assert_eq!(ask(8000, 0).target(6000), 6500);
        assert_eq!(ask(8000, 0).target(9000), 9000);
        assert_eq!([1, 3, 4].map(|n| ask(100_000, n).target(1000)), [30_000, 30_000, 0]);
    }

    #[test]
    fn the_output_limit_is_what_the_window_leaves_and_less_after_refusals() {
        assert_eq!(output_limit(8192, 128_000, 20_000, 0), 8192);
        assert_eq!(output_limit(8192, 8192, 6000, 0), 2192);
        assert_eq!(output_limit(8192, 8192, 9000, 0), LEAST_OUTPUT);
        assert_eq!(output_limit(100, 8192, 9000, 3), 100);
        let after = [1, 2, 3, 4].map(|n| output_limit(8192, 128_000, 20_000, n));
        assert_eq!(after, [8192, 4096, 2048, 1024]);
    }
}
