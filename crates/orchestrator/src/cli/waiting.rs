//! Waiting for an operation that a replica performs, with progress on standard error.
//!
//! The database is polled: a command lives for seconds to minutes and needs no listening connection. Giving up
//! never cancels anything; what was asked for goes on.

use super::database::Database;
use super::{Exit, Stop};
use crate::registry::rows::Operation;
use chassis::terminal;
use contract::OperationId;
use fleet::operation::{OperationKind, OperationStatus};
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// Between two looks. Shorter is load on the database, longer makes fast operations look slow.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Longest wait. A pull (up to 600 s), a queue and a boot fit; longer keeps a terminal on work that hangs.
const WAIT_MAX: Duration = Duration::from_secs(1_200);

/// How long an operation may stay unclaimed before a person is told that no replica runs. A replica looks at the
/// queue every second and is notified besides; shorter blames a busy one.
const CLAIM_PATIENCE: Duration = Duration::from_secs(30);

/// Waits until it has ended well; everything else is a [`Stop`] that says how it stands.
pub async fn until_done(db: &Database, id: OperationId) -> Result<Operation, Stop> {
    let began = Instant::now();
    let mut progress = Progress::new();
    loop {
        let Some(operation) = db.registry.operation(id).await? else {
            progress.end();
            return Err(Stop::failed(
                "the operation is gone; look at the engine with `bap-engine engines show`",
            ));
        };
        let waited = began.elapsed();
        if let Some(ended) = judge(&operation, waited) {
            progress.end();
            return ended.map(|()| operation);
        }
        progress.tell(operation.kind, &position(&operation), waited);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Where it is, in one word or two.
fn position(operation: &Operation) -> String {
    match (operation.owner, operation.attempt) {
        (None, 0) => "waiting for a replica".to_owned(),
        (_, 0 | 1) => operation.step.to_string(),
        (_, attempt) => format!("{} (attempt {attempt})", operation.step),
    }
}

/// How it ended, or that it is not worth waiting any longer; `None`: go on waiting.
fn judge(operation: &Operation, waited: Duration) -> Option<Result<(), Stop>> {
    let failed = |prefix: &str| {
        let code = operation.error_code.clone();
        let message = operation.error_message.as_deref().unwrap_or("no reason was recorded");
        let mut stop = Stop::failed(&match &code {
            Some(code) => format!("{prefix}{code}: {message}"),
            None => format!("{prefix}{message}"),
        });
        stop.code = code;
        stop.details = Some(serde_json::json!({
            "operation_id": operation.id, "engine_id": operation.engine_id,
            "retrying": operation.status == OperationStatus::Open,
        }));
        stop
    };
    let id = operation.id;
    match operation.status {
        OperationStatus::Succeeded => Some(Ok(())),
        OperationStatus::Failed => Some(Err(failed(""))),
        OperationStatus::Superseded => Some(Err(Stop::failed("another request took the place of this one"))),
        OperationStatus::Open if operation.retry_at.is_some() && operation.error_code.is_some() => {
            Some(Err(failed("it goes on in the background: ")))
        }
        OperationStatus::Open
            if operation.attempt == 0 && operation.owner.is_none() && waited >= CLAIM_PATIENCE =>
        {
            let message = format!(
                "no replica has taken operation {id}; it is queued until `bap-engine serve` runs on this database"
            );
            Some(Err(Stop::new(Exit::Unreachable, message)))
        }
        OperationStatus::Open if waited >= WAIT_MAX => {
            let message = format!("operation {id} is still at step {}; the work goes on", operation.step);
            Some(Err(Stop::failed(&message)))
        }
        OperationStatus::Open => None,
    }
}

/// One line that is rewritten on a terminal, and one line per step elsewhere.
struct Progress {
    terminal: bool,
    last: String,
}

impl Progress {
    fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), last: String::new() }
    }

    fn tell(&mut self, kind: OperationKind, position: &str, waited: Duration) {
        let elapsed = terminal::duration(u64::try_from(waited.as_millis()).unwrap_or(u64::MAX));
        let mut err = std::io::stderr().lock();
        // Nobody is left to be told when standard error is gone.
        if self.terminal {
            let _ = write!(err, "\r\x1b[2K{kind}: {position}, {elapsed}");
            let _ = err.flush();
        } else if self.last != position {
            let _ = writeln!(err, "{kind}: {position}, {elapsed}");
        }
        position.clone_into(&mut self.last);
    }

    fn end(&mut self) {
        if self.terminal && !self.last.is_empty() {
            let mut err = std::io::stderr().lock();
            let _ = write!(err, "\r\x1b[2K");
            let _ = err.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::{EngineId, ProductId, ReplicaId, Timestamp, UserId};
    use fleet::operation::Step;

    fn operation() -> Operation {
        Operation {
            id: OperationId::generate(),
            engine_id: EngineId::generate(),
            product_id: ProductId::generate(),
            user_id: UserId::parse("u").expect("is a user"),
            kind: OperationKind::Start,
            status: OperationStatus::Open,
            step: Step::Start,
            params: serde_json::json!({}),
            timings: std::collections::BTreeMap::new(),
            owner: None,
            claim: 0,
            lease_until: None,
            attempt: 0,
            retry_at: None,
            actor: "admin".to_owned(),
            request_id: None,
            error_code: None,
            error_message: None,
            started_at: Timestamp::from_millis(0),
            finished_at: None,
        }
    }

    #[test]
    fn an_operation_that_nobody_takes_is_reported_after_some_patience() {
        let open = operation();
        assert_eq!(judge(&open, Duration::from_secs(29)), None);
        let ended = judge(&open, CLAIM_PATIENCE).expect("enough").expect_err("not done");
        assert_eq!(ended.exit, Exit::Unreachable);
        let claimed = Operation { owner: Some(ReplicaId::generate()), attempt: 1, ..open };
        assert_eq!(judge(&claimed, CLAIM_PATIENCE), None);
        assert_eq!(judge(&claimed, WAIT_MAX).expect("enough").expect_err("not done").exit, Exit::Failed);
    }

    #[test]
    fn the_end_of_an_operation_is_told_with_its_code() {
        let failed = Operation {
            status: OperationStatus::Failed,
            error_code: Some("BOOT_TIMEOUT".to_owned()),
            error_message: Some("not healthy".to_owned()),
            ..operation()
        };
        let stop = judge(&failed, Duration::ZERO).expect("ended").expect_err("badly");
        assert_eq!(
            (stop.code.as_deref(), stop.message.as_str()),
            (Some("BOOT_TIMEOUT"), "BOOT_TIMEOUT: not healthy")
        );
        let done = Operation { status: OperationStatus::Succeeded, ..operation() };
        assert_eq!(judge(&done, Duration::ZERO), Some(Ok(())));
        let retrying = Operation {
            retry_at: Some(Timestamp::from_millis(1)),
            error_code: Some("BACKEND_ERROR".to_owned()),
            ..operation()
        };
        let stop = judge(&retrying, Duration::ZERO).expect("told").expect_err("not done");
        assert_eq!(stop.details.expect("has details")["retrying"], true);
    }
}
