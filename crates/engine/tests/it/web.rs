//! The web tools and the way out of the sandbox, in whole Engines, with servers on loopback.

use crate::hitl::{answering, calls, calls_in_order, each};
use crate::support::{Setup, put_file};
use serde_json::json;
use std::sync::{Arc, Mutex};
use testbed::{Protocol, Reply, Script, ScriptedModel};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const PAGE: &str =
    "<html><head><title>Kites</title></head><body><p>How to <a href=/build>build</a> one.</p></body></html>";

/// A server that answers every GET with the same, and what it was asked.
pub async fn server(kind: &'static str, body: String) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 8192];
            let count = stream.read(&mut head).await.unwrap_or(0);
            kept.lock().expect("not poisoned").push(String::from_utf8_lossy(&head[..count]).into_owned());
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    (port, seen)
}

fn tainted(setup: &Setup) -> Vec<i64> {
    let brain = rusqlite::Connection::open(setup.brain()).expect("the brain");
    let mut statement = brain.prepare("SELECT tainted FROM turns ORDER BY number").expect("a statement");
    let rows = statement.query_map([], |row| row.get(0)).expect("rows");
    rows.map(|r| r.expect("a number")).collect()
}

#[tokio::test]
async fn a_named_page_is_read_as_text_and_its_turn_counts_as_tainted() {
    let (port, seen) = server("text/html", PAGE.into()).await;
    let model = calls("web_fetch", json!({"url": format!("http://127.0.0.1:{port}/kites#top")})).await;
    let setup = Setup::scripted(&model).with("TOOL_NETWORK_ALLOWLIST", &format!("127.0.0.1:{port}"));
    let engine = setup.start().await;
    engine.expect_log("TOOL_NETWORK_ALLOWLIST");
    let turn = engine.turn("a", "read it").await;
    let result = turn.one("tool_result");
    assert_eq!(
        result.data["output"],
        json!({"url": format!("http://127.0.0.1:{port}/kites"), "status": 200, "content_type": "text/html", "title": "Kites",
            "text": format!("How to [build](http://127.0.0.1:{port}/build) one."), "next_offset": null}),
        "{}",
        result.raw
    );
    assert!(seen.lock().expect("not poisoned")[0].starts_with("GET /kites HTTP/1.1\r\n"));
    assert_eq!(tainted(&setup), [1]);
    model.assert_no_problems();
}

#[tokio::test]
async fn private_addresses_are_refused_and_a_refusal_taints_nothing() {
    let (port, seen) = server("text/html", PAGE.into()).await;
    for url in
        [format!("http://127.0.0.1:{port}/"), "http://169.254.169.254/latest/".into(), "http://[::1]/".into()]
    {
        let model = calls("web_fetch", json!({"url": url})).await;
        let setup = Setup::scripted(&model);
        let engine = setup.start().await;
        let turn = engine.turn("a", &format!("read {url}")).await;
        assert_eq!(
            turn.one("tool_result").data["reason"],
            "permission_denied",
            "{}",
            turn.one("tool_result").raw
        );
        assert_eq!(tainted(&setup), [0]);
    }
    assert!(seen.lock().expect("not poisoned").is_empty());
}

#[tokio::test]
async fn switched_off_or_without_keys_the_tools_stay_and_say_so() {
    let model = ScriptedModel::start(Script::sequence([
        Reply::new()
            .tool_call("web_fetch", json!({"url": "https://a.test/"}))
            .tool_call("web_search", json!({"query": "q"})),
        Reply::text("done"),
    ]))
    .await;
    let engine = Setup::scripted(&model).with("WEB_FETCH_ENABLED", "false").start().await;
    let turn = engine.turn("a", "go https://a.test/").await;
    let reasons: Vec<_> = turn.all("tool_result").iter().map(|f| f.data["reason"].clone()).collect();
    assert_eq!(reasons, ["unavailable", "unavailable"]);
}

