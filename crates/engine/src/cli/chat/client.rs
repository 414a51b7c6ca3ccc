//! The Engine as the terminal client sees it: a few calls, and failures that say what to do.

use contract::engine_api::{ExecuteRequest, IDEMPOTENCY_HEADER, KEY_HEADER, LAST_EVENT_ID_HEADER};
use contract::{ApiError, ErrorCode};
use reqwest::{RequestBuilder, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

/// How long one plain call may take. Longer leaves a person staring at nothing; shorter would give up on
/// an Engine that waits for its disk.
const CALL_LIMIT: Duration = Duration::from_secs(20);

/// Page size when reading a whole conversation: the largest the API allows, for the fewest calls.
const PAGE: usize = 200;

/// Most pages read to find the end of a conversation. A longer conversation shows an older part.
const MAX_PAGES: usize = 100;

/// Why a call did not succeed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Failure {
    /// Nothing answers at the address.
    #[error("nothing answers at {url} ({why})")]
    Down {
        /// The address.
        url: String,
        /// What the system said.
        why: String,
    },
    /// The connection broke before an answer came.
    #[error("the connection broke ({0})")]
    Cut(String),
    /// The Engine answered with an error.
    #[error("{0}")]
    Refused(ApiError),
    /// Something answered that is not an Engine.
    #[error("{url} does not answer like an Engine ({what})")]
    NotAnEngine {
        /// The address.
        url: String,
        /// What came instead.
        what: String,
    },
}

impl Failure {
    /// The code of the Engine's own refusal.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Failure::Refused(error) => Some(error.error),
            Failure::Down { .. } | Failure::Cut(_) | Failure::NotAnEngine { .. } => None,
        }
    }

    /// Will the same call probably succeed once the Engine is back?
    pub fn may_pass(&self) -> bool {
        match self {
            Failure::Down { .. } | Failure::Cut(_) => true,
            Failure::Refused(error) => {
                matches!(error.error, ErrorCode::Starting | ErrorCode::Draining | ErrorCode::BrainLocked)
            }
            Failure::NotAnEngine { .. } => false,
        }
    }

    /// The failure with what a person can do about it.
    pub fn advice(&self) -> String {
        match self {
            Failure::Down { url, .. } => format!(
                "{self}\n  start the Engine:   {program} serve\n  \
                 without any key:    LLM_PROVIDER=offline {program} serve\n  \
                 it runs elsewhere:  {program} chat --url http://host:port   (now {url})",
                program = crate::cli::called()
            ),
            Failure::Refused(error) => match error.error {
                ErrorCode::InvalidKey | ErrorCode::KeyRotationPending => format!(
                    "the Engine does not accept the key ({})\n  chat sends ENGINE_API_KEY from the environment \
                     or .env; it must be the key the Engine was started with.\n  `september-engine hash-key` \
                     prints the ENGINE_KEY_HASH of a key, to compare.",
                    error.error
                ),
                _ => format!("{}: {}", error.error, crate::cli::terminal::clean(&error.message)),
            },
            Failure::Cut(_) | Failure::NotAnEngine { .. } => self.to_string(),
        }
    }
}

/// One conversation in a list.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Task {
    /// Its name.
    pub task_id: String,
    /// Its first words.
    #[serde(default)]
    pub title: Option<String>,
    /// idle, queued, running or paused.
    #[serde(default)]
    pub status: String,
    /// How many turns it has had.
    #[serde(default)]
    pub turn_count: u64,
    /// When something last happened.
    #[serde(default)]
    pub updated_at: String,
    /// The newest turn.
    #[serde(default)]
    pub last_turn: Option<LastTurn>,
}

/// The newest turn of a task.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct LastTurn {
    /// Its name.
    pub turn_id: String,
}

/// One stored message.
#[derive(Debug, Clone, Deserialize)]
pub struct Message {
    /// Its name.
    pub message_id: String,
    /// The turn it belongs to.
    #[serde(default)]
    pub turn_id: String,
    /// user, assistant or tool.
    pub role: String,
    /// Its blocks.
    #[serde(default)]
    pub content: Vec<Value>,
}

impl Message {
    /// The readable text of the message.
    pub fn text(&self) -> String {
        let texts = self.content.iter().filter(|b| b["type"] == "text").filter_map(|b| b["text"].as_str());
        texts.collect::<Vec<_>>().join("\n")
    }
}

/// An Engine at an address.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: String,
}

impl Client {
    /// An Engine at `base` that accepts `key`.
    pub fn new(http: reqwest::Client, base: &str, key: String) -> Self {
        Self { http, base: base.trim_end_matches('/').to_owned(), key }
    }

    /// The address.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// GET /version: proves address and key at once.
    pub async fn version(&self) -> Result<Value, Failure> {
        self.json(self.get("/version")).await
    }

    /// The newest conversations.
    pub async fn tasks(&self, limit: usize) -> Result<Vec<Task>, Failure> {
        let answer = self.json(self.get("/tasks").query(&[("limit", limit)])).await?;
        self.field(answer, "tasks")
    }

