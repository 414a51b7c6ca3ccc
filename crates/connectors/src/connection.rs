//! One client per connection, shared by all tasks: opened at the first use, closed when idle, never opened twice.
//!
//! The invariant: a call is handed to the server at most once. What was handed over and got no answer is
//! reported as such, never repeated.

use crate::ask::Ask;
use crate::books::Books;
use crate::breaker::{Breaker, Restarts};
use crate::ceilings::{Ledger, QUESTIONS_AT_ONCE};
use crate::handler::{Call, Calls, Changed, Handler};
use crate::result::Answer;
use crate::server::Transport;
use crate::transport::{Era, Opened, Opener};
use crate::trouble::Trouble;
use futures::future::BoxFuture;
use rmcp::RoleClient;
use rmcp::model::{
    CallToolRequest, CallToolRequestParams, ClientRequest, InputRequest, InputRequiredResult, JsonObject,
    ListToolsRequest, ListToolsResult, PaginatedRequestParams, ServerResult, SubscriptionFilter,
};
use rmcp::service::{PeerRequestOptions, RunningService};
use serde_json::Value;
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How often progress may prolong one request, in multiples of its time limit.
pub const PROLONGED_MAX: u32 = 10;
/// How often one call may ask the person. More lets a server hold a turn for ever.
pub const ROUNDS_MAX: usize = 10;
/// Slices of one tool list. More lets a server that never ends its list hold us for ever.
pub const SLICES_MAX: usize = 64;
/// Bytes of one tool list, all slices together. More lets a server fill the memory with descriptions; less refuses
/// servers with hundreds of tools.
pub const LIST_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long telling a server that a request is not wanted any more may take. Longer keeps a cancelled turn waiting
/// for a server that does not read; shorter leaves servers working for nobody.
const CANCEL_MAX: Duration = Duration::from_millis(500);
/// How long an orderly close may take; after it the child is killed all the same.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// Limits of every connection.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// AD_CALL_TIMEOUT_S.
    pub call_timeout: Duration,
    /// A stdio server that was not used for so long is stopped.
    pub idle_stop: Duration,
}

/// How one call is to be made.
#[derive(Clone, Default)]
pub struct CallOptions {
    /// Ends the call.
    pub cancel: CancellationToken,
    /// Answers the server's questions; without it they are cancelled.
    pub ask: Option<Arc<dyn Ask>>,
    /// The hash of the definition that the caller knows; a call of another one is refused before it is sent.
    pub definition: Option<String>,
}

impl std::fmt::Debug for CallOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CallOptions")
    }
}

/// What a server lists.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Listing {
    pub tools: Vec<Value>,
    /// How long the server says the list holds.
    pub holds: Option<Duration>,
    /// The opening it was read over.
    pub opening: u64,
}

/// One connection's client.
pub(crate) struct Line {
    pub opener: Opener,
    pub server_name: String,
    pub limits: Limits,
    pub books: Arc<dyn Books>,
    pub changed: Changed,
    breaker: Mutex<Breaker>,
    restarts: Mutex<Restarts>,
    era: Mutex<Option<Era>>,
    openings: AtomicU64,
    /// The opening whose tools were compared with the pins, and when.
    compared: Mutex<Option<(u64, Instant)>>,
    /// Held while the tools are listed and compared: one listing is enough for all calls that wait for it.
    pub listing: tokio::sync::Mutex<()>,
    // held while a line is opened: nobody shall open a second one meanwhile
    live: tokio::sync::Mutex<Option<Arc<Live>>>,
}

struct Live {
    opening: u64,
    service: RunningService<RoleClient, Handler>,
    calls: Arc<Calls>,
    ledger: Arc<Ledger>,
    used: Mutex<Instant>,
    busy: AtomicUsize,
    listening: Option<AbortHandle>,
    // dropped after the service: an orderly close first
    _process: Option<Box<dyn Any + Send + Sync>>,
}

impl Live {
    fn is_up(&self) -> bool {
        !self.service.is_closed() && !self.service.peer().is_transport_closed()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if let Some(listening) = &self.listening {
            listening.abort();
        }
    }
}

struct Busy(Arc<Live>);

