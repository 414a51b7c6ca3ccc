//! One step of an import: rows through the write gate until the time of a step is over.
//!
//! A row keeps its id, its times, its trust and what it stems from. In `merge`, a row whose id is there already is
//! passed over, and every other one is compared with what was there before the import, as any write is: what says the
//! same confirms that and gets no row; what refers to it is handed over ([`super::survivors`]). It is not compared with
//! rows of its own bundle, because those were told apart once before. In `replace` nothing is compared; a row whose id is
//! there is rewritten in place.
//!
//! An import ends no fact: whatever contradicted another when the bundle was made has ended it there.
//!
//! The invariant: rows and the note of how far the import is are one transaction.

mod people;

use super::super::gate::{Fate, Like, Writing};
use super::super::item::{Intent, Origin, Touched};
use super::super::vectors::Prepared;
use super::super::write;
use super::progress::{Mode, Progress};
use super::rows::{EpisodeRow, FactRow, ParentRow, SignalRow, SkillRow, SoulRow, VersionRow};
use super::stage::Staged;
use super::survivors::Survivors;
use ::memory::entity::name_norm;
use ::memory::gate::{Candidate, Comparison};
use ::memory::search_text;
use brain::Tx;
use brain::memory::counters::{self, Counters};
use brain::memory::episodes::{self, Episode};
use brain::memory::knowledge::{self, Fact};
use brain::memory::lineage::{self, Parent};
use brain::memory::signals::{self, Signal};
use brain::memory::{MemoryId, Provenance, Stored};
use brain::skills::{self, Skill};
use brain::soul::{self, Soul, Source};
use contract::memory::{EpisodeKind, ParentKind, Store};
use contract::{FactId, Timestamp};
use std::time::{Duration, Instant};

/// Longest work of one transaction. Longer keeps turns and SIGTERM waiting beyond 50 ms; shorter spends an fsync on fewer
/// rows.
pub const STEP: Duration = Duration::from_millis(20);
/// Custom skills of one brain: the same number as over HTTP.
pub const SKILLS_MAX: u64 = crate::http::skills::CUSTOM_MAX;
/// Why there is a version of the soul that the history of a bundle does not explain.
const SOUL_REASON: &str = "taken over from a bundle";

/// What an import knows of the rest of the Engine.
pub struct Ground<'g> {
    /// Vectors that cost nothing.
    pub vectors: &'g Prepared,
    /// Names of skills that the catalog has.
    pub is_platform_skill: &'g (dyn Fn(&str) -> bool + Send + Sync),
}

/// What a step did besides its rows.
#[derive(Default)]
pub struct Done {
    /// For the codes in RAM.
    pub touched: Touched,
    /// Whether the skills are others now.
    pub skills: bool,
}

/// Applies rows from `progress.row` on, as many as there is time for.
pub fn step(
    tx: &Tx<'_>,
    progress: &mut Progress,
    rows: &[Staged],
    ground: &Ground<'_>,
    survivors: &mut Survivors,
    now: Timestamp,
) -> brain::Result<Done> {
    let started = Instant::now();
    let mut done = Done::default();
    while progress.row < rows.len() {
        let row = &rows[progress.row];
        let mut applying = Applying { tx, progress, ground, survivors, now, done };
        applying.row(row)?;
        done = applying.done;
        progress.row += 1;
        if started.elapsed() >= STEP {
            break;
        }
    }
    if progress.mode == Mode::Replace {
        // nobody may read in the log what rows said that were rewritten in place
        tx.forget();
    }
    Ok(done)
}

struct Applying<'a> {
    tx: &'a Tx<'a>,
    progress: &'a mut Progress,
    ground: &'a Ground<'a>,
    survivors: &'a mut Survivors,
    now: Timestamp,
    done: Done,
}

/// Where a row comes from; a macro, because the rows have no type in common. What was kept or confirmed later than now
/// would never fade, and is of now.
macro_rules! provenance {
    ($row:expr, $now:expr) => {
        Provenance {
            confidence: $row.confidence.0,
            trust: $row.trust,
            source: $row.source.clone().unwrap_or_default(),
            rationale: $row.rationale.clone(),
            last_confirmed_at: $row.last_confirmed_at.unwrap_or($row.created_at).min($now),
            created_at: $row.created_at.min($now),
            updated_at: $row.updated_at.unwrap_or($row.created_at).min($now),
        }
    };
}
pub(super) use provenance;

