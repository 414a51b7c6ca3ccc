//! Every revision of the protocol, found out and remembered.

use crate::house::{House, Person, until};
use connectors::books::{Books as _, Status};
use connectors::connection::CallOptions;
use serde_json::json;
use std::sync::Arc;
use testbed::mcp::{Mischief, ScriptedMcp, Speaks, tool};

const ALL: [(Speaks, &str, &str); 3] = [
    (Speaks::Modern, "modern", "2026-07-28"),
    (Speaks::Session, "handshake", "2025-11-25"),
    (Speaks::EventStream, "event-stream", "2024-11-05"),
];

#[tokio::test]
async fn every_revision_is_found_out_spoken_and_remembered() {
    for (speaks, era, version) in ALL {
        let (house, server) = (House::new().await, ScriptedMcp::start(speaks).await);
        let id = house.connect(server.url()).await;
        assert_eq!(
            house.say(&id, "hello").await.expect("an answer").value,
            json!("echo: hello"),
            "{speaks:?}"
        );
        let known = house.paper.servers().await.expect("books").remove(0);
        assert_eq!((known.era.as_deref(), known.protocol_version.as_deref()), (Some(era), Some(version)));
        let offered = house.directory.offered();
        assert_eq!(offered[0].name, "s.echo");

        // a restart goes on with what is known: nothing is connected until it is used, and then the known way
        let before = server.seen().len();
        let again = House::on(house.paper.clone(), house.keys.clone()).await;
        assert_eq!(server.seen().len(), before, "{speaks:?}: a start calls nobody");
        assert_eq!(again.directory.offered(), offered);
        assert!(again.say(&id, "again").await.is_ok());
        let probes = server.seen()[before..].iter().filter(|call| call.method == "server/discover").count();
        assert_eq!(probes, usize::from(speaks == Speaks::Modern), "{speaks:?}");
    }
}

#[tokio::test]
async fn one_line_serves_all_calls() {
    for (speaks, ..) in ALL {
        let (house, server) = (House::new().await, ScriptedMcp::start(speaks).await);
        let id = house.connect(server.url()).await;
        let calls = (0..20).map(|n| {
            let (house, id) = (&house, &id);
            async move { house.say(id, &n.to_string()).await.expect("an answer").value }
        });
        let said = futures::future::join_all(calls).await;
        assert_eq!(said, (0..20).map(|n| json!(format!("echo: {n}"))).collect::<Vec<_>>(), "{speaks:?}");
        let greetings = server.count("initialize") + server.count("server/discover");
        assert!(greetings <= 2, "{speaks:?}: {greetings} greetings");
    }
}

#[tokio::test]
async fn a_server_that_changed_its_revision_is_found_out_again() {
    let house = House::new().await;
    let old = ScriptedMcp::start(Speaks::Session).await;
    let id = house.connect(old.url()).await;
    drop(old);
    // the same books, as if the server had been upgraded behind the same name
    let new = ScriptedMcp::start(Speaks::Modern).await;
    let mut server = house.paper.servers().await.expect("books").remove(0);
    server.entry["url"] = json!(new.url());
    house.paper.put_server("s".into(), server.entry, server.source).await.expect("books");
    house.paper.put_era("s", Some("handshake".into()), None, None).await.expect("books");
    let again = House::on(house.paper.clone(), house.keys.clone()).await;
    assert!(again.say(&id, "x").await.is_ok());
    assert_eq!(again.paper.servers().await.expect("books")[0].era.as_deref(), Some("modern"));
}

#[tokio::test]
async fn a_list_in_slices_is_read_to_its_end() {
    for (speaks, ..) in ALL {
        let (house, server) = (House::new().await, ScriptedMcp::start(speaks).await);
        server.set_tools((0..25).map(|n| tool(&format!("t{n}"), "x")).collect());
        server.set_slice(10);
        let id = house.connect(server.url()).await;
        assert_eq!(house.directory.offered().len(), 25, "{speaks:?}");
        assert_eq!(house.directory.connections().await.expect("books")[0].tools, 25);
        assert_eq!(house.row(&id).await.status, Status::Connected);
    }
}

