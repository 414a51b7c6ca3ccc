//! OAuth against an authorization server that detects reused refresh tokens.

use crate::house::{House, until};
use chassis::seal::MasterKeys;
use connectors::books::{Books as _, Status};
use connectors::credentials::rekey;
use connectors::directory::{ConnectError, Connected};
use connectors::oauth::{Callback, Unfinished};
use connectors::trouble::Trouble;
use contract::ConnectionId;
use serde_json::json;
use std::collections::HashMap;
use testbed::mcp::{Mischief, ScriptedAuth, ScriptedMcp, Speaks};
use url::Url;

struct World {
    house: House,
    server: ScriptedMcp,
    auth: ScriptedAuth,
}

async fn world() -> World {
    let server = ScriptedMcp::start(Speaks::Modern).await;
    let auth = ScriptedAuth::start(server.url()).await;
    server.name_metadata(&auth.resource_metadata());
    server.trust(&auth);
    World { house: House::new().await, server, auth }
}

impl World {
    async fn begin(&self) -> (ConnectionId, Url) {
        let config = json!({"server_name": "s", "transport": "http", "url": self.server.url(), "auth_method": "oauth"});
        match self.house.try_connect("s", config).await {
            Ok(Connected::Pending(id, address)) => (id, address),
            other => panic!("not pending: {other:?}"),
        }
    }

    async fn come_back(&self, answer: &HashMap<String, String>) -> Result<ConnectionId, ConnectError> {
        let callback = Callback {
            code: answer.get("code").cloned(),
            state: answer["state"].clone(),
            iss: answer.get("iss").cloned(),
            error: answer.get("error").cloned(),
        };
        self.house.directory.finish(callback).await
    }

    async fn connected(&self) -> ConnectionId {
        let (id, address) = self.begin().await;
        let answer = self.auth.consent(address.as_str()).await;
        assert_eq!(self.come_back(&answer).await.expect("connected"), id);
        id
    }

    async fn calls(&self, id: &ConnectionId, count: usize) -> Vec<Result<String, Trouble>> {
        let calls = (0..count)
            .map(|n| async move { self.house.say(id, &n.to_string()).await.map(|answer| answer.text()) });
        futures::future::join_all(calls).await
    }
}

#[tokio::test]
async fn a_person_authorizes_once_and_the_server_is_connected() {
    let world = world().await;
    let (id, address) = world.begin().await;
    assert_eq!(world.house.row(&id).await.status, Status::PendingOauth);
    let query: HashMap<_, _> = address.query_pairs().into_owned().collect();
    assert_eq!((query["code_challenge_method"].as_str(), query["response_type"].as_str()), ("S256", "code"));
    assert_eq!(query["resource"], world.server.url());
    assert_eq!(query["scope"], "read write", "what the resource's metadata say");
    assert_eq!(query["state"].len(), 43, "256 bits");
    let registered = world.auth.seen().remove(0).fields["body"].clone();
    assert!(registered.contains("\"application_type\":\"native\""), "{registered}");

    let answer = world.auth.consent(address.as_str()).await;
    assert_eq!(world.come_back(&answer).await.expect("connected"), id);
    let row = world.house.row(&id).await;
    let sealed = row.credential.expect("a credential");
    assert_eq!((row.status, sealed.scopes), (Status::Connected, vec!["read".to_owned(), "write".to_owned()]));
    assert!(sealed.expires_at.is_some() && sealed.refresh_at < sealed.expires_at);
    assert_eq!(world.calls(&id, 1).await[0].as_deref().ok(), Some("echo: 0"));
    let everything = world.house.paper.everything();
    for token in world.auth.access_tokens() {
        assert!(!everything.contains(&token), "sealed");
        assert!(world.house.learned.lock().expect("no panic").contains(&token), "known to the scrubber");
    }
}

#[tokio::test]
async fn a_state_is_good_once_for_ten_minutes_and_from_its_issuer() {
    let world = world().await;
    let (_, address) = world.begin().await;
    let answer = world.auth.consent(address.as_str()).await;
    world.come_back(&answer).await.expect("connected");
    let again = world.come_back(&answer).await;
    assert!(matches!(again, Err(ConnectError::Unfinished(Unfinished::State))), "{again:?}");

    let (_, address) = world.begin().await;
    let late = world.auth.consent(address.as_str()).await;
    world.house.later(601);
    assert!(matches!(world.come_back(&late).await, Err(ConnectError::Unfinished(Unfinished::State))));
    world.house.later(-601);

    for iss in [Some("https://evil.example.com".to_owned()), None] {
        let (id, address) = world.begin().await;
        let mut answer = world.auth.consent(address.as_str()).await;
        answer.remove("iss");
        answer.extend(iss.map(|iss| ("iss".to_owned(), iss)));
        let done = world.come_back(&answer).await;
        assert!(matches!(done, Err(ConnectError::Unfinished(Unfinished::Issuer(_)))), "{done:?}");
        assert_eq!(world.house.row(&id).await.status, Status::Error);
    }

    let mut made_up = answer.clone();
    made_up.insert("state".into(), "guess".into());
    assert!(matches!(world.come_back(&made_up).await, Err(ConnectError::Unfinished(Unfinished::State))));
}