impl<'a> Applying<'a> {
    fn row(&mut self, row: &Staged) -> brain::Result<()> {
        match row {
            Staged::Episode(row) => self.episode(row),
            Staged::Fact(row) => self.fact(row),
            Staged::Node(row) => self.node(row),
            Staged::Edge { row } => self.edge(row),
            Staged::Skill(row) => self.skill(row),
            Staged::Signal(row) => self.signal(row),
            Staged::Version(row) => self.version(row),
            Staged::Soul(row) => self.soul(row),
        }
    }

    fn replaces(&self) -> bool {
        self.progress.mode == Mode::Replace
    }

    fn origin(&self, provenance: &Provenance, lineage: &[ParentRow]) -> Origin {
        Origin {
            source: provenance.source.clone(),
            trust: provenance.trust,
            rationale: provenance.rationale.clone(),
            confidence: provenance.confidence,
            lineage: lineage.iter().map(|row| self.parent(row)).collect(),
            intent: Intent::None,
            recalled: Vec::new(),
        }
    }

    fn parent(&self, row: &ParentRow) -> Parent {
        let survivor = match row.kind {
            ParentKind::Memory => self.survivors.of(&row.id),
            ParentKind::Message | ParentKind::Trajectory | ParentKind::Signal | ParentKind::Import => None,
        };
        let id = survivor.map_or(row.id.as_str(), MemoryId::as_str).to_owned();
        Parent { kind: row.kind, id }
    }

    fn successor(&self, row: &FactRow) -> Option<FactId> {
        let by = row.superseded_by.as_ref()?;
        match self.survivors.of(by.as_str()) {
            Some(MemoryId::Fact(survivor)) => Some(survivor.clone()),
            Some(MemoryId::Episode(_) | MemoryId::Node(_) | MemoryId::Edge(_)) | None => Some(by.clone()),
        }
    }

    /// A row that is merged into a memory that is there gets no row of its own.
    fn merge(&mut self, row: &MemoryId, into: &MemoryId) -> brain::Result<()> {
        self.survivors.merged(self.tx, row, into)?;
        self.skip(row.store())
    }

    fn skip(&mut self, store: Store) -> brain::Result<()> {
        self.progress.skipped += 1;
        counters::add(self.tx, store, Counters { duplicate: 1, ..Counters::default() })
    }

