//! How much a server may send: requests of its own, notifications, bytes, streams it opens again.
//!
//! A server answers our calls, but it may also ask and tell, and nothing in the protocol says how often. The ledger
//! of a line counts. Back-pressure comes first: while too many of its requests are unanswered its stream is not
//! read. What no honest server does cuts the line, and the circuit breaker counts that.
//!
//! The invariant: what a line holds for its server is bounded by the numbers below, however fast the server writes
//! and however slowly it reads.

use rmcp::model::{RequestId, ServerJsonRpcMessage, ServerRequest};
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Requests of the server without an answer of ours, beyond which its streams are not read. Questions to the person
/// do not count. More holds more memory for a server that does not read; fewer slows servers that ask in parallel.
pub const UNANSWERED_PAUSE: usize = 16;
/// The same, questions included, beyond which the line is cut. What is on its way when the reading stops must fit
/// between the two.
pub const UNANSWERED_MAX: usize = 64;
/// How long a server may leave us without room for its next request. Longer keeps a line that no longer works;
/// shorter cuts servers that pause.
pub const ROOM_WAIT_MAX: Duration = Duration::from_secs(10);
/// Questions to the person that wait at the same time; further ones are cancelled. More floods the person.
pub const QUESTIONS_AT_ONCE: usize = 8;
/// Requests of the server during one call. More lets a call be a load of its own; fewer breaks servers that ask
/// for every file.
pub const REQUESTS_PER_CALL: u32 = 1_024;
/// Requests of the server that may come at once, and how many more each second. More lets a server keep a processor
/// busy with refusals; fewer cuts servers that ping often.
const REQUESTS: Rate = Rate { burst: 512, per_second: 16 };
/// The same for notifications; what is beyond is dropped. More costs a task each, fewer loses signs of progress.
const NOTICES: Rate = Rate { burst: 1_024, per_second: 64 };
/// The same for what is dropped. More lets a server keep a processor busy with what nobody reads; fewer cuts servers
/// that report every step.
const DROPPED: Rate = Rate { burst: 16_384, per_second: 64 };
/// The same for bytes; beyond it the server is read no faster than this. More lets a server keep a processor busy,
/// less delays servers with large answers.
const BYTES: Rate = Rate { burst: 128 * 1024 * 1024, per_second: 8 * 1024 * 1024 };
/// The same for streams that are opened (again). A server that ends its streams at once would be called for ever.
const STREAMS: Rate = Rate { burst: 16, per_second: 1 };
/// Bytes of events on the stream of one call. More lets a call fill a disk of traces, less cuts long reports.
pub const CALL_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Why a line was cut.
pub(crate) const ASKS_TOO_MUCH: &str = "it asks more than it may";
pub(crate) const READS_TOO_SLOWLY: &str = "it asks and does not take the answers";
pub(crate) const SAYS_TOO_MUCH: &str = "it sends more than it may";
pub(crate) const HOLDS_TOO_MUCH: &str = "one of its messages holds more values than it may";

/// So many at once, and so many more each second.
#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: u64,
    per_second: u64,
}

/// What is left of a rate. Pure: the time is an argument.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    /// In thousandths; below zero it is in debt.
    left: i128,
    at: Option<Instant>,
}

impl Bucket {
    fn new(rate: Rate) -> Self {
        Self { rate, left: i128::from(rate.burst) * 1_000, at: None }
    }

    fn fill(&mut self, now: Instant) {
        let since = self.at.replace(now).map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let more = i128::try_from(since.as_millis()).unwrap_or(i128::MAX);
        let more = more.saturating_mul(i128::from(self.rate.per_second));
        self.left = self.left.saturating_add(more).min(i128::from(self.rate.burst) * 1_000);
    }

    /// Takes one when there is one.
    fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let enough = self.left >= 1_000;
        if enough {
            self.left -= 1_000;
        }
        enough
    }

    /// Takes in any case; how long to wait until the debt is paid.
    fn borrow(&mut self, count: usize, now: Instant) -> Duration {
        self.fill(now);
        self.left -= i128::try_from(count).unwrap_or(i128::MAX / 2_000) * 1_000;
        let debt = u64::try_from((-self.left).max(0)).unwrap_or(u64::MAX);
        Duration::from_millis(debt / self.rate.per_second)
    }
}

