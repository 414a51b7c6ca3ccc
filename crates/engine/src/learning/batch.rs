//! One batch, from its row to its end: which turns, one after the other, each read and committed by itself.
//!
//! Turns of people come first: the batch waits while all slots are busy, and leaves at the next trajectory when the
//! process is to stop. What one trajectory fails on is counted with it and does not hold up the others; what the provider
//! fails on ends the batch and is nobody's fault.
//!
//! The invariant: at every instant a trajectory is either pending or learned from, with all that belongs to it.

use super::Learning;
use super::commit::{self, Commit, Done};
use super::lessons::{self, Lessons};
use super::material::{self, Material};
use super::reading::{self, Read, Unread};
use super::schedule::{self, Scope};
use super::{character, practice};
use crate::core::Core;
use crate::memory::Wanted;
use ::memory::extraction::Extraction;
use brain::memory::batches::{self, Batch, State, Trigger};
use brain::memory::signals::{self, Signal};
use brain::memory::trajectories::{self, Waiting};
use brain::observability::{self, Observation};
use brain::{Tx, meta, skills, turns};
use contract::{BatchId, TaskId, Timestamp, TurnId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// Trajectories of one batch. More keeps a batch running for days; the rest waits for the next.
const TRAJECTORIES: u32 = 2000;
/// Pieces of feedback of one batch.
const FEEDBACK: u32 = 500;
/// Batches that may fail on a trajectory before it is given up: the first and the next two. (specification 10.8)
const ATTEMPTS: u32 = 3;
/// Failures in a row that may be the provider's before the batch ends. More burns attempts while a provider is ill; one
/// lets a single turn that breaks it hold up all others.
const PERHAPS_IN_A_ROW: u32 = 3;
/// How often a waiting batch looks for a free slot.
const SLOT_CHECK: Duration = Duration::from_millis(250);
/// How long the words of feedback are tried to be learned from. Longer asks a model about them for ever; shorter loses
/// them over a weekend without a provider.
const WORDS_TRIED: Duration = Duration::from_secs(7 * 86_400);
/// Trajectories whose patterns and procedures are looked at. More makes the end of a batch slow.
const SHOWN: u32 = 5000;
/// Deaths of the process in a row, without any progress in between, after which a batch is not taken up at once: it is
/// likely the cause. More keeps a poisonous turn killing the Engine; fewer makes bad luck wait for hours.
const DEATHS: u32 = 3;
/// Why a batch that a death cut short is partial.
const INTERRUPTED: &str = "the process ended before the batch did";

/// A batch that has its row and waits to be run.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its row.
    pub batch: BatchId,
    /// What it looks at.
    pub scope: Scope,
}

/// What the brain keeps of the batch that runs.
#[derive(Debug, Serialize, Deserialize)]
struct Underway {
    scope: Scope,
    deaths: u32,
}

fn number(tx: &Tx<'_>, key: &'static str) -> brain::Result<Timestamp> {
    let text = meta::get(tx, key)?;
    let ms =
        text.map(|t| t.parse().map_err(|_| brain::Error::bad_data("brain_meta.value", key))).transpose()?;
    Ok(Timestamp::from_millis(ms.unwrap_or(0)))
}

/// What was looked at before.
pub fn before(tx: &Tx<'_>) -> brain::Result<schedule::Before> {
    Ok(schedule::Before {
        quiet_until: number(tx, meta::LEARNED_QUIET_UNTIL)?,
        all_at: number(tx, meta::LEARNED_ALL_AT)?,
    })
}

/// Begins a batch; the one that is running is the answer instead.
pub fn begin(
    tx: &Tx<'_>,
    trigger: Trigger,
    scope: &Scope,
    deaths: u32,
    now: Timestamp,
) -> brain::Result<Result<Job, Batch>> {
    let batch = BatchId::generate();
    if let Err(running) = batches::start(tx, &batch, trigger, now)? {
        return Ok(Err(running));
    }
    let underway = Underway { scope: scope.clone(), deaths };
    let text = serde_json::to_string(&underway).expect("words and numbers always serialise");
    meta::set(tx, meta::LEARNING_NOW, &text)?;
    let at = now.millis().to_string();
    match scope {
        Scope::All => {
            meta::set(tx, meta::LEARNED_ALL_AT, &at)?;
            meta::set(tx, meta::LEARNED_QUIET_UNTIL, &at)?;
        }
        Scope::Quiet { .. } => meta::set(tx, meta::LEARNED_QUIET_UNTIL, &at)?,
        Scope::Task { .. } => {}
    }
    Ok(Ok(Job { batch, scope: scope.clone() }))
}

