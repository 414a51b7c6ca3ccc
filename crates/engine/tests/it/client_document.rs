//! An Engine that others can reach is an OAuth client by document: its client id is the address of the document.

use crate::support::Setup;
use crate::support::http::Ask;
use serde_json::{Value, json};
use testbed::mcp::{ScriptedAuth, ScriptedMcp, Speaks};

const KEY: &str = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=";
const ADDRESS: &str = "https://agent.example.com/assets/oauth/client.json";

async fn pending(setup: &Setup, auth: &ScriptedAuth, server: &ScriptedMcp) -> (Value, url::Url) {
    auth.take_documents();
    server.name_metadata(&auth.resource_metadata());
    server.trust(auth);
    let engine = setup.start().await;
    let entry =
        json!({"server_name": "notes", "transport": "http", "url": server.url(), "auth_method": "oauth"});
    let begun = engine
        .post("/assets/connect", json!({"server_name": "notes", "server_config": entry}))
        .await
        .ok()
        .await;
    let address = begun["auth_url"].as_str().expect("an address").parse().expect("a URL");
    (begun, address)
}

#[tokio::test]
async fn a_public_engine_is_a_client_by_document_and_serves_the_document_without_a_key() {
    let server = ScriptedMcp::start(Speaks::Modern).await;
    let auth = ScriptedAuth::start(server.url()).await;
    let setup = Setup::offline()
        .with("AD_ENCRYPTION_KEY", KEY)
        .with("OAUTH_REDIRECT_BASE_URL", "https://agent.example.com");
    let (_, address) = pending(&setup, &auth, &server).await;
    let asked = |name: &str| address.query_pairs().find(|(n, _)| n == name).map(|(_, v)| v.into_owned());
    assert_eq!(asked("client_id").as_deref(), Some(ADDRESS));
    assert_eq!(asked("redirect_uri").as_deref(), Some("https://agent.example.com/assets/oauth/callback"));
    assert!(auth.seen().iter().all(|seen| seen.endpoint != "register"), "nothing is registered");

    let engine = setup.start().await;
    let document = engine.send(Ask::get("/assets/oauth/client.json").without_key()).await.ok().await;
    assert_eq!(document["client_id"], ADDRESS);
    assert_eq!(document["redirect_uris"], json!(["https://agent.example.com/assets/oauth/callback"]));
    assert_eq!(document["token_endpoint_auth_method"], "none");
    assert_eq!(document["application_type"], "web");
}

#[tokio::test]
async fn an_engine_that_others_cannot_read_registers_instead_and_has_no_document() {
    for base in ["https://10.0.0.7", "https://agent.internal", "http://agent.example.com", "https://agent"] {
        let setup = Setup::offline().with("OAUTH_REDIRECT_BASE_URL", base);
        let engine = setup.start().await;
        let open = Ask::get("/assets/oauth/client.json").without_key();
        engine.send(open).await.error(404, "NOT_FOUND").await;
    }
    let server = ScriptedMcp::start(Speaks::Modern).await;
    let auth = ScriptedAuth::start(server.url()).await;
    let setup = Setup::offline().with("AD_ENCRYPTION_KEY", KEY);
    let (_, address) = pending(&setup, &auth, &server).await;
    assert!(!address.as_str().contains("client.json"));
    assert!(auth.seen().iter().any(|seen| seen.endpoint == "register"));
}
