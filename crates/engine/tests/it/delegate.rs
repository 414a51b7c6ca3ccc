//! Sub-agents: a loop below the main one that does what the main one does, in one stream, and goes on after anything.

use crate::catalog::{catalog_of, put_agent};
use crate::support::http::Ask;
use crate::support::sse::{Frame, Turn};
use crate::support::{Engine, Setup, put_file, soon};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use testbed::{Gate, Protocol, Reply, Script, ScriptedModel, SeenRequest};

/// How often a model has answered since the person (or the agent above) spoke.
fn answered(r: &SeenRequest) -> usize {
    r.messages.iter().rev().take_while(|m| m.role != "user").filter(|m| !m.results.is_empty()).count()
}

fn is_helper(r: &SeenRequest) -> bool {
    r.system.contains("You help.")
}

/// The main agent gives these tasks to the helper in one message and then repeats what it was answered; the helper
/// is this function of its task and of how often it has answered.
async fn delegating(
    tasks: &[&str],
    helper: impl Fn(&SeenRequest, &str, usize) -> Reply + Send + Sync + 'static,
) -> ScriptedModel {
    let tasks: Vec<String> = tasks.iter().map(|t| (*t).to_owned()).collect();
    ScriptedModel::start(Script::from_fn(move |r| {
        if is_helper(r) {
            return helper(r, &r.last_user_text(), answered(r));
        }
        match answered(r) {
            0 => tasks.iter().fold(Reply::new().say("I ask."), |reply, task| {
                reply.tool_call("delegate", json!({"agent": "helper", "task": task}))
            }),
            _ => Reply::text("All done."),
        }
    }))
    .await
}

fn with_helper(setup: Setup, tools: Value) -> Setup {
    let (setup, dir) = catalog_of(setup);
    put_agent(&dir, "helper", tools, "You help.");
    setup
}

fn nested(turn: &Turn) -> Vec<&Frame> {
    turn.0.iter().filter(|f| f.data.get("parent_tool_call_id").is_some()).collect()
}

fn bash(command: &str) -> Reply {
    Reply::new().tool_call("bash", json!({"command": command}))
}

/// The results of the main loop's calls, in the order they came.
fn results(turn: &Turn) -> Vec<&Value> {
    let main = turn.all("tool_result").into_iter().filter(|f| f.data.get("parent_tool_call_id").is_none());
    main.map(|f| &f.data).collect()
}

#[tokio::test]
async fn a_sub_agent_works_with_its_own_prompt_and_tools_and_its_answer_is_the_result() {
    for protocol in Protocol::ALL {
        let model = delegating(&["count"], |_, task, done| match done {
            0 => bash("echo 42").say("I count."),
            _ => Reply::text(&format!("{task}: 42")).usage(7, 3, 0),
        })
        .await;
        let setup = with_helper(Setup::speaking(&model, protocol), json!(["bash"]));
        let engine = setup.start().await;
        let turn = engine.turn("d", "how many?").await;
        assert_eq!(turn.text(), "I ask.All done.", "nested text is not streamed: {protocol:?}");
        let output = json!({"text": "count: 42", "stop_reason": "end_turn"});
        assert_eq!(results(&turn)[0]["output"], output);

        let call = &turn.all("tool_call")[0].data["tool_call_id"];
        let inside: Vec<(&str, &str)> = nested(&turn)
            .iter()
            .map(|f| {
                assert_eq!((&f.data["parent_tool_call_id"], f.text("agent")), (call, "helper"), "{}", f.raw);
                (f.event.as_str(), f.data["purpose"].as_str().unwrap_or(""))
            })
            .collect();
        let usage = ("usage", "subagent");
        assert_eq!(inside, [usage, ("tool_call", ""), ("tool_result", ""), usage]);

        let told = model.calls().into_iter().filter(is_helper).collect::<Vec<_>>();
        assert_eq!(told[0].messages.len(), 1, "no history: {:?}", told[0].messages);
        assert!(told[0].offered("bash").is_some() && told[0].offered("working_memory_write").is_some());
        for not in ["plan", "delegate", "read_file"] {
            assert!(told[0].offered(not).is_none(), "{not} is offered: {:?}", told[0].tools);
        }
        let roles: Vec<Value> = engine.json("/tasks/d/messages").await["messages"]
            .as_array()
            .expect("messages")
            .iter()
            .map(|m| m["role"].clone())
            .collect();
        assert_eq!(roles, ["user", "assistant", "tool", "assistant"], "nested messages are nobody's list");
        assert_eq!(engine.json("/tasks/d").await["message_count"], 4);
        let books = engine.json("/usage?group_by=purpose").await;
        let of =
            |key: &str| books["groups"].as_array().expect("groups").iter().find(|g| g["key"] == key).cloned();
        assert_eq!(of("subagent").expect("booked")["calls"], 2, "{books}");
        // the next turn sees the question and the answer, and nothing of what lay between
        engine.turn("d", "and now?").await;
        let last = model.calls().last().expect("a call").body.to_string();
        assert!(last.contains("count: 42") && !last.contains("echo 42"), "{last}");
        model.assert_no_problems();
    }
}

