//! The closed list of audit actions and the shape of their metadata.
//!
//! Which keys an action may carry is data here, so that the writer, the reference page and the test read the same
//! list. It refuses a key that is not listed: what cannot be named cannot leak. The invariant: one row per
//! lifecycle action, in the transaction of the change it describes, and never a key, a hash, a prompt or the value
//! of an environment variable in it.

use crate::lifecycle::{Status, words};
use crate::operation::OperationKind;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;

words! {
    /// What a row of the audit log says.
    AuditAction {
        /// First boot succeeded.
        Provision = "provision",
        /// First boot failed.
        ProvisionFailed = "provision_failed",
        /// Start ended.
        Start = "start",
        /// Stop ended.
        Stop = "stop",
        /// Engine asleep, or the attempt failed.
        Sleep = "sleep",
        /// Engine awake, or the attempt failed.
        Wake = "wake",
        /// Row deleted.
        Destroy = "destroy",
        /// Engine key rotated or refused.
        RotateKey = "rotate_key",
        /// A new version serves.
        Upgrade = "upgrade",
        /// The old version serves again, or failed to.
        Rollback = "rollback",
        /// Object rebuilt by command.
        Recreate = "recreate",
        /// A row took over what the backend showed.
        Adopt = "adopt",
        /// An object without a row, or of an older generation, was removed.
        OrphanRemoved = "orphan_removed",
        /// First probe after a change of verdict, and a sample of the rest.
        HealthCheck = "health_check",
        /// running → failed.
        HealthFailed = "health_failed",
        /// An automatic restart begins.
        AutoRestartStart = "auto_restart_start",
        /// Serving again.
        AutoRestartSuccess = "auto_restart_success",
        /// The attempt failed.
        AutoRestartFailed = "auto_restart_failed",
        /// No further attempt.
        AutoRestartGaveUp = "auto_restart_gave_up",
        /// Admit or provision refused by policy, or `admitted:false`.
        AdmitDenied = "admit_denied",
        /// Product registered.
        PolicyRegister = "policy_register",
        /// Policy replaced.
        PolicyUpdate = "policy_update",
        /// Product row deleted.
        ProductDelete = "product_delete",
        /// Platform key rotated.
        RotatePlatformKey = "rotate_platform_key",
        /// Re-encryption finished.
        RotateMasterKey = "rotate_master_key",
        /// Backup written.
        Backup = "backup",
        /// Database or one brain restored, or a drill done.
        Restore = "restore",
    }
}

/// Keys every action may carry; absent when empty.
pub const COMMON_KEYS: &[&str] =
    &["request_id", "operation_id", "from", "to", "outcome", "error", "superseded"];

