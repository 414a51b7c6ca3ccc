//! Stories: scripts of what happens to one engine, and what the rules make of it, line by line.
//!
//! A line beginning with `>` is said by the story; the lines below it are what the rules answered. The world is
//! the smallest that can obey: one row, one object, one clock.

use crate::golden;
use crate::table::words;
use contract::{EngineId, ProductId, Timestamp};
use fleet::audit::{AuditAction, Outcome};
use fleet::health::{Activity, HealthReport, Verdict, Vitals};
use fleet::lifecycle::{BackendKind, Desired, FailureReason, SleepMode, Status};
use fleet::observation::{Object, ObjectState, Observation};
use fleet::operation::OperationKind;
use fleet::plan::{Claim, EngineFacts, OpenOperation, PlanStep, Rules, Seen, Source, plan};
use fleet::request::Request;
use fleet::restart::{Next, RestartRules};
use fleet::transition::{Cell, Event, Restart, next};
use std::time::Duration;

const MAX_FAILURES: u32 = 3;

#[derive(Clone, Copy)]
enum Boots {
    ByHand,
    Fail(FailureReason),
}

struct World {
    now: i64,
    facts: EngineFacts,
    exists: bool,
    attempts: u32,
    failure: Option<FailureReason>,
    boots: Boots,
    away: bool,
    said: Vec<String>,
}

impl World {
    fn new() -> Self {
        let facts = EngineFacts {
            engine_id: EngineId::parse("3f2a9c1e-7b40-4c58-9d1a-0a6f5f0f2b11").expect("a UUID"),
            product_id: ProductId::parse("3f2a9c1e-7b40-4c58-9d1a-0a6f5f0f2b12").expect("a UUID"),
            backend: BackendKind::Simulated,
            status: Status::Provisioning,
            status_since: Timestamp::from_millis(0),
            desired: Desired::Running,
            revision: 1,
            generation: 1,
            booted: false,
            container_id: None,
            sleep_mode: None,
            wake_at: None,
            admit_lease_until: None,
            next_restart_at: None,
            started_at: None,
            scheduled_wake_at: None,
            idle_after: None,
            vitals: Vitals::default(),
            open: None,
            seen: Seen::Fresh(Observation::Absent),
            source: Source::Observe,
            observed_at: Timestamp::from_millis(0),
            accounted_start: None,
            rotation_unfinished: false,
        };
        let (now, exists, attempts, failure) = (0, false, 0, None);
        Self { now, facts, exists, attempts, failure, boots: Boots::ByHand, away: false, said: Vec::new() }
    }

    fn time(&self) -> Timestamp {
        Timestamp::from_millis(self.now)
    }

    fn say(&mut self, text: String) {
        self.said.push(format!("{:>7.1}s  {text}", self.now as f64 / 1000.0));
    }

    fn show(&mut self) {
        if !self.exists {
            return self.say("= no row".to_owned());
        }
        let facts = &self.facts;
        let mut text = format!("= {}/{}", facts.status, facts.desired);
        if let Some(open) = facts.open {
            text += &format!(" + {}", open.kind);
        }
        if self.attempts > 0 {
            text += &format!(", attempts {}", self.attempts);
        }
        if facts.vitals.health_failures > 0 {
            text += &format!(", failures {}", facts.vitals.health_failures);
        }
        if let Some(reason) = self.failure {
            text += &format!(", {reason}");
        }
        if facts.status == Status::Failed && facts.open.is_none() {
            text += &match facts.next_restart_at {
                Some(at) => format!(", restart in {} s", (at.millis() - self.now) / 1000),
                None => ", given up".to_owned(),
            };
        }
        self.say(text);
    }

    fn event(&mut self, event: &Event, reason: FailureReason) {
        let (status, desired) = (self.facts.status, self.facts.desired);
        let cell = match self.exists {
            true => next(Some(status), Some(desired), self.facts.open.map(|open| open.kind), event),
            false => next(None, None, None, event),
        };
        self.say(words(&cell));
        match cell {
            Cell::Open(open) => {
                self.exists = true;
                if open.clears_counters {
                    self.clear();
                }
                if open.kind == OperationKind::Restart {
                    self.attempts += 1;
                    self.facts.next_restart_at = None;
                }
                self.put(open.status, open.desired);
                self.facts.open = Some(OpenOperation {
                    kind: open.kind,
                    claim: Claim::Until(later(self.now)),
                    retry_at: None,
                });
            }
            Cell::Change(change) => self.change(change.to, change.restart, reason),
            Cell::Join { clears_counters: true } => self.clear(),
            Cell::Join { clears_counters: false }
            | Cell::Nothing
            | Cell::Refuse(_)
            | Cell::NotAdmitted(_)
            | Cell::Answer(_)
            | Cell::TargetStored
            | Cell::Vitals
            | Cell::Noted
            | Cell::PartOfBoot
            | Cell::RepeatCreate
            | Cell::RollBack
            | Cell::Waits
            | Cell::AdoptGeneration
            | Cell::RemoveObject { .. } => {}
        }
    }