#[tokio::test]
async fn a_search_gives_results_and_a_file_search_gives_places() {
    let answer =
        json!({"web": {"results": [{"title": "K", "url": "https://kites.test/", "description": "d"}]}});
    let (port, _) = server("application/json", answer.to_string()).await;
    let model = ScriptedModel::start(Script::sequence([
        Reply::new()
            .tool_call("web_search", json!({"query": "kites", "count": 5}))
            .tool_call("file_search", json!({"query": "how are kites folded", "limit": 1})),
        Reply::text("done"),
    ]))
    .await;
    let setup = Setup::scripted(&model)
        .with("BRAVE_API_KEY", "brave-key-of-this-test")
        .with("BRAVE_BASE_URL", &format!("http://127.0.0.1:{port}"));
    put_file(&setup.workspace(), "notes.md", "Intro\n\nKites are folded at the long edge.\n");
    put_file(&setup.workspace(), "other.md", "Boats are built.\n");
    let engine = setup.start().await;
    let turn = engine.turn("a", "go").await;
    let results = turn.all("tool_result");
    let of = |tool: &str| {
        results.iter().find(|f| f.data["tool"] == tool).expect("a result").data["output"].clone()
    };
    assert_eq!(
        of("web_search"),
        json!([{"title": "K", "url": "https://kites.test/", "snippet": "d", "published_at": null}])
    );
    let places = of("file_search")["results"].clone();
    assert_eq!(
        (places.as_array().map(Vec::len), &places[0]["line"], &places[0]["score"]),
        (Some(1), &json!(3), &json!(1.0))
    );
    assert!(places[0]["path"].as_str().is_some_and(|p| p.ends_with("notes.md")), "{places}");
    assert_eq!(tainted(&setup), [1]);
}

#[tokio::test]
async fn a_page_of_a_host_outside_the_list_is_read_only_after_a_yes() {
    let (port, seen) = server("text/html", PAGE.into()).await;
    let model = calls_in_order(vec![
        ("web_fetch", json!({"url": format!("http://127.0.0.1:{port}/listed")})),
        ("web_fetch", json!({"url": "http://elsewhere.test/a"})),
        ("web_fetch", json!({"url": "http://elsewhere.test/b"})),
    ])
    .await;
    let setup = Setup::scripted(&model).with("TOOL_NETWORK_ALLOWLIST", &format!("127.0.0.1:{port}"));
    let engine = setup.start().await;
    engine.expect_log("TOOL_NETWORK_ALLOWLIST");
    let params = json!({"url": "http://Elsewhere.test:80/a"});
    let alone = engine.post("/rpc", json!({"method": "tool.web_fetch", "params": params})).await;
    let alone = alone.error(403, "PERMISSION_DENIED").await;
    assert_eq!(alone["details"]["rule"], "net:elsewhere.test");

    let refused = answering(&engine, "a", &["no", "yes"]).await;
    assert_eq!(each(&refused, "hitl_request", "rule"), ["net:elsewhere.test", "net:elsewhere.test"]);
    // nobody has such a host: to be unknown, it must have been looked for
    assert_eq!(
        each(&refused, "tool_result", "reason"),
        [json!(null), json!("permission_denied"), json!("not_found")]
    );
    let remembered = answering(&engine, "b", &["always"]).await;
    assert_eq!(remembered.count("hitl_request"), 1);
    assert_eq!(
        each(&remembered, "tool_result", "reason"),
        [json!(null), json!("not_found"), json!("not_found")]
    );
    assert_eq!(answering(&engine, "b", &[]).await.count("tool_result"), 3);
    assert_eq!(seen.lock().expect("not poisoned").len(), 3, "the listed page, once a turn");
    model.assert_no_problems();
}

