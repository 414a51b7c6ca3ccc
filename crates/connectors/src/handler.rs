//! What a server may ask of us, and what it tells us: questions to the person, progress, changed tool lists.
//!
//! Sampling, roots and logging are not offered. The invariant: a question goes to the person through the call it
//! belongs to; without a call it is cancelled.

use crate::ask::{self, Ask, Reply};
use crate::ceilings::{Ledger, QUESTIONS_AT_ONCE};
use contract::ConnectionId;
use rmcp::model::{
    ClientCapabilities, ClientConfig, ElicitRequestParams, ElicitResult, ElicitationAction,
    ElicitationCapability, ErrorData, FormElicitationCapability, Implementation, ProgressNotificationParam,
    ProgressToken, ProtocolVersion, RequestId, UrlElicitationCapability,
};
use rmcp::service::{InboundStreamOrigin, NotificationContext, RequestContext};
use rmcp::{ClientHandler, RoleClient};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Notify, mpsc};

/// One call under way.
pub(crate) struct Call {
    id: RequestId,
    token: ProgressToken,
    asker: Option<Arc<dyn Ask>>,
    /// Told at every sign of progress.
    pub progress: Notify,
    /// Questions to the person that wait for an answer: the clock of the call stands still.
    pub asking: AtomicUsize,
}

impl Call {
    /// Asks the person on behalf of this call.
    pub async fn ask(&self, server: &str, params: &ElicitRequestParams) -> ElicitResult {
        let (Some(question), Some(asker)) = (ask::question(server, params), self.asker.clone()) else {
            return ElicitResult::new(ElicitationAction::Cancel);
        };
        let wants = question.wants.clone();
        let _waiting = Waiting::begin(self);
        ask::result(&wants, asker.ask(question).await)
    }
}

struct Waiting<'a>(&'a Call);

impl<'a> Waiting<'a> {
    fn begin(call: &'a Call) -> Self {
        call.asking.fetch_add(1, Ordering::SeqCst);
        Self(call)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.asking.fetch_sub(1, Ordering::SeqCst);
        // the clock of the call starts anew
        self.0.progress.notify_one();
    }
}

/// The calls under way on one line.
#[derive(Default)]
pub(crate) struct Calls(Mutex<Vec<Arc<Call>>>);

impl Calls {
    /// Registers a call; it is forgotten when the guard goes.
    pub fn begin(
        self: &Arc<Self>,
        id: RequestId,
        token: ProgressToken,
        asker: Option<Arc<dyn Ask>>,
    ) -> Begun {
        let (progress, asking) = (Notify::new(), AtomicUsize::new(0));
        let call = Arc::new(Call { id, token, asker, progress, asking });
        self.lock().push(Arc::clone(&call));
        Begun { calls: Arc::clone(self), call }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Call>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Questions to the person that wait, of all calls.
    fn asking(&self) -> usize {
        self.lock().iter().map(|call| call.asking.load(Ordering::SeqCst)).sum()
    }

    fn by_token(&self, token: &ProgressToken) -> Option<Arc<Call>> {
        self.lock().iter().find(|call| call.token == *token).cloned()
    }

    /// The call a request of the server belongs to; where the line does not say, the oldest that can ask.
    fn behind(&self, origin: Option<&InboundStreamOrigin>) -> Option<Arc<Call>> {
        let calls = self.lock();
        match origin {
            Some(InboundStreamOrigin::OutboundRequest(id)) => {
                calls.iter().find(|call| call.id == *id).cloned()
            }
            Some(InboundStreamOrigin::Unassociated) | None => {
                calls.iter().find(|call| call.asker.is_some()).cloned()
            }
        }
    }
}

/// A registered call.
pub(crate) struct Begun {
    calls: Arc<Calls>,
    pub call: Arc<Call>,
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.calls.lock().retain(|call| !Arc::ptr_eq(call, &self.call));
    }
}

/// Our side of one line.
#[derive(Clone)]
pub(crate) struct Handler {
    pub server: Arc<str>,
    pub calls: Arc<Calls>,
    pub changed: Changed,
    pub ledger: Arc<Ledger>,
}

/// Tells the directory that a server's tools have changed.
#[derive(Clone)]
pub(crate) struct Changed {
    pub ref_id: ConnectionId,
    pub to: mpsc::Sender<ConnectionId>,
}

impl Changed {
    /// Tells. When the queue is full the directory is about to look anyway.
    pub fn tell(&self) {
        let _ = self.to.try_send(self.ref_id.clone());
    }
}

impl ClientHandler for Handler {
    fn get_info(&self) -> ClientConfig {
        let elicitation = ElicitationCapability::new()
            .with_form(FormElicitationCapability::default())
            .with_url(UrlElicitationCapability::default());
        let mut capabilities = ClientCapabilities::default();
        capabilities.elicitation = Some(elicitation);
        let us = Implementation::new("september-engine", env!("CARGO_PKG_VERSION"));
        ClientConfig::new(capabilities, us).with_protocol_version(ProtocolVersion::V_2025_11_25)
    }

    async fn create_elicitation(
        &self,
        request: ElicitRequestParams,
        context: RequestContext<RoleClient>,
    ) -> Result<ElicitResult, ErrorData> {
        let Some(call) = self.calls.behind(context.extensions.get::<InboundStreamOrigin>()) else {
            return Ok(ask::result(&ask::Wants::Visit(String::new()), Reply::Cancelled));
        };
        if self.calls.asking() >= QUESTIONS_AT_ONCE {
            return Ok(ElicitResult::new(ElicitationAction::Cancel));
        }
        tokio::select! {
            result = call.ask(&self.server, &request) => Ok(result),
            () = context.ct.cancelled() => Ok(ElicitResult::new(ElicitationAction::Cancel)),
        }
    }

    async fn on_progress(&self, params: ProgressNotificationParam, _: NotificationContext<RoleClient>) {
        if let Some(call) = self.calls.by_token(&params.progress_token) {
            call.progress.notify_one();
        }
    }

    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        self.changed.tell();
    }
}
