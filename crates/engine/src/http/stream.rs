//! Event streams: frames from the log in order, then live, with heartbeats.
//!
//! A reader keeps a cursor into the log and is fed only as fast as its connection takes frames, so a slow
//! one costs the turn nothing. The connection itself is cut by the server after a minute without progress.

use super::app::App;
use crate::core::Core;
use crate::feed::Subscription;
use axum::body::Body;
use axum::response::Response;
use brain::turns::{self, TurnState};
use brain::{events, snapshots};
use bytes::Bytes;
use contract::event::{frame, heartbeat_data};
use contract::{ApiError, ErrorCode, TaskId, Timestamp, TurnId};
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Open streams; one more is refused. Each costs a connection and its buffers.
pub const MAX_STREAMS: u64 = 1024;
/// Events read from the brain at once. More holds more memory per reader; fewer makes long replays slow.
const BATCH: u32 = 256;

/// What a reader wants to see.
#[derive(Debug, Clone)]
pub enum Select {
    /// One turn, until it is over.
    Turn(TaskId, TurnId),
    /// One task.
    Task(TaskId),
    /// Everything.
    All,
}

impl Select {
    /// The task to listen to; `None` for all.
    pub fn task(&self) -> Option<&str> {
        match self {
            Select::Turn(task, _) | Select::Task(task) => Some(task.as_str()),
            Select::All => None,
        }
    }
}

/// How long a reader stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// While a selected turn is not over.
    Auto,
    /// Until the client leaves or the Engine drains.
    Always,
    /// Stored events only.
    Never,
}

struct Reader {
    core: Arc<Core>,
    select: Select,
    follow: Follow,
    cursor: i64,
    /// The turn of the last event sent, for heartbeats.
    last_turn: Option<TurnId>,
    live: Subscription,
    heartbeat: Duration,
    next_beat: Instant,
    closing: CancellationToken,
    /// Frames to be sent before the log is read (a turn whose events have expired).
    first: Option<Bytes>,
    done: bool,
    _open: Open,
}

/// A place for one stream, taken before anything is done on its behalf.
pub struct Place {
    open: Open,
    closing: CancellationToken,
    live: Option<Subscription>,
}

impl Place {
    /// Listens to a task (or to all) from now on, so that nothing published meanwhile is read from the brain.
    pub fn subscribe(&mut self, core: &Arc<Core>, task: Option<&str>) {
        self.live = Some(core.feed.subscribe(task));
    }
}

/// Counts an open stream.
struct Open(Arc<App>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.pulse.open_streams().fetch_sub(1, Ordering::Relaxed);
    }
}

/// Takes a place for a stream.
pub fn admit(app: &Arc<App>) -> Result<Place, ApiError> {
    let open = app.pulse.open_streams().fetch_add(1, Ordering::Relaxed);
    let guard = Open(Arc::clone(app));
    if open >= MAX_STREAMS {
        return Err(ApiError::new(ErrorCode::EngineBusy, "too many open streams")
            .with(json!({"reason": "too_many_connections", "limit": MAX_STREAMS})));
    }
    Ok(Place { open: guard, closing: app.drain.closing_token(), live: None })
}

