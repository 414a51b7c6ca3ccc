//! Calling the API as a product or as the operator: address and keys from the environment, answers in wire types.
//!
//! It never shows a key it was not asked to show, follows no redirect (one would carry the key elsewhere), and ends
//! every call at a limit.

use super::{Exit, Stop};
use crate::config::Settings;
use chassis::config::Secret;
use contract::fleet_api::{ADMIN_KEY_HEADER, ErrorBody, PLATFORM_KEY_HEADER};
use reqwest::{Client, Method, redirect};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;
use url::Url;

/// Longest wait for a connection. Longer keeps a person waiting for an address that is wrong; shorter fails over
/// slow links.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Longest wait for an answer. An admit that provisions waits for image, boot and queue; shorter gives up while the
/// work goes on, longer only hides a server that has hung.
const ANSWER_LIMIT: Duration = Duration::from_secs(900);

/// Largest answer that is read, in bytes. A page of 1000 products with policies fits; larger would let a wrong
/// server fill the memory.
const ANSWER_MAX_BYTES: usize = 64 * 1024 * 1024;

/// Whose key a call carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum As {
    /// The operator: ORCH_ADMIN_KEY.
    Admin,
    /// A product: BAP_PLATFORM_KEY.
    Product,
}

/// The API at BAP_URL.
pub struct Api {
    client: Client,
    base: Url,
    admin_key: Option<Secret>,
    platform_key: Option<Secret>,
}

impl Api {
    /// Prepares the client; nothing is called yet.
    pub fn new(settings: &Settings) -> Result<Self, Stop> {
        // Refused only when one is installed already, which is all that is wanted.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut base = Url::parse(&settings.bap_url)
            .map_err(|_| Stop::new(Exit::Configuration, "BAP_URL is not a URL"))?;
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let builder = || {
            let local = Client::builder().redirect(redirect::Policy::none()).connect_timeout(CONNECT_LIMIT);
            local.timeout(ANSWER_LIMIT).user_agent(concat!("bap-engine/", env!("CARGO_PKG_VERSION")))
        };
        // Without CA certificates on this machine plain http still works.
        let client = builder().build().or_else(|_| builder().tls_certs_only([]).build());
        let client = client.map_err(|error| Stop::failed(&format!("no HTTP client can be made: {error}")))?;
        Ok(Self {
            client,
            base,
            admin_key: settings.admin_key.clone(),
            platform_key: settings.bap_platform_key.clone(),
        })
    }

    /// True when the operator's key is there.
    pub fn has_admin_key(&self) -> bool {
        self.admin_key.is_some()
    }

    /// Calls with path segments that are percent-encoded here, query pairs, and a body.
    pub async fn call<T: DeserializeOwned>(
        &self,
        who: As,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<T, Stop> {
        let (header, name, key) = match who {
            As::Admin => (ADMIN_KEY_HEADER, "ORCH_ADMIN_KEY", &self.admin_key),
            As::Product => (PLATFORM_KEY_HEADER, "BAP_PLATFORM_KEY", &self.platform_key),
        };
        let Some(key) = key else {
            return Err(Stop::unset(name));
        };
        // Percent-encoded or not, both mean a step in the path to every client that follows the URL standard.
        if path.iter().any(|segment| matches!(*segment, "." | "..")) {
            return Err(Stop::failed(
                "no URL can name the user `.` or `..`; `bap-engine engines …` reaches its engine through the database",
            ));
        }
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query.iter().map(|(n, v)| (*n, v.as_str())));
        }
        let mut request = self.client.request(method, url).header(header, key.expose());
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        let bytes = read(response).await.map_err(|error| self.unreachable(&error))?;
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|error| {
                Stop::failed(&format!("{} answered something else than this API: {error}", self.base))
            });
        }
        Err(refused(status.as_u16(), &bytes))
    }

    fn unreachable(&self, error: &(dyn std::error::Error + 'static)) -> Stop {
        let mut causes = Vec::new();
        let mut next = Some(error);
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        let why = causes.last().cloned().unwrap_or_default();
        Stop::new(
            Exit::Unreachable,
            format!(
                "{} does not answer: {why}; is `bap-engine serve` running, and BAP_URL right?",
                self.base
            ),
        )
    }
}

/// The body, up to the limit.
pub(super) async fn read(mut response: reqwest::Response) -> Result<Vec<u8>, reqwest::Error> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        let room = ANSWER_MAX_BYTES - bytes.len();
        bytes.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            break;
        }
    }
    Ok(bytes)
}

/// An answer that is not 2xx, as the end of a command.
fn refused(status: u16, body: &[u8]) -> Stop {
    let Ok(body) = serde_json::from_slice::<ErrorBody>(body) else {
        return Stop::failed(&format!("the server answered {status} without an error of this API"));
    };
    let exit = match status {
        503 => Exit::Unreachable,
        _ => Exit::Failed,
    };
    let details = body.error.details.map(|details| Value::Object(details.into_iter().collect()));
    let mut stop = Stop::new(exit, format!("{}: {}", body.error.code, body.error.message));
    stop.details = details;
    stop.code = Some(body.error.code);
    stop
}
