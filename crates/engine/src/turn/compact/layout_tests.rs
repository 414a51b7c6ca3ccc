//! A boundary never parts a call from its result, whatever the history looks like.

use super::*;
use contract::Timestamp;
use proptest::prelude::*;
use serde_json::json;

fn message(turn: &str, position: i64, role: Role, content: Vec<Block>) -> Message {
    Message {
        message_id: MessageId::generate(),
        turn_id: TurnId::parse(turn).expect("valid"),
        position,
        role,
        content,
        token_estimate: 0,
        active: true,
        created_at: Timestamp::from_millis(0),
    }
}

/// A history: for each turn the bytes of the results of its steps, a step being a list of calls.
fn history(turns: &[Vec<Vec<usize>>], finished: bool) -> Vec<Message> {
    let mut list = Vec::new();
    for (t, steps) in turns.iter().enumerate() {
        let turn = format!("turn-{t}");
        let mut add = |role, content| {
            let position = i64::try_from(list.len()).expect("few") * 2;
            list.push(message(&turn, position, role, content));
        };
        add(Role::User, vec![Block::text("a question of some length")]);
        for (s, results) in steps.iter().enumerate() {
            let id = |n| format!("call-{t}-{s}-{n}");
            let call = |n| Block::ToolUse {
                id: id(n),
                name: "bash".into(),
                input: json!({"n": n}),
                signature: None,
            };
            let result = |(n, bytes): (usize, &usize)| Block::ToolResult {
                tool_use_id: id(n),
                content: vec![Block::text("x".repeat(*bytes))],
                is_error: false,
            };
            add(Role::Assistant, (0..results.len()).map(call).collect());
            add(Role::Tool, results.iter().enumerate().map(result).collect());
        }
        if finished || t + 1 < turns.len() {
            add(Role::Assistant, vec![Block::text("an answer of some length")]);
        }
    }
    list
}

fn current(list: &[Message]) -> &Message {
    list.iter().rfind(|m| m.role == Role::User).expect("a question")
}

fn whole() -> View {
    View { boundary: -1, cuts: Cuts::default() }
}

#[test]
fn turns_leave_oldest_first_as_few_as_are_needed_and_the_pinned_ones_stay() {
    let list = history(&[vec![vec![7000]], vec![vec![7000]], vec![vec![7000]], vec![]], false);
    let layout = Layout::new(&list, &current(&list).message_id, &list[12].turn_id);
    assert_eq!(layout.stretches.len(), 4);
    let at = |n: usize| Some(list[n].position);
    assert_eq!(layout.without_turns(&whole(), 1, 1000), at(3));
    assert_eq!(layout.without_turns(&whole(), 1, 3000), at(7));
    assert_eq!(layout.without_turns(&whole(), 1, 1_000_000), at(11));
    assert_eq!(layout.without_turns(&whole(), 3, 1_000_000), at(3));
    assert_eq!(layout.without_turns(&whole(), 4, 1), None);
    let later = View { boundary: list[3].position, cuts: Cuts::default() };
    assert_eq!(layout.without_turns(&later, 1, 1), at(7));
    assert_eq!(layout.before_pinned(2), at(7));
    assert_eq!(layout.before_pinned(4), None);
}

