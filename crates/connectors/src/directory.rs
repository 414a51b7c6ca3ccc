//! The Asset Directory: every server, every connection, every tool of theirs, and one way to call it.
//!
//! Connections are opened lazily: nothing here delays the start of the Engine. What models are offered is a
//! snapshot in memory, rebuilt whenever the books change.
//!
//! The invariant: a tool is offered only with the definition that a person approved, or, when it is new, marked
//! as waiting for approval.

mod connect;
mod dispatch;
mod upkeep;

pub use connect::{ConnectError, Connected};

use crate::books::{Books, BooksError, Connection, Server, Source, Status};
use crate::connection::{Limits, Line};
use crate::credentials::{Holder, Learn, Renew, Vault};
use crate::handler::Changed;
use crate::launch::Launch;
use crate::oauth::{Nature, Oauth};
use crate::passes::Passes;
use crate::server::{Auth, Effect, Entry, Transport};
use crate::tools::{self, Action, Clean, Definition, Difference, LeftOut, State};
use crate::transport::{Era, Opener};
use crate::trouble::Trouble;
use chassis::seal::MasterKeys;
use contract::{ConnectionId, Timestamp};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};
use url::Url;

/// Connections whose tools changed and were not looked at yet. When it is full the directory looks anyway.
const CHANGED_MAX: usize = 256;
/// Longest error text that is kept with a connection.
const ERROR_MAX_CHARS: usize = 300;

/// How the directory is set up.
pub struct Settings {
    /// Where everything is written down.
    pub books: Arc<dyn Books>,
    /// Starts stdio servers.
    pub launch: Arc<dyn Launch>,
    /// Calls servers. It must not follow redirects to other places.
    pub http: reqwest::Client,
    /// AD_ENCRYPTION_KEY.
    pub keys: Option<MasterKeys>,
    /// AD_CALL_TIMEOUT_S and the idle time of stdio servers.
    pub limits: Limits,
    /// OAUTH_REDIRECT_BASE_URL + `/assets/oauth/callback`.
    pub redirect_uri: Url,
    /// Where our client metadata document can be read from outside.
    pub client_metadata_url: Option<Url>,
    /// Values of the environment that entries name by `client_secret_env`.
    pub secrets: HashMap<String, String>,
    /// Cleans texts of what people cannot see, and of secrets.
    pub clean: Arc<Clean>,
    /// Told of every opened secret.
    pub learn: Option<Learn>,
    /// Told when a server is left alone because it failed repeatedly.
    pub circuit_opened: Arc<dyn Fn(&str) + Send + Sync>,
    /// Told when what models are offered may have changed.
    pub offered_changed: Arc<dyn Fn(&Directory) + Send + Sync>,
    /// Time and randomness.
    pub nature: Nature,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// One tool that models are offered.
#[derive(Debug, Clone, PartialEq)]
pub struct Offered {
    /// `<alias>.<action>`.
    pub name: String,
    /// The server's name, for metrics.
    pub server_name: String,
    /// The connection.
    pub ref_id: ConnectionId,
    /// What the model sees.
    pub definition: Definition,
    /// The effect class.
    pub effect: Effect,
    /// The entry says that the server may be believed.
    pub trusted: bool,
    /// Approved, new or changed.
    pub state: State,
    /// The hash a yes would pin (of the present definition when nothing waits).
    pub hash: String,
    /// What a person is shown when the tool is new or changed.
    pub difference: Option<Difference>,
    /// Whether the connection can be used at present.
    pub available: bool,
}

/// A server, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedServer {
    /// Its name.
    pub server_name: String,
    /// For people.
    pub display_name: String,
    /// `http`, `sse` or `stdio`.
    pub transport: &'static str,
    /// `oauth`, `static` or `none`.
    pub auth_method: &'static str,
    /// Whether it can be connected to.
    pub available: bool,
}

/// A connection, as it is listed.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedConnection {
    /// The row.
    pub connection: Connection,
    /// How many tools it offers.
    pub tools: usize,
    /// Tools that its last listing since the start had, but that cannot be offered.
    pub left_out: Vec<LeftOut>,
}

