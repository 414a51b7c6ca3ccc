//! Time limits on peers that stop: a reader that does not take its answer, a client that does not say what
//! protocol it speaks, and a request body that trickles.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// What an HTTP/2 connection begins with. Until a client has sent something else, or all of this, the
/// server cannot know what it speaks and none of the protocol's own time limits run.
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A body must come at least this fast, after its first grace: one second more for so many bytes. Higher
/// cuts off uploads over slow lines, lower lets a trickle hold a connection longer.
const BODY_BYTES_PER_S: u64 = 64 * 1024;

/// Requests at work on a connection, seen from both ends of the protocol's code: while there is none, whatever
/// arrives is the head of the next one and must be complete within a limit. The protocol's own limit cannot tell
/// a request that trickles from a connection that rests.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    limit: Option<Duration>,
    requests: Arc<Requests>,
}

#[derive(Debug, Default)]
struct Requests {
    at_work: AtomicUsize,
    begun: AtomicUsize,
}

/// One request at work, until dropped.
pub(super) struct AtWork(Arc<Requests>);

impl Pace {
    /// `None` judges nothing.
    pub(super) fn new(limit: Option<Duration>) -> Self {
        Self { limit, requests: Arc::default() }
    }

    /// A head is complete.
    pub(super) fn begin(&self) -> AtWork {
        self.requests.begun.fetch_add(1, Ordering::Relaxed);
        self.requests.at_work.fetch_add(1, Ordering::Relaxed);
        AtWork(Arc::clone(&self.requests))
    }

    fn begun(&self) -> usize {
        self.requests.begun.load(Ordering::Relaxed)
    }

