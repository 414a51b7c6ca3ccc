//! Words the tests share: books in memory, a directory on them, a person who answers. The conformance client in
//! `examples/` is built of the same.

#![allow(dead_code, reason = "each user of these words uses some of them")]

use async_trait::async_trait;
use chassis::seal::MasterKeys;
use connectors::ask::{Ask, Question, Reply};
use connectors::books::{
    Books, Connection, OauthClient, OauthState, Sealed, Server, Source, Status, Written,
};
use connectors::connection::{CallOptions, Limits};
use connectors::directory::{ConnectError, Connected, Directory, Settings};
use connectors::launch::{Launch, Pipes, Program};
use connectors::oauth::Nature;
use connectors::result::Answer;
use connectors::tools::Action;
use connectors::trouble::Trouble;
use contract::{ConnectionId, Timestamp};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Longest wait for anything.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Waits until something holds.
pub async fn until<F: Future<Output = bool>>(what: &str, look: impl Fn() -> F) {
    let end = tokio::time::Instant::now() + LIMIT;
    while !look().await {
        assert!(tokio::time::Instant::now() < end, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[derive(Default)]
struct Pages {
    connections: Vec<Connection>,
    servers: Vec<Server>,
    actions: HashMap<ConnectionId, Vec<Action>>,
    states: HashMap<String, OauthState>,
    clients: Vec<OauthClient>,
}

/// Books in memory, with the guards the trait asks for.
#[derive(Default, Clone)]
pub struct Paper(Arc<Mutex<Pages>>);

impl Paper {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().expect("no test panics while it holds the books")
    }

    /// Everything that is written down, as text.
    pub fn everything(&self) -> String {
        let pages = self.pages();
        let sealed: Vec<&str> = pages
            .connections
            .iter()
            .filter_map(|c| c.credential.as_ref())
            .map(|s| s.token.as_str())
            .collect();
        let states: Vec<&str> = pages.states.values().map(|s| s.verifier_enc.as_str()).collect();
        format!("{:?} {sealed:?} {states:?}", pages.connections)
    }
}

#[async_trait]
impl Books for Paper {
    async fn connections(&self) -> Written<Vec<Connection>> {
        Ok(self.pages().connections.clone())
    }
    async fn connection(&self, id: &ConnectionId) -> Written<Option<Connection>> {
        Ok(self.pages().connections.iter().find(|row| row.ref_id == *id).cloned())
    }
    async fn add(&self, connection: Connection, replaces: Vec<ConnectionId>) -> Written<()> {
        let mut pages = self.pages();
        pages.connections.retain(|row| !replaces.contains(&row.ref_id));
        pages.connections.push(connection);
        Ok(())
    }
    async fn set_status(&self, id: &ConnectionId, status: Status, error: Option<String>) -> Written<bool> {
        let mut pages = self.pages();
        let Some(row) = pages.connections.iter_mut().find(|row| row.ref_id == *id) else { return Ok(false) };
        (row.status, row.last_error) = (status, error);
        Ok(true)
    }
    async fn put_credential(&self, id: &ConnectionId, expected: i64, sealed: Sealed) -> Written<bool> {
        let mut pages = self.pages();
        let found = pages.connections.iter_mut().find(|row| row.ref_id == *id);
        let Some(row) = found.filter(|row| row.credential_version == expected) else { return Ok(false) };
        row.credential = Some(sealed);
        row.credential_version += 1;
        (row.status, row.last_error) = (Status::Connected, None);
        row.wanted_scopes.clear();
        Ok(true)
    }
    async fn want_scopes(&self, id: &ConnectionId, scopes: Vec<String>, error: String) -> Written<()> {
        let mut pages = self.pages();
        if let Some(row) = pages.connections.iter_mut().find(|row| row.ref_id == *id) {
            (row.wanted_scopes, row.status, row.last_error) = (scopes, Status::Expired, Some(error));
        }
        Ok(())
    }
    async fn remove(&self, id: &ConnectionId) -> Written<bool> {
        let mut pages = self.pages();
        let before = pages.connections.len();
        pages.connections.retain(|row| row.ref_id != *id);
        pages.actions.remove(id);
        Ok(pages.connections.len() < before)
    }
    async fn servers(&self) -> Written<Vec<Server>> {
        Ok(self.pages().servers.clone())
    }
    async fn put_server(&self, name: String, entry: Value, source: Source) -> Written<()> {
        let mut pages = self.pages();
        let same = pages.servers.iter().find(|s| s.server_name == name && s.entry == entry).cloned();
        pages.servers.retain(|server| server.server_name != name);
        let fresh =
            Server { server_name: name, entry, source, era: None, protocol_version: None, server_info: None };
        pages.servers.push(same.unwrap_or(fresh));
        Ok(())
    }
    async fn put_era(
        &self,
        name: &str,
        era: Option<String>,
        version: Option<String>,
        info: Option<Value>,
    ) -> Written<()> {
        let mut pages = self.pages();
        if let Some(server) = pages.servers.iter_mut().find(|server| server.server_name == name) {
            (server.era, server.protocol_version, server.server_info) = (era, version, info);
        }
        Ok(())
    }
    async fn actions(&self, id: &ConnectionId) -> Written<Vec<Action>> {
        let actions = self.pages().actions.get(id).cloned().unwrap_or_default();
        // As real books do, others get their turn between a reading and what is done with it.
        tokio::task::yield_now().await;
        Ok(actions)
    }
    async fn put_actions(&self, id: &ConnectionId, actions: Vec<Action>) -> Written<()> {
        let mut pages = self.pages();
        if pages.connections.iter().any(|row| row.ref_id == *id) {
            pages.actions.insert(id.clone(), actions);
        }
        Ok(())
    }
    async fn put_state(&self, state: OauthState) -> Written<()> {
        self.pages().states.insert(state.state_hash.clone(), state);
        Ok(())
    }
    async fn take_state(&self, state_hash: &str, oldest: Timestamp) -> Written<Option<OauthState>> {
        Ok(self.pages().states.remove(state_hash).filter(|state| state.created_at >= oldest))
    }
    async fn client(&self, issuer: &str, redirect_uri: &str) -> Written<Option<OauthClient>> {
        let pages = self.pages();
        Ok(pages.clients.iter().find(|c| c.issuer == issuer && c.redirect_uri == redirect_uri).cloned())
    }
    async fn clients(&self) -> Written<Vec<OauthClient>> {
        Ok(self.pages().clients.clone())
    }
    async fn reseal(
        &self,
        id: &ConnectionId,
        expected: i64,
        token: String,
        fingerprint: String,
    ) -> Written<bool> {
        let mut pages = self.pages();
        let found = pages.connections.iter_mut().find(|row| row.ref_id == *id);
        let Some(row) = found.filter(|row| row.credential_version == expected) else { return Ok(false) };
        let Some(sealed) = &mut row.credential else { return Ok(false) };
        (sealed.token, sealed.key_fingerprint) = (token, fingerprint);
        Ok(true)
    }
    async fn put_client(&self, client: OauthClient) -> Written<()> {
        let mut pages = self.pages();
        pages.clients.retain(|c| (&c.issuer, &c.redirect_uri) != (&client.issuer, &client.redirect_uri));
        pages.clients.push(client);
        Ok(())
    }
}

/// Starts programs without a sandbox.
pub struct Plainly;

#[async_trait]
impl Launch for Plainly {
    async fn launch(&self, program: Program) -> Result<Pipes, String> {
        let mut command = tokio::process::Command::new(&program.command[0]);
        command.args(&program.command[1..]).envs(&program.env).kill_on_drop(true);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = command.spawn().map_err(|error| error.kind().to_string())?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("no pipes".into());
        };
        Ok(Pipes { output: Box::new(output), input: Box::new(input), process: Box::new(child) })
    }
}

/// A person who always says the same.
pub struct Person(pub Reply, pub Arc<Mutex<Vec<Question>>>);

impl Person {
    pub fn who_says(text: &str) -> Self {
        Self(Reply::Text(text.into()), Arc::default())
    }
}

#[async_trait]
impl Ask for Person {
    async fn ask(&self, question: Question) -> Reply {
        self.1.lock().expect("no panic").push(question);
        self.0.clone()
    }
}

/// A directory with everything that can be turned.
pub struct House {
    pub paper: Paper,
    pub keys: MasterKeys,
    pub directory: Directory,
    /// Milliseconds the clock is ahead.
    pub ahead: Arc<AtomicI64>,
    pub opened: Arc<Mutex<Vec<String>>>,
    pub learned: Arc<Mutex<Vec<String>>>,
    stop: CancellationToken,
}

impl Drop for House {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl House {
    pub async fn new() -> Self {
        Self::on(Paper::default(), MasterKeys::parse(MasterKeys::generate().expose()).expect("a key")).await
    }

    /// On books that exist already: what a restart does.
    pub async fn on(paper: Paper, keys: MasterKeys) -> Self {
        Self::with(paper, keys, Duration::from_secs(5), Duration::from_secs(600)).await
    }

    pub async fn with(paper: Paper, keys: MasterKeys, call_timeout: Duration, idle_stop: Duration) -> Self {
        Self::described(paper, keys, Limits { call_timeout, idle_stop }, None).await
    }

    /// With a client metadata document at this address.
    pub async fn described(
        paper: Paper,
        keys: MasterKeys,
        limits: Limits,
        client_metadata_url: Option<url::Url>,
    ) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let ahead = Arc::new(AtomicI64::new(0));
        let (opened, learned) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<Mutex<Vec<String>>>::default());
        let (clock, tell, learn) = (Arc::clone(&ahead), Arc::clone(&opened), Arc::clone(&learned));
        let nature = Nature {
            now: Arc::new(move || Timestamp::now().plus_millis(clock.load(Ordering::SeqCst))),
            ..Nature::default()
        };
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build();
        let settings = Settings {
            books: Arc::new(paper.clone()),
            launch: Arc::new(Plainly),
            http: http.expect("a client"),
            keys: Some(keys.clone()),
            limits,
            redirect_uri: "http://127.0.0.1:9/assets/oauth/callback".parse().expect("a URL"),
            client_metadata_url,
            secrets: HashMap::new(),
            clean: Arc::new(str::to_owned),
            learn: Some(Arc::new(move |secret: &str| {
                learn.lock().expect("no panic").push(secret.to_owned())
            })),
            circuit_opened: Arc::new(move |server: &str| {
                tell.lock().expect("no panic").push(server.to_owned())
            }),
            offered_changed: Arc::new(|_| {}),
            nature,
        };
        let stop = CancellationToken::new();
        let directory =
            Directory::open(settings, Vec::new(), stop.clone()).await.expect("the directory opens");
        Self { paper, keys, directory, ahead, opened, learned, stop }
    }

    /// Connects to a server at this address without credentials.
    pub async fn connect(&self, url: &str) -> ConnectionId {
        let config = json!({"server_name": "s", "transport": "http", "url": url, "auth_method": "none"});
        self.connect_with("s", config).await
    }

    pub async fn connect_with(&self, name: &str, config: Value) -> ConnectionId {
        match self.try_connect(name, config).await {
            Ok(Connected::Ready(id)) => id,
            other => panic!("not connected: {other:?}"),
        }
    }

    pub async fn try_connect(&self, name: &str, config: Value) -> Result<Connected, ConnectError> {
        self.directory.connect(name, config.as_object()).await
    }

    pub async fn say(&self, id: &ConnectionId, text: &str) -> Result<Answer, Trouble> {
        self.call(id, text, &CallOptions::default()).await
    }

    pub async fn call(
        &self,
        id: &ConnectionId,
        text: &str,
        options: &CallOptions,
    ) -> Result<Answer, Trouble> {
        let input = Map::from_iter([("text".to_owned(), json!(text))]);
        self.directory.call(id, "echo", input, options).await
    }

    pub async fn row(&self, id: &ConnectionId) -> Connection {
        self.paper.connection(id).await.expect("books").expect("the connection is there")
    }

    pub fn later(&self, seconds: i64) {
        self.ahead.fetch_add(seconds * 1_000, Ordering::SeqCst);
    }
}
