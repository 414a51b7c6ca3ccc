//! The command line: what can be asked of the program, and how it answers.
//!
//! Parsing and dispatch only; each command is a function in a file of its own. Commands marked H in the reference
//! go through the API, those marked D through the database: what they want changed is written as an operation that
//! a running replica performs. Secrets come from the environment; they are never arguments, which every process of
//! the machine can read.
//!
//! The invariant: whatever goes wrong ends in one of the five exit codes of [`Exit`] and a message that says what
//! to do.

mod api;
mod audit_files;
mod calls;
mod changes;
mod database;
mod doctor;
mod engines;
mod explaining;
mod master_keys;
mod migrations;
mod products;
mod small;
mod waiting;

use crate::config::{self, Config, Loaded, Purpose, Settings};
use chassis::config::{Layered, Problems};
use chassis::terminal::{self, Paint};
use clap::{Parser, Subcommand};
use contract::FleetError;
use contract::fleet_api::AdmitRequest;
use database::Database;
use std::ffi::OsString;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Columns of a user's name in a table. More leaves no room for what is told about it; less cuts names that products
/// make from ids of their own.
const USER_COLUMNS: usize = 40;

/// Where `make up` leaves what this command line needs, from the top of a checkout.
const FLEET_FILE: &str = ".september/fleet/fleet.env";

/// The exit codes (specification, section 16).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// The operation failed, or differences were found.
    Failed = 1,
    /// Wrong usage or configuration.
    Configuration = 2,
    /// Refused to run: schema, keys, lock.
    Refused = 3,
    /// Nothing reachable.
    Unreachable = 4,
}

impl Exit {
    /// Says why on standard error; [`Exit::Failed`].
    fn fail(why: &str) -> Self {
        Exit::Failed.because(why)
    }

    /// Says why on standard error.
    fn because(self, why: &str) -> Self {
        eprintln!("bap-engine: {}", terminal::clean(why));
        self
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Why a command ends early.
#[derive(Debug, Clone, PartialEq)]
pub struct Stop {
    /// With which exit code.
    pub exit: Exit,
    /// For people.
    pub message: String,
    /// The stable code, when there is one.
    pub code: Option<String>,
    /// Structured facts, when there are any.
    pub details: Option<serde_json::Value>,
}

impl Stop {
    fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), code: None, details: None }
    }

    fn failed(message: &str) -> Self {
        Self::new(Exit::Failed, message)
    }

    fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Configuration, message)
    }

    /// A variable that a command needs; names the file of a fleet that lies here, because that is what was forgotten.
    fn unset(name: &str) -> Self {
        let hint = match Path::new(FLEET_FILE).is_file() {
            true => format!("; for the fleet of this directory say `{} --env-file {FLEET_FILE} …`", called()),
            false => String::new(),
        };
        Self::new(Exit::Configuration, format!("{name} is not set; this command needs it{hint}"))
    }

    /// Tells it: as JSON on standard output for programs, else on standard error.
    fn tell(self, json: bool) -> Exit {
        if json {
            let mut error = serde_json::json!({"message": self.message});
            if let Some(code) = self.code {
                error["code"] = code.into();
            }
            if let Some(details) = self.details {
                error["details"] = details;
            }
            let _ = emit_json(&serde_json::json!({ "error": error }));
            return self.exit;
        }
        self.exit.because(&self.message)
    }
}

impl From<FleetError> for Stop {
    fn from(error: FleetError) -> Self {
        let exit = match error.code.status() {
            503 => Exit::Unreachable,
            _ => Exit::Failed,
        };
        let code = Some(error.code.as_str().to_owned());
        Self { exit, message: error.to_string(), code, details: error.details }
    }
}

