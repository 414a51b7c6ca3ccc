//! Start, drain and stop: from a configuration to a serving Engine and back.
//!
//! The port is bound first and /health answers from then on; the brain is opened behind it. After SIGTERM
//! running turns get ENGINE_DRAIN_TIMEOUT_S, then stop at the next safe point; `kill -9` is always safe.

mod listen;
mod opening;
mod secrecy;
mod scratch;
mod parts;
mod keepers;

pub use parts::{catalog_place, platform_tools, put_soul};

use crate::config::{self, Config};
use crate::core::{Core, Pulse};
use crate::http::admin;
use crate::http::app::{App, Life};
use crate::http::execute::observe;
use crate::mcp;
use crate::sandbox;
use crate::sandbox::launcher::Launcher;
use crate::secrets::Known;
use crate::turn::{answers, resume};
use brain::Brain;
use chassis::config::Report;
use chassis::drain::{Deadline, Drain};
use chassis::http::KeyRing;
use chassis::telemetry::{IdFields, LogSettings, install, install_metrics, last_words};
use listen::{bind, front_of};
use opening::open_brain;
use parts::core_of;
use scratch::remove_scratch;
use secrecy::{Secrecy, launcher_of, proxy_of};
use serde_json::json;
use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, RwLock};
use std::time::{Duration, Instant};

/// Ids that stand on every log line.
pub const LOG_IDS: IdFields = &["request_id", "task_id"];
/// How long halted turns get to leave.
const HALT_WAIT: Duration = Duration::from_secs(2);
/// How long open answers get after the last turn is over.
const CLOSE_WAIT: Duration = Duration::from_secs(2);
/// Threads of the async runtime. The Engine waits more than it computes; more threads cost memory.
const RUNTIME_THREADS: usize = 2;

/// Exit code: success.
const OK: i32 = 0;
/// Exit code: failure.
const FAILURE: i32 = 1;
/// Exit code: configuration.
const CONFIGURATION: i32 = 2;

