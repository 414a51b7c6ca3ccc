//! Renewing tokens: one flight per credential, ahead of time, never losing a refresh token.
//!
//! Whoever finds a token used up or refused takes the connection's gate and looks again: when somebody has
//! renewed it meanwhile there is nothing left to do. The new tokens are written down, guarded by the version that
//! was read, before anybody uses them.

use super::Oauth;
use super::endpoint::{self, Client, Denied};
use crate::books::Status;
use crate::credentials::{Document, Renew, Tokens};
use crate::trouble::Trouble;
use async_trait::async_trait;
use contract::{ConnectionId, Timestamp};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Share of a token's life after which it is renewed, and how far that is spread. Later risks that a call meets a
/// dead token; earlier asks more often than needed; without the spread all Engines of a fleet ask at once.
const RENEW_AT_PERCENT: i64 = 80;
const SPREAD_PERCENT: i64 = 10;
/// Longest life that is believed. Larger overflows sums; smaller only renews earlier.
const LIFE_MAX_S: i64 = 10 * 365 * 86_400;

/// One gate per credential.
#[derive(Default)]
pub(crate) struct Flights(Mutex<HashMap<ConnectionId, Arc<tokio::sync::Mutex<()>>>>);

impl Flights {
    fn gate(&self, id: &ConnectionId) -> Arc<tokio::sync::Mutex<()>> {
        let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(gates.entry(id.clone()).or_default())
    }

    /// Forgets the gate of a connection that is gone.
    pub fn forget(&self, id: &ConnectionId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

/// When a token that lives `life_s` shall be renewed. `random` is any number.
pub(crate) fn refresh_at(now: Timestamp, life_s: i64, random: u32) -> Timestamp {
    let spread = i64::from(random % 2_001) - 1_000; // ±10.00 % in hundredths of a percent
    let share = RENEW_AT_PERCENT * 100 + spread * SPREAD_PERCENT / 10;
    now.plus_millis(life_s.clamp(0, LIFE_MAX_S) * 1_000 / 10_000 * share)
}

impl Oauth {
    /// Reads a token answer into `tokens`; when to renew comes back.
    pub fn take(&self, answer: &Value, mut tokens: Tokens) -> Result<(Tokens, Option<Timestamp>), Trouble> {
        let text = |name: &str| answer.get(name).and_then(Value::as_str).map(str::to_owned);
        let garbage = |what: &str| Trouble::Garbage(format!("its authorization server gives {what}"));
        let access = text("access_token").filter(|token| !token.is_empty());
        tokens.access_token = access.ok_or_else(|| garbage("no access token"))?;
        // what no header can carry would fail every call, and look like a refusal of the server
        let sendable = |token: &str| token.bytes().all(|byte| (0x20..=0x7e).contains(&byte));
        if !sendable(&tokens.access_token) {
            return Err(garbage("a token that cannot be sent"));
        }
        if text("token_type").is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
            return Err(garbage("a token that is not a bearer token"));
        }
        if let Some(refresh) = text("refresh_token").filter(|token| !token.is_empty()) {
            tokens.refresh_token = Some(refresh);
        }
        if let Some(scope) = text("scope") {
            tokens.scopes = crate::trouble::scopes(Some(&scope));
        }
        let now = (self.nature.now)();
        let life_s = answer.get("expires_in").and_then(life);
        tokens.expires_at_ms = life_s.map(|life_s| now.plus_millis(life_s * 1_000).millis());
        let mut random = [0_u8; 4];
        (self.nature.random)(&mut random);
        let renewable = tokens.refresh_token.is_some();
        let at =
            life_s.filter(|_| renewable).map(|life_s| refresh_at(now, life_s, u32::from_le_bytes(random)));
        Ok((tokens, at))
    }

    async fn expire(&self, id: &ConnectionId, why: &str) -> Result<bool, Trouble> {
        self.books.set_status(id, Status::Expired, Some(why.to_owned())).await?;
        Err(Trouble::Unauthorized(String::new()))
    }
}

fn life(value: &Value) -> Option<i64> {
    let seconds = value.as_i64().or_else(|| value.as_str()?.parse().ok());
    seconds.map(|seconds| seconds.clamp(0, LIFE_MAX_S))
}

#[async_trait]
impl Renew for Oauth {
    async fn renew(&self, id: &ConnectionId, version: i64) -> Result<bool, Trouble> {
        let gate = self.flights.gate(id);
        // held during the request on purpose: everybody else waits for its outcome
        let _flight = gate.lock().await;
        let connection = self.books.connection(id).await?.ok_or(Trouble::Gone)?;
        if connection.credential_version > version {
            return Ok(true);
        }
        let Some(sealed) = connection.credential else { return Ok(false) };
        let Ok(Document::Oauth(tokens)) = self.vault.document(&sealed.token) else { return Ok(false) };
        let Some(refresh_token) = tokens.refresh_token.clone() else {
            return self.expire(id, "the authorization has ended").await;
        };
        let client = Client {
            id: tokens.client_id.clone(),
            secret: tokens.client_secret.clone(),
            auth: tokens.client_auth.clone(),
        };
        let fields = [
            ("grant_type", "refresh_token"),
            ("refresh_token", refresh_token.as_str()),
            ("resource", tokens.resource.as_str()),
        ];
        let answer = match endpoint::post_form(&self.http, &tokens.token_endpoint, &client, &fields).await {
            Ok(answer) => answer,
            Err(Denied::Said(word)) => {
                tracing::info!(connection = %id, word, "An authorization could not be renewed");
                return self.expire(id, "the authorization could not be renewed").await;
            }
            Err(Denied::Broken(trouble)) => return Err(trouble),
        };
        let (tokens, refresh_at) = self.take(&answer, (*tokens).clone())?;
        let sealed = self.vault.sealed(&Document::Oauth(Box::new(tokens)), refresh_at);
        let sealed = sealed.map_err(|error| Trouble::Refused(error.to_string()))?;
        let kept = self.books.put_credential(id, connection.credential_version, sealed).await?;
        // not kept: somebody connected anew meanwhile, or the connection is gone
        Ok(kept || self.books.connection(id).await?.is_some_and(|now| now.credential_version > version))
    }

    fn now(&self) -> Timestamp {
        (self.nature.now)()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_renewed_at_four_fifths_of_their_life_give_or_take_a_tenth() {
        let start = Timestamp::from_millis(0);
        let (mut earliest, mut latest) = (i64::MAX, 0);
        for random in 0..2_001 {
            let at = refresh_at(start, 3_600, random).millis();
            (earliest, latest) = (earliest.min(at), latest.max(at));
        }
        assert_eq!((earliest, latest), (3_600 * 700, 3_600 * 900));
        assert_eq!(refresh_at(start, 3_600, 1_000).millis(), 3_600 * 800);
        assert_eq!(refresh_at(start, -5, 0), start);
        assert!(refresh_at(start, i64::MAX, 0).millis() > 0, "an absurd life does not overflow");
    }

    #[test]
    fn a_life_may_be_a_number_or_a_text() {
        assert_eq!(life(&serde_json::json!(60)), Some(60));
        assert_eq!(life(&serde_json::json!("60")), Some(60));
        assert_eq!(life(&serde_json::json!(-1)), Some(0));
        assert_eq!(life(&serde_json::json!(null)), None);
    }
}