#[tokio::test]
async fn several_sub_agents_work_side_by_side_and_their_results_keep_the_order_of_the_calls() {
    let gates = [Gate::new(), Gate::new()];
    let held = gates.clone();
    let model = delegating(&["first", "second"], move |_, task, _| {
        let gate = &held[usize::from(task == "second")];
        Reply::new().say(task).hold(gate)
    })
    .await;
    let engine = with_helper(Setup::scripted(&model), json!([])).start().await;
    let mut stream = engine.execute(json!({"task_id": "d", "message": "both"})).await;
    for gate in &gates {
        soon("both at work at once", gate.reached()).await;
    }
    gates[1].open();
    let mut frames = stream.until_event("tool_result").await;
    assert_eq!(frames.last().expect("a result").data["output"]["text"], "second");
    gates[0].open();
    frames.extend(stream.rest().await);
    Turn::checked(frames, false);
    let told = model.calls().last().expect("a call").results();
    assert!(told[0].text.contains("first") && told[1].text.contains("second"), "{told:?}");
    model.assert_no_problems();
}

/// A directory outside the workspace for each sub-agent, and a model whose helpers want theirs gone.
async fn removing(tasks: &[&str]) -> (ScriptedModel, tempfile::TempDir) {
    let outside = tempfile::tempdir().expect("a directory");
    for task in tasks {
        put_file(&outside.path().join(task), "file", "x");
    }
    let root = outside.path().display().to_string();
    let model = delegating(tasks, move |_, task, done| match done {
        0 => bash(&format!("rm -rf {root}/{task}")),
        _ => Reply::text(task),
    })
    .await;
    (model, outside)
}

#[tokio::test]
async fn a_question_inside_a_sub_agent_pauses_the_turn_and_is_answered_after_kill_9() {
    let (model, outside) = removing(&["old"]).await;
    let setup = with_helper(Setup::scripted(&model), json!(["bash"]));
    let engine = setup.start().await;
    let mut stream = engine.execute(json!({"task_id": "d", "message": "clean up"})).await;
    let mut frames = stream.until_event("hitl_request").await;
    let asked = frames.last().expect("a question").data.clone();
    assert_eq!((&asked["agent"], &asked["tool"]), (&json!("helper"), &json!("bash")), "{asked}");
    engine.until("/tasks/d", |t| t["status"] == "paused").await;
    // the row says so a moment before the slot is free
    engine.until("/health", |health| health["activity"]["in_flight_turns"] == 0).await;
    engine.kill();
    drop(stream);
    assert!(outside.path().join("old").exists());

    let engine = setup.start().await;
    let after = frames.last().expect("the request").id.to_string();
    let ask = Ask::get("/execute/replay?task_id=d").header("last-event-id", &after);
    let stream = engine.send(ask).await.stream();
    engine.answer(json!({"task_id": "d", "answer": "yes"})).await;
    frames.extend(stream.rest().await);
    let turn = Turn::checked(frames, false);
    assert_eq!((turn.text().as_str(), turn.stop_reason()), ("I ask.All done.", "end_turn"));
    assert_eq!(turn.one("hitl_resolved").text("agent"), "helper");
    assert!(!outside.path().join("old").exists(), "yes did not let it act");
    assert_eq!(model.calls().len(), 4, "nothing was asked twice");
    model.assert_no_problems();
}