/// Creates, finds, watches and removes Engines, one per user of a product.
#[derive(Debug, Parser)]
#[command(
    name = "bap-engine",
    bin_name = "bap-engine",
    version,
    after_help = "Configuration comes from environment variables and from .env in the working directory; \
                  `check-config` lists every variable.\n\n\
                  Examples:\n  \
                  bap-engine keygen >> .env\n  \
                  bap-engine doctor\n  \
                  bap-engine products register demo --name Demo\n  \
                  bap-engine engines list",
    after_long_help = "Configuration comes from environment variables and from .env in the working directory; \
                  `check-config` lists every variable. Secrets are never arguments.\n\n\
                  Exit codes:\n  \
                  0  done\n  \
                  1  the operation failed, or differences were found\n  \
                  2  wrong usage or configuration\n  \
                  3  refused to run (schema, keys, lock)\n  \
                  4  nothing reachable\n\n\
                  Examples:\n  \
                  bap-engine keygen >> .env\n  \
                  bap-engine doctor\n  \
                  bap-engine products register demo --name Demo\n  \
                  bap-engine engines list"
)]
struct Cli {
    /// Read variables from this file instead of .env; the environment still wins
    #[arg(long, global = true, value_name = "PATH")]
    env_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a replica (the default)
    #[command(after_help = "Runs until SIGTERM or Ctrl-C, then drains for at most ORCH_DRAIN_TIMEOUT_S.")]
    Serve,
    /// Run the whole fleet on this machine: PostgreSQL, engines as processes, a demo product
    #[command(
        after_help = "Needs no network, no Docker and no key of anyone. Ctrl-C stops everything; the next `up` on the \
        same directory goes on with it. Exit 3 when the directory is in use or was made by another PostgreSQL, 4 when \
        there is no PostgreSQL."
    )]
    Up {
        /// Where PostgreSQL, keys and brains are kept [default: ORCH_DATA_DIR]
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
        /// Port of the API on 127.0.0.1 [default: that of ORCH_BIND]
        #[arg(long)]
        port: Option<u16>,
        /// Directory with the programs `postgres` and `initdb` [default: ORCH_PG_BIN_DIR, then the usual places]
        #[arg(long, value_name = "DIR")]
        postgres_bin: Option<PathBuf>,
        /// Leave engines running at the end
        #[arg(long)]
        keep_engines: bool,
    },
    /// Bring the database to this program's schema
    Migrate(migrations::Options),
    /// Show the effective configuration and all its problems at once
    #[command(
        after_help = "Secrets are masked. Exit 0 when a replica could serve with this, else 2; with --connect \
        also 1 when something does not answer as it should."
    )]
    CheckConfig {
        /// Also try PostgreSQL, the backend, the image, the data root and the stored keys
        #[arg(long)]
        connect: bool,
    },
    /// Look for everything that could be wrong, with what to do beside each
    #[command(after_help = "Exit 0 when nothing is broken (warnings allowed), else 1.")]
    Doctor,
    /// Make keys, as lines for an environment file
    #[command(after_help = "Example:\n  bap-engine keygen >> .env")]
    Keygen {
        /// Which; both when not given
        kind: Option<small::KeyKind>,
    },
    /// Print version, schema level and build
    Version,
    /// Print the OpenAPI document
    #[command(after_help = "Example:\n  bap-engine openapi > openapi.json")]
    Openapi,
    /// Products, through the API as the operator (BAP_URL, ORCH_ADMIN_KEY)
    #[command(subcommand)]
    Products(products::Command),
    /// Engines, through the database or (get, admit) through the API as a product (BAP_URL, BAP_PLATFORM_KEY)
    #[command(subcommand)]
    Engines(Engines),
    /// Say why an engine is as it is
    #[command(after_help = "Example:\n  bap-engine explain demo/demo-user-001")]
    Explain {
        /// <product>/<user>; the user alone while there is one product, or with BAP_PLATFORM_KEY
        engine: String,
    },
    /// Count engines by status
    Status {
        /// Only this product (id or short name)
        #[arg(long)]
        product: Option<String>,
    },
    /// The audit log
    #[command(subcommand)]
    Audit(Audit),
    /// Seal all engine keys with the first key of ORCH_MASTER_KEY
    #[command(
        after_help = "Set ORCH_MASTER_KEY=<new>,<old> on all replicas and restart them first. Safe to interrupt \
        and to repeat."
    )]
    RotateMasterKey,
    /// Write the reference pages that are made from declarations
    #[command(hide = true)]
    Reference {
        /// Directory, e.g. docs/reference
        #[arg(long)]
        out: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum Engines {
    /// Show one engine of the product of BAP_PLATFORM_KEY
    Get {
        /// The user, alone or as <product>/<user>
        user: String,
        /// Show the engine's key
        #[arg(long)]
        show_key: bool,
    },
    /// Ask for admission as the product of BAP_PLATFORM_KEY does before each request
    Admit {
        /// The user, alone or as <product>/<user>
        user: String,
        /// Make an engine when there is none
        #[arg(long)]
        auto_provision: bool,
        /// Wake it when it sleeps
        #[arg(long)]
        auto_wake: bool,
        /// Show the engine's key
        #[arg(long)]
        show_key: bool,
    },
    #[command(flatten)]
    Stored(engines::Command),
}

#[derive(Debug, Subcommand)]
enum Audit {
    /// List rows, newest first, through the API
    List(calls::AuditFilter),
    /// Write rows to a file, oldest first, with its SHA-256 beside it
    Export(audit_files::Export),
    /// Drop months that were exported
    Prune(audit_files::Prune),
}

/// The whole program: arguments in, exit code out.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match Cli::try_parse_from(args) {
        Ok(cli) => run(cli),
        Err(error) => {
            // Help and version are answers; everything else is a wrong command line.
            let exit = if error.use_stderr() { Exit::Configuration } else { Exit::Done };
            let _ = error.print();
            exit.into()
        }
    }
}

