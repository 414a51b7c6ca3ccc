//! Canary secrets in every place the Engine has secrets, and runs that try to get them out.

use crate::support::http::Ask;
use crate::support::sse::raw;
use crate::support::{Engine, Setup, put_file};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::json;
use std::path::Path;
use testbed::{Reply, Script, ScriptedModel};

/// One for every secret variable that may be any text.
const CANARIES: [(&str, &str); 6] = [
    ("LLM_API_KEY", "canary-llm/one+kite seven"),
    ("OPENAI_API_KEY", "canary-openai-Zw5T"),
    ("ANTHROPIC_API_KEY", "canary-anthropic-Q9sL"),
    ("GEMINI_API_KEY", "canary-gemini-m3Rk"),
    ("BRAVE_API_KEY", "canary-brave-7hXd"),
    ("TAVILY_API_KEY", "canary-tavily-p0Yc"),
];

/// Bytes that do not stand somewhere by chance.
const SHORTEST: usize = 8;

fn armed(model: &ScriptedModel) -> Setup {
    // Without it OPENAI_API_KEY would be tried at OpenAI's own embeddings endpoint.
    let setup = Setup::scripted(model).with("EMBEDDING_PROVIDER", "local");
    CANARIES.iter().fold(setup, |setup, (name, value)| setup.with(name, value))
}

/// The ways a canary is written down, and of each the part that does not depend on what stands around it.
pub fn spellings(canary: &str) -> Vec<(String, String)> {
    let percent: String = canary.bytes().map(|b| format!("%{b:02X}")).collect();
    let path: String = url::form_urlencoded::byte_serialize(canary.as_bytes()).collect();
    let plain = [canary.to_owned(), percent, path].map(|s| (s.clone(), s));
    let encoded = [STANDARD.encode(canary), URL_SAFE.encode(canary)];
    let inner = |text: &str| text[4..text.len() - 4].to_owned();
    plain.into_iter().chain(encoded.map(|text| (text.clone(), inner(&text)))).collect()
}

fn assert_clean(place: &str, bytes: &[u8]) {
    assert_absent(&CANARIES.map(|(_, canary)| canary), place, bytes);
}

/// None of these stands there, in no spelling.
pub fn assert_absent(secrets: &[&str], place: &str, bytes: &[u8]) {
    for secret in secrets {
        // the middle of a short secret's base64 is too short to mean anything
        for (_, spelling) in spellings(secret).into_iter().filter(|(_, spelling)| spelling.len() >= SHORTEST)
        {
            let found = bytes.windows(spelling.len()).any(|w| w == spelling.as_bytes());
            assert!(!found, "{secret} stands in {place} as {spelling}");
        }
    }
}

fn assert_files_clean(dir: &Path, except: &Path) {
    assert_files_absent(&CANARIES.map(|(_, canary)| canary), dir, except);
}

/// Everything the Engine has written, after it has ended.
pub fn assert_files_absent(secrets: &[&str], dir: &Path, except: &Path) {
    let mut folders = vec![dir.to_owned()];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            if path.is_dir() {
                if path != except {
                    folders.push(path);
                }
            } else {
                seen += 1;
                let bytes = std::fs::read(&path).unwrap_or_default();
                assert_absent(secrets, &path.display().to_string(), &bytes);
            }
        }
    }
    assert!(seen >= 1, "there is a brain");
}

async fn everything_told(engine: &Engine) -> Vec<(&'static str, String)> {
    vec![
        ("the replay", raw(&engine.stored("").await)),
        ("the tasks", engine.json("/tasks").await.to_string()),
        ("the messages", engine.json("/tasks/a/messages").await.to_string()),
        ("the metrics", engine.get("/metrics").await.text().await),
        ("/health", engine.health().await.to_string()),
        ("the log", engine.log()),
    ]
}

#[tokio::test]
async fn no_canary_leaves_by_a_tool_a_model_or_an_error_in_any_spelling() {
    let all = CANARIES.iter().flat_map(|(_, canary)| spellings(canary));
    let all: Vec<String> = all.map(|(spelling, _)| spelling).collect();
    let said = all.join(" | ");
    let model = ScriptedModel::start(Script::from_fn(move |r| {
        if r.last_user_text().contains("fail") {
            return Reply::error(
                401,
                json!({"error": {"message": format!("Incorrect API key provided: {said}"), "type": "x"}}),
            );
        }
        let letters: Vec<String> =
            said.chars().collect::<Vec<_>>().chunks(3).map(|c| c.iter().collect()).collect();
        let pieces = || letters.iter().map(String::as_str);
        match r.messages.iter().filter(|m| !m.results.is_empty()).count() {
            // read what a person left lying about, write it elsewhere, call what does not exist, say it in pieces
            0 => Reply::new()
                .say_chunks(pieces())
                .tool_call(
                    "bash",
                    json!({"command": "cat .env; base64 -w0 .env; seq 1 40000; cat .env >&2; exit 3"}),
                )
                .tool_call("read_file", json!({"path": ".env"}))
                .tool_call("grep", json!({"pattern": "canary"}))
                .tool_call("no_such_tool", json!({"x": said, said.clone(): 1}))
                .tool_call("working_memory_write", json!({"key": "k", "value": {"said": said}})),
            _ => Reply::new().say_chunks(pieces()),
        }
    }))
    .await;
    let setup = armed(&model);
    let workspace = setup.workspace();
    let env: String = CANARIES.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    put_file(&workspace, ".env", &env);
    let engine = setup.start().await;
    engine.expect_log("The model call failed");
    let turn = engine.turn("a", "go on").await;
    assert_clean("the stream", turn.raw().as_bytes());
    assert!(turn.text().contains("[redacted:secret] | "), "{}", turn.text());
    let failed = engine.turn("a", "now fail").await;
    assert_clean("the stream of the failed turn", failed.raw().as_bytes());
    for (place, text) in everything_told(&engine).await {
        assert_clean(place, text.as_bytes());
    }
    for request in model.calls().iter().skip(1) {
        for result in request.results() {
            assert_clean("what the model is shown", result.text.as_bytes());
        }
    }
    engine.kill();
    assert_files_clean(setup.brain().parent().expect("a directory"), &workspace);
    let brain = rusqlite::Connection::open(setup.brain()).expect("the brain");
    let count = "SELECT count(*) FROM observability_events WHERE kind = 'secret_scrubbed'";
    let noted: i64 = brain.query_row(count, [], |row| row.get(0)).expect("a count");
    assert!(noted >= 2, "scrubbing is noted: {noted}");
}

