//! What a supervisor that begins finds: how many engines are as recorded, how many differ, how many are missing.
//!
//! It counts, for people; what is done about each is decided by the planner, engine by engine. Nothing is written about
//! engines that are as recorded.

use super::view::View;
use contract::EngineId;
use fleet::lifecycle::{SleepMode, Status};
use fleet::observation::{Object, ObjectState, Observation};
use fleet::plan::EngineFacts;
use std::collections::HashMap;

/// The first list of a tenure, compared with the rows.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Adoption {
    /// The object is what the row says.
    pub(super) adopted: usize,
    /// There is an object, doing something else than the row says.
    pub(super) differing: usize,
    /// The row says that there is an object, and the list has none.
    pub(super) missing: usize,
    /// An operation is at work on it: what is seen is no end.
    pub(super) under_way: usize,
}

/// What one row and its object say about each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finding {
    Adopted,
    Differing,
    Missing,
    UnderWay,
    /// No object, and none is needed.
    Nothing,
}

impl Adoption {
    /// Compares every row in the view with the list.
    pub(super) fn of(view: &View, listed: &HashMap<EngineId, Observation>) -> Self {
        let mut adoption = Self::default();
        for (id, entry) in view.lock().iter() {
            match finding(&entry.facts(), listed.get(id).and_then(Observation::object)) {
                Finding::Adopted => adoption.adopted += 1,
                Finding::Differing => adoption.differing += 1,
                Finding::Missing => adoption.missing += 1,
                Finding::UnderWay => adoption.under_way += 1,
                Finding::Nothing => {}
            }
        }
        adoption
    }

    /// The one line about it.
    pub(super) fn tell(self) {
        let Self { adopted, differing, missing, under_way } = self;
        tracing::info!(
            adopted,
            differing,
            missing,
            under_way,
            "Took over the fleet: {adopted} engines are as recorded, {differing} differ, {missing} are missing"
        );
    }
}

fn finding(facts: &EngineFacts, object: Option<&Object>) -> Finding {
    let under_way = facts.open.is_some() || matches!(facts.status, Status::Provisioning | Status::Destroying);
    match object {
        _ if under_way => Finding::UnderWay,
        Some(object) if object.generation == facts.generation && is_as_recorded(facts, &object.state) => {
            Finding::Adopted
        }
        Some(_) => Finding::Differing,
        None if needs_object(facts) => Finding::Missing,
        None => Finding::Nothing,
    }
}

fn is_as_recorded(facts: &EngineFacts, state: &ObjectState) -> bool {
    let rests = matches!(state, ObjectState::Exited { .. } | ObjectState::Created);
    match (facts.status, facts.sleep_mode) {
        (Status::Running, _) => matches!(state, ObjectState::Running { restarts, .. }
            if *restarts <= facts.vitals.backend_restarts),
        (Status::Sleeping, Some(SleepMode::Freeze)) => matches!(state, ObjectState::Paused),
        (Status::Sleeping, Some(SleepMode::Label)) => matches!(state, ObjectState::Running { .. }),
        (Status::Sleeping, Some(SleepMode::Stop) | None) | (Status::Stopped, _) => rests,
        // Failed is what the row says of an object that does not serve.
        (Status::Failed, _) => !matches!(state, ObjectState::Running { .. }),
        (Status::Provisioning | Status::Destroying, _) => false,
    }
}

/// A stopped engine comes back from its storage alone.
fn needs_object(facts: &EngineFacts) -> bool {
    match facts.status {
        Status::Running => true,
        Status::Sleeping => facts.sleep_mode != Some(SleepMode::Stop),
        Status::Stopped | Status::Failed | Status::Provisioning | Status::Destroying => false,
    }
}
