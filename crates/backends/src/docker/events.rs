//! The daemon's events about our engines, without end: a lost stream is opened again.
//!
//! Hints only; whoever listens lists after every [`BackendEventKind::Gap`]. The one invariant: between two gaps
//! nothing is skipped: a stream begins at the daemon's own time from just before its gap was announced.

use super::refusal::Refusal;
use super::wire::Daemon;
use crate::deadline::within;
use crate::{BackendError, BackendEvent, BackendEventKind, Result};
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptions;
use contract::{EngineId, InstanceId};
use fleet::spec::{LABEL_ENGINE, LABEL_INSTANCE, LABEL_ROLE, ROLE_ENGINE};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// First wait before a new attempt. Shorter makes a daemon's restart a busy loop; longer delays notice of crashes.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Longest wait. Longer leaves a daemon that is back unheard; shorter fills logs while one is away.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Events that wait for a slow listener. More holds memory for hints nobody reads; fewer makes a burst of restarts a
/// relist.
const QUEUE_MAX: usize = 1024;
/// The actions that mean something to us, and what.
const ACTIONS: [(&str, BackendEventKind); 6] = [
    ("start", BackendEventKind::Start),
    ("die", BackendEventKind::Die),
    ("oom", BackendEventKind::Oom),
    ("pause", BackendEventKind::Pause),
    ("unpause", BackendEventKind::Unpause),
    ("destroy", BackendEventKind::Destroy),
];

/// Doubles from [`RETRY_FIRST`] to [`RETRY_MAX`].
struct Retry(Duration);

impl Retry {
    fn next(&mut self) -> Duration {
        let wait = self.0;
        self.0 = (wait * 2).min(RETRY_MAX);
        wait
    }
}

struct Watch {
    daemon: Daemon,
    instance: InstanceId,
    connect_limit: Duration,
    retry: Retry,
    opened_at: Instant,
    heard: mpsc::Sender<BackendEvent>,
}

type Messages = BoxStream<'static, std::result::Result<EventMessage, bollard::errors::Error>>;

/// All events of this instance's engines; each (re)connection sends a gap. A task of its own reads them, so that the
/// daemon, which drops what a slow listener leaves, is always listened to; it ends with the stream.
pub(crate) fn watch(
    daemon: Daemon,
    instance: InstanceId,
    connect_limit: Duration,
) -> BoxStream<'static, BackendEvent> {
    stream::once(async move {
        let (heard, events) = mpsc::channel(QUEUE_MAX);
        let retry = Retry(RETRY_FIRST);
        let watch = Watch { daemon, instance, connect_limit, retry, opened_at: Instant::now(), heard };
        let reading = AbortOnDropHandle::new(tokio::spawn(watch.run()));
        stream::unfold((events, reading), |(mut events, reading)| async move {
            let event = events.recv().await?;
            Some((event, (events, reading)))
        })
    })
    .flatten()
    .boxed()
}

impl Watch {
    /// Listens until nobody listens to us.
    async fn run(mut self) {
        while !self.heard.is_closed() {
            match within("events", self.connect_limit, self.connect()).await {
                Ok(mut messages) => {
                    self.opened_at = Instant::now();
                    self.tell_gap().await;
                    self.listen(&mut messages).await;
                    self.closed();
                }
                Err(error) => {
                    self.daemon.forget();
                    tracing::debug!(%error, "the event stream is not connected");
                }
            }
            tokio::time::sleep(self.retry.next()).await;
        }
    }

    async fn listen(&mut self, messages: &mut Messages) {
        while let Some(message) = messages.next().await {
            let message = match message {
                Ok(message) => message,
                Err(error) => {
                    tracing::debug!(%error, "the event stream broke");
                    return;
                }
            };
            self.retry = Retry(RETRY_FIRST);
            let Some(event) = read(&message) else { continue };
            match self.heard.try_send(event) {
                Ok(()) => {}
                // The listener is behind; what it does not hear it shall look for.
                Err(mpsc::error::TrySendError::Full(_)) => self.tell_gap().await,
                Err(mpsc::error::TrySendError::Closed(_)) => return,
            }
        }
    }

    async fn tell_gap(&self) {
        // Nobody listens any more: the next look at the channel ends the task.
        let _ = self.heard.send(BackendEvent { engine: None, kind: BackendEventKind::Gap }).await;
    }

    /// The stream ended. One that lasted is no reason to wait longer than at first.
    fn closed(&mut self) {
        self.daemon.forget();
        if self.opened_at.elapsed() > RETRY_MAX {
            self.retry = Retry(RETRY_FIRST);
        }
    }

    async fn connect(&self) -> Result<Messages> {
        let docker = self.daemon.events().await?;
        let now = docker.info().await.map_err(Refusal::from)?.system_time;
        let since = now
            .as_deref()
            .and_then(unix_time)
            .ok_or_else(|| BackendError::Refused("the daemon does not say what time it is".to_owned()))?;
        let labels =
            vec![format!("{LABEL_INSTANCE}={}", self.instance), format!("{LABEL_ROLE}={ROLE_ENGINE}")];
        let filters = HashMap::from([
            ("type".to_owned(), vec!["container".to_owned()]),
            ("label".to_owned(), labels),
            ("event".to_owned(), ACTIONS.iter().map(|(action, _)| (*action).to_owned()).collect()),
        ]);
        let options = EventsOptions { since: Some(since), until: None, filters: Some(filters) };
        Ok(docker.events(Some(options)).boxed())
    }
}

/// Seconds and nanoseconds since the epoch, as the daemon's `since` wants them.
fn unix_time(text: &str) -> Option<String> {
    let millis = contract::Timestamp::parse(text)?.millis();
    Some(format!("{}.{:03}000000", millis.div_euclid(1000), millis.rem_euclid(1000)))
}

fn read(message: &EventMessage) -> Option<BackendEvent> {
    let action = message.action.as_deref()?;
    let (_, kind) = ACTIONS.iter().find(|(name, _)| *name == action)?;
    let engine = message.actor.as_ref()?.attributes.as_ref()?.get(LABEL_ENGINE)?;
    Some(BackendEvent { engine: Some(EngineId::parse(engine).ok()?), kind: *kind })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_end_at_five_seconds() {
        let mut retry = Retry(RETRY_FIRST);
        let waits: Vec<u128> = (0..8).map(|_| retry.next().as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    }

    #[test]
    fn an_event_names_its_engine_and_unknown_ones_are_nothing() {
        let engine = EngineId::generate();
        let message = |action: &str| -> EventMessage {
            serde_json::from_value(serde_json::json!({
                "Type": "container", "Action": action,
                "Actor": {"ID": "c", "Attributes": {"bap-engine/engine-id": engine.to_string()}}
            }))
            .expect("an event")
        };
        let event = BackendEvent { engine: Some(engine), kind: BackendEventKind::Oom };
        assert_eq!(read(&message("oom")), Some(event));
        assert_eq!(read(&message("exec_create: sh")), None);
    }

    #[test]
    fn the_daemons_time_is_handed_back_to_it() {
        assert_eq!(unix_time("1970-01-01T00:01:00.0456789+00:00").as_deref(), Some("60.045000000"));
    }
}
