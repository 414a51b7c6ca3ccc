//! The twenty rules of §10.7 and one about room, each for any place.

mod words;
mod changing;
mod seeing;

pub use changing::*;
pub use seeing::*;
