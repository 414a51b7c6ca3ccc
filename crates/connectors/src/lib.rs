//! Talking to MCP servers on behalf of one person.
//!
//! The crate knows the protocol, the connections and their credentials. It stores nothing and starts nothing by
//! itself: rows go through the trait [`books::Books`], child processes through the trait [`launch::Launch`],
//! questions to a person through the trait [`ask::Ask`]. The heavy protocol library stays behind this wall.
//!
//! The invariant: no credential appears in `Debug`, in an error or in a log line.

// What may be said: pure.
pub mod server;
pub mod tools;
pub mod result;
pub mod breaker;

// What the Engine lends: storage, child processes, the person.
pub mod books;
pub mod launch;
pub mod ask;

// One line to one server.
pub mod trouble;
pub mod ceilings;
pub mod pieces;
mod passes;
mod handler;
pub mod transport;
pub mod connection;

// Credentials.
pub mod credentials;
pub mod oauth;

// The whole.
pub mod directory;

pub use books::{Books, BooksError};
pub use directory::{Directory, Settings};