impl AuditAction {
    /// Keys this action may carry besides [`COMMON_KEYS`].
    pub const fn metadata_keys(self) -> &'static [&'static str] {
        match self {
            AuditAction::Provision => &["via", "engine_version", "port", "boot_ms", "timings"],
            AuditAction::ProvisionFailed => &["via", "engine_version", "reason", "exit_code"],
            AuditAction::Start => &["recreated", "boot_ms", "timings"],
            AuditAction::Stop => &["killed", "exit_code"],
            AuditAction::Sleep => &["mode", "reason", "idle_s", "wake_at"],
            AuditAction::Wake => &["reason", "slept_s", "mode", "waiters", "boot_ms", "overhead_ms"],
            AuditAction::Destroy => &["engine_version", "age_s", "forgotten"],
            AuditAction::RotateKey => &["overlap_s", "reissued"],
            AuditAction::Upgrade => &[
                "from_version",
                "to_version",
                "via",
                "schema_from",
                "schema_to",
                "snapshot",
                "rollout_id",
                "timings",
            ],
            AuditAction::Rollback => {
                &["from_version", "to_version", "reason", "brain_restored", "rollout_id"]
            }
            AuditAction::Recreate => &["drift", "boot_ms"],
            AuditAction::Adopt => &["field", "old", "new"],
            AuditAction::OrphanRemoved => &["object", "kind", "age_s", "brain"],
            AuditAction::HealthCheck => &["verdict", "latency_ms", "subsystems", "failures"],
            AuditAction::HealthFailed => &["reason", "failures", "exit_code", "oom", "next_restart_at"],
            AuditAction::AutoRestartStart => &["attempt", "delay_s"],
            AuditAction::AutoRestartSuccess => &["attempt", "by", "recreated", "boot_ms"],
            AuditAction::AutoRestartFailed => &["attempt", "reason", "next_restart_at"],
            AuditAction::AutoRestartGaveUp => &["attempts", "reason"],
            AuditAction::AdmitDenied => &["reason", "count"],
            AuditAction::PolicyRegister => &["slug", "policy"],
            AuditAction::PolicyUpdate => &["before", "after"],
            AuditAction::ProductDelete => &["slug", "engines_destroyed"],
            AuditAction::RotatePlatformKey => &["overlap_s"],
            AuditAction::RotateMasterKey => &["rows", "old_fingerprints", "new_fingerprint"],
            AuditAction::Backup => &["location", "engines", "bytes", "failed"],
            AuditAction::Restore => &["location", "scope", "snapshot", "differences"],
        }
    }

    /// Values a key of this action is limited to; `None` = not limited to a list.
    pub fn metadata_words(self, key: &str) -> Option<&'static [&'static str]> {
        match (self, key) {
            (AuditAction::Provision | AuditAction::ProvisionFailed, "via") => {
                Some(&["endpoint", "admit", "cli"])
            }
            (AuditAction::Upgrade, "via") => Some(&["endpoint", "start", "rollout", "cli"]),
            (AuditAction::Sleep, "reason") => Some(&["idle", "api", "refreeze"]),
            (AuditAction::Sleep | AuditAction::Wake, "mode") => Some(&["freeze", "stop", "label"]),
            (AuditAction::Wake, "reason") => Some(&["admit", "schedule"]),
            (AuditAction::Adopt, "field") => Some(&["generation", "container_id"]),
            (AuditAction::OrphanRemoved, "kind") => Some(&["no_row", "stale_generation"]),
            (AuditAction::OrphanRemoved, "brain") => Some(&["kept"]),
            (AuditAction::HealthCheck, "verdict") => Some(&["healthy", "degraded", "failed"]),
            (AuditAction::AutoRestartSuccess, "by") => Some(&["orchestrator", "backend", "none"]),
            (AuditAction::Restore, "scope") => Some(&["database", "brain", "drill"]),
            _ => None,
        }
    }

    /// The row that closes an operation which ended by itself. A superseded operation has none.
    pub const fn closing(kind: OperationKind, succeeded: Outcome) -> Self {
        match (kind, succeeded) {
            (OperationKind::Provision, Outcome::Ok) => AuditAction::Provision,
            (OperationKind::Provision, Outcome::Failed) => AuditAction::ProvisionFailed,
            (OperationKind::Restart, Outcome::Ok) => AuditAction::AutoRestartSuccess,
            (OperationKind::Restart, Outcome::Failed) => AuditAction::AutoRestartFailed,
            (OperationKind::Start, _) => AuditAction::Start,
            (OperationKind::Stop, _) => AuditAction::Stop,
            (OperationKind::Sleep, _) => AuditAction::Sleep,
            (OperationKind::Wake, _) => AuditAction::Wake,
            (OperationKind::RotateKey, _) => AuditAction::RotateKey,
            (OperationKind::Upgrade, _) => AuditAction::Upgrade,
            (OperationKind::Recreate, _) => AuditAction::Recreate,
            (OperationKind::Restore, _) => AuditAction::Restore,
            (OperationKind::Destroy, _) => AuditAction::Destroy,
        }
    }
}

words! {
    /// How what a row describes ended; in metadata `outcome`.
    Outcome {
        /// As asked.
        Ok = "ok",
        /// Otherwise.
        Failed = "failed",
    }
}