    fn change(&mut self, to: Option<(Status, Desired)>, restart: Restart, reason: FailureReason) {
        // A crash during a rotation leaves the rotation open: it touches no object.
        if self.facts.open.is_some_and(|open| open.kind != OperationKind::RotateKey) || to.is_none() {
            self.facts.open = None;
        }
        let Some((status, desired)) = to else {
            self.exists = false;
            return;
        };
        self.put(status, desired);
        match status {
            Status::Running => {
                self.facts.booted = true;
                self.facts.vitals.clear_failures();
                self.facts.started_at = Some(self.time());
                self.facts.wake_at = None;
                self.facts.next_restart_at = None;
                self.failure = None;
                self.run();
            }
            Status::Failed => {
                self.failure = Some(reason);
                let next = RestartRules::default().after_failure(self.attempts, reason, self.time());
                assert_eq!(
                    next == Next::GiveUp,
                    restart == Restart::GivenUp,
                    "the event knew what the rules say"
                );
                self.facts.next_restart_at = next.at();
                if next == Next::GiveUp {
                    self.see(ObjectState::Exited { code: None, oom: false, at: None });
                }
            }
            Status::Provisioning | Status::Sleeping | Status::Stopped | Status::Destroying => {}
        }
    }

    fn gives_up(&self, reason: FailureReason) -> bool {
        RestartRules::default().after_failure(self.attempts, reason, self.time()) == Next::GiveUp
    }

    fn clear(&mut self) {
        self.attempts = 0;
        self.failure = None;
        self.facts.next_restart_at = None;
        self.facts.vitals.clear_failures();
    }

    fn put(&mut self, status: Status, desired: Desired) {
        if self.facts.status != status {
            self.facts.status_since = self.time();
        }
        (self.facts.status, self.facts.desired) = (status, desired);
    }

    fn see(&mut self, state: ObjectState) {
        let object = Object {
            state,
            generation: self.facts.generation,
            spec_hash: String::new(),
            image: String::new(),
            container_id: "c".to_owned(),
            created_at: None,
        };
        self.facts.seen = Seen::Fresh(Observation::Present(object));
    }

    fn run(&mut self) {
        let started_at = self.time();
        self.facts.accounted_start = Some(started_at);
        let restarts = self.facts.vitals.backend_restarts;
        self.see(ObjectState::Running { started_at, restarts, address: None });
    }

    /// An operation that boots nothing ends as asked.
    fn done(&mut self) {
        let Some(open) = self.facts.open else { return self.say("nothing is open".to_owned()) };
        let action = AuditAction::closing(open.kind, Outcome::Ok);
        match open.kind {
            OperationKind::Destroy => return self.event(&Event::Destroyed, FailureReason::Crashed),
            OperationKind::Stop => {
                self.clear();
                self.see(ObjectState::Exited { code: Some(0), oom: false, at: None });
            }
            OperationKind::Sleep => {
                self.facts.sleep_mode = Some(SleepMode::Freeze);
                self.see(ObjectState::Paused);
            }
            OperationKind::RotateKey => self.facts.rotation_unfinished = false,
            _ => {}
        }
        self.facts.open = None;
        if let Some((status, desired)) = open.kind.succeeded(self.facts.status) {
            self.put(status, desired);
            self.say(format!("→ {status}/{desired} [{action}]"));
        }
    }

    fn probe(&mut self, healthy: bool) {
        if !self.exists || !self.facts.status.is_probed() {
            return self.say("not probed".to_owned());
        }
        let activity =
            Activity { in_flight_turns: 0, open_streams: 0, last_activity_at: None, next_scheduled_at: None };
        let reason = FailureReason::ProbeTimeout;
        let verdict = if healthy {
            Verdict::Healthy { report: HealthReport { activity: Some(activity), ..HealthReport::default() } }
        } else {
            Verdict::Failed { reason }
        };
        let now = self.time();
        self.facts.vitals.count(&verdict, now);
        if healthy {
            self.event(&Event::ProbeOk, reason);
            if RestartRules::default().resets(self.attempts, self.facts.vitals.healthy_since, now) {
                self.attempts = 0;
                self.say("attempts := 0".to_owned());
            }
        } else {
            let at_limit = self.facts.vitals.exhausted(MAX_FAILURES);
            self.event(&Event::ProbeFailed { at_limit, gives_up: self.gives_up(reason) }, reason);
        }
    }

