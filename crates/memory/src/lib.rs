//! The rules of long-term memory: what is kept, how far it is believed, how it is found again, how it is shown.
//!
//! A write passes [`field`] (clean and small enough), [`trust`], the [`gate`] (new, known or an echo) and
//! [`contradiction`] (what it closes, where no vector tells by [`replacement`]). A question becomes words ([`query`], [`tokens`], [`stem`]), periods ([`period`])
//! and names ([`entity`]); what keywords and vectors ([`vector`], [`mirror`]) find is ranked by [`retrieval`] and written
//! into a context by [`recall`]. The Learning Centre's answers are read by [`extraction`], or without a model by
//! [`fixed_rules`]; [`soul`] and [`signals`] say what follows from many turns and from feedback.
//!
//! Nothing here reads a clock, a file, a database or the network, and nothing is random: times, rows and scores come in.
//!
//! The invariant: the same input gives the same decision, on every machine and after every restart.

pub mod field;
pub mod trust;
pub mod likeness;
pub mod statement;
pub mod gate;
pub mod contradiction;
pub mod replacement;
pub mod slot;
pub mod confidence;
pub mod signals;

pub mod tokens;
pub mod stem;
pub mod query;
pub mod period;
pub mod entity;
pub mod search_text;
pub mod vector;
pub mod mirror;
pub mod retrieval;
pub mod recall;

pub mod trajectory;
pub mod extraction;
pub mod fixed_rules;
pub mod soul;
