//! What is known about the shell at one point of a command: directory, variables, functions, input.
//!
//! Where a command may have gone two ways, both remain possible: [`State::join`].
//!
//! The invariant: joining never forgets a possibility.

use crate::tree::Tree;
use crate::words::Value;
use brush_parser::ast;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

/// Possible working directories followed in one command. More than a script honestly needs; beyond it the directory
/// counts as unknown.
pub const MAX_DIRECTORIES: usize = 16;

/// What a command reads when nothing else is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Input {
    /// What the whole command reads: nothing.
    #[default]
    None,
    /// The output of something.
    Unknown,
    /// Names of things below these directories.
    NamesBelow(Vec<PathBuf>),
    /// This text.
    Text(String),
}

/// A function as it was defined.
#[derive(Debug, Clone)]
pub(crate) struct Function {
    pub tree: Arc<Tree>,
    pub body: Arc<ast::FunctionBody>,
}

/// The shell at one point.
#[derive(Debug, Clone)]
pub(crate) struct State {
    /// Every directory it may be in.
    pub directories: Vec<PathBuf>,
    /// The same as the shell calls them: `cd ..` leaves a link by the way it came.
    pub named: Vec<PathBuf>,
    /// It may also be anywhere else.
    pub lost: bool,
    /// Every directory it has been in.
    pub visited: Vec<PathBuf>,
    /// Variables that were assigned or are known from the start.
    pub variables: BTreeMap<String, Value>,
    /// Variables that other processes see as well.
    pub exported: BTreeSet<String>,
    /// `$1`, `$2`, …
    pub positional: Value,
    /// Functions by name, with every definition that may hold.
    pub functions: BTreeMap<String, Vec<Function>>,
    /// Standard input.
    pub input: Input,
}

impl State {
    /// Goes to one of `directories`, called `named`.
    pub fn enter(&mut self, directories: Vec<PathBuf>, named: Vec<PathBuf>) {
        for directory in self.directories.iter().chain(&directories) {
            if !self.visited.contains(directory) {
                self.visited.push(directory.clone());
            }
        }
        self.directories = Vec::new();
        self.named = Vec::new();
        self.also_in(directories);
        self.also_named(named);
    }

    /// May also be in one of `directories`.
    pub fn also_in(&mut self, directories: Vec<PathBuf>) {
        for directory in directories {
            if !self.directories.contains(&directory) {
                self.directories.push(directory);
            }
        }
        if self.directories.len() > MAX_DIRECTORIES {
            self.directories.truncate(MAX_DIRECTORIES);
            self.lost = true;
        }
    }

    /// May also be called one of `named`.
    pub fn also_named(&mut self, named: Vec<PathBuf>) {
        for directory in named {
            if !self.named.contains(&directory) {
                self.named.push(directory);
            }
        }
        if self.named.len() > MAX_DIRECTORIES {
            self.named.truncate(MAX_DIRECTORIES);
            self.lost = true;
        }
    }

    /// Either this or the other.
    pub fn join(&mut self, other: State) {
        self.also_in(other.directories);
        self.also_named(other.named);
        self.lost |= other.lost;
        for directory in other.visited {
            if !self.visited.contains(&directory) {
                self.visited.push(directory);
            }
        }
        for (name, value) in &mut self.variables {
            let theirs = other.variables.get(name).cloned().unwrap_or(Value::Unknown);
            let ours = std::mem::replace(value, Value::Unknown);
            *value = ours.or(theirs);
        }
        for name in other.variables.into_keys() {
            self.variables.entry(name).or_insert(Value::Unknown);
        }
        // What one way does not export may be unset there.
        self.exported = self.exported.intersection(&other.exported).cloned().collect();
        if self.positional != other.positional {
            self.positional = Value::Unknown;
        }
        for (name, theirs) in other.functions {
            let ours = self.functions.entry(name).or_default();
            for function in theirs {
                if !ours.iter().any(|f| Arc::ptr_eq(&f.body, &function.body)) {
                    ours.push(function);
                }
            }
        }
    }

    /// True when a loop need not be walked again.
    pub fn same_as(&self, other: &State) -> bool {
        self.directories == other.directories
            && self.lost == other.lost
            && self.variables == other.variables
            && self.positional == other.positional
    }

    /// What changed from `before` counts as unknown from now on.
    pub fn forget_changes(&mut self, before: &State) {
        self.lost |= self.directories != before.directories;
        for (name, value) in &mut self.variables {
            if before.variables.get(name) != Some(value) {
                *value = Value::Unknown;
            }
        }
        if self.positional != before.positional {
            self.positional = Value::Unknown;
        }
    }
}