    /// Plans until there is nothing to do.
    fn settle(&mut self) {
        let rules = Rules {
            backend: BackendKind::Simulated,
            reconcile_interval: Duration::from_secs(30),
            sleep_mode: SleepMode::Freeze,
            wake_lead: Duration::from_secs(30),
            wake_grace: Duration::from_secs(120),
        };
        for _ in 0..10 {
            if !self.exists {
                return;
            }
            if let (Boots::Fail(reason), Some(open)) = (self.boots, self.facts.open)
                && open.kind.needs_start_permit()
            {
                // The number of this attempt is counted already.
                self.event(&Event::BootFailed { gives_up: self.gives_up(reason) }, reason);
                self.show();
            }
            let mut facts = self.facts.clone();
            facts.observed_at = self.time();
            if self.away {
                facts.seen = Seen::NoWord;
            }
            let steps = plan(&facts, &rules, self.time());
            if steps.is_empty() {
                return;
            }
            for step in steps {
                self.perform(step);
            }
        }
        panic!("the planner does not come to rest: {:?}", self.said);
    }

    fn perform(&mut self, step: PlanStep) {
        self.say(format!("plan: {step:?}"));
        let any = FailureReason::Crashed;
        match step {
            PlanStep::Crashed { reason, restarts, .. } => {
                if let Some(restarts) = restarts {
                    self.facts.vitals.backend_restarts = restarts;
                    self.facts.accounted_start = None;
                }
                self.event(&Event::Crashed { gives_up: self.gives_up(reason) }, reason);
            }
            PlanStep::ObjectMissing => {
                let reason = FailureReason::ObjectMissing;
                self.event(&Event::ObjectMissing { gives_up: self.gives_up(reason) }, reason);
            }
            PlanStep::OpenRestart => self.event(&Event::RestartDue, any),
            PlanStep::OpenWake => self.event(&Event::ScheduleDue, any),
            PlanStep::SleepCandidate => self.event(&Event::Asked(Request::Sleep), any),
            PlanStep::ProbeForRecovery => {
                // Healthy: the backend brought it back.
                self.attempts += 1;
                self.event(&Event::Recovered, any);
            }
            PlanStep::Refreeze => self.see(ObjectState::Paused),
            PlanStep::StopAgain | PlanStep::StopStranger | PlanStep::StopGivenUp => {
                self.see(ObjectState::Exited { code: Some(0), oom: false, at: None });
            }
            PlanStep::ThawStranger => self.run(),
            PlanStep::Adopt { generation } => self.facts.generation = generation,
            PlanStep::RemoveStale { .. } => self.facts.seen = Seen::Fresh(Observation::Absent),
            PlanStep::OpenOperation(kind) => {
                let (status, desired) = kind.opened(self.facts.status, self.facts.desired);
                self.put(status, desired);
                self.facts.open =
                    Some(OpenOperation { kind, claim: Claim::Until(later(self.now)), retry_at: None });
            }
            PlanStep::ClaimAndContinue => {
                if let Some(open) = &mut self.facts.open {
                    open.claim = Claim::Until(later(self.now));
                }
            }
            PlanStep::Observe | PlanStep::AdoptContainer { .. } => panic!("the stories look at the source"),
        }
        self.show();
    }

