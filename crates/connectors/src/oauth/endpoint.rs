//! Posting a form to an authorization server and reading its JSON, with limits. Errors carry its error word only.

use crate::trouble::Trouble;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use http::{StatusCode, header};
use serde_json::Value;
use std::time::Duration;
use url::form_urlencoded::{Serializer, byte_serialize};

/// Largest answer. Tokens are a few kilobytes; more is no token.
const ANSWER_MAX_BYTES: usize = 256 * 1024;
/// Longest wait. A person waits in front of a browser for it, or a call does.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Longest error word that is repeated.
const WORD_MAX_CHARS: usize = 64;

/// How a client proves itself.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Client {
    pub id: String,
    pub secret: Option<String>,
    /// `none`, `client_secret_basic` or `client_secret_post`.
    pub auth: String,
}

/// Why an authorization server did not give what was asked for.
#[derive(Debug)]
pub(crate) enum Denied {
    /// It will not: its error word (`invalid_grant`).
    Said(String),
    /// It could not be asked, or its answer cannot be read.
    Broken(Trouble),
}

impl Denied {
    pub fn trouble(self) -> Trouble {
        match self {
            Self::Said(word) => Trouble::Refused(format!("its authorization server said {word}")),
            Self::Broken(trouble) => trouble,
        }
    }
}

/// The method to use with a server that accepts these; a client without a secret has none to prove.
pub(crate) fn client_auth(methods: &[String], has_secret: bool) -> &'static str {
    let accepts = |name: &str| methods.iter().any(|method| method == name);
    match has_secret {
        false => "none",
        true if methods.is_empty() || accepts("client_secret_basic") => "client_secret_basic",
        true if accepts("client_secret_post") => "client_secret_post",
        true => "client_secret_basic",
    }
}

/// Posts a form as this client.
pub(crate) async fn post_form(
    http: &reqwest::Client,
    endpoint: &str,
    client: &Client,
    fields: &[(&str, &str)],
) -> Result<Value, Denied> {
    send(form(http, endpoint, client, fields)).await
}

fn form(
    http: &reqwest::Client,
    endpoint: &str,
    client: &Client,
    fields: &[(&str, &str)],
) -> reqwest::RequestBuilder {
    let mut form = Serializer::new(String::new());
    form.extend_pairs(fields);
    let mut request = http.post(endpoint).header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
    match (client.auth.as_str(), &client.secret) {
        ("client_secret_basic", Some(secret)) => {
            let encode = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
            let pair = STANDARD.encode(format!("{}:{}", encode(&client.id), encode(secret)));
            request = request.header(header::AUTHORIZATION, format!("Basic {pair}"));
        }
        ("client_secret_post", Some(secret)) => {
            form.append_pair("client_id", &client.id).append_pair("client_secret", secret);
        }
        _ => {
            form.append_pair("client_id", &client.id);
        }
    }
    request.body(form.finish())
}

/// Posts JSON.
pub(crate) async fn post_json(http: &reqwest::Client, endpoint: &str, body: &Value) -> Result<Value, Denied> {
    send(http.post(endpoint).json(body)).await
}

async fn send(request: reqwest::RequestBuilder) -> Result<Value, Denied> {
    let request = request.header(header::ACCEPT, "application/json").timeout(ANSWER_MAX);
    let response = request.send().await.map_err(|error| Denied::Broken(Trouble::of_reqwest(&error)))?;
    let status = response.status();
    let mut body = Vec::new();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        body.extend_from_slice(&chunk.map_err(|error| Denied::Broken(Trouble::of_reqwest(&error)))?);
        if body.len() > ANSWER_MAX_BYTES {
            return Err(Denied::Broken(Trouble::Garbage("its authorization server says too much".into())));
        }
    }
    let answer = serde_json::from_slice::<Value>(&body).ok();
    if status.is_success() {
        return Ok(answer.unwrap_or(Value::Null));
    }
    let word = answer.as_ref().and_then(|answer| answer.get("error")).and_then(Value::as_str);
    match word {
        Some(word) if status.is_client_error() => Err(Denied::Said(
            word.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(WORD_MAX_CHARS).collect(),
        )),
        None if matches!(status, StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED) => {
            Err(Denied::Said(format!("HTTP {}", status.as_u16())))
        }
        Some(_) | None => Err(Denied::Broken(Trouble::Unreachable(format!(
            "its authorization server answered HTTP {}",
            status.as_u16()
        )))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_proves_itself_the_way_the_server_takes() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let table = [
            (list(&[]), true, "client_secret_basic"),
            (list(&["client_secret_post"]), true, "client_secret_post"),
            (list(&["client_secret_post", "client_secret_basic"]), true, "client_secret_basic"),
            (list(&["client_secret_basic"]), false, "none"),
            (list(&["none"]), false, "none"),
        ];
        for (methods, secret, expected) in table {
            assert_eq!(client_auth(&methods, secret), expected, "{methods:?}");
        }
    }
}