/// The directory.
#[derive(Clone)]
pub struct Directory(Arc<Inner>);

pub(crate) struct Inner {
    settings: Settings,
    oauth: Arc<Oauth>,
    vault: Vault,
    catalog: RwLock<Arc<BTreeMap<String, Arc<Entry>>>>,
    lines: Mutex<HashMap<ConnectionId, Arc<Line>>>,
    offered: RwLock<Arc<Vec<Offered>>>,
    /// When the tools of a connection are to be listed again.
    due: Mutex<HashMap<ConnectionId, Instant>>,
    /// What the last listing of a connection had that cannot be offered.
    left_out: Mutex<HashMap<ConnectionId, Vec<LeftOut>>>,
    /// The next renewal of a token, for those who plan a sleep.
    next_refresh: RwLock<Option<Timestamp>>,
    /// Held while actions are read, compared and written back: between the two another's yes, or a change that
    /// another listing saw, would be written over.
    comparing: tokio::sync::Mutex<()>,
    /// Held while the snapshot is made: an older look at the books never replaces a newer one.
    rebuilding: tokio::sync::Mutex<()>,
    sealed_shut: AtomicBool,
    changed: mpsc::Sender<ConnectionId>,
    wake: Notify,
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Directory").field("offered", &self.offered().len()).finish()
    }
}

impl Directory {
    /// Reads the books and begins the upkeep, which ends with the last handle or with `stop`. No server is called.
    pub async fn open(
        settings: Settings,
        catalog: Vec<Arc<Entry>>,
        stop: tokio_util::sync::CancellationToken,
    ) -> Result<Self, BooksError> {
        let vault = Vault { keys: settings.keys.clone(), learn: settings.learn.clone() };
        let oauth = Arc::new(Oauth {
            http: settings.http.clone(),
            vault: vault.clone(),
            books: Arc::clone(&settings.books),
            nature: settings.nature.clone(),
            redirect_uri: settings.redirect_uri.clone(),
            client_metadata_url: settings.client_metadata_url.clone(),
            flights: Default::default(),
        });
        let (changed, inbox) = mpsc::channel(CHANGED_MAX);
        let inner = Arc::new(Inner {
            settings,
            oauth,
            vault,
            catalog: RwLock::default(),
            lines: Mutex::default(),
            offered: RwLock::default(),
            due: Mutex::default(),
            left_out: Mutex::default(),
            next_refresh: RwLock::default(),
            comparing: tokio::sync::Mutex::default(),
            rebuilding: tokio::sync::Mutex::default(),
            sealed_shut: AtomicBool::new(false),
            changed,
            wake: Notify::new(),
        });
        let directory = Self(inner);
        directory.set_catalog(catalog).await?;
        directory.look_at_credentials().await?;
        tokio::spawn(upkeep::run(Arc::downgrade(&directory.0), inbox, stop));
        Ok(directory)
    }

    /// Replaces the entries of the catalog. Open connections go on with the entry they began with.
    pub async fn set_catalog(&self, entries: Vec<Arc<Entry>>) -> Result<(), BooksError> {
        let entries: BTreeMap<String, Arc<Entry>> =
            entries.into_iter().map(|entry| (entry.server_name.clone(), entry)).collect();
        *write(&self.0.catalog) = Arc::new(entries);
        self.rebuild().await
    }

    /// What models may be offered at present.
    pub fn offered(&self) -> Arc<Vec<Offered>> {
        Arc::clone(&read(&self.0.offered))
    }

    /// Whether every stored credential can be opened. Costs nothing.
    pub fn is_healthy(&self) -> bool {
        !self.0.sealed_shut.load(Ordering::Relaxed)
    }

    /// When the next token is renewed.
    pub fn next_refresh(&self) -> Option<Timestamp> {
        *read(&self.0.next_refresh)
    }

