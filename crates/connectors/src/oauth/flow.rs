//! Sending the person to the authorization server, and what comes back.
//!
//! The invariant: an answer is accepted once, within ten minutes, from the issuer that was asked.

use super::endpoint::{self, Client, Denied};
use super::{Oauth, discovery, pkce};
use crate::books::OauthState;
use crate::credentials::{Document, Tokens};
use crate::trouble::Trouble;
use contract::ConnectionId;
use serde::{Deserialize, Serialize};
use url::Url;

/// How long the person may take. Longer leaves a door open; shorter loses people who look for their password.
pub const STATE_LIFE_MS: i64 = 10 * 60 * 1_000;

/// What the person's application or browser brings back.
#[derive(Clone, Default)]
pub struct Callback {
    /// The authorization code.
    pub code: Option<String>,
    /// The state we gave.
    pub state: String,
    /// Who says so.
    pub iss: Option<String>,
    /// The server's error word instead of a code.
    pub error: Option<String>,
}

impl std::fmt::Debug for Callback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Callback([redacted])")
    }
}

/// What the exchange needs; sealed while the person is away.
#[derive(Serialize, Deserialize)]
struct Away {
    verifier: String,
    names_itself: bool,
    version: i64,
    tokens: Tokens,
}

/// What is wanted of an authorization.
pub(crate) struct Wanted<'a> {
    pub ref_id: &'a ConnectionId,
    pub server: &'a Url,
    /// Of the 401 that told that authorization is needed.
    pub challenge: Option<&'a str>,
    /// When neither challenge nor metadata say.
    pub scopes: &'a [String],
    /// Asked for in any case: what the person had, and what was missing.
    pub also: &'a [String],
    /// A client registered beforehand: id and secret.
    pub client: Option<(String, Option<String>)>,
    /// Version of the credential that will be replaced.
    pub version: i64,
}

/// Why an answer was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum Unfinished {
    /// The state is wrong, used or too old, or the issuer is another.
    #[error("the state is unknown, used or older than 10 minutes")]
    State,
    /// Another authorization server answered.
    #[error("the answer does not come from the authorization server that was asked")]
    Issuer(ConnectionId),
    /// The server said no, or the exchange failed.
    #[error("the authorization failed")]
    Exchange(ConnectionId, #[source] Trouble),
    /// The books failed.
    #[error(transparent)]
    Books(#[from] crate::books::BooksError),
}

impl Oauth {
    /// Prepares an authorization; the address to send the person to comes back.
    pub async fn begin(&self, wanted: Wanted<'_>) -> Result<Url, Trouble> {
        let mut found = discovery::discover(wanted.server, wanted.challenge, wanted.scopes).await?;
        for scope in wanted.also {
            if !found.scopes.contains(scope) {
                found.scopes.push(scope.clone());
            }
        }
        let client = self.client(&found, wanted.client).await?;
        let random = &*self.nature.random;
        let (verifier, state) = (pkce::token(random), pkce::token(random));
        let mut address = found.authorization_endpoint.clone();
        address
            .query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &client.id)
            .append_pair("redirect_uri", self.redirect_uri.as_str())
            .append_pair("state", &state)
            .append_pair("code_challenge", &pkce::challenge(&verifier))
            .append_pair("code_challenge_method", "S256")
            .append_pair("resource", &found.resource);
        if !found.scopes.is_empty() {
            address.query_pairs_mut().append_pair("scope", &found.scopes.join(" "));
        }
        if found.scopes.iter().any(|scope| scope == "offline_access") {
            address.query_pairs_mut().append_pair("prompt", "consent");
        }
        let tokens = Tokens {
            issuer: found.issuer.clone(),
            token_endpoint: found.token_endpoint.to_string(),
            revocation_endpoint: found.revocation_endpoint.map(|url| url.to_string()),
            resource: found.resource,
            client_id: client.id,
            client_secret: client.secret,
            client_auth: client.auth,
            access_token: String::new(),
            refresh_token: None,
            expires_at_ms: None,
            scopes: found.scopes,
        };
        let away = Away { verifier, names_itself: found.names_itself, version: wanted.version, tokens };
        let (verifier_enc, _) =
            self.vault.seal(&away).map_err(|error| Trouble::Refused(error.to_string()))?;
        let row = OauthState {
            state_hash: pkce::state_hash(&state),
            ref_id: wanted.ref_id.clone(),
            verifier_enc,
            issuer: found.issuer,
            redirect_uri: self.redirect_uri.to_string(),
            created_at: (self.nature.now)(),
        };
        self.books.put_state(row).await?;
        Ok(address)
    }

    /// Takes what the person brings back: the connection has its tokens then.
    pub async fn finish(&self, callback: Callback) -> Result<ConnectionId, Unfinished> {
        let oldest = (self.nature.now)().plus_millis(-STATE_LIFE_MS);
        let taken = self.books.take_state(&pkce::state_hash(&callback.state), oldest).await?;
        let state = taken.ok_or(Unfinished::State)?;
        let id = state.ref_id;
        let failed = |trouble| Unfinished::Exchange(id.clone(), trouble);
        let away: Away = self
            .vault
            .open(&state.verifier_enc)
            .map_err(|error| failed(Trouble::Refused(error.to_string())))?;
        match &callback.iss {
            Some(iss) if *iss != state.issuer => return Err(Unfinished::Issuer(id)),
            None if away.names_itself => return Err(Unfinished::Issuer(id)),
            Some(_) | None => {}
        }
        let Some(code) = callback.code.filter(|_| callback.error.is_none()) else {
            return Err(failed(Trouble::Refused("the authorization was not given".into())));
        };
        let Away { verifier, version, tokens, .. } = away;
        let client = Client {
            id: tokens.client_id.clone(),
            secret: tokens.client_secret.clone(),
            auth: tokens.client_auth.clone(),
        };
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", code.as_str()),
            ("redirect_uri", state.redirect_uri.as_str()),
            ("code_verifier", verifier.as_str()),
            ("resource", tokens.resource.as_str()),
        ];
        let answer = endpoint::post_form(&self.http, &tokens.token_endpoint, &client, &fields)
            .await
            .map_err(|denied| failed(denied.trouble()))?;
        let (tokens, refresh_at) = self.take(&answer, tokens).map_err(failed)?;
        let sealed = self.vault.sealed(&Document::Oauth(Box::new(tokens)), refresh_at);
        let sealed = sealed.map_err(|error| failed(Trouble::Refused(error.to_string())))?;
        if !self.books.put_credential(&id, version, sealed).await? {
            return Err(Unfinished::State);
        }
        Ok(id)
    }

    /// Tells the authorization server that the tokens are not needed any more. Best effort.
    pub async fn revoke(&self, sealed: &str) {
        let Ok(Document::Oauth(tokens)) = self.vault.document(sealed) else { return };
        let Some(endpoint) = &tokens.revocation_endpoint else { return };
        let client = Client {
            id: tokens.client_id.clone(),
            secret: tokens.client_secret.clone(),
            auth: tokens.client_auth.clone(),
        };
        let (token, hint) = match &tokens.refresh_token {
            Some(refresh) => (refresh.as_str(), "refresh_token"),
            None => (tokens.access_token.as_str(), "access_token"),
        };
        let fields = [("token", token), ("token_type_hint", hint)];
        if let Err(denied) = endpoint::post_form(&self.http, endpoint, &client, &fields).await {
            let why = match denied {
                Denied::Said(word) => word,
                Denied::Broken(trouble) => trouble.to_string(),
            };
            tracing::info!(why, "A connector's tokens could not be revoked; they end by themselves");
        }
    }
}
