//! An import from its first byte to its answer, and what is left of one after a restart.
//!
//! The bundle is looked at as a whole; then its pieces are stored in the brain; then, in `replace`, what waits to be
//! learned from is ended; then the pieces are applied in steps, each with the note of how far it is; then, in `replace`,
//! what was there before goes; at last the pieces go. A process that dies
//! before the pieces are complete leaves the memory as it was, because nobody has been told anything else; one that dies
//! later goes on where it was.
//!
//! The invariant: an import is applied wholly and once, or not at all.

use super::super::Memory;
use super::apply::{self, Done, Ground};
use super::check::Wrong;
use super::progress::{Counts, Mode, Phase, Piece, Progress};
use super::read::{Refusal, Rows, Unreadable, read};
use super::rows::Row;
use super::stage::{self, Cut, Staged, Staging};
use super::survey::Survey;
use super::survivors::Survivors;
use super::{Imported, remove, settle};
use crate::catalog::Shelf;
use brain::memory::jobs::{self, Job, Kind};
use brain::soul::{self, Soul, Source};
use brain::{Brain, Tx, blobs, skills};
use bytes::Bytes;
use contract::Timestamp;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;
use tokio::sync::mpsc;

/// What the pieces are, among the blobs.
const PIECE_TYPE: &str = "application/x-ndjson";
/// The table by whose rows the pieces are held, and the ids of merged rows.
pub(super) const OWNER: &str = "jobs";
/// Pieces that wait to be stored. More holds more of the bundle in memory twice; fewer makes the reading wait.
const PIECES_WAITING: usize = 2;
/// Pieces that go in one write: deleting overwrites them.
const PIECES_RELEASED: u32 = 2;
/// Characters of a bundle's name: enough to tell bundles apart.
const NAME_CHARS: usize = 16;

/// Why an import was not made.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The body is no JSON.
    #[error("the bundle is not JSON: {0}")]
    NotJson(String),
    /// Something in it is wrong; nothing was changed.
    #[error("the bundle is refused at {:?}: {}; nothing was changed", .0.pointer, .0)]
    Refused(Refusal),
    /// The brain failed; an import that had begun to be applied goes on at the next start.
    #[error(transparent)]
    Brain(#[from] brain::Error),
}

impl From<Unreadable> for ImportError {
    fn from(unreadable: Unreadable) -> Self {
        match unreadable {
            Unreadable::NotJson(said) => Self::NotJson(said),
            Unreadable::Refused(refusal) => Self::Refused(refusal),
        }
    }
}

/// Judges a bundle as an import does before it writes anything, without importing it: the number of its rows.
///
/// # Errors
/// As an import's, but none of the brain.
pub fn judged(bundle: &[u8]) -> Result<u64, ImportError> {
    let survey = Survey::of(bundle, "judged")?;
    let mut settling = Settling { survey, rows: 0 };
    read(bundle, &mut settling)?;
    Ok(settling.rows)
}

/// Takes every row as staging does, and keeps none.
struct Settling {
    survey: Survey,
    rows: u64,
}

impl Rows for Settling {
    fn row(&mut self, row: Row) -> Result<(), Wrong> {
        self.survey.settled(row)?;
        self.rows += 1;
        Ok(())
    }
}

/// Where imports are made: the memory, and the shelf whose skills follow them.
#[derive(Clone)]
pub struct Importer {
    brain: Brain,
    memory: Arc<Memory>,
    shelf: Arc<Shelf>,
}

impl Importer {
    /// In this brain, with its memory and its catalog.
    pub fn new(brain: Brain, memory: Arc<Memory>, shelf: Arc<Shelf>) -> Self {
        Self { brain, memory, shelf }
    }

