//! Stopping in order: refuse new work, finish what runs, close, and all of that before a deadline.
//!
//! Two moments are kept apart. When a stop is asked for, the server *drains*: it still answers, so that
//! callers and supervisors learn that it is going away. When the program has finished its work, it *closes*:
//! connections end and the accept loop returns. Who owns the work decides when the second follows the first.
//!
//! The invariant: neither moment is ever taken back, and a second signal ends the process at once.

use std::future::Future;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Exit code of a process that was told twice to stop.
const IMPATIENT_EXIT_CODE: i32 = 1;

/// Tells every part of a program that it is stopping. Clones share the two moments.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    draining: CancellationToken,
    closing: CancellationToken,
}

impl Drain {
    /// One that nothing but [`Drain::begin`] starts.
    pub fn new() -> Self {
        Self::default()
    }

    /// One that SIGTERM or SIGINT starts; a second signal of either kind exits the process at once.
    /// Must be called inside a Tokio runtime.
    pub fn on_signals() -> std::io::Result<Self> {
        let drain = Self::new();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let started = drain.clone();
        tokio::spawn(async move {
            let name = either(&mut terminate, &mut interrupt).await;
            tracing::info!(signal = name, "Stopping on signal");
            started.begin();
            let name = either(&mut terminate, &mut interrupt).await;
            tracing::warn!(signal = name, "Second signal, exiting at once");
            std::process::exit(IMPATIENT_EXIT_CODE);
        });
        Ok(drain)
    }

    /// Starts the drain; doing it again changes nothing.
    pub fn begin(&self) {
        self.draining.cancel();
    }

    /// Has the drain begun?
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Returns when the drain begins.
    pub async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// A token that is cancelled when the drain begins.
    pub fn draining_token(&self) -> CancellationToken {
        self.draining.clone()
    }

    /// Declares the work finished: from now on connections end. Begins the drain if nothing has yet.
    pub fn close(&self) {
        self.draining.cancel();
        self.closing.cancel();
    }

    /// Has the program begun to close?
    pub fn is_closing(&self) -> bool {
        self.closing.is_cancelled()
    }

    /// Returns when the program begins to close.
    pub async fn closing(&self) {
        self.closing.cancelled().await;
    }

    /// A token that is cancelled when the program begins to close.
    pub fn closing_token(&self) -> CancellationToken {
        self.closing.clone()
    }
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

/// A moment until which several waits together may last.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// The moment `span` from now.
    pub fn after(span: Duration) -> Self {
        Self(Instant::now() + span)
    }

    /// How much is left; zero when it has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Waits for `work`, but not past the deadline; `None` when it was not done by then.
    pub async fn wait<F: Future>(self, work: F) -> Option<F::Output> {
        tokio::time::timeout_at(self.0, work).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn draining_comes_before_closing_and_both_stay() {
        let drain = Drain::new();
        let other = drain.clone();
        assert!(!drain.is_draining() && !drain.is_closing());
        drain.begin();
        other.draining().await;
        assert!(other.is_draining() && !other.is_closing());
        drain.begin();
        other.close();
        drain.closing().await;
        assert!(drain.is_draining() && drain.is_closing());
    }

    #[tokio::test]
    async fn a_signal_begins_the_drain_and_does_not_end_the_process() {
        let drain = Drain::on_signals().expect("handlers can be installed");
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM)
            .expect("may signal itself");
        let waited = Deadline::after(Duration::from_secs(10)).wait(drain.draining()).await;
        assert_eq!((waited, drain.is_closing()), (Some(()), false));
    }

    #[tokio::test(start_paused = true)]
    async fn waits_share_one_deadline() {
        let deadline = Deadline::after(Duration::from_secs(10));
        assert_eq!(deadline.wait(tokio::time::sleep(Duration::from_secs(7))).await, Some(()));
        assert_eq!(deadline.remaining(), Duration::from_secs(3));
        assert_eq!(deadline.wait(tokio::time::sleep(Duration::from_secs(7))).await, None);
        assert_eq!(deadline.remaining(), Duration::ZERO);
    }
}
