//! One suite of twenty-one rules, the same for every place where engines run (specification §10.7).
//!
//! A place takes part by implementing [`Place`] and one line
//! `crate::conformance::conformance_suite!(ItsType);` in its own file, which makes the tests `<file>::conformance_<rule>`.
//! The rules know the trait `EngineBackend` and the outside view that `Place` gives; nothing else. The one
//! invariant: a rule never asks the backend whether the backend was right; it asks the place.
//!
//! For whoever writes a place:
//! - every test makes its own world with [`Place::fresh`]; dropping the place must leave nothing behind;
//! - "outside" means: not through the backend under test, as an operator or the kernel would do it;
//! - the engine program is the fake engine of `testbed`; the simulated place acts the same in memory.

use async_trait::async_trait;
use backends::{EngineBackend, ProbeReply};
use contract::{EngineId, InstanceId};
use fleet::spec::EngineSpec;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A world of one kind in which the suite runs.
#[async_trait]
pub trait Place: Sized + Send + Sync + 'static {
    /// The file under `golden/` that [`Place::shape`] is compared with, without `.txt`.
    const GOLDEN: &'static str;

    /// Can there be such a world on this machine? Where not, the place writes down what was not tested.
    async fn possible() -> bool {
        true
    }
    /// A new, empty world whose backend has this base deadline (b of §10.2).
    async fn fresh(call_timeout: Duration) -> Self;
    /// The instance of [`Place::backend`].
    fn instance(&self) -> InstanceId;
    /// The backend under test.
    fn backend(&self) -> Arc<dyn EngineBackend>;
    /// A second backend on the same place that remembers nothing: another replica, or the same after a restart
    /// (`instance` = ours), or another deployment (any other).
    async fn another(&self, instance: InstanceId) -> Arc<dyn EngineBackend>;
    /// The image reference under which the fake engine is found.
    fn image(&self) -> String;
    /// A catalog directory on the place, to be mounted read-only.
    fn catalog(&self) -> String;
    /// A host port nobody uses; `None` where engines take no host ports.
    async fn free_port(&self) -> Option<u16>;
    /// Changes the specification so that its engine ignores SIGTERM (fake engine: `FAKE_IGNORE_SIGTERM=1`).
    fn make_stubborn(&self, spec: &mut EngineSpec);
    /// Sends one GET without a key to the engine.
    async fn get(&self, address: SocketAddr, path: &str) -> ProbeReply;
    /// Is the object with this `container_id` alive (running or frozen) right now, as the place sees it?
    async fn alive(&self, container_id: &str) -> bool;
    /// The environment of the running engine, as the place (or the engine's `/environ`) shows it.
    async fn environment(&self, id: EngineId) -> BTreeMap<String, String>;
    /// Environment, labels, mounts and whatever else shapes the engine's object, as the place shows it: one sorted
    /// line per fact; what differs between runs (ports, ids, paths) replaced by `<port>`, `<engine>`, `<12>`,
    /// `<instance>`, `<product>`, `<root>`, `<catalog>` … . Compared with the golden file.
    async fn shape(&self, spec: &EngineSpec) -> String;
    /// Everything people can read about this engine without being allowed to read its environment: labels, names,
    /// command line, logs, files beside the brain.
    async fn public_text(&self, id: EngineId) -> String;
    /// Kills the engine's main process with SIGKILL from outside.
    async fn kill_outside(&self, id: EngineId);
    /// Makes the object go away from outside (`docker rm -f`); storage stays.
    async fn remove_object_outside(&self, id: EngineId);
    /// Makes the storage go away from outside; the object is gone already.
    async fn remove_storage_outside(&self, id: EngineId);
    /// Names of everything on the place that belongs to this engine: objects, jobs, volumes, directories, files.
    async fn traces(&self, id: EngineId) -> Vec<String>;
    /// From now on the place does not answer at all (socket gone, data root gone). Engines live on.
    async fn make_unreachable(&self);
    /// From now on calls that look at or change this engine never end.
    async fn make_hang(&self, id: EngineId);
    /// Undoes [`Place::make_unreachable`] and [`Place::make_hang`].
    async fn heal(&self);
    /// From now on the place has room for one object and no more; false where nothing but the machine limits it. Asked
    /// for while the place is empty.
    async fn narrow(&self) -> bool;
    /// Interrupts every event stream that is open, if the place has such a thing.
    async fn cut_events(&self);
}

/// Makes one test per rule for one place.
macro_rules! conformance_suite {
    ($place:ty) => {
        $crate::conformance::tests! { $place,
            conformance_create_twice_is_one_object = create_twice_is_one_object,
            conformance_create_adopts_same_generation_and_replaces_lower =
                create_adopts_same_generation_and_replaces_lower,
            conformance_create_refuses_a_foreign_object_of_that_name =
                create_refuses_a_foreign_object_of_that_name,
            conformance_storage_is_created_once = storage_is_created_once,
            conformance_at_most_one_writer = at_most_one_writer,
            conformance_generation_reaches_the_engine = generation_reaches_the_engine,
            conformance_stop_is_graceful_then_firm = stop_is_graceful_then_firm,
            conformance_stop_start_remove_destroy_are_idempotent = stop_start_remove_destroy_are_idempotent,
            conformance_remove_keeps_storage = remove_keeps_storage,
            conformance_destroy_leaves_nothing = destroy_leaves_nothing,
            conformance_freeze_thaw_keeps_identity = freeze_thaw_keeps_identity,
            conformance_observation_matches_reality_after_outside_change =
                observation_matches_reality_after_outside_change,
            conformance_list_sees_every_state_and_only_our_instance =
                list_sees_every_state_and_only_our_instance,
            conformance_unreachable_is_an_error_not_absent = unreachable_is_an_error_not_absent,
            conformance_events_are_hints_relist_repairs = events_are_hints_relist_repairs,
            conformance_a_hung_call_ends_at_its_deadline = a_hung_call_ends_at_its_deadline,
            conformance_endpoint_answers_health = endpoint_answers_health,
            conformance_env_labels_mounts_are_exactly_these = env_labels_mounts_are_exactly_these,
            conformance_job_runs_on_stopped_storage_only = job_runs_on_stopped_storage_only,
            conformance_secrets_appear_only_where_the_contract_puts_them =
                secrets_appear_only_where_the_contract_puts_them,
            conformance_room_is_told_before_anything_is_made = room_is_told_before_anything_is_made,
        }
    };
}
pub(crate) use conformance_suite;

/// The tests of one place.
macro_rules! tests {
    ($place:ty, $($test:ident = $rule:ident,)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            if <$place as $crate::conformance::Place>::possible().await {
                $crate::rules::$rule::<$place>().await;
            }
        }
    )*};
}
pub(crate) use tests;
