//! The Learning Centre: what finished turns teach, turned into memory in the background. (specification 10.8)
//!
//! In reading order: [`schedule`] when what is looked at (pure); [`material`] what a turn offers, and who said it;
//! [`reading`] the call of the light model, or the fixed rules without one; [`lessons`] what of the answer is kept and how
//! far it is believed (pure); [`commit`] one turn's lessons in one transaction; [`character`] and [`practice`] what only
//! several turns can teach, and [`showings`] what a person takes out of that; [`batch`] one run over what waits. Here: who runs batches, and what is told about them.
//!
//! The invariant: nothing here has to have run for a turn to be right. A death at any instant repeats what was not
//! committed, and nothing that was.

mod schedule;
mod material;
mod lessons;
mod reading;
mod commit;
mod character;
mod practice;
pub mod showings;
mod batch;

use crate::config::Config;
use crate::core::Core;
use batch::Job;
use brain::memory::batches::{self, State, Trigger};
use brain::memory::{signals, trajectories};
use brain::{Tx, turns};
use contract::{BatchId, TaskId, Timestamp};
use schedule::{Next, Periods, Scope};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

/// Longest sleep between looks at what is due: a frozen process or a changed clock is noticed within this.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Wait after an error of the brain. Shorter asks a full disk in a loop.
const AFTER_TROUBLE: Duration = Duration::from_secs(30);
/// Tasks with something to learn from that are looked at for what is due. More makes every look slower; the others come
/// when these are done.
const TASKS: u32 = 200;
/// Pieces of feedback looked at for what is due.
const FEEDBACK: u32 = 200;
/// Batches that GET /learning/status shows. (specification 3.8)
const BATCHES: u32 = 20;

/// The Learning Centre of one Engine.
#[derive(Debug)]
pub struct Learning {
    /// Something may be due earlier than was known.
    wake: Notify,
    /// Batches that were begun for somebody who asked. The brain lets only one run, so one place is enough.
    asked: mpsc::Sender<Job>,
    jobs: tokio::sync::Mutex<mpsc::Receiver<Job>>,
    busy: AtomicBool,
    /// Cancelled when a batch is to leave at its next trajectory.
    stop: CancellationToken,
}

impl Default for Learning {
    fn default() -> Self {
        let (asked, jobs) = mpsc::channel(1);
        Self {
            wake: Notify::new(),
            asked,
            jobs: tokio::sync::Mutex::new(jobs),
            busy: AtomicBool::new(false),
            stop: CancellationToken::new(),
        }
    }
}

/// What POST /learning/run answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The batch that runs now.
    pub batch: BatchId,
    /// True when it was running before.
    pub was_running: bool,
}

impl Learning {
    /// A turn has ended, or feedback has come.
    pub fn stirred(&self) {
        self.wake.notify_one();
    }

