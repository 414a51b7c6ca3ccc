//! The secrets of one connection: one JSON document, sealed under the first key of AD_ENCRYPTION_KEY.
//!
//! Documents are opened for one outbound request and dropped with it. The invariant: no type of this file can be
//! printed, and no error of it holds a value.

use crate::books::{Books, BooksError, Sealed, Status};
use crate::passes::{Pass, Passes};
use crate::trouble::Trouble;
use async_trait::async_trait;
use chassis::config::Secret;
use chassis::seal::MasterKeys;
use contract::{ConnectionId, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Told of every value that must never be shown, so that it can be scrubbed elsewhere.
pub type Learn = Arc<dyn Fn(&str) + Send + Sync>;

/// What a connection shows its server.
#[derive(Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Document {
    /// Headers that the person entered.
    Static {
        /// By lower-case name.
        headers: BTreeMap<String, String>,
    },
    /// Tokens of an authorization server.
    Oauth(Box<Tokens>),
}

/// Tokens, and where they are renewed and revoked.
#[derive(Clone, Serialize, Deserialize, PartialEq, Eq)]
pub(crate) struct Tokens {
    pub issuer: String,
    pub token_endpoint: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revocation_endpoint: Option<String>,
    pub resource: String,
    pub client_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<String>,
    /// `none`, `client_secret_basic` or `client_secret_post`.
    pub client_auth: String,
    pub access_token: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at_ms: Option<i64>,
    #[serde(default)]
    pub scopes: Vec<String>,
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Document([redacted])")
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens([redacted])")
    }
}

impl Document {
    /// The headers of a request.
    fn pass(&self, version: i64) -> Option<Pass> {
        let mut pass = Pass { version, headers: Vec::new() };
        let complete = match self {
            Self::Static { headers } => headers.iter().all(|(name, value)| pass.add(name, value)),
            Self::Oauth(tokens) => pass.add("authorization", &format!("Bearer {}", tokens.access_token)),
        };
        complete.then_some(pass)
    }

    fn secrets(&self) -> Vec<&str> {
        match self {
            Self::Static { headers } => {
                // the scheme in front of a key is no secret, the key alone is
                headers
                    .values()
                    .flat_map(|value| [Some(value.as_str()), value.split(' ').next_back()])
                    .flatten()
                    .collect()
            }
            Self::Oauth(tokens) => {
                let more = [tokens.refresh_token.as_deref(), tokens.client_secret.as_deref()];
                more.into_iter().flatten().chain([tokens.access_token.as_str()]).collect()
            }
        }
    }
}

/// Why a sealed document cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// AD_ENCRYPTION_KEY is not set.
    #[error("AD_ENCRYPTION_KEY is not set")]
    NoKey,
    /// None of the keys opens it.
    #[error("none of the keys of AD_ENCRYPTION_KEY opens the stored credentials")]
    WrongKey,
    /// It opens, but is no document of ours.
    #[error("the stored credentials cannot be read")]
    Damaged,
}

/// The keys, and who is told of opened secrets.
#[derive(Clone)]
pub(crate) struct Vault {
    pub keys: Option<MasterKeys>,
    pub learn: Option<Learn>,
}

impl Vault {
    /// Whether anything can be sealed.
    pub fn has_key(&self) -> bool {
        self.keys.is_some()
    }

    /// Seals any JSON document; the fingerprint names the key.
    pub fn seal<T: Serialize>(&self, document: &T) -> Result<(String, String), VaultError> {
        let keys = self.keys.as_ref().ok_or(VaultError::NoKey)?;
        let text = Secret::new(serde_json::to_string(document).map_err(|_| VaultError::Damaged)?);
        Ok((keys.seal(text.expose()), keys.fingerprints().swap_remove(0)))
    }

    /// Opens what [`Vault::seal`] made.
    pub fn open<T: for<'de> Deserialize<'de>>(&self, token: &str) -> Result<T, VaultError> {
        let keys = self.keys.as_ref().ok_or(VaultError::NoKey)?;
        let text = keys.open(token).map_err(|_| VaultError::WrongKey)?;
        serde_json::from_str(text.expose()).map_err(|_| VaultError::Damaged)
    }