#[tokio::test]
async fn two_sub_agents_ask_and_each_goes_on_with_its_own_answer() {
    let (model, outside) = removing(&["a", "b"]).await;
    let engine = with_helper(Setup::scripted(&model), json!(["bash"])).start().await;
    let stream = engine.execute(json!({"task_id": "d", "message": "clean up"})).await;
    let both = engine.until("/hitl/pending", |p| p["pending"].as_array().is_some_and(|p| p.len() == 2)).await;
    engine.until("/tasks/d", |t| t["status"] == "paused").await;
    let of = |dir: &str| {
        let pending = both["pending"].as_array().expect("prompts").iter();
        let asks = |p: &&Value| p["input"]["command"].as_str().is_some_and(|c| c.ends_with(dir));
        pending.clone().find(asks).expect("its question")["request_id"].clone()
    };
    engine.answer(json!({"request_id": of("/b"), "answer": "yes"})).await;
    engine
        .until("/tasks/d", |t| {
            t["status"] == "paused" && t["pending"].as_array().is_some_and(|p| p.len() == 1)
        })
        .await;
    assert!(outside.path().join("a").exists() && !outside.path().join("b").exists());
    engine.answer(json!({"request_id": of("/a"), "answer": "no"})).await;
    let turn = Turn::checked(stream.rest().await, false);
    assert!(outside.path().join("a").exists());
    let reasons: Vec<&str> =
        turn.all("tool_result").iter().filter_map(|f| f.data["reason"].as_str()).collect();
    assert_eq!((reasons, turn.stop_reason()), (vec!["permission_denied"], "end_turn"));
    model.assert_no_problems();
}

#[tokio::test]
async fn a_sub_agent_goes_on_after_kill_9_and_repeats_nothing_it_has_done() {
    let gate = Gate::new();
    let held = gate.clone();
    let model = delegating(&["log"], move |_, _, done| match done {
        0 => bash("echo once >> log.txt"),
        _ => Reply::new().say("It is ").hold(&held).say("logged."),
    })
    .await;
    let setup = with_helper(Setup::scripted(&model), json!(["bash"]));
    let engine = setup.start().await;
    let mut stream = engine.execute(json!({"task_id": "d", "message": "log it"})).await;
    let mut frames = stream.until(|f| f.is("tool_result")).await;
    soon("the second call", gate.reached()).await;
    engine.kill();
    drop(stream);
    gate.open();

    let engine = setup.start().await;
    let after = frames.last().expect("a result").id.to_string();
    let ask = Ask::get("/execute/replay?task_id=d").header("last-event-id", &after);
    frames.extend(engine.send(ask).await.stream().rest().await);
    let turn = Turn::checked(frames, false);
    assert_eq!(results(&turn)[0]["output"]["text"], "It is logged.");
    let log = std::fs::read_to_string(setup.workspace().join("log.txt")).expect("written");
    assert_eq!(log, "once\n");
    let first = model.calls().iter().filter(|r| is_helper(r) && answered(r) == 0).count();
    assert_eq!(first, 1, "it began anew");
    model.assert_no_problems();
}