    /// Imports a bundle. When it returns, everything is stored; when it fails with anything but the brain, nothing is.
    /// Only one at a time: the caller sees to it.
    pub async fn import(&self, bundle: Bytes, mode: Mode) -> Result<Imported, ImportError> {
        let bytes = bundle.clone();
        let (survey, name) = blocking(move || {
            let name: String = blobs::name_of(&bytes).chars().take(NAME_CHARS).collect();
            Survey::of(&bytes, &name).map(|survey| (survey, name))
        })
        .await?;
        self.refuse_too_many_skills(&survey, mode).await?;
        let now = Timestamp::now();
        let id = format!("import-{name}-{}", now.millis());
        let progress = Progress::new(mode, name);
        let (first, state) = (id.clone(), stored(&progress));
        self.brain.write("import.open", move |tx| jobs::start(tx, &first, Kind::Import, &state, now)).await?;
        let staged = self.stage(&id, bundle, survey).await;
        let (pieces, staging) = match staged {
            Ok(staged) => staged,
            Err(error) => {
                self.abandon(&id, progress).await?;
                return Err(error);
            }
        };
        let progress = self.begin(&id, progress, pieces, staging).await?;
        Ok(self.run(&id, now, progress).await?)
    }

    async fn refuse_too_many_skills(&self, survey: &Survey, mode: Mode) -> Result<(), ImportError> {
        let mut names: HashSet<String> = survey.skills().iter().cloned().collect();
        if mode == Mode::Merge {
            let there = self.brain.read("import.skills", skills::list).await?;
            names.extend(there.into_iter().map(|skill| skill.name));
        }
        if names.len() as u64 > apply::SKILLS_MAX {
            let expected = format!("at most {} custom skills, with those that are there", apply::SKILLS_MAX);
            let came = Some(Value::from(format!("{} skills", names.len())));
            return Err(ImportError::Refused(Refusal { came, ..Refusal::new("/skills", expected) }));
        }
        Ok(())
    }

    /// Stores the pieces of a bundle.
    async fn stage(
        &self,
        id: &str,
        bundle: Bytes,
        survey: Survey,
    ) -> Result<(Vec<Piece>, Staging), ImportError> {
        let (to, mut from) = mpsc::channel::<Cut>(PIECES_WAITING);
        let cutting = tokio::task::spawn_blocking(move || stage::cut(&bundle, &survey, &to));
        let mut pieces = Vec::new();
        while let Some(Cut { place, bytes }) = from.recv().await {
            let owner = id.to_owned();
            let blob = self
                .brain
                .write("import.stage", move |tx| {
                    let blob = blobs::put(tx, &bytes, PIECE_TYPE, Timestamp::now())?;
                    blobs::refer(tx, &blob, OWNER, &owner)?;
                    Ok(blob)
                })
                .await?;
            pieces.push(Piece { blob, ..place });
        }
        pieces.sort();
        match joined(cutting.await)? {
            Some(staging) => Ok((pieces, staging)),
            None => Err(brain::Error::Closed.into()),
        }
    }

    /// From here on the import will be completed.
    async fn begin(
        &self,
        id: &str,
        mut progress: Progress,
        pieces: Vec<Piece>,
        staging: Staging,
    ) -> brain::Result<Progress> {
        let (id, template) = (id.to_owned(), self.template());
        self.brain
            .write("import.begin", move |tx| {
                let present = soul::get(tx)?;
                let unwritten = present.is_none_or(|stored| stored.source == Source::Catalog);
                let written = staging.soul_source.as_deref().is_some_and(|s| s != Source::Catalog.as_str());
                progress.takes_soul = match progress.mode {
                    Mode::Merge => unwritten && written,
                    Mode::Replace => staging.soul_source.is_some(),
                };
                progress.clears_soul = progress.mode == Mode::Replace && staging.soul_source.is_none();
                progress.pieces = pieces;
                match progress.mode {
                    Mode::Merge => settle::set_out(tx, &mut progress, &template, Timestamp::now())?,
                    Mode::Replace => progress.phase = Phase::Settling,
                }
                jobs::advance(tx, &id, &stored(&progress))?;
                Ok(progress)
            })
            .await
    }

    /// The soul of a brain in which nobody has written: the catalog's, or nothing.
    fn template(&self) -> Soul {
        self.shelf.present().soul().cloned().unwrap_or_default()
    }

