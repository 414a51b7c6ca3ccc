//! The words of the configuration as types.

use chassis::config::Reader;
use chassis::telemetry::{LogFormat, LogLevel};

chassis::words! {
    /// The model provider.
    Provider reads "LLM_PROVIDER" {
        /// OpenAI chat completions and every compatible server.
        Openai = "openai",
        /// Anthropic messages.
        Anthropic = "anthropic",
        /// Google Gemini.
        Gemini = "gemini",
        /// The built-in rule set; not a model.
        Offline = "offline",
    }
}

chassis::words! {
    /// Where embeddings are made.
    EmbeddingProvider reads "EMBEDDING_PROVIDER" {
        /// OpenAI's endpoint, or one that imitates it.
        Openai = "openai",
        /// The built-in table: in-process, without network.
        Local = "local",
    }
}

chassis::words! {
    /// How subprocesses are confined.
    SandboxMode reads "ENGINE_SANDBOX" {
        /// Every layer, or the Engine does not start.
        Required = "required",
        /// Every layer this host offers.
        BestEffort = "best-effort",
        /// No confinement.
        Off = "off",
    }
}

chassis::words! {
    /// What subprocesses see of the environment.
    ScrubMode reads "SUBPROCESS_SCRUB_MODE" {
        /// Only PATH HOME LANG TERM TMPDIR TZ.
        Strict = "strict",
        /// All but names that look secret.
        Standard = "standard",
        /// All but the Engine's own secrets.
        Off = "off",
    }
}

chassis::words! {
    /// What happens when the brain's schema is older.
    MigrationMode reads "MIGRATIONS" {
        /// Migrate at start.
        Auto = "auto",
        /// Refuse to serve until `migrate` has run.
        Gate = "gate",
    }
}

impl Provider {
    /// The variable that holds this provider's own key.
    pub const fn key_variable(self) -> Option<&'static str> {
        match self {
            Provider::Openai => Some("OPENAI_API_KEY"),
            Provider::Anthropic => Some("ANTHROPIC_API_KEY"),
            Provider::Gemini => Some("GEMINI_API_KEY"),
            Provider::Offline => None,
        }
    }

    /// The model used when none is named.
    pub const fn default_model(self) -> &'static str {
        match self {
            Provider::Openai => "gpt-4o",
            Provider::Anthropic => "claude-sonnet-5-5",
            Provider::Gemini => "gemini-3.8-flash",
            Provider::Offline => "offline-1",
        }
    }

    /// The provider a key plainly belongs to, by its first letters.
    pub(super) fn of_key(key: &str) -> Option<Provider> {
        if key.starts_with("sk-ant-") {
            Some(Provider::Anthropic)
        } else if key.starts_with("AIza") {
            Some(Provider::Gemini)
        } else if key.starts_with("sk-") {
            Some(Provider::Openai)
        } else {
            None
        }
    }
}

impl EmbeddingProvider {
    /// The model used when none is named.
    pub const fn default_model(self) -> &'static str {
        match self {
            EmbeddingProvider::Openai => "text-embedding-3-small",
            EmbeddingProvider::Local => llm::embeddings::local::MODEL,
        }
    }

    /// How many numbers its vectors have when nobody says.
    pub const fn default_dim(self) -> usize {
        match self {
            EmbeddingProvider::Openai => 1536,
            EmbeddingProvider::Local => llm::embeddings::table::DIMS,
        }
    }
}

pub(super) fn log_level(r: &Reader<'_>) -> LogLevel {
    r.text("ENGINE_LOG_LEVEL").and_then(|word| LogLevel::parse(&word)).unwrap_or(LogLevel::Info)
}

pub(super) fn log_format(r: &Reader<'_>) -> LogFormat {
    r.text("ENGINE_LOG_FORMAT").and_then(|word| LogFormat::parse(&word)).unwrap_or(LogFormat::Auto)
}
