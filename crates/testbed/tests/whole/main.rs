//! The whole system: the rules of the house, and the programs as real processes.

mod alerts;
mod fleet;
mod house_rules;
