//! The whole system: the rules of the house, and the programs as real processes.

mod alerts;
mod house_rules;
