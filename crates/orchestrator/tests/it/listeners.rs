//! The two listeners over real sockets, and what they say when the database is away or a product calls too often.

use crate::http::{Api, Ask, config};
use bytes::Bytes;
use chassis::drain::Drain;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use orchestrator::serve::Replica;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use testbed::postgres::{PostgresServer, Version};
use tokio::net::TcpStream;

/// Longest wait for something that must happen.
const PATIENCE: Duration = Duration::from_secs(30);

async fn fetch(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap, String) {
    let talk = async {
        let io = TokioIo::new(TcpStream::connect(address).await.expect("it listens"));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(io).await.expect("speaks HTTP/1.1");
        tokio::spawn(connection);
        let mut request = Request::builder().uri(path).header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::<Bytes>::default()).expect("is well formed");
        let (head, body) = sender.send_request(request).await.expect("is answered").into_parts();
        let body = body.collect().await.expect("is complete").to_bytes();
        (head.status, head.headers, String::from_utf8(body.to_vec()).expect("is UTF-8"))
    };
    tokio::time::timeout(PATIENCE, talk).await.expect("in time")
}

#[tokio::test]
async fn the_internal_listener_has_metrics_and_probes_and_the_api_has_neither() {
    let api = Api::start().await;
    let owner = api.register("demo", json!({})).await;
    let key = [("x-platform-key", owner.key.as_str())];
    let (status, ..) = fetch(api.replica.api, "/engines/a-user-nobody-may-see", &key).await;
    assert_eq!(status, 404);
    let (status, _, text) = fetch(api.replica.api, "/metrics", &key).await;
    assert_eq!(status, 200);
    assert!(text.starts_with("{\"provisions_1h\":"), "{text}");
    assert_eq!(fetch(api.replica.api, "/livez", &[]).await.0, 404);

    assert_eq!(fetch(api.replica.internal, "/livez", &[]).await.2, "ok");
    assert_eq!(fetch(api.replica.internal, "/readyz", &[]).await.0, 200);
    let (_, headers, text) = fetch(api.replica.internal, "/metrics", &[]).await;
    assert_eq!(headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let counted = "bap_http_requests_total{route=\"/engines/{user_id}\",method=\"GET\",status=\"404\",code=\"ENGINE_NOT_FOUND\"} 1\n";
    assert!(text.contains(counted), "{text}");
    assert!(
        text.contains("bap_http_request_duration_seconds_count{route=\"/engines/{user_id}\"} 1\n"),
        "{text}"
    );
    assert!(
        text.contains("bap_db_up 1\n") && text.contains("bap_backend_up{backend=\"simulated\"} 1\n"),
        "{text}"
    );
    for hidden in ["a-user-nobody-may-see", owner.key.as_str()] {
        assert!(!text.contains(hidden), "{hidden} is in the metrics");
    }
    let (status, _, text) = fetch(api.replica.internal, "/engines", &key).await;
    assert_eq!(status, 404, "{text}");
    api.replica.stop().await;
}

#[tokio::test]
async fn a_product_over_its_limit_is_told_when_to_come_back_until_its_policy_changes() {
    let api = Api::start().await;
    let owner = api.register("demo", json!({"rate_limit_rpm": 1})).await;
    let admit = async || api.send("POST", "/engines/u/admit", Ask::new().platform(&owner.key)).await;
    assert_eq!(admit().await.ok()["reason"], "engine_not_found");
    let limited = admit().await;
    limited.refused("RATE_LIMITED");
    let seconds: u64 = limited.header("retry-after").expect("says when").parse().expect("whole seconds");
    assert!((55..=60).contains(&seconds), "{seconds}");
    assert_eq!(limited.json["error"]["message"], format!("Rate limit exceeded. Retry in {seconds} seconds."));
    api.get("/engines", &owner.key).await.ok();

    let policy = Ask::new().admin().json(&json!({"policy": {"rate_limit_rpm": 1, "max_engines": 5}}));
    api.send("PUT", "/products/demo/policy", policy).await.ok();
    assert_eq!(admit().await.ok()["reason"], "engine_not_found", "a change of policy begins afresh");
    admit().await.refused("RATE_LIMITED");
}

#[tokio::test]
async fn while_the_database_is_away_everything_says_so_and_the_process_lives() {
    let server = PostgresServer::private(Version::V18).await;
    let mut config = config(&server.create_database("orchestrator").await, &[]);
    let free = ([127, 0, 0, 1], 0).into();
    (config.settings.bind, config.settings.internal_bind) = (free, free);
    let replica = Replica::start(config, Drain::new(), None).await.expect("starts");
    let key = orchestrator::keys::new_platform_key();
    let keys = [("x-platform-key", key.expose())];
    let code = |text: &str| serde_json::from_str::<Value>(text).expect("is JSON")["error"]["code"].clone();
    assert_eq!(code(&fetch(replica.api, "/status", &keys).await.2), "INVALID_PLATFORM_KEY");

    server.stop().await;
    let (status, headers, text) = fetch(replica.api, "/status", &keys).await;
    assert_eq!((status.as_u16(), code(&text)), (503, json!("DATABASE_UNAVAILABLE")));
    assert_eq!(headers["retry-after"], "1");
    let noticed = tokio::time::timeout(PATIENCE, async {
        while fetch(replica.api, "/health", &[]).await.0 != 503 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    noticed.await.expect("the pulse notices");
    let (_, _, text) = fetch(replica.api, "/health", &[]).await;
    assert!(text.starts_with(r#"{"status":"error","subsystems":{"database":"error","#), "{text}");
    assert_eq!(fetch(replica.internal, "/livez", &[]).await.0, 200);
    assert_eq!(fetch(replica.internal, "/readyz", &[]).await.0, 503);
    replica.vanish().await;
}
