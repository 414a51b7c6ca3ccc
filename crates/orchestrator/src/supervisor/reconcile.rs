//! The pass over everything: read the rows, list the backend, plan each engine, remove orphans.

use super::adoption::Adoption;
use super::view::Entry;
use super::{Supervisor, every, look, orphans};
use crate::registry::RegistryError;
use crate::registry::rows::Product;
use backends::BackendEventKind;
use contract::{EngineId, ProductId, Slug, Timestamp};
use fleet::lifecycle::Status;
use fleet::observation::Observation;
use fleet::orphans::ListVerdict;
use fleet::plan::{PlanStep, Seen, Source, plan};
use futures::StreamExt;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// Rows per page when products are read.
const PRODUCTS_PAGE: i64 = 500;

/// The loop.
pub(super) async fn run(supervisor: Arc<Supervisor>) {
    let period = supervisor.core.config.reconcile_interval_s;
    let nudge = Arc::clone(&supervisor);
    let adopted = AtomicBool::new(false);
    every(
        "reconcile",
        period,
        supervisor.over.clone(),
        || async { nudge.core.nudge.reconcile.notified().await },
        || async { pass(&supervisor, &adopted).await },
    )
    .await;
}

/// Hints of the backend: look at that engine now, or at everything after a gap.
pub(super) async fn events(supervisor: Arc<Supervisor>) {
    let mut events = supervisor.core.backend.events();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = supervisor.over.cancelled() => return,
        };
        if supervisor.core.fail_points.pass("supervisor", "events", "before") {
            panic!("a test asked for it");
        }
        match event {
            Some(event) => match (event.engine, event.kind) {
                (
                    Some(id),
                    BackendEventKind::Die
                    | BackendEventKind::Oom
                    | BackendEventKind::Destroy
                    | BackendEventKind::Start
                    | BackendEventKind::Pause
                    | BackendEventKind::Unpause,
                ) => supervisor.core.nudge.look_at(id),
                (None, _) | (Some(_), BackendEventKind::Gap) => supervisor.core.nudge.reconcile.notify_one(),
            },
            // The stream ended: begin anew, and read everything.
            None => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                events = supervisor.core.backend.events();
                supervisor.core.nudge.reconcile.notify_one();
            }
        }
    }
}

/// Hands over every product, page by page.
pub(super) async fn each_product(
    supervisor: &Supervisor,
    mut each: impl FnMut(&Product),
) -> Result<(), RegistryError> {
    let mut after = None;
    loop {
        let page = supervisor.core.registry.products(PRODUCTS_PAGE, after).await?;
        page.iter().for_each(|(product, _)| each(product));
        match page.last() {
            Some((last, _)) if i64::try_from(page.len()).unwrap_or(0) == PRODUCTS_PAGE => {
                after = Some((last.created_at, last.id));
            }
            _ => return Ok(()),
        }
    }
}

/// Effective idle time of every product.
async fn idle_times(supervisor: &Supervisor) -> Result<HashMap<ProductId, Option<Duration>>, RegistryError> {
    let mut times = HashMap::new();
    let engine = supervisor.core.policy_engine();
    each_product(supervisor, |product| {
        let policy = crate::discovery::parse_policy(product).ok();
        times.insert(product.id, policy.and_then(|p| engine.idle_after(&p)));
    })
    .await?;
    Ok(times)
}

/// Reads every row into the view; rows that are gone leave it.
async fn read_rows(supervisor: &Supervisor) -> Result<HashSet<EngineId>, RegistryError> {
    let idle = idle_times(supervisor).await?;
    let mut alive = HashSet::new();
    let each = |found: crate::registry::rows::Found, slug: Slug| {
        alive.insert(found.engine.id);
        let idle_after = idle.get(&found.engine.product_id).copied().flatten();
        supervisor.view.put(found, slug, idle_after);
    };
    let damaged = supervisor.core.registry.snapshot(supervisor.core.backend.kind(), each).await?;
    for (id, error) in damaged {
        tracing::error!(engine_id = %id, %error, "the row of this engine cannot be read; it is left alone");
        alive.insert(id);
    }
    supervisor.view.lock().retain(|id, _| alive.contains(id));
    Ok(alive)
}