    /// The servers of the catalog and those given by hand, by name. `stdio` = whether child processes may be used.
    pub async fn servers(&self, stdio: bool) -> Result<Vec<ListedServer>, BooksError> {
        let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
        for server in self.0.settings.books.servers().await? {
            if server.source == Source::Adhoc
                && let Ok(entry) = Entry::parse(&server.server_name, &server.entry)
            {
                entries.insert(server.server_name, entry);
            }
        }
        for (name, entry) in read(&self.0.catalog).iter() {
            entries.insert(name.clone(), Entry::clone(entry));
        }
        let keyed = self.0.vault.has_key();
        let listed = entries.into_values().filter(|entry| !entry.disabled).map(|entry| ListedServer {
            available: (keyed || entry.auth == Auth::None)
                && (stdio || !matches!(entry.transport, Transport::Stdio { .. })),
            server_name: entry.server_name,
            display_name: entry.display_name,
            transport: entry.transport.word(),
            auth_method: entry.auth.word(),
        });
        Ok(listed.collect())
    }

    /// Every connection, oldest first.
    pub async fn connections(&self) -> Result<Vec<ListedConnection>, BooksError> {
        let offered = self.offered();
        let count = |id: &ConnectionId| offered.iter().filter(|tool| tool.ref_id == *id).count();
        let rows = self.0.settings.books.connections().await?;
        Ok(rows
            .into_iter()
            .map(|row| ListedConnection {
                tools: count(&row.ref_id),
                left_out: lock(&self.0.left_out).get(&row.ref_id).cloned().unwrap_or_default(),
                connection: row,
            })
            .collect())
    }

    /// Pins the definition that a person said yes to; false when the server says something else by now.
    pub async fn approve(&self, id: &ConnectionId, action: &str, hash: &str) -> Result<bool, BooksError> {
        let books = &self.0.settings.books;
        let _one = self.0.comparing.lock().await;
        let mut actions = books.actions(id).await?;
        let Some(found) = actions.iter_mut().find(|one| one.definition.action == action) else {
            return Ok(false);
        };
        if found.wanted_hash() != hash {
            return Ok(false);
        }
        if found.needs_consent() {
            *found = found.clone().approved(hash);
            books.put_actions(id, actions).await?;
            self.rebuild().await?;
        }
        Ok(true)
    }

    /// Deletes a connection: the row, its tools, its credential; false when there was none. The authorization
    /// server is told in the background.
    pub async fn delete(&self, id: &ConnectionId) -> Result<bool, BooksError> {
        let books = &self.0.settings.books;
        let sealed = books.connection(id).await?.and_then(|row| row.credential);
        let known = books.remove(id).await?;
        self.drop_line(id).await;
        lock(&self.0.left_out).remove(id);
        self.0.oauth.flights.forget(id);
        if let Some(sealed) = sealed.filter(|_| known) {
            let oauth = Arc::clone(&self.0.oauth);
            tokio::spawn(async move { oauth.revoke(&sealed.token).await });
        }
        self.look_at_credentials().await?;
        self.rebuild().await?;
        Ok(known)
    }

    /// Closes every connection; stdio servers end.
    pub async fn close(&self) {
        let lines: Vec<Arc<Line>> = lock(&self.0.lines).drain().map(|(_, line)| line).collect();
        futures::future::join_all(lines.iter().map(|line| line.close())).await;
    }

    /// Lists the tools of a connection now and compares them with the pins.
    pub async fn refresh_tools(&self, id: &ConnectionId) -> Result<(), Trouble> {
        self.list(id, false).await
    }

    async fn list(&self, id: &ConnectionId, approve: bool) -> Result<(), Trouble> {
        let line = self.line(id).await?;
        let _one = line.listing.lock().await;
        self.list_over(id, &line, approve).await
    }

