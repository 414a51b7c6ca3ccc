//! One guarded change of an engine's row, put together from a fixed list of column fragments.
//!
//! Every applied patch adds 1 to `revision`. It refuses a pair of status and desired that cannot exist: such a change
//! is a defect, and the transaction it is in is given up.

use super::cells::{Cells, engine_columns, instant, storable};
use super::db::{Query, Tx};
use super::error::{Fault, RegistryError};
use super::lease::millis;
use super::notify::Notice;
use super::{Engine, EnginePatch};
use contract::{EngineId, Timestamp};
use tokio_postgres::types::ToSql;

/// Longest stored failure message in characters. Longer lets one engine's log line fill rows, answers and pages;
/// shorter cuts off the reason.
const FAILURE_MESSAGE_CHARS: usize = 500;

const EXISTS: Query = Query::new("engine_exists", "SELECT TRUE FROM engines WHERE id = $1");

const RESET_VITALS: Query = Query::new(
    "reset_vitals",
    "UPDATE engine_vitals SET health_failures = 0, healthy_streak = 0, healthy_since = NULL, \
     updated_at = clock_timestamp() WHERE engine_id = $1",
);

/// What must hold besides id and revision.
pub(super) enum Guard {
    /// Nothing.
    Revision,
    /// No operation is open. Opening one changes the row, so the revision covers the race.
    NoOperation,
    /// Running, meant to run, and no admit lease that reaches past this moment − 2 s.
    Fence(Timestamp),
}

/// Changes no [`EnginePatch`] can express.
pub(super) enum Besides {
    /// None.
    Nothing,
    /// The generation grows by one.
    RaiseGeneration,
}

/// What became of the row.
pub(super) enum Written {
    /// It is as asked.
    Row(Box<Engine>),
    /// A guard did not hold.
    Refused,
    /// There is no such engine.
    Missing,
}

type Value = Box<dyn ToSql + Sync + Send>;

/// `SET` fragments with `{}` for their value.
#[derive(Default)]
struct Assignments {
    fragments: Vec<String>,
    values: Vec<Value>,
}

/// Parameters in front of the assigned values: id and revision.
const FIRST_VALUE: usize = 3;

impl Assignments {
    fn plain(&mut self, fragment: &'static str) {
        self.fragments.push(fragment.to_owned());
    }

    fn set(&mut self, fragment: &'static str, value: impl ToSql + Sync + Send + 'static) {
        let place = format!("${}", FIRST_VALUE + self.values.len());
        self.fragments.push(fragment.replace("{}", &place));
        self.values.push(Box::new(value));
    }
}

fn assignments(patch: &EnginePatch, besides: &Besides) -> Result<Assignments, RegistryError> {
    let mut to = Assignments::default();
    to.plain("revision = e.revision + 1");
    to.plain("updated_at = clock_timestamp()");
    match besides {
        Besides::Nothing => {}
        Besides::RaiseGeneration => to.plain("generation = e.generation + 1"),
    }
    if let Some(status) = patch.status {
        // A boot that ended begins the status anew: a stop that a start took the place of was `running` all along,
        // but its process is another one.
        let assignment = if patch.boot_duration_ms.is_some() {
            "status = {}, status_since = clock_timestamp()"
        } else {
            "status = {}, status_since = CASE WHEN e.status = {} THEN e.status_since ELSE clock_timestamp() END"
        };
        to.set(assignment, status.as_str());
    }
    if let Some(desired) = patch.desired {
        to.set("desired = {}", desired.as_str());
    }
    if let Some(generation) = patch.generation {
        to.set("generation = {}", generation);
    }
    if let Some(version) = &patch.engine_version {
        to.set("engine_version = {}", version.clone());
    }
    if let Some(version) = &patch.target_version {
        to.set("target_version = {}", version.clone());
    }
    if let Some(id) = &patch.container_id {
        to.set("container_id = {}", id.clone());
    }
    if let Some(hash) = &patch.spec_hash {
        to.set("spec_hash = {}", hash.clone());
    }
    if let Some(key) = &patch.next_key {
        to.set("next_engine_key_hash = {}", key.as_ref().map(|key| key.hash.clone()));
        to.set("next_engine_key_enc = {}", key.as_ref().map(|key| key.sealed.clone()));
    }
    if patch.promote_next_key {
        to.plain("engine_key_hash = e.next_engine_key_hash, engine_key_enc = e.next_engine_key_enc");
        to.plain(
            "next_engine_key_hash = NULL, next_engine_key_enc = NULL, key_rotated_at = clock_timestamp()",
        );
    }
    if let Some(ms) = patch.boot_duration_ms {
        to.set("boot_duration_ms = {}", ms);
    }
    if let Some(mode) = patch.sleep_mode {
        to.set("sleep_mode = {}", mode.map(|mode| mode.as_str()));
    }
    if let Some(time) = patch.wake_at {
        to.set("wake_at = {}", time.map(instant).transpose()?);
    }
    if let Some(attempts) = patch.restart_attempts {
        to.set("restart_attempts = {}", attempts);
    }
    if let Some(wait) = patch.next_restart_in {
        to.set(
            "next_restart_at = clock_timestamp() + {}::bigint * INTERVAL '1 millisecond'",
            wait.map(millis),
        );
    }
    if let Some(failure) = &patch.failure {
        to.set("failure_code = {}", failure.as_ref().map(|(reason, _)| reason.as_str()));
        let message = failure
            .as_ref()
            .map(|(_, text)| storable(&text.chars().take(FAILURE_MESSAGE_CHARS).collect::<String>()));
        to.set("failure_message = {}", message);
    }
    Ok(to)
}

