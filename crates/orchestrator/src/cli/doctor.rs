//! Looks for everything that could be wrong at once, with what to do beside each finding.
//!
//! It looks and changes nothing: no image is pulled, no network made, no row written. Whatever cannot be looked at,
//! because something before it failed, is said to be so. One list of findings serves `doctor` and
//! `check-config --connect`, for people and for programs.

mod listeners;

use super::database::connect;
use super::migrations::{OLDEST_SERVER, SUPPORTED_SERVER};
use super::{Exit, emit, emit_json};
use crate::config::{Config, ImagePull, Purpose, Settings, filesystem};
use crate::keys::EngineKeys;
use crate::places;
use crate::registry::Registry;
use chassis::config::{Layered, Problems, Source, Warning};
use chassis::terminal::{self, Paint};
use contract::EngineId;
use fleet::lifecycle::BackendKind;
use serde::Serialize;
use std::path::Path;
use std::time::Duration;

/// Free space below which brains may soon not be written, in bytes. Smaller warns when it is too late; larger warns
/// on machines where nothing is wrong.
const FREE_LEAST: u64 = 1024 * 1024 * 1024;

/// Longest wait for the database or the backend to say anything. Longer makes a person wait for what is plainly
/// away; shorter fails over slow links.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Engine ids named when keys cannot be opened. More fills the screen.
const NAMED_MAX: usize = 10;

/// How a thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Works.
    Ok,
    /// Works, but a person should know.
    Warning,
    /// Does not work.
    Problem,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub subject: String,
    /// How it stands.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do; empty when there is nothing to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub fix: String,
}

impl Finding {
    fn ok(subject: &str, found: impl Into<String>) -> Self {
        Self { subject: subject.to_owned(), state: State::Ok, found: found.into(), fix: String::new() }
    }

    fn warning(subject: &str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { subject: subject.to_owned(), state: State::Warning, found: found.into(), fix: fix.into() }
    }

    fn problem(subject: &str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { subject: subject.to_owned(), state: State::Problem, found: found.into(), fix: fix.into() }
    }
}

/// Looks at everything; exit 0 when nothing is broken.
pub async fn run(source: &Layered, json: bool, paint: Paint) -> Exit {
    let mut findings = Vec::new();
    configuration(source, &mut findings);
    look(source, &mut findings).await;
    report(&findings, json, paint)
}

/// Looks at what the configuration leads to, for `check-config --connect`.
pub async fn connections(source: &Layered, json: bool, paint: Paint) -> Exit {
    let mut findings = Vec::new();
    look(source, &mut findings).await;
    report(&findings, json, paint)
}

async fn look(source: &Layered, findings: &mut Vec<Finding>) {
    // A configuration that could not serve is still looked at with everything that can be read.
    let settings = match Settings::load(source, Purpose::Tool) {
        Ok(loaded) => loaded.settings,
        Err(_) => {
            findings.push(Finding::warning(
                "everything else",
                "not looked at, because the configuration cannot be read",
                "repair the variables above and run this again",
            ));
            return;
        }
    };
    let registry = database(&settings, findings).await;
    backend(&settings, registry.as_ref(), findings).await;
    data_root(&settings, findings);
    binary(&settings, source, findings);
    ports(&settings, registry.as_ref(), findings).await;
}

fn report(findings: &[Finding], json: bool, paint: Paint) -> Exit {
    let count = |state: State| findings.iter().filter(|f| f.state == state).count();
    let (problems, warnings) = (count(State::Problem), count(State::Warning));
    let told = if json {
        emit_json(&serde_json::json!({
            "ok": problems == 0, "problems": problems, "warnings": warnings, "findings": findings,
        }))
    } else {
        emit(&render(findings, paint))
    };
    if problems == 0 { told } else { Exit::Failed }
}

