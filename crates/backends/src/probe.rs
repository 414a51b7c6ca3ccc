//! How somebody asks an engine a question: a trait, so that simulated engines can be asked without sockets.
//!
//! Over HTTP it is implemented by whoever owns a client; [`crate::SimulatedBackend`]'s world implements it in memory.
//! Nothing here judges an answer. The one invariant: a reply says what was seen on the line, and a missing answer is
//! never an answer.

use async_trait::async_trait;
use bytes::Bytes;
use std::net::SocketAddr;
use std::time::Duration;

/// Longest answer a prober reads, in bytes. Larger would let one engine fill the memory of a sweep; smaller would
/// cut honest `/health` bodies, which are about 1 KiB and bounded by the specification at this number.
pub const ANSWER_MAX_BYTES: usize = 64 * 1024;

/// What came back on the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeReply {
    /// A complete HTTP answer.
    Answer {
        /// Its status.
        status: u16,
        /// Its body, at most [`ANSWER_MAX_BYTES`].
        body: Bytes,
    },
    /// Connection refused or reset.
    Refused,
    /// Nothing, or not everything, within the time.
    TimedOut,
    /// Something that is not HTTP, or longer than [`ANSWER_MAX_BYTES`].
    Unreadable,
}

impl ProbeReply {
    /// The HTTP status, if there was an answer.
    pub fn status(&self) -> Option<u16> {
        match self {
            ProbeReply::Answer { status, .. } => Some(*status),
            ProbeReply::Refused | ProbeReply::TimedOut | ProbeReply::Unreadable => None,
        }
    }

    /// True for an answer with a status of 200 to 299.
    pub fn is_success(&self) -> bool {
        self.status().is_some_and(|status| (200..300).contains(&status))
    }
}

/// Asks engines at the addresses an observation names: never through DNS, never through a proxy.
#[async_trait]
pub trait Prober: Send + Sync {
    /// `GET /health`, without a key. Ends within `timeout`.
    async fn get_health(&self, address: SocketAddr, timeout: Duration) -> ProbeReply;

    /// Any other call of the contract, with the engine's key. `body` is sent as JSON unless it is empty. Ends
    /// within `timeout`.
    async fn call(
        &self,
        address: SocketAddr,
        method: &str,
        path: &str,
        engine_key: &str,
        body: Bytes,
        timeout: Duration,
    ) -> ProbeReply;
}