/// This program as it was called, so that an advice can be typed.
fn called() -> String {
    let own = std::env::args_os().next().and_then(|own| own.into_string().ok());
    own.unwrap_or_else(|| "bap-engine".to_owned())
}

fn run(cli: Cli) -> ExitCode {
    let json = cli.json;
    let command = cli.command.unwrap_or(Command::Serve);
    // These need no configuration at all.
    match &command {
        Command::Openapi => return emit(crate::http::openapi::document()).into(),
        Command::Version => return small::version(json).into(),
        Command::Keygen { kind } => return small::keygen(*kind, json).into(),
        Command::Reference { out } => return small::reference(out).into(),
        _ => {}
    }
    let source = match config::sources(cli.env_file.as_deref(), None) {
        Ok(source) => source,
        Err(error) => return Exit::Configuration.because(&error.to_string()).into(),
    };
    let paint = Paint::stdout(&source);
    let exit = match command {
        Command::Serve => return serve(&source),
        Command::Up { data_dir, port, postgres_bin, keep_engines } => {
            let options = crate::up::UpOptions { data_dir, port, postgres_bin, keep_engines };
            return ExitCode::from(
                u8::try_from(crate::up::run(cli.env_file.as_deref(), &options)).unwrap_or(Exit::Failed as u8),
            );
        }
        Command::Migrate(options) => migrate(&source, options, json),
        Command::CheckConfig { connect } => {
            let (text, code) = config::check_config(&source, json && !connect);
            match (connect, code) {
                (false, 0) => emit(&text),
                (false, _) => {
                    let _ = emit(&text);
                    Exit::Configuration
                }
                (true, code) => {
                    if !json {
                        let _ = emit(&text);
                    }
                    let found =
                        with_runtime(|| async { Ok(doctor::connections(&source, json, paint).await) }, json);
                    if code == 0 { found } else { Exit::Configuration }
                }
            }
        }
        Command::Doctor => with_runtime(|| async { Ok(doctor::run(&source, json, paint).await) }, json),
        Command::Products(command) => {
            with_api(&source, json, |api| async move { products::run(&api, &command, json, paint).await })
        }
        Command::Engines(Engines::Get { user, show_key }) => {
            with_settings(&source, Purpose::Client, |settings| {
                let get = async || {
                    let user = calls::whose(&settings, &user).await?;
                    calls::get(&api::Api::new(&settings)?, &user, show_key, json).await
                };
                with_runtime(get, json)
            })
        }
        Command::Engines(Engines::Admit { user, auto_provision, auto_wake, show_key }) => {
            let wish = AdmitRequest { auto_provision, auto_wake };
            with_settings(&source, Purpose::Client, |settings| {
                let admit = async || {
                    let user = calls::whose(&settings, &user).await?;
                    calls::admit(&api::Api::new(&settings)?, &user, wish, show_key, json).await
                };
                with_runtime(admit, json)
            })
        }
        Command::Audit(Audit::List(filter)) => {
            with_api(&source, json, |api| async move { calls::audit_list(&api, &filter, json, paint).await })
        }
        Command::Engines(Engines::Stored(command)) => {
            with_database(&source, json, |db| async move { engines::run(&db, command, json, paint).await })
        }
        Command::Explain { engine } => {
            with_database(
                &source,
                json,
                |db| async move { explaining::explain(&db, &engine, json, paint).await },
            )
        }
        Command::Status { product } => {
            with_database(
                &source,
                json,
                |db| async move { engines::status(&db, product.as_deref(), json).await },
            )
        }
        Command::Audit(Audit::Export(export)) => {
            with_database(&source, json, |db| async move { audit_files::export(&db, &export, json).await })
        }
        Command::Audit(Audit::Prune(prune)) => {
            with_database(&source, json, |db| async move { audit_files::prune(&db, &prune, json).await })
        }
        Command::RotateMasterKey => {
            with_database(&source, json, |db| async move { master_keys::rotate(&db, json).await })
        }
        Command::Openapi | Command::Version | Command::Keygen { .. } | Command::Reference { .. } => {
            unreachable!("answered above, without configuration")
        }
    };
    exit.into()
}

