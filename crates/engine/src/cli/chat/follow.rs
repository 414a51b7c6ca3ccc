//! Following one turn to its end, through cuts and restarts, without a gap and without a duplicate.
//!
//! A task of its own reads the stream and hands [`Step`]s over a bounded channel, so that the session can
//! wait for frames, for the person and for Ctrl-C at once. After a cut it asks for the rest by
//! Last-Event-ID; if nothing had come yet, it sends the same request with the same Idempotency-Key.
//!
//! The invariant: a frame whose sequence number is not above the last one handed over is dropped.

use super::client::{Client, Failure};
use super::frames::{Frame, Frames};
use contract::ErrorCode;
use contract::engine_api::ExecuteRequest;
use futures::StreamExt as _;
use reqwest::Response;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Frames on their way to the screen. More would only hide that the terminal is slow.
const CHANNEL: usize = 256;

/// Silence after which a connection counts as dead; the Engine sends a heartbeat every 15 s by default.
/// Shorter would reconnect needlessly with a long ENGINE_HEARTBEAT_INTERVAL_S (harmless, but noisy);
/// longer leaves a half-open connection unnoticed.
const SILENCE: Duration = Duration::from_secs(60);

/// First and longest wait between attempts to reconnect. A shorter longest wait would hammer an Engine
/// that is being upgraded, a longer one would leave a person waiting after it is back.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(3));

/// How long reconnecting is tried. Longer keeps a script hanging on an Engine that never returns; shorter
/// gives up during an upgrade with a migration.
const PATIENCE: Duration = Duration::from_secs(300);

/// Replays in a row that end without anything new before the turn counts as over. One is normal when a
/// restart races with the question; more than a few mean that its events have expired.
const EMPTY_REPLAYS: u32 = 4;

/// What happened on the stream.
#[derive(Debug)]
pub enum Step {
    /// The next frame of the turn.
    Frame(Frame),
    /// The connection is gone; this is said once per cut.
    Reconnecting(String),
    /// It is back.
    Reconnected,
    /// The turn cannot be followed (any more).
    Failed(Failure),
    /// The turn is over but its last frame is no longer stored.
    Expired,
}

/// Which turn to follow.
#[derive(Debug, Clone)]
pub enum Start {
    /// A new one.
    Send {
        /// The message.
        body: Box<ExecuteRequest>,
        /// Makes sending it twice harmless.
        idempotency_key: String,
    },
    /// One that is under way.
    Join {
        /// Its task.
        task_id: String,
        /// Its name; events of other turns are skipped.
        turn_id: Option<String>,
    },
}

/// Starts following; the channel ends after the turn's last frame or a failure.
pub fn follow(client: Client, start: Start) -> mpsc::Receiver<Step> {
    let (steps, receiver) = mpsc::channel(CHANNEL);
    let turn = match &start {
        Start::Send { .. } => None,
        Start::Join { turn_id, .. } => turn_id.clone(),
    };
    let follower = Follower { client, start, steps, last: None, turn, opened: false };
    tokio::spawn(follower.run());
    receiver
}

struct Follower {
    client: Client,
    start: Start,
    steps: mpsc::Sender<Step>,
    last: Option<i64>,
    turn: Option<String>,
    opened: bool,
}

/// How one connection ended.
enum End {
    /// The last frame of the turn was handed over, or nobody listens any more.
    Done,
    /// The connection ended before that; the number of frames it brought.
    Cut { why: String, frames: usize },
    /// It cannot be read.
    Failed(Failure),
}

impl Follower {
    async fn run(mut self) {
        let mut wait = BACK_OFF.0;
        let mut lost_at: Option<Instant> = None;
        let mut empty = 0;
        loop {
            let failure = match self.open().await {
                Ok(response) => {
                    self.opened = true;
                    if lost_at.take().is_some() && !self.tell(Step::Reconnected).await {
                        return;
                    }
                    match self.read(response).await {
                        End::Done => return,
                        End::Failed(failure) => return self.finish(Step::Failed(failure)).await,
                        End::Cut { why, frames } => {
                            if frames > 0 {
                                (wait, empty) = (BACK_OFF.0, 0);
                            } else {
                                empty += 1;
                            }
                            if empty >= EMPTY_REPLAYS {
                                return self.finish(Step::Expired).await;
                            }
                            Failure::Cut(why)
                        }
                    }
                }
                Err(failure) => failure,
            };
            let starting = matches!(&failure, Failure::Cut(_)) || failure.code() == Some(ErrorCode::Starting);
            let first_contact = !self.opened && !starting;
            let out_of_patience = lost_at.is_some_and(|since| since.elapsed() > PATIENCE);
            if first_contact || !failure.may_pass() || out_of_patience {
                return self.finish(Step::Failed(failure)).await;
            }
            if lost_at.is_none() {
                lost_at = Some(Instant::now());
                let why = match failure {
                    Failure::Cut(why) => why,
                    other => other.to_string(),
                };
                if !self.tell(Step::Reconnecting(why)).await {
                    return;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.steps.closed() => return,
            }
            wait = (wait * 2).min(BACK_OFF.1);
        }
    }

    async fn open(&self) -> Result<Response, Failure> {
        match (&self.start, self.last) {
            (Start::Send { body, idempotency_key }, None) => self.client.execute(body, idempotency_key).await,
            (Start::Send { body, .. }, last) => self.client.replay(&body.task_id, last).await,
            (Start::Join { task_id, .. }, last) => self.client.replay(task_id, last).await,
        }
    }

    async fn read(&mut self, response: Response) -> End {
        let mut bytes = response.bytes_stream();
        let mut frames = Frames::default();
        let mut count = 0;
        loop {
            let chunk = tokio::select! {
                chunk = tokio::time::timeout(SILENCE, bytes.next()) => chunk,
                () = self.steps.closed() => return End::Done,
            };
            let why = match chunk {
                Ok(Some(Ok(chunk))) => {
                    let mut ready = Vec::new();
                    if let Err(error) = frames.push(&chunk, &mut ready) {
                        let url = self.client.base().to_owned();
                        return End::Failed(Failure::NotAnEngine { url, what: error.to_string() });
                    }
                    for frame in ready {
                        let Some(frame) = self.admit(frame) else { continue };
                        count += 1;
                        let last = frame.is_final();
                        if !self.tell(Step::Frame(frame)).await || last {
                            return End::Done;
                        }
                    }
                    continue;
                }
                // The reader needs to know that, and not in which layer.
                Ok(Some(Err(_))) => "the connection was lost".to_owned(),
                Ok(None) => "the stream ended early".to_owned(),
                Err(_) => format!("nothing came for {} s", SILENCE.as_secs()),
            };
            return End::Cut { why, frames: count };
        }
    }

    /// Lets through what is new and belongs to the turn.
    fn admit(&mut self, frame: Frame) -> Option<Frame> {
        if frame.name == "heartbeat" {
            return None;
        }
        if let (Some(seq), Some(last)) = (frame.seq, self.last)
            && seq <= last
        {
            return None;
        }
        self.last = frame.seq.or(self.last);
        let turn = frame.text("turn_id");
        match &self.turn {
            Some(wanted) if wanted != turn => return None,
            Some(_) => {}
            None => self.turn = Some(turn.to_owned()),
        }
        Some(frame)
    }

    /// False when nobody listens any more.
    async fn tell(&self, step: Step) -> bool {
        self.steps.send(step).await.is_ok()
    }

    async fn finish(&self, step: Step) {
        // Nobody listening is fine: then nobody wants to know.
        let _ = self.steps.send(step).await;
    }
}
