//! The catalog: agents, tools, skills, servers, hooks and the soul's template, as they are described by the
//! program, by CATALOG_DIR, and (skills) by people.
//!
//! [`files`] where files come from; [`document`] and [`problem`] how one is read and what is said about it;
//! [`agent`], [`tool`], [`skill`], [`server`], [`soul`], [`hooks`] one kind each; [`builtin`] what the program
//! brings; [`entries`] a whole directory, a bad file keeping its last good version; [`snapshot`] everything
//! put together; [`shelf`] the present snapshot and those that running turns keep.
//!
//! Deciding is pure; only [`files`] and [`shelf`] touch the world. The invariant: a broken catalog never stops
//! the Engine, and a turn sees one catalog from its start to its end.

pub mod files;
pub mod problem;
pub mod document;
pub mod template;
pub mod agent;
pub mod tool;
pub mod skill;
pub mod server;
pub mod soul;
pub mod hooks;
pub mod builtin;
pub mod entries;
mod made;
pub mod snapshot;
pub mod shelf;
#[cfg(test)]
mod tests;

pub use agent::Agent;
pub use problem::Problem;
pub use shelf::Shelf;
pub use skill::Skill;
pub use snapshot::Catalog;