    fn rests(&self) -> bool {
        self.requests.at_work.load(Ordering::Relaxed) == 0
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.at_work.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection on which a write that makes no progress, a start that does not come, and a request that
/// trickles are errors.
pub(super) struct Stalling<T> {
    io: T,
    limit: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    opening: Option<Opening>,
    pace: Pace,
    head: Head,
}

/// What the connection is doing about the next request's head.
enum Head {
    /// Nothing of it has come.
    Awaited,
    /// A part of the head after so many requests has come; the rest must come until then.
    Begun(usize, Pin<Box<Sleep>>),
    /// Without a limit, and on HTTP/2, which has frames without requests and limits of its own.
    NotJudged,
}

/// How much of the preface has been seen, and until when the rest must come.
struct Opening {
    matched: usize,
    until: Pin<Box<Sleep>>,
}

impl<T> Stalling<T> {
    pub(super) fn new(io: T, write_limit: Duration, open_limit: Duration, pace: Pace) -> Self {
        let until = Box::pin(sleep_until(Instant::now() + open_limit));
        let opening = Some(Opening { matched: 0, until });
        let head = if pace.limit.is_some() { Head::Awaited } else { Head::NotJudged };
        Self { io, limit: write_limit, stalled: None, opening, pace, head }
    }

    /// Judges a read that brought so many bytes, or none yet.
    fn judge_head(&mut self, cx: &mut Context<'_>, bytes: usize) -> io::Result<()> {
        let Some(limit) = self.pace.limit.filter(|_| !matches!(self.head, Head::NotJudged)) else {
            return Ok(());
        };
        let done = self.pace.begun();
        if matches!(self.head, Head::Begun(before, _) if before != done) {
            self.head = Head::Awaited;
        }
        if bytes > 0 && self.pace.rests() && matches!(self.head, Head::Awaited) {
            self.head = Head::Begun(done, Box::pin(sleep_until(Instant::now() + limit)));
        }
        if let Head::Begun(_, until) = &mut self.head
            && until.as_mut().poll(cx).is_ready()
        {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the request trickles"));
        }
        Ok(())
    }

    /// Passes on the outcome of a write; one that has been pending for the whole limit becomes an error.
    fn judge<R>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<R>>) -> Poll<io::Result<R>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let deadline = Instant::now() + self.limit;
        let timer = self.stalled.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => {
                tracing::debug!("Connection closed: its reader made no progress");
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the reader makes no progress")))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Opening {
    /// Has the client shown what it speaks?
    fn is_over(&mut self, read: &[u8]) -> bool {
        for byte in read {
            if H2_PREFACE[self.matched] != *byte {
                return true;
            }
            self.matched += 1;
            if self.matched == H2_PREFACE.len() {
                return true;
            }
        }
        false
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Stalling<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.io).poll_read(cx, buf);
        if let Some(opening) = &mut this.opening {
            if opening.is_over(&buf.filled()[before..]) {
                if opening.matched == H2_PREFACE.len() {
                    this.head = Head::NotJudged;
                }
                this.opening = None;
            } else if polled.is_pending() && opening.until.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client says nothing")));
            }
        }
        this.judge_head(cx, buf.filled().len() - before)?;
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Stalling<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_write(cx, buf);
        this.judge(cx, polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.judge(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

/// A request body came more slowly than is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request body came too slowly")]
pub(super) struct BodyTooSlow;

/// A request body with a limit on the time spent waiting for it. Time in which nobody asks for more does
/// not count: a handler that is slow to read is not the client's fault.
pub(super) struct TimedBody<B> {
    body: B,
    grace: Duration,
    received: u64,
    waited: Duration,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl<B> TimedBody<B> {
    pub(super) fn new(body: B, grace: Duration) -> Self {
        Self { body, grace, received: 0, waited: Duration::ZERO, waiting: None }
    }

    fn budget(&self) -> Duration {
        self.grace + Duration::from_millis(self.received.saturating_mul(1_000) / BODY_BYTES_PER_S)
    }
}

impl<B> Body for TimedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                if let Some((since, _)) = this.waiting.take() {
                    this.waited += since.elapsed();
                }
                if let Some(Ok(data)) = frame.as_ref().map(|f| f.as_ref().map(Frame::data_ref)) {
                    this.received += data.map_or(0, |d| d.len() as u64);
                }
                Poll::Ready(frame.map(|f| f.map_err(Into::into)))
            }
            Poll::Pending => {
                let left = this.budget().saturating_sub(this.waited);
                let now = Instant::now();
                let (_, timer) = this.waiting.get_or_insert_with(|| (now, Box::pin(sleep_until(now + left))));
                timer.as_mut().poll(cx).map(|()| Some(Err(BodyTooSlow.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, StreamBody};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_for_the_limit_is_an_error() {
        let (near, _far) = tokio::io::duplex(8);
        let mut io = Stalling::new(near, MINUTE, MINUTE, Pace::new(None));
        let began = Instant::now();
        let error = io.write_all(&[0; 9]).await.expect_err("does not fit");
        assert_eq!((error.kind(), began.elapsed().as_secs()), (io::ErrorKind::TimedOut, 60));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_that_makes_progress_is_served() {
        let (near, mut far) = tokio::io::duplex(8);
        let mut io = Stalling::new(near, MINUTE, MINUTE, Pace::new(None));
        let reader = tokio::spawn(async move {
            let mut byte = [0; 1];
            for _ in 0..16 {
                tokio::time::sleep(Duration::from_secs(50)).await;
                far.read_exact(&mut byte).await.expect("has bytes");
            }
            far
        });
        io.write_all(&[0; 24]).await.expect("is served in time");
        reader.await.expect("does not panic");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_must_show_what_it_speaks() {
        for (sent, silent) in [("", true), ("PRI * HT", true), ("G", false), ("PO", false)] {
            let (near, mut far) = tokio::io::duplex(64);
            let mut io = Stalling::new(near, MINUTE, MINUTE, Pace::new(None));
            far.write_all(sent.as_bytes()).await.expect("fits");
            let mut seen = vec![0; 64];
            let read = async {
                loop {
                    if let Err(e) = io.read(&mut seen).await {
                        return e.kind();
                    }
                }
            };
            let outcome = tokio::time::timeout(2 * MINUTE, read).await;
            assert_eq!(outcome.is_ok(), silent, "{sent}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_is_cut_and_a_steady_one_is_not() {
        let chunks = |size: usize| {
            let one = move |n: u32| async move {
                tokio::time::sleep(Duration::from_secs(2)).await;
                (n < 100).then(|| (Ok::<_, io::Error>(Frame::data(Bytes::from(vec![0; size]))), n + 1))
            };
            StreamBody::new(Box::pin(futures::stream::unfold(0, one)))
        };
        let began = Instant::now();
        let error = TimedBody::new(chunks(1), MINUTE).collect().await.expect_err("trickles");
        assert!(error.is::<BodyTooSlow>());
        assert_eq!(began.elapsed().as_secs(), 60);
        let steady = TimedBody::new(chunks(128 * 1024), MINUTE).collect().await.expect("is fast enough");
        assert_eq!(steady.to_bytes().len(), 100 * 128 * 1024);
    }
}
