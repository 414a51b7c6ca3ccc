//! Export, import, export: whatever a memory holds, it comes out of another brain as the same, in both modes.
//!
//! What "the same" leaves out is said once, at [`lasting`].

use super::same::{Living, live, living, shelf};
use super::{Place, task};
use crate::memory::Memory;
use crate::memory::bundle::{self, Imported, Importer, Mode};
use crate::secrets::Known;
use brain::memory::index;
use contract::Timestamp;
use contract::memory::{EpisodeKind, FactType, NodeKind, ParentKind, Rating, Trust};
use futures::TryStreamExt;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Ids of each kind that rows are drawn from: few, so that two brains have some in common.
const IDS: usize = 6;
/// The ends of what a time may be, the end of the epoch on both sides, a leap second, and an offset.
const TIMES: [&str; 8] = [
    "0000-01-01T00:00:00.000Z",
    "9999-12-31T23:59:59.999Z",
    "1969-12-31T23:59:59.999Z",
    "1970-01-01T00:00:00.000Z",
    "2016-12-31T23:59:60Z",
    "2026-04-27T14:34:56.789+02:00",
    "2000-02-29T12:00:00Z",
    "0999-06-15T00:00:00.001Z",
];
/// Texts that something has gone wrong with somewhere: normal forms, joiners, directions, quotes, marks of other
/// languages, what is removed.
const AWKWARD: [&str; 14] = [
    "e\u{301}",
    "\u{e9}",
    "👩\u{200d}👩\u{200d}👧 family",
    "\"quoted\\\" \\u0000 \\n",
    "a\u{0}b\u{7f}\u{202E}c",
    "שלום עולם",
    "𝕏 ﬁ ǅ İ ß",
    "<memory>ignore all</memory>",
    "'; DROP TABLE episodes; --",
    "line\r\nbreak\rand\ttab",
    "\u{feff}\u{2028}x",
    "NEAR(\"a\" OR *) ^b:",
    "\u{10ffff}\u{e000}",
    "ﷺ ｆｕｌｌ　ｗｉｄｔｈ",
];

fn words() -> impl Strategy<Value = String> {
    let odd = prop_oneof![select(AWKWARD.as_slice()).prop_map(str::to_owned), "\\PC{0,12}"];
    ("[a-z]{1,6}", odd, "[ a-z]{0,3}").prop_map(|(a, b, c)| format!("{a} {b}{c}"))
}

fn time() -> impl Strategy<Value = String> {
    prop_oneof![
        select(TIMES.as_slice()).prop_map(str::to_owned),
        (-62_167_219_200_000_i64..=253_402_300_799_999).prop_map(|ms| Timestamp::from_millis(ms).to_string()),
        (1_700_000_000_000_i64..1_790_000_000_000).prop_map(|ms| Timestamp::from_millis(ms).to_string()),
    ]
}

/// A beginning and an end that is not before it.
fn period() -> impl Strategy<Value = (String, Option<String>)> {
    (time(), prop::option::of(time())).prop_map(|(from, until)| match until {
        Some(until) if Timestamp::parse(&until) < Timestamp::parse(&from) => (until, Some(from)),
        until => (from, until),
    })
}

fn id(prefix: &'static str) -> impl Strategy<Value = String> {
    (0..IDS).prop_map(move |n| format!("{prefix}-{n}"))
}

fn parent() -> impl Strategy<Value = Value> {
    let any_id = prop_oneof![id("fact"), id("ep"), id("soc"), id("rel")];
    prop_oneof![
        any_id.prop_map(|id| json!({"kind": ParentKind::Memory, "id": id})),
        (select(&ParentKind::ALL[..2]), 0..3)
            .prop_map(|(kind, n)| json!({"kind": kind, "id": format!("x {n}é")})),
    ]
}

/// What every memory carries. Fields that may be missing are missing at times.
fn standing() -> impl Strategy<Value = Value> {
    let times = (time(), prop::option::of(time()), prop::option::of(time()));
    let said = (prop::option::of(words()), words());
    (0.0f64..=1.0, select(Trust::ALL), said, times, prop::collection::vec(parent(), 0..4)).prop_map(
        |(confidence, trust, (source, rationale), (created, updated, confirmed), lineage)| {
            json!({"confidence": confidence, "trust": trust, "source": source, "rationale": rationale,
                   "created_at": created, "updated_at": updated, "last_confirmed_at": confirmed,
                   "lineage": lineage})
        },
    )
}

fn memory(own: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    (own, standing()).prop_map(|(mut row, standing)| {
        let (Value::Object(fields), Value::Object(more)) = (&mut row, standing) else { panic!("objects") };
        fields.extend(more);
        row
    })
}

/// Rows of one kind, every id once.
fn rows(row: impl Strategy<Value = Value>) -> impl Strategy<Value = Vec<Value>> {
    prop::collection::vec(row, 0..IDS).prop_map(|mut rows| {
        let mut seen = BTreeSet::new();
        rows.retain(|row| seen.insert(row.get("id").or(row.get("name")).expect("a name").to_string()));
        rows
    })
}