#[tokio::test]
async fn a_redirect_beyond_the_list_is_not_followed_and_its_target_is_asked_about() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 8192]).await;
            let moved = "HTTP/1.1 302 Found\r\nlocation: http://elsewhere.test/landed?a=b\r\ncontent-length: 0\r\n\r\n";
            let _ = stream.write_all(moved.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    let model = calls_in_order(vec![
        ("web_fetch", json!({"url": format!("http://127.0.0.1:{port}/start")})),
        ("web_fetch", json!({"url": "http://elsewhere.test/landed?a=b"})),
    ])
    .await;
    let setup = Setup::scripted(&model).with("TOOL_NETWORK_ALLOWLIST", &format!("127.0.0.1:{port}"));
    let engine = setup.start().await;
    engine.expect_log("TOOL_NETWORK_ALLOWLIST");
    let turn = answering(&engine, "a", &["no"]).await;
    let results = turn.all("tool_result");
    assert_eq!(results[0].data["reason"], "permission_denied", "{}", results[0].raw);
    assert_eq!(results[0].data["output"], json!({"redirects_to": "http://elsewhere.test/landed?a=b"}));
    assert!(results[0].text("error").contains("call web_fetch with the address"), "{}", results[0].raw);
    let asked = turn.one("hitl_request");
    assert_eq!(
        (asked.text("rule"), &asked.data["input"]["url"]),
        ("net:elsewhere.test", &json!("http://elsewhere.test/landed?a=b"))
    );
    assert_eq!(tainted(&setup), [1], "the target is the server's word");
    model.assert_no_problems();
}

/// A picture of one dot.
const DOT: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\0\0\0\0";

#[tokio::test]
async fn media_by_url_are_fetched_by_the_engine_for_gemini_under_the_rules_of_the_web() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 8192];
            let count = stream.read(&mut head).await.unwrap_or(0);
            let (status, kind, body) = match String::from_utf8_lossy(&head[..count]).split(' ').nth(1) {
                Some("/dot") => ("200 OK", "image/png", DOT.to_vec()),
                Some("/large") => ("200 OK", "image/png", vec![0; 5000]),
                Some("/page") => ("200 OK", "text/html", b"<p>".to_vec()),
                _ => ("404 Not Found", "image/png", DOT.to_vec()),
            };
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.write_all(&body).await;
            let _ = stream.shutdown().await;
        }
    });
    let model =
        ScriptedModel::start(Script::sequence([Reply::text("A dot."), Reply::text("Still a dot.")])).await;
    let setup = Setup::speaking(&model, Protocol::Gemini)
        .with("TOOL_NETWORK_ALLOWLIST", &format!("127.0.0.1:{port}"))
        .with("MEDIA_MAX_BYTES", "4000");
    let engine = setup.start().await;
    engine.expect_log("TOOL_NETWORK_ALLOWLIST");
    let ask = |path: &str| {
        let url = format!("http://127.0.0.1:{port}/{path}");
        json!({"task_id": "a", "message": "what is it?", "media": [{"type": "image", "source": {"type": "url", "url": url}}]})
    };
    let turn = engine.run(ask("dot")).await;
    assert_eq!(turn.text(), "A dot.");
    assert_eq!(tainted(&setup), [1], "somebody else's content");
    let wanted = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, DOT);
    let asked = model.calls()[0].body.to_string();
    assert!(asked.contains(&wanted) && !asked.contains("fileUri"), "{asked}");
    for (path, status, code, words) in [
        ("large", 413, "PAYLOAD_TOO_LARGE", "MEDIA_MAX_BYTES"),
        ("page", 422, "VALIDATION_ERROR", "text/html"),
        ("none", 422, "VALIDATION_ERROR", "404"),
    ] {
        let error = engine.post("/execute", ask(path)).await.error(status, code).await;
        assert!(error.to_string().contains(words), "{path}: {error}");
    }
    let metadata = json!({"task_id": "a", "message": "x", "media": [{"type": "image", "source": {"type": "url", "url": "http://169.254.169.254/latest"}}]});
    let error = engine.post("/execute", metadata).await.error(422, "VALIDATION_ERROR").await;
    assert!(error.to_string().contains("metadata"), "{error}");
    // what was stored once is not fetched again
    assert_eq!(engine.turn("a", "and now?").await.text(), "Still a dot.");
    assert!(model.calls()[1].body.to_string().contains(&wanted));
    model.assert_no_problems();
}

