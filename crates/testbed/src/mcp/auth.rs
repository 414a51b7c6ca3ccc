//! An authorization server on loopback: metadata, registration, PKCE, rotation of refresh tokens with detection of
//! reuse, revocation. It gives its consent at once and remembers what it was asked for.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

/// One request to the token, registration or revocation endpoint.
#[derive(Debug, Clone)]
pub struct Seen {
    /// `token`, `register` or `revoke`.
    pub endpoint: &'static str,
    /// The form, or the JSON document under `body`.
    pub fields: HashMap<String, String>,
    /// The `Authorization` header.
    pub authorization: Option<String>,
}

#[derive(Default)]
struct Inside {
    codes: HashMap<String, HashMap<String, String>>,
    /// Live refresh tokens and those that were used up.
    refresh: HashSet<String>,
    used: HashSet<String>,
    counter: u64,
    life_s: i64,
    gives_refresh: bool,
    names_itself: bool,
    takes_documents: bool,
    reused: usize,
    down: bool,
    seen: Vec<Seen>,
    /// Access tokens in force.
    access: HashSet<String>,
    resource: String,
}

struct Shared {
    url: String,
    state: Mutex<Inside>,
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, Inside> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running authorization server. Dropping it closes its port.
pub struct ScriptedAuth {
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

impl Drop for ScriptedAuth {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl ScriptedAuth {
    /// Starts for one protected resource.
    pub async fn start(resource: &str) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let state = Inside {
            life_s: 3_600,
            gives_refresh: true,
            names_itself: true,
            resource: resource.to_owned(),
            ..Inside::default()
        };
        let shared = Arc::new(Shared { url, state: Mutex::new(state) });
        let app = Router::new()
            .route("/.well-known/oauth-authorization-server", get(metadata))
            .route("/resource-metadata", get(resource_metadata))
            .route("/register", post(register))
            .route("/authorize", get(authorize))
            .route("/token", post(token))
            .route("/revoke", post(revoke))
            .with_state(Arc::clone(&shared));
        let server = tokio::spawn(async move {
            let _ = axum::serve(listener, app).await;
        });
        Self { shared, server }
    }

    /// Its issuer.
    pub fn url(&self) -> &str {
        &self.shared.url
    }

    /// Where the metadata of the protected resource are.
    pub fn resource_metadata(&self) -> String {
        format!("{}/resource-metadata", self.shared.url)
    }

    /// How long access tokens live from now on.
    pub fn set_life_s(&self, life_s: i64) {
        self.shared.state().life_s = life_s;
    }

    /// Takes all access tokens back; refresh tokens stay good.
    pub fn withdraw_access(&self) {
        self.shared.state().access.clear();
    }

    /// Whether refresh tokens are given from now on.
    pub fn give_refresh_tokens(&self, give: bool) {
        self.shared.state().gives_refresh = give;
    }

    /// Announces that the id of a client may be the address of its document.
    pub fn take_documents(&self) {
        self.shared.state().takes_documents = true;
    }

    /// Answers 503 from now on, or not.
    pub fn set_down(&self, down: bool) {
        self.shared.state().down = down;
    }

    /// Whether an access token is in force, for a server that trusts this one.
    pub(super) fn judge(&self) -> super::Judge {
        let shared = Arc::clone(&self.shared);
        Arc::new(move |token| shared.state().access.contains(token))
    }

    /// Access tokens in force.
    pub fn access_tokens(&self) -> Vec<String> {
        self.shared.state().access.iter().cloned().collect()
    }

    /// Every refresh token it has given out, used up or not.
    pub fn refresh_tokens(&self) -> Vec<String> {
        let state = self.shared.state();
        state.refresh.iter().chain(&state.used).cloned().collect()
    }

    /// How often a used-up refresh token came back.
    pub fn reuses(&self) -> usize {
        self.shared.state().reused
    }

    /// What it was asked, in order.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.state().seen.clone()
    }

    /// How often tokens were asked for with this grant.
    pub fn grants(&self, grant: &str) -> usize {
        self.seen().iter().filter(|s| s.fields.get("grant_type").is_some_and(|g| g == grant)).count()
    }

