//! The command line: what can be asked of the program, and how it answers.
//!
//! Parsing and dispatch only; each command is a function in a file of its own. A runtime is built only by
//! commands that need one, because `serve` and `health` must start in milliseconds. Secrets never arrive as
//! arguments, which every process of the machine can read.
//!
//! The invariant: whatever goes wrong ends in one of the five exit codes of [`Exit`] and a message that
//! says what to do.

mod brain_commands;
mod memory;
mod rekey;
mod chat;
mod doctor;
mod small;
mod sqlite_shim;

use crate::config::{self, Config, Loaded, Purpose};
use chassis::config::{Layered, Problems, Source};
use chassis::terminal;
use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The exit codes (specification, section 15).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Success = 0,
    /// Did not work.
    Failure = 1,
    /// The configuration or the command line is wrong.
    Configuration = 2,
    /// Verification or migration found problems.
    Problems = 3,
    /// The brain is locked, fenced off, or on a refused file system.
    Locked = 4,
}

impl Exit {
    /// Says why on standard error; [`Exit::Failure`].
    fn fail(why: &str) -> Self {
        Exit::Failure.because(why)
    }

    /// Says why on standard error.
    fn because(self, why: &str) -> Self {
        eprintln!("september-engine: {why}");
        self
    }

    /// The exit of a function that counts in numbers.
    fn of(code: i32) -> Self {
        match code {
            0 => Exit::Success,
            2 => Exit::Configuration,
            3 => Exit::Problems,
            4 => Exit::Locked,
            _ => Exit::Failure,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// A headless agent runtime for one user: one process, one SQLite file, one HTTP port.
#[derive(Debug, Parser)]
#[command(
    name = "september-engine",
    bin_name = "september-engine",
    version,
    after_help = "Configuration comes from environment variables and from .env in the working directory; \
                  `check-config` lists every variable.\n\n\
                  Examples:\n  \
                  LLM_PROVIDER=offline SQLITE_DB_PATH=./brain.sqlite ENGINE_API_KEY=dev-key-1 september-engine\n  \
                  september-engine chat --task demo-1\n  \
                  september-engine doctor",
    after_long_help = "Configuration comes from environment variables and from .env in the working directory; \
                  `check-config` lists every variable. Secrets are never arguments.\n\n\
                  Exit codes:\n  \
                  0  success\n  \
                  1  failure\n  \
                  2  configuration or command line wrong\n  \
                  3  verification or migration found problems\n  \
                  4  brain locked, fenced off, or on a refused file system\n\n\
                  Examples:\n  \
                  LLM_PROVIDER=offline SQLITE_DB_PATH=./brain.sqlite ENGINE_API_KEY=dev-key-1 september-engine\n  \
                  september-engine chat --task demo-1\n  \
                  september-engine doctor"
)]
struct Cli {
    /// Read variables from this file instead of .env; the environment still wins
    #[arg(long, global = true, value_name = "PATH")]
    env_file: Option<PathBuf>,
    /// Use this brain instead of SQLITE_DB_PATH
    #[arg(long, global = true, value_name = "PATH")]
    brain: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the server (the default)
    #[command(
        after_help = "Runs until SIGTERM or Ctrl-C, then drains for at most ENGINE_DRAIN_TIMEOUT_S.\n\n\
        Example:\n  LLM_PROVIDER=offline ENGINE_API_KEY=dev-key-1 september-engine --brain ./brain.sqlite serve"
    )]
    Serve {
        /// Print no command to try: for scripts that print one
        #[arg(long, hide = true)]
        no_example: bool,
    },
    /// Talk to a running Engine
    #[command(
        after_help = "The key comes from ENGINE_API_KEY in the environment or in .env. Leaving never stops a turn; \
        come back with --task.\nWithout a terminal it reads lines from standard input, one message (or answer) each.\n\n\
        Examples:\n  september-engine chat\n  september-engine chat --task demo-1\n  \
        echo 'List the files here' | september-engine chat --task demo-1"
    )]
    Chat(chat::Options),
    /// Look for everything that could be wrong, with the fix beside each
    #[command(
        after_help = "The only command that touches the network on its own: it asks the model provider whether the \
        key is accepted.\nExit 0 when nothing is broken (warnings allowed), else 1.\n\nExample:\n  september-engine doctor --json"
    )]
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Do not touch the network
        #[arg(long)]
        offline: bool,
    },
    /// Show the effective configuration and all its problems at once
    #[command(
        after_help = "Secrets are masked. Exit 0 when the Engine could serve with this and every entry of the catalog, \
        else 2.\n\n\
        Example:\n  september-engine check-config --json | jq '.errors'"
    )]
    CheckConfig {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Copy the brain, also while it is being served
    #[command(
        after_help = "Without a file the copy goes to BACKUP_DIR as brain-<UTC time>.sqlite. It is checked before it \
        gets its name.\n\nExample:\n  september-engine backup /mnt/backups/ada.sqlite"
    )]
    Backup {
        /// Where to; must not exist yet
        file: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Put a backup in the brain's place (Engine stopped)
    #[command(after_help = "The present brain is kept beside it as <brain>.replaced-<time>.\n\n\
        Example:\n  september-engine restore backups/brain-20260427T123456000Z.sqlite")]
    Restore {
        /// The backup
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Check a brain or a backup thoroughly
    #[command(
        after_help = "Integrity, foreign keys, migration checksums, blobs, index counts. Reads only; exit 3 when \
        something is wrong.\n\nExample:\n  september-engine verify backups/brain-20260427T123456000Z.sqlite"
    )]
    Verify {
        /// The file [default: the brain]
        file: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Bring the brain to this program's schema, after a snapshot (Engine stopped)
    #[command(after_help = "Example:\n  september-engine migrate --dry-run && september-engine migrate")]
    Migrate {
        /// Try the pending migrations on a temporary copy; the brain is only read
        #[arg(long)]
        dry_run: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Look into long-term memory, forget, export and import (Engine stopped)
    #[command(
        subcommand,
        after_help = "Beside a running Engine its API does the same.\n\n\
        Examples:\n  september-engine memory search 'who is Asha'\n  \
        september-engine memory export ada.json\n  \
        september-engine --brain ./new.sqlite memory import ada.json --mode replace"
    )]
    Memory(memory::Command),
    /// Remove what is past its time and rewrite the file without free space (Engine stopped)
    #[command(after_help = "Example:\n  september-engine vacuum --rebuild-fts")]
    Vacuum {
        /// Make the full-text indexes of memory anew from their tables
        #[arg(long)]
        rebuild_fts: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Seal all stored credentials under the first key of AD_ENCRYPTION_KEY (Engine stopped)
    #[command(after_help = "Example:\n  AD_ENCRYPTION_KEY=new,old september-engine rekey")]
    Rekey {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the ENGINE_KEY_HASH of a key read from standard input
    #[command(
        after_help = "The key is read from standard input, without echo on a terminal; it is never an argument.\n\n\
        Examples:\n  september-engine hash-key --new\n  printf %s \"$KEY\" | september-engine hash-key"
    )]
    HashKey {
        /// Make a new key and print it with its hash
        #[arg(long)]
        new: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Ask a running Engine whether it is ready; exit 0 when it is
    #[command(after_help = "Made for container health checks: plain HTTP, no key, a few milliseconds.\n\n\
        Example:\n  september-engine health --url http://127.0.0.1:8000")]
    Health {
        /// Address of the Engine [default: from ENGINE_HOST and ENGINE_PORT]
        #[arg(long, value_name = "URL")]
        url: Option<String>,
        /// Print the JSON answer
        #[arg(long)]
        json: bool,
    },
    /// Print the OpenAPI document
    #[command(after_help = "Example:\n  september-engine openapi > openapi.json")]
    Openapi,
    /// Print version, commit, schema and SQLite
    Version {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write the reference pages that are made from declarations
    #[command(hide = true)]
    Reference {
        /// Directory, e.g. docs/reference
        #[arg(long)]
        out: PathBuf,
    },
}

/// The whole program: arguments in, exit code out.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let called = args.first().map(PathBuf::from);
    if called.as_deref().and_then(Path::file_name).is_some_and(|name| name == "sqlite3") {
        return sqlite_shim::run(&args[1..]).into();
    }
    match Cli::try_parse_from(args) {
        Ok(cli) => run(cli).into(),
        Err(error) => {
            // Help and version are answers; everything else is a wrong command line.
            let exit = if error.use_stderr() { Exit::Configuration } else { Exit::Success };
            let _ = error.print();
            exit.into()
        }
    }
}