/// What a server has sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// A request of its own; whether it is a question to the person.
    Request(RequestId, bool),
    /// A notification; the request of its own that it takes back.
    Notice(Option<RequestId>),
    /// An answer.
    Answer(Option<RequestId>),
    /// No message.
    Nothing,
}

/// The head of a message; the rest is passed over unread.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(default)]
    id: Option<RequestId>,
    #[serde(borrow, default)]
    method: Option<Cow<'a, str>>,
}

impl Sent {
    /// What a text is.
    pub fn of_text(text: &str) -> Self {
        // a list would be read as the fields in their order
        if !text.trim_start().starts_with('{') {
            return Self::Nothing;
        }
        match serde_json::from_str::<Head<'_>>(text) {
            Ok(Head { id: Some(id), method: Some(method) }) => {
                Self::Request(id, method == "elicitation/create")
            }
            Ok(Head { id: None, method: Some(_) }) => Self::Notice(None),
            Ok(Head { id, method: None }) => Self::Answer(id),
            Err(_) => Self::Nothing,
        }
    }

    /// What a message is.
    pub fn of(message: &ServerJsonRpcMessage) -> Self {
        match message {
            ServerJsonRpcMessage::Request(request) => {
                let asks = matches!(request.request, ServerRequest::ElicitRequest(_));
                Self::Request(request.id.clone(), asks)
            }
            ServerJsonRpcMessage::Notification(notice) => Self::Notice(match &notice.notification {
                rmcp::model::ServerNotification::CancelledNotification(taken) => {
                    taken.params.request_id.clone()
                }
                _ => None,
            }),
            ServerJsonRpcMessage::Response(answer) => Self::Answer(Some(answer.id.clone())),
            ServerJsonRpcMessage::Error(answer) => Self::Answer(answer.id.clone()),
        }
    }
}

/// What is done with what a server has sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Pass,
    /// It is dropped.
    Skip,
    /// The line is cut.
    Cut(&'static str),
}

/// The counts of one line.
pub(crate) struct Ledger {
    counts: Mutex<Counts>,
    room: Notify,
    why: OnceLock<&'static str>,
    cut: CancellationToken,
}

struct Counts {
    /// Our requests without an answer, and how often the server has asked on behalf of each.
    ours: HashMap<RequestId, u32>,
    /// Its requests without an answer; whether the person is asked.
    theirs: HashMap<RequestId, bool>,
    requests: Bucket,
    notices: Bucket,
    dropped: Bucket,
    bytes: Bucket,
    streams: Bucket,
}

impl Counts {
    fn ours(&mut self, id: &RequestId) -> Option<&mut u32> {
        let number = match id {
            RequestId::String(text) => text.parse().ok().map(RequestId::Number),
            RequestId::Number(_) => None,
        };
        // some servers send our numbers back as texts
        let found = if self.ours.contains_key(id) { Some(id.clone()) } else { number };
        found.and_then(|id| self.ours.get_mut(&id))
    }

    fn has_room(&self) -> bool {
        self.theirs.values().filter(|asks| !**asks).count() < UNANSWERED_PAUSE
    }
}

impl Default for Ledger {
    fn default() -> Self {
        let counts = Counts {
            ours: HashMap::new(),
            theirs: HashMap::new(),
            requests: Bucket::new(REQUESTS),
            notices: Bucket::new(NOTICES),
            dropped: Bucket::new(DROPPED),
            bytes: Bucket::new(BYTES),
            streams: Bucket::new(STREAMS),
        };
        let (room, why, cut) = (Notify::new(), OnceLock::new(), CancellationToken::new());
        Self { counts: Mutex::new(counts), room, why, cut }
    }
}