/// Applies a patch to the row with this id and revision, and tells the others.
pub(super) async fn apply(
    tx: &Tx<'_>,
    engine_id: EngineId,
    revision: i64,
    patch: &EnginePatch,
    guard: Guard,
    besides: Besides,
) -> Result<Written, Fault> {
    let mut to = assignments(patch, &besides)?;
    let sets = to.fragments.join(", ");
    let guarded = match guard {
        Guard::Revision => String::new(),
        Guard::NoOperation => {
            " AND NOT EXISTS (SELECT 1 FROM operations o WHERE o.engine_id = e.id AND o.status = 'open')"
                .to_owned()
        }
        Guard::Fence(t0) => {
            let place = FIRST_VALUE + to.values.len();
            to.values.push(Box::new(instant(t0)?));
            format!(
                " AND e.status = 'running' AND e.desired = 'running' AND (e.admit_lease_until IS NULL \
                 OR e.admit_lease_until < ${place}::timestamptz - INTERVAL '2 seconds')"
            )
        }
    };
    let columns = engine_columns!();
    let update = Query::assembled(
        "change_engine",
        format!(
            "UPDATE engines AS e SET {sets} WHERE e.id = $1 AND e.revision = $2{guarded} RETURNING {columns}"
        ),
    );
    let id = engine_id.uuid();
    let mut params: Vec<&(dyn ToSql + Sync)> = vec![&id, &revision];
    params.extend(to.values.iter().map(|value| &**value as &(dyn ToSql + Sync)));
    let Some(row) = tx.maybe(&update, &params).await? else {
        return Ok(if exists(tx, engine_id).await? { Written::Refused } else { Written::Missing });
    };
    let engine = Cells::of(&row).engine()?;
    if !fleet::lifecycle::is_legal(engine.status, engine.desired) {
        let text =
            format!("engine {engine_id} cannot be {} and meant to be {}", engine.status, engine.desired);
        return Err(RegistryError::Defect(text).into());
    }
    if patch.reset_vitals {
        tx.rows(&RESET_VITALS, &[&id]).await?;
    }
    tx.tell(&[engine_notice(&engine)]).await?;
    Ok(Written::Row(Box::new(engine)))
}

/// Whether there is such an engine.
pub(super) async fn exists(tx: &Tx<'_>, engine_id: EngineId) -> Result<bool, Fault> {
    Ok(tx.maybe(&EXISTS, &[&engine_id.uuid()]).await?.is_some())
}

/// "This row changed."
pub(super) fn engine_notice(engine: &Engine) -> Notice {
    Notice::Engine { id: engine.id, product: engine.product_id, revision: engine.revision }
}
