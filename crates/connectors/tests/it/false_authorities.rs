//! Authorization servers and metadata that lie: the person is sent nowhere, and no credential is shown to anybody.

use crate::house::House;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, Response, StatusCode, Uri};
use axum::response::IntoResponse;
use connectors::books::Status;
use connectors::directory::{ConnectError, Connected};
use connectors::oauth::{Callback, Unfinished};
use connectors::trouble::Trouble;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// One server that is everything: the MCP server, its metadata, its authorization server.
struct Authority {
    origin: String,
    shared: Arc<Shared>,
    running: tokio::task::JoinHandle<()>,
}

impl Drop for Authority {
    fn drop(&mut self) {
        self.running.abort();
    }
}

struct Shared {
    origin: String,
    /// Replaces the answer at a path.
    lies: HashMap<&'static str, Lie>,
    seen: Mutex<Vec<(String, String)>>,
}

#[derive(Clone)]
enum Lie {
    /// These keys of the document are others.
    Keys(Value),
    /// Another place is to be asked.
    Redirect(String),
    /// A page for people.
    Html,
    /// A document without an end.
    Endless,
    /// Always refused.
    Never,
}

const RESOURCE: &str = "/.well-known/oauth-protected-resource";
const ISSUER: &str = "/.well-known/oauth-authorization-server";