    /// Lists over a line whose `listing` the caller holds, so that listings are compared in the order in which the
    /// server gave them.
    async fn list_over(&self, id: &ConnectionId, line: &Arc<Line>, approve: bool) -> Result<(), Trouble> {
        let listing = self.settle(id, line.list().await).await?;
        let opening = listing.opening;
        let books = &self.0.settings.books;
        let (_, entry) = self.row_and_entry(id).await?;
        let clean = Arc::clone(&self.0.settings.clean);
        // every schema is judged, and there may be hundreds
        let read = move || tools::read_listing(&listing.tools, &entry, &*clean);
        let tools::Listed { definitions: listed, left_out } = tokio::task::spawn_blocking(read)
            .await
            .map_err(|_| Trouble::Garbage("a listing that cannot be read".into()))?;
        self.note_left_out(id, left_out);
        {
            let _one = self.0.comparing.lock().await;
            let stored = books.actions(id).await?;
            let actions = tools::reconcile(&stored, listed, approve);
            if actions != stored {
                books.put_actions(id, actions).await?;
                self.rebuild().await?;
            }
        }
        line.note_compared(opening);
        let holds =
            listing.holds.unwrap_or(upkeep::LIST_EVERY).clamp(upkeep::LIST_AT_MOST_EVERY, upkeep::LIST_EVERY);
        lock(&self.0.due).insert(id.clone(), Instant::now() + holds);
        self.0.wake.notify_one();
        Ok(())
    }

    /// Keeps what cannot be offered, for who lists the connections, and logs it when it is news.
    fn note_left_out(&self, id: &ConnectionId, left_out: Vec<LeftOut>) {
        let before = lock(&self.0.left_out).insert(id.clone(), left_out.clone()).unwrap_or_default();
        for bad in left_out.iter().filter(|bad| !before.contains(bad)) {
            tracing::warn!(connection = %id, tool = bad.action, "A tool of an MCP server is left out: {}", bad.reason);
        }
    }

    /// Writes down what an attempt says about the connection.
    async fn settle<T>(&self, id: &ConnectionId, done: Result<T, Trouble>) -> Result<T, Trouble> {
        let books = &self.0.settings.books;
        let known = books.connection(id).await?;
        let status = known.as_ref().map(|row| row.status);
        match &done {
            Ok(_) if status == Some(Status::Error) => {
                books.set_status(id, Status::Connected, None).await?;
                self.rebuild().await?;
            }
            Err(Trouble::Unauthorized(_)) if matches!(status, Some(Status::Connected | Status::Error)) => {
                let text = "the server does not accept the credentials any more".to_owned();
                books.set_status(id, Status::Expired, Some(text)).await?;
                self.rebuild().await?;
            }
            Err(Trouble::Scope(scopes)) => {
                let mut wanted = known.map(|row| row.wanted_scopes).unwrap_or_default();
                wanted.extend(
                    scopes.iter().filter(|scope| !wanted.contains(scope)).cloned().collect::<Vec<_>>(),
                );
                let text = "the server wants further scopes; connect again".to_owned();
                books.want_scopes(id, wanted, text).await?;
                self.rebuild().await?;
            }
            Err(trouble) if trouble.counts() && status == Some(Status::Connected) => {
                books.set_status(id, Status::Error, Some(short(&trouble.to_string()))).await?;
            }
            Ok(_) | Err(_) => {}
        }
        done
    }

    async fn row_and_entry(&self, id: &ConnectionId) -> Result<(Connection, Entry), Trouble> {
        let row = self.0.settings.books.connection(id).await?.ok_or(Trouble::Gone)?;
        let entry = self.entry(&row.server_name).await?.ok_or(Trouble::Gone)?.0;
        Ok((row, entry))
    }

    /// The entry of a server: the catalog's, else the stored one.
    async fn entry(&self, name: &str) -> Result<Option<(Entry, Option<Era>)>, BooksError> {
        let stored =
            self.0.settings.books.servers().await?.into_iter().find(|server| server.server_name == name);
        let era = stored.as_ref().and_then(|server| Era::parse(server.era.as_deref()?));
        if let Some(entry) = read(&self.0.catalog).get(name) {
            return Ok(Some((Entry::clone(entry), era)));
        }
        Ok(stored.and_then(|server: Server| Some((Entry::parse(name, &server.entry).ok()?, era))))
    }