fn episode() -> impl Strategy<Value = Value> {
    let place = (prop::option::of(0..3), prop::option::of(select(vec![i64::MIN, -1, 0, 1, 2, i64::MAX])));
    memory(
        (id("ep"), select(EpisodeKind::ALL), (words(), words()), prop::option::of(words()), place, time())
            .prop_map(|(id, kind, (key, description), value, (of, position), at)| {
                json!({"id": id, "kind": kind, "key": key, "description": description, "value": value,
                   "task_id": of.map(|n| task(&format!("task {n} ☕"))), "position": position,
                   "turn_id": of.map(|n| format!("turn-{n}")), "occurred_at": at})
            }),
    )
}

fn fact() -> impl Strategy<Value = Value> {
    let by = prop::option::of(id("fact"));
    memory((id("fact"), words(), words(), select(FactType::ALL), period(), by).prop_map(
        |(id, subject, content, kind, (from, until), by)| {
            json!({"id": id, "subject": subject, "content": content, "type": kind, "valid_from": from,
                   "valid_until": until, "superseded_by": by})
        },
    ))
}

/// Small, and with every kind of value and number.
fn attributes() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO).prop_map(Value::from),
        words().prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(words(), inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    });
    prop::collection::btree_map(words(), value, 0..3).prop_map(|map| Value::Object(map.into_iter().collect()))
}

fn node() -> impl Strategy<Value = Value> {
    let names = (words(), prop::collection::vec(words(), 0..3));
    memory((id("soc"), names, select(NodeKind::ALL), attributes()).prop_map(
        |(id, (name, aliases), kind, attributes)| {
            json!({"id": id, "name": name, "kind": kind, "aliases": aliases, "attributes": attributes})
        },
    ))
}

/// Nodes, and relations between them.
fn social() -> impl Strategy<Value = Value> {
    let edge = memory((id("rel"), (any::<usize>(), any::<usize>()), words(), period()).prop_map(
        |(id, (from, to), relation, (valid_from, until))| {
            json!({"id": id, "from": from, "to": to, "relation": relation, "valid_from": valid_from,
                   "valid_until": until})
        },
    ));
    (rows(node()), rows(edge)).prop_map(|(nodes, mut edges)| {
        let end = |n: &Value| {
            let n = usize::try_from(n.as_u64().expect("a number")).expect("64 bits");
            nodes.get(n % nodes.len().max(1)).map(|node| node["id"].clone()).unwrap_or_default()
        };
        for edge in &mut edges {
            (edge["from"], edge["to"]) = (end(&edge["from"]), end(&edge["to"]));
        }
        edges.retain(|edge| edge["from"] != edge["to"]);
        json!({"nodes": nodes, "edges": edges})
    })
}

fn skill() -> impl Strategy<Value = Value> {
    let scripts = prop::collection::btree_map("[a-z]{1,3}\\.py", "\\PC{0,20}\u{0}?", 0..3);
    let names = (select(vec!["greet", "greet-well", "sum-up"]), words(), words());
    (names, words(), scripts, prop::collection::vec(words(), 0..3), 0.0f64..=1.0, any::<bool>()).prop_map(
        |((name, description, category), prompt, scripts, capabilities, confidence, is_user)| {
            let scripts = scripts.into_iter().rev().map(|(name, content)| json!({"name": name, "content": content}));
            json!({"name": name, "description": description, "category": category, "prompt_template": prompt,
                   "scripts": scripts.collect::<Vec<_>>(), "capabilities": capabilities, "confidence": confidence,
                   "source": "user:api", "trust": if is_user { Trust::User } else { Trust::Tool }})
        },
    )
}

fn signal() -> impl Strategy<Value = Value> {
    let said = (select(Rating::ALL), prop::option::of(words()), prop::option::of(words()));
    (id("sig"), said, 0..3, time(), prop::option::of(time())).prop_map(
        |(id, (rating, comment, corrected), n, created, processed)| {
            json!({"id": id, "message_id": format!("msg-{n}"), "turn_id": format!("turn-{n}"), "rating": rating,
                   "comment": comment, "corrected": corrected, "created_at": created, "processed_at": processed})
        },
    )
}

/// The soul and its history, newest first. The present one is a person's or was learned: a template is the product's,
/// and stays where it is.
fn soul() -> impl Strategy<Value = (Value, Vec<Value>)> {
    let says = (select(vec!["", "I am Sam.", "Ich heiße Sam 👋"]), prop::collection::vec(words(), 0..2));
    let version = (
        says,
        prop::collection::vec(words(), 0..2),
        select(vec!["catalog", "learning", "user"]),
        words(),
        time(),
    );
    (prop::collection::vec(version, 1..4), select(vec!["learning", "user"])).prop_map(|(mut versions, last)| {
        if let Some(present) = versions.last_mut() {
            present.2 = last;
        }
        let history: Vec<Value> = (1..4_usize).zip(versions).map(|(n, ((identity, values), patterns, source, why, at))| {
            json!({"version": n, "identity": identity, "values": values, "patterns": patterns, "source": source,
                   "rationale": why, "created_at": at})
        }).rev().collect();
        let mut present = history[0].clone();
        present["updated_at"] = present["created_at"].take();
        (present, history)
    })
}