#[tokio::test]
async fn a_server_that_tells_of_new_tools_is_listed_again() {
    for (speaks, ..) in ALL {
        let (house, server) = (House::new().await, ScriptedMcp::start(speaks).await);
        let id = house.connect(server.url()).await;
        server.set_tools(vec![tool("echo", "Says it again"), tool("new", "x")]);
        // told until heard: the subscription may not be open yet
        until("the new tool is offered", || async {
            server.tell_changed();
            house.directory.offered().len() == 2
        })
        .await;
        let offered = house.directory.offered();
        assert!(offered[1].name == "s.new" && offered[1].difference.is_some(), "{speaks:?}");
        assert!(house.say(&id, "x").await.is_ok());
    }
}

#[tokio::test]
async fn a_lost_session_is_made_anew() {
    let (house, server) = (House::new().await, ScriptedMcp::start(Speaks::Session).await);
    let id = house.connect(server.url()).await;
    server.forget_sessions();
    assert!(house.say(&id, "x").await.is_ok());
}

#[tokio::test]
async fn a_servers_question_goes_to_the_person_of_the_call() {
    for speaks in [Speaks::Modern, Speaks::Session] {
        let (house, server) = (House::new().await, ScriptedMcp::start(speaks).await);
        let id = house.connect(server.url()).await;
        server.misbehave(Some(Mischief::Elicit));
        let person = Person::who_says("Ada");
        let asked = Arc::clone(&person.1);
        let options = CallOptions { ask: Some(Arc::new(person)), ..CallOptions::default() };
        let said = house.call(&id, "x", &options).await.expect("an answer").text();
        assert!(said.starts_with("\"accept\" \"Ada\""), "{speaks:?}: {said}");
        let asked = asked.lock().expect("no panic").clone();
        assert_eq!((asked[0].server.as_str(), asked[0].message.as_str()), ("s", "What is your name?"));
        if speaks == Speaks::Modern {
            assert!(said.ends_with("true"), "the state was echoed: {said}");
        }
        let nobody = house.say(&id, "x").await.expect("an answer").text();
        assert!(nobody.starts_with("\"cancel\""), "{speaks:?}: {nobody}");
    }
}

#[tokio::test]
async fn a_second_connection_gets_a_name_of_its_own_and_a_deleted_one_is_gone() {
    let (house, server) = (House::new().await, ScriptedMcp::start(Speaks::Modern).await);
    let (first, second) = (house.connect(server.url()).await, house.connect(server.url()).await);
    let names: Vec<String> = house.directory.offered().iter().map(|tool| tool.name.clone()).collect();
    assert_eq!(names, ["s.echo", "s_2.echo"]);
    assert!(house.directory.delete(&first).await.expect("books"));
    assert!(!house.directory.delete(&first).await.expect("books"), "twice is nothing more");
    assert!(house.say(&first, "x").await.is_err());
    assert!(house.say(&second, "x").await.is_ok());
    assert_eq!(house.directory.offered().len(), 1);
}

#[tokio::test]
async fn keys_and_headers_go_to_the_server_and_nowhere_else() {
    let (house, server) = (House::new().await, ScriptedMcp::start(Speaks::Modern).await);
    server.accept_only(["c4nary-key"]);
    let entry =
        json!({"server_name": "s", "transport": "http", "url": server.url(), "auth_method": "static"});
    let mut wrong = entry.clone();
    wrong["api_key"] = json!("another");
    assert!(house.try_connect("s", wrong).await.is_err());
    let mut right = entry;
    right["api_key"] = json!("c4nary-key");
    right["headers"] = json!({"X-Team": "c4nary-team"});
    let id = house.connect_with("s", right).await;
    assert!(house.say(&id, "x").await.is_ok());
    let call = server.seen().pop().expect("a call");
    assert_eq!(call.headers["authorization"], "Bearer c4nary-key");
    assert_eq!(call.headers["x-team"], "c4nary-team");
    assert!(!house.paper.everything().contains("c4nary"), "sealed");
    let servers = format!("{:?}", house.paper.servers().await.expect("books"));
    assert!(!servers.contains("c4nary"), "the entry is stored without the key");
    assert!(house.learned.lock().expect("no panic").iter().any(|secret| secret == "c4nary-key"));
    assert_eq!(house.directory.connections().await.expect("books").len(), 1, "the failed one was replaced");
}