/// Ends a batch; false when it had ended.
fn end(
    tx: &Tx<'_>,
    batch: &BatchId,
    state: State,
    error: Option<&str>,
    now: Timestamp,
) -> brain::Result<bool> {
    if batches::finish(tx, batch, state, error, now)? == brain::memory::Change::Missing {
        return Ok(false);
    }
    meta::remove(tx, meta::LEARNING_NOW)?;
    let Some(ended) = batches::get(tx, batch)? else { return Ok(false) };
    observability::note(
        tx,
        &Observation {
            kind: "lc_batch",
            code: None,
            task_id: None,
            turn_id: None,
            message: format!("a learning batch ended: {}", state.as_str()),
            data: Some(shown(&ended)),
            at: now,
        },
    )?;
    Ok(true)
}

/// Ends a batch that the brain's trouble stopped.
pub fn give_up(tx: &Tx<'_>, batch: &BatchId, now: Timestamp) -> brain::Result<bool> {
    end(tx, batch, State::Failed, Some("the brain failed; the rest waits"), now)
}

/// A batch as GET /learning/status shows it.
pub fn shown(batch: &Batch) -> Value {
    json!({
        "batch_id": batch.batch_id,
        "state": batch.state.as_str(),
        "started_at": batch.started_at,
        "ended_at": batch.ended_at,
        "trajectories": batch.progress.trajectories,
        "written": batch.progress.written,
        "duplicates": batch.progress.duplicates,
        "tokens_used": batch.progress.tokens_used,
        "error": batch.error,
    })
}

/// After a start: ends the batch that a death cut short, and begins the one that goes on with the rest.
pub fn recover(tx: &Tx<'_>, is_enabled: bool, now: Timestamp) -> brain::Result<Option<Job>> {
    let Some(dead) = batches::running(tx)? else { return Ok(None) };
    let underway = meta::get(tx, meta::LEARNING_NOW)?;
    end(tx, &dead.batch_id, State::Partial, Some(INTERRUPTED), now)?;
    let Some(text) = underway else { return Ok(None) };
    let underway: Underway = serde_json::from_str(&text)
        .map_err(|_| brain::Error::bad_data("brain_meta.value", meta::LEARNING_NOW))?;
    let moved = dead.progress.trajectories > 0;
    let deaths = if moved { 0 } else { underway.deaths + 1 };
    if !is_enabled || deaths >= DEATHS {
        return Ok(None);
    }
    Ok(begin(tx, dead.trigger, &underway.scope, deaths, now)?.ok())
}

/// Why a batch did not go through everything.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Left {
    /// The provider is away.
    Provider(String),
    /// The budget is spent.
    Budget,
    /// The process is to stop.
    Stopping,
}

/// How far a batch came.
#[derive(Debug, Default)]
struct Course {
    learned: u64,
    failed: u64,
    in_a_row: u32,
    last_failure: Option<String>,
    spent: u64,
    left: Option<Left>,
}

impl Course {
    fn state(&self) -> State {
        let complete = self.failed == 0 && self.left.is_none();
        match (complete, self.learned) {
            (true, _) => State::Succeeded,
            (false, 0) if self.failed > 0 || matches!(self.left, Some(Left::Provider(_))) => State::Failed,
            (false, _) => State::Partial,
        }
    }

    fn error(&self) -> Option<String> {
        match (&self.left, &self.last_failure) {
            (Some(Left::Provider(code)), _) => Some(format!("the provider failed: {code}; the rest waits")),
            (Some(Left::Budget), _) => Some("LC_TOKEN_BUDGET is spent; the rest waits".to_owned()),
            (Some(Left::Stopping), _) => Some("the process is stopping; the rest waits".to_owned()),
            (None, Some(why)) => Some(format!("{} could not be learned from: {why}", self.failed)),
            (None, None) => None,
        }
    }
}