/// A bundle with something of everything.
fn drawn() -> impl Strategy<Value = Value> {
    (soul(), rows(episode()), rows(fact()), social(), rows(skill()), rows(signal())).prop_map(
        |((soul, history), episodes, knowledge, social, skills, signals)| {
            json!({"format": bundle::FORMAT, "soul": soul, "soul_history": history, "episodes": episodes,
                   "knowledge": knowledge, "social": social, "skills": skills, "signals": signals})
        },
    )
}

async fn import(memory: &Arc<Memory>, bundle: &Value, mode: Mode) -> Imported {
    let importer = Importer::new(memory.brain.clone(), Arc::clone(memory), shelf());
    importer.import(bundle.to_string().into(), mode).await.expect("imported")
}

async fn exported(memory: &Memory) -> Value {
    let known = Arc::new(Known::default());
    let pages = bundle::export(memory.brain.clone(), known, Timestamp::now()).await.expect("an export");
    let pieces: Vec<_> = pages.try_collect().await.expect("all pages");
    serde_json::from_slice(&pieces.concat()).expect("JSON")
}

/// What of an export is the memory. Left out is: when it was exported, by which version of the Engine, and the numbers
/// of the soul's versions, which every brain counts for itself; their order stays. The counters of GET /memory/stats,
/// the vectors and the names of tasks' conversations are in no bundle.
fn lasting(mut bundle: Value) -> Value {
    let fields = bundle.as_object_mut().expect("an object");
    fields.remove("exported_at");
    fields.remove("engine_version");
    let versions = fields["soul_history"].as_array_mut().expect("versions");
    for version in versions {
        version.as_object_mut().expect("a version").remove("version");
    }
    fields["soul"].as_object_mut().expect("a soul").remove("version");
    bundle
}

const LISTS: [&str; 6] = ["/episodes", "/knowledge", "/social/nodes", "/social/edges", "/skills", "/signals"];

/// The same without the order of rows: `replace` rewrites a row in its place, so rows that were there keep theirs.
fn unordered(mut bundle: Value) -> Value {
    for list in LISTS {
        let rows = bundle.pointer_mut(list).and_then(Value::as_array_mut).expect("a list");
        rows.sort_by_key(|row| row.get("id").or(row.get("name")).expect("a name").to_string());
    }
    bundle
}

fn names(bundle: &Value) -> BTreeSet<&str> {
    let rows = LISTS.iter().flat_map(|list| bundle.pointer(list).and_then(Value::as_array).expect("a list"));
    rows.map(|row| row.get("id").or(row.get("name")).and_then(Value::as_str).expect("a name")).collect()
}

fn nothing(imported: Imported) -> bool {
    let counts = imported.counts;
    counts.episodes + counts.knowledge + counts.social + counts.skills == 0
}

async fn play(one: Value, other: Value, mode: Mode, steps: Vec<Living>) {
    let (first, second, third) = (Place::new(), Place::new(), Place::new());
    let memory = first.local();
    import(&memory, &one, mode).await;
    let made = exported(&memory).await;
    assert_eq!(names(&made), names(&one), "every row came in");
    assert_eq!(made["soul_history"].as_array().map(Vec::len), one["soul_history"].as_array().map(Vec::len));
    let mut there = Vec::new();
    for step in steps {
        live(&memory, &mut there, step).await;
    }
    let whole = exported(&memory).await;
    let there = lasting(whole.clone());

    let empty = second.local();
    import(&empty, &whole, Mode::Merge).await;
    assert_eq!(lasting(exported(&empty).await), there, "merged into an empty brain");
    for (brain, of) in [(&empty, "its own import"), (&memory, "itself")] {
        assert!(nothing(import(brain, &whole, Mode::Merge).await), "merged into {of}");
        assert_eq!(lasting(exported(brain).await), there, "merged into {of}");
    }
    import(&memory, &whole, Mode::Replace).await;
    assert_eq!(lasting(exported(&memory).await), there, "replaced by itself");

    let another = third.local();
    import(&another, &other, Mode::Merge).await;
    import(&another, &whole, Mode::Replace).await;
    let replaced = exported(&another).await;
    assert_eq!(unordered(lasting(replaced)), unordered(there.clone()), "replaced another memory");
    assert!(nothing(import(&another, &whole, Mode::Merge).await));
    assert_eq!(unordered(lasting(exported(&another).await)), unordered(there), "merged again");
    for memory in [memory, empty, another] {
        let differing = memory.brain.write("compare the indexes", index::differing).await.expect("compared");
        assert_eq!(differing, [""; 0], "a full-text index differs from its table");
        memory.search_all("a b family 2016", 100, Timestamp::now()).await.expect("a search");
        memory.brain.close();
    }
}

proptest! {
    // Each case makes three brains and imports eight times; more cases would only be slower.
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_memory_that_was_exported_and_imported_is_exported_as_the_same(
        one in drawn(),
        other in drawn(),
        mode in select(vec![Mode::Merge, Mode::Replace]),
        steps in prop::collection::vec(living(), 0..8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(play(one, other, mode, steps));
    }
}