    /// The line of a connection; made when there is none, not opened.
    async fn line(&self, id: &ConnectionId) -> Result<Arc<Line>, Trouble> {
        if let Some(line) = lock(&self.0.lines).get(id) {
            return Ok(Arc::clone(line));
        }
        let row = self.0.settings.books.connection(id).await?.ok_or(Trouble::Gone)?;
        let (entry, era) = self.entry(&row.server_name).await?.ok_or(Trouble::Gone)?;
        let settings = &self.0.settings;
        let renewal: Arc<dyn Renew> = self.0.oauth.clone();
        let passes: Arc<dyn Passes> = Arc::new(Holder {
            ref_id: id.clone(),
            needs_credential: entry.auth != Auth::None,
            books: Arc::clone(&settings.books),
            vault: self.0.vault.clone(),
            renewal,
        });
        let opener = Opener {
            transport: entry.transport,
            ref_id: id.clone(),
            http: settings.http.clone(),
            passes,
            launch: Arc::clone(&settings.launch),
        };
        let changed = Changed { ref_id: id.clone(), to: self.0.changed.clone() };
        let books = Arc::clone(&settings.books);
        let line = Line::new(opener, row.server_name, settings.limits, books, changed, era);
        // somebody may have made one meanwhile: theirs counts
        Ok(Arc::clone(lock(&self.0.lines).entry(id.clone()).or_insert(line)))
    }

    async fn drop_line(&self, id: &ConnectionId) {
        lock(&self.0.due).remove(id);
        let line = lock(&self.0.lines).remove(id);
        if let Some(line) = line {
            line.close().await;
        }
    }

    /// Makes the snapshot anew from the books.
    async fn rebuild(&self) -> Result<(), BooksError> {
        let books = &self.0.settings.books;
        let _one = self.0.rebuilding.lock().await;
        let mut offered = Vec::new();
        let rows = books.connections().await?;
        for row in &rows {
            let Some((entry, _)) = self.entry(&row.server_name).await? else { continue };
            if entry.disabled {
                continue;
            }
            for action in books.actions(&row.ref_id).await? {
                offered.extend(offer(row, &entry, &action));
            }
        }
        offered.sort_by(|a, b| a.name.cmp(&b.name));
        *write(&self.0.offered) = Arc::new(offered);
        let refreshes = rows.iter().filter(|row| row.status == Status::Connected);
        let next = refreshes.filter_map(|row| row.credential.as_ref()?.refresh_at).min();
        *write(&self.0.next_refresh) = next;
        self.0.wake.notify_one();
        (self.0.settings.offered_changed)(self);
        Ok(())
    }

    /// Looks whether every stored credential opens. What does not is marked, nothing is deleted.
    async fn look_at_credentials(&self) -> Result<(), BooksError> {
        let mut shut = false;
        for row in self.0.settings.books.connections().await? {
            let Some(sealed) = &row.credential else { continue };
            if let Err(error) = self.0.vault.document(&sealed.token) {
                shut = true;
                if row.status == Status::Connected {
                    let text = Some(error.to_string());
                    self.0.settings.books.set_status(&row.ref_id, Status::Error, text).await?;
                }
            }
        }
        self.0.sealed_shut.store(shut, Ordering::Relaxed);
        Ok(())
    }
}

fn offer(row: &Connection, entry: &Entry, action: &Action) -> Option<Offered> {
    if action.state == State::Gone || !entry.tools.offers(&action.definition.action) {
        return None;
    }
    Some(Offered {
        name: format!("{}.{}", row.alias, action.definition.action),
        server_name: row.server_name.clone(),
        ref_id: row.ref_id.clone(),
        definition: action.definition.clone(),
        effect: tools::effect(entry, &action.definition),
        trusted: entry.trusted,
        state: action.state,
        hash: action.wanted_hash(),
        difference: action.needs_consent().then(|| action.difference()),
        available: matches!(row.status, Status::Connected | Status::Error),
    })
}

fn short(text: &str) -> String {
    text.chars().take(ERROR_MAX_CHARS).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read<T>(value: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    value.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(value: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    value.write().unwrap_or_else(PoisonError::into_inner)
}

/// Time limit of every HTTP connection attempt.
pub const CONNECT_MAX: Duration = Duration::from_secs(10);