fn run(cli: Cli) -> Exit {
    // These need no configuration at all.
    match &cli.command {
        Some(Command::Openapi) => return emit(crate::http::openapi::document()),
        Some(Command::Version { json }) => return emit(&small::version(*json)),
        Some(Command::HashKey { new, json }) => return small::hash_key(*new, *json),
        Some(Command::Reference { out }) => return small::reference(out),
        _ => {}
    }
    let source = match config::sources(cli.env_file.as_deref(), cli.brain.as_deref()) {
        Ok(source) => source,
        Err(error) => return Exit::Configuration.because(&error.to_string()),
    };
    let command = cli.command.unwrap_or(Command::Serve { no_example: false });
    // These two look at single variables; every other command tells bad lines with everything else that is wrong.
    if matches!(command, Command::Chat(_) | Command::Health { .. })
        && let Some(fault) = source.faults().first()
    {
        return Exit::Configuration.because(&fault.to_string());
    }
    match command {
        Command::Serve { no_example } => serve(&source, !no_example),
        Command::Chat(options) => chat::run(&options, cli.env_file.as_deref(), &source),
        Command::Doctor { json, offline } => doctor::run(&source, json, !offline),
        Command::CheckConfig { json } => {
            let (text, code) = config::check_config(&source, json);
            emit(&text);
            Exit::of(code)
        }
        Command::Backup { file, json } => with_config(&source, |c| brain_commands::backup(c, file, json)),
        Command::Restore { file, json } => with_config(&source, |c| brain_commands::restore(c, &file, json)),
        Command::Verify { file, json } => with_config(&source, |c| brain_commands::verify(c, file, json)),
        Command::Migrate { dry_run: true, json } => {
            with_config(&source, |c| brain_commands::rehearse(c, json))
        }
        Command::Migrate { dry_run: false, json } => {
            with_config(&source, |c| brain_commands::migrate(c, json))
        }
        Command::Rekey { json } => with_config(&source, |c| rekey::rekey(c, json)),
        Command::Memory(command) => with_config(&source, |c| memory::run(c, command)),
        Command::Vacuum { rebuild_fts, json } => {
            with_config(&source, |c| brain_commands::vacuum(c, rebuild_fts, json))
        }
        Command::Health { url, json } => small::health(url, &source, json),
        Command::Openapi | Command::Version { .. } | Command::HashKey { .. } | Command::Reference { .. } => {
            unreachable!("answered above, without configuration")
        }
    }
}