    /// Does what a person's browser does: goes to the address and comes back with the answer's parameters.
    pub async fn consent(&self, address: &str) -> HashMap<String, String> {
        let rest = address.strip_prefix("http://").expect("a plain address");
        let (host, path) = rest.split_once('/').expect("a path");
        let mut line = tokio::net::TcpStream::connect(host).await.expect("a connection");
        let ask = format!("GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        line.write_all(ask.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        line.read_to_string(&mut answer).await.expect("an answer");
        let location =
            answer.lines().find_map(|l| l.strip_prefix("location: ")).expect("a redirect").to_owned();
        let query = location.split_once('?').expect("parameters").1.to_owned();
        form(query.as_bytes())
    }
}

type Answer = Response<Body>;

fn json_answer(status: u16, value: &Value) -> Answer {
    let made = Response::builder().status(status).header("content-type", "application/json");
    made.body(Body::from(value.to_string())).expect("an answer")
}

/// Reads `a=b&c=d`.
fn form(bytes: &[u8]) -> HashMap<String, String> {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let url = reqwest::Url::parse(&format!("http://x/?{text}")).expect("a query");
    url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
}

async fn metadata(State(shared): State<Arc<Shared>>) -> Answer {
    let url = &shared.url;
    json_answer(
        200,
        &json!({
            "issuer": url,
            "authorization_endpoint": format!("{url}/authorize"),
            "token_endpoint": format!("{url}/token"),
            "registration_endpoint": format!("{url}/register"),
            "revocation_endpoint": format!("{url}/revoke"),
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none", "client_secret_basic"],
            "authorization_response_iss_parameter_supported": shared.state().names_itself,
            "client_id_metadata_document_supported": shared.state().takes_documents,
        }),
    )
}

async fn resource_metadata(State(shared): State<Arc<Shared>>) -> Answer {
    let resource = shared.state().resource.clone();
    json_answer(
        200,
        &json!({"resource": resource, "authorization_servers": [shared.url], "scopes_supported": ["read", "write"]}),
    )
}

async fn register(State(shared): State<Arc<Shared>>, body: Bytes) -> Answer {
    let mut state = shared.state();
    let document = String::from_utf8_lossy(&body).into_owned();
    let fields = HashMap::from([("body".to_owned(), document)]);
    state.seen.push(Seen { endpoint: "register", fields, authorization: None });
    state.counter += 1;
    let id = format!("client-{}", state.counter);
    json_answer(201, &json!({"client_id": id, "token_endpoint_auth_method": "none"}))
}

async fn authorize(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<HashMap<String, String>>,
) -> Answer {
    let mut state = shared.state();
    state.counter += 1;
    let code = format!("code-{}", state.counter);
    let back = format!("{}?code={code}&state={}&iss={}", query["redirect_uri"], query["state"], shared.url);
    state.codes.insert(code, query);
    Response::builder().status(302).header("location", back).body(Body::empty()).expect("an answer")
}

async fn token(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Answer {
    let fields = form(&body);
    let authorization = headers.get("authorization").and_then(|v| v.to_str().ok()).map(str::to_owned);
    let mut state = shared.state();
    state.seen.push(Seen { endpoint: "token", fields: fields.clone(), authorization });
    if state.down {
        return json_answer(503, &json!({}));
    }
    let refused = |word: &str| json_answer(400, &json!({"error": word}));
    let field = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
    if field("resource") != state.resource {
        return refused("invalid_target");
    }
    let scope = match field("grant_type") {
        "authorization_code" => {
            let Some(asked) = state.codes.remove(field("code")) else { return refused("invalid_grant") };
            let fits = asked["code_challenge_method"] == "S256"
                && asked["code_challenge"] == challenge(field("code_verifier"))
                && asked["redirect_uri"] == field("redirect_uri")
                && asked["client_id"] == field("client_id");
            if !fits {
                return refused("invalid_grant");
            }
            asked.get("scope").cloned().unwrap_or_default()
        }
        "refresh_token" => {
            let token = field("refresh_token").to_owned();
            if state.used.contains(&token) {
                // a thief, or a client that lost count: the whole family ends
                state.reused += 1;
                state.refresh.clear();
                state.access.clear();
                return refused("invalid_grant");
            }
            if !state.refresh.remove(&token) {
                return refused("invalid_grant");
            }
            state.used.insert(token);
            "read write".to_owned()
        }
        _ => return refused("unsupported_grant_type"),
    };
    state.counter += 1;
    let (access, refresh) = (format!("access-{}", state.counter), format!("refresh-{}", state.counter));
    state.access.clear();
    state.access.insert(access.clone());
    let mut given =
        json!({"access_token": access, "token_type": "Bearer", "expires_in": state.life_s, "scope": scope});
    if state.gives_refresh {
        state.refresh.insert(refresh.clone());
        given["refresh_token"] = json!(refresh);
    }
    json_answer(200, &given)
}

async fn revoke(State(shared): State<Arc<Shared>>, body: Bytes) -> Answer {
    let fields = form(&body);
    let mut state = shared.state();
    if let Some(token) = fields.get("token") {
        state.refresh.remove(token);
        state.access.clear();
    }
    state.seen.push(Seen { endpoint: "revoke", fields, authorization: None });
    json_answer(200, &json!({}))
}

/// The S256 challenge, reckoned by other code than the client's.
fn challenge(verifier: &str) -> String {
    use base64::Engine as _;
    use sha2::Digest as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(sha2::Sha256::digest(verifier.as_bytes()))
}
