//! What a server tells about itself: one JSON object per log line, and a metric registry.
//!
//! A log line of a program always has the same keys in the same order: `timestamp, level, logger`, the id fields that
//! the program names, `message, extra`. The ids come from the event or from the spans around it; all other fields go to
//! `extra`. Crates that are not ours are heard from WARNING upwards only, because at lower levels they
//! write down request bodies and headers.
//!
//! The invariant: every line passes the scrubber, if there is one, before it leaves the process.

mod line;
mod metric;
mod panics;

pub use line::{Captured, IdFields, LogLayer, capture, current_ids};
pub use metric::{Metrics, install_metrics};
pub use panics::install_panic_hook;

use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex};
use tracing::Subscriber;
use tracing_subscriber::layer::SubscriberExt;

/// The least severe level that is logged, in the words of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// What happens.
    Info,
    /// What a person may want to look at.
    Warning,
    /// What a person must act on.
    Error,
}

impl LogLevel {
    /// The word on the line.
    pub const fn as_str(self) -> &'static str {
        match self {
            LogLevel::Debug => "DEBUG",
            LogLevel::Info => "INFO",
            LogLevel::Warning => "WARNING",
            LogLevel::Error => "ERROR",
        }
    }

    /// Reads the word in any letter case.
    pub fn parse(word: &str) -> Option<Self> {
        let all = [LogLevel::Debug, LogLevel::Info, LogLevel::Warning, LogLevel::Error];
        all.into_iter().find(|l| l.as_str().eq_ignore_ascii_case(word))
    }

    const fn of(level: &tracing::Level) -> Self {
        match *level {
            tracing::Level::ERROR => LogLevel::Error,
            tracing::Level::WARN => LogLevel::Warning,
            tracing::Level::INFO => LogLevel::Info,
            _ => LogLevel::Debug,
        }
    }
}

/// How a log line is rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Pretty on a terminal, JSON otherwise.
    Auto,
    /// One JSON object per line.
    Json,
    /// The same information for people.
    Pretty,
}

impl LogFormat {
    /// Reads the word of the configuration.
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "auto" => Some(LogFormat::Auto),
            "json" => Some(LogFormat::Json),
            "pretty" => Some(LogFormat::Pretty),
            _ => None,
        }
    }
}

/// Takes secrets out of a finished line.
pub type Scrub = Arc<dyn Fn(String) -> String + Send + Sync>;

/// How to log.
#[derive(Clone)]
pub struct LogSettings {
    /// Least severe level.
    pub level: LogLevel,
    /// Rendering.
    pub format: LogFormat,
    /// Crate names that are logged from `level` upwards; all others from WARNING upwards.
    pub own: &'static [&'static str],
    /// Crate names that are not heard at all: what they log holds addresses and other people's words.
    pub silent: &'static [&'static str],
    /// Fields that stand on every line by themselves.
    pub ids: IdFields,
    /// Applied to every line.
    pub scrub: Option<Scrub>,
}

/// Where lines go.
pub(crate) type Sink = Arc<Mutex<dyn Write + Send>>;

/// The subscriber that writes to `sink`.
pub(crate) fn subscriber(
    settings: &LogSettings,
    pretty: bool,
    sink: Sink,
) -> impl Subscriber + Send + Sync + use<> {
    let layer = LogLayer::new(settings, pretty, sink);
    tracing_subscriber::registry().with(layer)
}

/// Logging has already been installed in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("logging is already installed")]
pub struct AlreadyInstalled;

/// Sends the log of this process to stdout and turns panics into log lines on stderr.
pub fn install(settings: &LogSettings) -> Result<(), AlreadyInstalled> {
    let pretty = match settings.format {
        LogFormat::Json => false,
        LogFormat::Pretty => true,
        LogFormat::Auto => std::io::stdout().is_terminal(),
    };
    let sink: Sink = Arc::new(Mutex::new(std::io::stdout()));
    tracing::subscriber::set_global_default(subscriber(settings, pretty, sink))
        .map_err(|_| AlreadyInstalled)?;
    install_panic_hook(settings.level, settings.ids, settings.scrub.clone());
    Ok(())
}

/// Writes one JSON log line to stderr, for last words before exit and for times when no subscriber is
/// installed yet. `ids` are the program's id fields; `extra` must be a JSON object.
pub fn last_words(
    level: LogLevel,
    logger: &str,
    ids: IdFields,
    message: &str,
    extra: &serde_json::Value,
    scrub: Option<&Scrub>,
) {
    let text = line::Line { level, logger, ids: current_ids(ids), message, extra }.json();
    let text = scrub.map_or(text.clone(), |scrub| scrub(text));
    // Nobody is left to be told when stderr is gone.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