impl Ledger {
    fn lock(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request of ours goes out.
    pub fn ask(&self, id: &RequestId) {
        self.lock().ours.insert(id.clone(), 0);
    }

    /// A request of ours is answered, or nobody waits any more.
    pub fn settle(&self, id: &RequestId) {
        let mut counts = self.lock();
        if counts.ours.remove(id).is_none()
            && let RequestId::String(text) = id
            && let Ok(number) = text.parse()
        {
            counts.ours.remove(&RequestId::Number(number));
        }
    }

    /// An answer of ours is out, or will never be.
    pub fn answered(&self, id: &RequestId) {
        self.lock().theirs.remove(id);
        self.room.notify_waiters();
    }

    /// Judges what has come on the stream of one of our requests, or of none.
    pub fn judge(&self, stream_of: Option<&RequestId>, sent: &Sent, now: Instant) -> Verdict {
        let mut counts = self.lock();
        match self.weigh(&mut counts, stream_of, sent, now) {
            Verdict::Skip if !counts.dropped.take(now) => Verdict::Cut(SAYS_TOO_MUCH),
            verdict => verdict,
        }
    }

    fn weigh(
        &self,
        counts: &mut Counts,
        stream_of: Option<&RequestId>,
        sent: &Sent,
        now: Instant,
    ) -> Verdict {
        match sent {
            Sent::Nothing => Verdict::Skip,
            Sent::Answer(Some(id)) => match stream_of == Some(id) || counts.ours(id).is_some() {
                true => Verdict::Pass,
                // nobody asked; the protocol library would remember tools from it
                false => Verdict::Skip,
            },
            Sent::Answer(None) | Sent::Notice(_) => {
                if let Sent::Notice(Some(id)) = sent {
                    counts.theirs.remove(id);
                    self.room.notify_waiters();
                }
                if counts.notices.take(now) { Verdict::Pass } else { Verdict::Skip }
            }
            Sent::Request(id, asks) => {
                let of_call = stream_of.and_then(|id| counts.ours(id)).map(|count| {
                    *count += 1;
                    *count
                });
                if !counts.requests.take(now)
                    || of_call.is_some_and(|count| count > REQUESTS_PER_CALL)
                    || counts.theirs.len() >= UNANSWERED_MAX
                {
                    return Verdict::Cut(ASKS_TOO_MUCH);
                }
                // two under one id could not be told apart
                match counts.theirs.insert(id.clone(), *asks) {
                    Some(_) => Verdict::Skip,
                    None => Verdict::Pass,
                }
            }
        }
    }

    /// So many bytes have come: how long to wait before more are read.
    pub fn read(&self, bytes: usize, now: Instant) -> Duration {
        self.lock().bytes.borrow(bytes, now)
    }

    /// A stream is to be opened: how long to wait before it is.
    pub fn open(&self, now: Instant) -> Duration {
        self.lock().streams.borrow(1, now)
    }

    /// Waits until the server may ask again; false when it has not made room in time.
    pub async fn room(&self, until: Instant) -> bool {
        loop {
            let told = self.room.notified();
            if self.lock().has_room() {
                return true;
            }
            if tokio::time::timeout_at(until, told).await.is_err() {
                return false;
            }
        }
    }

    /// Cuts the line; the first reason stays.
    pub fn cut(&self, why: &'static str) {
        let _ = self.why.set(why);
        self.cut.cancel();
    }

    /// Why the line was cut, if it was.
    pub fn why(&self) -> Option<&'static str> {
        self.why.get().copied()
    }

    /// Waits until the line is cut.
    pub async fn is_cut(&self) {
        self.cut.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: i64) -> RequestId {
        RequestId::Number(number)
    }

