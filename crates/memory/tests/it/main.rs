//! The rules of memory as their users meet them: whole decisions, hostile texts, oracles.

mod extraction;
mod fts5;
mod gate;
mod mirror;
mod recall;
mod retrieval;