#[tokio::test]
async fn a_once_call_of_a_sub_agent_that_was_under_way_is_in_doubt_after_kill_9() {
    let model = delegating(&["wait"], |_, _, done| match done {
        0 => bash("echo begun >> log.txt; sleep 60"),
        _ => Reply::text("I cannot tell."),
    })
    .await;
    let setup = with_helper(Setup::scripted(&model), json!(["bash"]));
    let engine = setup.start().await;
    let mut stream = engine.execute(json!({"task_id": "d", "message": "wait"})).await;
    let mut frames = stream.until(|f| f.is("tool_call") && f.data.get("parent_tool_call_id").is_some()).await;
    let log = setup.workspace().join("log.txt");
    crate::support::eventually("the command's first line", || log.exists()).await;
    engine.kill();
    drop(stream);

    let engine = setup.start().await;
    engine.expect_log("Ended processes that an earlier process");
    let after = frames.last().expect("a call").id.to_string();
    let ask = Ask::get("/execute/replay?task_id=d").header("last-event-id", &after);
    frames.extend(engine.send(ask).await.stream().rest().await);
    let turn = Turn::checked(frames, false);
    let inside = nested(&turn).into_iter().find(|f| f.is("tool_result")).expect("a result");
    assert_eq!(inside.text("reason"), "in_doubt");
    assert_eq!(results(&turn)[0]["output"]["text"], "I cannot tell.");
    assert_eq!(std::fs::read_to_string(log).expect("written"), "begun\n");
    model.assert_no_problems();
}

#[tokio::test]
async fn below_the_second_level_nobody_delegates() {
    let model = delegating(&["one"], |r, task, done| match (task, done) {
        ("one", 0) => Reply::new().tool_call("delegate", json!({"agent": "helper", "task": "two"})),
        ("two", 0) if r.offered("delegate").is_some() => Reply::text("it is offered"),
        ("two", 0) => Reply::new().raw_tool_call("delegate", "{\"agent\":\"helper\",\"task\":\"three\"}"),
        (task, _) => Reply::text(&format!("{task} is done")),
    })
    .await;
    let setup = with_helper(Setup::scripted(&model), json!(["delegate", "bash"]));
    let engine = setup.start().await;
    let turn = engine.turn("d", "go").await;
    let results: Vec<Value> = turn
        .all("tool_result")
        .iter()
        .map(|f| f.data.get("reason").cloned().unwrap_or_else(|| f.data["output"]["text"].clone()))
        .collect();
    assert_eq!(results, ["not_found", "two is done", "one is done"]);
    let calls = turn.all("tool_call");
    assert_eq!(calls[1].data["parent_tool_call_id"], calls[0].data["tool_call_id"]);
    assert_eq!(calls[2].data["parent_tool_call_id"], calls[1].data["tool_call_id"]);
}

#[tokio::test]
async fn a_cancel_stops_a_sub_agent_within_a_second_and_settles_its_calls_before_its_own() {
    let model = delegating(&["one"], |_, task, _| match task {
        "one" => Reply::new().tool_call("delegate", json!({"agent": "helper", "task": "two"})),
        _ => bash("echo begun > log.txt; sleep 60"),
    })
    .await;
    let setup = with_helper(Setup::scripted(&model), json!(["delegate", "bash"]));
    let engine = setup.start().await;
    let stream = engine.execute(json!({"task_id": "d", "message": "go"})).await;
    let log = setup.workspace().join("log.txt");
    crate::support::eventually("the command's first line", || log.exists()).await;
    let asked = Instant::now();
    engine.post("/execute/cancel", json!({"task_id": "d"})).await.ok().await;
    let turn = Turn::checked(stream.rest().await, false);
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    assert_eq!(turn.stop_reason(), "cancelled");
    let ended = turn.all("tool_result");
    assert!(ended.iter().all(|f| f.text("reason") == "cancelled"), "{ended:?}");
    let mut begun: Vec<&Value> = turn.all("tool_call").iter().map(|f| &f.data["tool_call_id"]).collect();
    begun.reverse();
    assert_eq!(ended.iter().map(|f| &f.data["tool_call_id"]).collect::<Vec<_>>(), begun);
    assert_eq!(ended[0].text("agent"), "helper");
    // the task can go on: no context has a call without its result
    let model_calls = model.calls().len();
    let next = engine.execute(json!({"task_id": "d", "message": "again"})).await;
    engine.until("/tasks/d", |_| model.calls().len() > model_calls).await;
    engine.post("/execute/cancel", json!({"task_id": "d"})).await.ok().await;
    next.rest().await;
    model.assert_no_problems();
}

