//! Who acts on an engine's backend object: one at a time in this process (§12.4).
//!
//! An executor holds the lock for one step, the supervisor for one stop, thaw or removal outside any operation. It
//! decides nothing and fences nothing: other replicas are kept away by claims and generations. The invariant: whoever
//! waits for a lock holds no permit and no lock of another engine, so nobody waits in a circle.

use contract::EngineId;
use fleet::operation::OperationKind;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::OwnedMutexGuard;

/// On whose behalf an object is touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    /// A step of an operation.
    Operation(OperationKind),
    /// The stop of an engine that was given up.
    GiveUp,
    /// The planner, about an engine that is not what its row says.
    Planner,
    /// The writing down of a recovery: nobody may be stopping what is found healthy.
    Recovery,
}

/// One engine's lock, kept while somebody holds it or waits for it.
#[derive(Debug, Default)]
struct Slot {
    lock: Arc<tokio::sync::Mutex<()>>,
    users: usize,
    holder: Option<Actor>,
}

/// The locks of all engines. As many as there are executors and pieces of work of the supervisor, which are bounded.
#[derive(Debug, Default)]
pub struct EngineLocks {
    slots: Mutex<HashMap<EngineId, Slot>>,
}

/// The right to touch one engine's object, until it is dropped.
#[derive(Debug)]
pub struct Held {
    /// First, so that the lock is free before its slot may go.
    _lock: OwnedMutexGuard<()>,
    user: User,
}

/// One who holds or waits.
#[derive(Debug)]
struct User {
    locks: Arc<EngineLocks>,
    engine: EngineId,
}

impl Drop for User {
    fn drop(&mut self) {
        let mut slots = self.locks.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get_mut(&self.engine) {
            slot.users -= 1;
            if slot.users == 0 {
                slots.remove(&self.engine);
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.user.note(None);
    }
}

impl User {
    fn note(&self, holder: Option<Actor>) {
        let mut slots = self.locks.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get_mut(&self.engine) {
            slot.holder = holder;
        }
    }

    fn holds(self, lock: OwnedMutexGuard<()>, actor: Actor) -> Held {
        self.note(Some(actor));
        Held { _lock: lock, user: self }
    }
}

impl EngineLocks {
    fn enter(self: &Arc<Self>, engine: EngineId) -> (User, Arc<tokio::sync::Mutex<()>>) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.entry(engine).or_default();
        slot.users += 1;
        (User { locks: Arc::clone(self), engine }, Arc::clone(&slot.lock))
    }

    /// Waits for this engine's lock, first come first served. Whoever stops waiting leaves nothing behind.
    pub async fn lock(self: &Arc<Self>, engine: EngineId, actor: Actor) -> Held {
        let (user, lock) = self.enter(engine);
        if let Some(holder) = self.holder(engine) {
            tracing::debug!(engine_id = %engine, ?actor, ?holder, "waits for another one at the same object");
        }
        let lock = lock.lock_owned().await;
        user.holds(lock, actor)
    }

    /// The lock, if nobody holds it.
    pub fn try_lock(self: &Arc<Self>, engine: EngineId, actor: Actor) -> Option<Held> {
        let (user, lock) = self.enter(engine);
        let lock = lock.try_lock_owned().ok()?;
        Some(user.holds(lock, actor))
    }

    /// Who touches this engine's object now.
    pub fn holder(&self, engine: EngineId) -> Option<Actor> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).get(&engine).and_then(|slot| slot.holder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn one_actor_at_a_time_holds_an_engine_and_another_engine_is_free() {
        let locks = Arc::new(EngineLocks::default());
        let (ada, bob) = (EngineId::generate(), EngineId::generate());
        let first = locks.lock(ada, Actor::GiveUp).await;
        assert_eq!(locks.holder(ada), Some(Actor::GiveUp));
        assert!(locks.try_lock(ada, Actor::Recovery).is_none(), "it is held");
        assert!(locks.try_lock(bob, Actor::Recovery).is_some(), "another engine is not");
        let second = locks.lock(ada, Actor::Operation(OperationKind::Start));
        tokio::pin!(second);
        let early = tokio::time::timeout(Duration::from_millis(20), &mut second).await;
        assert!(early.is_err(), "two hold it");
        drop(first);
        let second = second.await;
        assert_eq!(locks.holder(ada), Some(Actor::Operation(OperationKind::Start)));
        drop(second);
        assert_eq!(locks.holder(ada), None);
    }

    #[tokio::test]
    async fn whoever_stops_waiting_leaves_nothing_behind() {
        let locks = Arc::new(EngineLocks::default());
        let ada = EngineId::generate();
        let held = locks.lock(ada, Actor::Planner).await;
        let waits = tokio::time::timeout(Duration::from_millis(5), locks.lock(ada, Actor::GiveUp)).await;
        assert!(waits.is_err());
        assert!(locks.try_lock(ada, Actor::Recovery).is_none());
        drop(held);
        assert!(locks.slots.lock().expect("nobody panicked").is_empty(), "a slot is left");
        assert!(locks.try_lock(ada, Actor::Recovery).is_some());
    }
}