/// Serves until a signal; the answer is the exit code of the process. On a terminal it prints a command to try, unless
/// somebody else does: then `example` is false.
pub fn run(config: Config, report: Report, example: bool) -> i32 {
    let started = Instant::now();
    let known = Arc::new(Known::new(config.secret_values().iter().map(|s| s.expose())));
    let in_log = Arc::clone(&known);
    let scrub: chassis::telemetry::Scrub = Arc::new(move |line: String| match in_log.scrub(&line) {
        Cow::Borrowed(_) => line,
        Cow::Owned(clean) => clean,
    });
    let settings = LogSettings {
        level: config.engine_log_level,
        format: config.engine_log_format,
        own: &["engine", "september_engine", "brain", "chassis", "llm", "connectors"],
        // names the address it could not reach, with its query
        silent: &["rmcp"],
        ids: LOG_IDS,
        scrub: Some(Arc::clone(&scrub)),
    };
    if install(&settings).is_err() {
        return FAILURE;
    }
    for warning in &report.warnings {
        tracing::warn!(variable = %warning.name, "{}", warning.text);
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(RUNTIME_THREADS).enable_all().build();
    let code = match runtime {
        Ok(runtime) => runtime.block_on(serve(config, started, known, example)),
        Err(error) => Err(Stop { code: FAILURE, message: format!("start the runtime: {error}") }),
    };
    match code {
        Ok(()) => OK,
        Err(stop) => {
            let level = chassis::telemetry::LogLevel::Error;
            let extra = json!({"code": stop.code});
            last_words(level, "engine.serve", LOG_IDS, &stop.message, &extra, Some(&scrub));
            stop.code
        }
    }
}

/// Why the process ends.
struct Stop {
    code: i32,
    message: String,
}

impl Stop {
    fn failure(message: impl Into<String>) -> Self {
        Self { code: FAILURE, message: message.into() }
    }
}

async fn serve(config: Config, started: Instant, known: Arc<Known>, example: bool) -> Result<(), Stop> {
    // Nobody reads this process's memory, environment or descriptors; where the kernel refuses, commands are
    // still kept out by the sandbox.
    if let Err(error) = sandbox::close_engine() {
        tracing::warn!(error = %error, "The process could not be closed to other processes of its user");
    }
    let drain = Drain::on_signals().map_err(|e| Stop::failure(format!("listen for signals: {e}")))?;
    let metrics = install_metrics().map_err(|e| Stop::failure(e.to_string()))?;
    let launcher = Arc::new(launcher_of(&config)?);
    let address = SocketAddr::new(config.engine_host, config.engine_port);
    let server = bind(address).await.map_err(|e| {
        Stop::failure(format!("listen on {address}: {e}; set ENGINE_PORT to a free port, or 0"))
    })?;
    let local = server.local_addr().map_err(|e| Stop::failure(format!("listen on {address}: {e}")))?;
    let env_hash = config.engine_key_hash.ok_or_else(|| Stop {
        code: CONFIGURATION,
        message: "ENGINE_API_KEY or ENGINE_KEY_HASH is needed".into(),
    })?;
    let pulse = Arc::new(Pulse::default());
    let app = Arc::new(App {
        life: RwLock::new(Life::Starting),
        core: OnceLock::new(),
        keys: Arc::new(KeyRing::new(env_hash, &[])),
        drain: drain.clone(),
        pulse: Arc::clone(&pulse),
        launcher: Arc::clone(&launcher),
        metrics: metrics.clone(),
        started,
        max_body: config.engine_max_body_bytes,
    });
    let serving = tokio::spawn(server.run(front_of(&app, &config), drain.clone(), CLOSE_WAIT));

    let result = match open_brain(&app, &config).await {
        Ok(Some(brain)) => live(&app, config, brain, launcher, known, (local, example)).await,
        Ok(None) => Ok(()),
        Err(stop) => Err(stop),
    };
    drain.close();
    let _ = serving.await;
    result
}

/// What the Engine does with an open brain, until a signal.
async fn live(
    app: &Arc<App>,
    config: Config,
    brain: Brain,
    launcher: Arc<Launcher>,
    known: Arc<Known>,
    (local, example): (SocketAddr, bool),
) -> Result<(), Stop> {
    let bad = |what: &str, e: brain::Error| Stop::failure(format!("{what}: {e}"));
    let stored = brain.read("read keys", brain::keys::get).await.map_err(|e| bad("read the keys", e))?;
    let (current, replaced, counts) = admin::ring_of(app.keys.current(), stored.as_ref());
    app.keys.set(current, &replaced);
    if stored.is_some() && !counts {
        brain.write("drop rotation", brain::keys::clear).await.map_err(|e| bad("drop a rotation", e))?;
        tracing::info!("The environment brings a new key; the stored rotation is dropped");
    }
    let custom =
        brain.read("custom skills", brain::skills::list).await.map_err(|e| bad("read the skills", e))?;
    let proxy = proxy_of(&config, &launcher, &known).await?;
    let core = core_of(app, config, brain, launcher, Secrecy { known, proxy }, &custom)?;
    put_soul(&core).await.map_err(|e| bad("write the soul's template", e))?;
    resume::end_orphans(&core).await.map_err(|e| bad("end orphans", e))?;
    // nothing of an earlier process is left in the tasks' private directories
    remove_scratch(&core, Duration::ZERO);
    let clean = !core.brain.is_after_crash();
    let open = resume::recover(&core, clean).await.map_err(|e| bad("resume turns", e))?;
    answers::refresh_expiry(&core).await;
    core.learning.recover(&core).await.map_err(|e| bad("recover learning", e))?;
    let directory =
        mcp::open(&core, local).await.map_err(|e| Stop::failure(format!("open the connectors: {e}")))?;
    let _ = core.connectors.set(directory);
    let _ = app.core.set(Arc::clone(&core));
    app.set_life(Life::Ready);
    core.pump();
    core.memory.start(&core.halt);
    crate::http::bundle::resume(&core);
    announce(&core, local, open, example);
    tokio::spawn(note_sandbox(Arc::clone(&core)));
    let keepers = [
        tokio::spawn(keepers::expire_questions(Arc::clone(&core))),
        tokio::spawn(keepers::keep_tidy(Arc::clone(&core))),
        tokio::spawn(crate::turn::delete::finish(Arc::clone(&core))),
        tokio::spawn(keepers::back_up(Arc::clone(&core))),
        tokio::spawn(keepers::learn(Arc::clone(&core))),
    ];
    app.drain.draining().await;
    tracing::info!("Draining");
    core.coordinator.close();
    core.learning.stop();
    let running = || async {
        while core.coordinator.counts().0 > 0 || core.learning.is_busy() {
            // turns end at their own pace; nothing else can be waited on
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if Deadline::after(core.config.engine_drain_timeout_s).wait(running()).await.is_none() {
        tracing::info!("The drain time is over; running turns stop and resume at the next start");
        core.halt.cancel();
        let _ = Deadline::after(HALT_WAIT).wait(running()).await;
    }
    core.halt.cancel();
    for keeper in keepers {
        keeper.abort();
    }
    app.drain.close();
    // Open streams still send what was committed, and they read it from the brain: it closes after them. A client
    // that does not read keeps nobody longer than its connection would.
    let streams = || async {
        while app.pulse.open_streams().load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let _ = Deadline::after(CLOSE_WAIT).wait(streams()).await;
    if let Some(connectors) = core.connectors.get() {
        connectors.close().await;
    }
    let brain = core.brain.clone();
    let _ = tokio::task::spawn_blocking(move || brain.close()).await;
    tracing::info!("Stopped");
    Ok(())
}

/// Finds out about the layers that take time to find out about, and says what there is. A sandbox that misses
/// layers is worth an operator's look.
async fn note_sandbox(core: Arc<Core>) {
    let launcher = Arc::clone(&core.launcher);
    if tokio::task::spawn_blocking(move || launcher.settle()).await.is_err() {
        return;
    }
    tracing::info!(layers = %core.launcher.layers().join(","), "Sandbox: {}", core.launcher.details());
    let missing: Vec<String> = core.launcher.missing().iter().map(ToString::to_string).collect();
    if !missing.is_empty() && core.config.engine_sandbox == config::SandboxMode::BestEffort {
        tracing::warn!("The sandbox goes without: {}", missing.join("; "));
        let data = Some(json!({"missing": missing}));
        observe(&core, "sandbox_degraded", "a sandbox layer is missing".into(), data).await;
    }
}

fn announce(core: &Arc<Core>, local: SocketAddr, open: usize, example: bool) {
    if local.ip().is_unspecified() {
        tracing::warn!("The engine listens on every address of this machine");
    }
    let host = if local.ip().is_unspecified() { "127.0.0.1".to_owned() } else { local.ip().to_string() };
    tracing::info!(
        address = %local,
        brain = %core.config.sqlite_db_path.display(),
        provider = core.config.llm_provider.as_str(),
        model = %core.config.llm_model,
        sandbox = %core.launcher.layers().join(","),
        resumed_turns = open,
        "Ready"
    );
    use std::io::IsTerminal;
    if example && std::io::stdout().is_terminal() {
        println!("\n{}\n", example_of(&host, local.port()));
    }
}

/// A command to try. The key reaches curl through a pipe: arguments are public on a machine.
fn example_of(host: &str, port: u16) -> String {
    format!(
        "printf 'X-Engine-Key: %s' \"$ENGINE_API_KEY\" | curl -N http://{host}:{port}/execute -H @- \\\n  \
         -H 'Content-Type: application/json' -d '{{\"task_id\":\"demo\",\"message\":\"run ls\"}}'"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_to_try_has_no_key_among_its_arguments() {
        let example = example_of("127.0.0.1", 8000);
        let (piped, curl) = example.split_once(" | ").expect("a pipe");
        assert!(piped.starts_with("printf ") && piped.contains("$ENGINE_API_KEY"), "{example}");
        assert!(curl.contains("-H @-") && !curl.contains("ENGINE_API_KEY"), "{example}");
    }
}