/// `adopted`: the first list of this tenure was compared with the rows, and told.
async fn pass(supervisor: &Arc<Supervisor>, adopted: &AtomicBool) -> Result<(), RegistryError> {
    let core = &supervisor.core;
    let asked = core.registry.now().await?;
    // A backend that is away is told about once, when it goes (`background::pulse`); until then there is no word.
    let listed = if core.pulse.backend_ok() { Some(core.backend.list().await) } else { None };
    let rows = read_rows(supervisor).await?;
    let now = core.registry.now().await?;
    let listed = match listed {
        None => None,
        Some(Ok(listed)) => Some(listed.into_iter().collect::<HashMap<EngineId, Observation>>()),
        Some(Err(error)) => {
            tracing::warn!(%error, "the backend cannot be listed; nothing is concluded from that");
            None
        }
    };
    let began = Instant::now();
    let work = match &listed {
        Some(listed) => {
            see_all(supervisor, listed, &rows, asked);
            if !adopted.swap(true, Ordering::Relaxed) {
                Adoption::of(&supervisor.view, listed).tell();
            }
            let work = plan_all(supervisor, now);
            let planned = began.elapsed();
            crate::telemetry::loop_ran("plan", planned);
            tracing::debug!(
                engines = rows.len(),
                steps = work.len(),
                plan_us = planned.as_micros() as u64,
                "pass over the fleet"
            );
            work
        }
        None => {
            for entry in supervisor.view.lock().values_mut() {
                entry.seen = Seen::NoWord;
            }
            Vec::new()
        }
    };
    for (entry, steps) in work {
        let inner = Arc::clone(supervisor);
        supervisor.spawn(async move {
            let Ok(_place) = Arc::clone(&inner.looks).acquire_owned().await else { return };
            for step in steps {
                if let Err(error) = look::perform(&inner, &entry, step).await {
                    crate::telemetry::loop_failed("reconcile", &error);
                    return;
                }
            }
        });
    }
    if let Some(listed) = &listed {
        orphans::pass(supervisor, listed, &rows, now);
    }
    Ok(())
}

/// Takes the list over, if it can be believed.
fn see_all(
    supervisor: &Supervisor,
    listed: &HashMap<EngineId, Observation>,
    rows: &HashSet<EngineId>,
    asked: Timestamp,
) {
    let mut expected = 0;
    let mut missing = BTreeSet::new();
    {
        let entries = supervisor.view.lock();
        for (id, entry) in entries.iter() {
            let should = matches!(entry.found.engine.status, Status::Running | Status::Sleeping)
                && entry.found.operation.is_none();
            if should {
                expected += 1;
                if !listed.contains_key(id) {
                    missing.insert(*id);
                }
            }
        }
    }
    let mut absence = supervisor.absence.lock().unwrap_or_else(PoisonError::into_inner);
    let verdict = absence.judge(expected, &missing, asked);
    drop(absence);
    if verdict == ListVerdict::Doubted {
        tracing::warn!(
            missing = missing.len(),
            expected,
            "the backend's list lacks much of the fleet; it is not believed yet"
        );
    }
    let ids: Vec<EngineId> = supervisor.view.lock().keys().copied().collect();
    for id in ids.into_iter().filter(|id| rows.contains(id)) {
        if let Some(entry) = supervisor.view.lock().get_mut(&id) {
            entry.absent_in_list = !listed.contains_key(&id) && verdict == ListVerdict::Believed;
        }
        let seen = match (listed.get(&id), verdict) {
            (Some(observation), _) => Seen::Fresh(observation.clone()),
            (None, ListVerdict::Believed) => Seen::Fresh(Observation::Absent),
            (None, ListVerdict::Doubted) => Seen::NoWord,
        };
        supervisor.view.see(id, seen, Source::List, asked);
    }
}

/// Plans every engine; most have nothing to do.
fn plan_all(supervisor: &Supervisor, now: Timestamp) -> Vec<(Entry, Vec<PlanStep>)> {
    let rules = supervisor.rules();
    let entries = supervisor.view.lock();
    entries
        .values()
        .filter_map(|entry| {
            let steps = plan(&entry.facts(), &rules, now);
            (!steps.is_empty()).then(|| (entry.clone(), steps))
        })
        .collect()
}