    fn obey(&mut self, line: &str) {
        let any = FailureReason::Crashed;
        let words: Vec<&str> = line.split_whitespace().collect();
        let asked = |request| Event::Asked(request);
        match words.as_slice() {
            ["provision"] => self.event(&asked(Request::Provision), any),
            ["admit"] => self.event(&asked(Request::Admit { auto_provision: false, auto_wake: false }), any),
            ["admit", "both"] => {
                self.event(&asked(Request::Admit { auto_provision: true, auto_wake: true }), any)
            }
            ["start"] => self.event(&asked(Request::Start), any),
            ["stop"] => self.event(&asked(Request::Stop), any),
            ["sleep"] => self.event(&asked(Request::Sleep), any),
            ["rotate-key"] => self.event(&asked(Request::RotateKey), any),
            ["destroy"] => self.event(&asked(Request::Destroy), any),
            ["boot", "ready"] => self.event(&Event::BootReady, any),
            ["boot", "fails", reason] => {
                let reason = FailureReason::parse(reason).expect("a reason");
                self.event(&Event::BootFailed { gives_up: self.gives_up(reason) }, reason);
            }
            ["boots", "by", "hand"] => self.boots = Boots::ByHand,
            ["boots", "fail", reason] => {
                self.boots = Boots::Fail(FailureReason::parse(reason).expect("a reason"))
            }
            ["done"] => self.done(),
            ["probe", "ok"] => self.probe(true),
            ["probe", "failed", times] => {
                let times: u32 = times.trim_start_matches('x').parse().expect("a count");
                (0..times).for_each(|_| self.probe(false));
            }
            ["crash", code] => {
                let code = Some(code.parse().expect("an exit code"));
                self.see(ObjectState::Exited { code, oom: false, at: None });
            }
            ["oom"] => self.see(ObjectState::Exited { code: Some(137), oom: true, at: None }),
            ["backend", "restarts", "it"] => {
                let (started_at, restarts) = (self.time(), self.facts.vitals.backend_restarts + 1);
                self.see(ObjectState::Running { started_at, restarts, address: None });
            }
            ["daemon", "restarts"] => {
                let started_at = self.time();
                self.see(ObjectState::Running { started_at, restarts: 0, address: None });
            }
            ["object", "vanishes"] => self.facts.seen = Seen::Fresh(Observation::Absent),
            ["object", "of", "generation", number] => {
                let row = self.facts.generation;
                self.facts.generation = number.parse().expect("a number");
                self.run();
                self.facts.generation = row;
            }
            ["paused", "by", "a", "stranger"] => self.see(ObjectState::Paused),
            ["scheduled", "wake", "in", time] => {
                self.facts.wake_at = Some(Timestamp::from_millis(self.now + seconds(time) * 1000));
            }
            ["idle", "after", time] => {
                self.facts.idle_after = Some(Duration::from_secs(seconds(time).unsigned_abs()));
            }
            ["rotation", "breaks", "off"] => {
                self.facts.rotation_unfinished = true;
                self.facts.open = None;
            }
            ["replica", "dies"] => {
                if let Some(open) = &mut self.facts.open {
                    open.claim = Claim::Until(Timestamp::from_millis(self.now - 1));
                }
            }
            ["backend", "away"] => self.away = true,
            ["backend", "back"] => self.away = false,
            ["wait", time] => {
                for _ in 0..seconds(time) {
                    self.now += 1000;
                    self.settle();
                }
            }
            _ => panic!("the stories do not know {line:?}"),
        }
        self.settle();
        self.show();
    }
}

fn seconds(text: &str) -> i64 {
    let (number, unit) = text.split_at(text.len() - 1);
    let number: i64 = number.parse().expect("a number");
    number * if unit == "m" { 60 } else { 1 }
}

/// A replica that lives renews its claim: in a story it holds until it is said to die.
fn later(now: i64) -> Timestamp {
    Timestamp::from_millis(now + 86_400_000)
}

fn tell(name: &str) {
    let path = format!("{}/tests/stories/{name}.txt", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect("the story is there");
    let mut world = World::new();
    let mut told = String::new();
    let mut heading = true;
    for line in text.lines() {
        if let Some(said) = line.strip_prefix("> ") {
            heading = false;
            world.obey(said);
            told += &format!("{line}\n");
            for answer in world.said.drain(..) {
                told += &format!("{}\n", answer.trim_end());
            }
        } else if heading {
            told += &format!("{line}\n");
        }
    }
    golden::same(&format!("stories/{name}.txt"), &told);
}

macro_rules! stories {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            tell(stringify!($name));
        }
    )*};
}

stories! {
    backoff_doubles_until_it_gives_up_and_start_recovers
    a_flapping_engine_fails_at_three_in_a_row
    sleep_and_wake
    stop_during_boot_supersedes_it
    destroy_during_everything
    a_crash_found_by_the_planner_is_restarted_once
    the_backend_restarts_it_by_itself
    the_backend_is_away
    a_refused_configuration_is_not_restarted
    a_replica_dies_in_the_middle
    attempts_are_forgotten_after_ten_minutes
    strangers_at_work
    a_broken_off_rotation_is_resolved
}
