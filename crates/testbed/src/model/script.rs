//! What the scripted model answers: parts, pace and faults, in words of the conversation.

use super::seen::SeenRequest;
use super::{Sent, rules};
use axum::body::Bytes;
use contract::Usage;
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Why the scripted answer ends, in the words of no protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Complete.
    End,
    /// Tools are called.
    Tools,
    /// Output limit.
    Length,
    /// Declined.
    Refusal,
    /// Anthropic's `pause_turn`; the others end.
    Pause,
    /// Gemini's `MALFORMED_FUNCTION_CALL`, Anthropic's `model_context_window_exceeded`; OpenAI ends.
    Odd,
}

/// One part of an answer.
#[derive(Debug, Clone)]
pub enum Part {
    /// Text, one delta per chunk.
    Text(Vec<String>),
    /// Reasoning with the proof that must come back.
    Thinking {
        /// The readable text; empty for redacted reasoning.
        text: String,
        /// The proof.
        signature: Option<String>,
    },
    /// A tool call; the name is the Engine's, it is mapped as the request offers it.
    ToolCall {
        /// Tool name.
        name: String,
        /// Argument text as the model writes it, valid JSON or not.
        args: String,
        /// Gemini's signature of the part.
        signature: Option<String>,
    },
    /// Waits until the test opens the gate.
    Hold(Gate),
}

/// What goes wrong.
#[derive(Debug, Clone)]
pub enum Fault {
    /// An error answer instead of a stream.
    Status {
        /// HTTP status.
        status: u16,
        /// Further headers.
        headers: Vec<(String, String)>,
        /// JSON body; the protocol's usual one for the status when absent.
        body: Option<Value>,
    },
    /// The connection breaks after this many bytes of the stream.
    CutAfterBytes(usize),
    /// The stream ends cleanly, but too early, after this many frames.
    EndAfterFrames(usize),
    /// A frame that is not JSON after this many good ones; then the connection stays open.
    MalformedFrameAfter(usize),
    /// One byte at a time with this pause.
    SlowLoris(Duration),
    /// Not even a status line.
    HangBeforeHeaders,
    /// Status and headers, then nothing.
    HangBeforeFirstByte,
    /// Silence after this many frames.
    SilenceAfterFrames(usize),
    /// An error frame of the protocol after this many frames: error word and message.
    ErrorFrameAfter(usize, String, String),
}

/// One answer.
#[derive(Debug, Clone)]
pub struct Reply {
    pub(crate) parts: Vec<Part>,
    pub(crate) stop: Option<Stop>,
    pub(crate) usage: Option<Usage>,
    pub(crate) pause: Duration,
    pub(crate) fault: Option<Fault>,
    pub(crate) interleave: bool,
    pub(crate) frames_per_write: usize,
}

impl Default for Reply {
    fn default() -> Self {
        let usage = Usage { input_tokens: 100, output_tokens: 20, cache_hit_tokens: 0 };
        Self {
            parts: Vec::new(),
            stop: None,
            usage: Some(usage),
            pause: Duration::ZERO,
            fault: None,
            interleave: false,
            frames_per_write: 1,
        }
    }
}

impl Reply {
    /// An empty answer, to be filled.
    pub fn new() -> Self {
        Self::default()
    }

    /// A text answer, one delta per word.
    pub fn text(text: &str) -> Self {
        Self::new().say(text)
    }

    /// An error answer with the protocol's usual body.
    pub fn status(status: u16) -> Self {
        Self::new().fault(Fault::Status { status, headers: Vec::new(), body: None })
    }

    /// An error answer with this body.
    pub fn error(status: u16, body: Value) -> Self {
        Self::new().fault(Fault::Status { status, headers: Vec::new(), body: Some(body) })
    }

    /// 429 with `Retry-After`.
    pub fn rate_limited(retry_after_s: u64) -> Self {
        let headers = vec![("retry-after".to_owned(), retry_after_s.to_string())];
        Self::new().fault(Fault::Status { status: 429, headers, body: None })
    }

    /// Adds text, one delta per word.
    pub fn say(self, text: &str) -> Self {
        let words = text.split_inclusive(' ').map(str::to_owned).collect();
        self.part(Part::Text(words))
    }