#[tokio::test]
async fn what_goes_wrong_inside_is_the_call_s_failure_and_the_turn_goes_on() {
    let model = delegating(&["fail"], |_, _, _| Reply::status(500)).await;
    let engine = with_helper(Setup::scripted(&model), json!([])).start().await;
    engine.expect_log("The model call failed");
    let turn = engine.turn("d", "go").await;
    let result = results(&turn)[0];
    assert_eq!((&result["reason"], turn.stop_reason()), (&json!("failed"), "end_turn"));
    assert!(result["error"].as_str().is_some_and(|e| e.contains("LLM_PROVIDER_ERROR")), "{result}");

    let nobody = ScriptedModel::start(Script::sequence([
        Reply::new().tool_call("delegate", json!({"agent": "nobody", "task": "t"})),
        Reply::text("Then not."),
    ]))
    .await;
    let engine = Setup::scripted(&nobody).start().await;
    let turn = engine.turn("d", "go").await;
    assert_eq!(results(&turn)[0]["reason"], "not_found");
    let offered = nobody.calls()[0].body.to_string();
    assert!(offered.contains("- researcher: "), "the model is told which agents there are");
    nobody.assert_no_problems();
}

#[tokio::test]
async fn iterations_are_counted_for_each_loop_apart() {
    let model = delegating(&["loop"], |_, task, done| match task.starts_with("The limit of steps") {
        true => Reply::text("I stop."),
        false => bash(&format!("echo {done}")),
    })
    .await;
    let setup = with_helper(Setup::scripted(&model), json!(["bash"])).with("AGENT_MAX_ITERATIONS", "3");
    let engine = setup.start().await;
    let turn = engine.turn("d", "go").await;
    let output = &results(&turn)[0]["output"];
    assert_eq!(*output, json!({"text": "I stop.", "stop_reason": "max_iterations"}));
    assert_eq!((turn.stop_reason(), turn.text().as_str()), ("end_turn", "I ask.All done."));
}

#[tokio::test]
async fn a_sub_agent_s_context_is_kept_small_without_touching_the_main_one() {
    let model = delegating(&["read"], |_, _, done| match done {
        6 => Reply::text("read").without_usage(),
        n => Reply::new().tool_call("read_file", json!({"path": format!("{n}.txt")})).without_usage(),
    })
    .await;
    let setup = with_helper(Setup::scripted(&model), json!(["read_file"]))
        .with("LLM_CONTEXT_WINDOW", "16000")
        .with("MAX_TOKENS", "500");
    for n in 0..6 {
        put_file(&setup.workspace(), &format!("{n}.txt"), &"some line of text\n".repeat(900));
    }
    let engine = setup.start().await;
    let turn = engine.turn("d", "read all").await;
    assert_eq!(results(&turn)[0]["output"]["text"], "read");
    let compactions = turn.all("compaction_event");
    assert!(!compactions.is_empty() && compactions.iter().all(|f| f.text("agent") == "helper"));
    let brain = rusqlite::Connection::open(setup.brain()).expect("the brain");
    let rows: i64 = brain.query_row("SELECT count(*) FROM compactions", [], |r| r.get(0)).expect("a count");
    assert_eq!(rows, 0, "the task's own boundary has not moved");
    model.assert_no_problems();
}

