//! OpenAI's embeddings endpoint, and every server that imitates it: the request and the answer as pure functions, and
//! the calls.
//!
//! Texts go out in groups the endpoint takes, one after another. A group that is too large after all is halved, and a
//! text that is too long alone is cut to what surely fits, so that one odd text never keeps the others from their
//! vectors. Blank texts are not sent, because OpenAI refuses them; their vectors are zeros. Redirects are not
//! followed, an answer is never larger than the vectors that were asked for, and the key goes only to the configured
//! host.

use super::{Embedder, EmbeddingProvider, MAX_TEXT_TOKENS, beginning, to_unit_length};
use crate::errors::Refusal;
use crate::net::describe;
use crate::provider::{CallError, ErrorKind};
use crate::retry::back_off;
use crate::tokens::estimate;
use crate::wire::{Line, Outgoing, Timeouts, post, read_refusal};
use futures::StreamExt;
use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Where OpenAI itself is.
pub const DEFAULT_BASE: &str = "https://api.openai.com/v1";

/// Most texts of one request. OpenAI takes 2048; with more, one refused text would cost more work again.
pub const MAX_TEXTS: usize = 64;

/// Most tokens of one request, by estimate. OpenAI refuses more than 300000 real ones, and other scripts than Latin
/// take up to twice the estimate; fewer would make more requests than needed.
pub const MAX_REQUEST_TOKENS: u64 = 150_000;

/// Time from sending a request to the last byte of its answer. Longer would hold up the next try; shorter would fail
/// full groups on slow servers.
pub const CALL_LIMIT: Duration = Duration::from_secs(20);

/// How often a failed call is sent again. More would be noticed by nobody but the endpoint; fewer would pass every
/// restart of a server on to the caller.
pub const MAX_RETRIES: u32 = 3;

/// What surely fits a model's 8191 tokens whatever the script: a token is never less than a byte. Longer could be
/// refused for ever; shorter loses more of a text that is mostly symbols.
const SURE_BYTES: usize = 8000;

/// Most bytes a number of a vector takes in JSON, with indentation. Fewer would refuse servers that print neatly;
/// more would let a broken one fill the memory.
const BYTES_PER_NUMBER: usize = 48;

/// Bytes of an answer beside the numbers, per text and for the frame.
const BYTES_AROUND: usize = 1024;

/// What errors call the other side.
const NAME: &str = "the embeddings endpoint";

/// The endpoint as an [`Embedder`]. Has no `Debug`, because it holds the key.
pub struct OpenAiEmbedder {
    line: Line,
    key: Option<String>,
    url: String,
    model: String,
    dim: usize,
    limit: Duration,
    wait: fn(u32) -> Duration,
}

impl OpenAiEmbedder {
    /// Nothing is connected yet. `base` replaces [`DEFAULT_BASE`] exactly.
    pub fn new(base: Option<&str>, key: Option<String>, model: String, dim: usize) -> Self {
        let url = format!("{}/embeddings", base.unwrap_or(DEFAULT_BASE).trim_end_matches('/'));
        let line = Line::new(Timeouts::default(), key.clone());
        let wait = |retry| back_off(retry, rand::random());
        Self { line, key, url, model, dim, limit: CALL_LIMIT, wait }
    }

