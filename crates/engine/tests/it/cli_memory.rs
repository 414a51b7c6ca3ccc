//! `september-engine memory …`: long-term memory from the command line, beside nobody and beside a running Engine.

use crate::bundle::{bundle, fact};
use crate::cli::Place;
use crate::support::Setup;
use serde_json::json;

#[test]
fn memories_are_imported_found_forgotten_and_exported_without_an_engine() {
    let place = Place::new().with("LLM_API_KEY", "canary-llm-0001").with_brain();
    let mut rows: Vec<_> = (0..3).map(fact).collect();
    rows[1]["content"] = json!("The kitchen lamp is \u{1b}[31mbroken");
    rows[2]["content"] = json!("the key canary-llm-0001 opens it");
    std::fs::write(place.path("in.json"), bundle(rows).to_string()).expect("written");
    let imported = place.run(&["memory", "import", "in.json", "--json"]).expect(0).json();
    assert_eq!(imported["counts"]["knowledge"], 3, "{imported}");
    let said = place.run(&["memory", "import", "in.json"]).expect(0);
    assert!(said.out.contains("3 were there already"), "{}", said.out);

    let listed = place.run(&["memory", "list"]).expect(0).out;
    assert_eq!(listed.lines().count(), 3, "{listed}");
    assert!(!listed.contains('\u{1b}'), "{listed:?}");
    let found = place
        .run(&["memory", "search", "which lamp is broken", "--store", "knowledge", "--json"])
        .expect(0)
        .json();
    assert_eq!(found[0]["subject"], "subject 1", "{found}");
    assert!(found[0]["score"].as_f64().is_some_and(|score| score > 0.0));

    let id = found[0]["id"].as_str().expect("an id").to_owned();
    let gone = place.run(&["memory", "forget", &id, "--json"]).expect(0).json();
    assert_eq!((&gone["status"], &gone["id"]), (&json!("deleted"), &json!(id)));
    assert!(place.run(&["memory", "forget", &id]).expect(1).err.contains("no memory"));
    assert!(place.run(&["memory", "forget", "x y"]).expect(2).err.contains("no id"));

    assert!(place.run(&["memory", "forget", &id, "--source", "x"]).expect(2).err.contains("--source"));
    assert!(
        place.run(&["memory", "forget", "--source", "x"]).expect(1).err.contains("no memory came from x")
    );

    place.run(&["memory", "export", "out.json"]).expect(0);
    let written = std::fs::read_to_string(place.path("out.json")).expect("a bundle");
    assert!(!written.contains("canary-llm-0001"), "{written}");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(place.path("out.json")).expect("a file").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    assert!(place.run(&["memory", "export", "out.json"]).expect(1).err.contains("there already"));
    let printed = place.run(&["memory", "export"]).expect(0).json();
    assert_eq!(printed["knowledge"].as_array().map(Vec::len), Some(2), "{printed}");

    let source = printed["knowledge"][0]["source"].as_str().expect("a source");
    let gone = place.run(&["memory", "forget", "--source", source, "--json"]).expect(0).json();
    assert_eq!((&gone["status"], &gone["source"]), (&json!("deleted"), &json!(source)));
    assert!(gone["total"].as_u64() >= Some(2), "{gone}");
}

#[test]
fn a_list_goes_on_after_a_memory_and_through_everything() {
    let place = Place::new().with_brain();
    // more than two pages of 100
    std::fs::write(place.path("in.json"), bundle((0..230).map(fact).collect()).to_string()).expect("written");
    place.run(&["memory", "import", "in.json"]).expect(0);
    let ids = |list: &serde_json::Value| -> Vec<String> {
        let items = list.as_array().expect("an array").iter();
        items.map(|item| item["id"].as_str().expect("an id").to_owned()).collect()
    };
    let all = ids(&place.run(&["memory", "list", "--all", "--json"]).expect(0).json());
    let mut once = all.clone();
    once.sort();
    once.dedup();
    assert_eq!((all.len(), once.len()), (230, 230));
    assert_eq!(place.run(&["memory", "list", "--all"]).expect(0).out.lines().count(), 230);
    let newest = ids(&place.run(&["memory", "list", "--limit", "3", "--json"]).expect(0).json());
    assert_eq!(newest, all[..3]);
    let older =
        place.run(&["memory", "list", "--before", &all[2], "--limit", "3", "--json"]).expect(0).json();
    assert_eq!(ids(&older), all[3..6]);
    let rest = place.run(&["memory", "list", "--all", "--before", &all[199], "--json"]).expect(0).json();
    assert_eq!(ids(&rest), all[200..]);
    let last = all.last().expect("some");
    assert_eq!(
        place.run(&["memory", "list", "--all", "--before", last, "--json"]).expect(0).json(),
        json!([])
    );
    assert_eq!(place.run(&["memory", "list", "--store", "social", "--all"]).expect(0).out, "nothing\n");

    let wrong = place.run(&["memory", "list", "--before", last, "--store", "social"]).expect(2);
    assert!(wrong.err.contains("is of knowledge, not of social"), "{}", wrong.err);
    assert!(place.run(&["memory", "list", "--before", "x y"]).expect(2).err.contains("no id"));
    assert!(place.run(&["memory", "list", "--before", "rel-1"]).expect(2).err.contains("a relation"));
    for all in [&[][..], &["--all"]] {
        let none = place.run(&[&["memory", "list", "--before", "fact-1"], all].concat()).expect(1);
        assert!(none.err.contains("no memory fact-1"), "{}", none.err);
    }
    place.run(&["memory", "list", "--all", "--limit", "3"]).expect(2);
}