    /// No further trajectory is begun.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Whether a batch is at work.
    pub fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed)
    }

    /// Ends a batch that a death cut short, and begins the one that goes on with the rest. To be called before anybody can
    /// ask for a batch, or that would be taken for the dead one.
    pub async fn recover(&self, core: &Core) -> brain::Result<()> {
        let dead = core.brain.read("dead learning batch", |tx| Ok(batches::running(tx)?.is_some())).await?;
        if !dead {
            return Ok(());
        }
        let is_enabled = core.config.lc_enabled;
        let rest = core
            .brain
            .write("recover learning", move |tx| batch::recover(tx, is_enabled, Timestamp::now()))
            .await?;
        metrics::counter!("engine_lc_batches_total", "state" => State::Partial.as_str()).increment(1);
        if let Some(job) = rest {
            // the channel is empty: nobody could ask yet
            let _ = self.asked.try_send(job);
        }
        Ok(())
    }

    /// Runs batches as they are due or asked for, until the end.
    pub async fn run(&self, core: Arc<Core>) {
        let Ok(mut jobs) = self.jobs.try_lock() else { return };
        if !core.config.lc_enabled {
            return;
        }
        while !self.stop.is_cancelled() {
            let wait = match self.begin_due(&core).await {
                Ok(Begun::Job(job)) => {
                    self.work(&core, &job).await;
                    continue;
                }
                Ok(Begun::Sleep(wait)) => wait,
                Err(error) => {
                    tracing::warn!(error = %error, "What there is to learn could not be looked at");
                    AFTER_TROUBLE
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => {}
                job = jobs.recv() => {
                    if let Some(job) = job {
                        self.work(&core, &job).await;
                    }
                }
                () = self.wake.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn work(&self, core: &Arc<Core>, job: &Job) {
        self.busy.store(true, Ordering::Relaxed);
        if let Err(error) = batch::run(core, self, job).await {
            tracing::error!(code = "INTERNAL", error = %error, batch = %job.batch, "A learning batch stopped");
            self.give_up(core, job).await;
        }
        self.busy.store(false, Ordering::Relaxed);
    }

    /// Ends the row of a batch that the brain's trouble stopped, so that another can begin.
    async fn give_up(&self, core: &Arc<Core>, job: &Job) {
        let id = job.batch.clone();
        let ended =
            core.brain.write("give up a learning batch", move |tx| batch::give_up(tx, &id, Timestamp::now()));
        if let Err(error) = ended.await {
            tracing::warn!(error = %error, "The learning batch ends with the next start");
        }
    }

    /// Begins what is due; else how long to sleep. /health is told when the next is due.
    async fn begin_due(&self, core: &Arc<Core>) -> brain::Result<Begun> {
        let periods = periods(&core.config);
        let next = core.brain.read("learning due", move |tx| due(tx, periods, Timestamp::now())).await?;
        core.pulse.set_next_learning(match &next {
            Next::Nothing => None,
            Next::At(at) => Some(*at),
            Next::Now(_) => Some(Timestamp::now()),
        });
        let scope = match next {
            Next::Nothing => return Ok(Begun::Sleep(LOOK_EVERY)),
            Next::At(at) => {
                let left = (at.millis() - Timestamp::now().millis()).max(1).unsigned_abs();
                return Ok(Begun::Sleep(Duration::from_millis(left).min(LOOK_EVERY)));
            }
            Next::Now(scope) => scope,
        };
        let trigger = if scope == Scope::All { Trigger::Schedule } else { Trigger::Quiet };
        let begun = core
            .brain
            .write("begin a learning batch", move |tx| batch::begin(tx, trigger, &scope, 0, Timestamp::now()))
            .await?;
        // one that somebody asked for a moment ago is in the channel
        Ok(begun.map_or(Begun::Sleep(LOOK_EVERY), Begun::Job))
    }

    /// Begins a batch now, over everything or one task; the one that runs is the answer when there is one.
    pub async fn ask(&self, core: &Core, task: Option<TaskId>) -> brain::Result<Asked> {
        let scope = task.map_or(Scope::All, |task| Scope::Task { task });
        let begun = core
            .brain
            .write("begin a learning batch", move |tx| {
                batch::begin(tx, Trigger::Manual, &scope, 0, Timestamp::now())
            })
            .await?;
        match begun {
            Ok(job) => {
                let batch = job.batch.clone();
                // it can only be full when the runner has ended; then the next start takes the batch up
                let _ = self.asked.try_send(job);
                Ok(Asked { batch, was_running: false })
            }
            Err(running) => Ok(Asked { batch: running.batch_id, was_running: true }),
        }
    }
}

enum Begun {
    Job(Job),
    Sleep(Duration),
}

fn periods(config: &Config) -> Periods {
    Periods { quiet: config.lc_quiet_minutes, every: config.lc_batch_interval_hours }
}

/// Tasks with something to learn from.
fn waiting_tasks(tx: &Tx<'_>) -> brain::Result<Vec<schedule::Task>> {
    let mut tasks = Vec::new();
    for (task, last) in trajectories::quiet_since(tx, TASKS)? {
        let is_busy = turns::open_of(tx, &task)?.is_some();
        tasks.push(schedule::Task { task, last, is_busy });
    }
    Ok(tasks)
}

fn due(tx: &Tx<'_>, periods: Periods, now: Timestamp) -> brain::Result<Next> {
    let waiting = schedule::Waiting {
        tasks: waiting_tasks(tx)?,
        oldest: trajectories::waiting(tx, 1)?.first().map(|first| first.at),
        feedback: signals::ready(tx, FEEDBACK)?.into_iter().map(|signal| signal.created_at).collect(),
    };
    Ok(schedule::next(&waiting, batch::before(tx)?, periods, now))
}

/// The answer of GET /learning/status.
pub async fn status(core: &Core) -> brain::Result<Value> {
    let (is_enabled, periods) = (core.config.lc_enabled, periods(&core.config));
    core.brain
        .read("learning status", move |tx| {
            let now = Timestamp::now();
            let running = batches::running(tx)?.is_some();
            let ended: Vec<Value> = batches::recent(tx, BATCHES + 1)?
                .iter()
                .filter(|batch| batch.state != State::Running)
                .take(BATCHES as usize)
                .map(batch::shown)
                .collect();
            let next = match due(tx, periods, now)? {
                _ if !is_enabled => None,
                Next::Nothing => None,
                Next::At(at) => Some(at),
                Next::Now(_) => Some(now),
            };
            Ok(json!({
                "enabled": is_enabled,
                "running": running,
                "next_run_at": next,
                "pending_trajectories": trajectories::pending_count(tx)?,
                "last_batch": ended.first(),
                "batches": ended,
            }))
        })
        .await
}