#[test]
fn the_largest_result_is_cut_first_and_no_more_than_are_needed() {
    let list = history(&[vec![vec![3500, 70_000], vec![7000]], vec![vec![35_000]]], false);
    let layout = Layout::new(&list, &current(&list).message_id, &list[6].turn_id);
    let answered = layout.answered().expect("results the model has read");
    assert_eq!(answered, list[4].position, "the running step is not old");
    let ids = |need| layout.pick(&whole(), answered, Cut::Brief, need).map(|p| (p.cuts.to_detail(), p.up_to));
    let one = (r#"{"call-0-0-1":"brief"}"#.to_owned(), list[2].position);
    assert_eq!(ids(10_000), Some(one));
    let two = (r#"{"call-0-0-1":"brief","call-0-1-0":"brief"}"#.to_owned(), list[4].position);
    assert_eq!(ids(20_000), Some(two));
    let picked = layout.pick(&whole(), i64::MAX, Cut::Brief, u64::MAX).expect("all");
    let view = View { boundary: -1, cuts: picked.cuts };
    assert_eq!(layout.pick(&view, i64::MAX, Cut::Brief, u64::MAX), None, "what is cut is not cut again");
    assert!(layout.weight(&view) < layout.weight(&whole()) - 30_000);
    assert!(layout.pick(&view, i64::MAX, Cut::Bare, u64::MAX).is_some());
}

#[test]
fn the_running_turn_gives_up_its_oldest_steps_and_keeps_its_question_and_its_last_step() {
    let list = history(&[vec![vec![700]; 5]], false);
    let layout = Layout::new(&list, &list[0].message_id, &list[0].turn_id);
    assert_eq!(layout.without_turns(&whole(), 1, u64::MAX), None);
    let boundary = layout.without_steps(&whole(), u64::MAX).expect("steps to give up");
    assert_eq!(boundary, list[8].position);
    let view = View { boundary, cuts: Cuts::default() };
    let shown: Vec<i64> = layout.shown_up_to(&view, i64::MAX).iter().map(|m| m.position).collect();
    assert_eq!(shown, [list[0].position, list[9].position, list[10].position]);
    assert_eq!(layout.without_steps(&view, u64::MAX), None, "the last step stays");
    assert_eq!(layout.without_steps(&whole(), 1), Some(list[2].position));
}

#[test]
fn reasoning_of_earlier_turns_weighs_nothing_because_it_is_not_sent() {
    let mut list = history(&[vec![], vec![]], false);
    let before = Layout::new(&list, &current(&list).message_id, &list[2].turn_id).weight(&whole());
    list[1].content.insert(0, Block::Thinking { text: "hm ".repeat(5000), signature: None });
    let turn = list[2].turn_id.clone();
    assert_eq!(Layout::new(&list, &current(&list).message_id, &turn).weight(&whole()), before);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_plan_parts_a_call_from_its_result_or_loses_the_question(
        turns in prop::collection::vec(
            prop::collection::vec(prop::collection::vec(0..6000_usize, 1..4), 0..4), 1..6),
        finished: bool,
        keep in 1..4_usize,
        needs in prop::collection::vec((0..4_u8, 0..6000_u64), 1..8),
    ) {
        let list = history(&turns, finished);
        let question = current(&list).clone();
        let layout = Layout::new(&list, &question.message_id, &question.turn_id);
        let mut view = whole();
        for (what, need) in needs {
            let weight = layout.weight(&view);
            let pinned = layout.stretches.len().saturating_sub(keep);
            match what {
                0 | 1 => {
                    let cut = if what == 0 { Cut::Brief } else { Cut::Bare };
                    if let Some(picked) = layout.pick(&view, layout.newest().unwrap_or(-1), cut, need.max(1)) {
                        prop_assert!(layout.newest() >= Some(picked.up_to));
                        view.cuts.extend(&picked.cuts);
                        prop_assert!(layout.weight(&view) < weight);
                    }
                }
                2 => if let Some(boundary) = layout.without_turns(&view, keep, need) {
                    prop_assert!(boundary > view.boundary);
                    prop_assert!(layout.stretches.get(pinned).is_none_or(|s| boundary < list[s.first].position));
                    view.boundary = boundary;
                },
                _ => if let Some(boundary) = layout.without_steps(&view, need) {
                    prop_assert!(boundary > view.boundary);
                    view.boundary = boundary;
                },
            }
            prop_assert!(layout.weight(&view) <= weight);
            let shown = layout.shown_up_to(&view, i64::MAX);
            prop_assert!(shown.iter().any(|m| m.message_id == question.message_id));
            prop_assert!(shown.windows(2).all(|p| p[0].position < p[1].position));
            let mut calls: Vec<&str> = Vec::new();
            let mut results: Vec<&str> = Vec::new();
            for block in shown.iter().flat_map(|m| &m.content) {
                match block {
                    Block::ToolUse { id, .. } => calls.push(id),
                    Block::ToolResult { tool_use_id, .. } => results.push(tool_use_id),
                    _ => {}
                }
            }
            prop_assert_eq!(calls, results, "a call without its result, or a result without its call");
        }
    }
}