async fn authority(lies: impl Fn(&str) -> Vec<(&'static str, Lie)>) -> Authority {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let origin = format!("http://{}", listener.local_addr().expect("bound"));
    let lies = lies(&origin).into_iter().collect();
    let shared = Arc::new(Shared { origin: origin.clone(), lies, seen: Mutex::default() });
    let app = Router::new().fallback(answer).with_state(Arc::clone(&shared));
    let running = tokio::spawn(async move {
        let _ = axum::serve(listener, app).await;
    });
    Authority { origin, shared, running }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let authorization =
        headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    shared
        .seen
        .lock()
        .expect("no panic")
        .push((format!("{method} {}", uri.path()), authorization.to_owned()));
    let origin = &shared.origin;
    let (path, honest) = match uri.path() {
        path if path.starts_with(RESOURCE) => {
            (RESOURCE, json!({"resource": format!("{origin}/mcp"), "authorization_servers": [origin]}))
        }
        path if path.starts_with(ISSUER) => {
            let honest = json!({"issuer": origin, "authorization_endpoint": format!("{origin}/authorize"),
                "token_endpoint": format!("{origin}/token"), "registration_endpoint": format!("{origin}/register"),
                "response_types_supported": ["code"], "code_challenge_methods_supported": ["S256"]});
            (ISSUER, honest)
        }
        "/register" => ("/register", json!({"client_id": "client"})),
        "/token" => (
            "/token",
            json!({"access_token": "access-0123456789", "token_type": "Bearer", "expires_in": 3600,
                                      "refresh_token": "refresh-0123456789"}),
        ),
        "/mcp" => ("/mcp", mcp(&body)),
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    match shared.lies.get(path) {
        Some(Lie::Keys(keys)) => {
            let mut document = honest;
            for (key, value) in keys.as_object().expect("an object") {
                document[key] = value.clone();
            }
            axum::Json(document).into_response()
        }
        Some(Lie::Redirect(to)) => {
            let made = Response::builder().status(307).header("location", to);
            made.body(Body::empty()).expect("an answer")
        }
        Some(Lie::Html) => ([("content-type", "text/html")], "<html>Sign in</html>").into_response(),
        Some(Lie::Endless) => {
            let spaces = Bytes::from(vec![b' '; 1 << 20]);
            let endless = futures::stream::repeat_with(move || Ok::<_, std::io::Error>(spaces.clone()));
            let made = Response::builder().header("content-type", "application/json");
            made.body(Body::from_stream(endless)).expect("an answer")
        }
        Some(Lie::Never) => unauthorized(origin),
        None if path == "/mcp" && authorization != "Bearer access-0123456789" => unauthorized(origin),
        None => axum::Json(honest).into_response(),
    }
}

fn unauthorized(origin: &str) -> Response<Body> {
    let challenge = format!("Bearer resource_metadata=\"{origin}{RESOURCE}\"");
    let made = Response::builder().status(401).header("www-authenticate", challenge);
    made.body(Body::empty()).expect("an answer")
}

fn mcp(body: &[u8]) -> Value {
    let body = serde_json::from_slice::<Value>(body).unwrap_or_default();
    let result = match body["method"].as_str() {
        Some("initialize") => json!({"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
                                     "serverInfo": {"name": "a", "version": "1"}}),
        Some("tools/list") => json!({"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]}),
        Some("tools/call") => json!({"content": [{"type": "text", "text": "done"}]}),
        _ => return json!({"jsonrpc": "2.0", "id": body["id"], "error": {"code": -32601, "message": "no"}}),
    };
    json!({"jsonrpc": "2.0", "id": body["id"], "result": result})
}

impl Authority {
    fn config(&self) -> Value {
        json!({"server_name": "s", "transport": "http", "url": format!("{}/mcp", self.origin), "auth_method": "oauth"})
    }

    fn asked(&self, what: &str) -> usize {
        self.shared.seen.lock().expect("no panic").iter().filter(|(asked, _)| asked.starts_with(what)).count()
    }

    /// Connects up to where the person would be sent away, and comes back with a code.
    async fn finish(&self, house: &House) -> Result<contract::ConnectionId, ConnectError> {
        let address = match house.try_connect("s", self.config()).await {
            Ok(Connected::Pending(_, address)) => address,
            other => panic!("not pending: {other:?}"),
        };
        let query: HashMap<_, _> = address.query_pairs().into_owned().collect();
        let (code, state) = (Some("code".to_owned()), query["state"].clone());
        house.directory.finish(Callback { code, state, iss: None, error: None }).await
    }
}

#[tokio::test]
async fn an_honest_authority_is_used() {
    let (house, honest) = (House::new().await, authority(|_| Vec::new()).await);
    let id = honest.finish(&house).await.expect("connected");
    assert_eq!(house.say(&id, "x").await.expect("an answer").text(), "done");
}

#[tokio::test]
async fn metadata_that_lie_send_the_person_nowhere() {
    type Lies = fn(&str) -> Vec<(&'static str, Lie)>;
    let table: [(&str, Lies); 10] = [
        ("metadata of another resource", |_| {
            vec![(RESOURCE, Lie::Keys(json!({"resource": "https://bank.example.com/mcp"})))]
        }),
        ("an issuer that is another", |_| {
            vec![(ISSUER, Lie::Keys(json!({"issuer": "https://issuer.example.com"})))]
        }),
        ("an authorization server on a private address", |_| {
            vec![(RESOURCE, Lie::Keys(json!({"authorization_servers": ["http://169.254.169.254/latest"]})))]
        }),
        ("an authorization server that is a file", |_| {
            vec![(RESOURCE, Lie::Keys(json!({"authorization_servers": ["file:///etc/passwd"]})))]
        }),
        ("a token endpoint on a private address", |_| {
            vec![(ISSUER, Lie::Keys(json!({"token_endpoint": "http://10.0.0.1/token"})))]
        }),
        ("a page that runs as a script", |_| {
            vec![(ISSUER, Lie::Keys(json!({"authorization_endpoint": "javascript:alert(1)"})))]
        }),
        ("no S256", |_| vec![(ISSUER, Lie::Keys(json!({"code_challenge_methods_supported": ["plain"]})))]),
        ("metadata that are a page", |_| vec![(ISSUER, Lie::Html)]),
        ("metadata elsewhere", |_| vec![(ISSUER, Lie::Redirect("http://169.254.169.254/latest".into()))]),
        ("metadata without an end", |_| vec![(ISSUER, Lie::Endless), (RESOURCE, Lie::Endless)]),
    ];
    for (what, lies) in table {
        let (house, liar) = (House::new().await, authority(lies).await);
        let begun = Instant::now();
        let refused = house.try_connect("s", liar.config()).await;
        assert!(matches!(refused, Err(ConnectError::Failed(_))), "{what}: {refused:?}");
        assert!(begun.elapsed() < Duration::from_secs(15), "{what}: {:?}", begun.elapsed());
        assert_eq!(liar.asked("POST /token"), 0, "{what}");
        let rows = house.directory.connections().await.expect("books");
        assert_eq!(rows[0].connection.status, Status::Error, "{what}");
    }
}

#[tokio::test]
async fn a_token_endpoint_that_gives_no_token_leaves_the_connection_in_error() {
    for lie in [
        Lie::Html,
        Lie::Endless,
        Lie::Keys(json!({"access_token": ""})),
        Lie::Keys(json!({"token_type": "mac"})),
        Lie::Keys(json!({"access_token": "a\r\nX: y"})),
    ] {
        let (house, liar) = (House::new().await, authority(|_| vec![("/token", lie.clone())]).await);
        let refused = liar.finish(&house).await;
        assert!(matches!(refused, Err(ConnectError::Unfinished(Unfinished::Exchange(..)))), "{refused:?}");
        assert_eq!(liar.asked("POST /token"), 1, "a code is used once");
        let rows = house.directory.connections().await.expect("books");
        assert_eq!(rows[0].connection.status, Status::Error);
    }
}

#[tokio::test]
async fn a_token_endpoint_elsewhere_is_not_followed() {
    let thief = authority(|_| Vec::new()).await;
    let to = format!("{}/token", thief.origin);
    let (house, liar) =
        (House::new().await, authority(|_| vec![("/token", Lie::Redirect(to.clone()))]).await);
    assert!(liar.finish(&house).await.is_err());
    assert_eq!(thief.asked(""), 0, "no code is shown to anybody else");
}

#[tokio::test]
async fn a_server_that_always_refuses_costs_one_renewal() {
    let (house, liar) = (House::new().await, authority(|_| vec![("/mcp", Lie::Never)]).await);
    let refused = liar.finish(&house).await.expect_err("the first listing is refused");
    assert!(matches!(refused, ConnectError::Failed(Trouble::Unauthorized(_))), "{refused:?}");
    assert!(liar.asked("POST /token") <= 2, "one exchange, at most one renewal");
    let asked = liar.asked("POST /mcp");
    assert!(asked <= 6, "{asked}");
    let id = house.directory.connections().await.expect("books")[0].connection.ref_id.clone();
    for _ in 0..3 {
        assert!(house.say(&id, "x").await.is_err());
    }
    assert!(liar.asked("POST /token") <= 5 && liar.asked("POST /mcp") <= asked + 9);
}
