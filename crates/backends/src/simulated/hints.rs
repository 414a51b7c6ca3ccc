//! The event stream of the simulated place: lossy, doubled, out of order, as a test wants it.
//!
//! The one invariant: a subscriber hears `Gap` first, and again after everything it may have missed knowingly.

use crate::{BackendEvent, BackendEventKind};
use contract::{EngineId, InstanceId};
use futures::stream::{self, BoxStream, StreamExt};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::broadcast;

/// Events a slow subscriber may lag behind before it hears `Gap` instead. Larger costs memory for 10,000 engines
/// that start at once; smaller makes ordinary bursts end in relists.
const LAG_MAX: usize = 4096;

/// How unreliable the event stream is. Shares are between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct EventRules {
    /// Share of events that are lost.
    pub lose: f64,
    /// Share of events that come twice.
    pub duplicate: f64,
    /// Share of events that come after their successor.
    pub reorder: f64,
    /// Nothing comes at all, and no gap says so.
    pub silent: bool,
}

#[derive(Debug, Clone)]
struct Hint {
    /// `None`: for everybody.
    instance: Option<InstanceId>,
    event: BackendEvent,
}

#[derive(Debug)]
pub(super) struct Hints {
    pub(super) rules: EventRules,
    sender: broadcast::Sender<Hint>,
    held: Option<Hint>,
}

impl Hints {
    pub(super) fn new() -> Self {
        Self { rules: EventRules::default(), sender: broadcast::channel(LAG_MAX).0, held: None }
    }

    /// Tells subscribers of that instance, as reliably as the rules say.
    pub(super) fn tell(
        &mut self,
        rng: &mut StdRng,
        instance: InstanceId,
        id: EngineId,
        kind: BackendEventKind,
    ) {
        let hint = Hint { instance: Some(instance), event: BackendEvent { engine: Some(id), kind } };
        let mut chance = |share: f64| share > 0.0 && rng.random_bool(share.min(1.0));
        if self.rules.silent || chance(self.rules.lose) {
            return;
        }
        let twice = chance(self.rules.duplicate);
        let late = chance(self.rules.reorder);
        let held = self.held.take();
        if late && held.is_none() {
            self.held = Some(hint.clone());
            if twice {
                self.send(hint);
            }
            return;
        }
        if twice {
            self.send(hint.clone());
        }
        self.send(hint);
        if let Some(held) = held {
            self.send(held);
        }
    }

    /// Every stream was interrupted and is back.
    pub(super) fn gap(&mut self) {
        self.held = None;
        self.send(Hint { instance: None, event: BackendEvent { engine: None, kind: BackendEventKind::Gap } });
    }

    fn send(&self, hint: Hint) {
        // no subscriber is no failure
        let _ = self.sender.send(hint);
    }

    /// A stream of the hints for one instance.
    pub(super) fn subscribe(&self, instance: InstanceId) -> BoxStream<'static, BackendEvent> {
        let gap = || BackendEvent { engine: None, kind: BackendEventKind::Gap };
        let receiver = self.sender.subscribe();
        let rest = stream::unfold(receiver, move |mut receiver| async move {
            loop {
                match receiver.recv().await {
                    Ok(hint) if hint.instance.is_none_or(|i| i == instance) => {
                        return Some((hint.event, receiver));
                    }
                    Ok(_) => {}
                    Err(broadcast::error::RecvError::Lagged(_)) => return Some((gap(), receiver)),
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        });
        stream::once(std::future::ready(gap())).chain(rest).boxed()
    }
}