    /// Does whatever is left to do.
    async fn run(&self, id: &str, begun: Timestamp, mut progress: Progress) -> brain::Result<Imported> {
        while progress.phase == Phase::Settling {
            let template = self.template();
            let step = self.step(id, progress, move |tx, progress| {
                settle::step(tx, progress, &template, Timestamp::now())?;
                Ok((Done::default(), ()))
            });
            progress = step.await?.0;
        }
        if progress.phase == Phase::Applying {
            let owner = id.to_owned();
            let mut survivors =
                self.brain.read("import.survivors", move |tx| Survivors::load(tx, &owner)).await?;
            while progress.piece < progress.pieces.len() {
                let rows = Arc::new(self.piece(&progress.pieces[progress.piece].blob).await?);
                while progress.row < rows.len() {
                    (progress, survivors) = self.apply(id, progress, survivors, Arc::clone(&rows)).await?;
                }
                (progress.piece, progress.row) = (progress.piece + 1, 0);
            }
            progress.phase = match progress.mode {
                Mode::Merge => Phase::Releasing,
                Mode::Replace => Phase::Removing,
            };
            progress = self.step(id, progress, |_, _| Ok((Done::default(), ()))).await?.0;
        }
        if progress.phase == Phase::Removing {
            let kept = Arc::new(self.ids(&progress.pieces).await?);
            loop {
                let kept = Arc::clone(&kept);
                let step = self.step(id, progress, move |tx, progress| {
                    let (done, is_over) = remove::step(tx, progress, &kept, begun)?;
                    if is_over {
                        progress.phase = Phase::Releasing;
                    }
                    Ok((done, is_over))
                });
                let (next, is_over) = step.await?;
                progress = next;
                if is_over {
                    break;
                }
            }
        }
        self.release(id).await?;
        let imported =
            Imported { mode: progress.mode, counts: progress.counts, skipped_duplicates: progress.skipped };
        let (id, end) = (id.to_owned(), imported.json());
        self.brain
            .write("import.finish", move |tx| jobs::finish(tx, &id, &end, Timestamp::now()).map(drop))
            .await?;
        Ok(imported)
    }

    /// The rows of a piece.
    async fn piece(&self, blob: &str) -> brain::Result<Vec<Staged>> {
        let name = blob.to_owned();
        let bytes = self.brain.read("import.piece", move |tx| blobs::get(tx, &name)).await?;
        let bytes = bytes.ok_or_else(|| brain::Error::bad_data("jobs.state_json", "a piece is gone"))?;
        let rows = blocking(move || stage::rows(&bytes)).await;
        rows.map_err(|_| brain::Error::bad_data("blobs.data", "a piece of a bundle"))
    }

    /// Every id of the bundle.
    async fn ids(&self, pieces: &[Piece]) -> brain::Result<HashSet<String>> {
        let mut ids = HashSet::new();
        for piece in pieces {
            let rows = self.piece(&piece.blob).await?;
            ids.extend(rows.iter().filter_map(Staged::id).map(str::to_owned));
        }
        Ok(ids)
    }

    async fn apply(
        &self,
        id: &str,
        progress: Progress,
        mut survivors: Survivors,
        rows: Arc<Vec<Staged>>,
    ) -> brain::Result<(Progress, Survivors)> {
        let vectors = self.memory.prepared_at_once();
        let owner = id.to_owned();
        let catalog = self.shelf.present();
        let step = self.step(id, progress, move |tx, progress| {
            let of_platform = |name: &str| catalog.skill(name).is_some_and(|skill| skill.layer.is_some());
            let ground = Ground { vectors: &vectors, is_platform_skill: &of_platform };
            let now = Timestamp::now();
            let done = apply::step(tx, progress, &rows, &ground, &mut survivors, now)?;
            survivors.store(tx, &owner, now)?;
            Ok((done, survivors))
        });
        step.await
    }

