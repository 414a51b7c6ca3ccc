//! Connectors as one more source of tools: the Asset Directory, lent the brain, the launcher and the person.
//!
//! The protocol is `connectors`'; here is only what that crate asks for. The invariant: a connector's child
//! process is started by the sandbox launcher, its rows are written by the brain, and what it says is untrusted.

mod books;
mod launch;
mod person;
mod source;

pub use books::BrainBooks;
pub use launch::SCRATCH_PREFIX;
pub use source::ConnectorTool;

use crate::config::Config;
use crate::core::Core;
use crate::http::execute::observe;
use crate::secrets::Known;
use crate::tools::tool::Tool;
use brain::Brain;
use chassis::config::{Source, Values};
use chassis::seal::MasterKeys;
use connectors::directory::{CONNECT_MAX, Directory, Offered, Settings};
use connectors::oauth::Nature;
use connectors::server::{Auth, Entry};
use connectors::{BooksError, connection, credentials};
use launch::SandboxLaunch;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;
use url::Url;

/// A stdio server that nobody has used for so long is stopped. (specification 9.2)
const STDIO_IDLE: Duration = Duration::from_secs(600);
/// Where the browser comes back after an authorization.
pub const CALLBACK_PATH: &str = "/assets/oauth/callback";
/// Where authorization servers that take clients by document find ours.
pub const CLIENT_DOCUMENT_PATH: &str = "/assets/oauth/client.json";

/// The keys of AD_ENCRYPTION_KEY; the configuration has checked them.
pub fn keys_of(config: &Config) -> Option<MasterKeys> {
    config.ad_encryption_key.as_ref().and_then(|list| MasterKeys::parse(list.expose()).ok())
}

/// Learns the stored credentials, for what leaves as a whole: those that were not used yet count as well.
pub async fn learn_stored(config: &Config, brain: &Brain, known: &Arc<Known>) {
    let Some(keys) = keys_of(config) else { return };
    let books = BrainBooks::new(brain.clone(), Arc::clone(known));
    let known = Arc::clone(known);
    let learn: credentials::Learn = Arc::new(move |secret| known.learn(secret));
    if let Err(error) = credentials::learn_stored(&books, &keys, learn).await {
        tracing::error!(code = "INTERNAL", error = %error, "The stored credentials could not be read");
    }
}

/// Opens the directory on an open brain. Nobody's server is called.
pub async fn open(core: &Arc<Core>, local: SocketAddr) -> Result<Directory, BooksError> {
    let told = Arc::downgrade(core);
    let circuit_opened = Arc::new(move |server: &str| {
        let (Some(core), server) = (told.upgrade(), server.to_owned()) else { return };
        tokio::spawn(async move {
            let data = Some(serde_json::json!({"server": server}));
            observe(&core, "circuit_open", "a connector failed repeatedly and is left alone".into(), data)
                .await;
        });
    });
    let (shelf, known, clean) = (Arc::clone(&core.catalog), Arc::clone(&core.known), Arc::clone(&core.known));
    let of = Arc::downgrade(core);
    let offered_changed = Arc::new(move |directory: &Directory| shelf.set_connected(tools(directory, &of)));
    let http = tokio::task::spawn_blocking(|| llm::net::client(CONNECT_MAX)).await;
    let entries: Vec<Arc<Entry>> = core.catalog.present().servers().cloned().collect();
    let settings = Settings {
        books: Arc::new(BrainBooks::new(core.brain.clone(), Arc::clone(&core.known))),
        launch: Arc::new(SandboxLaunch::new(core)),
        http: http.unwrap_or_else(|_| llm::net::client(CONNECT_MAX)),
        keys: keys_of(&core.config),
        limits: connection::Limits { call_timeout: core.config.ad_call_timeout_s, idle_stop: STDIO_IDLE },
        redirect_uri: redirect_uri(&core.config, local),
        client_metadata_url: client_document_url(&core.config),
        secrets: named_secrets(&entries),
        clean: Arc::new(move |text: &str| clean.scrub(&crate::http::sanitise::text(text)).into_owned()),
        learn: Some(Arc::new(move |secret: &str| known.learn(secret))),
        circuit_opened,
        offered_changed,
        nature: Nature::default(),
    };
    Directory::open(settings, entries, core.halt.clone()).await
}

fn redirect_uri(config: &Config, local: SocketAddr) -> Url {
    let local = format!("http://127.0.0.1:{}", local.port());
    let base = config.oauth_redirect_base_url.as_deref().unwrap_or(&local).trim_end_matches('/');
    let parse = |base: &str| Url::parse(&format!("{base}{CALLBACK_PATH}"));
    parse(base).or_else(|_| parse(&local)).expect("an address of this machine is a URL")
}

/// The address of our client document, which is also the client id: only when others can read it, that is when
/// OAUTH_REDIRECT_BASE_URL is public and https. (specification 9.5)
fn client_document_url(config: &Config) -> Option<Url> {
    let base = config.oauth_redirect_base_url.as_deref()?.trim_end_matches('/');
    let url = Url::parse(&format!("{base}{CLIENT_DOCUMENT_PATH}")).ok()?;
    let public = match url.host()? {
        // a name without a dot, and these suffixes, mean nothing to a server elsewhere
        url::Host::Domain(name) => {
            let name = name.trim_end_matches('.');
            let local = [".localhost", ".local", ".internal", ".test"].iter().any(|end| name.ends_with(end));
            name.contains('.') && !local
        }
        // a certificate for a number is rare, and the draft wants a name
        url::Host::Ipv4(_) | url::Host::Ipv6(_) => false,
    };
    (url.scheme() == "https" && public).then_some(url)
}

/// What GET /assets/oauth/client.json answers; `None` when this Engine is no client by document.
pub fn client_document(config: &Config) -> Option<serde_json::Value> {
    let url = client_document_url(config)?;
    let redirect = redirect_uri(config, SocketAddr::from(([127, 0, 0, 1], 0)));
    Some(connectors::oauth::client_document(&url, &redirect))
}

fn tools(directory: &Directory, core: &Weak<Core>) -> Vec<Arc<dyn Tool>> {
    let tool = |one: &Offered| {
        Arc::new(ConnectorTool::new(one.clone(), directory.clone(), core.clone())) as Arc<dyn Tool>
    };
    directory.offered().iter().map(tool).collect()
}

/// Values of the environment that entries of the catalog name by `client_secret_env`.
fn named_secrets(entries: &[Arc<Entry>]) -> HashMap<String, String> {
    let names = entries.iter().filter_map(|entry| match &entry.auth {
        Auth::OAuth { client_secret_env, .. } => client_secret_env.clone(),
        Auth::None | Auth::Static { .. } => None,
    });
    let environment = Values::process();
    names.filter_map(|name| environment.get(&name).map(|value| (name, value))).collect()
}