fn serve(source: &Layered) -> ExitCode {
    match Config::load(source, Purpose::Serve) {
        Ok(Loaded { config, report }) => {
            ExitCode::from(u8::try_from(crate::serve::run(config, report)).unwrap_or(Exit::Failed as u8))
        }
        Err(problems) => refuse(&problems).into(),
    }
}

fn migrate(source: &Layered, options: migrations::Options, json: bool) -> Exit {
    with_settings(source, Purpose::Tool, |settings| {
        with_runtime(|| async { migrations::run(&settings, &options, json).await }, json)
    })
}

/// Runs a command that calls the API.
fn with_api<F>(source: &Layered, json: bool, command: impl FnOnce(api::Api) -> F) -> Exit
where
    F: Future<Output = Result<Exit, Stop>>,
{
    with_settings(source, Purpose::Client, |settings| {
        with_runtime(
            || async {
                let api = api::Api::new(&settings)?;
                command(api).await
            },
            json,
        )
    })
}

/// Runs a command that works on the database; what it does not use may be missing, but nothing may be wrong.
fn with_database<F>(source: &Layered, json: bool, command: impl FnOnce(Database) -> F) -> Exit
where
    F: Future<Output = Result<Exit, Stop>>,
{
    with_settings(source, Purpose::Tool, |settings| {
        with_runtime(
            || async {
                let database = Database::open(settings).await?;
                command(database).await
            },
            json,
        )
    })
}

fn with_settings(source: &Layered, purpose: Purpose, command: impl FnOnce(Settings) -> Exit) -> Exit {
    match Settings::load(source, purpose) {
        Ok(loaded) => command(loaded.settings),
        Err(problems) => refuse(&problems),
    }
}

fn with_runtime<F>(command: impl FnOnce() -> F, json: bool) -> Exit
where
    F: Future<Output = Result<Exit, Stop>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(async { command().await }).unwrap_or_else(|stop| stop.tell(json)),
        Err(error) => Exit::fail(&format!("no runtime: {error}")),
    }
}

/// Tells all problems at once.
fn refuse(problems: &Problems) -> Exit {
    terminal::tell_problems("orchestrator.config", crate::telemetry::LOG_IDS, problems);
    Exit::Configuration
}

/// Prints an answer.
fn emit(text: &str) -> Exit {
    terminal::print(text);
    Exit::Done
}

/// Prints JSON.
fn emit_json(value: &impl serde::Serialize) -> Exit {
    match terminal::print_json(value) {
        Ok(()) => Exit::Done,
        Err(error) => Exit::fail(&format!("could not write JSON: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn walk(command: &clap::Command, path: &str, visit: &mut impl FnMut(&str, &clap::Command)) {
        for sub in command.get_subcommands().filter(|s| !s.is_hide_set()) {
            let path = format!("{path} {}", sub.get_name());
            visit(&path, sub);
            walk(sub, &path, visit);
        }
    }

    #[test]
    fn the_command_line_is_well_formed_and_every_command_helps() {
        let command = Cli::command();
        command.clone().debug_assert();
        let mut seen = Vec::new();
        walk(&command, "", &mut |path, sub| {
            assert!(sub.get_about().is_some(), "{path}");
            seen.push(path.to_owned());
        });
        for path in
            [" serve", " products rotate-platform-key", " engines destroy", " audit prune", " explain"]
        {
            assert!(seen.iter().any(|s| s == path), "{path} is missing from {seen:?}");
        }
        for absent in ["upgrade", "recreate", "restore", "backup", "restore-drill", "rollout", "remove"] {
            assert!(
                !seen.iter().any(|s| s.ends_with(&format!(" {absent}"))),
                "{absent} is not in this version"
            );
        }
    }

    #[test]
    fn no_option_could_carry_a_secret() {
        walk(&Cli::command(), "", &mut |path, sub| {
            for option in sub.get_arguments().filter_map(clap::Arg::get_long) {
                // `--show-key` is a wish, not a key.
                let harmless = option == "show-key";
                let secret = ["key", "token", "secret", "password"].iter().any(|w| option.contains(w));
                assert!(harmless || !secret, "{path} --{option}");
            }
        });
    }

    #[test]
    fn an_error_of_the_api_keeps_its_code_and_its_exit() {
        use contract::FleetCode;
        let stop = Stop::from(FleetError::new(FleetCode::EngineBusy, "wait"));
        assert_eq!((stop.exit, stop.code.as_deref()), (Exit::Failed, Some("ENGINE_BUSY")));
        assert_eq!(Stop::from(FleetError::new(FleetCode::DatabaseUnavailable, "x")).exit, Exit::Unreachable);
    }
}