    /// One transaction of work with the note of it; then the codes in RAM and the catalog follow.
    async fn step<T: Send + 'static>(
        &self,
        id: &str,
        mut progress: Progress,
        work: impl FnOnce(&Tx<'_>, &mut Progress) -> brain::Result<(Done, T)> + Send + 'static,
    ) -> brain::Result<(Progress, T)> {
        let (id, shelf) = (id.to_owned(), Arc::clone(&self.shelf));
        let (progress, touched, value, _) = self
            .brain
            .write_then(
                "import.step",
                move |tx| {
                    let (done, value) = work(tx, &mut progress)?;
                    jobs::advance(tx, &id, &stored(&progress))?;
                    let custom = done.skills.then(|| skills::list(tx)).transpose()?;
                    Ok((progress, done.touched, value, custom))
                },
                move |(_, _, _, custom)| {
                    if let Some(custom) = custom {
                        shelf.set_custom(custom);
                    }
                },
            )
            .await?;
        if !touched.is_empty() {
            self.memory.changed(touched);
        }
        Ok((progress, value))
    }

    async fn release(&self, id: &str) -> brain::Result<()> {
        loop {
            let owner = id.to_owned();
            let gone = self
                .brain
                .write("import.release", move |tx| blobs::release(tx, OWNER, &owner, PIECES_RELEASED))
                .await?;
            if gone == 0 {
                return Ok(());
            }
        }
    }

    /// Ends an import of which nothing was applied, or which cannot go on.
    async fn abandon(&self, id: &str, progress: Progress) -> brain::Result<()> {
        self.release(id).await?;
        let end = json!({"status": "abandoned", "mode": progress.mode, "counts": progress.counts});
        let id = id.to_owned();
        self.brain
            .write("import.abandon", move |tx| jobs::finish(tx, &id, &end, Timestamp::now()).map(drop))
            .await
    }

    /// Completes what an earlier process began to apply, and forgets what it had only begun to store. Returns how many
    /// imports were completed.
    pub async fn resume(&self) -> brain::Result<usize> {
        let unfinished = self.brain.read("import.unfinished", jobs::unfinished).await?;
        let mut completed = 0;
        for job in unfinished.into_iter().filter(|job| job.kind == Kind::Import) {
            completed += usize::from(self.go_on(job).await?);
        }
        Ok(completed)
    }

    async fn go_on(&self, job: Job) -> brain::Result<bool> {
        let Job { job_id: id, state, created_at, .. } = job;
        let Ok(progress) = serde_json::from_value::<Progress>(state) else {
            tracing::error!(code = "INTERNAL", job = %id, "The state of an import is not readable; it is given up");
            let none = Progress::new(Mode::Merge, String::new());
            return self.abandon(&id, none).await.map(|()| false);
        };
        if progress.phase == Phase::Staging {
            return self.abandon(&id, progress).await.map(|()| false);
        }
        match self.run(&id, created_at, progress.clone()).await {
            Ok(imported) => {
                tracing::info!(job = %id, counts = %imported.json(), "An import was completed after a restart");
                Ok(true)
            }
            Err(error @ brain::Error::BadData { .. }) => {
                // it would fail in the same way for ever, and no other import could be made
                tracing::error!(code = "INTERNAL", job = %id, error = %error, "An import cannot go on; it is given up");
                self.abandon(&id, progress).await.map(|()| false)
            }
            Err(error) => Err(error),
        }
    }
}

fn stored(progress: &Progress) -> Value {
    serde_json::to_value(progress).expect("texts and numbers always serialise")
}

/// Work that would keep an async thread from everybody else.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    joined(tokio::task::spawn_blocking(work).await)
}

fn joined<T>(done: Result<T, tokio::task::JoinError>) -> T {
    match done {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

impl Imported {
    /// The answer.
    pub fn json(&self) -> Value {
        let Counts { episodes, knowledge, social, skills } = self.counts;
        json!({
            "status": "imported",
            "mode": self.mode,
            "counts": {"episodes": episodes, "knowledge": knowledge, "social": social, "skills": skills},
            "skipped_duplicates": self.skipped_duplicates,
        })
    }
}