/// Opens a stream as an HTTP answer: events with a `seq` above `from`. `first` is sent before anything else.
pub fn open(
    place: Place,
    core: &Arc<Core>,
    select: Select,
    follow: Follow,
    from: i64,
    first: Option<Bytes>,
) -> Response {
    let live = place.live.unwrap_or_else(|| core.feed.subscribe(select.task()));
    let heartbeat = core.config.engine_heartbeat_interval_s;
    let reader = Reader {
        core: Arc::clone(core),
        select,
        follow,
        cursor: from,
        last_turn: None,
        live,
        heartbeat,
        next_beat: Instant::now() + heartbeat,
        closing: place.closing,
        first,
        done: false,
        _open: place.open,
    };
    let frames = futures::stream::unfold(reader, |mut reader| async move {
        let bytes = reader.next().await?;
        Some((Ok::<Bytes, std::convert::Infallible>(bytes), reader))
    });
    let mut response = Response::new(Body::from_stream(frames));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

impl Reader {
    /// The next frames, or `None` at the end of the stream.
    async fn next(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        loop {
            self.live.mark_seen();
            // what was committed before the Engine closes is still sent, above all the end of a turn
            let closing = self.closing.is_cancelled();
            // whether anything more can come is asked before the log is read, so nothing falls between
            let over = match self.over().await {
                Ok(over) => over || closing,
                Err(_) => return None,
            };
            match self.read().await {
                Ok(Some(bytes)) => {
                    self.next_beat = Instant::now() + self.heartbeat;
                    return Some(bytes);
                }
                Ok(None) if over => return None,
                Ok(None) => {}
                Err(brain::Error::Closed) => return None,
                Err(error) => {
                    tracing::warn!(error = %error, "A stream ended because its events could not be read");
                    return None;
                }
            }
            tokio::select! {
                biased;
                () = self.closing.cancelled() => {}
                () = self.live.changed() => {}
                () = tokio::time::sleep_until(self.next_beat) => {
                    self.next_beat = Instant::now() + self.heartbeat;
                    return Some(self.beat());
                }
            }
        }
    }

    async fn over(&self) -> brain::Result<bool> {
        match (self.follow, &self.select) {
            (Follow::Never, _) => Ok(true),
            (Follow::Always, _) => Ok(false),
            (Follow::Auto, Select::Turn(task, turn)) => {
                // memory knows a live turn; only a reader that may be at the end asks the brain
                if self.core.coordinator.running(turn).is_some() {
                    return Ok(false);
                }
                let _ = task;
                let turn = turn.clone();
                self.core
                    .brain
                    .read("is turn over", move |tx| {
                        Ok(turns::get(tx, &turn)?.is_none_or(|t| t.state.is_terminal()))
                    })
                    .await
            }
            (Follow::Auto, Select::Task(task)) => {
                let task = task.clone();
                self.core.brain.read("is task idle", move |tx| Ok(turns::open_of(tx, &task)?.is_none())).await
            }
            (Follow::Auto, Select::All) => {
                self.core.brain.read("are all idle", |tx| Ok(!turns::any_open(tx)?)).await
            }
        }
    }

    /// Frames after the cursor, joined; `None` when there are none now.
    async fn read(&mut self) -> brain::Result<Option<Bytes>> {
        let list = match self.live.recent(self.cursor) {
            Some(recent) => recent,
            None => {
                let (select, cursor) = (self.select.clone(), self.cursor);
                self.core
                    .brain
                    .read("read events", move |tx| match &select {
                        Select::Turn(_, turn) => events::of_turn(tx, turn, cursor, BATCH),
                        Select::Task(task) => events::of_task(tx, task, cursor, BATCH),
                        Select::All => events::of_all(tx, cursor, BATCH),
                    })
                    .await?
                    .into_iter()
                    .map(Arc::new)
                    .collect()
            }
        };
        let mut out = String::new();
        for event in list {
            self.cursor = event.seq;
            if let Select::Turn(_, turn) = &self.select {
                if event.turn_id != turn.as_str() {
                    continue;
                }
                if event.is_final() {
                    self.done = true;
                }
            }
            if self.last_turn.as_ref().is_none_or(|t| t.as_str() != event.turn_id) {
                self.last_turn = TurnId::parse(&event.turn_id).ok();
            }
            out.push_str(&event.frame());
            if self.done {
                break;
            }
        }
        Ok((!out.is_empty()).then(|| Bytes::from(out)))
    }

    fn beat(&self) -> Bytes {
        let (task, turn) = match &self.select {
            Select::Turn(task, turn) => (Some(task), Some(turn)),
            Select::Task(task) => (Some(task), self.last_turn.as_ref()),
            Select::All => (None, None),
        };
        Bytes::from(frame(self.cursor, "heartbeat", &heartbeat_data(task, turn, Timestamp::now())))
    }
}

/// The frames of a turn that is over and whose events have expired, as far as they come after `after`:
/// started and the end, from its row.
pub fn rebuilt(turn: &turns::Turn, after: i64) -> Option<Bytes> {
    use contract::event::{Completed, Errored, Event, Started};
    let started = Event::Started {
        phase: Started::Is,
        user_message_id: turn.user_message_id.clone(),
        agent: turn.agent.clone(),
        queued: false,
    };
    let last = match (turn.state, &turn.error, turn.stop_reason) {
        (TurnState::Errored, Some(error), _) => Event::Errored { phase: Errored::Is, error: error.code },
        (TurnState::Completed, _, Some(stop_reason)) => Event::Completed {
            phase: Completed::Is,
            message_id: turn.message_id.clone(),
            stop_reason,
            output: turn.output.clone(),
        },
        _ => return None,
    };
    let mut out = String::new();
    let ended = turn.ended_at.unwrap_or(turn.created_at);
    let both = [(started, turn.first_seq, turn.created_at), (last, turn.last_seq, ended)];
    for (event, seq, at) in both.into_iter().filter(|(_, seq, _)| *seq > after) {
        let data = event.data(&turn.task_id, &turn.turn_id, at, None);
        out.push_str(&frame(seq, event.name().as_str(), &data));
    }
    (!out.is_empty()).then(|| Bytes::from(out))
}

/// Whether a turn's events are still stored.
pub async fn events_are_stored(core: &Arc<Core>, turn: &TurnId) -> brain::Result<bool> {
    let turn = turn.clone();
    core.brain.read("are events stored", move |tx| Ok(snapshots::get(tx, &turn)?.is_some())).await
}