#[tokio::test]
async fn what_an_answer_brings_by_url_is_fetched_for_gemini_and_taints_the_turn() {
    let (port, seen) = server("text/plain", "A page about kites.".into()).await;
    let question = json!({"question": "Which page?"});
    let model = ScriptedModel::start(Script::from_fn(move |r| {
        let answered = r.messages.iter().any(|m| !m.results.is_empty());
        if answered { Reply::text("Read.") } else { Reply::new().tool_call("ask_user", question.clone()) }
    }))
    .await;
    let setup = Setup::speaking(&model, Protocol::Gemini)
        .with("TOOL_NETWORK_ALLOWLIST", &format!("127.0.0.1:{port}"));
    let engine = setup.start().await;
    engine.expect_log("TOOL_NETWORK_ALLOWLIST");
    let mut stream = engine.execute(json!({"task_id": "a", "message": "go"})).await;
    stream.until_event("hitl_request").await;
    let request = engine.pending().await["request_id"].clone();
    let answer = |url: &str| {
        let document = json!({"type": "document", "source": {"type": "url", "url": url}});
        let words = json!({"type": "text", "text": "this one"});
        json!({"request_id": request, "answer": "it is attached", "content_blocks": [words, document]})
    };
    let metadata = engine.post("/hitl/respond", answer("http://169.254.169.254/latest")).await;
    let error = metadata.error(422, "VALIDATION_ERROR").await;
    assert_eq!(error["details"]["field"], "content_blocks[1]", "{error}");
    assert_eq!(tainted(&setup), [0], "nothing was read yet");
    let page = format!("http://127.0.0.1:{port}/kites");
    engine.answer(answer(&page)).await;
    assert_eq!(stream.rest().await.last().map(|f| f.text("stop_reason").to_owned()), Some("end_turn".into()));
    assert_eq!(tainted(&setup), [1]);
    let asked = model.calls().last().expect("asked").body.to_string();
    let wanted = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, "A page about kites.");
    assert!(asked.contains(&wanted) && !asked.contains("fileUri"), "{asked}");
    // the question is settled: for a second answer nothing is fetched
    let fetched = seen.lock().expect("not poisoned").len();
    engine.post("/hitl/respond", answer(&page)).await.error(409, "CONFLICT").await;
    assert_eq!((fetched, seen.lock().expect("not poisoned").len()), (1, 1));
    model.assert_no_problems();
}

#[tokio::test]
async fn an_attached_document_taints_its_turn_and_a_picture_of_the_person_s_own_does_not() {
    let model = ScriptedModel::start(Script::from_fn(|_| Reply::text("Seen."))).await;
    let setup = Setup::speaking(&model, Protocol::Anthropic);
    let engine = setup.start().await;
    let attach = |task: &str, kind: &str, media_type: &str, bytes: &[u8]| {
        let data = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
        let source = json!({"type": "base64", "media_type": media_type, "data": data});
        json!({"task_id": task, "message": "look", "media": [{"type": kind, "source": source}]})
    };
    engine.run(attach("a", "image", "image/png", DOT)).await;
    engine.run(attach("b", "document", "application/pdf", b"%PDF-1.4 somebody wrote this")).await;
    assert_eq!(tainted(&setup), [0, 1]);
    // an address is somebody else's, whoever fetches it
    let by_url = json!({"type": "image", "source": {"type": "url", "url": "https://kites.test/k.png"}});
    engine.run(json!({"task_id": "c", "message": "look", "media": [by_url]})).await;
    assert_eq!(tainted(&setup), [0, 1, 1]);
}