    /// Adds text in these deltas.
    pub fn say_chunks<'a>(self, chunks: impl IntoIterator<Item = &'a str>) -> Self {
        self.part(Part::Text(chunks.into_iter().map(str::to_owned).collect()))
    }

    /// Adds reasoning.
    pub fn think(self, text: &str, signature: &str) -> Self {
        self.part(Part::Thinking { text: text.to_owned(), signature: Some(signature.to_owned()) })
    }

    /// Adds a tool call.
    pub fn tool_call(self, name: &str, args: Value) -> Self {
        self.raw_tool_call(name, &args.to_string())
    }

    /// Adds a tool call whose argument text may be anything.
    pub fn raw_tool_call(self, name: &str, args: &str) -> Self {
        self.part(Part::ToolCall { name: name.to_owned(), args: args.to_owned(), signature: None })
    }

    /// Adds a tool call with Gemini's part signature.
    pub fn signed_tool_call(self, name: &str, args: Value, signature: &str) -> Self {
        let signature = Some(signature.to_owned());
        self.part(Part::ToolCall { name: name.to_owned(), args: args.to_string(), signature })
    }

    /// Waits here until the gate is opened.
    pub fn hold(self, gate: &Gate) -> Self {
        self.part(Part::Hold(gate.clone()))
    }

    /// Adds a part.
    pub fn part(mut self, part: Part) -> Self {
        self.parts.push(part);
        self
    }

    /// Ends in this way; by default with tools when there are calls, else complete.
    pub fn stop(mut self, stop: Stop) -> Self {
        self.stop = Some(stop);
        self
    }

    /// Reports these counts.
    pub fn usage(mut self, input: u64, output: u64, cached: u64) -> Self {
        self.usage = Some(Usage { input_tokens: input, output_tokens: output, cache_hit_tokens: cached });
        self
    }

    /// Reports no counts.
    pub fn without_usage(mut self) -> Self {
        self.usage = None;
        self
    }

    /// Pauses before every frame.
    pub fn pace(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Sends so many frames in one write, as they arrive from a model that is faster than its network.
    pub fn frames_per_write(mut self, frames: usize) -> Self {
        self.frames_per_write = frames.max(1);
        self
    }

    /// OpenAI: mixes the argument deltas of parallel calls.
    pub fn interleaved(mut self) -> Self {
        self.interleave = true;
        self
    }

    /// Goes wrong.
    pub fn fault(mut self, fault: Fault) -> Self {
        self.fault = Some(fault);
        self
    }

    pub(crate) fn stop_word(&self) -> Stop {
        let calls = self.parts.iter().any(|p| matches!(p, Part::ToolCall { .. }));
        self.stop.unwrap_or(if calls { Stop::Tools } else { Stop::End })
    }
}

/// A point in an answer where the scripted model waits for the test.
#[derive(Debug, Clone)]
pub struct Gate {
    opened: Arc<watch::Sender<bool>>,
    reached: Arc<watch::Sender<bool>>,
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    /// A closed gate.
    pub fn new() -> Self {
        Self { opened: Arc::new(watch::Sender::new(false)), reached: Arc::new(watch::Sender::new(false)) }
    }

    /// Lets the answer go on, now and whenever it comes here again.
    pub fn open(&self) {
        self.opened.send_replace(true);
    }

    /// Waits until an answer stands at the gate.
    pub async fn reached(&self) {
        // The sender lives in self, so waiting cannot fail.
        let _ = self.reached.subscribe().wait_for(|r| *r).await;
    }

    async fn pass(&self) {
        self.reached.send_replace(true);
        let _ = self.opened.subscribe().wait_for(|o| *o).await;
    }
}

type Function = dyn Fn(&SeenRequest) -> Option<Reply> + Send + Sync;

/// How requests are answered.
#[derive(Clone)]
pub struct Script(Arc<Function>);

impl Script {
    /// These answers, one per call, in order; a call too many is a problem.
    pub fn sequence(replies: impl IntoIterator<Item = Reply>) -> Self {
        let left: Mutex<VecDeque<Reply>> = Mutex::new(replies.into_iter().collect());
        Self(Arc::new(move |_| left.lock().unwrap_or_else(PoisonError::into_inner).pop_front()))
    }

    /// The same answer to every call.
    pub fn always(reply: Reply) -> Self {
        Self::from_fn(move |_| reply.clone())
    }

    /// An answer made from the request.
    pub fn from_fn(answer: impl Fn(&SeenRequest) -> Reply + Send + Sync + 'static) -> Self {
        Self(Arc::new(move |request| Some(answer(request))))
    }