/// Runs a batch to its end. An error of the brain leaves it running; the next start takes it up.
pub async fn run(core: &Arc<Core>, learning: &Learning, job: &Job) -> brain::Result<State> {
    let mut course = Course::default();
    let quiet = core.config.lc_quiet_minutes;
    let scope = job.scope.clone();
    let (turns, late) =
        core.brain.read("learning scope", move |tx| chosen(tx, &scope, quiet, Timestamp::now())).await?;
    for turn in turns {
        if !may_go_on(core, learning, &mut course).await {
            break;
        }
        trajectory(core, job, turn, &mut course).await?;
        if course.left.is_some() {
            break;
        }
    }
    for signal in late {
        if course.left.is_some() || !may_go_on(core, learning, &mut course).await {
            break;
        }
        late_feedback(core, job, signal, &mut course).await?;
    }
    let (state, error) = (course.state(), course.error());
    finish(core, job, state, error).await?;
    tracing::info!(batch = %job.batch, state = state.as_str(), learned = course.learned, failed = course.failed, tokens = course.spent, "A learning batch ended");
    Ok(state)
}

/// The trajectories and the late feedback of a scope, oldest first.
fn chosen(
    tx: &Tx<'_>,
    scope: &Scope,
    quiet: Duration,
    now: Timestamp,
) -> brain::Result<(Vec<TurnId>, Vec<Signal>)> {
    let late = signals::ready(tx, FEEDBACK)?;
    let waiting = trajectories::waiting(tx, TRAJECTORIES)?;
    let names = |list: Vec<Waiting>| list.into_iter().map(|w| w.turn_id).collect::<Vec<_>>();
    Ok(match scope {
        Scope::All => (names(waiting), late),
        Scope::Quiet { since } => {
            let tasks = super::waiting_tasks(tx)?;
            let chosen: HashSet<&TaskId> = tasks
                .iter()
                .filter(|task| schedule::became_quiet(task, *since, quiet, now))
                .map(|task| &task.task)
                .collect();
            (names(waiting.into_iter().filter(|w| chosen.contains(&w.task_id)).collect()), late)
        }
        Scope::Task { task } => {
            let of_task = trajectories::pending(tx, Some(task), TRAJECTORIES)?;
            let mut on_task = Vec::new();
            for signal in late {
                if turns::get(tx, &signal.turn_id)?.is_some_and(|turn| turn.task_id == *task) {
                    on_task.push(signal);
                }
            }
            (of_task.into_iter().map(|t| t.turn.turn_id).collect(), on_task)
        }
    })
}

/// Waits for a free slot; false when the process is to stop.
async fn may_go_on(core: &Arc<Core>, learning: &Learning, course: &mut Course) -> bool {
    let busy = || core.coordinator.counts().0 >= core.config.engine_task_slots;
    while !learning.stop.is_cancelled() && busy() {
        tokio::select! {
            () = learning.stop.cancelled() => {}
            () = tokio::time::sleep(SLOT_CHECK) => {}
        }
    }
    if learning.stop.is_cancelled() {
        course.left = Some(Left::Stopping);
    }
    course.left.is_none()
}

async fn trajectory(core: &Arc<Core>, job: &Job, turn: TurnId, course: &mut Course) -> brain::Result<()> {
    let (known, wanted) = (Arc::clone(&core.known), turn.clone());
    let found = core.brain.read("learning material", move |tx| Material::pending(tx, &wanted, &known)).await;
    let material = match found {
        Ok(Some(material)) => material,
        Ok(None) => return Ok(()),
        Err(brain::Error::BadData { what }) => {
            tracing::error!(turn_id = %turn, code = "INTERNAL", what, "A trajectory cannot be read");
            return failed(core, &turn, "what is stored of it cannot be read".to_owned(), course).await;
        }
        Err(error) => return Err(error),
    };
    let budget = core.config.lc_token_budget;
    // a turn that is larger than the whole budget must not stand before all others for ever
    if course.spent > 0 && course.spent + reading::estimate(core, &material) > budget {
        course.left = Some(Left::Budget);
        return Ok(());
    }
    let outcome = reading::read(core, &job.batch, &material, budget, &mut course.spent).await;
    let read = match judged(outcome, course)? {
        Verdict::Read(read) => read,
        Verdict::Later => return Ok(()),
        Verdict::Failed(why) => return failed(core, &turn, why, course).await,
    };
    let lessons = taught(&material, &read, false);
    let prepared = core.memory.prepare(&wanted_of(&lessons)).await;
    let (batch, now) = (job.batch.clone(), Timestamp::now());
    let done = write(core, "learn from a turn", move |tx| {
        let (batch, material, lessons, vectors) = (&batch, &material, &lessons, &prepared);
        Commit { tx, batch, material, lessons, vectors, now }.trajectory()
    })
    .await?;
    course.learned += u64::from(done);
    Ok(())
}

