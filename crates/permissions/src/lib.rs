//! What a tool call would do, and whether a person must be asked.
//!
//! A command is cut into tokens ([`lex`]), parsed to a syntax tree ([`tree`]), walked with what is known about words
//! and directories ([`words`], [`walk`]), and each command of it is looked up ([`commands`]). The result is an
//! [`Analysis`]; the [`rules`] turn it into a [`Verdict`].
//!
//! Nothing here touches a file, a process or the network: facts about files come through [`Ground`]. Nothing here is a
//! wall, either. The rules ask before something is lost; what holds against a hostile command is the sandbox.
//!
//! The invariant: no input makes it panic, run long, or say "harmless" because something was too much.

pub mod lex;
pub mod tree;
mod pattern;
mod words;
mod state;
mod ground;
mod places;
mod args;
mod commands;
mod walk;
mod normalise;
mod analysis;
mod policy;
mod signs;
mod verdict;
mod scope;
mod overwritten;
pub mod rules;
pub mod diff;

pub use analysis::{Analysis, Destruction, How, Opaque, Reach, Touch};
pub use ground::{Facts as FileFacts, Ground, Kind, Tree, resolve};
pub use normalise::normalised;
pub use policy::Policy;
pub use scope::{Remembered, Scope};
pub use verdict::{ANSWERS, ANSWERS_ONCE, Grants, Prompt, Verdict};
pub use walk::{Setting, analyse};
