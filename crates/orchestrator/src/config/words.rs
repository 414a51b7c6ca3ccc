//! The words of the configuration as types.

use chassis::config::Reader;
use chassis::telemetry::{LogFormat, LogLevel};
use fleet::lifecycle::{BackendKind, SleepMode};
use fleet::spec::SecurityProfile;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident reads $var:literal { $($(#[$vdoc:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),* }

        impl $name {
            /// Every variant.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];

            /// The word in the configuration.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),* }
            }

            /// Reads the variable; the declaration admits exactly these words.
            pub(super) fn of(r: &Reader<'_>) -> Self {
                match r.text($var).as_deref() {
                    $(Some($word) => $name::$variant,)*
                    other => unreachable!("{} admits {other:?}", $var),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// Which address of an engine products are given.
    UrlMode reads "ORCH_ENGINE_URL_MODE" {
        /// As the orchestrator itself reaches engines.
        Auto = "auto",
        /// The engine's name on the shared network.
        Network = "network",
        /// The host port on 127.0.0.1.
        Host = "host",
    }
}

words! {
    /// When an image is pulled.
    ImagePull reads "ORCH_IMAGE_PULL" {
        /// When it is not there.
        Missing = "missing",
        /// Before every create.
        Always = "always",
        /// Never; a missing image is an error.
        Never = "never",
    }
}

words! {
    /// What happens when the database's schema is older.
    MigrationMode reads "ORCH_MIGRATIONS" {
        /// Migrate at start.
        Auto = "auto",
        /// Refuse to serve until `migrate` has run.
        Gate = "gate",
    }
}

pub(super) fn backend(r: &Reader<'_>) -> BackendKind {
    r.text("ORCH_ENGINE_BACKEND").and_then(|word| BackendKind::parse(&word)).unwrap_or(BackendKind::Docker)
}

pub(super) fn sleep_mode(r: &Reader<'_>) -> SleepMode {
    r.text("ORCH_SLEEP_MODE").and_then(|word| SleepMode::parse(&word)).unwrap_or(SleepMode::Freeze)
}

pub(super) fn security_profile(r: &Reader<'_>) -> SecurityProfile {
    match r.text("ORCH_ENGINE_SECURITY_PROFILE").as_deref() {
        Some("nested") => SecurityProfile::Nested,
        _ => SecurityProfile::Hardened,
    }
}

pub(super) fn log_level(r: &Reader<'_>) -> LogLevel {
    r.text("ORCH_LOG_LEVEL").and_then(|word| LogLevel::parse(&word)).unwrap_or(LogLevel::Info)
}

pub(super) fn log_format(r: &Reader<'_>) -> LogFormat {
    r.text("ORCH_LOG_FORMAT").and_then(|word| LogFormat::parse(&word)).unwrap_or(LogFormat::Auto)
}
