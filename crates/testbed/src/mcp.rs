//! An MCP server on loopback that speaks one revision of the protocol, answers by script, misbehaves when told to,
//! and remembers every request it got.
//!
//! Modern (2026-07-28) it refuses requests without their `_meta` and headers; with a session (2025-11-25) it
//! refuses requests without the session; as an event stream (2024-11-05) it answers on the stream only.

mod auth;
mod speak;

pub use auth::{ScriptedAuth, Seen as SeenToken};

use axum::Router;
use http::HeaderMap;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// The revision a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// 2026-07-28, stateless.
    Modern,
    /// 2025-11-25, with a session.
    Session,
    /// 2024-11-05 over HTTP.
    EventStream,
}

/// How a server misbehaves on `tools/call`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mischief {
    /// Answers with this HTTP status.
    Status(u16),
    /// Hangs up without an answer.
    HangUp,
    /// Never answers.
    Silence,
    /// Sends something that is no JSON-RPC.
    Garbage,
    /// Sends progress this often, this many milliseconds apart, and then the answer.
    Progress(u32, u64),
    /// Wants a scope that the token does not have.
    MissingScope(String),
    /// Answers that the call failed, in words of its own (`isError`).
    Complaint,
    /// Asks the person for a text first, and answers with it.
    Elicit,
    /// Answers with this text, whatever it was asked.
    Says(String),
    /// The same, as a failure in words of its own.
    SaysFailed(String),
}

/// One request it got.
#[derive(Debug, Clone)]
pub struct SeenCall {
    /// JSON-RPC method, or `GET` / `DELETE`.
    pub method: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The whole message.
    pub body: Value,
}

/// Whether a credential is good.
pub(crate) type Judge = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// What tests change while it runs.
#[derive(Default)]
pub(crate) struct Script {
    pub tools: Vec<Value>,
    pub slice: usize,
    pub mischief: Option<Mischief>,
    /// Judges bearer tokens and `X-Api-Key` values; `None` = everybody may come.
    pub accepts: Option<Judge>,
    pub resource_metadata: Option<String>,
    pub sessions: HashSet<String>,
    pub streams: HashMap<String, mpsc::UnboundedSender<Value>>,
    pub answers: HashMap<String, tokio::sync::oneshot::Sender<Value>>,
    pub seen: Vec<SeenCall>,
    pub counter: u64,
}

pub(crate) struct Shared {
    pub speaks: Speaks,
    pub script: Mutex<Script>,
    pub changed: watch::Sender<u64>,
    pub url: String,
}

impl Shared {
    pub fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running server. Dropping it closes its port.
pub struct ScriptedMcp {
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

impl Drop for ScriptedMcp {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A tool as a server lists it: one text parameter.
pub fn tool(name: &str, description: &str) -> Value {
    json!({
        "name": name,
        "description": description,
        "inputSchema": {
            "type": "object",
            "properties": {"text": {"type": "string", "description": "Any text"}},
            "required": ["text"],
        },
    })
}

impl ScriptedMcp {
    /// Starts on a free port with one tool, `echo`.
    pub async fn start(speaks: Speaks) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/mcp", listener.local_addr().expect("bound"));
        let script = Script { tools: vec![tool("echo", "Says it again")], slice: 100, ..Script::default() };
        let shared =
            Arc::new(Shared { speaks, script: Mutex::new(script), changed: watch::Sender::new(0), url });
        let app: Router = speak::router(Arc::clone(&shared));
        let server = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        Self { shared, server }
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.shared.url
    }

    /// Replaces its tools, without telling.
    pub fn set_tools(&self, tools: Vec<Value>) {
        self.shared.script().tools = tools;
    }

    /// Tells its listeners that the tools have changed.
    pub fn tell_changed(&self) {
        self.shared.changed.send_modify(|count| *count += 1);
    }

    /// How many tools one slice of the list has.
    pub fn set_slice(&self, tools: usize) {
        self.shared.script().slice = tools.max(1);
    }

    /// Misbehaves from now on, or stops.
    pub fn misbehave(&self, mischief: Option<Mischief>) {
        self.shared.script().mischief = mischief;
    }

    /// Accepts these tokens only.
    pub fn accept_only<T: Into<String>>(&self, tokens: impl IntoIterator<Item = T>) {
        let tokens: HashSet<String> = tokens.into_iter().map(Into::into).collect();
        self.shared.script().accepts = Some(Arc::new(move |token| tokens.contains(token)));
    }

    /// Accepts what this authorization server has given out and not taken back.
    pub fn trust(&self, auth: &ScriptedAuth) {
        self.shared.script().accepts = Some(auth.judge());
    }

    /// Names this protected-resource metadata in its challenges.
    pub fn name_metadata(&self, url: &str) {
        self.shared.script().resource_metadata = Some(url.to_owned());
    }

    /// Forgets every session.
    pub fn forget_sessions(&self) {
        self.shared.script().sessions.clear();
    }

    /// Everything it was asked, in order.
    pub fn seen(&self) -> Vec<SeenCall> {
        self.shared.script().seen.clone()
    }

    /// How often it was asked this.
    pub fn count(&self, method: &str) -> usize {
        self.shared.script().seen.iter().filter(|call| call.method == method).count()
    }
}