#[tokio::test]
async fn after_untrusted_content_an_address_that_was_shown_nowhere_is_asked_about() {
    let found =
        json!({"web": {"results": [{"title": "K", "url": "https://kites.test/how", "description": "d"}]}});
    let (port, _) = server("application/json", found.to_string()).await;
    let model = calls_in_order(vec![
        ("web_fetch", json!({"url": "https://before.test/?q=1"})),
        ("web_search", json!({"query": "kites"})),
        ("web_fetch", json!({"url": "https://kites.test/how"})),
        ("web_fetch", json!({"url": "https://kites.test/how?secret=1"})),
    ])
    .await;
    let setup = Setup::scripted(&model)
        .with("BRAVE_API_KEY", "brave-key-of-this-test")
        .with("BRAVE_BASE_URL", &format!("http://127.0.0.1:{port}"));
    let engine = setup.start().await;
    let turn = answering(&engine, "a", &["no"]).await;
    assert_eq!(each(&turn, "hitl_request", "rule"), ["net:kites.test"]);
    assert_eq!(turn.one("hitl_request").data["input"]["url"], "https://kites.test/how?secret=1");
    assert_eq!(
        each(&turn, "tool_result", "reason"),
        [json!("not_found"), json!(null), json!("not_found"), json!("permission_denied")]
    );
    model.assert_no_problems();
}

/// What a command does that wants out: through the proxy, past it, to another host, and without a token.
const WAYS_OUT: &str = r#"
ask() { printf 'GET %s HTTP/1.1\r\nHost: x%s\r\n\r\n' "$1" "$2" >&3; cat <&3; }
address=${HTTP_PROXY#http://}; token=$(printf %s "${address%@*}" | base64 -w0); port=${address##*:}
with=$'\r\n'"Proxy-Authorization: Basic $token"
through() { exec 3<>"/dev/tcp/127.0.0.1/$port" && ask "$1" "$2"; }
echo "listed: $(through http://127.0.0.1:PORT/listed "$with")"
echo "other: $(through http://127.0.0.1:80/other "$with")"
echo "tokenless: $(through http://127.0.0.1:PORT/tokenless "")"
perl -MSocket -e 'socket(S, PF_INET, SOCK_STREAM, 0); send(S, "GET /fast HTTP/1.0\r\n\r\n", 0x20000000, sockaddr_in(PORT, inet_aton("127.0.0.1"))) or print "fast: $!\n"' 2>&1
echo "direct: $( (exec 3<>/dev/tcp/127.0.0.1/PORT && ask /direct "") 2>&1 )"
"#;

#[tokio::test]
async fn a_command_reaches_named_hosts_through_the_proxy_and_nothing_else() {
    let (port, seen) = server("text/plain", "the answer of the server".into()).await;
    let model = calls("bash", json!({"command": "bash ways-out.sh"})).await;
    let setup = Setup::scripted(&model).with("TOOL_NETWORK_ALLOWLIST", &format!("127.0.0.1:{port}"));
    put_file(&setup.workspace(), "ways-out.sh", &WAYS_OUT.replace("PORT", &port.to_string()));
    let engine = setup.start().await;
    engine.expect_log("TOOL_NETWORK_ALLOWLIST");
    let turn = engine.turn("a", "go").await;
    let said = turn.one("tool_result").data["output"]["stdout"].as_str().unwrap_or_default().to_owned();
    let asked: Vec<String> = seen
        .lock()
        .expect("not poisoned")
        .iter()
        .map(|r| r.lines().next().unwrap_or_default().to_owned())
        .collect();
    if engine.log().contains("commands stay without network") {
        // the kernel cannot keep a command to one port, so it gets none
        assert_eq!(asked, [""; 0], "{said}");
        return;
    }
    let listed = said.split("other:").next().unwrap_or_default();
    assert!(listed.contains("the answer of the server"), "{said}");
    assert!(said.contains("other: HTTP/1.1 403 "), "{said}");
    assert!(said.contains("tokenless: HTTP/1.1 407 "), "{said}");
    assert_eq!(asked, ["GET /listed HTTP/1.1"], "{said}");
}
