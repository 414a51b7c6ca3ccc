//! The rules of the fleet, spoken as claims.

mod golden;
mod table;
mod matrix;
mod planning;
mod limiting;
mod queueing;
mod orphaning;
mod probing;
mod idling;
mod policing;
mod specifying;
mod explaining;
mod stories;
