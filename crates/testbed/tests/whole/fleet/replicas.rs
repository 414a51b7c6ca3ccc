//! Two replicas on one database: orders to stop and kills under load lose no request, and one of them always watches.

use super::deployment::{Answer, Fleet};
use super::process::{signal, within};
use rustix::process::Signal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The longest that nobody supervises when the supervisor is told to stop (§11.4).
const HAND_OVER: Duration = Duration::from_secs(1);
/// The supervisor's lease in the test of its crash.
const LEASE_S: u64 = 3;
/// What a loaded machine may add to the moment at which a due timer fires.
const SLACK: Duration = Duration::from_millis(700);

async fn supervises(replica: &str) -> bool {
    let _ = rustls::crypto::ring::default_provider().install_default();
    #[allow(clippy::disallowed_methods, reason = "plain HTTP on the loopback")]
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let Ok(answer) = http.get(format!("{replica}/metrics")).send().await else { return false };
    let page = answer.text().await.unwrap_or_default();
    page.lines().any(|line| line.strip_prefix("bap_supervisor ").is_some_and(|v| v.trim().starts_with('1')))
}

/// Callers that prefer one replica and go to the other when it is gone.
struct Load {
    over: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    callers: Vec<tokio::task::JoinHandle<Vec<Answer>>>,
}

impl Load {
    /// `users` callers, each admitting its own user again and again. A refused connection and `DRAINING` were seen by
    /// nobody, so they may go elsewhere; every other answer but an admission is returned in the end.
    fn on(fleet: &Arc<Fleet>, users: usize) -> Self {
        let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let callers = (0..users)
            .map(|n| {
                let (fleet, over, answered) = (Arc::clone(fleet), Arc::clone(&over), Arc::clone(&answered));
                tokio::spawn(async move {
                    let (mut lost, mut replica) = (Vec::new(), n % 2);
                    while !over.load(Ordering::Relaxed) {
                        let answer = fleet.admit_at(replica, &format!("user-{n}")).await;
                        if answer.body["admitted"] == true {
                            answered.fetch_add(1, Ordering::Relaxed);
                        } else if answer.refused || answer.code() == "DRAINING" || answer.code() == "STARTING"
                        {
                            replica = 1 - replica;
                        } else {
                            lost.push(answer);
                        }
                    }
                    lost
                })
            })
            .collect();
        Self { over, answered, callers }
    }

    async fn more(&self, count: usize) {
        let reached = self.answered.load(Ordering::Relaxed) + count;
        within(Duration::from_secs(30), "admits go on", async || {
            self.answered.load(Ordering::Relaxed) >= reached
        })
        .await;
    }