#[tokio::test]
async fn what_only_looks_like_a_key_is_kept_from_the_stream_and_left_to_the_model() {
    let token: String = format!("ghp_{}", "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7xC0aB3dE6");
    let told = format!("here: {token}.");
    let model = ScriptedModel::start(Script::from_fn(move |r| {
        let chunks: Vec<String> = told.chars().map(String::from).collect();
        if r.messages.iter().any(|m| !m.results.is_empty()) {
            return Reply::new().say_chunks(chunks.iter().map(String::as_str));
        }
        Reply::new().tool_call("bash", json!({"command": "cat token"}))
    }))
    .await;
    let setup = Setup::scripted(&model);
    put_file(&setup.workspace(), "token", &token);
    let engine = setup.start().await;
    let turn = engine.turn("a", "show it").await;
    assert_eq!(turn.text(), "here: [redacted:github_token].");
    assert!(!turn.raw().contains(&token), "{}", turn.raw());
    assert!(turn.one("tool_result").raw.contains("[redacted:github_token]"));
    assert!(!raw(&engine.stored("").await).contains(&token));
    assert!(model.calls()[1].results()[0].text.contains(&token), "the model works with what the tool said");
}

#[tokio::test]
async fn ordinary_text_arrives_as_it_was_said_and_without_waiting_for_the_end() {
    let said = "A task-0196a7b2c3d4e5f6 and a risk: eyJ is how it begins; the password is not told. sk";
    let gate = testbed::Gate::new();
    let held = gate.clone();
    let model = ScriptedModel::start(Script::from_fn(move |_| {
        let letters: Vec<String> = said.chars().map(String::from).collect();
        Reply::new().say_chunks(letters.iter().map(String::as_str)).hold(&held).say_chunks(["."])
    }))
    .await;
    let engine = Setup::scripted(&model).start().await;
    let mut stream = engine.execute(json!({"task_id": "a", "message": "hi"})).await;
    let mut text = String::new();
    // all but what may be the beginning of a key is there while the model still speaks
    while !text.ends_with("told. ") {
        let frame = stream.next().await.expect("the stream goes on");
        if frame.is("text_delta") {
            text.push_str(frame.text("text"));
        }
    }
    gate.open();
    let rest = stream.rest().await;
    text.extend(rest.iter().filter(|f| f.is("text_delta")).map(|f| f.text("text")));
    assert_eq!(text, format!("{said}."));
}

#[tokio::test]
async fn what_a_person_typed_and_what_is_remembered_is_told_without_known_secrets_and_otherwise_as_it_was() {
    let model = ScriptedModel::start(Script::from_fn(|_| Reply::text("All done."))).await;
    let engine = armed(&model).start().await;
    let canary = CANARIES[0].1;
    let typed = format!("{canary}: my key. My password=S3cr3tP4ssw0rd is mine.");
    engine.turn("a", &typed).await;
    let fact = json!({"subject": "keys", "content": typed});
    let soul = json!({"identity": format!("I know {canary}.")});
    let skill = json!({"name": "keeper", "description": canary, "prompt": typed});
    let written = [
        ("a new fact", engine.post("/memory/knowledge", fact).await.ok().await),
        ("a new skill", engine.post("/skills/create", skill).await.ok().await),
        ("a found fact", engine.post("/memory/knowledge/search", json!({"query": "keys"})).await.ok().await),
        (
            "a fact by rpc",
            engine
                .post("/rpc", json!({"method": "memory.knowledge_search", "params": {"query": "keys"}}))
                .await
                .ok()
                .await,
        ),
        ("the soul", engine.send(Ask::new("PUT", "/memory/soul").body(soul.to_string())).await.ok().await),
    ];
    let mut told: Vec<(&str, String)> =
        written.into_iter().map(|(place, v)| (place, v.to_string())).collect();
    for place in [
        "/tasks",
        "/tasks/a",
        "/tasks/a/messages",
        "/memory/soul/full",
        "/skills",
        "/skills/keeper",
        "/memory/export",
    ] {
        told.push((place, engine.get(place).await.text().await));
    }
    for (place, text) in &told {
        assert_clean(place, text.as_bytes());
        assert!(text.contains("[redacted:secret]"), "{place}: {text}");
    }
    // what only looks like a secret is the person's own
    let messages = &told.iter().find(|(place, _)| *place == "/tasks/a/messages").expect("asked").1;
    assert!(messages.contains("password=S3cr3tP4ssw0rd is mine."), "{messages}");
}