    /// Deterministic answers for crash tests; see [`rules::Rules`].
    pub fn rules(rules: rules::Rules) -> Self {
        Self::from_fn(move |request| rules.reply(request))
    }

    pub(crate) fn reply(&self, request: &SeenRequest) -> Option<Reply> {
        (self.0)(request)
    }
}

/// One step of sending an answer.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Wait, then send.
    Send(Duration, Bytes),
    /// Wait for the test.
    Hold(Gate),
    /// Break the connection.
    Break,
    /// Say nothing more, keep the connection.
    Hang,
}

impl Step {
    pub(crate) async fn play(self) -> Option<Sent> {
        match self {
            Step::Send(pause, bytes) => {
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                // Lets the connection flush, so that a client sees frames as they are made.
                tokio::task::yield_now().await;
                Some(Ok(bytes))
            }
            Step::Hold(gate) => {
                gate.pass().await;
                None
            }
            Step::Break => Some(Err(std::io::Error::other("the script cuts the connection"))),
            Step::Hang => futures::future::pending().await,
        }
    }
}

/// The steps with runs of frames joined into one write each.
pub(crate) fn joined(steps: Vec<Step>, frames_per_write: usize) -> Vec<Step> {
    if frames_per_write <= 1 {
        return steps;
    }
    let mut out = Vec::new();
    let mut run = (0, Vec::new());
    for step in steps {
        match step {
            Step::Send(pause, bytes) => {
                run.0 += 1;
                run.1.extend_from_slice(&bytes);
                if run.0 == frames_per_write {
                    out.push(Step::Send(pause, Bytes::from(std::mem::take(&mut run).1)));
                }
            }
            other => {
                if run.0 > 0 {
                    out.push(Step::Send(Duration::ZERO, Bytes::from(std::mem::take(&mut run).1)));
                }
                out.push(other);
            }
        }
    }
    if run.0 > 0 {
        out.push(Step::Send(Duration::ZERO, Bytes::from(run.1)));
    }
    out
}

/// The steps with the fault worked in.
pub(crate) fn with_fault(steps: Vec<Step>, fault: Option<&Fault>) -> Vec<Step> {
    let Some(fault) = fault else { return steps };
    let frames = |n: usize| -> Vec<Step> {
        let mut left = n;
        let enough = |s: &Step| {
            let go = left > 0;
            left -= usize::from(go && matches!(s, Step::Send(..)));
            go
        };
        let mut enough = enough;
        steps.iter().take_while(|s| enough(s)).cloned().collect()
    };
    let mut out;
    match fault {
        Fault::Status { .. } | Fault::HangBeforeHeaders => out = steps,
        Fault::HangBeforeFirstByte => out = vec![Step::Hang],
        Fault::EndAfterFrames(n) => out = frames(*n),
        Fault::SilenceAfterFrames(n) => {
            out = frames(*n);
            out.push(Step::Hang);
        }
        Fault::MalformedFrameAfter(n) => {
            out = frames(*n);
            out.push(Step::Send(Duration::ZERO, Bytes::from_static(b"data: {\"choices\":[{\"delta\n\n")));
            out.push(Step::Hang);
        }
        Fault::ErrorFrameAfter(n, word, message) => {
            out = frames(*n);
            let frame = serde_json::json!({"type": "error", "error": {
                "type": word, "code": word, "status": word, "message": message,
            }});
            out.push(Step::Send(Duration::ZERO, Bytes::from(format!("event: error\ndata: {frame}\n\n"))));
            out.push(Step::Hang);
        }
        Fault::SlowLoris(pause) => {
            out = Vec::new();
            for step in steps {
                match step {
                    Step::Send(_, bytes) => {
                        out.extend((0..bytes.len()).map(|i| Step::Send(*pause, bytes.slice(i..=i))));
                    }
                    other => out.push(other),
                }
            }
        }
        Fault::CutAfterBytes(n) => {
            out = Vec::new();
            let mut left = *n;
            for step in steps {
                match step {
                    Step::Send(pause, bytes) if bytes.len() > left => {
                        out.push(Step::Send(pause, bytes.slice(..left)));
                        break;
                    }
                    Step::Send(pause, bytes) => {
                        left -= bytes.len();
                        out.push(Step::Send(pause, bytes));
                    }
                    other => out.push(other),
                }
            }
            out.push(Step::Break);
        }
    }
    out
}