    async fn end(self) -> Vec<Answer> {
        self.over.store(true, Ordering::Relaxed);
        let mut lost = Vec::new();
        for caller in self.callers {
            lost.extend(caller.await.expect("callers do not break off"));
        }
        lost
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_finishes_requests_and_hands_over_work() {
    let fleet = Fleet::new().await.with("ORCH_LEASE_TTL_S", "6").ready().await;
    fleet.start(1).await;
    let fleet = Arc::new(fleet);
    let mut before = Vec::new();
    for n in 0..4 {
        let engine = fleet.engine(&format!("user-{n}")).await;
        before.push((engine.id.clone(), fleet.process_of(&engine.id)));
    }
    let load = Load::on(&fleet, 4);
    let mut running = [0, 1];
    for _ in 0..4 {
        load.more(40).await;
        let [old, new] = running;
        assert!(supervises(&fleet.internal(old)).await, "replica {old} is the one that watches");
        let began = Instant::now();
        signal(fleet.pid_of(old), Signal::TERM);
        let other = fleet.internal(new);
        within(Duration::from_secs(20), "the other one watches", async || supervises(&other).await).await;
        let handed = began.elapsed();
        assert_eq!(fleet.end_of(old).await.code(), Some(0));
        eprintln!("handed over in {handed:?}, ended after {:?}", began.elapsed());
        assert!(handed < HAND_OVER, "nobody supervised for {handed:?}");
        load.more(40).await;
        fleet.start(old).await;
        running = [new, old];
    }
    let lost = load.end().await;
    assert!(lost.is_empty(), "{} requests were lost, the first: {:?}", lost.len(), lost[0]);
    for (id, pid) in before {
        assert_eq!(fleet.process_of(&id), pid, "an engine was touched");
    }
}

/// The supervisor is killed again and again while everybody admits. What was on a connection to it is cut, or on one that
/// was just being opened; saying it again at the other replica is answered, and no engine is touched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swap_under_load_loses_no_request() {
    const CALLERS: usize = 4;
    const KILLS: usize = 4;
    let fleet = Fleet::new().await.with("ORCH_LEASE_TTL_S", &LEASE_S.to_string()).ready().await;
    fleet.start(1).await;
    let fleet = Arc::new(fleet);
    let mut before = Vec::new();
    for n in 0..CALLERS {
        let engine = fleet.engine(&format!("user-{n}")).await;
        before.push((engine.id.clone(), fleet.process_of(&engine.id)));
    }
    let load = Load::on(&fleet, CALLERS);
    let mut running = [0, 1];
    for _ in 0..KILLS {
        load.more(40).await;
        let [old, new] = running;
        let other = fleet.internal(new);
        assert!(supervises(&fleet.internal(old)).await, "replica {old} is the one that watches");
        fleet.kill(old).await;
        // Nobody waits for the lease of the dead.
        load.more(40).await;
        within(Duration::from_secs(20), "the other one watches", async || supervises(&other).await).await;
        fleet.start(old).await;
        running = [new, old];
    }
    let (cut, lost): (Vec<_>, Vec<_>) = load.end().await.into_iter().partition(|answer| answer.status == 0);
    eprintln!("{} requests were cut by {KILLS} kills", cut.len());
    assert!(cut.len() <= 2 * CALLERS * KILLS, "{} requests were cut, the first: {:?}", cut.len(), cut[0]);
    assert!(lost.is_empty(), "{} requests were refused, the first: {:?}", lost.len(), lost[0]);
    for (id, pid) in before {
        assert_eq!(fleet.process_of(&id), pid, "an engine was touched");
        assert_eq!(fleet.actions(&id).await, ["provision"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_the_supervisor_is_a_take_over_within_its_lease() {
    let fleet = Fleet::new().await.with("ORCH_LEASE_TTL_S", &LEASE_S.to_string()).ready().await;
    fleet.start(1).await;
    let engine = fleet.engine("ada").await;
    let before = fleet.record(&engine.id);
    let limit = Duration::from_millis(LEASE_S * 1000 * 4 / 3) + SLACK;
    let mut running = [0, 1];
    for _ in 0..3 {
        let [old, new] = running;
        assert!(supervises(&fleet.internal(old)).await);
        let other = fleet.internal(new);
        fleet.kill(old).await;
        assert_eq!(
            fleet.admit_at(new, "ada").await.body["admitted"],
            true,
            "admission does not wait for a supervisor"
        );
        let took = within(limit, "the other one watches", async || supervises(&other).await).await;
        eprintln!("taken over in {took:?}");
        fleet.start(old).await;
        running = [new, old];
    }
    // And it does the work: a crash is noticed by whoever supervises now.
    super::process::signal(fleet.process_of(&engine.id), Signal::KILL);
    super::process::until("the engine is back", async || fleet.record(&engine.id) != before).await;
    fleet.until_status("ada", "running").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_supervisor_frozen_past_its_lease_acts_on_nothing_when_it_wakes() {
    let fleet = Fleet::new().await.ready().await;
    fleet.start(1).await;
    let engine = fleet.engine("ada").await;
    let frozen = fleet.pid_of(0);
    signal(frozen, Signal::STOP);
    let other = fleet.internal(1);
    within(Duration::from_secs(10), "the other one watches", async || supervises(&other).await).await;
    let before = fleet.record(&engine.id);
    super::process::signal(fleet.process_of(&engine.id), Signal::KILL);
    let back = async || {
        fleet.call_at(1, "GET", "/engines/ada", &serde_json::Value::Null).await.body["status"] == "running"
    };
    let restarted = async || fleet.record(&engine.id)["generation"] != before["generation"] && back().await;
    super::process::until("the engine is back", restarted).await;
    let record = fleet.record(&engine.id);
    signal(frozen, Signal::CONT);
    let same = async || fleet.record(&engine.id) == record;
    super::deployment::stays(Duration::from_secs(4), "the engine is left alone", same).await;
    let trail = fleet.actions(&engine.id).await;
    assert_eq!(trail, ["provision", "health_failed", "auto_restart_start", "auto_restart_success"]);
}
