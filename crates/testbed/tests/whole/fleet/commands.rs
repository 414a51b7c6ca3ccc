//! The command line against a deployment that lives: what operators type, what it prints, and how it exits.

use super::deployment::Fleet;
use serde_json::Value;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sees_the_fleet_and_never_a_key() {
    let fleet = Fleet::new().await.ready().await;
    let ada = fleet.engine("ada").await;
    fleet.engine("bob").await;
    fleet.post("bob", "stop").await;
    let mut printed = String::new();
    let listed = fleet.json(&["engines", "list", "--json"]).await;
    let rows = listed["engines"].as_array().expect("a list");
    assert_eq!(rows.len(), 2, "{listed}");
    let row = rows.iter().find(|row| row["user_id"] == "ada").expect("ada is listed");
    assert_eq!((&row["status"], &row["engine_id"]), (&"running".into(), &ada.id.as_str().into()), "{row}");
    let stopped = fleet.json(&["engines", "list", "--status", "stopped", "--json"]).await;
    assert_eq!(stopped["engines"].as_array().map(Vec::len), Some(1), "{stopped}");
    let explained = fleet.json(&["explain", "demo/ada", "--json"]).await;
    assert_eq!(
        (&explained["status"], &explained["backend"]["observed"]),
        (&"running".into(), &"running".into())
    );
    assert_eq!(explained["admission"]["would_admit"], true, "{explained}");
    let audit = fleet.json(&["audit", "list", "--user", "bob", "--json"]).await;
    let actions: Vec<&str> =
        audit["entries"].as_array().expect("rows").iter().filter_map(|r| r["action"].as_str()).collect();
    assert_eq!(actions.iter().filter(|a| **a != "health_check").collect::<Vec<_>>(), [&"stop", &"provision"]);
    let doctor = fleet.json(&["doctor", "--json"]).await;
    assert_eq!((&doctor["ok"], &doctor["problems"]), (&true.into(), &0.into()), "{doctor}");
    for value in [&listed, &explained, &audit, &doctor] {
        printed.push_str(&value.to_string());
    }
    let commands: [&[&str]; 8] = [
        &["engines", "list"],
        &["engines", "show", "demo/ada"],
        &["explain", "demo/ada"],
        &["audit", "list"],
        &["doctor"],
        &["check-config", "--connect"],
        &["status"],
        &["products", "list"],
    ];
    for command in commands {
        let output = fleet.run(command).await;
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{command:?}: {said}");
        assert!(!text(&output.stdout).trim().is_empty(), "{command:?} says nothing");
        printed.push_str(&said);
    }
    for key in fleet.issued() {
        assert!(!printed.contains(&key), "a list shows a key");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_through_the_database_are_performed_by_a_replica_that_runs() {
    let fleet = Fleet::new().await.ready().await;
    let made = fleet.json(&["engines", "provision", "demo/ada", "--json"]).await;
    let key = made["api_key"].as_str().expect("the key, once").to_owned();
    assert_eq!(fleet.admitted("ada").await.key, key);
    for (command, status) in
        [("stop", "stopped"), ("start", "running"), ("sleep", "sleeping"), ("start", "running")]
    {
        if command == "sleep" {
            super::process::until("its admit lease is over", async || {
                let output = fleet.run(&["engines", "sleep", "demo/ada"]).await;
                output.status.success()
            })
            .await;
        } else {
            let told = fleet.json(&["engines", command, "demo/ada", "--json"]).await;
            assert_eq!(told["status"], status, "{told}");
        }
        assert_eq!(fleet.status("ada").await, status);
    }
    let rotated = fleet.json(&["engines", "rotate-key", "demo/ada", "--json"]).await;
    assert_eq!(fleet.admitted("ada").await.key, rotated["api_key"].as_str().expect("the new key"));
    fleet.json(&["engines", "destroy", "demo/ada", "--yes", "--json"]).await;
    assert_eq!(fleet.get("ada").await.code(), "ENGINE_NOT_FOUND");
    let by_hand = fleet.json(&["audit", "list", "--user", "ada", "--json"]).await;
    let rows = by_hand["entries"].as_array().expect("rows").iter().filter(|r| r["action"] != "health_check");
    assert!(rows.clone().count() >= 7 && rows.clone().all(|row| row["actor"] == "admin"), "{by_hand}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_say_what_kind_of_no_it_is() {
    let mut fleet = Fleet::new().await.ready().await;
    let code = async |fleet: &Fleet, args: &[&str]| {
        let output = fleet.run(args).await;
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let (missing, said) = code(&fleet, &["engines", "stop", "demo/nobody"]).await;
    assert_eq!(missing, Some(1), "{said}");
    let (usage, said) = code(&fleet, &["engines", "fly", "demo/ada"]).await;
    assert_eq!(usage, Some(2), "{said}");
    let told = fleet.run(&["engines", "stop", "demo/nobody", "--json"]).await;
    let told: Value = serde_json::from_slice(&told.stdout).expect("JSON also when it fails");
    assert_eq!(told["error"]["code"], "ENGINE_NOT_FOUND", "{told}");
    fleet.stop(0).await;
    let (away, said) = code(&fleet, &["products", "list"]).await;
    assert_eq!(away, Some(4), "{said}");
    fleet.set("ORCH_PORT_MIN", "none");
    fleet.set("ORCH_LEASE_TTL_S", "-1");
    let (wrong, said) = code(&fleet, &["serve"]).await;
    assert_eq!(wrong, Some(2), "{said}");
    assert!(said.contains("ORCH_PORT_MIN") && said.contains("ORCH_LEASE_TTL_S"), "both are named: {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn issued_keys_never_appear_in_logs() {
    let fleet = Fleet::new().await.ready().await;
    let ada = fleet.engine("ada").await;
    ada.turn("thread-1", "run env").await;
    // Keys where they are not expected: in paths, bodies, headers of others, and arguments that are refused.
    fleet.call("GET", &format!("/engines/{}", ada.key), &Value::Null).await;
    fleet.provision(&ada.key).await;
    let wrong = serde_json::json!({"user_id": "bob", "engine_version": ada.key});
    fleet.call("POST", "/engines/provision", &wrong).await;
    fleet.ask(0, "GET", "/products", ("x-admin-key", &ada.key), &Value::Null).await;
    fleet.post("ada", "rotate-key").await;
    fleet.run(&["engines", "reissue-key", "demo/ada", "--json"]).await;
    assert!(fleet.issued().len() >= 4, "{}", fleet.issued().len());
    // Whoever names a user like a key has it in the rows of that user; nowhere else does it stand.
    let elsewhere: Vec<String> = fleet
        .leaks()
        .into_iter()
        .filter(|leak| leak.contains(".log") || leak.contains("arguments"))
        .collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
    // The search finds what there is to find.
    let planted = fleet.folder.path().join("planted.log");
    std::fs::write(&planted, format!("key={}", ada.key)).expect("writable");
    assert!(fleet.leaks().iter().any(|leak| leak.contains("planted.log")));
    std::fs::remove_file(&planted).expect("our own file");
}
