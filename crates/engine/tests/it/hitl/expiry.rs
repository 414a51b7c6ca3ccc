//! Nobody answers. The shortest configurable life of a question is a minute, so the question is asked by
//! the library with no life at all, and the real process meets it overdue at its start.

use crate::support::Setup;
use crate::support::http::Ask;
use crate::support::sse::Turn;
use brain::{Brain, OpenOptions, turns};
use chassis::config::Values;
use contract::TurnId;
use contract::engine_api::ExecuteRequest;
use engine::catalog::Shelf;
use engine::catalog::shelf::Place;
use engine::catalog::snapshot::Models;
use engine::config::{Config, Purpose, SandboxMode, ScrubMode};
use engine::core::{Core, Pulse};
use engine::feed::Feed;
use engine::memory::Memory;
use engine::sandbox::launcher::LauncherConfig;
use engine::sandbox::scrub::Parent;
use engine::sandbox::{Launcher, Limits, Workspace};
use engine::tools::{own, registry::Registry, shell};
use engine::turn::accept::{Accepted, accept};
use engine::turn::coordinator::Coordinator;
use llm::{Herald, ProviderConfig, ProviderKind, Timeouts};
use serde_json::json;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A core on the brain of a setup, whose questions expire as they are asked.
fn hasty(setup: &Setup) -> Arc<Core> {
    let brain = setup.brain().display().to_string();
    let values = Values::new("test", [("SQLITE_DB_PATH", brain.as_str()), ("LLM_PROVIDER", "offline")]);
    let mut config = Config::load(&values, Purpose::Tool).expect("a configuration").config;
    config.channel_state_ttl_hitl = Duration::ZERO;
    let second = Duration::from_secs(1);
    let timeouts = Timeouts { connect: second, first_byte: second, idle: second };
    let provider = llm::build(ProviderConfig {
        provider: ProviderKind::Offline,
        api_key: None,
        base_url: None,
        timeouts,
    });
    let limits =
        Limits { cpu_s: 10, memory_mb: 512, max_processes: 64, max_file_mb: 64, ..Limits::default() };
    let parent = Parent { variables: Vec::new(), secret_names: Vec::new() };
    let launcher = LauncherConfig::new(SandboxMode::BestEffort, ScrubMode::Strict, limits, parent);
    let mut tools = Registry::default();
    tools.add(shell::bash(second)).expect("a tool");
    for tool in own::tools() {
        tools.add(tool).expect("a tool");
    }
    std::fs::create_dir_all(setup.workspace()).expect("a directory");
    let models =
        Models { provider: config.llm_provider, has_base_url: false, configured: config.llm_model.clone() };
    let (catalog, _) = Shelf::open(Place { dir: None, hooks: None, models }, tools, None, &[]);
    let brain = Brain::open(OpenOptions::at(setup.brain())).expect("opens");
    Arc::new(Core {
        memory: Arc::new(Memory::new(&config, brain.clone())),
        learning: Arc::default(),
        brain,
        feed: Arc::new(Feed::default()),
        herald: Herald::new(provider, 0, None),
        catalog: Arc::new(catalog),
        connectors: OnceLock::new(),
        known: Arc::default(),
        proxy: None,
        launcher: Arc::new(Launcher::detect(launcher).expect("a launcher")),
        workspace: Arc::new(Workspace::new([setup.workspace()]).expect("a workspace")),
        coordinator: Arc::new(Coordinator::new(1, 1)),
        groups: Mutex::default(),
        scratch: setup.path("scratch"),
        pulse: Arc::new(Pulse::default()),
        halt: CancellationToken::new(),
        config,
    })
}

/// Leaves a turn of task `a` paused on a question that is overdue.
async fn leave_paused(setup: &Setup, message: &str) -> TurnId {
    let core = hasty(setup);
    let request =
        ExecuteRequest { message: message.to_owned(), task_id: "a".to_owned(), ..ExecuteRequest::default() };
    let accepted = accept(&core, request, None, None).await.expect("accepted");
    let Accepted::New { turn, .. } = accepted else { panic!("a new turn") };
    let mut live = core.feed.subscribe(Some("a"));
    let paused = async {
        loop {
            live.mark_seen();
            let id = turn.clone();
            let found = core.brain.read("turn", move |tx| turns::get(tx, &id)).await.expect("a read");
            if found.expect("the turn").state == turns::TurnState::Paused {
                return;
            }
            // the pause itself is no event
            let _ = tokio::time::timeout(Duration::from_millis(10), live.changed()).await;
        }
    };
    crate::support::soon("the pause", paused).await;
    core.brain.close();
    turn
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_nobody_answers_expires_and_the_turn_goes_on_by_itself() {
    // learning would be scheduled too
    let setup = Setup::offline().with("LC_ENABLED", "false");
    let id = leave_paused(&setup, "ask me your name").await;
    let engine = setup.start().await;
    engine.until("/tasks/a", |t| t["status"] == "idle").await;
    let turn = Turn::checked(engine.stored("&task_id=a").await, false);
    assert_eq!(turn.turn_id(), id.as_str());
    let resolved = turn.one("hitl_resolved");
    assert_eq!((resolved.text("resolution"), resolved.data["answer"].is_null()), ("expired", true));
    assert_eq!(turn.one("tool_result").text("reason"), "expired");
    assert_eq!(turn.stop_reason(), "end_turn");
    let late = json!({"request_id": resolved.data["request_id"], "answer": "Ada"});
    let late = engine.send(Ask::post("/hitl/respond", &late)).await.error(409, "CONFLICT").await;
    assert_eq!(late["details"]["reason"], "expired");
    assert!(engine.health().await["activity"]["next_scheduled_at"].is_null());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permission_nobody_gives_counts_as_no() {
    let outside = tempfile::tempdir().expect("a directory");
    let victim = outside.path().join("old");
    crate::support::put_file(&victim, "file", "x");
    let setup = Setup::offline();
    leave_paused(&setup, &format!("run rm -rf {}", victim.display())).await;
    let engine = setup.start().await;
    engine.until("/tasks/a", |t| t["status"] == "idle").await;
    let turn = Turn::checked(engine.stored("&task_id=a").await, false);
    assert_eq!(turn.one("hitl_resolved").text("resolution"), "expired");
    assert_eq!(turn.one("tool_result").text("reason"), "permission_denied");
    assert!(victim.join("file").exists());
}
