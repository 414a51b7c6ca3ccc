//! The one way in: every memory passes here, whoever writes it (specification 10.3).
//!
//! Cleaned, compared with what was recalled and with what is there, and then inserted, merged into a row that says the
//! same, or rejected. All of it happens in the transaction of the caller, who tells [`super::Memory::changed`] after the
//! commit. What is decided, the crate `memory` decides; here is looked up what it needs to know.
//!
//! The invariant: a row, its full-text entry, its lineage and the vector that is known become true together.

use super::find;
use super::item::{Origin, Outcome, Touched, Wanted, Written};
use super::vectors::Prepared;
use super::{social, write};
use ::memory::confidence::{self, CONFIRMATION};
use ::memory::field::{self, Field};
use ::memory::gate::{self, Candidate, Comparison, Neighbour, Rejection, Verdict};
use ::memory::vector::Code;
use brain::Tx;
use brain::memory::counters::{self, Counters};
use brain::memory::episodes::Episode;
use brain::memory::knowledge::Fact;
use brain::memory::{MemoryId, Provenance, Stored, lineage, search, standing};
use contract::Timestamp;
use contract::memory::{Store, Trust};
use std::collections::{BTreeSet, HashMap};

/// Nearest rows by words, and as many by vector, that a new memory is compared with. More makes a write read more rows;
/// fewer overlooks the same statement in other words.
const NEAR_ROWS: usize = 16;
/// Rows written a moment ago that a new memory is compared with as well. More makes every write of an import slower;
/// fewer lets two writes of the same instant both in.
const NEAR_MARKED: usize = 32;
/// What `memory_rejected_total` calls a field that is refused.
const REFUSED: &str = "refused";
/// What it calls a relation whose end is nobody, or that leads to itself.
const NOBODY: &str = "nobody";

/// One memory through the write gate, in a transaction that somebody else has opened. What does not pass
/// [`Wanted::checked`] is rejected.
pub fn write_in(
    tx: &Tx<'_>,
    wanted: &Wanted,
    origin: &Origin,
    vectors: &Prepared,
    now: Timestamp,
) -> brain::Result<(Written, Touched)> {
    let store = wanted.store();
    let checked = (wanted.clone().checked(), checked_origin(origin));
    let (Ok(wanted), Ok(origin)) = checked else {
        return Ok((rejected(), Touched { rejected: vec![REFUSED], ..Touched::default() }));
    };
    let mut writing = Writing { tx, origin: &origin, vectors, now, touched: Touched::default() };
    let written = match wanted {
        Wanted::Episode(new) => write::episode(&mut writing, new)?,
        Wanted::Fact(new) => write::fact(&mut writing, new)?,
        Wanted::Node(new) => social::node(&mut writing, new)?,
        Wanted::Edge(new) => social::edge(&mut writing, new)?,
    };
    if written.outcome == Outcome::Duplicate {
        counters::add(tx, store, Counters { duplicate: 1, ..Counters::default() })?;
    }
    Ok((written, writing.touched))
}

fn checked_origin(origin: &Origin) -> Result<Origin, field::Refused> {
    Ok(Origin {
        source: field::text(Field::Source, &origin.source)?,
        rationale: field::text(Field::Rationale, &origin.rationale)?,
        confidence: confidence::within(origin.confidence),
        ..origin.clone()
    })
}

/// The answer when nothing is kept.
pub(super) fn rejected() -> Written {
    Written { outcome: Outcome::Rejected, item: None, closed: Vec::new() }
}

/// One write under way.
pub(super) struct Writing<'w> {
    pub(super) tx: &'w Tx<'w>,
    pub(super) origin: &'w Origin,
    pub(super) vectors: &'w Prepared,
    pub(super) now: Timestamp,
    pub(super) touched: Touched,
}

/// A row that may say the same. Made only by [`Writing::like_episodes`] and [`Writing::like_facts`], so that no writer
/// can take nearness for sameness where it is none.
pub(super) struct Like {
    id: MemoryId,
    key: String,
    text: String,
    cosine: Option<f32>,
    provenance: Provenance,
    /// False for what has ended, which is never merged into.
    open: bool,
}

/// What becomes of what is written.
pub(super) enum Fate {
    /// It gets a row.
    New,
    /// This row says so already; it has been confirmed, and lifted when that is true.
    Known { id: MemoryId, lifted: bool },
    /// It only repeats what was recalled.
    Echo,
}