enum Verdict {
    Read(Read),
    Later,
    Failed(String),
}

fn judged(outcome: Result<Read, Unread>, course: &mut Course) -> brain::Result<Verdict> {
    Ok(match outcome {
        Ok(read) => {
            course.in_a_row = 0;
            Verdict::Read(read)
        }
        Err(Unread::Brain(error)) => return Err(error),
        Err(Unread::ForNow(code)) => {
            course.left = Some(Left::Provider(code));
            Verdict::Later
        }
        Err(Unread::ThisTurn(why)) => Verdict::Failed(why),
        Err(Unread::Perhaps(why)) => {
            course.in_a_row += 1;
            if course.in_a_row >= PERHAPS_IN_A_ROW {
                course.left = Some(Left::Provider(why.clone()));
            }
            Verdict::Failed(why)
        }
    })
}

async fn failed(core: &Arc<Core>, turn: &TurnId, why: String, course: &mut Course) -> brain::Result<()> {
    let id = turn.clone();
    let stands = core
        .brain
        .write("count a failed lesson", move |tx| trajectories::failed(tx, &id, ATTEMPTS, Timestamp::now()))
        .await?;
    let gives_up = stands == Some(trajectories::State::Failed);
    tracing::info!(turn_id = %turn, gives_up, "A turn could not be learned from: {why}");
    course.failed += 1;
    course.last_failure = Some(why);
    Ok(())
}

/// What the readings of a turn come to.
fn taught(material: &Material, read: &Read, only_feedback: bool) -> Lessons {
    let dropped =
        |count: fn(&Extraction) -> usize| read.accounts.iter().map(|a| count(&a.found)).sum::<usize>();
    tracing::debug!(
        turn_id = %material.turn.turn_id,
        calls = read.accounts.len(),
        without_evidence = dropped(|e| e.dropped.without_evidence),
        malformed = dropped(|e| e.dropped.malformed),
        too_many = dropped(|e| e.dropped.too_many),
        "A turn was read"
    );
    lessons::of(material, &read.accounts, &read.known, only_feedback)
}

fn wanted_of(lessons: &Lessons) -> Vec<Wanted> {
    lessons.items.iter().map(|lesson| lesson.wanted.clone()).collect()
}

