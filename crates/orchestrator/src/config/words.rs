//! The words of the configuration as types.

use chassis::config::Reader;
use chassis::telemetry::{LogFormat, LogLevel};
use fleet::lifecycle::{BackendKind, SleepMode};
use fleet::spec::SecurityProfile;

chassis::words! {
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

chassis::words! {
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

chassis::words! {
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