    /// Waits this long before retry number n (from 0) instead; for tests.
    pub fn with_waits(mut self, wait: fn(u32) -> Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Gives a call this much time instead of [`CALL_LIMIT`]; for tests.
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The vectors of texts none of which is blank.
    async fn embed_all(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, CallError> {
        let mut vectors = Vec::with_capacity(texts.len());
        // Groups still to send, the next one last.
        let mut groups = groups(texts);
        groups.reverse();
        while let Some(group) = groups.pop() {
            match self.patiently(&group).await {
                Ok(more) => vectors.extend(more),
                Err(error) if error.kind == ErrorKind::Overflow => match smaller(group) {
                    Some(parts) => groups.extend(parts.into_iter().rev()),
                    None => return Err(error),
                },
                Err(error) => return Err(error),
            }
        }
        Ok(vectors)
    }

    /// One group, sent again when that may help.
    async fn patiently(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, CallError> {
        let mut retries = 0;
        loop {
            match self.call(texts).await {
                Err(error) if error.is_retryable() && retries < MAX_RETRIES => {
                    let wait = (self.wait)(retries);
                    retries += 1;
                    tracing::debug!(
                        model = %self.model,
                        kind = ?error.kind,
                        status = error.status,
                        retry = retries,
                        wait_ms = wait.as_millis() as u64,
                        "Embedding call failed; it is sent again"
                    );
                    tokio::time::sleep(wait).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// One request and its answer.
    async fn call(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, CallError> {
        let by = Instant::now() + self.limit;
        let outgoing = request(&self.url, self.key.as_deref(), &self.model, self.dim, texts);
        let too_slow = |_| {
            let seconds = self.limit.as_secs_f64();
            CallError::new(ErrorKind::Timeout, format!("{NAME} did not answer within {seconds} s"))
        };
        let response = timeout_at(by, post(&self.line, NAME, None, outgoing)).await.map_err(too_slow)??;
        if !response.status().is_success() {
            let refusal = read_refusal(response, by.saturating_duration_since(Instant::now())).await;
            return Err(refused(refusal, self.key.as_deref()));
        }
        let most = texts.len() * (self.dim * BYTES_PER_NUMBER + BYTES_AROUND) + BYTES_AROUND;
        let body = timeout_at(by, read_body(response, most)).await.map_err(too_slow)??;
        read_answer(&body, texts.len(), self.dim)
    }
}

impl Embedder for OpenAiEmbedder {
    fn provider(&self) -> EmbeddingProvider {
        EmbeddingProvider::OpenAi
    }

    fn model(&self) -> &str {
        &self.model
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn embed<'a>(&'a self, texts: &'a [String]) -> BoxFuture<'a, Result<Vec<Vec<f32>>, CallError>> {
        Box::pin(async move {
            let told: Vec<&str> = texts.iter().map(|t| t.trim()).filter(|t| !t.is_empty()).collect();
            let mut vectors = self.embed_all(&told).await?.into_iter();
            let of = |text: &String| match text.trim().is_empty() {
                true => vec![0.0; self.dim],
                false => vectors.next().expect("an answer has exactly one vector per text sent"),
            };
            Ok(texts.iter().map(of).collect())
        })
    }
}

/// Cuts texts to their limit and puts them into groups that one request may hold.
fn groups<'a>(texts: &[&'a str]) -> Vec<Vec<&'a str>> {
    let mut groups: Vec<Vec<&str>> = Vec::new();
    let mut tokens = 0;
    for text in texts {
        let text = beginning(text, MAX_TEXT_TOKENS);
        let cost = estimate(text.len() as u64);
        match groups.last_mut() {
            Some(group) if group.len() < MAX_TEXTS && tokens + cost <= MAX_REQUEST_TOKENS => {
                tokens += cost;
                group.push(text);
            }
            _ => {
                tokens = cost;
                groups.push(vec![text]);
            }
        }
    }
    groups
}

/// What to send instead of a group that was too large. `None` when nothing smaller is left.
fn smaller(mut group: Vec<&str>) -> Option<Vec<Vec<&str>>> {
    if let [text] = group[..] {
        return (text.len() > SURE_BYTES).then(|| vec![vec![&text[..text.floor_char_boundary(SURE_BYTES)]]]);
    }
    let second = group.split_off(group.len() / 2);
    Some(vec![group, second])
}

/// How many numbers a model gives when it is not asked for fewer. `None` for a model we do not know.
fn own_dim(model: &str) -> Option<usize> {
    match model {
        "text-embedding-3-small" => Some(1536),
        "text-embedding-3-large" => Some(3072),
        _ => None,
    }
}

/// The request. Only OpenAI's third generation takes `dimensions`; others refuse the field.
pub fn request(url: &str, key: Option<&str>, model: &str, dim: usize, texts: &[&str]) -> Outgoing {
    let mut body = json!({"model": model, "input": texts});
    if model.starts_with("text-embedding-3-") && own_dim(model) != Some(dim) {
        body["dimensions"] = json!(dim);
    }
    let mut headers = vec![("accept", "application/json".to_owned())];
    headers.extend(key.map(|key| ("authorization", format!("Bearer {key}"))));
    Outgoing { url: url.to_owned(), headers, body }
}

#[derive(Deserialize)]
struct Answer {
    data: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    /// Some imitators leave it out and keep the order.
    index: Option<usize>,
    embedding: Vec<f32>,
}

/// The vectors of an answer, in the order of the texts, of length 1.
pub fn read_answer(body: &[u8], texts: usize, dim: usize) -> Result<Vec<Vec<f32>>, CallError> {
    let broken = |what: String| CallError::new(ErrorKind::Stream, format!("{NAME} {what}"));
    // What serde says would quote the answer, and with it nothing that helps.
    let answer: Answer = serde_json::from_slice(body)
        .map_err(|_| broken("sent something that is no list of vectors".into()))?;
    if answer.data.len() != texts {
        return Err(broken(format!("sent {} vectors for {texts} texts", answer.data.len())));
    }
    let mut vectors = vec![None; texts];
    for (position, item) in answer.data.into_iter().enumerate() {
        if item.embedding.len() != dim {
            let found = item.embedding.len();
            // Asking again would give the same: it is the setting that is wrong.
            let text = format!("{NAME} sent a vector of {found} numbers; EMBEDDING_DIM is {dim}");
            return Err(CallError::new(ErrorKind::Model, text));
        }
        if !item.embedding.iter().all(|x| x.is_finite()) {
            return Err(broken("sent a vector with a number that is none".into()));
        }
        let mut vector = item.embedding;
        to_unit_length(&mut vector);
        match vectors.get_mut(item.index.unwrap_or(position)) {
            Some(place @ None) => *place = Some(vector),
            _ => return Err(broken("sent vectors that do not belong to the texts one by one".into())),
        }
    }
    Ok(vectors.into_iter().flatten().collect())
}

/// The error of an answer that is a refusal.
fn refused(refusal: Refusal, key: Option<&str>) -> CallError {
    let kind = match refusal.kind_by_status() {
        ErrorKind::BadRequest if says_too_much(&refusal.text) => ErrorKind::Overflow,
        kind => kind,
    };
    let status = refusal.status;
    let mut error = refusal.into_error(NAME, kind, key);
    if (300..400).contains(&status) {
        error.message = format!(
            "{NAME} answered {status}: it redirects to another address, which is not followed; set EMBEDDING_BASE_URL to the final one"
        );
    }
    error
}

/// Does this text say that all texts together are too long?
fn says_too_much(text: &str) -> bool {
    let lower = text.to_lowercase();
    ["tokens per request", "maximum request size", "batch size", "max_tokens_per_request"]
        .iter()
        .any(|phrase| lower.contains(phrase))
}

/// Reads an answer that may have at most this many bytes.
async fn read_body(response: reqwest::Response, most: usize) -> Result<Vec<u8>, CallError> {
    let mut body = Vec::new();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|e| {
            CallError::new(ErrorKind::Stream, format!("{NAME}'s answer broke off: {}", describe(e)))
        })?;
        if body.len() + chunk.len() > most {
            // The same model would send the same again.
            let text = format!("{NAME} sent more than {most} bytes; is EMBEDDING_DIM right?");
            return Err(CallError::new(ErrorKind::Model, text));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_holds_what_one_request_may_hold() {
        let short = ["x"; 130];
        assert_eq!(groups(&short).iter().map(Vec::len).collect::<Vec<_>>(), [64, 64, 2]);
        let long = "y".repeat(100_000);
        let long = [long.as_str(); 20];
        let groups = groups(&long);
        assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [18, 2]);
        assert!(groups.iter().flatten().all(|t| estimate(t.len() as u64) <= MAX_TEXT_TOKENS));
        assert_eq!(super::groups(&[]), Vec::<Vec<&str>>::new());
    }

    #[test]
    fn halving_ends_and_loses_no_text() {
        let text = "z".repeat(9_000);
        let mut open = vec![vec!["a", text.as_str(), "b"]];
        let mut last = Vec::new();
        while let Some(group) = open.pop() {
            let alone = group.len() == 1;
            match smaller(group.clone()) {
                Some(parts) => open.extend(parts.into_iter().rev()),
                None => last.push(group.concat().len()),
            }
            assert!(alone || last.is_empty() || open.len() < 3);
        }
        assert_eq!(last, [1, SURE_BYTES, 1]);
    }

    #[test]
    fn both_limits_of_a_request_are_known_by_their_words() {
        for said in [
            "This model's maximum context length is 8192 tokens, however you requested 9001 tokens",
            "Requested 400000 tokens, max 300000 tokens per request",
        ] {
            let body = json!({"error": {"message": said}}).to_string();
            let refusal = Refusal::new(400, http::HeaderMap::new(), body.as_bytes());
            assert_eq!(refused(refusal, None).kind, ErrorKind::Overflow, "{said}");
        }
        let other = Refusal::new(400, http::HeaderMap::new(), b"no such field");
        assert_eq!(refused(other, None).kind, ErrorKind::BadRequest);
    }
}