fn serve(source: &Layered, example: bool) -> Exit {
    match Config::load(source, Purpose::Serve) {
        Ok(Loaded { config, report }) => Exit::of(crate::serve::run(config, report, example)),
        Err(problems) => refuse(&problems),
    }
}

/// Runs a command that works on the brain; what it does not use may be missing, but nothing may be wrong.
fn with_config(source: &Layered, command: impl FnOnce(&Config) -> Exit) -> Exit {
    match Config::load(source, Purpose::Tool) {
        Ok(loaded) => command(&loaded.config),
        Err(problems) => refuse(&problems),
    }
}

/// Tells all problems at once.
fn refuse(problems: &Problems) -> Exit {
    terminal::tell_problems("engine_core.config", crate::serve::LOG_IDS, problems);
    Exit::Configuration
}

/// Prints an answer.
fn emit(text: &str) -> Exit {
    terminal::print(text);
    Exit::Success
}

/// Prints JSON.
fn emit_json(value: &impl serde::Serialize) -> Exit {
    match terminal::print_json(value) {
        Ok(()) => Exit::Success,
        Err(error) => Exit::fail(&format!("could not write JSON: {error}")),
    }
}

/// This program as it was called, so that an advice can be typed: it need not be on PATH.
fn called() -> String {
    let own = std::env::args_os().next().and_then(|own| own.into_string().ok());
    own.map_or_else(|| "september-engine".to_owned(), |own| quoted(&own))
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = word
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'-' | b'_' | b':' | b'='));
    if plain && !word.is_empty() { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

/// Where an Engine with this configuration listens, as seen from this machine. Values that `check-config`
/// would refuse count as not set.
fn default_url(source: &dyn Source) -> String {
    let port = source.get("ENGINE_PORT").and_then(|p| p.trim().parse::<u16>().ok()).filter(|p| *p != 0);
    let host = source.get("ENGINE_HOST").and_then(|h| h.trim().parse::<IpAddr>().ok());
    let host = match host {
        Some(ip) if ip.is_unspecified() && ip.is_ipv6() => "[::1]".to_owned(),
        Some(IpAddr::V6(ip)) => format!("[{ip}]"),
        Some(ip) if !ip.is_unspecified() => ip.to_string(),
        Some(_) | None => "127.0.0.1".to_owned(),
    };
    format!("http://{host}:{}", port.unwrap_or(8000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use chassis::config::Values;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed_and_every_command_helps() {
        let mut command = Cli::command();
        command.clone().debug_assert();
        for sub in command.get_subcommands_mut().filter(|s| !s.is_hide_set()) {
            assert!(sub.get_about().is_some(), "{}", sub.get_name());
        }
    }

    #[test]
    fn no_option_could_carry_a_secret() {
        for sub in Cli::command().get_subcommands() {
            for option in sub.get_arguments().filter_map(clap::Arg::get_long) {
                assert!(
                    !["key", "token", "secret", "password"].iter().any(|w| option.contains(w)),
                    "{option}"
                );
            }
        }
    }

    #[test]
    fn an_advice_survives_the_shell() {
        for plain in ["target/release/september-engine", "http://127.0.0.1:8000", "chat-1_a"] {
            assert_eq!(quoted(plain), plain);
        }
        assert_eq!(
            (quoted("a b"), quoted("it's"), quoted("")),
            ("'a b'".to_owned(), r"'it'\''s'".to_owned(), "''".to_owned())
        );
    }

    #[test]
    fn a_wildcard_address_is_reached_over_loopback() {
        let url = |host: &str, port: &str| {
            default_url(&Values::new("test", [("ENGINE_HOST", host), ("ENGINE_PORT", port)]))
        };
        assert_eq!(url("0.0.0.0", "9000"), "http://127.0.0.1:9000");
        assert_eq!(url("::", ""), "http://[::1]:8000");
        assert_eq!(url("10.0.0.7", "0"), "http://10.0.0.7:8000");
        assert_eq!(url("", ""), "http://127.0.0.1:8000");
    }
}
