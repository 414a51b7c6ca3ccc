//! The sign codes of all vectors in RAM, and the names of the social graph: derived data, brought in after the start and
//! kept up with every commit.
//!
//! Rows that a commit has touched are marked first and brought in by one worker, which reads them from the brain again;
//! so commits told out of order still end in the present state. Until then a marked row takes part in every search by
//! itself: it is compared exactly, whatever its code says.
//!
//! The invariant: once its commit has been told, a row that is neither marked nor still to be filled has exactly the code
//! of its stored vector.

use ::memory::mirror::Mirror;
use ::memory::vector::Code;
use brain::memory::vectors::{self, Model};
use brain::memory::{Stored, nodes};
use brain::{Brain, Tx};
use contract::memory::Store;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use tokio::sync::Notify;

/// Rows read at once while filling. More keeps a reader of the brain from others for longer; fewer costs a transaction
/// for less.
const PAGE: u32 = 1000;
/// Marked rows brought in at once.
const MARKED_PAGE: usize = 500;
/// Marked rows of one store that a search compares by themselves: the newest. More would let a search during an import
/// read all that was imported; fewer could miss what was written a moment ago.
pub(super) const MARKED_SEARCHED: usize = 1000;

/// What is held in RAM of one brain.
pub(super) struct Mirrors {
    model: Model,
    codes: [RwLock<Mirror>; 3],
    names: RwLock<Names>,
    marked: Mutex<Marked>,
    /// Told when rows are marked.
    pub(super) wake: Notify,
    /// Held from reading rows to bringing them in: an older reading never comes after a newer one.
    alone: tokio::sync::Mutex<()>,
    filled: AtomicBool,
}

/// Rows whose code may be out of date, each with the count at its last marking.
#[derive(Default)]
struct Marked {
    count: u64,
    rows: BTreeMap<(Store, i64), u64>,
}

/// What the nodes are called, by row and by name.
#[derive(Default)]
struct Names {
    of_row: HashMap<i64, Vec<String>>,
    rows: HashMap<String, usize>,
}

impl Names {
    fn put(&mut self, row: i64, norms: Vec<String>) {
        self.remove(row);
        for norm in &norms {
            *self.rows.entry(norm.clone()).or_default() += 1;
        }
        self.of_row.insert(row, norms);
    }

    fn remove(&mut self, row: i64) {
        for norm in self.of_row.remove(&row).unwrap_or_default() {
            if let Some(count) = self.rows.get_mut(&norm) {
                *count -= 1;
                if *count == 0 {
                    self.rows.remove(&norm);
                }
            }
        }
    }
}

const fn place(store: Store) -> usize {
    match store {
        Store::Episodes => 0,
        Store::Knowledge => 1,
        Store::Social => 2,
    }
}

/// A marked row as the brain has it now.
struct Present {
    store: Store,
    row: i64,
    count: u64,
    code: Option<Code>,
    names: Option<Vec<String>>,
}

impl Mirrors {
    /// Empty, for the vectors of this model.
    pub(super) fn new(model: Model) -> Self {
        let empty = || RwLock::new(Mirror::new(model.dim as usize));
        Self {
            codes: [empty(), empty(), empty()],
            model,
            names: RwLock::default(),
            marked: Mutex::default(),
            wake: Notify::new(),
            alone: tokio::sync::Mutex::default(),
            filled: AtomicBool::new(false),
        }
    }

    /// Marks rows whose vector or names may have changed.
    pub(super) fn mark(&self, rows: &[(Store, i64)]) {
        if rows.is_empty() {
            return;
        }
        let mut marked = self.marked();
        marked.count += 1;
        let count = marked.count;
        marked.rows.extend(rows.iter().map(|row| (*row, count)));
        drop(marked);
        self.wake.notify_one();
    }

    /// The `n` rows of a store that are nearest to a code, and the newest marked ones: what an exact comparison must look
    /// at.
    pub(super) fn near(&self, store: Store, code: &Code, n: usize, marked: usize) -> Vec<i64> {
        // Marked rows first: one that is brought in meanwhile is then found by its code.
        let mut rows = self.marked_rows(store, marked);
        let mirror = self.codes[place(store)].read().unwrap_or_else(PoisonError::into_inner);
        let near = mirror.nearest(code, n).unwrap_or_default();
        drop(mirror);
        rows.extend(near.into_iter().map(|near| near.id));
        rows.sort_unstable();
        rows.dedup();
        rows
    }

    /// The marked rows of a store, newest first.
    fn marked_rows(&self, store: Store, most: usize) -> Vec<i64> {
        let marked = self.marked();
        let of_store = marked.rows.range((store, i64::MIN)..=(store, i64::MAX));
        of_store.rev().map(|((_, row), _)| *row).take(most).collect()
    }

    /// Those of the texts that are the name or alias of a node. `tx` tells the names of marked nodes.
    pub(super) fn known_names(&self, tx: &Tx<'_>, texts: Vec<String>) -> brain::Result<Vec<String>> {
        let marked = nodes::by_rows(tx, &self.marked_rows(Store::Social, MARKED_SEARCHED))?;
        let fresh = |text: &String| {
            marked.iter().any(|n| n.item.name_norm == *text || n.item.aliases_norm.contains(text))
        };
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        Ok(texts.into_iter().filter(|text| names.rows.contains_key(text) || fresh(text)).collect())
    }

