//! Where the process listens that is killed: its address, and whether it is there.

use super::{KEY, STUCK};
use contract::engine_api::KEY_HEADER;
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;

pub struct Place {
    pub url: String,
    pub client: reqwest::Client,
}

impl Place {
    pub fn on(port: u16) -> Self {
        Self { url: format!("http://127.0.0.1:{port}"), client: llm::net::client(Duration::from_secs(2)) }
    }

    /// What it answers; `None` when nobody does, or not with success.
    pub async fn json(&self, path: &str) -> Option<Value> {
        let request = self.client.get(format!("{}{path}", self.url)).header(KEY_HEADER, KEY);
        request.send().await.ok()?.error_for_status().ok()?.json().await.ok()
    }

    pub async fn is_up(&self) {
        let until = Instant::now() + STUCK;
        while self.json("/health").await.is_none() {
            assert!(Instant::now() < until, "the engine did not come back");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
