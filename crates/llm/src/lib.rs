//! Talking to model providers: one call, one stream of pieces, typed errors that know whether to retry.
//!
//! The crate decodes streams, it does not decide: when to call, what the context is, which tools exist
//! and what happens with the answer belong to the engine. It holds no state beyond what it learned
//! about a provider's dialect in this process. Keys go only to the configured host.
//!
//! Reading order: the trait and its words ([`provider`]), the adapters ([`openai`], [`anthropic`],
//! [`gemini`], [`offline`]), what they share (`wire`, `sse`, `names`, …), and on top the [`herald`], which
//! adds retries and the fallback model. Beside them, [`embeddings`]: vectors for the memory's search, from a
//! built-in table or from an endpoint.

pub mod anthropic;
pub mod assemble;
pub mod config;
pub mod context_window;
pub mod errors;
pub mod gemini;
pub mod herald;
pub mod names;
pub mod net;
pub mod offline;
pub mod openai;
pub mod provider;
pub mod retry;
pub mod sse;
pub mod tokens;
pub mod wire;

pub mod embeddings;

pub use config::{ProviderConfig, ProviderKind, build};
pub use context_window::context_window;
pub use herald::Herald;
pub use provider::{
    CONTINUE_REQUEST, CallError, ErrorKind, Message, Piece, Provider, Request, Stop, SystemPart, ToolSpec,
};
pub use wire::Timeouts;
