//! The providers as a caller sees them: recorded streams, request bodies, and calls over real TCP against
//! the scripted model.

mod bodies;
mod calls;
mod failures;
mod herald;
mod offline;
mod talk;
mod transcripts;
