//! Media on their way to a provider: looked at, made smaller, left out when refused, and read piece by piece.

use crate::support::http::Ask;
use crate::support::sse::Turn;
use crate::support::{Engine, Setup};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use serde_json::{Value, json};
use std::io::Cursor;
use testbed::{Protocol, Reply, Script, ScriptedModel};

const VALIDATE: &str = "MEDIA_PRESEND_VALIDATION_ENABLED";
const RESIZE: &str = "MEDIA_IMAGE_RESIZE_ENABLED";
const EDGE: &str = "MEDIA_IMAGE_MAX_EDGE_PX";

fn picture(width: u32, height: u32, format: ImageFormat) -> Vec<u8> {
    let picture: DynamicImage = RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, y as u8, 9])).into();
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).expect("a picture");
    bytes.into_inner()
}

fn medium(kind: &str, media_type: &str, bytes: &[u8]) -> Value {
    json!({"type": kind, "source": {"type": "base64", "media_type": media_type, "data": BASE64.encode(bytes)}})
}

fn message(task: &str, media: &[Value]) -> Value {
    json!({"task_id": task, "message": "look", "media": media})
}

/// A PNG that promises 60000 x 60000 pixels in a hundred bytes.
fn bomb() -> Vec<u8> {
    let small = picture(1, 1, ImageFormat::Png);
    let mut bytes = small[..16].to_vec();
    bytes.extend([60_000_u32.to_be_bytes(), 60_000_u32.to_be_bytes()].concat());
    bytes.extend(&small[24..29]);
    let crc = !bytes[12..29].iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |c, _| (c >> 1) ^ (0xedb8_8320 & (c & 1).wrapping_neg()))
    });
    bytes.extend(crc.to_be_bytes());
    bytes.extend(&small[33..]);
    bytes
}

