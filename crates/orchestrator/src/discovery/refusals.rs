//! What callers are told when they do not get what they asked for about an engine.
//!
//! Words and facts only, made from rows; nothing is decided here. The invariant: who may try again is told when.

use crate::core::between;
use crate::registry::RegistryError;
use crate::registry::rows::{Engine, Found, Operation};
use contract::{FleetCode, FleetError, OperationId, Timestamp};
use fleet::lifecycle::{BackendKind, FailureReason, Status};
use serde_json::{Value, json};

/// The product has no engine for this user.
pub(super) fn no_engine() -> FleetError {
    FleetError::new(FleetCode::EngineNotFound, "this product has no engine for this user")
}

/// The row changed under every decision.
pub(super) fn unsettled() -> FleetError {
    FleetError::new(FleetCode::EngineBusy, "the engine keeps changing; try again").retry_after(1)
}

/// The database said nothing about an operation that somebody waits for. It was accepted, and is not undone.
pub(super) fn unheard(operation: OperationId, error: RegistryError) -> FleetError {
    let away = error.is_unavailable();
    let mut told = FleetError::from(error);
    if away {
        "the database cannot be reached; what was asked for goes on when it is back"
            .clone_into(&mut told.message);
        told = told.with(json!({"operation_id": operation, "retrying": true}));
    }
    told
}

/// The engine's row belongs to another kind of backend, and stays as it is.
pub(crate) fn elsewhere(kind: BackendKind) -> FleetError {
    FleetError::new(
        FleetCode::BackendError,
        format!("the engine runs on the backend {kind}, which this deployment does not manage"),
    )
    .with(json!({"retrying": false}))
}

/// The start queue of this replica is full.
pub(crate) fn queue_full(retry_after_s: u64) -> FleetError {
    FleetError::new(FleetCode::CapacityExhausted, "too many starts wait on this replica")
        .retry_after(retry_after_s)
}

/// A refusal with what the caller needs to know.
pub(super) fn refusal(code: FleetCode, found: &Found) -> FleetError {
    let engine = &found.engine;
    let message = match code {
        FleetCode::EngineAlreadyRunning => "the engine is running",
        FleetCode::EngineAlreadyExists => "this product has an engine for this user already; use admit",
        FleetCode::EngineNotRunning => "the engine is not in a state that allows this",
        FleetCode::EngineBusy if engine.status == Status::Destroying => "the engine is being removed",
        FleetCode::EngineBusy => "another operation is under way on this engine",
        _ => "the engine's state does not allow this",
    };
    let error = FleetError::new(code, message);
    if code != FleetCode::EngineBusy {
        return error.with(json!({"status": engine.status}));
    }
    let kind = found.operation.as_ref().map(|o| o.kind);
    error.with(json!({"reason": "operation", "operation": kind})).retry_after(1)
}

/// The error an engine failed with, for those who provision it again.
pub(super) fn failure_of(engine: &Engine) -> FleetError {
    let code = match engine.failure_code {
        Some(FailureReason::BootTimeout) => FleetCode::BootTimeout,
        _ => FleetCode::BackendError,
    };
    let message = engine.failure_message.clone().unwrap_or_else(|| "the engine did not start".to_owned());
    let error = FleetError::new(code, message).with(json!({"engine_id": engine.id}));
    if engine.next_restart_at.is_some() { error.retry_after(5) } else { error }
}

/// The error of a failed operation.
pub(super) fn error_of(operation: &Operation) -> FleetError {
    let code = operation.error_code.as_deref().and_then(FleetCode::parse).unwrap_or(FleetCode::Internal);
    let message = operation.error_message.clone().unwrap_or_else(|| "the operation failed".to_owned());
    let mut details = json!({"engine_id": operation.engine_id, "operation_id": operation.id});
    if let Some(extra) = operation.params.get("error_details").and_then(Value::as_object) {
        for (name, value) in extra {
            details[name] = value.clone();
        }
    }
    let error = FleetError::new(code, message).with(details);
    match operation.params.get("retry_after_s").and_then(Value::as_u64) {
        Some(seconds) => error.retry_after(seconds),
        None => error,
    }
}

/// The error of an operation that goes on in the background.
pub(super) fn retrying(operation: &Operation) -> FleetError {
    let mut error = error_of(operation);
    if let Some(details) = &mut error.details {
        details["retrying"] = json!(true);
    }
    let wait = operation.retry_at.map_or(5, |at| between(Timestamp::now(), at).as_secs().max(1));
    error.retry_after(wait)
}
