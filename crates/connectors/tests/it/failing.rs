//! What goes wrong, and what is done about it.

use crate::house::House;
use connectors::books::Status;
use connectors::breaker::FAILURES_MAX;
use connectors::connection::CallOptions;
use connectors::trouble::Trouble;
use serde_json::json;
use std::time::Duration;
use testbed::mcp::{Mischief, ScriptedMcp, Speaks, tool};
use tokio_util::sync::CancellationToken;

/// Whether a failure is the one that was expected.
type Fits = fn(&Trouble) -> bool;

async fn quick() -> House {
    let house = House::new().await;
    House::with(house.paper.clone(), house.keys.clone(), Duration::from_millis(300), Duration::from_secs(600))
        .await
}

#[tokio::test]
async fn failures_are_named_for_what_can_be_done() {
    let cases: [(Mischief, Fits, bool); 6] = [
        (Mischief::Status(500), |t| matches!(t, Trouble::Unreachable(_)), true),
        (Mischief::Status(503), |t| matches!(t, Trouble::Unreachable(_)), true),
        (Mischief::HangUp, |t| matches!(t, Trouble::Unreachable(_)), true),
        (Mischief::Garbage, |t| matches!(t, Trouble::Garbage(_)), true),
        (Mischief::Silence, |t| matches!(t, Trouble::TimedOut(_)), true),
        (Mischief::MissingScope("admin".into()), |t| matches!(t, Trouble::Scope(_)), false),
    ];
    for speaks in [Speaks::Modern, Speaks::Session] {
        for (mischief, fits, counts) in cases.clone() {
            let (house, server) = (quick().await, ScriptedMcp::start(speaks).await);
            let id = house.connect(server.url()).await;
            server.misbehave(Some(mischief.clone()));
            let before = server.count("tools/call");
            let trouble = house.say(&id, "x").await.expect_err("must fail");
            assert!(fits(&trouble), "{speaks:?} {mischief:?}: {trouble:?}");
            assert_eq!(trouble.counts(), counts, "{mischief:?}");
            assert_eq!(server.count("tools/call"), before + 1, "{mischief:?}: a call is made once");
        }
    }
}

#[tokio::test]
async fn five_failures_open_the_breaker_and_the_server_is_left_alone() {
    let (house, server) = (House::new().await, ScriptedMcp::start(Speaks::Modern).await);
    let id = house.connect(server.url()).await;
    server.misbehave(Some(Mischief::Status(500)));
    for _ in 0..FAILURES_MAX {
        assert!(matches!(house.say(&id, "x").await, Err(Trouble::Unreachable(_))));
    }
    assert_eq!(house.row(&id).await.status, Status::Error);
    let calls = server.count("tools/call");
    assert!(matches!(house.say(&id, "x").await, Err(Trouble::Resting(_))));
    assert_eq!(server.count("tools/call"), calls, "nobody is asked");
    assert_eq!(*house.opened.lock().expect("no panic"), ["s"], "told once");
}

#[tokio::test]
async fn a_tool_that_fails_says_nothing_about_the_server() {
    let (house, server) = (House::new().await, ScriptedMcp::start(Speaks::Modern).await);
    server.set_tools(vec![
        tool("echo", "Says it again"),
        tool("nothing", "Listed, and unknown when it is called"),
    ]);
    let id = house.connect(server.url()).await;
    for _ in 0..2 * FAILURES_MAX {
        let unknown =
            house.directory.call(&id, "nothing", serde_json::Map::new(), &CallOptions::default()).await;
        assert!(unknown.is_ok(), "{unknown:?}");
    }
    assert_eq!(house.row(&id).await.status, Status::Connected);
}

#[tokio::test]
async fn a_connection_in_error_recovers_with_the_server() {
    let (house, server) = (House::new().await, ScriptedMcp::start(Speaks::Modern).await);
    let id = house.connect(server.url()).await;
    server.misbehave(Some(Mischief::Status(500)));
    assert!(house.say(&id, "x").await.is_err());
    let row = house.row(&id).await;
    assert!(row.status == Status::Error && row.last_error.is_some());
    server.misbehave(None);
    assert!(house.say(&id, "x").await.is_ok());
    let row = house.row(&id).await;
    assert_eq!((row.status, row.last_error), (Status::Connected, None));
}

#[tokio::test]
async fn progress_prolongs_a_call() {
    for speaks in [Speaks::Modern, Speaks::Session] {
        let (house, server) = (quick().await, ScriptedMcp::start(speaks).await);
        let id = house.connect(server.url()).await;
        // 1 s in all, with a sign of life every 100 ms; the limit is 300 ms
        server.misbehave(Some(Mischief::Progress(9, 100)));
        assert!(house.say(&id, "x").await.is_ok(), "{speaks:?}");
        server.misbehave(Some(Mischief::Progress(1, 2_000)));
        assert!(matches!(house.say(&id, "x").await, Err(Trouble::TimedOut(_))), "{speaks:?}");
    }
}

#[tokio::test]
async fn a_cancelled_call_returns_at_once_and_leaves_the_line_usable() {
    for speaks in [Speaks::Modern, Speaks::Session] {
        let (house, server) = (House::new().await, ScriptedMcp::start(speaks).await);
        let id = house.connect(server.url()).await;
        server.misbehave(Some(Mischief::Silence));
        let cancel = CancellationToken::new();
        let options = CallOptions { cancel: cancel.clone(), ..CallOptions::default() };
        let calling = house.call(&id, "x", &options);
        let cancelling = async {
            crate::house::until("the call is out", || async { server.count("tools/call") > 0 }).await;
            cancel.cancel();
        };
        let (done, ()) =
            tokio::time::timeout(Duration::from_secs(2), async { tokio::join!(calling, cancelling) })
                .await
                .expect("within a second or so");
        assert!(matches!(done, Err(Trouble::Cancelled)), "{speaks:?}: {done:?}");
        server.misbehave(None);
        assert!(house.say(&id, "x").await.is_ok(), "{speaks:?}");
    }
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_leaves_a_connection_in_error_that_is_replaced() {
    let house = House::new().await;
    let config =
        |url: &str| json!({"server_name": "s", "transport": "http", "url": url, "auth_method": "none"});
    assert!(house.try_connect("s", config("http://127.0.0.1:1/mcp")).await.is_err());
    let listed = house.directory.connections().await.expect("books");
    assert_eq!((listed.len(), listed[0].connection.status), (1, Status::Error));
    let server = ScriptedMcp::start(Speaks::Modern).await;
    house.connect_with("s", config(server.url())).await;
    assert_eq!(house.directory.connections().await.expect("books").len(), 1);
}