    /// One conversation; `None` when it does not exist yet.
    pub async fn task(&self, id: &str) -> Result<Option<Task>, Failure> {
        match self.json(self.get(&format!("/tasks/{}", path_segment(id)))).await {
            Ok(answer) => serde_json::from_value(answer).map(Some).map_err(|e| self.odd(&e.to_string())),
            Err(failure) if failure.code() == Some(ErrorCode::TaskNotFound) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// All active messages of a conversation, oldest first.
    pub async fn messages(&self, id: &str) -> Result<Vec<Message>, Failure> {
        let path = format!("/tasks/{}/messages", path_segment(id));
        let mut all = Vec::new();
        let mut cursor: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let mut query = vec![("limit", PAGE.to_string())];
            query.extend(cursor.take().map(|c| ("cursor", c)));
            let answer = self.json(self.get(&path).query(&query)).await?;
            cursor = answer["next_cursor"].as_str().map(str::to_owned);
            all.extend(self.field::<Message>(answer, "messages")?);
            if cursor.is_none() {
                break;
            }
        }
        Ok(all)
    }

    /// Every question that waits for a person, oldest first.
    pub async fn pending(&self) -> Result<Vec<Value>, Failure> {
        let answer = self.json(self.get("/hitl/pending")).await?;
        self.field(answer, "pending")
    }

    /// Answers one question.
    pub async fn respond(&self, request: &str, answer: &str, feedback: Option<&str>) -> Result<(), Failure> {
        let mut body = json!({"request_id": request, "answer": answer});
        if let Some(feedback) = feedback {
            body["feedback"] = feedback.into();
        }
        self.json(self.post("/hitl/respond").json(&body)).await.map(|_| ())
    }

    /// Cancels what the task is doing; the answer is `cancelling` or `idle`.
    pub async fn cancel(&self, task: &str) -> Result<String, Failure> {
        let answer = self.json(self.post("/execute/cancel").json(&json!({"task_id": task}))).await?;
        Ok(answer["status"].as_str().unwrap_or_default().to_owned())
    }

    /// Opens a turn's stream; the key makes sending it again join the same turn.
    pub async fn execute(&self, body: &ExecuteRequest, idempotency_key: &str) -> Result<Response, Failure> {
        let request = self.post("/execute").header(IDEMPOTENCY_HEADER, idempotency_key).json(body);
        self.stream(request).await
    }

    /// Opens the stored and following events of a task after `last`.
    pub async fn replay(&self, task: &str, last: Option<i64>) -> Result<Response, Failure> {
        let mut request = self.get("/execute/replay").query(&[("task_id", task)]);
        if let Some(last) = last {
            request = request.header(LAST_EVENT_ID_HEADER, last);
        }
        self.stream(request).await
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.http.get(format!("{}{path}", self.base)).header(KEY_HEADER, &self.key)
    }

    fn post(&self, path: &str) -> RequestBuilder {
        self.http.post(format!("{}{path}", self.base)).header(KEY_HEADER, &self.key)
    }

    async fn json(&self, request: RequestBuilder) -> Result<Value, Failure> {
        let response = request.timeout(CALL_LIMIT).send().await.map_err(|e| self.unreachable(e))?;
        let response = self.checked(response).await?;
        response.json().await.map_err(|e| self.odd(&llm::net::describe(e)))
    }

    async fn stream(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let response = request.send().await.map_err(|e| self.unreachable(e))?;
        let response = self.checked(response).await?;
        let kind = response.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
        if kind.starts_with("text/event-stream") {
            Ok(response)
        } else {
            Err(self.odd(&format!("expected an event stream, got {kind:?}")))
        }
    }

    async fn checked(&self, response: Response) -> Result<Response, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.text().await.unwrap_or_default();
        Err(match serde_json::from_str::<ApiError>(&text) {
            Ok(error) => Failure::Refused(error),
            Err(_) => self.odd(&format!("status {status}")),
        })
    }

    fn field<T: serde::de::DeserializeOwned>(
        &self,
        mut answer: Value,
        name: &str,
    ) -> Result<Vec<T>, Failure> {
        serde_json::from_value(answer[name].take()).map_err(|e| self.odd(&format!("{name}: {e}")))
    }

    fn odd(&self, what: &str) -> Failure {
        Failure::NotAnEngine { url: self.base.clone(), what: what.to_owned() }
    }

    fn unreachable(&self, error: reqwest::Error) -> Failure {
        if error.is_connect() {
            Failure::Down { url: self.base.clone(), why: innermost(&error) }
        } else {
            Failure::Cut(llm::net::describe(error))
        }
    }
}

/// The last cause of a chain, which for a refused connection is the only one a person understands.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// A task id as one segment of a path.
fn path_segment(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'_' | b'~')
            || (byte == b'.' && text.len() > 2)
        {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("writing to a String cannot fail");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_task_id_is_one_path_segment() {
        assert_eq!(path_segment("demo-1.a"), "demo-1.a");
        assert_eq!(path_segment("a/b ü"), "a%2Fb%20%C3%BC");
        assert_eq!(path_segment(".."), "%2E%2E");
    }

    #[test]
    fn a_failure_says_what_to_do() {
        let down = Failure::Down { url: "http://127.0.0.1:8000".into(), why: "Connection refused".into() };
        assert!(down.advice().contains(&format!("{} serve\n", crate::cli::called())));
        let key = Failure::Refused(ApiError::new(ErrorCode::InvalidKey, "no"));
        assert!(key.advice().contains("ENGINE_API_KEY") && !key.may_pass());
    }
}
