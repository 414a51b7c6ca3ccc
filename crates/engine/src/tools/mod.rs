//! Everything a model can call, and the one guarded path for every call.
//!
//! [`tool`] what a tool is; [`function`] what those of this program have in common; [`registry`] which there are;
//! then the tools themselves, each beside its own schema. Tools refuse to know turns, journals and streams.

pub mod tool;
pub mod function;
pub mod registry;
pub mod input;
pub mod shorten;
pub mod shell;
pub mod files;
pub mod search;
pub mod file_search;
pub mod git;
pub mod web_text;
pub mod web_fetch;
pub mod web_search;
pub mod web;
pub mod plan;
pub mod own;
pub mod memory;
pub mod media_read;
pub mod skill;
pub mod schema;
pub mod result;
pub mod toolbox;
pub mod dispatch;
