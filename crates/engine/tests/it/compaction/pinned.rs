//! Turns that should stay but do not fit a small window: they are summarised before they go, once, and a provider that
//! cannot summarise costs their words and nothing else.

use super::window::{self, Asked, Window};
use super::{FIRST, expected, small};
use crate::support::Setup;
use rusqlite::Connection;
use testbed::{Reply, ScriptedModel};

/// Turns of the test: several times what the window holds.
const TURNS: usize = 16;

#[tokio::test]
async fn pinned_turns_that_do_not_fit_are_summarised_before_they_go() {
    for can_summarise in [true, false] {
        let window = Window::new(12_000);
        let script = window.script(None, move |request| match window::asked(request) {
            Asked::Summary if !can_summarise => Reply::status(400),
            Asked::Summary if request.last_user_text().contains(FIRST) => Reply::text(FIRST),
            Asked::Summary => Reply::text("They talked."),
            _ => Reply::text(&"and so on ".repeat(400)),
        });
        let model = ScriptedModel::start(script).await;
        let setup = small(Setup::scripted(&model))
            .with("LLM_CONTEXT_WINDOW", "12000")
            .with("COMPACT_KEEP_TURNS", "6");
        let engine = setup.start().await;
        expected(&engine);
        for n in 0..TURNS {
            let first = if n == 0 { FIRST } else { "" };
            let turn = engine.turn("a", &format!("turn {n} talk {first}")).await;
            assert_eq!(turn.stop_reason(), "end_turn", "turn {n}");
        }
        engine.kill();
        let brain = Connection::open(setup.brain()).expect("the brain");
        let rows = |strategy: &str| -> i64 {
            let sql = "SELECT count(*) FROM compactions WHERE strategy = ?1";
            brain.query_row(sql, [strategy], |r| r.get(0)).expect("a count")
        };
        let asked = model.calls().iter().filter(|c| window::asked(c) == Asked::Summary).count();
        assert!((1..=TURNS).contains(&asked), "{asked} summaries asked for");
        if can_summarise {
            assert!(rows("summary") > 0);
            assert_eq!(rows("truncate"), 0, "turns left without a summary");
            assert!(window.summary().contains(FIRST), "{}", window.summary());
        } else {
            assert_eq!(rows("summary"), 0);
            assert!(rows("truncate") > 0);
        }
        window.assert_no_problems();
        model.assert_no_problems();
    }
}
