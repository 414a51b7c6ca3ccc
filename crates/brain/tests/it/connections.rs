//! Connections: guards that must hold against another writer.

use crate::house::{House, at};
use brain::Brain;
use brain::connections::{self, Connection, OauthState, Sealed, servers};
use brain::retention::{self, Policy};
use contract::ConnectionId;
use serde_json::json;

fn sealed(token: &str) -> Sealed {
    Sealed {
        token: token.into(),
        key_fingerprint: "66687aad".into(),
        scopes: vec!["read".into()],
        expires_at: Some(at(50)),
        refresh_at: Some(at(40)),
    }
}

fn connection(alias: &str) -> Connection {
    Connection {
        ref_id: ConnectionId::generate(),
        server_name: "notes".into(),
        alias: alias.into(),
        auth_method: "oauth".into(),
        status: "pending_oauth".into(),
        credential: None,
        credential_version: 1,
        wanted_scopes: vec!["admin".into()],
        last_error: None,
        created_at: at(1),
    }
}

fn state(id: &ConnectionId, hash: &str, begun: i64) -> OauthState {
    OauthState {
        state_hash: hash.into(),
        ref_id: id.clone(),
        verifier_enc: "sealed".into(),
        issuer: "https://as.example.com".into(),
        redirect_uri: "http://127.0.0.1/".into(),
        created_at: at(begun),
    }
}

async fn with_one(brain: &Brain, alias: &str) -> ConnectionId {
    let row = connection(alias);
    let id = row.ref_id.clone();
    brain
        .write("test.add", move |tx| {
            servers::put(tx, "notes", &json!({"server_name": "notes"}), "adhoc")?;
            connections::add(tx, &row, &[], at(1))
        })
        .await
        .expect("added");
    id
}

#[tokio::test]
async fn a_credential_is_replaced_only_by_who_has_seen_the_one_before() {
    let house = House::new();
    let brain = house.open();
    let id = with_one(&brain, "notes").await;
    let of = id.clone();
    let done = brain
        .write("test.cas", move |tx| {
            let first = connections::put_credential(tx, &of, 1, &sealed("a"), at(2))?;
            let late = connections::put_credential(tx, &of, 1, &sealed("b"), at(3))?;
            let next = connections::put_credential(tx, &of, 2, &sealed("c"), at(4))?;
            let moved = connections::reseal(tx, &of, 3, "d", "00000000", at(5))?;
            let stale = connections::reseal(tx, &of, 2, "e", "00000000", at(6))?;
            Ok([first, late, next, moved, stale])
        })
        .await
        .expect("written");
    assert_eq!(done, [true, false, true, true, false]);
    let row =
        brain.read("test.get", move |tx| connections::get(tx, &id)).await.expect("read").expect("there");
    assert_eq!(
        (row.status.as_str(), row.credential_version),
        ("connected", 3),
        "resealing is no new credential"
    );
    assert!(row.wanted_scopes.is_empty());
    let expected = Sealed { token: "d".into(), key_fingerprint: "00000000".into(), ..sealed("d") };
    assert_eq!(row.credential, Some(expected));
}

#[tokio::test]
async fn an_authorization_is_taken_once_and_not_when_it_is_old() {
    let house = House::new();
    let brain = house.open();
    let id = with_one(&brain, "notes").await;
    let of = id.clone();
    let taken = brain
        .write("test.take", move |tx| {
            connections::put_state(tx, &state(&of, "new", 100))?;
            connections::put_state(tx, &state(&of, "old", 10))?;
            let take =
                |hash| Ok::<_, brain::Error>(connections::take_state(tx, hash, at(50), at(200))?.is_some());
            Ok([take("new")?, take("new")?, take("old")?, take("never")?])
        })
        .await
        .expect("written");
    assert_eq!(taken, [true, false, false, false]);
    let report = retention::run_once(&brain, at(600_050), Policy::default()).await.expect("tidied");
    assert_eq!(report.oauth_states, 1);
    let report = retention::run_once(&brain, at(700_000), Policy::default()).await.expect("tidied");
    assert_eq!(report.oauth_states, 1);
}

#[tokio::test]
async fn a_connection_goes_with_everything_it_has() {
    let house = House::new();
    let brain = house.open();
    let id = with_one(&brain, "notes").await;
    let action = servers::Action {
        action: "echo".into(),
        name: "echo".into(),
        description: "x".into(),
        input_schema: json!({}),
        annotations: json!({}),
        hash: "0".into(),
        state: "pinned".into(),
        pending: None,
    };
    let (of, put) = (id.clone(), action.clone());
    brain
        .write("test.fill", move |tx| {
            servers::put_actions(tx, &of, &[put], at(2))?;
            connections::put_state(tx, &state(&of, "s", 1))
        })
        .await
        .expect("written");
    let of = id.clone();
    let there = brain.read("test.read", move |tx| servers::actions(tx, &of)).await.expect("read");
    assert_eq!(there, std::slice::from_ref(&action));
    let of = id.clone();
    let (first, again) = brain
        .write("test.remove", move |tx| Ok((connections::remove(tx, &of)?, connections::remove(tx, &of)?)))
        .await
        .expect("written");
    assert_eq!((first, again), (true, false));
    let (of, late) = (id.clone(), action);
    let left = brain
        .write("test.late", move |tx| {
            servers::put_actions(tx, &of, &[late], at(3))?;
            let taken = connections::take_state(tx, "s", at(0), at(4))?;
            Ok((servers::actions(tx, &of)?.len(), taken.is_some(), servers::all(tx)?.len()))
        })
        .await
        .expect("written");
    assert_eq!(left, (0, false, 1), "what is known about the server stays");
}

#[tokio::test]
async fn a_servers_era_is_kept_while_its_entry_is_the_same() {
    let house = House::new();
    let brain = house.open();
    let eras = brain
        .write("test.eras", |tx| {
            let era = || Ok::<_, brain::Error>(servers::all(tx)?.remove(0).era);
            servers::put(tx, "notes", &json!({"url": "a"}), "adhoc")?;
            servers::put_era(tx, "notes", Some("modern"), Some("2026-07-28"), None, at(1))?;
            servers::put(tx, "notes", &json!({"url": "a"}), "catalog")?;
            let same = era()?;
            servers::put(tx, "notes", &json!({"url": "b"}), "catalog")?;
            Ok((same, era()?))
        })
        .await
        .expect("written");
    assert_eq!(eras, (Some("modern".to_owned()), None));
}
