//! Secrets that must not leave: the values the Engine knows, and the shapes that keys usually have.
//!
//! [`Known`] is the set of values (configured ones at start, connector credentials when they are decrypted),
//! each looked for as it is, percent-encoded, escaped for JSON or HTML, in hexadecimal and in base64 at every
//! alignment. [`Scan`] reads a text in pieces of any size and gives it back with secrets replaced; it holds back no more than
//! [`HOLD_MAX`] characters. [`leaving`] does the same to whole events and JSON values.
//!
//! Two strengths, on purpose: what is stored or shown to the model loses known values only; what goes to the
//! stream also loses what merely looks like a key. Refused here: failing. A scrub has no error, and knows
//! nothing of turns, brains or HTTP.
//!
//! The invariant: the pieces a text arrives in never change what comes out of it.

mod spelling;
mod partly;
mod known;
mod shapes;
mod assignment;
mod scan;
pub mod leaving;

pub use known::{Known, SHORTEST};
pub use scan::{HOLD_MAX, Scan};
pub use shapes::Kind;