#[test]
fn a_memory_can_be_moved_to_a_machine_that_has_none_yet() {
    let place = Place::new();
    assert!(place.run(&["memory", "list"]).expect(1).err.contains("there is no brain"));
    assert!(place.run(&["memory", "import", "missing.json"]).expect(1).err.contains("missing.json"));
    assert!(
        place.run(&["memory", "list"]).expect(1).err.contains("there is no brain"),
        "none was made for it"
    );
    std::fs::write(place.path("in.json"), bundle(vec![fact(0)]).to_string()).expect("written");
    place.run(&["memory", "import", "in.json"]).expect(0);
    let newest = place.run(&["memory", "search", "", "--json"]).expect(0).json();
    assert_eq!(newest[0]["subject"], "subject 0", "{newest}");
    let printed = place.run(&["memory", "export", "-"]).expect(0).json();
    assert_eq!(printed["knowledge"].as_array().map(Vec::len), Some(1), "{printed}");
    assert!(!place.path("-").exists());
}

#[test]
fn a_bundle_that_is_wrong_changes_nothing_and_says_where() {
    let place = Place::new().with_brain();
    let mut wrong = fact(1);
    wrong["trust"] = json!("holy");
    let said =
        place.run_with(&["memory", "import", "-"], &bundle(vec![fact(0), wrong]).to_string()).expect(1);
    assert!(said.err.contains("/knowledge/1/trust"), "{}", said.err);
    let mut other = bundle(vec![]);
    other["format"] = json!("somebody-else/7");
    let said = place.run_with(&["memory", "import", "-"], &other.to_string()).expect(1);
    let told = r#"at "/format": expected september-memory/1, got "somebody-else/7""#;
    assert!(said.err.contains(told), "{}", said.err);
    assert_eq!(place.run(&["memory", "list", "--json"]).expect(0).json(), json!([]));
    assert!(place.run(&["memory", "import", "missing.json"]).expect(1).err.contains("missing.json"));
    place.run(&["memory", "import", "-", "--mode", "destroy"]).expect(2);
}

#[test]
fn without_a_brain_there_is_nothing_to_look_into_and_none_is_made() {
    let place = Place::new();
    assert!(place.run(&["memory", "list"]).expect(1).err.contains("no brain"));
    assert!(!place.path("brain.sqlite").exists());
}

#[test]
fn vacuum_makes_the_indexes_anew_when_asked() {
    let place = Place::new().with_brain();
    let report = place.run(&["vacuum", "--rebuild-fts", "--json"]).expect(0).json();
    assert_eq!(report["rebuilt"].as_array().map(Vec::len), Some(4), "{report}");
    assert_eq!(place.run(&["vacuum", "--json"]).expect(0).json()["rebuilt"], json!([]));
    place.run(&["verify"]).expect(0);
}

#[tokio::test]
async fn beside_a_running_engine_the_command_names_its_api() {
    let engine = Setup::offline().start().await;
    for (args, operation) in [
        (&["memory", "export"][..], "GET /memory/export"),
        (&["memory", "search", "tea"], "POST /memory/{store}/search"),
        (&["memory", "forget", "fact-1"], "DELETE /memory/{store}/{id}"),
        (&["memory", "forget", "--source", "import:x"], "DELETE /memory?source="),
    ] {
        let said = engine.setup.command(args).output().expect("runs");
        let err = String::from_utf8_lossy(&said.stderr);
        assert_eq!(said.status.code(), Some(4), "{err}");
        assert!(err.contains(operation), "{err}");
    }
}
