//! Becoming a client of an authorization server: registered beforehand, by a metadata document, or by dynamic
//! registration.
//!
//! The invariant: a client's id and secret are used with the issuer that gave them and with no other.

use super::Oauth;
use super::discovery::Found;
use super::endpoint::{self, Client, Denied};
use crate::books::OauthClient;
use crate::server::is_loopback;
use crate::trouble::Trouble;
use serde_json::{Value, json};
use url::Url;

impl Oauth {
    /// The client to use with this server. `given` is one that was registered beforehand: id and secret.
    pub async fn client(
        &self,
        found: &Found,
        given: Option<(String, Option<String>)>,
    ) -> Result<Client, Trouble> {
        if let Some((id, secret)) = given {
            let auth = endpoint::client_auth(&found.client_auth_methods, secret.is_some()).to_owned();
            return Ok(Client { id, secret, auth });
        }
        if found.takes_documents
            && let Some(url) = &self.client_metadata_url
        {
            return Ok(Client { id: url.to_string(), secret: None, auth: "none".into() });
        }
        let redirect_uri = self.redirect_uri.to_string();
        if let Some(known) = self.books.client(&found.issuer, &redirect_uri).await? {
            let secret = match &known.client_secret_enc {
                None => None,
                Some(sealed) => match self.vault.open::<String>(sealed) {
                    Ok(secret) => Some(secret),
                    Err(_) => return self.register(found, redirect_uri).await,
                },
            };
            return Ok(client(found, known.client_id, secret, &known.metadata));
        }
        self.register(found, redirect_uri).await
    }

    async fn register(&self, found: &Found, redirect_uri: String) -> Result<Client, Trouble> {
        let Some(endpoint) = &found.registration_endpoint else {
            return Err(Trouble::Refused(
                "its authorization server takes no new clients; give client_id and client_secret".into(),
            ));
        };
        let public = json!(
            found.client_auth_methods.is_empty()
                || found.client_auth_methods.iter().any(|method| method == "none")
        );
        let method = match public {
            Value::Bool(true) => "none",
            _ => endpoint::client_auth(&found.client_auth_methods, true),
        };
        let body = metadata(&redirect_uri, is_loopback(&self.redirect_uri), method, &found.scopes);
        let answer =
            endpoint::post_json(&self.http, endpoint.as_str(), &body).await.map_err(Denied::trouble)?;
        let Some(id) = answer.get("client_id").and_then(Value::as_str) else {
            return Err(Trouble::Garbage("its authorization server registers without a client_id".into()));
        };
        let secret = answer.get("client_secret").and_then(Value::as_str).map(str::to_owned);
        let sealed = match &secret {
            None => None,
            Some(secret) => {
                let sealed = self.vault.seal(secret).map_err(|error| Trouble::Refused(error.to_string()))?;
                Some(sealed.0)
            }
        };
        let said = json!({"token_endpoint_auth_method": answer.get("token_endpoint_auth_method")});
        let row = OauthClient {
            issuer: found.issuer.clone(),
            redirect_uri,
            client_id: id.to_owned(),
            client_secret_enc: sealed,
            metadata: said.clone(),
        };
        self.books.put_client(row).await?;
        Ok(client(found, id.to_owned(), secret, &said))
    }
}

/// What is said about ourselves.
pub(crate) fn metadata(redirect_uri: &str, local: bool, method: &str, scopes: &[String]) -> Value {
    let mut body = json!({
        "client_name": "September Engine",
        "redirect_uris": [redirect_uri],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": method,
        "application_type": if local { "native" } else { "web" },
    });
    if !scopes.is_empty() {
        body["scope"] = json!(scopes.join(" "));
    }
    body
}

/// The document behind a client id that is an address: what dynamic registration would have said, and the
/// address itself (draft-ietf-oauth-client-id-metadata-document, section 4).
pub fn client_document(client_id: &Url, redirect_uri: &Url) -> Value {
    let mut document = metadata(redirect_uri.as_str(), is_loopback(redirect_uri), "none", &[]);
    document["client_id"] = json!(client_id);
    document
}

fn client(found: &Found, id: String, secret: Option<String>, said: &Value) -> Client {
    let told = said.get("token_endpoint_auth_method").and_then(Value::as_str);
    let auth = match told {
        Some(method @ ("client_secret_basic" | "client_secret_post")) if secret.is_some() => method,
        _ => endpoint::client_auth(&found.client_auth_methods, secret.is_some()),
    };
    Client { id, auth: auth.to_owned(), secret }
}
