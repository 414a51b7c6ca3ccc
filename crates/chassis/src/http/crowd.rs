//! Who holds the places there are: when all are taken, the connection that has rested longest gives up its place.
//!
//! A connection rests while it has no request at work: it has said nothing yet, it trickles, or it waits for its
//! next request. Nobody is promised a connection that rests, so callers open another. A connection whose answer is
//! still being sent does not rest, however long the answer lasts.
//!
//! The invariant: there are never more guests than places, and a guest with a request at work keeps its place.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The places of one server.
#[derive(Debug)]
pub(super) struct Crowd {
    places: usize,
    guests: Mutex<Guests>,
}

#[derive(Debug, Default)]
struct Guests {
    next: u64,
    here: HashMap<u64, Guest>,
}

#[derive(Debug)]
struct Guest {
    at_work: usize,
    resting_since: Instant,
    leave: CancellationToken,
}

/// One place, until dropped.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Arc<Crowd>,
    number: u64,
    leave: CancellationToken,
}

/// One request at work on a place, until dropped.
#[derive(Debug)]
pub(super) struct Busy {
    crowd: Arc<Crowd>,
    number: u64,
}

impl Crowd {
    pub(super) fn new(places: usize) -> Arc<Self> {
        Arc::new(Self { places, guests: Mutex::default() })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place, that of the guest that has rested longest when there is no other; `None` when all work.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Place> {
        let mut guests = self.lock();
        if guests.here.len() >= self.places {
            let resting = guests.here.iter().filter(|(_, guest)| guest.at_work == 0);
            // of two that came in the same moment the first
            let (number, _) = resting.min_by_key(|(number, guest)| (guest.resting_since, **number))?;
            let number = *number;
            if let Some(guest) = guests.here.remove(&number) {
                guest.leave.cancel();
            }
        }
        let (number, leave) = (guests.next, CancellationToken::new());
        guests.next += 1;
        let guest = Guest { at_work: 0, resting_since: Instant::now(), leave: leave.clone() };
        guests.here.insert(number, guest);
        Some(Place { crowd: Arc::clone(self), number, leave })
    }
}

impl Place {
    /// Waits until the place is given to somebody else.
    pub(super) async fn given_away(&self) {
        self.leave.cancelled().await;
    }

    /// A request is at work.
    pub(super) fn begin(&self) -> Busy {
        if let Some(guest) = self.crowd.lock().here.get_mut(&self.number) {
            guest.at_work += 1;
        }
        Busy { crowd: Arc::clone(&self.crowd), number: self.number }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.crowd.lock().here.remove(&self.number);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(guest) = self.crowd.lock().here.get_mut(&self.number) {
            guest.at_work = guest.at_work.saturating_sub(1);
            guest.resting_since = Instant::now();
        }
    }
}

/// An answer's body that keeps its request at work until it has been sent.
pub(super) struct Working<B> {
    body: B,
    _busy: Busy,
}

impl<B> Working<B> {
    pub(super) fn new(body: B, busy: Busy) -> Self {
        Self { body, _busy: busy }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Working<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
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
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn the_guest_that_has_rested_longest_makes_room() {
        let crowd = Crowd::new(3);
        let second = Duration::from_secs(1);
        let first = crowd.enter().expect("a place");
        tokio::time::advance(second).await;
        let (busy, third) = (crowd.enter().expect("a place"), crowd.enter().expect("a place"));
        let work = busy.begin();
        tokio::time::advance(second).await;
        // the first has worked meanwhile, so it rests for a shorter time than the third
        drop(first.begin());
        let fourth = crowd.enter().expect("the third's place");
        assert!(third.leave.is_cancelled() && !first.leave.is_cancelled() && !busy.leave.is_cancelled());
        drop(third);
        let (at_work, also) = (first.begin(), fourth.begin());
        assert!(crowd.enter().is_none(), "everybody works");
        drop(work);
        let fifth = crowd.enter().expect("the place of the one that has finished");
        assert!(busy.leave.is_cancelled() && !fourth.leave.is_cancelled());
        drop((at_work, also, fifth, busy));
        assert_eq!(crowd.lock().here.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_guest_without_a_place_does_counts_for_nobody() {
        let crowd = Crowd::new(1);
        let gone = crowd.enter().expect("a place");
        let here = crowd.enter().expect("the same place");
        drop(gone.begin());
        drop(gone);
        assert_eq!(crowd.lock().here.len(), 1);
        drop(here);
        assert!(crowd.lock().here.is_empty());
    }
}