fn render(findings: &[Finding], paint: Paint) -> String {
    let width = findings.iter().map(|f| f.subject.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for finding in findings {
        let mark = match finding.state {
            State::Ok => paint.green("✓"),
            State::Warning => paint.yellow("!"),
            State::Problem => paint.red("✗"),
        };
        out.push_str(&format!("{mark} {:width$}  {}\n", finding.subject, terminal::clean(&finding.found)));
        if !finding.fix.is_empty() {
            let fix = paint.dim(&format!("→ {}", terminal::clean(&finding.fix)));
            out.push_str(&format!("  {:width$}  {fix}\n", ""));
        }
    }
    let count = |state: State| findings.iter().filter(|f| f.state == state).count();
    out.push_str(&match (count(State::Problem), count(State::Warning)) {
        (0, 0) => "\nall is well\n".to_owned(),
        (0, warnings) => format!("\nnothing is broken, {warnings} warning(s)\n"),
        (problems, warnings) => format!("\n{problems} problem(s), {warnings} warning(s)\n"),
    });
    out
}

/// The keys of providers, and whose they are; `LLM_API_KEY` is anybody's.
const PROVIDER_KEYS: [(&str, Option<&str>); 4] = [
    ("LLM_API_KEY", None),
    ("OPENAI_API_KEY", Some("openai")),
    ("ANTHROPIC_API_KEY", Some("anthropic")),
    ("GEMINI_API_KEY", Some("gemini")),
];

/// What there is to know when the warning is about a key that the chosen provider does not take: nothing is missing.
fn unused_key(source: &dyn Source, warning: &Warning) -> Option<String> {
    let provider = source.get("LLM_PROVIDER").filter(|_| warning.name == "ORCH_ENGINE_ENV_PASSTHROUGH")?;
    let unused = |(_, owner): &&(&str, Option<&str>)| {
        provider == "offline" || owner.is_some_and(|owner| owner != provider)
    };
    let (name, _) = PROVIDER_KEYS
        .iter()
        .filter(unused)
        .find(|(name, _)| warning.text.split([' ', ',']).any(|word| word == *name))?;
    Some(format!("{name} is not set here, and LLM_PROVIDER={provider} does not take it"))
}

/// Every problem and warning that `serve` would meet.
fn configuration(source: &Layered, findings: &mut Vec<Finding>) {
    let (report, problems) = match Config::load(source, Purpose::Serve) {
        Ok(loaded) => (loaded.report, Vec::new()),
        Err(Problems { problems, report }) => (report, problems),
    };
    for problem in &problems {
        let found = match &problem.value {
            Some(value) => format!("is `{value}`"),
            None => "is not set".to_owned(),
        };
        let fix = match &problem.nearest {
            Some(nearest) => format!("expected {}; nearest: {nearest}", problem.expected),
            None => format!("expected {}", problem.expected),
        };
        findings.push(Finding::problem(&problem.name, found, fix));
    }
    for warning in &report.warnings {
        findings.push(match unused_key(source, warning) {
            Some(told) => Finding::ok(&warning.name, told),
            None => Finding::warning(&warning.name, warning.text.clone(), ""),
        });
    }
    if problems.is_empty() {
        let set = report.rows.iter().filter(|r| r.source != "default").count();
        let found = format!("valid; {set} of {} variables set", report.rows.len());
        findings.push(Finding::ok("configuration", found));
    }
}

/// Reachable, new enough, at our schema, and its keys open. Answers with the registry when it can be asked further.
async fn database(settings: &Settings, findings: &mut Vec<Finding>) -> Option<Registry> {
    if settings.database_url.is_none() {
        findings.push(Finding::problem("database", "not looked at", "set ORCH_DATABASE_URL"));
        return None;
    }
    let registry = match connect(settings.database_url.as_ref()) {
        Ok(registry) => registry,
        Err(stop) => {
            findings.push(Finding::problem("database", stop.message, "correct ORCH_DATABASE_URL"));
            return None;
        }
    };
    let fix = "is PostgreSQL running, and do host, port, user and password of ORCH_DATABASE_URL fit?";
    let version = match tokio::time::timeout(ANSWER_LIMIT, registry.server_version()).await {
        Ok(Ok(version)) => version,
        Ok(Err(error)) => {
            findings.push(Finding::problem("database", error.to_string(), fix));
            return None;
        }
        Err(_) => {
            findings.push(Finding::problem(
                "database",
                format!("no answer in {} s", ANSWER_LIMIT.as_secs()),
                fix,
            ));
            return None;
        }
    };
    findings.push(match version {
        v if v < OLDEST_SERVER => Finding::problem(
            "database",
            format!("PostgreSQL {v}"),
            format!("{OLDEST_SERVER} or newer is needed"),
        ),
        v if v < SUPPORTED_SERVER => {
            let fix = format!("works; {SUPPORTED_SERVER} or newer is supported");
            Finding::warning("database", format!("PostgreSQL {v}"), fix)
        }
        v => Finding::ok("database", format!("PostgreSQL {v}")),
    });
    let current = match registry.schema_status().await {
        Ok(status) if status.is_current() => {
            findings.push(Finding::ok("schema", format!("level {}", status.database)));
            true
        }
        Ok(status) => {
            let found = format!("level {}, this program wants {}", status.database, status.program);
            let fix = "a replica migrates at its start (ORCH_MIGRATIONS=auto), or run `bap-engine migrate`";
            findings.push(Finding::warning("schema", found, fix));
            false
        }
        Err(error) => {
            let fix = "run the release that made this schema, or restore the database of this one";
            findings.push(Finding::problem("schema", error.to_string(), fix));
            false
        }
    };
    if !current {
        return None;
    }
    stored_keys(settings, &registry, findings).await;
    Some(registry)
}

/// Every stored engine key opens with some master key.
async fn stored_keys(settings: &Settings, registry: &Registry, findings: &mut Vec<Finding>) {
    let Some(master) = &settings.master_key else {
        findings.push(Finding::problem("engine keys", "not looked at", "set ORCH_MASTER_KEY"));
        return;
    };
    let keys = EngineKeys::new(master.clone());
    let mut rows: u64 = 0;
    let mut old: u64 = 0;
    let mut unreadable: Vec<EngineId> = Vec::new();
    let walked = registry
        .keys(|id, key, next| {
            rows += 1;
            let tokens = [Some(key), next];
            let mut tokens = tokens.into_iter().flatten().map(|k| k.sealed).peekable();
            while let Some(token) = tokens.next() {
                if keys.open(&token).is_err() {
                    unreadable.push(id);
                } else if tokens.peek().is_none() && !keys.master.opened_by_first(&token) {
                    old += 1;
                }
            }
        })
        .await;
    findings.push(match walked {
        Err(error) => Finding::problem("engine keys", error.to_string(), ""),
        Ok(()) if !unreadable.is_empty() => {
            let named: Vec<String> = unreadable.iter().take(NAMED_MAX).map(ToString::to_string).collect();
            let found = format!(
                "{} of {rows} cannot be decrypted (keys {}): {}",
                unreadable.len(),
                keys.master.fingerprints().join(", "),
                named.join(", ")
            );
            let fix = "put the key they were encrypted with behind the present one in ORCH_MASTER_KEY; single \
                       damaged ones are replaced by `bap-engine engines reissue-key`";
            Finding::problem("engine keys", found, fix)
        }
        Ok(()) if old > 0 => {
            let fix = "`bap-engine rotate-master-key` seals them with the first key";
            Finding::warning("engine keys", format!("{old} of {rows} are sealed with an old master key"), fix)
        }
        Ok(()) => Finding::ok("engine keys", format!("{rows}, all open with the first master key")),
    });
}

/// Reachable, the one we know, and with the image of new engines.
async fn backend(settings: &Settings, registry: Option<&Registry>, findings: &mut Vec<Finding>) {
    let kind = settings.engine_backend;
    let instance = match registry {
        Some(registry) => registry.instance().await.ok(),
        None => None,
    };
    // To open a root for processes makes directories and marks it as ours: that is for a replica to do.
    let root_is_there = settings.data_root_path.as_ref().is_some_and(|root| root.is_dir());
    if kind == BackendKind::Subprocess && (instance.is_none() || !root_is_there) {
        let fix = "set ORCH_DATA_ROOT_PATH to a directory that exists, and make the database answer";
        findings.push(Finding::warning("backend", format!("{kind}, not looked at"), fix));
        return;
    }
    // Without a database the instance is unknown; looking needs none.
    let known = instance.as_ref().and_then(|i| i.backend_identity.clone());
    let looked_at = instance.unwrap_or_else(|| crate::registry::rows::Instance {
        id: contract::InstanceId::generate(),
        spec_salt: Vec::new(),
        backend_identity: None,
    });
    // Nothing is pulled by looking.
    let mut looking = settings.clone();
    looking.image_pull = ImagePull::Never;
    let place = match places::place(&looking, &looked_at).await {
        Ok(place) => place,
        Err(why) => {
            findings.push(Finding::problem("backend", why, "correct ORCH_ENGINE_BACKEND or what it needs"));
            return;
        }
    };
    match tokio::time::timeout(ANSWER_LIMIT, place.backend.ping()).await {
        Ok(Ok(identity)) => {
            findings.push(Finding::ok("backend", format!("{kind}, {}", identity.version)));
            findings.push(match known {
                Some(known) if known != identity.id => Finding::problem(
                    "backend identity",
                    format!("is {}, but engines are on {known}", identity.id),
                    "point this at the right daemon; if this is the right one, `bap-engine engines adopt-backend`",
                ),
                Some(_) => Finding::ok("backend identity", identity.id),
                None => Finding::ok("backend identity", format!("{}, not yet on record", identity.id)),
            });
        }
        Ok(Err(error)) => {
            let fix = match kind {
                BackendKind::Docker => {
                    "is the socket mounted (or DOCKER_HOST right), and may this user use it?"
                }
                BackendKind::Subprocess | BackendKind::Kubernetes | BackendKind::Simulated => "",
            };
            findings.push(Finding::problem("backend", error.to_string(), fix));
            return;
        }
        Err(_) => {
            findings.push(Finding::problem(
                "backend",
                format!("no answer in {} s", ANSWER_LIMIT.as_secs()),
                "",
            ));
            return;
        }
    }
    if kind != BackendKind::Docker {
        return;
    }
    let image = &settings.engine_image;
    findings.push(match (place.backend.ensure_image(image).await, settings.image_pull) {
        (Ok(()), _) => Finding::ok("image", format!("{image} is there")),
        (Err(_), ImagePull::Missing | ImagePull::Always) => Finding::warning(
            "image",
            format!("{image} is not there yet"),
            "it is pulled when the first engine needs it",
        ),
        (Err(_), ImagePull::Never) => {
            let fix = "build or load it, or change ORCH_IMAGE_PULL";
            Finding::problem("image", format!("{image} is not there"), fix)
        }
    });
}

/// There, writable, on a sound file system, with room.
fn data_root(settings: &Settings, findings: &mut Vec<Finding>) {
    let Some(dir) = &settings.data_root_local_path else {
        findings.push(Finding::ok("data root", "none; each brain has a volume of its own"));
        return;
    };
    let shown = dir.display().to_string();
    if !dir.is_dir() {
        findings.push(Finding::problem(
            "data root",
            format!("{shown} does not exist"),
            format!("mkdir -p {shown}"),
        ));
        return;
    }
    let writable = rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok();
    findings.push(if writable {
        Finding::ok("data root", shown)
    } else {
        Finding::problem(
            "data root",
            format!("{shown} cannot be written"),
            "give this user the right to write there",
        )
    });
    findings.push(match filesystem::magic_of(dir).map(filesystem::refused) {
        Ok(None) => Finding::ok("file system", "fit for brains"),
        Ok(Some(name)) => Finding::problem(
            "file system",
            format!("{name}: brains can be damaged there"),
            "move the data root to a local disk, or pass BRAIN_ALLOW_UNSAFE_FS=true through at your own risk",
        ),
        Err(error) => Finding::warning("file system", format!("could not be found out ({error})"), ""),
    });
    findings.push(match filesystem::free_bytes(dir) {
        Some(free) if free < FREE_LEAST => {
            let found = format!("{} free", terminal::bytes(free));
            Finding::warning("disk", found, "make room: engines refuse work when their disk is full")
        }
        Some(free) => Finding::ok("disk", format!("{} free", terminal::bytes(free))),
        None => Finding::warning("disk", "the system does not say how much is free", ""),
    });
}

/// The program of the subprocess backend.
fn binary(settings: &Settings, source: &Layered, findings: &mut Vec<Finding>) {
    if settings.engine_backend != BackendKind::Subprocess {
        return;
    }
    let given = &settings.engine_binary;
    if given.contains("{tag}") {
        let parent = Path::new(given.split("{tag}").next().unwrap_or_default());
        let found = format!("{given}, one per version");
        findings.push(if parent.is_dir() {
            Finding::ok("engine program", found)
        } else {
            Finding::warning("engine program", found, "its directory does not exist yet")
        });
        return;
    }
    findings.push(match crate::config::executable(given, source) {
        Some(path) => Finding::ok("engine program", path.display().to_string()),
        None => Finding::problem(
            "engine program",
            format!("{given} is not an executable file"),
            "set ORCH_ENGINE_BINARY to the september-engine program, or put it on PATH",
        ),
    });
}

/// The listeners can be opened, and there is room for engines.
async fn ports(settings: &Settings, registry: Option<&Registry>, findings: &mut Vec<Finding>) {
    findings.extend(listeners::look(settings, registry).await);
    let range = i64::from(settings.port_max) - i64::from(settings.port_min) + 1;
    let kept = i64::try_from(settings.ports_kept_from_engines().len()).unwrap_or(0);
    let room = range - kept;
    let used = match registry {
        Some(registry) => registry.ports_used().await.ok(),
        None => None,
    };
    let span = format!("{}..{}", settings.port_min, settings.port_max);
    findings.push(match used {
        Some(used) if used >= room => {
            Finding::problem("engine ports", format!("all {used} of {span} are taken"), "raise ORCH_PORT_MAX")
        }
        Some(used) if used * 10 >= room * 9 => Finding::warning(
            "engine ports",
            format!("{used} of {room} in {span} are taken"),
            "raise ORCH_PORT_MAX",
        ),
        Some(used) => Finding::ok("engine ports", format!("{used} of {room} in {span} are taken")),
        None => Finding::ok("engine ports", format!("{room} in {span}")),
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use chassis::config::Values;

    #[test]
    fn a_key_that_the_chosen_provider_does_not_take_is_no_warning() {
        let told = |provider: Option<&str>, name: &str| {
            let set = provider.map(|p| ("LLM_PROVIDER".to_owned(), p.to_owned()));
            let text = format!("lists {name}, which is not set: engines start without it");
            let warning = Warning { name: "ORCH_ENGINE_ENV_PASSTHROUGH".to_owned(), text };
            unused_key(&Values::new("environment", set), &warning)
        };
        assert!(told(Some("offline"), "LLM_API_KEY").is_some_and(|text| text.contains("LLM_API_KEY")));
        assert!(told(Some("anthropic"), "OPENAI_API_KEY").is_some());
        for (provider, name) in [
            (Some("openai"), "OPENAI_API_KEY"),
            (Some("openai"), "LLM_API_KEY"),
            (None, "GEMINI_API_KEY"),
            (Some("offline"), "OTHER"),
        ] {
            assert_eq!(told(provider, name), None, "{provider:?} {name}");
        }
    }

    #[test]
    fn a_finding_stands_beside_its_fix() {
        let findings = [Finding::ok("schema", "level 1"), Finding::problem("disk", "full", "make room")];
        assert_eq!(
            render(&findings, Paint::plain()),
            "✓ schema  level 1\n✗ disk    full\n          → make room\n\n1 problem(s), 0 warning(s)\n"
        );
    }
}