    /// Opens a connection's document.
    pub fn document(&self, token: &str) -> Result<Document, VaultError> {
        let document: Document = self.open(token)?;
        self.teach(&document);
        Ok(document)
    }

    /// Seals a connection's document with what may be known of it.
    pub fn sealed(&self, document: &Document, refresh_at: Option<Timestamp>) -> Result<Sealed, VaultError> {
        self.teach(document);
        let (token, key_fingerprint) = self.seal(document)?;
        let (scopes, expires_at) = match document {
            Document::Static { .. } => (Vec::new(), None),
            Document::Oauth(tokens) => {
                (tokens.scopes.clone(), tokens.expires_at_ms.map(Timestamp::from_millis))
            }
        };
        Ok(Sealed { token, key_fingerprint, scopes, expires_at, refresh_at })
    }

    fn teach(&self, document: &Document) {
        if let Some(learn) = &self.learn {
            document.secrets().into_iter().for_each(|secret| learn(secret));
        }
    }
}

/// Whoever renews the tokens of a connection.
#[async_trait]
pub(crate) trait Renew: Send + Sync {
    /// Renews the credential unless it is newer than `version` already. True when there is a newer one now.
    async fn renew(&self, id: &ConnectionId, version: i64) -> Result<bool, Trouble>;
    /// The present.
    fn now(&self) -> Timestamp;
}

/// Shows the credential of one connection.
pub(crate) struct Holder {
    pub ref_id: ConnectionId,
    pub needs_credential: bool,
    pub books: Arc<dyn Books>,
    pub vault: Vault,
    pub renewal: Arc<dyn Renew>,
}

impl Holder {
    async fn open(&self) -> Result<(Document, i64), Trouble> {
        let connection = self.books.connection(&self.ref_id).await?.ok_or(Trouble::Gone)?;
        let missing = || Trouble::Unauthorized(String::new());
        let sealed = connection.credential.ok_or_else(missing)?;
        match connection.status {
            Status::PendingOauth | Status::Expired => return Err(missing()),
            Status::Connected | Status::Error => {}
        }
        let document = self.vault.document(&sealed.token).map_err(|_| missing())?;
        Ok((document, connection.credential_version))
    }
}

#[async_trait]
impl Passes for Holder {
    async fn pass(&self) -> Result<Pass, Trouble> {
        if !self.needs_credential {
            // a connection that was deleted must not be used by a line that is still open
            let known = self.books.connection(&self.ref_id).await?.is_some();
            return if known { Ok(Pass::default()) } else { Err(Trouble::Gone) };
        }
        let (mut document, mut version) = self.open().await?;
        if let Document::Oauth(tokens) = &document
            && tokens.expires_at_ms.is_some_and(|at| at <= self.renewal.now().millis())
            && self.renewal.renew(&self.ref_id, version).await?
        {
            (document, version) = self.open().await?;
        }
        document.pass(version).ok_or_else(|| Trouble::Unauthorized(String::new()))
    }

    async fn renew(&self, refused: i64) -> Result<bool, Trouble> {
        if !self.needs_credential {
            return Ok(false);
        }
        self.renewal.renew(&self.ref_id, refused).await
    }
}

/// What [`rekey`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rekeyed {
    /// Sealed again under the first key.
    pub resealed: usize,
    /// Were under the first key already.
    pub current: usize,
    /// No key opens them; left as they are.
    pub unreadable: usize,
}

/// Tells `learn` every stored credential, so that it can be scrubbed from what leaves. What none of the keys opens is
/// passed over: nobody can show it either.
pub async fn learn_stored(books: &dyn Books, keys: &MasterKeys, learn: Learn) -> Result<(), BooksError> {
    let vault = Vault { keys: Some(keys.clone()), learn: Some(learn) };
    for connection in books.connections().await? {
        if let Some(sealed) = connection.credential {
            drop(vault.document(&sealed.token));
        }
    }
    Ok(())
}

