//! A line that counts: whatever the way a server is spoken to, its ledger is kept here, and a line that is cut ends
//! here.
//!
//! Streams of streamable HTTP are judged where they are read (`http.rs`): the library hands their messages on in
//! one loop with our answers, so that a pause here would hold up the very answers it waits for. Other lines are
//! judged here.
//!
//! The invariant: an answer of ours counts as under way until its sending has ended, however it ended.

use crate::ceilings::{HOLDS_TOO_MUCH, Ledger, READS_TOO_SLOWLY, ROOM_WAIT_MAX, Sent, Verdict};
use crate::pieces::Pieces;
use rmcp::RoleClient;
use rmcp::model::{ClientJsonRpcMessage, ClientNotification, RequestId, ServerJsonRpcMessage};
use rmcp::transport::Transport;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// A line with its ledger.
pub(crate) struct Bounded<T> {
    line: T,
    ledger: Arc<Ledger>,
    judges: bool,
    full_until: Option<Instant>,
}

impl<T> Bounded<T> {
    /// A line whose messages are judged here.
    pub fn judging(line: T, ledger: Arc<Ledger>) -> Self {
        Self { line, ledger, judges: true, full_until: None }
    }

    /// A line whose messages were judged already.
    pub fn counting(line: T, ledger: Arc<Ledger>) -> Self {
        Self { line, ledger, judges: false, full_until: None }
    }
}

/// An answer of ours under way, until dropped.
struct UnderWay(Arc<Ledger>, RequestId);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.answered(&self.1);
    }
}

impl<T: Transport<RoleClient>> Bounded<T> {
    async fn next(&mut self) -> Option<ServerJsonRpcMessage> {
        if self.judges {
            // kept over calls: this future is dropped whenever something else happens on the line
            let until = *self.full_until.get_or_insert_with(|| Instant::now() + ROOM_WAIT_MAX);
            if !self.ledger.room(until).await {
                self.ledger.cut(READS_TOO_SLOWLY);
                return None;
            }
            self.full_until = None;
        }
        self.line.receive().await
    }
}

impl<T: Transport<RoleClient>> Transport<RoleClient> for Bounded<T> {
    type Error = T::Error;

    fn send(
        &mut self,
        item: ClientJsonRpcMessage,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        let answered = match &item {
            ClientJsonRpcMessage::Request(request) => {
                self.ledger.ask(&request.id);
                None
            }
            ClientJsonRpcMessage::Notification(notice) => {
                if let ClientNotification::CancelledNotification(cancelled) = &notice.notification
                    && let Some(id) = &cancelled.params.request_id
                {
                    self.ledger.settle(id);
                }
                None
            }
            ClientJsonRpcMessage::Response(answer) => Some(answer.id.clone()),
            ClientJsonRpcMessage::Error(answer) => answer.id.clone(),
        };
        let under_way = answered.map(|id| UnderWay(Arc::clone(&self.ledger), id));
        let sending = self.line.send(item);
        async move {
            let _under_way = under_way;
            sending.await
        }
    }

    async fn receive(&mut self) -> Option<ServerJsonRpcMessage> {
        let ledger = Arc::clone(&self.ledger);
        loop {
            let message = tokio::select! {
                biased;
                () = ledger.is_cut() => return None,
                message = self.next() => message?,
            };
            let sent = Sent::of(&message);
            if self.judges {
                match ledger.judge(None, &sent, Instant::now()) {
                    Verdict::Pass => {}
                    Verdict::Skip => continue,
                    Verdict::Cut(why) => {
                        ledger.cut(why);
                        return None;
                    }
                }
            }
            if let Sent::Answer(Some(id)) = &sent {
                ledger.settle(id);
            }
            return Some(message);
        }
    }

    fn close(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send {
        self.line.close()
    }
}

/// What a program writes, read no faster than the ledger allows, and no line of more values than it may hold: a
/// longer one cuts the line to the program before the rest of it is read.
pub(crate) struct Metered<R> {
    from: R,
    ledger: Arc<Ledger>,
    pause: Option<Pin<Box<Sleep>>>,
    pieces: Pieces,
}

impl<R> Metered<R> {
    pub fn new(from: R, ledger: Arc<Ledger>) -> Self {
        Self { from, ledger, pause: None, pieces: Pieces::default() }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Metered<R> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        if let Some(pause) = &mut this.pause {
            std::task::ready!(pause.as_mut().poll(cx));
            this.pause = None;
        }
        let before = buf.filled().len();
        std::task::ready!(Pin::new(&mut this.from).poll_read(cx, buf))?;
        if !this.pieces.add_lines(&buf.filled()[before..]) {
            this.ledger.cut(HOLDS_TOO_MUCH);
            // the end of what it writes: the beginning of the line is no message
            buf.set_filled(before);
            return Poll::Ready(Ok(()));
        }
        let now = Instant::now();
        let wait = this.ledger.read(buf.filled().len() - before, now);
        this.pause = (!wait.is_zero()).then(|| Box::pin(sleep_until(now + wait)));
        Poll::Ready(Ok(()))
    }
}
