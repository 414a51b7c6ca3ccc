//! Who waits for which operation.
//!
//! One room per operation that somebody waits for. News come from the executor in this process, from a database
//! notification, or from looking once per second: a lost notification costs time, never an answer. One look serves
//! everybody in the room.
//!
//! The invariant: nobody is held longer than [`SILENCE_MAX`] and two looks by a database that says nothing, nor for ever
//! by one that says nothing of this operation. The operation itself is not touched: whoever may perform it goes on when
//! the database is back.

use crate::registry::rows::Operation;
use crate::registry::{Registry, RegistryError};
use contract::OperationId;
use fleet::operation::OperationStatus;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// How often an operation is looked at while somebody waits. Longer makes a lost notification felt by a person;
/// shorter is load for nothing.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long those who wait for an operation are held while the database answers nothing at all. Longer holds callers
/// who could be told to come back; shorter sends them away at every restart of the database, though their operation
/// is about to end.
pub const SILENCE_MAX: Duration = Duration::from_secs(10);

/// The same while it answers others: all connections are taken, or the row cannot be read. Longer holds callers whose
/// answer will not come; shorter sends them away in a burst that the operation outlasts.
const UNHEARD_MAX: Duration = Duration::from_secs(60);

/// What became of an operation.
#[derive(Debug, Clone)]
pub enum News {
    /// It ended.
    Ended(Arc<Operation>),
    /// It goes on in the background, after a failure that will be tried again.
    Retrying(Arc<Operation>),
    /// Its row is gone.
    Gone,
    /// There are none, because the database does not answer; this is what it came to at last.
    Silence(RegistryError),
}

#[derive(Clone)]
struct Room {
    news: watch::Sender<Option<News>>,
    poke: Arc<Notify>,
}

/// The rooms. Bounded by the number of waiters, which has its own limit.
#[derive(Default)]
pub struct Hub {
    rooms: Mutex<HashMap<OperationId, Room>>,
}

impl Hub {
    /// Waits for news of an operation.
    pub async fn wait(self: &Arc<Self>, id: OperationId, registry: &Registry) -> News {
        let mut news = self.enter(id, registry);
        loop {
            if let Some(found) = news.borrow_and_update().clone() {
                return found;
            }
            if news.changed().await.is_err() {
                news = self.enter(id, registry);
            }
        }
    }

    fn enter(self: &Arc<Self>, id: OperationId, registry: &Registry) -> watch::Receiver<Option<News>> {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(room) = rooms.get(&id) {
            return room.news.subscribe();
        }
        let (sender, receiver) = watch::channel(None);
        let room = Room { news: sender, poke: Arc::new(Notify::new()) };
        rooms.insert(id, room.clone());
        drop(rooms);
        let (hub, registry) = (Arc::clone(self), registry.clone());
        tokio::spawn(async move {
            hub.look(id, &room, &registry).await;
            hub.rooms.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        });
        receiver
    }

    /// Looks until there are news, nobody waits any more, or the database has been silent for too long.
    async fn look(&self, id: OperationId, room: &Room, registry: &Registry) {
        let mut heard = Instant::now();
        loop {
            if room.news.borrow().is_some() || room.news.is_closed() {
                return;
            }
            let news = tokio::select! {
                biased;
                answer = registry.operation(id) => match answer {
                    Ok(found) => {
                        heard = Instant::now();
                        judge(found)
                    }
                    Err(error) if is_in_vain(heard, registry) => Some(News::Silence(error)),
                    // Trouble with the database is not news yet: the next look may have them.
                    Err(_) => None,
                },
                () = in_vain(heard, registry) => {
                    let told = "no word of an operation in time".to_owned();
                    Some(News::Silence(RegistryError::Unavailable(told)))
                }
            };
            if let Some(news) = news {
                room.news.send_replace(Some(news));
                return;
            }
            tokio::select! {
                () = room.poke.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = room.news.closed() => return,
            }
        }
    }

    /// Tells everybody who waits for this operation; called by its executor.
    pub fn publish(&self, operation: Operation) {
        let id = operation.id;
        if let Some(news) = judge(Some(operation)) {
            let rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(room) = rooms.get(&id) {
                room.news.send_replace(Some(news));
                room.poke.notify_one();
            }
        }
    }

    /// How many requests of this replica wait for it.
    pub fn waiting(&self, id: OperationId) -> usize {
        let rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        rooms.get(&id).map_or(0, |room| room.news.receiver_count())
    }

    /// Has the room of this operation looked at now.
    pub fn poke(&self, id: OperationId) {
        if let Some(room) = self.rooms.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            room.poke.notify_one();
        }
    }

    /// Has every room looked at now: notifications may have been lost.
    pub fn poke_all(&self) {
        for room in self.rooms.lock().unwrap_or_else(PoisonError::into_inner).values() {
            room.poke.notify_one();
        }
    }
}

/// Has an operation that was last heard of then been asked about for too long?
fn is_in_vain(heard: Instant, registry: &Registry) -> bool {
    let waited = heard.elapsed();
    waited >= UNHEARD_MAX || waited.min(registry.silence()) >= SILENCE_MAX
}

/// Waits until it has.
async fn in_vain(heard: Instant, registry: &Registry) {
    while !is_in_vain(heard, registry) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn judge(found: Option<Operation>) -> Option<News> {
    let Some(operation) = found else {
        return Some(News::Gone);
    };
    match operation.status {
        OperationStatus::Open if operation.retry_at.is_some() && operation.error_code.is_some() => {
            Some(News::Retrying(Arc::new(operation)))
        }
        OperationStatus::Open => None,
        OperationStatus::Succeeded | OperationStatus::Failed | OperationStatus::Superseded => {
            Some(News::Ended(Arc::new(operation)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::DatabaseSettings;
    use chassis::config::Secret;
    use tokio::task::JoinSet;

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_while_the_database_is_away_is_told_so_in_time_and_leaves_nothing_behind() {
        let registry = Registry::connect(DatabaseSettings {
            url: Secret::new("postgresql://postgres@127.0.0.1:9/none?sslmode=disable"),
            max_connections: 4,
            application_name: "a test".to_owned(),
        })
        .expect("is a URL");
        let (hub, id, began) = (Arc::new(Hub::default()), OperationId::generate(), Instant::now());
        let mut waiting = JoinSet::new();
        for _ in 0..20 {
            let (hub, registry) = (Arc::clone(&hub), registry.clone());
            waiting.spawn(async move { hub.wait(id, &registry).await });
        }
        while let Some(told) = waiting.join_next().await {
            let Ok(News::Silence(error)) = told else { panic!("{told:?}") };
            assert!(error.is_unavailable(), "{error}");
        }
        let took = began.elapsed();
        assert!((SILENCE_MAX..=SILENCE_MAX + 2 * LOOK_EVERY).contains(&took), "{took:?}");
        while !hub.rooms.lock().expect("is not poisoned").is_empty() {
            tokio::task::yield_now().await;
        }
    }
}