#[tokio::test]
async fn a_note_of_a_sub_agent_is_the_task_s_and_no_more_calls_run_at_once_than_the_turn_may() {
    let running = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&running);
    let model = delegating(&["a", "b", "c"], move |_, task, done| match done {
        0 => {
            asked.fetch_add(1, Ordering::Relaxed);
            // fails when another is at it
            bash("mkdir busy && sleep 0.1 && rmdir busy")
        }
        1 => Reply::new().tool_call("working_memory_write", json!({"key": task, "value": task})),
        _ => Reply::text("ok"),
    })
    .await;
    let setup = with_helper(Setup::scripted(&model), json!(["bash"]))
        .with("CLAUDE_CODE_MAX_TOOL_USE_CONCURRENCY", "1");
    let engine = setup.start().await;
    let turn = engine.turn("d", "go").await;
    assert_eq!(running.load(Ordering::Relaxed), 3);
    for result in turn.all("tool_result").into_iter().filter(|f| f.text("tool") == "bash") {
        assert_eq!(result.data["output"]["exit_code"], 0, "{}", result.raw);
    }
    let notes = turn.all("working_memory_update");
    assert!(notes.len() == 3 && notes.iter().all(|f| f.text("agent") == "helper"), "{notes:?}");
    assert_eq!(engine.json("/tasks/d").await["working_memory"].as_array().map(Vec::len), Some(3));
}

/// A page with a link, for ever.
async fn page() -> u16 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 8192]).await;
            let body = "<html><body><a href=/build>build</a></body></html>";
            let head = format!("content-type: text/html\r\ncontent-length: {}", body.len());
            let answer = format!("HTTP/1.1 200 OK\r\n{head}\r\nconnection: close\r\n\r\n{body}");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    port
}

#[tokio::test]
async fn a_sub_agent_that_reads_what_others_wrote_taints_the_turn_and_may_follow_what_it_was_shown() {
    let port = page().await;
    let url = format!("http://127.0.0.1:{port}");
    let there = url.clone();
    let model = delegating(&["read"], move |_, _, done| match done {
        0 => Reply::new().tool_call("web_fetch", json!({"url": format!("{there}/kites")})),
        1 => Reply::new().tool_call("web_fetch", json!({"url": format!("{there}/build")})),
        _ => Reply::text("read"),
    })
    .await;
    let setup = with_helper(Setup::scripted(&model), json!(["web_fetch"]))
        .with("TOOL_NETWORK_ALLOWLIST", &format!("127.0.0.1:{port}"));
    let engine = setup.start().await;
    engine.expect_log("TOOL_NETWORK_ALLOWLIST");
    let turn = engine.turn("d", "go").await;
    assert_eq!((turn.count("hitl_request"), turn.count("tool_result")), (0, 3), "{:?}", turn.0);
    let brain = rusqlite::Connection::open(setup.brain()).expect("the brain");
    let tainted: i64 = brain.query_row("SELECT tainted FROM turns", [], |r| r.get(0)).expect("a turn");
    assert_eq!(tainted, 1);
    model.assert_no_problems();
}

/// A turn of an Engine without a scripted model, for what needs none.
async fn offline(engine: &Engine, message: &str) -> Turn {
    engine.turn("o", message).await
}

#[tokio::test]
async fn an_agent_without_delegate_in_its_list_is_not_offered_it() {
    let model = ScriptedModel::start(Script::always(Reply::text("ok"))).await;
    let engine = Setup::scripted(&model).start().await;
    for (agent, has) in [("assistant", true), ("researcher", true), ("coder", false)] {
        engine.run(json!({"task_id": agent, "message": "hi", "agent": agent})).await;
        assert_eq!(model.calls().last().expect("a call").offered("delegate").is_some(), has, "{agent}");
    }
    let engine = Setup::offline().start().await;
    assert_eq!(offline(&engine, "hello").await.stop_reason(), "end_turn");
}
