//! Validating tool inputs and structured answers: on this thread when it is a moment's work, else on one of its own.
//!
//! What a schema costs is known beforehand ([`schemas`]), so nothing here runs for long. The waits are the last wall:
//! a call that finds no place, or no answer in time, gets a complaint and not a hanging turn.
//!
//! The invariant: no validation of more than a moment runs on a thread that serves others.

use schemas::{STACK_BYTES, Schema};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};

/// Long validations at once, in the whole process. More would take the cores from everything else.
const AT_ONCE: usize = 2;
/// How long a call waits for a place and for the answer. Longer keeps a turn from ending; shorter than the work that
/// is allowed would refuse what is allowed.
const WAIT_MAX: Duration = Duration::from_secs(15);

static PLACES: Semaphore = Semaphore::const_new(AT_ONCE);

/// Whether a schema is one that can be used: small enough, self-contained, of bounded work, and a JSON Schema at all.
pub fn check(schema: &Value) -> Result<(), String> {
    schemas::check(schema).map_err(|refused| refused.0)
}

/// What is wrong with a value. Dropping the future leaves the thread to itself; it ends soon.
pub async fn complaints(schema: &Arc<Schema>, value: &Value) -> Vec<String> {
    if schema.is_quick(value) {
        return schema.complaints(value);
    }
    let (schema, value) = (Arc::clone(schema), value.clone());
    match tokio::time::timeout(WAIT_MAX, apart(move || schema.complaints(&value))).await {
        Ok(Some(complaints)) => complaints,
        Ok(None) | Err(_) => {
            vec!["the value could not be checked against its schema in time; send less".to_owned()]
        }
    }
}

/// Runs work on a thread with a stack of its own, when one of the few places is free.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let place = PLACES.acquire().await.ok()?;
    let (tell, told) = oneshot::channel();
    let run = move || {
        // held until the work is over, also when nobody waits any more
        let _place = place;
        let _ = tell.send(work());
    };
    std::thread::Builder::new().name("schema".to_owned()).stack_size(STACK_BYTES).spawn(run).ok()?;
    told.await.ok()
}

/// Reads a structured answer: JSON, possibly inside one Markdown code fence, that validates.
pub async fn parse_answer(schema: &Value, text: &str) -> Result<Value, String> {
    let schema = Arc::new(Schema::new(schema).map_err(|refused| refused.0)?);
    let value = json_of(text)?;
    joined(complaints(&schema, &value).await).map(|()| value)
}

/// The same for a small schema of ours, where nobody waits for the thread.
pub fn parse_own_answer(schema: &Value, text: &str) -> Result<Value, String> {
    let schema = Schema::new(schema).map_err(|refused| refused.0)?;
    let value = json_of(text)?;
    joined(schema.complaints(&value)).map(|()| value)
}

fn joined(complaints: Vec<String>) -> Result<(), String> {
    if complaints.is_empty() { Ok(()) } else { Err(complaints.join("; ")) }
}

fn json_of(text: &str) -> Result<Value, String> {
    let trimmed = text.trim();
    let inner = trimmed
        .strip_prefix("```")
        .and_then(|t| t.strip_suffix("```"))
        .map_or(trimmed, |t| t.trim_start_matches("json").trim());
    serde_json::from_str(inner).map_err(|e| format!("not JSON ({e})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn a_structured_answer_may_stand_in_a_code_fence_and_must_validate() {
        let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
        assert_eq!(parse_answer(&schema, "```json\n{\"n\": 1}\n```").await, Ok(json!({"n": 1})));
        assert_eq!(parse_answer(&schema, "{\"n\": 1}").await, Ok(json!({"n": 1})));
        let problem = parse_answer(&schema, "{\"n\": \"x\"}").await.expect_err("does not validate");
        assert!(problem.contains("/n"), "{problem}");
        assert!(parse_answer(&schema, "one").await.is_err());
        assert_eq!(parse_own_answer(&schema, "{\"n\": 1}"), Ok(json!({"n": 1})));
    }

    #[tokio::test]
    async fn a_long_validation_leaves_the_thread_to_others() {
        let schema =
            Arc::new(Schema::new(&json!({"items": {"enum": (0..500).collect::<Vec<_>>()}})).expect("is one"));
        let value = json!(vec![499; 10_000]);
        assert!(!schema.is_quick(&value));
        let (checked, others) = tokio::join!(biased; complaints(&schema, &value), async {
            // runs on the same thread while the other waits
            tokio::task::yield_now().await;
            true
        });
        assert!(checked.is_empty() && others, "{checked:?}");
        let caller = std::thread::current().id();
        let there = apart(|| std::thread::current().id()).await.expect("a place is free");
        assert_ne!(there, caller);
    }

    #[test]
    fn remote_references_are_refused() {
        assert!(check(&json!({"$ref": "https://example.com/schema.json"})).is_err());
    }
}
