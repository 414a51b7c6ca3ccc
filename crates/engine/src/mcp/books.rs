//! The connector's books, kept in the brain.
//!
//! The invariant: what a server or a failure said is stored without the secrets this process knows; credentials come
//! here sealed.

use crate::secrets::{Known, leaving};
use async_trait::async_trait;
use brain::connections::{self as rows, servers};
use brain::{Brain, Tx};
use connectors::books::{
    Books, BooksError, Connection, OauthClient, OauthState, Sealed, Server, Source, Status, Written,
};
use connectors::tools::{Action, Definition, State};
use contract::{ConnectionId, Timestamp};
use serde_json::Value;
use std::sync::Arc;

/// A stored word that this program does not know.
#[derive(Debug, thiserror::Error)]
#[error("the brain holds an unknown {0}")]
struct Unknown(&'static str);

/// The books of one brain.
#[derive(Debug, Clone)]
pub struct BrainBooks(Brain, Arc<Known>);

impl BrainBooks {
    /// Books in this brain.
    pub fn new(brain: Brain, known: Arc<Known>) -> Self {
        Self(brain, known)
    }

    fn scrubbed(&self, text: &str) -> String {
        self.1.scrub(text).into_owned()
    }

    async fn read<T: Send + 'static>(
        &self,
        name: &'static str,
        f: impl FnOnce(&Tx<'_>) -> brain::Result<T> + Send + 'static,
    ) -> Written<T> {
        self.0.read(name, f).await.map_err(BooksError::new)
    }

    async fn write<T: Send + 'static>(
        &self,
        name: &'static str,
        f: impl FnOnce(&Tx<'_>) -> brain::Result<T> + Send + 'static,
    ) -> Written<T> {
        self.0.write(name, f).await.map_err(BooksError::new)
    }
}

fn connection(row: rows::Connection) -> Written<Connection> {
    let status = Status::parse(&row.status).ok_or_else(|| BooksError::new(Unknown("connection status")))?;
    Ok(Connection {
        ref_id: row.ref_id,
        server_name: row.server_name,
        alias: row.alias,
        auth_method: row.auth_method,
        status,
        credential: row.credential.map(|sealed| Sealed {
            token: sealed.token,
            key_fingerprint: sealed.key_fingerprint,
            scopes: sealed.scopes,
            expires_at: sealed.expires_at,
            refresh_at: sealed.refresh_at,
        }),
        credential_version: row.credential_version,
        wanted_scopes: row.wanted_scopes,
        last_error: row.last_error,
        created_at: row.created_at,
    })
}

fn sealed_row(sealed: Sealed) -> rows::Sealed {
    rows::Sealed {
        token: sealed.token,
        key_fingerprint: sealed.key_fingerprint,
        scopes: sealed.scopes,
        expires_at: sealed.expires_at,
        refresh_at: sealed.refresh_at,
    }
}

fn server(row: servers::Server) -> Written<Server> {
    let source = Source::parse(&row.source).ok_or_else(|| BooksError::new(Unknown("source of a server")))?;
    Ok(Server {
        server_name: row.server_name,
        entry: row.entry,
        source,
        era: row.era,
        protocol_version: row.protocol_version,
        server_info: row.server_info,
    })
}

fn action(row: servers::Action) -> Written<Action> {
    let state = State::parse(&row.state).ok_or_else(|| BooksError::new(Unknown("state of an action")))?;
    let pending = match row.pending {
        None => None,
        Some(value) => {
            Some(Definition::stored(&value).ok_or_else(|| BooksError::new(Unknown("pending definition")))?)
        }
    };
    let definition = Definition {
        action: row.action,
        description: row.description,
        input_schema: row.input_schema,
        annotations: row.annotations,
    };
    Ok(Action { definition, state, pending })
}

fn action_row(action: Action) -> servers::Action {
    let hash = action.definition.hash();
    servers::Action {
        name: action.definition.action.clone(),
        action: action.definition.action,
        description: action.definition.description,
        input_schema: action.definition.input_schema,
        annotations: action.definition.annotations,
        hash,
        state: action.state.word().to_owned(),
        pending: action.pending.map(|definition| definition.json()),
    }
}

fn client(row: rows::OauthClient) -> OauthClient {
    OauthClient {
        issuer: row.issuer,
        redirect_uri: row.redirect_uri,
        client_id: row.client_id,
        client_secret_enc: row.client_secret_enc,
        metadata: row.metadata,
    }
}

#[async_trait]
impl Books for BrainBooks {
    async fn connections(&self) -> Written<Vec<Connection>> {
        self.read("connections", rows::all).await?.into_iter().map(connection).collect()
    }

    async fn connection(&self, id: &ConnectionId) -> Written<Option<Connection>> {
        let id = id.clone();
        self.read("connection", move |tx| rows::get(tx, &id)).await?.map(connection).transpose()
    }

    async fn add(&self, new: Connection, replaces: Vec<ConnectionId>) -> Written<()> {
        let row = rows::Connection {
            ref_id: new.ref_id,
            server_name: new.server_name,
            alias: new.alias,
            auth_method: new.auth_method,
            status: new.status.word().to_owned(),
            credential: new.credential.map(sealed_row),
            credential_version: new.credential_version,
            wanted_scopes: new.wanted_scopes,
            last_error: new.last_error,
            created_at: new.created_at,
        };
        self.write("add connection", move |tx| rows::add(tx, &row, &replaces, Timestamp::now())).await
    }

    async fn set_status(&self, id: &ConnectionId, status: Status, error: Option<String>) -> Written<bool> {
        let id = id.clone();
        let error = error.map(|text| self.scrubbed(&text));
        self.write("connection status", move |tx| {
            rows::set_status(tx, &id, status.word(), error.as_deref(), Timestamp::now())
        })
        .await
    }

    async fn put_credential(&self, id: &ConnectionId, expected: i64, sealed: Sealed) -> Written<bool> {
        let (id, sealed) = (id.clone(), sealed_row(sealed));
        self.write("put credential", move |tx| {
            rows::put_credential(tx, &id, expected, &sealed, Timestamp::now())
        })
        .await
    }

    async fn want_scopes(&self, id: &ConnectionId, scopes: Vec<String>, error: String) -> Written<()> {
        let id = id.clone();
        let error = self.scrubbed(&error);
        let scopes: Vec<String> = scopes.iter().map(|scope| self.scrubbed(scope)).collect();
        self.write("want scopes", move |tx| rows::want_scopes(tx, &id, &scopes, &error, Timestamp::now()))
            .await
    }

    async fn remove(&self, id: &ConnectionId) -> Written<bool> {
        let id = id.clone();
        self.write("remove connection", move |tx| rows::remove(tx, &id)).await
    }

    async fn servers(&self) -> Written<Vec<Server>> {
        self.read("servers", servers::all).await?.into_iter().map(server).collect()
    }

    async fn put_server(&self, name: String, entry: Value, source: Source) -> Written<()> {
        self.write("put server", move |tx| servers::put(tx, &name, &entry, source.word())).await
    }

    async fn put_era(
        &self,
        name: &str,
        era: Option<String>,
        version: Option<String>,
        info: Option<Value>,
    ) -> Written<()> {
        let name = name.to_owned();
        let mut info = info;
        if let Some(info) = &mut info {
            leaving::value(&self.1, info);
        }
        self.write("put era", move |tx| {
            servers::put_era(tx, &name, era.as_deref(), version.as_deref(), info.as_ref(), Timestamp::now())
        })
        .await
    }

    async fn actions(&self, id: &ConnectionId) -> Written<Vec<Action>> {
        let id = id.clone();
        self.read("actions", move |tx| servers::actions(tx, &id)).await?.into_iter().map(action).collect()
    }

    async fn put_actions(&self, id: &ConnectionId, actions: Vec<Action>) -> Written<()> {
        let (id, rows): (_, Vec<servers::Action>) =
            (id.clone(), actions.into_iter().map(action_row).collect());
        self.write("put actions", move |tx| servers::put_actions(tx, &id, &rows, Timestamp::now())).await
    }

    async fn put_state(&self, state: OauthState) -> Written<()> {
        let row = rows::OauthState {
            state_hash: state.state_hash,
            ref_id: state.ref_id,
            verifier_enc: state.verifier_enc,
            issuer: state.issuer,
            redirect_uri: state.redirect_uri,
            created_at: state.created_at,
        };
        self.write("put authorization", move |tx| rows::put_state(tx, &row)).await
    }

    async fn take_state(&self, state_hash: &str, oldest: Timestamp) -> Written<Option<OauthState>> {
        let hash = state_hash.to_owned();
        let taken = self
            .write("take authorization", move |tx| {
                let taken = rows::take_state(tx, &hash, oldest, Timestamp::now())?;
                rows::forget_states(tx, oldest)?;
                Ok(taken)
            })
            .await?;
        Ok(taken.map(|row| OauthState {
            state_hash: row.state_hash,
            ref_id: row.ref_id,
            verifier_enc: row.verifier_enc,
            issuer: row.issuer,
            redirect_uri: row.redirect_uri,
            created_at: row.created_at,
        }))
    }

    async fn client(&self, issuer: &str, redirect_uri: &str) -> Written<Option<OauthClient>> {
        let (issuer, redirect_uri) = (issuer.to_owned(), redirect_uri.to_owned());
        let found = self
            .read("oauth client", move |tx| rows::clients(tx, Some((issuer.as_str(), redirect_uri.as_str()))))
            .await?;
        Ok(found.into_iter().next().map(client))
    }

    async fn clients(&self) -> Written<Vec<OauthClient>> {
        Ok(self.read("oauth clients", |tx| rows::clients(tx, None)).await?.into_iter().map(client).collect())
    }

    async fn reseal(
        &self,
        id: &ConnectionId,
        expected: i64,
        token: String,
        key_fingerprint: String,
    ) -> Written<bool> {
        let id = id.clone();
        self.write("reseal", move |tx| {
            rows::reseal(tx, &id, expected, &token, &key_fingerprint, Timestamp::now())
        })
        .await
    }

    async fn put_client(&self, new: OauthClient) -> Written<()> {
        let row = rows::OauthClient {
            issuer: new.issuer,
            redirect_uri: new.redirect_uri,
            client_id: new.client_id,
            client_secret_enc: new.client_secret_enc,
            metadata: new.metadata,
        };
        self.write("put oauth client", move |tx| rows::put_client(tx, &row, Timestamp::now())).await
    }
}