impl Writing<'_> {
    /// Asks the gate, and confirms the row that says the same.
    pub(super) fn fate(&mut self, candidate: &Candidate<'_>, like: &[Like]) -> brain::Result<Fate> {
        let neighbours: Vec<Neighbour<'_, &MemoryId>> = like
            .iter()
            .map(|l| Neighbour {
                id: &l.id,
                key: &l.key,
                text: &l.text,
                cosine: l.cosine,
                confidence: l.provenance.confidence,
                trust: l.provenance.trust,
                open: l.open,
            })
            .collect();
        let recalled: Vec<&str> = self.origin.recalled.iter().map(String::as_str).collect();
        match gate::decide(candidate, &recalled, &neighbours) {
            Verdict::Insert => Ok(Fate::New),
            Verdict::Reject(Rejection::Recalled) => Ok(Fate::Echo),
            Verdict::Merge { into, trust, .. } => {
                let row = like.iter().find(|l| l.id == *into).expect("the gate names a row it was shown");
                let lifted = self.confirm(into, row.provenance.trust, trust)?;
                Ok(Fate::Known { id: into.clone(), lifted })
            }
        }
    }

    /// Whether a text only repeats what was recalled in its turn.
    pub(super) fn is_echo(&self, text: &str) -> bool {
        self.origin.recalled.iter().any(|recalled| gate::is_echo(text, recalled))
    }

    /// Counts an echo.
    pub(super) fn echo(&mut self, store: Store) -> brain::Result<Written> {
        self.touched.rejected.push(Rejection::Recalled.as_str());
        counters::add(self.tx, store, Counters { recalled_rejected: 1, ..Counters::default() })?;
        Ok(rejected())
    }

    /// Counts a relation to nobody.
    pub(super) fn nobody(&mut self) -> Written {
        self.touched.rejected.push(NOBODY);
        rejected()
    }

    /// The rows that may be nearly the same as a text.
    pub(super) fn near(&self, store: Store, comparison: Comparison, text: &str) -> brain::Result<Vec<i64>> {
        if comparison == Comparison::ExactOnly {
            return Ok(Vec::new());
        }
        let by_words = find::by_words(self.tx, store, text, NEAR_ROWS)?;
        let mut rows: BTreeSet<i64> = by_words.into_iter().map(|(row, _)| row).collect();
        if let Some(vector) = self.vectors.vector(text) {
            let code = Code::of(&vector);
            rows.extend(self.vectors.mirrors().near(store, &code, NEAR_ROWS, NEAR_MARKED));
        }
        Ok(rows.into_iter().collect())
    }

    /// Episodes that may say the same as a text.
    pub(super) fn like_episodes(
        &self,
        there: Vec<Stored<Episode>>,
        comparison: Comparison,
        text: &str,
    ) -> brain::Result<Vec<Like>> {
        let cosines = self.cosines(Store::Episodes, comparison, text, there.iter().map(|e| e.row))?;
        let like = |e: Stored<Episode>| Like {
            id: MemoryId::Episode(e.item.episode_id),
            key: e.item.key,
            text: write::compared(&e.item.description, e.item.value.as_deref()),
            cosine: cosines.get(&e.row).copied(),
            provenance: e.item.provenance,
            open: true,
        };
        Ok(there.into_iter().map(like).collect())
    }

    /// Facts that may say the same as a text. History is compared with history: of a fact that has ended (`is_past`)
    /// the open ones are those that have ended, too.
    pub(super) fn like_facts(
        &self,
        there: Vec<Stored<Fact>>,
        comparison: Comparison,
        text: &str,
        is_past: bool,
    ) -> brain::Result<Vec<Like>> {
        let cosines = self.cosines(Store::Knowledge, comparison, text, there.iter().map(|f| f.row))?;
        let like = |f: Stored<Fact>| Like {
            id: MemoryId::Fact(f.item.fact_id),
            key: f.item.subject,
            text: f.item.content,
            cosine: cosines.get(&f.row).copied(),
            provenance: f.item.provenance,
            open: write::has_ended(f.item.valid_until, self.now) == is_past,
        };
        Ok(there.into_iter().map(like).collect())
    }

    /// The cosines of rows to a text, as far as they tell statements apart: none while the text has no vector, where
    /// nothing is asked about nearness, or where the vectors know words only. Then letters and words decide.
    pub(super) fn cosines(
        &self,
        store: Store,
        comparison: Comparison,
        text: &str,
        rows: impl Iterator<Item = i64>,
    ) -> brain::Result<HashMap<i64, f32>> {
        let vector = match comparison {
            Comparison::ExactAndNear if self.vectors.tells_sameness() => self.vectors.vector(text),
            Comparison::ExactAndNear | Comparison::ExactOnly => None,
        };
        let Some(vector) = vector else { return Ok(HashMap::new()) };
        let rows: BTreeSet<i64> = rows.collect();
        let rows: Vec<i64> = rows.into_iter().collect();
        Ok(find::cosines(self.tx, store, self.vectors.model(), &vector, &rows)?.into_iter().collect())
    }

    /// Confirms a row of trust `old`; true when it is lifted to `trust`, because the very same was said by somebody
    /// trusted more.
    pub(super) fn confirm(&mut self, id: &MemoryId, old: Trust, trust: Trust) -> brain::Result<bool> {
        standing::confirm(self.tx, id, CONFIRMATION, self.now)?;
        let lifted = trust > old;
        let own_sake = self.origin.lineage.is_empty();
        if lifted || (own_sake && self.origin.trust >= old) {
            lineage::replace(self.tx, id, &self.origin.lineage)?;
        } else if self.origin.trust >= old && !lineage::parents(self.tx, id)?.is_empty() {
            // A row without parents stands for its own sake and must not begin to depend on something.
            lineage::add(self.tx, id, &self.origin.lineage)?;
        }
        Ok(lifted)
    }

    /// The standing of what is written, for a row that is lifted to it.
    pub(super) fn lift(&self, provenance: &mut Provenance) {
        provenance.trust = self.origin.trust;
        provenance.source.clone_from(&self.origin.source);
        provenance.rationale.clone_from(&self.origin.rationale);
    }

    /// The standing of a new row.
    pub(super) fn provenance(&self) -> Provenance {
        Provenance {
            confidence: self.origin.confidence,
            trust: self.origin.trust,
            source: self.origin.source.clone(),
            rationale: self.origin.rationale.clone(),
            last_confirmed_at: self.now,
            created_at: self.now,
            updated_at: self.now,
        }
    }

    /// What a new memory rests on.
    pub(super) fn rests_on(&self, id: &MemoryId) -> brain::Result<()> {
        lineage::add(self.tx, id, &self.origin.lineage)
    }

    /// A row to be brought into RAM again.
    pub(super) fn touch(&mut self, store: Store, row: i64) {
        self.touched.rows.push((store, row));
    }

    /// What belongs to a new row: its lineage and its vector.
    pub(super) fn inserted(
        &mut self,
        store: Store,
        row: i64,
        id: &MemoryId,
        text: &str,
    ) -> brain::Result<()> {
        self.rests_on(id)?;
        self.touched.unembedded |= !self.vectors.store(self.tx, store, row, text, self.now)?;
        self.touch(store, row);
        Ok(())
    }

    /// Nodes whose text has changed: their vectors are gone and come back where that costs nothing.
    pub(super) fn rewritten(&mut self, rows: Vec<i64>) -> brain::Result<()> {
        self.touched.unembedded |= !embed_nodes(self.tx, self.vectors, &rows, self.now)?;
        self.touched.rows.extend(rows.into_iter().map(|row| (Store::Social, row)));
        Ok(())
    }

    /// The answer, with the row as it is now.
    pub(super) fn written(
        &self,
        outcome: Outcome,
        id: &MemoryId,
        closed: Vec<MemoryId>,
    ) -> brain::Result<Written> {
        Ok(Written { outcome, item: find::get(self.tx, id)?, closed })
    }
}

/// Stores the vectors of nodes whose text has changed, as far as they are known; false when one is not.
pub(super) fn embed_nodes(
    tx: &Tx<'_>,
    vectors: &Prepared,
    rows: &[i64],
    now: Timestamp,
) -> brain::Result<bool> {
    let mut all = true;
    for text in search::texts(tx, Store::Social, rows)? {
        all &= vectors.store(tx, Store::Social, text.row, &text.item, now)?;
    }
    Ok(all)
}