    fn request(number: i64) -> Sent {
        Sent::Request(id(number), false)
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_take_answers_is_not_read_and_then_cut() {
        let (ledger, now) = (Ledger::default(), Instant::now());
        for number in 0..16 {
            assert!(ledger.room(now).await);
            assert_eq!(ledger.judge(None, &request(number), now), Verdict::Pass);
        }
        assert!(!ledger.room(now + ROOM_WAIT_MAX).await, "no room");
        assert_eq!(now.elapsed(), ROOM_WAIT_MAX);
        ledger.answered(&id(3));
        assert!(ledger.room(now).await);
        for number in 100..149 {
            assert_eq!(ledger.judge(None, &request(number), now), Verdict::Pass, "{number}");
        }
        assert_eq!(ledger.judge(None, &request(999), now), Verdict::Cut(ASKS_TOO_MUCH));
    }

    #[test]
    fn questions_to_the_person_do_not_stop_the_reading() {
        let (ledger, now) = (Ledger::default(), Instant::now());
        for number in 0..20 {
            assert_eq!(ledger.judge(None, &Sent::Request(id(number), true), now), Verdict::Pass);
        }
        assert!(ledger.lock().has_room());
    }

    #[test]
    fn requests_have_a_rate_and_a_number_per_call() {
        let (ledger, start) = (Ledger::default(), Instant::now());
        ledger.ask(&id(1));
        let ask = |number: i64, at: Duration| {
            let verdict = ledger.judge(Some(&id(1)), &request(number), start + at);
            ledger.answered(&id(number));
            verdict
        };
        let mut passed = 0;
        while ask(passed, Duration::ZERO) == Verdict::Pass {
            passed += 1;
        }
        assert_eq!(passed, 512, "at once");
        let mut slowly = 0;
        while ask(slowly, Duration::from_millis(100 * u64::try_from(slowly + 10).unwrap_or(0)))
            == Verdict::Pass
        {
            slowly += 1;
        }
        assert_eq!(
            passed + 1 + slowly,
            i64::from(REQUESTS_PER_CALL),
            "ten a second are fine until the call has had its number"
        );
    }

    #[test]
    fn answers_nobody_waits_for_and_storms_of_notifications_are_dropped() {
        let (ledger, now) = (Ledger::default(), Instant::now());
        ledger.ask(&id(7));
        let answer = |id: RequestId| Sent::Answer(Some(id));
        assert_eq!(ledger.judge(None, &answer(id(8)), now), Verdict::Skip);
        assert_eq!(ledger.judge(None, &answer(id(7)), now), Verdict::Pass);
        assert_eq!(ledger.judge(None, &answer(RequestId::String("7".into())), now), Verdict::Pass);
        ledger.settle(&RequestId::String("7".into()));
        assert_eq!(ledger.judge(None, &answer(id(7)), now), Verdict::Skip);
        let passed = (0..10_000).filter(|_| ledger.judge(None, &Sent::Notice(None), now) == Verdict::Pass);
        assert_eq!(passed.count(), 1_024);
        assert_eq!(ledger.judge(None, &Sent::Notice(None), now + Duration::from_secs(1)), Verdict::Pass);
        let dropped = (0..20_000).position(|_| ledger.judge(None, &Sent::Nothing, now) != Verdict::Skip);
        assert!(dropped.is_some_and(|count| count < 10_000), "{dropped:?}");
    }

    #[test]
    fn a_request_that_is_taken_back_makes_room_and_one_id_counts_once() {
        let (ledger, now) = (Ledger::default(), Instant::now());
        assert_eq!(ledger.judge(None, &request(1), now), Verdict::Pass);
        assert_eq!(ledger.judge(None, &request(1), now), Verdict::Skip);
        assert_eq!(ledger.judge(None, &Sent::Notice(Some(id(1))), now), Verdict::Pass);
        assert_eq!(ledger.judge(None, &request(1), now), Verdict::Pass);
    }

    #[test]
    fn bytes_beyond_the_burst_are_read_at_the_rate() {
        let (ledger, now) = (Ledger::default(), Instant::now());
        assert_eq!(ledger.read(128 * 1024 * 1024, now), Duration::ZERO);
        assert_eq!(ledger.read(8 * 1024 * 1024, now), Duration::from_secs(1));
        assert_eq!(ledger.read(0, now + Duration::from_secs(1)), Duration::ZERO);
        assert_eq!((0..16).map(|_| ledger.open(now)).max(), Some(Duration::ZERO));
        assert_eq!(ledger.open(now), Duration::from_secs(1));
    }

    #[test]
    fn messages_are_told_apart_by_their_heads() {
        let table = [
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, Sent::Request(id(1), false)),
            (r#"{"method":"elicitation/create","params":{"a":[1]},"id":1}"#, Sent::Request(id(1), true)),
            (r#"{"jsonrpc":"2.0","method":"notifications/progress"}"#, Sent::Notice(None)),
            (r#"{"jsonrpc":"2.0","id":1,"result":{"id":9}}"#, Sent::Answer(Some(id(1)))),
            (r#"{"error":{},"id":null}"#, Sent::Answer(None)),
            ("[]", Sent::Nothing),
            ("x", Sent::Nothing),
        ];
        for (text, expected) in table {
            assert_eq!(Sent::of_text(text), expected, "{text}");
        }
    }
}