    /// Brings everything in, page by page. Doing it again does nothing.
    pub(super) async fn fill(&self, brain: &Brain) -> brain::Result<()> {
        if self.filled.load(Ordering::Acquire) {
            return Ok(());
        }
        for store in [Store::Knowledge, Store::Social, Store::Episodes] {
            let mut after = i64::MIN;
            while let Some(last) = self.fill_codes(brain, store, after).await? {
                after = last;
            }
        }
        let mut after = i64::MIN;
        while let Some(last) = self.fill_names(brain, after).await? {
            after = last;
        }
        self.filled.store(true, Ordering::Release);
        Ok(())
    }

    async fn fill_codes(&self, brain: &Brain, store: Store, after: i64) -> brain::Result<Option<i64>> {
        let _alone = self.alone.lock().await;
        let model = self.model.clone();
        let codes: Vec<Stored<Option<Code>>> = brain
            .read("memory.codes", move |tx| {
                let page = vectors::page(tx, store, &model, after, PAGE)?;
                Ok(page.into_iter().map(|v| Stored { row: v.row, item: code_of(&v.item, &model) }).collect())
            })
            .await?;
        let last = codes.last().map(|c| c.row);
        let mut mirror = self.codes[place(store)].write().unwrap_or_else(PoisonError::into_inner);
        for Stored { row, item } in codes {
            put(&mut mirror, row, item.as_ref());
        }
        Ok(last)
    }

    async fn fill_names(&self, brain: &Brain, after: i64) -> brain::Result<Option<i64>> {
        let _alone = self.alone.lock().await;
        let page = brain.read("memory.names", move |tx| nodes::names(tx, after, PAGE)).await?;
        let last = page.last().map(|n| n.row);
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        page.into_iter().for_each(|n| names.put(n.row, n.norms));
        Ok(last)
    }

    /// Brings marked rows in until none is marked.
    pub(super) async fn settle(&self, brain: &Brain) -> brain::Result<()> {
        loop {
            let _alone = self.alone.lock().await;
            let marked: Vec<((Store, i64), u64)> =
                self.marked().rows.iter().take(MARKED_PAGE).map(|(row, count)| (*row, *count)).collect();
            if marked.is_empty() {
                return Ok(());
            }
            let model = self.model.clone();
            let present = brain
                .read("memory.follow", move |tx| {
                    marked
                        .into_iter()
                        .map(|((store, row), count)| look(tx, &model, store, row, count))
                        .collect()
                })
                .await?;
            self.take_in(present);
        }
    }

    fn take_in(&self, present: Vec<Present>) {
        for row in &present {
            let mut mirror = self.codes[place(row.store)].write().unwrap_or_else(PoisonError::into_inner);
            put(&mut mirror, row.row, row.code.as_ref());
            drop(mirror);
            if row.store == Store::Social {
                let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
                match &row.names {
                    Some(norms) => names.put(row.row, norms.clone()),
                    None => names.remove(row.row),
                }
            }
        }
        let mut marked = self.marked();
        for row in present {
            // Marked again meanwhile: what was read may be old.
            if marked.rows.get(&(row.store, row.row)) == Some(&row.count) {
                marked.rows.remove(&(row.store, row.row));
            }
        }
    }

    fn marked(&self) -> MutexGuard<'_, Marked> {
        self.marked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many codes of a store are held, and whether it has exactly this one.
    #[cfg(test)]
    pub(super) fn holds(&self, store: Store, codes: &[(i64, Code)]) -> bool {
        let mirror = self.codes[place(store)].read().unwrap_or_else(PoisonError::into_inner);
        mirror.len() == codes.len()
            && codes.iter().all(|(row, code)| {
                let near = mirror.nearest(code, mirror.len()).unwrap_or_default();
                near.iter().any(|n| n.id == *row && n.distance == 0)
            })
    }
}

fn look(tx: &Tx<'_>, model: &Model, store: Store, row: i64, count: u64) -> brain::Result<Present> {
    let code =
        vectors::of_rows(tx, store, model, &[row], |_, blob| Ok(code_of(blob, model)))?.pop().flatten();
    let names = match store {
        Store::Social => nodes::by_rows(tx, &[row])?.pop().map(|n| {
            let mut norms = n.item.aliases_norm;
            norms.insert(0, n.item.name_norm);
            norms
        }),
        Store::Episodes | Store::Knowledge => None,
    };
    Ok(Present { store, row, count, code, names })
}

fn code_of(blob: &[u8], model: &Model) -> Option<Code> {
    Code::of_blob(blob, model.dim as usize).ok()
}

fn put(mirror: &mut Mirror, row: i64, code: Option<&Code>) {
    match code {
        // The code is of the mirror's own dimension.
        Some(code) => drop(mirror.insert(row, code)),
        None => drop(mirror.remove(row)),
    }
}