/// The pictures of a call's body, by where each protocol puts them.
fn sent(body: &Value) -> Vec<(String, Vec<u8>)> {
    fn look(value: &Value, found: &mut Vec<(String, Vec<u8>)>) {
        match value {
            Value::Object(fields) => {
                let data = fields.get("data").and_then(Value::as_str);
                let kind = fields.get("media_type").or(fields.get("mimeType")).and_then(Value::as_str);
                if let (Some(data), Some(kind)) = (data, kind) {
                    found.push((kind.to_owned(), BASE64.decode(data).expect("base64")));
                }
                fields.values().for_each(|v| look(v, found));
            }
            Value::Array(list) => list.iter().for_each(|v| look(v, found)),
            Value::String(text) => {
                if let Some((kind, data)) = text.strip_prefix("data:").and_then(|t| t.split_once(";base64,"))
                {
                    found.push((kind.to_owned(), BASE64.decode(data).expect("base64")));
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    look(body, &mut found);
    found
}

fn edges(bytes: &[u8]) -> (u32, u32) {
    let picture = image::load_from_memory(bytes).expect("a picture");
    (picture.width(), picture.height())
}

async fn refused(engine: &Engine, media: &[Value]) -> Value {
    engine.post("/execute", message("refused", media)).await.error(422, "VALIDATION_ERROR").await
}

#[tokio::test]
async fn with_validation_media_that_are_not_what_they_say_are_refused_before_anything_is_stored() {
    let model = ScriptedModel::start(Script::always(Reply::text("Seen."))).await;
    let setup = Setup::speaking(&model, Protocol::Anthropic).with(VALIDATE, "true");
    let engine = setup.start().await;
    let whole = picture(300, 300, ImageFormat::Png);
    let good = medium("image", "image/png", &whole);
    for wrong in [
        medium("image", "image/png", b"\xff\xd8\xff\xe0 a photograph"),
        medium("image", "image/jpeg", &whole),
        medium("image", "image/png", &whole[..20]),
        medium("image", "image/png", &bomb()),
        medium("document", "application/pdf", b"<html>not found</html>"),
        medium("document", "text/plain", b"\x7fELF\0\0\0"),
    ] {
        let error = refused(&engine, &[good.clone(), wrong.clone()]).await;
        assert_eq!(error["details"]["field"], "media[1]", "{error}");
    }
    let error = refused(&engine, &[medium("image", "image/jpeg", &whole)]).await;
    assert_eq!(error["details"]["found"], "image/png");
    engine.get("/tasks/refused").await.error(404, "TASK_NOT_FOUND").await;
    assert!(model.calls().is_empty());
    let pdf = medium("document", "application/pdf", b"%PDF-1.4 and so on");
    let fine = [good, medium("image", "image/webp", &picture(9, 9, ImageFormat::WebP)), pdf];
    assert_eq!(engine.run(message("a", &fine)).await.text(), "Seen.");
    model.assert_no_problems();
}

#[tokio::test]
async fn without_validation_the_provider_judges() {
    let model = ScriptedModel::start(Script::always(Reply::text("Seen."))).await;
    let engine = Setup::scripted(&model).start().await;
    let odd = [medium("image", "image/png", b"\xff\xd8\xff\xe0"), medium("image", "image/png", &bomb())];
    assert_eq!(engine.run(message("a", &odd)).await.text(), "Seen.");
    assert_eq!(sent(&model.calls()[0].body).len(), 2);
}

#[tokio::test]
async fn a_large_picture_is_stored_and_sent_smaller_and_a_small_one_as_it_came() {
    for protocol in Protocol::ALL {
        let model = ScriptedModel::start(Script::always(Reply::text("Seen."))).await;
        let engine = Setup::speaking(&model, protocol).with(RESIZE, "true").with(EDGE, "256").start().await;
        let (large, small) = (picture(1024, 512, ImageFormat::Png), picture(200, 100, ImageFormat::Gif));
        let media = [medium("image", "image/png", &large), medium("image", "image/gif", &small)];
        engine.run(message("a", &media)).await;
        engine.turn("a", "and now?").await;
        for call in model.calls() {
            let pictures = sent(&call.body);
            assert_eq!(pictures.len(), 2, "{protocol:?}");
            assert_eq!((pictures[0].0.as_str(), edges(&pictures[0].1)), ("image/jpeg", (256, 128)));
            assert_eq!(pictures[1], ("image/gif".to_owned(), small.clone()), "{protocol:?}");
        }
        let stored = engine.json("/tasks/a/messages").await["messages"][0]["content"][1]["source"].clone();
        assert_eq!(stored["media_type"], "image/jpeg", "{stored}");
        assert_eq!(stored["size"], sent(&model.calls()[0].body)[0].1.len());
        model.assert_no_problems();
    }
}

#[tokio::test]
async fn a_picture_that_cannot_be_made_smaller_is_refused_and_a_broken_one_left_to_the_provider() {
    let model = ScriptedModel::start(Script::always(Reply::text("Seen."))).await;
    let engine = Setup::scripted(&model).with(RESIZE, "true").with(EDGE, "256").start().await;
    let whole = picture(900, 900, ImageFormat::Png);
    let error = refused(&engine, &[medium("image", "image/png", &bomb())]).await;
    assert!(error["message"].as_str().is_some_and(|m| m.contains("60000 x 60000")), "{error}");
    refused(&engine, &[medium("image", "image/png", &whole[..whole.len() / 2])]).await;
    let cut = &whole[..20];
    engine.run(message("a", &[medium("image", "image/png", cut)])).await;
    assert_eq!(sent(&model.calls()[0].body)[0].1, cut);
    model.assert_no_problems();
}

#[tokio::test]
async fn a_repeated_request_is_answered_with_its_turn_whatever_is_asked_of_media_since() {
    let model = ScriptedModel::start(Script::always(Reply::text("Seen."))).await;
    let setup = Setup::scripted(&model);
    let body = message("a", &[medium("image", "image/png", b"no picture at all")]);
    let ask = async |engine: &Engine| -> Turn {
        let ask = Ask::post("/execute", &body).header("idempotency-key", "once");
        Turn(engine.send(ask).await.stream().rest().await)
    };
    let first = ask(&setup.start().await).await;
    let again = ask(&setup.with(VALIDATE, "true").start().await).await;
    assert_eq!((first.text(), again.text()), ("Seen.".to_owned(), "Seen.".to_owned()));
    assert_eq!(model.calls().len(), 1);
}

#[tokio::test]
async fn a_picture_that_a_tool_shows_is_made_smaller_too() {
    let model = ScriptedModel::start(Script::sequence([
        Reply::new().tool_call("read_file", json!({"path": "large.png"})),
        Reply::text("Seen."),
    ]))
    .await;
    let setup = Setup::speaking(&model, Protocol::Anthropic).with(RESIZE, "true").with(EDGE, "256");
    std::fs::create_dir_all(setup.workspace()).expect("a directory");
    let large = picture(1024, 512, ImageFormat::Png);
    std::fs::write(setup.workspace().join("large.png"), large).expect("written");
    let engine = setup.start().await;
    engine.turn("a", "look at it").await;
    let pictures = sent(&model.calls()[1].body);
    assert_eq!((pictures[0].0.as_str(), edges(&pictures[0].1)), ("image/jpeg", (256, 128)));
    model.assert_no_problems();
}

const RECOVER: &str = "MEDIA_ERROR_RECOVERY_ENABLED";

/// Refuses every call that holds these bytes, in a provider's words.
async fn squeamish(bad: &[u8]) -> ScriptedModel {
    let bad = BASE64.encode(bad);
    ScriptedModel::start(Script::from_fn(move |r| {
        if r.body.to_string().contains(&bad) {
            let message = "messages.0.content.1.image.source.base64: Could not process image";
            return Reply::error(
                400,
                json!({"error": {"type": "invalid_request_error", "message": message}}),
            );
        }
        let asked = r.messages.last().is_some_and(|m| !m.results.is_empty());
        match r.last_user_text().contains("use a tool") && !asked {
            true => Reply::new().tool_call("read_file", json!({"path": "bad.png"})),
            false => Reply::text("Seen what is there."),
        }
    }))
    .await
}

#[tokio::test]
async fn a_refused_picture_is_left_out_for_good_and_the_call_made_once_more() {
    for protocol in Protocol::ALL {
        let (good, bad) = (picture(8, 8, ImageFormat::Png), picture(9, 9, ImageFormat::Png));
        let model = squeamish(&bad).await;
        let engine = Setup::speaking(&model, protocol).with(RECOVER, "true").start().await;
        engine.run(message("a", &[medium("image", "image/png", &good)])).await;
        let turn = engine.run(message("a", &[medium("image", "image/png", &bad)])).await;
        assert_eq!(turn.text(), "Seen what is there.", "{protocol:?}");
        assert_eq!(turn.count("error"), 0);
        engine.turn("a", "and now?").await;
        let calls = model.calls();
        let pictures: Vec<usize> = calls.iter().map(|c| sent(&c.body).len()).collect();
        assert_eq!(pictures, [1, 2, 1, 1], "{protocol:?}: the good one stays, the bad one is tried once");
        for call in &calls[2..] {
            assert!(call.body.to_string().contains("the provider refused it"), "{protocol:?}");
        }
        let messages = engine.json("/tasks/a/messages").await;
        assert_eq!(messages["messages"][2]["content"][1]["type"], "image", "what is stored keeps it");
        model.assert_no_problems();
    }
}

#[tokio::test]
async fn a_refused_picture_of_a_tool_is_left_out_too() {
    let bad = picture(9, 9, ImageFormat::Png);
    let model = squeamish(&bad).await;
    let setup = Setup::speaking(&model, Protocol::Anthropic).with(RECOVER, "true");
    std::fs::create_dir_all(setup.workspace()).expect("a directory");
    std::fs::write(setup.workspace().join("bad.png"), &bad).expect("written");
    let engine = setup.start().await;
    assert_eq!(engine.turn("a", "use a tool").await.text(), "Seen what is there.");
    let pictures: Vec<usize> = model.calls().iter().map(|c| sent(&c.body).len()).collect();
    assert_eq!(pictures, [0, 1, 0]);
    model.assert_no_problems();
}

#[tokio::test]
async fn without_recovery_or_without_a_medium_to_blame_a_refusal_ends_the_turn() {
    let bad = picture(9, 9, ImageFormat::Png);
    let model = squeamish(&bad).await;
    let engine = Setup::scripted(&model).start().await;
    engine.expect_log("The model call failed");
    let turn = engine.run(message("a", &[medium("image", "image/png", &bad)])).await;
    assert_eq!((turn.error()["error"].as_str(), model.calls().len()), (Some("LLM_PROVIDER_ERROR"), 1));
    let always = json!({"error": {"message": "the image and the document are wrong"}});
    let model = ScriptedModel::start(Script::from_fn(move |_| Reply::error(400, always.clone()))).await;
    let engine = Setup::scripted(&model).with(RECOVER, "true").start().await;
    engine.expect_log("The model call failed");
    let turn = engine.turn("a", "only words").await;
    assert_eq!((turn.error()["error"].as_str(), model.calls().len()), (Some("LLM_PROVIDER_ERROR"), 1));
    let turn = engine.run(message("b", &[medium("image", "image/png", &bad)])).await;
    assert_eq!((turn.error()["error"].as_str(), model.calls().len()), (Some("LLM_PROVIDER_ERROR"), 3));
}

const INGEST: &str = "CONTENT_INGESTION_ENABLED";

/// A text of some hundred kilobytes with one sentence that stands nowhere else.
fn long_text() -> String {
    let line = "The harbour keeps a list of ships, their masters and what they carried that year. ";
    format!("{}The zeppelin was painted green. {}", line.repeat(900), line.repeat(900))
}

/// Calls `media_read` with what the message says as JSON, and then says what it was told.
async fn reader() -> ScriptedModel {
    ScriptedModel::start(Script::from_fn(|r| {
        if let Some(result) = r.messages.last().and_then(|m| m.results.last()) {
            return Reply::text(&result.text);
        }
        match serde_json::from_str::<Value>(&r.last_user_text()) {
            Ok(input) => Reply::new().tool_call("media_read", input),
            Err(_) => Reply::text("ok"),
        }
    }))
    .await
}

fn rows(setup: &Setup, sql: &str) -> i64 {
    let brain = rusqlite::Connection::open(setup.brain()).expect("the brain");
    brain.query_row(sql, [], |row| row.get(0)).expect("a number")
}

async fn read(engine: &Engine, task: &str, input: Value) -> Value {
    let told = engine.turn(task, &input.to_string()).await.text();
    serde_json::from_str(&told).unwrap_or(Value::String(told))
}

#[tokio::test]
async fn a_long_document_is_set_aside_and_read_piece_by_piece_or_by_a_query() {
    let model = reader().await;
    let setup = Setup::scripted(&model).with(INGEST, "true");
    let engine = setup.start().await;
    let text = long_text();
    let short = medium("document", "text/plain", b"A short note.");
    let turn = engine.run(message("a", &[short, medium("document", "text/plain", text.as_bytes())])).await;
    let sent = model.calls()[0].body.to_string();
    assert!(
        sent.len() < 60_000 && sent.contains("A short note.") && !sent.contains("zeppelin"),
        "{}",
        sent.len()
    );
    let at = sent.find("\\\"media\\\": \\\"").or_else(|| sent.find("{\\\"media\\\"")).expect("a pointer");
    let name: String = sent[at + 8..]
        .chars()
        .skip_while(|c| !c.is_ascii_hexdigit())
        .take_while(char::is_ascii_hexdigit)
        .collect();
    assert_eq!(name.len(), 64, "{}", &sent[at..at + 100]);
    let (mut whole, mut offset) = (String::new(), json!(0));
    while !offset.is_null() {
        let page = read(&engine, "a", json!({"media": name, "offset": offset})).await;
        for piece in page["chunks"].as_array().expect("pieces") {
            whole += piece["text"].as_str().expect("a text");
        }
        assert!(page["next_offset"].as_u64() > offset.as_u64() || page["next_offset"].is_null(), "{page}");
        offset = page["next_offset"].clone();
    }
    assert!(whole == text, "the pieces are the text");
    let found =
        read(&engine, "a", json!({"media": turn.user_message(), "query": "the green zeppelin"})).await;
    let best = found["chunks"][0].clone();
    assert!(best["text"].as_str().is_some_and(|t| t.contains("zeppelin was painted")), "{best}");
    let more = read(&engine, "a", json!({"media": name, "query": "harbour ships", "offset": 10})).await;
    assert_eq!(more["next_offset"], 20, "a query goes on, too");
    // what another conversation was given is not here
    let other = read(&engine, "b", json!({"media": name})).await;
    assert!(other.as_str().is_some_and(|t| t.contains("no document")), "{other}");
    let untainted = rows(&setup, "SELECT count(*) FROM turns WHERE task_id = 'a' AND tainted = 0");
    assert_eq!(untainted, 0, "whoever reads the document has read somebody else's words");
    model.assert_no_problems();
}

#[tokio::test]
async fn the_pieces_live_as_long_as_their_conversation_also_over_a_restart() {
    let model = reader().await;
    let setup = Setup::scripted(&model).with(INGEST, "true");
    let engine = setup.start().await;
    let document = medium("document", "text/markdown", long_text().as_bytes());
    let first = engine.run(message("a", std::slice::from_ref(&document))).await.user_message();
    engine.run(message("b", &[document])).await;
    let pieces = rows(&setup, "SELECT count(*) FROM ingestion_chunks");
    assert!(pieces > 100, "{pieces}");
    assert_eq!(rows(&setup, "SELECT count(*) FROM blobs"), 1, "stored once");
    drop(engine);
    let engine = setup.start().await;
    let found = read(&engine, "a", json!({"media": first, "query": "zeppelin"})).await;
    assert_eq!(found["chunks"].as_array().map(Vec::len), Some(1), "{found}");
    for (task, left, blobs) in [("a", pieces / 2, 1), ("b", 0, 0)] {
        engine.send(Ask::delete(&format!("/tasks/{task}"))).await.ok().await;
        assert_eq!(rows(&setup, "SELECT count(*) FROM ingestion_chunks"), left, "{task}");
        assert_eq!(rows(&setup, "SELECT count(*) FROM blobs"), blobs, "{task}");
    }
    let sql = "SELECT count(*) FROM ingestion_chunks_fts WHERE ingestion_chunks_fts MATCH 'zeppelin'";
    assert_eq!(rows(&setup, sql), 0);
}

#[tokio::test]
async fn without_ingestion_a_long_document_is_sent_whole_and_there_is_no_tool_for_it() {
    let model = ScriptedModel::start(Script::always(Reply::text("Seen."))).await;
    let setup = Setup::scripted(&model);
    let engine = setup.start().await;
    engine.run(message("a", &[medium("document", "text/plain", long_text().as_bytes())])).await;
    let sent = model.calls()[0].body.to_string();
    assert!(sent.contains("zeppelin") && !sent.contains("media_read"));
    assert_eq!(rows(&setup, "SELECT count(*) FROM ingestion_chunks"), 0);
}

#[tokio::test]
async fn a_document_set_aside_without_a_word_is_nothing_that_the_person_said() {
    let model = reader().await;
    let setup = Setup::scripted(&model).with(INGEST, "true");
    let engine = setup.start().await;
    let document = medium("document", "text/plain", long_text().as_bytes());
    engine.run(json!({"task_id": "a", "message": "", "media": [document]})).await;
    assert!(model.calls()[0].body.to_string().contains("too long to be shown"), "it was not set aside");
    let episodes = crate::memory::found(&engine, "episodes", "").await;
    let said: Vec<&Value> = episodes.iter().map(|episode| &episode["description"]).collect();
    assert_eq!(said, ["[document]"]);
    engine.post("/learning/run", json!({})).await.ok().await;
    let over = |status: &Value| status["last_batch"]["state"].is_string() && status["running"] == false;
    engine.until("/learning/status", over).await;
    let lessons: Vec<String> = model
        .calls()
        .iter()
        .filter(|call| call.system.contains("You read one finished turn"))
        .map(|call| call.messages.last().expect("a message").text())
        .collect();
    assert!(!lessons.is_empty(), "nothing was read");
    for line in
        lessons.iter().flat_map(|lesson| lesson.lines()).filter(|line| line.contains("\"role\":\"user\""))
    {
        assert!(!line.contains("too long to be shown"), "{line}");
    }
}
