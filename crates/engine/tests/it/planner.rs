//! The `plan` tool: made by the planner, kept as a note, moved on by the model, shown to people.

use crate::hitl::calls_in_order;
use crate::support::sse::Turn;
use crate::support::{Engine, Setup};
use serde_json::{Value, json};
use testbed::{Fault, Protocol, Reply, Script, ScriptedModel, SeenRequest};

fn plan(status: &str) -> Value {
    json!({"goal": "tidy up", "steps": [
        {"id": "1", "title": "look around", "status": status},
        {"id": "2", "title": "throw away", "status": "open"},
    ]})
}

fn asks_planner(r: &SeenRequest) -> bool {
    r.last_user_text().starts_with("<goal>")
}

/// A model that makes this call once per message, and a planner that answers with this text.
async fn planning(calls: Vec<(&'static str, Value)>, answer: &str) -> ScriptedModel {
    let answer = answer.to_owned();
    ScriptedModel::start(Script::from_fn(move |r| {
        if asks_planner(r) {
            return Reply::text(&answer);
        }
        let since = r.messages.iter().rev().take_while(|m| m.role != "user");
        match calls.get(since.filter(|m| !m.results.is_empty()).count()) {
            Some((tool, input)) => Reply::new().tool_call(tool, input.clone()),
            None => Reply::text("All done."),
        }
    }))
    .await
}

#[tokio::test]
async fn the_planner_makes_a_plan_and_the_model_moves_its_steps_on() {
    for protocol in Protocol::ALL {
        let model = planning(
            vec![
                ("plan", json!({"goal": "tidy up"})),
                ("plan", json!({"steps": [{"id": "1", "status": "done"}]})),
            ],
            &plan("open").to_string(),
        )
        .await;
        let engine = Setup::speaking(&model, protocol).with("PLANNER_MODEL", "planner-9").start().await;
        let turn = engine.turn("p", "tidy up").await;
        let outputs: Vec<&Value> = turn.all("tool_result").iter().map(|f| &f.data["output"]).collect();
        assert_eq!(outputs, [&plan("open"), &plan("done")], "{protocol:?}");
        let updates = turn.all("working_memory_update");
        assert_eq!((updates.len(), updates[1].text("key")), (2, "plan"));
        assert_eq!(updates[1].data["value"], plan("done"));

        let usage = turn.all("usage");
        let purposes: Vec<&str> = usage.iter().map(|f| f.text("purpose")).collect();
        assert_eq!(purposes, ["main", "planner", "main", "main"]);
        assert_eq!(usage[1].data["parent_tool_call_id"], turn.all("tool_call")[0].data["tool_call_id"]);
        assert_eq!(usage[1].data["agent"], "assistant");
        let asked = &model.calls()[1];
        assert_eq!(asked.model, "planner-9");
        assert!(asked.tools.is_empty() && asked.last_user_text().contains("tidy up"));
        assert!(asked.last_user_text().contains("read_file"), "{}", asked.last_user_text());

        let task = engine.json("/tasks/p").await;
        assert_eq!(task["plan"], plan("done"));
        let books = engine.json("/usage?group_by=purpose").await;
        let kinds: Vec<&Value> =
            books["groups"].as_array().expect("groups").iter().map(|g| &g["key"]).collect();
        assert!(kinds.contains(&&json!("planner")), "{books}");
        model.assert_no_problems();
    }
}

#[tokio::test]
async fn an_open_plan_is_shown_first_in_the_next_turn_and_a_finished_one_like_any_note() {
    let model = ScriptedModel::start(Script::from_fn(|r| {
        if asks_planner(r) {
            return Reply::text(&plan("open").to_string());
        }
        let answered = r.messages.last().is_some_and(|m| !m.results.is_empty());
        let said = r.last_user_text();
        match (said.as_str(), answered) {
            ("begin", false) => Reply::new()
                .tool_call("plan", json!({"goal": "tidy up"}))
                .tool_call("working_memory_write", json!({"key": "a-note", "value": "x"})),
            ("end", false) => Reply::new().tool_call(
                "plan",
                json!({"steps": [{"id": "1", "status": "done"}, {"id": "2", "status": "dropped"}]}),
            ),
            _ => Reply::text("ok"),
        }
    }))
    .await;
    let engine = Setup::scripted(&model).start().await;
    engine.turn("p", "begin").await;
    engine.turn("p", "look").await;
    let shown = || model.calls().last().expect("a call").messages.last().expect("a message").text();
    let before = |a: &str, b: &str| {
        let text = shown();
        text.find(a).expect("shown") < text.find(b).expect("shown")
    };
    assert!(before("plan: {", "a-note"), "{}", shown());
    engine.turn("p", "end").await;
    engine.turn("p", "look").await;
    assert!(before("a-note", "plan: {"), "{}", shown());
    model.assert_no_problems();
}

#[tokio::test]
async fn plan_is_offered_unless_it_is_switched_off_or_a_direct_answer_is_wanted() {
    let model = ScriptedModel::start(Script::from_fn(|r| {
        let answered = r.messages.last().is_some_and(|m| !m.results.is_empty());
        let called = r.last_user_text() == "call" && !answered;
        if called { Reply::new().raw_tool_call("plan", "{\"goal\":\"g\"}") } else { Reply::text("ok") }
    }))
    .await;
    let offered = || model.calls().last().expect("a call").offered("plan").is_some();
    let engine = Setup::scripted(&model).start().await;
    // an agent whose list does not name it has it too
    engine.run(json!({"task_id": "a", "message": "hi", "agent": "coder"})).await;
    assert!(offered());
    engine.run(json!({"task_id": "b", "message": "hi", "direct": true})).await;
    assert!(!offered());
    let called = engine.run(json!({"task_id": "b", "message": "call", "direct": true})).await;
    assert_eq!(called.one("tool_result").text("reason"), "not_found");
    let engine = Setup::scripted(&model).with("PLANNER_ENABLED", "false").start().await;
    engine.turn("a", "hi").await;
    assert!(!offered());
}

#[tokio::test]
async fn what_cannot_be_planned_is_the_call_s_failure_and_the_turn_goes_on() {
    let goal = || vec![("plan", json!({"goal": "tidy up"}))];
    let doing = json!({"steps": [{"id": "7", "status": "doing"}]});
    for (calls, answer, reason) in [
        (goal(), "First I would look around.", "failed"),
        (goal(), "{\"goal\":\"g\",\"steps\":[]}", "failed"),
        (vec![("plan", doing)], "", "not_found"),
        (vec![("plan", json!({}))], "", "invalid_input"),
        (vec![("plan", json!({"goal": "g", "steps": [{"id": "1", "status": "done"}]}))], "", "invalid_input"),
    ] {
        let model = planning(calls, answer).await;
        let engine = Setup::scripted(&model).start().await;
        let turn = engine.turn("p", "go").await;
        assert_eq!(turn.one("tool_result").text("reason"), reason, "{answer}");
        assert_eq!(turn.stop_reason(), "end_turn");
        assert!(engine.json("/tasks/p").await["plan"].is_null());
        let planned = turn.all("usage").iter().filter(|f| f.text("purpose") == "planner").count();
        assert_eq!(planned, usize::from(reason == "failed"), "a useless answer is paid for all the same");
        model.assert_no_problems();
    }
}

#[tokio::test]
async fn an_unknown_step_changes_nothing_and_names_the_steps_there_are() {
    let both = json!({"steps": [{"id": "1", "status": "done"}, {"id": "7", "status": "done"}]});
    let calls = vec![("plan", json!({"goal": "tidy up"})), ("plan", both)];
    let model = planning(calls, &plan("open").to_string()).await;
    let engine = Setup::scripted(&model).start().await;
    let turn = engine.turn("p", "go").await;
    let refused = turn.all("tool_result")[1];
    assert_eq!(refused.text("reason"), "invalid_input");
    assert!(refused.text("error").contains("1, 2"), "{}", refused.raw);
    assert_eq!(engine.json("/tasks/p").await["plan"], plan("open"));
}

/// A turn that has begun to plan, and what the planner is held by.
async fn offline_plan(engine: &Engine) -> Turn {
    engine.turn("p", "plan pack the bag, then take the train").await
}

#[tokio::test]
async fn the_built_in_rule_set_plans_by_itself() {
    let engine = Setup::offline().start().await;
    let turn = offline_plan(&engine).await;
    assert_eq!(turn.one("tool_call").text("tool"), "plan");
    let plan = engine.json("/tasks/p").await["plan"].clone();
    assert_eq!(
        (&plan["steps"][1]["title"], &plan["steps"][1]["status"]),
        (&json!("take the train"), &json!("open"))
    );
    assert!(turn.text().contains("1. pack the bag"), "{}", turn.text());
}

#[tokio::test]
async fn a_note_of_the_model_under_the_key_of_the_plan_is_no_plan() {
    let note = ("working_memory_write", json!({"key": "plan", "value": "first this"}));
    let model = calls_in_order(vec![note, ("plan", json!({"steps": [{"id": "1", "status": "done"}]}))]).await;
    let engine = Setup::scripted(&model).start().await;
    let turn = engine.turn("p", "go").await;
    assert_eq!(turn.all("tool_result")[1].text("reason"), "not_found");
    model.assert_no_problems();
}

#[tokio::test]
async fn what_a_planner_and_a_skill_cost_that_broke_off_is_in_the_books() {
    let broken = Reply::text(&"so far ".repeat(50)).usage(123, 9, 0).fault(Fault::EndAfterFrames(9));
    let model = ScriptedModel::start(Script::from_fn(move |r| {
        let is_main = !r.tools.is_empty();
        match r.results().is_empty() {
            true if is_main => Reply::new().tool_call("plan", json!({"goal": "tidy up"})).usage(10, 1, 0),
            _ if is_main => Reply::text("I cannot plan.").usage(10, 1, 0),
            _ => broken.clone(),
        }
    }))
    .await;
    let engine = Setup::speaking(&model, Protocol::Anthropic).start().await;
    let turn = engine.turn("p", "tidy up").await;
    let told: Vec<(&str, u64)> = turn
        .all("usage")
        .iter()
        .map(|f| (f.text("purpose"), f.data["input_tokens"].as_u64().expect("a number")))
        .collect();
    assert_eq!(told, [("main", 10), ("planner", 123), ("main", 10)]);
    let skill = json!({"method": "skill.summarizer", "params": {"text": "a long text"}});
    engine.post("/rpc", skill).await.error(502, "LLM_PROVIDER_ERROR").await;
    let books = engine.json("/usage?group_by=purpose").await;
    let of = |purpose: &str| {
        let group = books["groups"].as_array().expect("groups").iter().find(|g| g["key"] == purpose);
        group.unwrap_or_else(|| panic!("{books}"))["input_tokens"].clone()
    };
    assert_eq!((of("planner"), of("skill")), (json!(123), json!(123)));
}
