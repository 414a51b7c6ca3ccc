//! The present catalog, those that running turns keep, and how a new one comes: by a reload, or by a change
//! of the custom skills.
//!
//! The invariant: a turn that is pinned sees the same snapshot until it ends, however long it is paused.

use super::entries::{self, Entries, HooksFile};
use super::files::{Files, InMemory, OnDisk};
use super::problem::Problem;
use super::skill::Skill;
use super::snapshot::{Catalog, Models};
use crate::config::Config;
use crate::tools::registry::Registry;
use crate::tools::tool::Tool;
use brain::Brain;
use contract::TurnId;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Where the catalog comes from and what it is judged by.
#[derive(Debug, Clone)]
pub struct Place {
    /// CATALOG_DIR.
    pub dir: Option<PathBuf>,
    /// The hook settings file, when hooks are read at all.
    pub hooks: Option<HooksFile>,
    /// What the models of agents are judged by.
    pub models: Models,
}

impl Place {
    /// Reads the entries; what is bad keeps what `before` has.
    pub fn read(&self, platform: &Registry, before: &Entries) -> (Entries, Vec<Problem>) {
        let mut problems = Vec::new();
        let opened = self.dir.as_deref().map(OnDisk::open).transpose();
        let files: Box<dyn Files> = match opened {
            Ok(Some(files)) => Box::new(files),
            Ok(None) => Box::new(InMemory::default()),
            Err(error) => {
                let fix = "make the directory readable for the Engine's user, or unset CATALOG_DIR";
                problems.push(Problem::error("CATALOG_DIR", "", format!("cannot be read: {error}"), fix));
                return (before.clone(), problems);
            }
        };
        let entries = entries::read(files.as_ref(), self.hooks.as_ref(), platform, before, &mut problems);
        (entries, problems)
    }
}

/// The present catalog.
#[derive(Debug)]
pub struct Shelf {
    place: Place,
    platform: Registry,
    brain: Option<Brain>,
    inner: Mutex<Inner>,
    /// Held for a whole reading, so that an older reading never comes after a newer one.
    reading: Mutex<()>,
}

#[derive(Debug)]
struct Inner {
    entries: Entries,
    custom: Vec<Arc<Skill>>,
    /// Platform functions and the actions of connectors.
    functions: Registry,
    present: Arc<Catalog>,
    pinned: HashMap<TurnId, Arc<Catalog>>,
}

/// What a reading of the catalog brought.
#[derive(Debug)]
pub struct Loaded {
    /// The snapshot.
    pub catalog: Arc<Catalog>,
    /// Errors and warnings, by file.
    pub problems: Vec<Problem>,
}

impl Shelf {
    /// Reads the catalog for the first time. Without a brain the scripts of custom skills cannot be run.
    pub fn open(
        place: Place,
        platform: Registry,
        brain: Option<Brain>,
        custom: &[brain::skills::Skill],
    ) -> (Self, Loaded) {
        let (entries, mut problems) = place.read(&platform, &Entries::default());
        let custom: Vec<Arc<Skill>> = custom.iter().map(|s| Arc::new(Skill::custom(s))).collect();
        let catalog = Arc::new(Catalog::assemble(
            1,
            &entries,
            &platform,
            &custom,
            &place.models,
            brain.as_ref(),
            &mut problems,
        ));
        problems.sort();
        let functions = platform.clone();
        let inner =
            Inner { entries, custom, functions, present: Arc::clone(&catalog), pinned: HashMap::new() };
        let shelf = Self { place, platform, brain, inner: Mutex::new(inner), reading: Mutex::new(()) };
        (shelf, Loaded { catalog, problems })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest version.
    pub fn present(&self) -> Arc<Catalog> {
        Arc::clone(&self.lock().present)
    }

    /// Keeps the newest version for a turn, unless it keeps one already, and returns what it keeps.
    pub fn pin(&self, turn: &TurnId) -> Arc<Catalog> {
        let mut inner = self.lock();
        let present = Arc::clone(&inner.present);
        Arc::clone(inner.pinned.entry(turn.clone()).or_insert(present))
    }

    /// A turn is over.
    pub fn unpin(&self, turn: &TurnId) {
        self.lock().pinned.remove(turn);
    }

    /// Reads everything again. Blocks on the disk; callers give it a thread.
    pub fn reload(&self) -> Loaded {
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.lock().entries.clone();
        let (entries, mut problems) = self.place.read(&self.platform, &before);
        let mut inner = self.lock();
        let catalog = self.assembled(&inner, &entries, &inner.custom, &mut problems);
        inner.entries = entries;
        inner.present = Arc::clone(&catalog);
        problems.sort();
        Loaded { catalog, problems }
    }

    /// Takes the custom skills as they are after a committed change.
    pub fn set_custom(&self, stored: &[brain::skills::Skill]) {
        let custom: Vec<Arc<Skill>> = stored.iter().map(|s| Arc::new(Skill::custom(s))).collect();
        let mut inner = self.lock();
        let catalog = self.assembled(&inner, &inner.entries, &custom, &mut Vec::new());
        inner.custom = custom;
        inner.present = catalog;
    }

    /// Takes what the connectors offer now. Turns under way keep what they began with.
    pub fn set_connected(&self, tools: Vec<Arc<dyn Tool>>) {
        let mut functions = self.platform.clone();
        for tool in tools {
            let name = tool.name().to_owned();
            if let Err(bad) = functions.add_connected(tool) {
                tracing::warn!(tool = name, "An action of a connector cannot be offered: {bad}");
            }
        }
        let mut inner = self.lock();
        inner.functions = functions;
        inner.present = self.assembled(&inner, &inner.entries, &inner.custom, &mut Vec::new());
    }

    fn assembled(
        &self,
        inner: &Inner,
        entries: &Entries,
        custom: &[Arc<Skill>],
        problems: &mut Vec<Problem>,
    ) -> Arc<Catalog> {
        let version = inner.present.version() + 1;
        let models = &self.place.models;
        Arc::new(Catalog::assemble(
            version,
            entries,
            &inner.functions,
            custom,
            models,
            self.brain.as_ref(),
            problems,
        ))
    }
}

/// Reads the catalog as `serve` would, for a report; custom skills are not looked at.
pub fn look(config: &Config) -> Result<(Arc<Catalog>, Vec<Problem>), String> {
    let tools = crate::serve::platform_tools(config).map_err(|e| e.to_string())?;
    let (_, loaded) = Shelf::open(crate::serve::catalog_place(config), tools, None, &[]);
    Ok((loaded.catalog, loaded.problems))
}

/// Logs every problem: an error means that a person must act.
pub fn log(problems: &[Problem]) {
    for problem in problems {
        if problem.is_error() {
            tracing::error!(code = "CATALOG", file = %problem.file, "The catalog has a bad entry: {problem}");
        } else {
            tracing::warn!(file = %problem.file, "The catalog has an odd entry: {problem}");
        }
    }
}