#[tokio::test]
async fn fifty_calls_at_expiry_are_one_refresh() {
    let world = world().await;
    let id = world.connected().await;
    world.house.later(3_601);
    let done = world.calls(&id, 50).await;
    assert!(done.iter().all(Result::is_ok), "{:?}", done.iter().find(|one| one.is_err()));
    assert_eq!((world.auth.grants("refresh_token"), world.auth.reuses()), (1, 0));
}

#[tokio::test]
async fn fifty_calls_that_are_refused_are_one_refresh() {
    let world = world().await;
    let id = world.connected().await;
    // the authorization server has taken the token back although it has not ended
    world.auth.withdraw_access();
    let done = world.calls(&id, 50).await;
    assert!(done.iter().all(Result::is_ok), "{:?}", done.iter().find(|one| one.is_err()));
    assert_eq!((world.auth.grants("refresh_token"), world.auth.reuses()), (1, 0));
}

#[tokio::test]
async fn tokens_are_renewed_ahead_of_time_without_a_call() {
    let world = world().await;
    let id = world.connected().await;
    assert!(world.house.directory.next_refresh().is_some());
    world.house.later(3_300);
    // any change wakes the upkeep; a second connection is one
    world.house.directory.set_catalog(Vec::new()).await.expect("books");
    until("renewed", || async { world.auth.grants("refresh_token") == 1 }).await;
    until("kept", || async { world.house.row(&id).await.credential_version == 3 }).await;
    assert_eq!(world.auth.reuses(), 0);
}

#[tokio::test]
async fn a_refusal_expires_the_connection_and_an_outage_does_not() {
    let world = world().await;
    let id = world.connected().await;
    world.house.later(3_601);
    world.auth.set_down(true);
    assert!(matches!(world.calls(&id, 1).await[0], Err(Trouble::Unreachable(_))));
    assert_ne!(world.house.row(&id).await.status, Status::Expired, "the refresh token may still be good");
    world.auth.set_down(false);
    assert!(world.calls(&id, 1).await[0].is_ok());

    world.auth.give_refresh_tokens(false);
    let lost = world.connected().await;
    world.house.later(3_601);
    assert!(matches!(world.calls(&lost, 1).await[0], Err(Trouble::Unauthorized(_))));
    assert_eq!(world.house.row(&lost).await.status, Status::Expired);
}

#[tokio::test]
async fn a_missing_scope_is_remembered_for_the_next_consent() {
    let world = world().await;
    let id = world.connected().await;
    world.server.misbehave(Some(Mischief::MissingScope("admin".into())));
    assert!(matches!(world.calls(&id, 1).await[0], Err(Trouble::Scope(_))));
    let row = world.house.row(&id).await;
    assert_eq!((row.status, row.wanted_scopes), (Status::Expired, vec!["admin".to_owned()]));
    let (again, address) = world.begin().await;
    let scope = address.query_pairs().find(|(name, _)| name == "scope").map(|(_, value)| value.into_owned());
    assert_eq!(scope.as_deref(), Some("read write admin"));
    assert_ne!(again, id, "the expired one is replaced");
    assert_eq!(world.house.directory.connections().await.expect("books").len(), 1);
}

#[tokio::test]
async fn deleting_revokes_at_the_authorization_server() {
    let world = world().await;
    let id = world.connected().await;
    assert!(world.house.directory.delete(&id).await.expect("books"));
    until("revoked", || async { world.auth.seen().iter().any(|seen| seen.endpoint == "revoke") }).await;
    let revoked = world.auth.seen().into_iter().find(|seen| seen.endpoint == "revoke").expect("revoked");
    assert!(revoked.fields["token"].starts_with("refresh-"));
}

#[tokio::test]
async fn a_registered_client_is_used_again_with_its_issuer_only() {
    let world = world().await;
    world.connected().await;
    world.connected().await;
    assert_eq!(world.auth.seen().iter().filter(|seen| seen.endpoint == "register").count(), 1);
    let other = ScriptedAuth::start(world.server.url()).await;
    world.server.name_metadata(&other.resource_metadata());
    world.begin().await;
    assert_eq!(other.seen().iter().filter(|seen| seen.endpoint == "register").count(), 1);
}

#[tokio::test]
async fn another_key_opens_nothing_and_deletes_nothing_and_rekey_moves_everything() {
    let world = world().await;
    let id = world.connected().await;
    let new = MasterKeys::generate();
    let stranger = MasterKeys::parse(new.expose()).expect("a key");
    let locked = House::on(world.house.paper.clone(), stranger).await;
    assert!(!locked.directory.is_healthy() && world.house.directory.is_healthy());
    assert_eq!(locked.row(&id).await.status, Status::Error);
    assert!(locked.row(&id).await.credential.is_some(), "nothing is deleted");

    let done = rekey(&world.house.paper, &world.house.keys).await.expect("books");
    assert_eq!((done.resealed, done.current, done.unreadable), (0, 1, 0), "already there");
    let version = world.house.row(&id).await.credential_version;
    let both = format!("{},{}", new.expose(), "x");
    assert!(MasterKeys::parse(&both).is_err());
    let unreadable =
        rekey(&world.house.paper, &MasterKeys::parse(new.expose()).expect("a key")).await.expect("books");
    assert_eq!(unreadable.unreadable, 1);
    assert_eq!(world.house.row(&id).await.credential_version, version, "the credential is the same");
    assert!(world.house.paper.connections().await.expect("books")[0].credential.is_some());
}
