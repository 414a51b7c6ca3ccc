//! What inputs name: paths of the workspace and durations; and file work that ends with its call.

use super::tool::{CallContext, Failure};
use crate::sandbox::Place;
use contract::ToolReason;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// A path that may be read. What lies outside the workspace does not exist, as far as tools can tell.
pub fn readable(call: &CallContext, path: &str) -> Result<PathBuf, Failure> {
    let resolved = call.workspace.resolve(path);
    match call.workspace.place(&resolved) {
        Place::Inside => Ok(resolved),
        Place::Outside => Err(not_found(path)),
        Place::Sealed => Err(protected(path)),
    }
}

/// A path that may be written: in the workspace, or allowed by a person for this call.
pub fn writable(call: &CallContext, path: &str) -> Result<PathBuf, Failure> {
    let resolved = call.workspace.resolve(path);
    if call.workspace.is_read_only(&resolved) {
        return Err(protected(path));
    }
    match call.workspace.place(&resolved) {
        Place::Inside => Ok(resolved),
        Place::Outside if call.grants.allow(&resolved) => Ok(resolved),
        Place::Outside => Err(Failure::new(
            ToolReason::PermissionDenied,
            format!("{path} lies outside the workspace and nobody allowed this call to write it"),
        )),
        Place::Sealed => Err(protected(path)),
    }
}

/// There is nothing at this path.
pub fn not_found(path: &str) -> Failure {
    Failure::new(ToolReason::NotFound, format!("no such file or directory in the workspace: {path}"))
}

fn protected(path: &str) -> Failure {
    Failure::new(ToolReason::PermissionDenied, format!("{path} is protected and is never opened to tools"))
}

/// What an I/O error means for the model.
pub fn io_failure(path: &Path, error: &io::Error) -> Failure {
    let shown = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => not_found(&shown.to_string()),
        io::ErrorKind::IsADirectory => {
            Failure::new(ToolReason::Failed, format!("{shown} is a directory; list it with find"))
        }
        io::ErrorKind::NotADirectory => {
            Failure::new(ToolReason::Failed, format!("a part of {shown} is a file, not a directory"))
        }
        _ => Failure::new(ToolReason::Failed, format!("{shown}: {error}")),
    }
}

/// Tells long blocking work when to stop.
#[derive(Debug, Clone)]
pub struct Stop {
    cancel: CancellationToken,
    until: Instant,
}

impl Stop {
    /// True when the call was cancelled or its time is up.
    pub fn now(&self) -> bool {
        self.cancel.is_cancelled() || Instant::now() >= self.until
    }
}

/// Runs file work on a thread that may block. A cancelled call is answered at once; the work itself ends
/// when it next looks at [`Stop`].
pub async fn blocking<T, F>(cancel: &CancellationToken, limit: Duration, work: F) -> Result<T, Failure>
where
    T: Send + 'static,
    F: FnOnce(Stop) -> Result<T, Failure> + Send + 'static,
{
    let stop = Stop { cancel: cancel.clone(), until: Instant::now() + limit };
    let running = tokio::task::spawn_blocking(move || work(stop));
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Failure::cancelled()),
        done = running => match done {
            Ok(result) => result,
            Err(_) => Err(Failure::new(ToolReason::Failed, "the tool stopped unexpectedly; this is a bug")),
        },
    }
}

/// A duration as inputs carry it: an integer of seconds, or an integer with `ms`, `s`, `m`, `h`, `d`.
pub fn duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    let unit_ms = match &text[digits.len()..] {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(unit_ms).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        let table = [("90", 90_000), ("5ms", 5), ("2m", 120_000), ("1h", 3_600_000), ("7d", 604_800_000)];
        for (text, ms) in table {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "d", "1w", "-1", "1.5h", "99999999999999999999", "1 h"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
