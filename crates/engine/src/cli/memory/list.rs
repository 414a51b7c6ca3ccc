//! `memory list`: the newest of each store, the page after a memory, or everything from the newest to the oldest.
//!
//! The invariant: however large the brain is, no more than one page of it is in memory.

use super::{COLUMNS, LIMIT_MAX, line, number, told};
use crate::cli::Exit;
use crate::memory::{Hit, Memory, shown};
use brain::memory::MemoryId;
use chassis::terminal;
use contract::memory::Store;
use std::io::{ErrorKind, Write};

/// What is to be shown.
pub(super) struct Listing {
    /// One store, or all three.
    pub(super) store: Option<Store>,
    /// Only what is older than this memory, of its store.
    pub(super) before: Option<String>,
    /// How much of it.
    pub(super) much: Much,
    /// For programs.
    pub(super) json: bool,
}

/// How much is shown.
pub(super) enum Much {
    /// So many of each store.
    Of(usize),
    /// As many as there are.
    All,
}

/// Prints it.
pub(super) async fn list(memory: &Memory, wanted: Listing) -> brain::Result<Exit> {
    let Listing { store, before, much, json } = wanted;
    let before = match before.map(|text| place(&text, store)).transpose() {
        Ok(before) => before,
        Err(why) => return Ok(Exit::Configuration.because(&why)),
    };
    let one = before.as_ref().map(MemoryId::store).or(store);
    let stores = one.map_or_else(|| Store::ALL.to_vec(), |store| vec![store]);
    match much {
        Much::All => all(memory, &stores, before, json).await,
        Much::Of(limit) => {
            let mut hits: Vec<Hit> = Vec::new();
            for store in stores {
                match memory.newest(store, before.clone(), limit).await? {
                    Some(found) => hits.extend(found),
                    None => return Ok(gone(before.as_ref())),
                }
            }
            Ok(told(&hits, false, json))
        }
    }
}

/// The memory after which a list goes on.
fn place(text: &str, store: Option<Store>) -> Result<MemoryId, String> {
    let name = terminal::one_line(&terminal::clean(text), COLUMNS);
    match MemoryId::parse(text) {
        None => Err(format!("{name} is no id of a memory; `memory list` shows them")),
        Some(MemoryId::Edge(_)) => {
            Err(format!("{name} is a relation; lists go by the soc- ids of who has them"))
        }
        Some(id) => match store {
            Some(store) if store != id.store() => Err(format!("{name} is of {}, not of {store}", id.store())),
            Some(_) | None => Ok(id),
        },
    }
}

fn gone(before: Option<&MemoryId>) -> Exit {
    Exit::fail(&format!("there is no memory {}", before.map(MemoryId::as_str).unwrap_or_default()))
}

async fn all(memory: &Memory, stores: &[Store], before: Option<MemoryId>, json: bool) -> brain::Result<Exit> {
    let page = number(LIMIT_MAX);
    let mut out = Pages { out: std::io::stdout().lock(), json, any: false };
    for store in stores {
        let mut before = before.clone();
        loop {
            let Some(hits) = memory.newest(*store, before.clone(), page).await? else {
                return Ok(gone(before.as_ref()));
            };
            let Some(last) = hits.last() else { break };
            before = Some(last.item.id());
            if let Err(error) = out.page(&hits) {
                return Ok(unwritten(&error));
            }
        }
    }
    Ok(out.end().map_or_else(|error| unwritten(&error), |()| Exit::Success))
}

/// A reader that has seen enough is no failure.
fn unwritten(error: &std::io::Error) -> Exit {
    match error.kind() {
        ErrorKind::BrokenPipe => Exit::Success,
        _ => Exit::fail(&format!("write the list: {error}")),
    }
}

/// A list that is written while it is read: rows, or one JSON array.
struct Pages<W> {
    out: W,
    json: bool,
    any: bool,
}

impl<W: Write> Pages<W> {
    fn page(&mut self, hits: &[Hit]) -> std::io::Result<()> {
        if self.json {
            for hit in hits {
                let before = if self.any { ",\n" } else { "[\n" };
                write!(self.out, "{before}{}", shown(&hit.item, None))?;
                self.any = true;
            }
        } else {
            let rows: Vec<Vec<String>> = hits.iter().map(|hit| line(&hit.item)).collect();
            self.out.write_all(terminal::table(&rows, COLUMNS).as_bytes())?;
            self.any |= !hits.is_empty();
        }
        self.out.flush()
    }

    fn end(&mut self) -> std::io::Result<()> {
        let text = match (self.json, self.any) {
            (true, true) => "\n]\n",
            (true, false) => "[]\n",
            (false, true) => "",
            (false, false) => "nothing\n",
        };
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }
}
