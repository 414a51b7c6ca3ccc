//! A caller of one engine, as a product is one: it knows a URL and a key and nothing else.

use super::process::PATIENCE;
use serde_json::{Value, json};

/// One engine as it was handed out.
#[derive(Clone)]
pub struct Engine {
    pub id: String,
    pub url: String,
    pub key: String,
    pub http: reqwest::Client,
}

/// What a turn streamed, as event and data.
pub struct Turn(pub Vec<(String, Value)>);

impl Turn {
    fn read(text: &str) -> Self {
        let mut frames = Vec::new();
        let mut event = String::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("event: ") {
                name.clone_into(&mut event);
            }
            if let Some(data) = line.strip_prefix("data: ") {
                frames.push((event.clone(), serde_json::from_str(data).expect("data is JSON")));
            }
        }
        Self(frames)
    }

    /// The text that was said.
    pub fn text(&self) -> String {
        let deltas = self.0.iter().filter(|(event, _)| event == "text_delta");
        deltas.filter_map(|(_, data)| data["text"].as_str()).collect()
    }

    /// True when it began with `started` and ended with `completed`.
    pub fn is_whole(&self) -> bool {
        let phase = |frame: Option<&(String, Value)>| {
            frame.and_then(|(_, data)| data["phase"].as_str()).unwrap_or_default().to_owned()
        };
        phase(self.0.first()) == "started" && phase(self.0.last()) == "completed"
    }
}

impl Engine {
    /// From a record or the answer of a provision.
    pub fn of(record: &Value) -> Self {
        let word =
            |name: &str| record[name].as_str().unwrap_or_else(|| panic!("no {name}: {record}")).to_owned();
        let _ = rustls::crypto::ring::default_provider().install_default();
        #[allow(clippy::disallowed_methods, reason = "plain HTTP on the loopback")]
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().expect("a client");
        Self { id: word("engine_id"), url: word("url"), key: word("api_key"), http }
    }

    fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).header("x-engine-key", &self.key)
    }

    /// Begins a turn; the answer streams.
    pub async fn execute(&self, task: &str, message: &str) -> reqwest::Response {
        let body = json!({"task_id": task, "message": message}).to_string();
        let request =
            self.request(reqwest::Method::POST, "/execute").header("content-type", "application/json");
        request.body(body).send().await.expect("the engine answers")
    }

    /// One whole turn.
    pub async fn turn(&self, task: &str, message: &str) -> Turn {
        let response = self.execute(task, message).await;
        assert_eq!(response.status(), 200);
        let turn = Turn::read(&response.text().await.expect("the stream ends in order"));
        assert!(turn.is_whole(), "{:?}", turn.0);
        turn
    }

    pub async fn json(&self, path: &str) -> Value {
        let response = self.request(reqwest::Method::GET, path).send().await.expect("the engine answers");
        let text = response.text().await.expect("a body");
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}: {text}"))
    }

    /// Ends the turn of a task.
    pub async fn cancel(&self, task: &str) {
        let request = self.request(reqwest::Method::POST, "/execute/cancel");
        let request =
            request.header("content-type", "application/json").body(json!({"task_id": task}).to_string());
        assert_eq!(request.send().await.expect("the engine answers").status(), 200);
    }

    /// The texts of a task, oldest first.
    pub async fn texts(&self, task: &str) -> Vec<String> {
        let answer = self.json(&format!("/tasks/{task}/messages")).await;
        let messages = answer["messages"].as_array().unwrap_or_else(|| panic!("{answer}"));
        messages.iter().map(|m| m["content"][0]["text"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Whether the engine takes this key; `None` = no answer.
    pub async fn opens(&self, key: &str) -> Option<bool> {
        let request = self.http.get(format!("{}/version", self.url)).header("x-engine-key", key);
        request.send().await.ok().map(|answer| answer.status() == 200)
    }
}
