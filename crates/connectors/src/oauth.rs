//! OAuth 2.1 for servers that want it: find the authorization server, be a client of it, send the person there,
//! exchange the answer, renew, revoke.
//!
//! Finding is the protocol library's (with its address filter); everything that touches a secret is here. The
//! invariant: a new refresh token is in the books before the access token that came with it is used.

pub(crate) mod discovery;
pub(crate) mod endpoint;
pub(crate) mod flow;
pub(crate) mod pkce;
pub(crate) mod refresh;
pub(crate) mod register;

pub use flow::{Callback, Unfinished};
pub use register::client_document;

use crate::books::Books;
use crate::credentials::Vault;
use contract::Timestamp;
use std::sync::Arc;
use url::Url;

/// Fills bytes with unguessable ones.
pub type Random = Arc<dyn Fn(&mut [u8]) + Send + Sync>;

/// The present, and randomness; replaced in tests.
#[derive(Clone)]
pub struct Nature {
    /// The present.
    pub now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// Fills bytes with unguessable ones.
    pub random: Random,
}

impl Default for Nature {
    fn default() -> Self {
        Self {
            now: Arc::new(Timestamp::now),
            random: Arc::new(|bytes| rand::Rng::fill_bytes(&mut rand::rng(), bytes)),
        }
    }
}

impl std::fmt::Debug for Nature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Nature")
    }
}

/// What is the same for every authorization.
pub(crate) struct Oauth {
    pub http: reqwest::Client,
    pub vault: Vault,
    pub books: Arc<dyn Books>,
    pub nature: Nature,
    /// OAUTH_REDIRECT_BASE_URL + `/assets/oauth/callback`.
    pub redirect_uri: Url,
    /// Where our client metadata document lies, when it can be reached from outside.
    pub client_metadata_url: Option<Url>,
    pub flights: refresh::Flights,
}
