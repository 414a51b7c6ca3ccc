//! What an outbound request shows a server so that it is let in.
//!
//! A pass is fetched for every request and dropped with it: the credential is opened only then. The invariant:
//! its values are marked sensitive, so no HTTP library logs them.

use crate::trouble::Trouble;
use async_trait::async_trait;
use http::{HeaderName, HeaderValue};

/// The headers of one request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pass {
    /// Which version of the credential they are from.
    pub version: i64,
    /// Sensitive values.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Pass {
    /// Adds a header; false when the name or the value cannot be one.
    pub fn add(&mut self, name: &str, value: &str) -> bool {
        let (Ok(name), Ok(mut value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) else {
            return false;
        };
        value.set_sensitive(true);
        self.headers.push((name, value));
        true
    }
}

/// Whoever has the credential of one connection.
#[async_trait]
pub(crate) trait Passes: Send + Sync {
    /// The pass for a request that is about to be sent.
    async fn pass(&self) -> Result<Pass, Trouble>;

    /// The server refused the pass of this version. True when there is a newer one now.
    async fn renew(&self, refused: i64) -> Result<bool, Trouble>;
}
