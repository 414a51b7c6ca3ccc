//! Starting stdio servers: the Engine does it, in its sandbox; this crate only talks over the pipes.

use async_trait::async_trait;
use contract::ConnectionId;
use std::any::Any;
use std::collections::BTreeMap;
use tokio::io::{AsyncRead, AsyncWrite};

/// What to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// For which connection.
    pub ref_id: ConnectionId,
    /// Program and arguments; no shell.
    pub command: Vec<String>,
    /// Variables besides the scrubbed environment.
    pub env: BTreeMap<String, String>,
    /// Hosts it may reach.
    pub network: Vec<String>,
}

/// A started server. Dropping `process` ends it with all its children.
pub struct Pipes {
    /// Its standard output.
    pub output: Box<dyn AsyncRead + Send + Sync + Unpin>,
    /// Its standard input.
    pub input: Box<dyn AsyncWrite + Send + Sync + Unpin>,
    /// What keeps it alive.
    pub process: Box<dyn Any + Send + Sync>,
}

impl std::fmt::Debug for Pipes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pipes")
    }
}

/// Whoever can start a program.
#[async_trait]
pub trait Launch: Send + Sync {
    /// Starts a server; the error is a lower-case phrase for people.
    async fn launch(&self, program: Program) -> Result<Pipes, String>;
}