    /// Works with the write gate and keeps what it touched.
    fn with<T>(
        &mut self,
        origin: &Origin,
        work: impl FnOnce(&mut Writing<'_>) -> brain::Result<T>,
    ) -> brain::Result<T> {
        let touched = std::mem::take(&mut self.done.touched);
        let vectors = self.ground.vectors;
        let mut writing = Writing { tx: self.tx, origin, vectors, now: self.now, touched };
        let value = work(&mut writing)?;
        self.done.touched = writing.touched;
        Ok(value)
    }

    fn episode(&mut self, row: &EpisodeRow) -> brain::Result<()> {
        let tx = self.tx;
        let provenance = provenance!(row, self.now);
        let origin = self.origin(&provenance, &row.lineage.0);
        let text = write::compared(&row.description, row.value.as_deref());
        let comparison = match row.kind {
            EpisodeKind::Turn => Comparison::ExactOnly,
            EpisodeKind::Event | EpisodeKind::Note => Comparison::ExactAndNear,
        };
        let candidate = Candidate { key: &row.key, text: &text, trust: row.trust, comparison };
        let searched =
            search_text::episode(&row.key, &row.description, row.value.as_deref(), row.occurred_at);
        let episode = Episode {
            episode_id: row.id.clone(),
            kind: row.kind,
            key: row.key.clone(),
            description: row.description.clone(),
            value: row.value.clone(),
            task_id: row.task_id.clone(),
            turn_id: row.turn_id.clone(),
            position: row.position,
            occurred_at: row.occurred_at,
            content_hash: candidate.hash(),
            provenance,
        };
        let id = MemoryId::Episode(row.id.clone());
        if let Some(old) = episodes::get(tx, &row.id)? {
            if !self.replaces() {
                return self.skip(Store::Episodes);
            }
            episodes::replace(tx, &episode, &searched)?;
            self.progress.counts.episodes += 1;
            return self.rewritten(Store::Episodes, old.row, &id, &origin, &searched);
        }
        let mark = self.progress.marks.episodes;
        if !self.replaces() && mark > 0 {
            let known = self.with(&origin, |writing| {
                let mut there: Vec<Stored<Episode>> =
                    episodes::by_hash(tx, &episode.content_hash)?.into_iter().collect();
                there.extend(episodes::by_rows(tx, &writing.near(Store::Episodes, comparison, &searched)?)?);
                there.retain(|e| e.row <= mark);
                let like = writing.like_episodes(there, comparison, &searched)?;
                known(writing, &candidate, &like)
            })?;
            if let Some(known) = known {
                return self.merge(&id, &known);
            }
        }
        let stored = episodes::insert(tx, &episode, &searched)?;
        self.progress.counts.episodes += 1;
        self.with(&origin, |writing| writing.inserted(Store::Episodes, stored, &id, &searched))
    }

    fn fact(&mut self, row: &FactRow) -> brain::Result<()> {
        let (tx, now) = (self.tx, self.now);
        let provenance = provenance!(row, self.now);
        let origin = self.origin(&provenance, &row.lineage.0);
        let is_past = write::has_ended(row.valid_until, now);
        let comparison = if is_past { Comparison::ExactOnly } else { Comparison::ExactAndNear };
        let candidate = Candidate { key: &row.subject, text: &row.content, trust: row.trust, comparison };
        let searched = search_text::fact(&row.subject, &row.content, row.valid_from);
        let fact = Fact {
            fact_id: row.id.clone(),
            subject: row.subject.clone(),
            subject_norm: name_norm(&row.subject),
            content: row.content.clone(),
            kind: row.kind,
            valid_from: row.valid_from,
            valid_until: row.valid_until,
            superseded_by: self.successor(row),
            content_hash: candidate.hash(),
            provenance,
        };
        let id = MemoryId::Fact(row.id.clone());
        if let Some(old) = knowledge::get(tx, &row.id)? {
            if !self.replaces() {
                return self.skip(Store::Knowledge);
            }
            knowledge::replace(tx, &fact, &searched)?;
            self.progress.counts.knowledge += 1;
            return self.rewritten(Store::Knowledge, old.row, &id, &origin, &searched);
        }
        let mark = self.progress.marks.facts;
        if !self.replaces() && mark > 0 {
            let known = self.with(&origin, |writing| {
                let mut there = knowledge::by_hash(tx, &fact.content_hash)?;
                let near = writing.near(Store::Knowledge, comparison, &searched)?;
                there.extend(knowledge::by_rows(tx, &near)?);
                there.retain(|f| f.row <= mark);
                let like = writing.like_facts(there, comparison, &searched, is_past)?;
                known(writing, &candidate, &like)
            })?;
            if let Some(known) = known {
                return self.merge(&id, &known);
            }
        }
        let stored = knowledge::insert(tx, &fact, &searched)?;
        self.progress.counts.knowledge += 1;
        self.with(&origin, |writing| writing.inserted(Store::Knowledge, stored, &id, &searched))
    }

    /// What belongs to a row that was rewritten in place.
    fn rewritten(
        &mut self,
        store: Store,
        row: i64,
        id: &MemoryId,
        origin: &Origin,
        text: &str,
    ) -> brain::Result<()> {
        lineage::replace(self.tx, id, &[])?;
        self.with(origin, |writing| writing.inserted(store, row, id, text))
    }

    fn skill(&mut self, row: &SkillRow) -> brain::Result<()> {
        let skill = Skill {
            name: row.name.clone(),
            description: row.description.clone(),
            category: row.category.clone(),
            prompt_template: row.prompt_template.clone(),
            scripts: row.scripts.0.iter().map(|s| s.name.clone()).collect(),
            capabilities: row.capabilities.0.clone(),
            confidence: row.confidence.0,
            source: row.source.clone().unwrap_or_default(),
            trust: row.trust.as_str().to_owned(),
        };
        let scripts = row.scripts.0.iter().map(|s| (s.name.clone(), s.content.clone())).collect();
        let is_there = skills::get(self.tx, &row.name)?.is_some();
        let is_full = !self.replaces() && skills::count(self.tx)? >= SKILLS_MAX;
        if (self.ground.is_platform_skill)(&row.name) || (!self.replaces() && (is_there || is_full)) {
            self.progress.skipped += 1;
            return Ok(());
        }
        match is_there {
            true => skills::replace(self.tx, &skill, &scripts, self.now)?,
            false => skills::create(self.tx, &skill, &scripts, self.now)?,
        };
        self.progress.counts.skills += 1;
        self.done.skills = true;
        Ok(())
    }

    fn signal(&mut self, row: &SignalRow) -> brain::Result<()> {
        if signals::get(self.tx, &row.id)?.is_some() {
            if !self.replaces() {
                return Ok(());
            }
            // as it is in the bundle: what was learned from it since goes, too
            signals::delete(self.tx, &row.id)?;
        }
        signals::insert(
            self.tx,
            &Signal {
                signal_id: row.id.clone(),
                message_id: row.message_id.clone(),
                turn_id: row.turn_id.clone(),
                rating: row.rating,
                comment: row.comment.clone(),
                corrected: row.corrected.clone(),
                // what was given later than now would not be in an export, nor go with `replace`
                created_at: row.created_at.min(self.now),
                processed_at: row.processed_at.map(|at| at.min(self.now)),
            },
        )
    }

    fn version(&mut self, row: &VersionRow) -> brain::Result<()> {
        let soul = Soul {
            identity: row.identity.clone(),
            values: row.values.0.clone(),
            patterns: row.patterns.0.clone(),
        };
        // The template of the catalog is in both histories; `replace` takes the bundle's.
        let is_first = !self.replaces() && self.progress.first_version.is_none();
        if is_first && self.present_is(&soul, &row.source)?.is_some() {
            return Ok(());
        }
        self.say(&soul, &row.source, &row.rationale, row.created_at)
    }

    fn soul(&mut self, row: &SoulRow) -> brain::Result<()> {
        let soul = Soul {
            identity: row.identity.clone(),
            values: row.values.0.clone(),
            patterns: row.patterns.0.clone(),
        };
        match self.present_is(&soul, &row.source)? {
            // the last version of the history is the present soul
            Some(version) => {
                self.progress.first_version.get_or_insert(version);
                Ok(())
            }
            None => self.say(&soul, &row.source, SOUL_REASON, row.updated_at),
        }
    }

    /// The number of the present version, if it says this.
    fn present_is(&self, soul: &Soul, source: &str) -> brain::Result<Option<i64>> {
        let present = soul::get(self.tx)?;
        let same = present.filter(|there| there.soul == *soul && there.source.as_str() == source);
        Ok(same.map(|there| there.version))
    }

    /// Writes a version of the soul.
    fn say(&mut self, soul: &Soul, source: &str, rationale: &str, at: Timestamp) -> brain::Result<()> {
        if !self.progress.takes_soul {
            return Ok(());
        }
        let source = Source::parse(source).unwrap_or(Source::User);
        let version = soul::set(self.tx, soul, source, rationale, at)?;
        self.progress.first_version.get_or_insert(version);
        Ok(())
    }
}

/// The row of which the gate finds that it says so already; it is confirmed then.
fn known(
    writing: &mut Writing<'_>,
    candidate: &Candidate<'_>,
    like: &[Like],
) -> brain::Result<Option<MemoryId>> {
    let Fate::Known { id, lifted } = writing.fate(candidate, like)? else { return Ok(None) };
    match &id {
        MemoryId::Episode(id) if lifted => write::lift_episode(writing, id)?,
        MemoryId::Fact(id) if lifted => write::lift_fact(writing, id)?,
        MemoryId::Episode(_) | MemoryId::Fact(_) | MemoryId::Node(_) | MemoryId::Edge(_) => {}
    }
    Ok(Some(id))
}