impl Busy {
    fn with(live: Arc<Live>) -> Self {
        live.busy.fetch_add(1, Ordering::SeqCst);
        Self(live)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        *lock(&self.0.used) = Instant::now();
        self.0.busy.fetch_sub(1, Ordering::SeqCst);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Line {
    pub fn new(
        opener: Opener,
        server_name: String,
        limits: Limits,
        books: Arc<dyn Books>,
        changed: Changed,
        era: Option<Era>,
    ) -> Arc<Self> {
        Arc::new(Self {
            opener,
            server_name,
            limits,
            books,
            changed,
            breaker: Mutex::default(),
            restarts: Mutex::default(),
            era: Mutex::new(era),
            openings: AtomicU64::new(0),
            compared: Mutex::default(),
            listing: tokio::sync::Mutex::default(),
            live: tokio::sync::Mutex::new(None),
        })
    }

    /// Whether the server is being talked to at present.
    pub async fn is_open(&self) -> bool {
        self.live.lock().await.as_ref().is_some_and(|live| live.is_up())
    }

    /// The present opening, when its tools were compared with the pins not longer ago than `oldest`.
    pub async fn compared(&self, oldest: Duration) -> Option<u64> {
        let held = self.live.lock().await;
        let live = held.as_ref().filter(|live| live.is_up())?;
        let (opening, at) = (*lock(&self.compared))?;
        (opening == live.opening && at.elapsed() < oldest).then_some(opening)
    }

    /// Notes that the tools of an opening were compared with the pins.
    pub fn note_compared(&self, opening: u64) {
        *lock(&self.compared) = Some((opening, Instant::now()));
    }

    /// Closes the line; the next use opens it again.
    pub async fn close(&self) {
        let live = self.live.lock().await.take();
        if let Some(live) = live
            && let Ok(mut live) =
                Arc::try_unwrap(live).map_err(|shared| shared.service.cancellation_token().cancel())
        {
            let _ = live.service.close_with_timeout(CLOSE_MAX).await;
        }
    }

    /// Everything the server lists.
    pub async fn list(self: &Arc<Self>) -> Result<Listing, Trouble> {
        self.guarded(Box::pin(self.list_slices())).await
    }

    /// Calls a tool over this opening; over a later one nothing is sent ([`Trouble::Reopened`]): its tools were not
    /// compared with the pins.
    pub async fn call(
        self: &Arc<Self>,
        opening: u64,
        action: &str,
        input: JsonObject,
        options: &CallOptions,
    ) -> Result<Answer, Trouble> {
        self.guarded(Box::pin(self.call_rounds(opening, action, input, options))).await
    }

    async fn guarded<T>(&self, work: BoxFuture<'_, Result<T, Trouble>>) -> Result<T, Trouble> {
        lock(&self.breaker).admit(Instant::now()).map_err(Trouble::Resting)?;
        let done = work.await;
        let mut breaker = lock(&self.breaker);
        match &done {
            Ok(_) => breaker.succeeded(),
            Err(trouble) if trouble.counts() => {
                if breaker.failed(Instant::now()) {
                    tracing::warn!(server = %self.server_name, "An MCP server failed repeatedly and is left alone for a while");
                }
            }
            Err(_) => breaker.undecided(Instant::now()),
        }
        done
    }

    /// Whether calls are refused at present.
    pub fn is_resting(&self) -> bool {
        matches!(*lock(&self.breaker), Breaker::Open(until) if Instant::now() < until)
    }

    async fn live(self: &Arc<Self>) -> Result<Arc<Live>, Trouble> {
        let mut held = self.live.lock().await;
        if let Some(live) = &*held
            && live.is_up()
        {
            return Ok(Arc::clone(live));
        }
        let stdio = matches!(self.opener.transport, Transport::Stdio { .. });
        if held.take().is_some() && stdio && !lock(&self.restarts).admit(Instant::now()) {
            return Err(Trouble::Unreachable("it has ended too often".into()));
        }
        let calls = Arc::new(Calls::default());
        let server = self.server_name.as_str().into();
        let ledger = Arc::new(Ledger::default());
        let handler = Handler {
            server,
            calls: Arc::clone(&calls),
            changed: self.changed.clone(),
            ledger: Arc::clone(&ledger),
        };
        let remembered = *lock(&self.era);
        let Opened { service, era, process } = self.opener.open(&handler, remembered).await?;
        if remembered != Some(era) {
            self.remember(&service, era).await;
        }
        let listening = (era == Era::Modern).then(|| self.listen(&service)).flatten();
        let (used, busy) = (Mutex::new(Instant::now()), AtomicUsize::new(0));
        let opening = self.openings.fetch_add(1, Ordering::SeqCst);
        let live =
            Arc::new(Live { opening, service, calls, ledger, used, busy, listening, _process: process });
        if stdio {
            tokio::spawn(stop_when_idle(Arc::downgrade(self), Arc::downgrade(&live), self.limits.idle_stop));
        }
        *held = Some(Arc::clone(&live));
        Ok(live)
    }

    async fn remember(&self, service: &RunningService<RoleClient, Handler>, era: Era) {
        *lock(&self.era) = Some(era);
        let info = service.peer().peer_info();
        let version = info.as_ref().map(|info| info.protocol_version.as_str().to_owned());
        let name = info.and_then(|info| serde_json::to_value(&info.server_info).ok());
        let word = Some(era.word().to_owned());
        if let Err(error) = self.books.put_era(&self.server_name, word, version, name).await {
            tracing::warn!(error = %error, "What was agreed with an MCP server could not be noted");
        }
    }

    /// Asks a modern server to tell of changed tools; older ones tell unasked.
    fn listen(&self, service: &RunningService<RoleClient, Handler>) -> Option<AbortHandle> {
        let info = service.peer().peer_info()?;
        if info.capabilities.tools.as_ref()?.list_changed != Some(true) {
            return None;
        }
        let (peer, changed) = (service.peer().clone(), self.changed.clone());
        let task = tokio::spawn(async move {
            let filter = SubscriptionFilter::builder().tools_list_changed().build();
            let Ok(mut subscription) = peer.listen(filter).await else { return };
            while let Ok(Some(_)) = subscription.next().await {
                changed.tell();
            }
        });
        Some(task.abort_handle())
    }

    async fn list_slices(self: &Arc<Self>) -> Result<Listing, Trouble> {
        let busy = Busy::with(self.live().await?);
        let (mut tools, mut cursor, mut holds) = (Vec::new(), None, None::<Duration>);
        let mut bytes = 0_usize;
        let mut seen = BTreeSet::new();
        for _ in 0..SLICES_MAX {
            let request = ClientRequest::ListToolsRequest(ListToolsRequest {
                method: Default::default(),
                params: Some(PaginatedRequestParams::default().with_cursor(cursor)),
                extensions: Default::default(),
            });
            let options = CallOptions::default();
            let slice = match self.request(&busy.0, request, &options).await?.0 {
                ServerResult::ListToolsResult(slice) => Slice::read(&slice)?,
                // with one tool in it that is none the library does not know the answer
                ServerResult::CustomResult(answer) => Slice::loose(answer.0)?,
                _ => return Err(Trouble::Garbage("an answer of the wrong kind".into())),
            };
            for tool in slice.tools {
                bytes += tool.to_string().len();
                if bytes > LIST_BYTES_MAX {
                    return Err(Trouble::Garbage("a list of tools that is too large".into()));
                }
                tools.push(tool);
            }
            if let Some(ttl) = slice.ttl {
                holds = Some(holds.map_or(ttl, |before| before.min(ttl)));
            }
            // an empty cursor and one that comes again lead nowhere
            cursor = slice.next.filter(|next| !next.is_empty() && seen.insert(next.clone()));
            if cursor.is_none() || tools.len() >= 2 * crate::tools::TOOLS_MAX {
                break;
            }
        }
        Ok(Listing { tools, holds, opening: busy.0.opening })
    }

    async fn call_rounds(
        self: &Arc<Self>,
        opening: u64,
        action: &str,
        input: JsonObject,
        options: &CallOptions,
    ) -> Result<Answer, Trouble> {
        let live = tokio::select! {
            biased;
            () = options.cancel.cancelled() => return Err(Trouble::Cancelled),
            live = self.live() => live?,
        };
        if live.opening != opening {
            return Err(Trouble::Reopened);
        }
        let busy = Busy::with(live);
        let mut params = CallToolRequestParams::new(action.to_owned());
        params.arguments = Some(input);
        for _ in 0..ROUNDS_MAX {
            let request = ClientRequest::CallToolRequest(CallToolRequest::new(params.clone()));
            match self.request(&busy.0, request, options).await? {
                (ServerResult::CallToolResult(result), _) => return Answer::read(&result),
                (ServerResult::InputRequiredResult(wanted), call) => {
                    let InputRequiredResult { input_requests, request_state, .. } = wanted;
                    let mut responses = BTreeMap::new();
                    let wanted = input_requests.unwrap_or_default();
                    if wanted.len() > QUESTIONS_AT_ONCE {
                        return Err(Trouble::Garbage("it asks too many questions at once".into()));
                    }
                    for (key, request) in wanted {
                        let InputRequest::Elicitation(request) = request else {
                            return Err(Trouble::Garbage("it asks for what is not offered".into()));
                        };
                        let result = tokio::select! {
                            biased;
                            () = options.cancel.cancelled() => return Err(Trouble::Cancelled),
                            result = call.ask(&self.server_name, &request.params) => result,
                        };
                        let result = serde_json::to_value(result)
                            .map_err(|_| Trouble::Garbage("an answer that cannot be sent".into()))?;
                        responses.insert(key, result);
                    }
                    params.input_responses = (!responses.is_empty()).then_some(responses);
                    params.request_state = request_state;
                }
                _ => return Err(Trouble::Garbage("an answer of the wrong kind".into())),
            }
        }
        Err(Trouble::Garbage("it never has enough answers".into()))
    }

    /// Sends one request and waits: until the answer, the time limit (started anew by progress and while the
    /// person is asked), or the caller's cancel.
    async fn request(
        &self,
        live: &Arc<Live>,
        request: ClientRequest,
        options: &CallOptions,
    ) -> Result<(ServerResult, Arc<Call>), Trouble> {
        let done = self.ask_and_wait(live, request, options).await;
        done.map_err(|trouble| match (live.ledger.why(), &trouble) {
            (Some(why), Trouble::Unreachable(_) | Trouble::Garbage(_)) => Trouble::Cut(why),
            _ => trouble,
        })
    }

    async fn ask_and_wait(
        &self,
        live: &Arc<Live>,
        request: ClientRequest,
        options: &CallOptions,
    ) -> Result<(ServerResult, Arc<Call>), Trouble> {
        let peer = live.service.peer();
        let limit = self.limits.call_timeout;
        let sent = tokio::select! {
            biased;
            () = options.cancel.cancelled() => return Err(Trouble::Cancelled),
            sent = peer.send_cancellable_request(request, PeerRequestOptions::no_options()) => sent,
            () = tokio::time::sleep(limit) => return Err(Trouble::TimedOut(limit)),
        };
        let mut handle = sent.map_err(|error| Trouble::of_request(&error))?;
        let begun = live.calls.begin(handle.id.clone(), handle.progress_token.clone(), options.ask.clone());
        let mut idle = tokio::time::Instant::now() + limit;
        let mut last = tokio::time::Instant::now() + limit * PROLONGED_MAX;
        loop {
            tokio::select! {
                biased;
                answer = &mut handle.rx => {
                    let answer = answer.map_err(|_| Trouble::Unreachable("it hung up".into()))?;
                    let answer = answer.map_err(|error| Trouble::of_request(&error))?;
                    return Ok((answer, Arc::clone(&begun.call)));
                }
                () = options.cancel.cancelled() => {
                    let _ = timeout(CANCEL_MAX, handle.cancel(Some("cancelled by the person".into()))).await;
                    return Err(Trouble::Cancelled);
                }
                () = begun.call.progress.notified() => idle = tokio::time::Instant::now() + limit,
                () = tokio::time::sleep_until(idle.min(last)) => {
                    if begun.call.asking.load(Ordering::SeqCst) > 0 {
                        idle = tokio::time::Instant::now() + limit;
                        last = idle + limit * (PROLONGED_MAX - 1);
                        continue;
                    }
                    let _ = timeout(CANCEL_MAX, handle.cancel(Some("no answer in time".into()))).await;
                    return Err(Trouble::TimedOut(limit));
                }
            }
        }
    }
}

/// One part of a listing.
struct Slice {
    tools: Vec<Value>,
    next: Option<String>,
    ttl: Option<Duration>,
}

impl Slice {
    fn read(slice: &ListToolsResult) -> Result<Self, Trouble> {
        let tools = slice.tools.iter().map(serde_json::to_value).collect::<Result<_, _>>();
        Ok(Self {
            tools: tools.map_err(|_| Trouble::Garbage("a tool that is none".into()))?,
            next: slice.next_cursor.clone(),
            ttl: slice.ttl_ms.map(Duration::from_millis),
        })
    }

    /// A listing with something in it that is no tool: the others count.
    fn loose(mut answer: Value) -> Result<Self, Trouble> {
        let Some(Value::Array(tools)) = answer.get_mut("tools").map(Value::take) else {
            return Err(Trouble::Garbage("an answer of the wrong kind".into()));
        };
        let next = answer.get("nextCursor").and_then(Value::as_str).map(str::to_owned);
        let ttl = answer.get("ttlMs").and_then(Value::as_u64).map(Duration::from_millis);
        Ok(Self { tools, next, ttl })
    }
}

/// Stops a stdio server that nobody has used for a while.
async fn stop_when_idle(line: Weak<Line>, live: Weak<Live>, idle: Duration) {
    let mut wait = idle;
    loop {
        tokio::time::sleep(wait).await;
        let (Some(line), Some(live)) = (line.upgrade(), live.upgrade()) else { return };
        let unused = lock(&live.used).elapsed();
        if live.busy.load(Ordering::SeqCst) == 0 && unused >= idle {
            drop(live);
            tracing::debug!(server = %line.server_name, "An idle MCP server is stopped");
            line.close().await;
            return;
        }
        wait = idle.saturating_sub(unused).max(Duration::from_millis(50));
    }
}