/// Seals everything again under the first key. Doing it twice changes nothing the second time.
pub async fn rekey(books: &dyn Books, keys: &MasterKeys) -> Result<Rekeyed, BooksError> {
    let mut done = Rekeyed::default();
    let fingerprint = keys.fingerprints().swap_remove(0);
    for connection in books.connections().await? {
        let Some(sealed) = connection.credential else { continue };
        if let Some(token) = reseal(keys, &sealed.token, &mut done) {
            let (id, version) = (connection.ref_id, connection.credential_version);
            books.reseal(&id, version, token, fingerprint.clone()).await?;
        }
    }
    for mut client in books.clients().await? {
        let Some(sealed) = &client.client_secret_enc else { continue };
        if let Some(token) = reseal(keys, sealed, &mut done) {
            client.client_secret_enc = Some(token);
            books.put_client(client).await?;
        }
    }
    Ok(done)
}

fn reseal(keys: &MasterKeys, token: &str, done: &mut Rekeyed) -> Option<String> {
    if keys.opened_by_first(token) {
        done.current += 1;
        return None;
    }
    match keys.open(token) {
        Ok(text) => {
            done.resealed += 1;
            Some(keys.seal(text.expose()))
        }
        Err(_) => {
            done.unreadable += 1;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    fn tokens() -> Document {
        Document::Oauth(Box::new(Tokens {
            issuer: "https://as.example.com".into(),
            token_endpoint: "https://as.example.com/token".into(),
            revocation_endpoint: None,
            resource: "https://mcp.example.com".into(),
            client_id: "c".into(),
            client_secret: Some("c4nary-secret".into()),
            client_auth: "client_secret_basic".into(),
            access_token: "c4nary-access".into(),
            refresh_token: Some("c4nary-refresh".into()),
            expires_at_ms: Some(5),
            scopes: vec!["a".into()],
        }))
    }

    fn vault() -> (Vault, Arc<Mutex<Vec<String>>>) {
        let learned = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&learned);
        let learn: Learn = Arc::new(move |text| into.lock().expect("no panic").push(text.to_owned()));
        let keys = MasterKeys::parse(MasterKeys::generate().expose()).expect("is a key");
        (Vault { keys: Some(keys), learn: Some(learn) }, learned)
    }

    #[test]
    fn a_document_survives_sealing_and_shows_nothing_on_the_way() {
        let (vault, learned) = vault();
        let sealed = vault.sealed(&tokens(), None).expect("is sealed");
        assert_eq!((sealed.scopes.len(), sealed.expires_at), (1, Some(Timestamp::from_millis(5))));
        assert!(vault.document(&sealed.token) == Ok(tokens()));
        let shown = format!("{:?} {:?} {:?}", tokens(), sealed, tokens().pass(1));
        assert!(!shown.contains("c4nary"), "{shown}");
        let learned = learned.lock().expect("no panic");
        for secret in ["c4nary-access", "c4nary-refresh", "c4nary-secret"] {
            assert!(learned.iter().any(|known| known == secret), "{secret} is not scrubbed elsewhere");
        }
    }

    #[test]
    fn without_the_key_nothing_opens_and_nothing_is_sealed() {
        let (ours, _) = vault();
        let (theirs, _) = vault();
        let none = Vault { keys: None, learn: None };
        let sealed = ours.sealed(&tokens(), None).expect("is sealed").token;
        assert_eq!(theirs.document(&sealed), Err(VaultError::WrongKey));
        assert_eq!(none.document(&sealed), Err(VaultError::NoKey));
        assert!(none.sealed(&tokens(), None).is_err());
        let (other, _) = ours.seal(&serde_json::json!([1])).expect("is sealed");
        assert_eq!(ours.document(&other), Err(VaultError::Damaged));
    }

    #[test]
    fn a_static_key_is_a_header_and_its_bare_form_is_known_as_a_secret() {
        let headers = BTreeMap::from([("authorization".to_owned(), "Bearer c4nary-key".to_owned())]);
        let document = Document::Static { headers };
        let pass = document.pass(3).expect("is a header");
        assert!(pass.version == 3 && pass.headers[0].1.is_sensitive());
        assert!(document.secrets().contains(&"c4nary-key"));
        let broken = Document::Static { headers: BTreeMap::from([("a b".to_owned(), "x".to_owned())]) };
        assert!(broken.pass(1).is_none());
    }
}