/// One commit, with what must follow it: RAM codes, the embedder, the offered skills. Whether it taught anything.
async fn write(
    core: &Arc<Core>,
    name: &'static str,
    change: impl FnOnce(&Tx<'_>) -> brain::Result<Done> + Send + 'static,
) -> brain::Result<bool> {
    let (memory, shelf) = (Arc::clone(&core.memory), Arc::clone(&core.catalog));
    let (done, _) = core
        .brain
        .write_then(
            name,
            move |tx| {
                let done = change(tx)?;
                let stored = if done.skills { Some(skills::list(tx)?) } else { None };
                Ok((done, stored))
            },
            move |(done, stored)| {
                memory.changed(done.touched.clone());
                if let Some(stored) = stored {
                    shelf.set_custom(stored);
                }
            },
        )
        .await?;
    Ok(done.learned)
}

/// Feedback on a turn that was learned from, or is gone.
async fn late_feedback(
    core: &Arc<Core>,
    job: &Job,
    signal: Signal,
    course: &mut Course,
) -> brain::Result<()> {
    let (known, turn) = (Arc::clone(&core.known), signal.turn_id.clone());
    let found = core.brain.read("feedback material", move |tx| Material::read(tx, &turn, &known)).await?;
    let Some(mut material) = found else {
        write(core, "feedback on a gone turn", move |tx| commit::orphaned(tx, &signal, Timestamp::now()))
            .await?;
        return Ok(());
    };
    material.signals.retain(|s| s.signal_id == signal.signal_id);
    let others = |id: &str| id.starts_with("sig-") && id != signal.signal_id.as_str();
    material.told.retain(|told| !others(&told.message.id));
    let has_words = material::feedback(&signal, &core.known).is_some() && !material.told.is_empty();
    let tried = signal.created_at.plus_millis(crate::core::millis(WORDS_TRIED)) > Timestamp::now();
    let mut lessons = Lessons::default();
    if has_words && tried {
        if course.spent > 0 && course.spent + reading::estimate(core, &material) > core.config.lc_token_budget
        {
            course.left = Some(Left::Budget);
            return Ok(());
        }
        let budget = core.config.lc_token_budget;
        let outcome = reading::read(core, &job.batch, &material, budget, &mut course.spent).await;
        match judged(outcome, course)? {
            Verdict::Read(read) => lessons = taught(&material, &read, true),
            Verdict::Later => return Ok(()),
            Verdict::Failed(why) => {
                course.failed += 1;
                course.last_failure = Some(why);
                return Ok(());
            }
        }
    }
    let prepared = core.memory.prepare(&wanted_of(&lessons)).await;
    let (batch, now) = (job.batch.clone(), Timestamp::now());
    write(core, "learn from feedback", move |tx| {
        let (batch, material, lessons, vectors) = (&batch, &material, &lessons, &prepared);
        Commit { tx, batch, material, lessons, vectors, now }.late_feedback()
    })
    .await?;
    Ok(())
}

/// Looks at what many turns show, and ends the batch.
async fn finish(core: &Arc<Core>, job: &Job, state: State, error: Option<String>) -> brain::Result<()> {
    let shown = core
        .brain
        .read("what turns show", |tx| {
            let turns = trajectories::shown(tx, SHOWN)?.into_iter().map(|(turn, _)| turn);
            Ok(turns.collect::<Vec<TurnId>>())
        })
        .await?;
    let platform: HashSet<String> = core
        .catalog
        .present()
        .skills()
        .filter(|skill| skill.layer.is_some())
        .map(|skill| skill.name.clone())
        .collect();
    let (batch, makes_skills) = (job.batch.clone(), core.config.lc_skills_enabled);
    let ended = write(core, "end a learning batch", move |tx| {
        let now = Timestamp::now();
        if !end(tx, &batch, state, error.as_deref(), now)? {
            return Ok(Done::default());
        }
        // as they stand now: a person may have taken something out, or replaced the memory, since they were read
        let mut standing = Vec::with_capacity(shown.len());
        for turn in shown {
            let what = practice::shown_by(tx, &turn)?;
            standing.push((turn, what));
        }
        let shown = standing;
        character::learn(tx, &shown, now)?;
        let skills = makes_skills && practice::learn(tx, &shown, &platform, now)?;
        Ok(Done { learned: true, skills, ..Done::default() })
    })
    .await?;
    if ended {
        metrics::counter!("engine_lc_batches_total", "state" => state.as_str()).increment(1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_called_by_what_became_of_its_trajectories() {
        let provider = || Some(Left::Provider("PROVIDER_TIMEOUT".into()));
        for (learned, failed, left, expected) in [
            (0, 0, None, State::Succeeded),
            (3, 0, None, State::Succeeded),
            (3, 1, None, State::Partial),
            (0, 1, None, State::Failed),
            (3, 0, Some(Left::Budget), State::Partial),
            (0, 0, Some(Left::Stopping), State::Partial),
            (0, 0, provider(), State::Failed),
            (1, 0, provider(), State::Partial),
        ] {
            let course = Course { learned, failed, left: left.clone(), ..Course::default() };
            assert_eq!(course.state(), expected, "{learned} {failed} {left:?}");
        }
    }
}