/// Refuses metadata that is not of the action's shape, naming the key.
pub fn check_shape(action: AuditAction, metadata: &Value) -> Result<(), String> {
    let Some(map) = metadata.as_object() else {
        return Err(format!("metadata of {action} is not an object"));
    };
    for (key, value) in map {
        if COMMON_KEYS.contains(&key.as_str()) {
            check_common(key, value).map_err(|problem| format!("metadata.{key} of {action}: {problem}"))?;
        } else if !action.metadata_keys().contains(&key.as_str()) {
            return Err(format!("{action} has no metadata key {key}"));
        } else if let Some(words) = action.metadata_words(key)
            && !value.as_str().is_some_and(|word| words.contains(&word))
        {
            return Err(format!("metadata.{key} of {action} is not one of {}", words.join(", ")));
        }
    }
    Ok(())
}

fn check_common(key: &str, value: &Value) -> Result<(), String> {
    let text = value.as_str();
    let wrong = |expected: &str| Err(format!("expected {expected}"));
    match key {
        "from" | "to" if text.and_then(Status::parse).is_none() => wrong("a status"),
        "outcome" if text.and_then(Outcome::parse).is_none() => wrong("ok or failed"),
        "superseded" if text.and_then(OperationKind::parse).is_none() => wrong("an operation kind"),
        "request_id" | "operation_id" if text.is_none_or(str::is_empty) => wrong("an id"),
        "error" => match value.as_object() {
            Some(error)
                if error.keys().all(|k| k == "code" || k == "message") && error.contains_key("code") =>
            {
                Ok(())
            }
            _ => wrong("an object of code and message"),
        },
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn action_list_is_closed() {
        assert_eq!(AuditAction::ALL.len(), 27);
        for &action in AuditAction::ALL {
            assert_eq!(AuditAction::parse(action.as_str()), Some(action));
        }
        assert_eq!(AuditAction::parse("engine_renamed"), None);
    }

    #[test]
    fn metadata_matches_its_shape() {
        for &action in AuditAction::ALL {
            let mut metadata = serde_json::Map::new();
            for &key in action.metadata_keys() {
                assert!(!COMMON_KEYS.contains(&key), "{action} repeats the common key {key}");
                let value = action.metadata_words(key).map_or(json!(1), |words| json!(words[0]));
                metadata.insert(key.to_owned(), value);
            }
            metadata.insert("request_id".into(), json!("req-1"));
            metadata.insert("from".into(), json!("running"));
            metadata.insert("to".into(), json!("failed"));
            metadata.insert("outcome".into(), json!("failed"));
            metadata.insert("error".into(), json!({"code": "BACKEND_ERROR", "message": "no"}));
            metadata.insert("superseded".into(), json!("stop"));
            assert_eq!(check_shape(action, &Value::Object(metadata.clone())), Ok(()));
            for stranger in ["api_key", "engine_key_hash", "env", "prompt"] {
                let mut with = metadata.clone();
                with.insert(stranger.into(), json!("x"));
                assert_eq!(
                    check_shape(action, &Value::Object(with)),
                    Err(format!("{action} has no metadata key {stranger}"))
                );
            }
        }
    }

    #[test]
    fn listed_words_and_common_values_are_checked() {
        let check = |action, metadata| check_shape(action, &metadata);
        assert!(check(AuditAction::Sleep, json!({"reason": "bored"})).is_err());
        assert!(check(AuditAction::Sleep, json!({"reason": 1})).is_err());
        assert!(check(AuditAction::Stop, json!({"from": "asleep"})).is_err());
        assert!(check(AuditAction::Stop, json!({"outcome": null})).is_err());
        assert!(check(AuditAction::Stop, json!({"superseded": "nap"})).is_err());
        assert!(check(AuditAction::Stop, json!({"error": {"code": "X", "stack": "…"}})).is_err());
        assert!(check(AuditAction::Stop, json!([])).is_err());
        assert!(check(AuditAction::Stop, json!({})).is_ok());
    }

    #[test]
    fn every_operation_has_a_closing_row_for_both_ends() {
        for &kind in OperationKind::ALL {
            let (ok, failed) =
                (AuditAction::closing(kind, Outcome::Ok), AuditAction::closing(kind, Outcome::Failed));
            let two = matches!(kind, OperationKind::Provision | OperationKind::Restart);
            assert_eq!(ok != failed, two, "{kind}");
        }
    }
}
