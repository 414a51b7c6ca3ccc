//! A bounded queue of jobs between async callers and the threads that own SQLite connections.
//!
//! Callers wait for room without blocking a thread; connection threads wait for work without a runtime.
//! Nothing accepted is lost: after `close`, what is queued is still handed out, then `pop` ends.

use crate::{Error, Result, Tx};
use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Jobs that may wait or run at once, per queue. Larger hides a stalled disk behind memory; smaller makes
/// a burst of parallel turns wait for each other although the disk keeps up.
pub(crate) const QUEUE_JOBS: usize = 1024;

/// What a finished closure asks its transaction to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Keep its changes.
    Keep,
    /// Undo its changes; its caller gets the closure's own error.
    Undo,
    /// Undo, and remember that the disk is full.
    Full,
    /// Undo, and stop: SQLite called the file damaged.
    Corrupt(String),
}

/// One accepted piece of work.
pub(crate) trait Job: Send {
    /// Runs the closure. Called at most once.
    fn run(&mut self, tx: &Tx<'_>) -> Verdict;
    /// Whether this must run by itself, outside any transaction (`VACUUM`).
    fn alone(&self) -> bool;
    /// Tells the caller: its own value if `outcome` is ok, else the error that undid it.
    fn answer(self: Box<Self>, outcome: Result<()>);
}

/// What is told of a committed value before its caller is answered.
type Then<T> = Box<dyn FnOnce(&T) + Send>;

struct Call<T, F> {
    name: &'static str,
    alone: bool,
    closure: Option<F>,
    then: Option<Then<T>>,
    value: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
    _room: OwnedSemaphorePermit,
}

impl<T, F> Job for Call<T, F>
where
    T: Send + 'static,
    F: FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
{
    fn run(&mut self, tx: &Tx<'_>) -> Verdict {
        let Some(closure) = self.closure.take() else { return Verdict::Undo };
        let value = catch_unwind(AssertUnwindSafe(|| closure(tx)))
            .unwrap_or_else(|panic| Err(Error::Panicked { name: self.name, message: panic_text(&*panic) }));
        let verdict = match &value {
            Ok(_) => Verdict::Keep,
            Err(Error::DiskFull) => Verdict::Full,
            Err(Error::Corrupt(what)) => Verdict::Corrupt(what.clone()),
            Err(_) => Verdict::Undo,
        };
        self.value = Some(value);
        verdict
    }

    fn alone(&self) -> bool {
        self.alone
    }

    fn answer(self: Box<Self>, outcome: Result<()>) {
        let answer = match (self.value, outcome) {
            (Some(Err(own)), _) => Err(own),
            (_, Err(undone)) => Err(undone),
            (Some(Ok(value)), Ok(())) => {
                if let Some(then) = self.then {
                    then(&value);
                }
                Ok(value)
            }
            (None, Ok(())) => Err(Error::Closed),
        };
        // A caller that stopped waiting has no use for the answer; the change stands all the same.
        let _ = self.reply.send(answer);
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Box<dyn Job>>,
    /// Threads waiting for a job.
    idle: usize,
    closed: bool,
}

/// What a timed wait for work ended with.
pub(crate) enum Next {
    Job(Box<dyn Job>),
    TimedOut,
    Closed,
}

pub(crate) struct Queue {
    state: Mutex<State>,
    ready: Condvar,
    room: Arc<Semaphore>,
}

impl Queue {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::default(), ready: Condvar::new(), room: Arc::new(Semaphore::new(QUEUE_JOBS)) }
    }

    /// Hands `closure` in, waiting for room, and waits for its answer. Dropping the future after the job
    /// was accepted does not take the job back.
    pub(crate) async fn call<T, F>(&self, name: &'static str, alone: bool, closure: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    {
        self.call_then(name, alone, closure, None).await
    }

    /// As [`Queue::call`]; `then` is told of the value on the connection's thread, in commit order.
    pub(crate) async fn call_then<T, F>(
        &self,
        name: &'static str,
        alone: bool,
        closure: F,
        then: Option<Then<T>>,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    {
        let room = Arc::clone(&self.room).acquire_owned().await.map_err(|_| Error::Closed)?;
        let answer = self.push(name, alone, closure, then, room)?;
        answer.await.unwrap_or(Err(Error::Closed))
    }

    /// Hands `closure` in without waiting for it; silently dropped when the queue is full or closed.
    pub(crate) fn post<F>(&self, name: &'static str, closure: F)
    where
        F: FnOnce(&Tx<'_>) -> Result<()> + Send + 'static,
    {
        if let Ok(room) = Arc::clone(&self.room).try_acquire_owned() {
            let _ = self.push(name, false, closure, None, room);
        }
    }

    fn push<T, F>(
        &self,
        name: &'static str,
        alone: bool,
        closure: F,
        then: Option<Then<T>>,
        room: OwnedSemaphorePermit,
    ) -> Result<oneshot::Receiver<Result<T>>>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let call = Call { name, alone, closure: Some(closure), then, value: None, reply, _room: room };
        let mut state = self.lock();
        if state.closed {
            return Err(Error::Closed);
        }
        state.jobs.push_back(Box::new(call));
        drop(state);
        self.ready.notify_one();
        Ok(answer)
    }

    /// Waits for the next job; `None` once closed and empty.
    pub(crate) fn pop(&self) -> Option<Box<dyn Job>> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state.idle += 1;
            state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    /// Whether a thread waits that has no job to come back to.
    pub(crate) fn has_idle_hand(&self) -> bool {
        let state = self.lock();
        state.idle > state.jobs.len()
    }

    /// Waits for the next job, at most `limit`.
    pub(crate) fn pop_within(&self, limit: Duration) -> Next {
        let idle = |s: &mut State| s.jobs.is_empty() && !s.closed;
        let (mut state, _) =
            self.ready.wait_timeout_while(self.lock(), limit, idle).unwrap_or_else(PoisonError::into_inner);
        match state.jobs.pop_front() {
            Some(job) => Next::Job(job),
            None if state.closed => Next::Closed,
            None => Next::TimedOut,
        }
    }

    /// The next job if one is waiting and may share a transaction.
    pub(crate) fn pop_companion(&self) -> Option<Box<dyn Job>> {
        let mut state = self.lock();
        if state.jobs.front()?.alone() { None } else { state.jobs.pop_front() }
    }

    /// Accepts nothing more; callers waiting for room get [`Error::Closed`].
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.room.close();
        self.ready.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
