//! The providers as a caller sees them: recorded streams, request bodies, and calls over real TCP against
//! the scripted model. Beside them the vectors of memory.

mod bodies;
mod calls;
mod embeddings;
mod failures;
mod herald;
mod mutations;
mod offline;
mod talk;
mod transcripts;
