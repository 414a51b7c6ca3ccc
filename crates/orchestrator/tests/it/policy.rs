//! Policy, quota and rate limit as a product and an operator meet them.

use crate::trial::{Answer, Product, Trial, until};
use backends::{Call, Fault, FaultKind};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

async fn set(trial: &Trial, slug: &str, policy: Value) -> Answer {
    trial.admin("PUT", &format!("/products/{slug}/policy"), json!({"policy": policy})).await
}

fn fields(answer: &Answer) -> Vec<&str> {
    let named = answer.body["error"]["details"]["fields"].as_array();
    let named = named.unwrap_or_else(|| panic!("{:?}", answer.body));
    named.iter().filter_map(|f| f["field"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unrecognised_policy_key_is_400() {
    let (trial, _) = Trial::with_product().await;
    for (policy, named) in [
        (json!({"max_engine": 3}), vec!["policy.max_engine"]),
        (json!({"resources": {"memory": 512}}), vec!["policy.resources.memory"]),
        (
            json!({"max_engines": -1, "rate_limit_rpm": 0}),
            vec!["policy.max_engines", "policy.rate_limit_rpm"],
        ),
        (json!({"max_engines": "3"}), vec!["policy.max_engines"]),
        (json!({"resources": {"memory_mb": 1}}), vec!["policy.resources.memory_mb"]),
    ] {
        let changed = set(&trial, "demo", policy.clone()).await;
        let body = json!({"slug": "new", "display_name": "New", "policy": policy});
        let registered = trial.admin("POST", "/products/register", body).await;
        for answer in [changed, registered] {
            assert_eq!((answer.status, answer.code()), (400, "INVALID_REQUEST"), "{:?}", answer.body);
            assert_eq!(fields(&answer), named, "{:?}", answer.body);
        }
    }
    let product = trial.admin("GET", "/products/demo", Value::Null).await;
    assert_eq!(product.body["policy"], json!({}), "a refused policy changes nothing");
    assert_eq!(trial.admin("GET", "/products/new", Value::Null).await.status, 404);
    assert_eq!(trial.rows("action=policy_update").await, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lowered_quota_destroys_nothing() {
    let (trial, demo) = Trial::with_product().await;
    for user in ["a", "b", "c"] {
        demo.engine(user).await;
    }
    let set = set(&trial, "demo", json!({"max_engines": 1})).await;
    assert_eq!((set.status, &set.body["policy"]), (200, &json!({"max_engines": 1})));
    let row = &trial.rows("action=policy_update").await[0];
    assert_eq!(
        (&row["metadata"]["before"], &row["metadata"]["after"]),
        (&json!({}), &json!({"max_engines": 1})),
        "{row}"
    );
    for user in ["a", "b", "c"] {
        assert_eq!(demo.admit(user).await.body["admitted"], true);
    }
    assert_eq!(demo.post("a", "stop").await.status, 200);
    assert_eq!(demo.post("a", "start").await.status, 200, "only new engines are counted");
    for user in ["a", "b", "c"] {
        let refused = demo.provision("d").await;
        assert_eq!((refused.status, refused.code()), (429, "QUOTA_EXCEEDED"));
        assert_eq!(refused.body["error"]["message"], "Product at max_engines limit (1).");
        assert_eq!(demo.destroy(user).await.status, 200);
    }
    assert_eq!(demo.provision("d").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_six_states_count() {
    let trial =
        Trial::new().await.set("ORCH_RESTART_BACKOFF_BASE_S", "200").set("ORCH_RESTART_BACKOFF_MAX_S", "300");
    let (trial, _) = trial.ready().await;
    let six = trial.product("six", json!({"max_engines": 6})).await;
    for user in ["running", "sleeping", "stopped", "failed", "destroying"] {
        six.engine(user).await;
    }
    assert_eq!(six.post("sleeping", "sleep").await.status, 200);
    assert_eq!(six.post("stopped", "stop").await.status, 200);
    let text = six.get("failed").await.body["engine_id"].clone();
    let failed = contract::EngineId::parse(text.as_str().expect("has an id")).expect("is one");
    trial.world.crash(failed, 1, false);
    six.until_status("failed", "failed").await;
    trial.world.fault(Fault::new(FaultKind::Hang).on(Call::Destroy));
    trial.world.fault(Fault::new(FaultKind::Hang).on(Call::EnsureImage));
    let held = |request: fn(Product) -> futures::future::BoxFuture<'static, Answer>| {
        tokio::spawn(request(six.clone()))
    };
    let going = held(|p| Box::pin(async move { p.destroy("destroying").await }));
    let coming = held(|p| Box::pin(async move { p.provision("provisioning").await }));
    six.until_status("destroying", "destroying").await;
    six.until_status("provisioning", "provisioning").await;
    let status = six.call("GET", "/status", Value::Null).await.body;
    for (word, count) in status["by_status"].as_object().expect("is an object") {
        assert_eq!(count, 1, "{word}: {status}");
    }
    for refused in [six.provision("seventh").await, six.admit("seventh").await] {
        assert_eq!((refused.status, refused.code()), (429, "QUOTA_EXCEEDED"), "{:?}", refused.body);
        assert_eq!(refused.body["error"]["message"], "Product at max_engines limit (6).");
        assert!(refused.retry_after.is_some_and(|s| s >= 1));
    }
    trial.world.heal();
    assert_eq!(going.await.expect("is answered").status, 200);
    assert_eq!(coming.await.expect("is answered").status, 200);
    assert_eq!(six.provision("seventh").await.status, 200, "what is destroyed does not count");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rate_limit_says_when_to_come_back_and_refused_calls_do_not_consume() {
    const RPM: u64 = 30;
    let (trial, demo) = Trial::with_product().await;
    demo.engine("ada").await;
    assert_eq!(set(&trial, "demo", json!({"rate_limit_rpm": RPM})).await.status, 200);
    let (began, mut admitted) = (Instant::now(), 0);
    let refused = loop {
        let answer = demo.admit("ada").await;
        match answer.status {
            200 => admitted += 1,
            _ => break answer,
        }
    };
    let refilled = began.elapsed().as_secs() * RPM / 60 + 1;
    assert!((RPM..=RPM + refilled).contains(&admitted), "{admitted} admits passed");
    assert_eq!((refused.status, refused.code()), (429, "RATE_LIMITED"), "{:?}", refused.body);
    for _ in 0..40 {
        let again = demo.admit("ada").await;
        if again.status == 200 {
            continue;
        }
        let seconds = again.retry_after.expect("every 429 says when");
        assert!((1..=2).contains(&seconds), "one is free every two seconds, not in {seconds}");
        assert_eq!(
            again.body["error"]["message"],
            format!("Rate limit exceeded. Retry in {seconds} seconds.")
        );
    }
    let wait = demo.admit("ada").await.retry_after.unwrap_or(1);
    tokio::time::sleep(Duration::from_secs(wait)).await;
    assert_eq!(demo.admit("ada").await.status, 200, "refused calls moved the moment further away");
    // Other calls are not admissions.
    assert_eq!(demo.get("ada").await.status, 200);
    assert_eq!(demo.post("ada", "stop").await.status, 200);
    // A change of policy begins afresh.
    assert_eq!(set(&trial, "demo", json!({"rate_limit_rpm": RPM, "max_engines": 9})).await.status, 200);
    assert_eq!(demo.admit("ada").await.status, 200);
    assert_eq!(demo.admit("ada").await.status, 200);
}

/// Only another policy begins the count afresh, however late a notice about the product comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_platform_key_gives_nothing_back_that_was_spent() {
    let (trial, _) = Trial::with_product().await;
    let limited = trial.product("limited", json!({"rate_limit_rpm": 1})).await;
    assert_eq!(limited.admit("ada").await.status, 200);
    for _ in 0..10 {
        let rotated = trial.admin("POST", "/products/limited/rotate-platform-key", json!({})).await;
        let key = rotated.body["platform_api_key"].as_str().expect("a key is shown").to_owned();
        let renamed = limited.clone().with_key(&key);
        for _ in 0..5 {
            assert_eq!(renamed.admit("ada").await.code(), "RATE_LIMITED");
        }
    }
    assert_eq!(set(&trial, "limited", json!({"rate_limit_rpm": 1, "max_engines": 5})).await.status, 200);
    let newest = trial.admin("POST", "/products/limited/rotate-platform-key", json!({})).await;
    let newest = limited.with_key(newest.body["platform_api_key"].as_str().expect("a key is shown"));
    assert_eq!(newest.admit("ada").await.status, 200, "another policy begins afresh");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_is_in_force_on_the_next_request_of_every_replica() {
    let (mut trial, demo) = Trial::with_product().await;
    trial.replica().await;
    let there = demo.clone().at(trial.base(1));
    assert_eq!(there.engine("ada").await.to_string(), demo.get("ada").await.body["engine_id"]);
    for round in 0..10 {
        assert_eq!(set(&trial, "demo", json!({"max_engines": 0})).await.status, 200);
        assert_eq!(there.provision("bob").await.code(), "QUOTA_EXCEEDED", "round {round}");
        assert_eq!(set(&trial, "demo", json!({"allowed_versions": ["other:*"]})).await.status, 200);
        let body = json!({"user_id": "bob", "engine_version": "september-engine:9"});
        let refused = there.call("POST", "/engines/provision", body).await;
        assert_eq!(refused.code(), "POLICY_DENIED", "round {round}");
    }
    assert_eq!(set(&trial, "demo", json!({"rate_limit_rpm": 1})).await.status, 200);
    assert_eq!(there.admit("ada").await.status, 200);
    assert_eq!(there.admit("ada").await.code(), "RATE_LIMITED");
    assert_eq!(set(&trial, "demo", json!({})).await.status, 200);
    assert_eq!(there.admit("ada").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_are_limited_to_the_repository_or_to_the_list() {
    let (trial, demo) = Trial::with_product().await;
    let ask = async |user: &str, version: &str| {
        let body = json!({"user_id": user, "engine_version": version});
        let answer = demo.call("POST", "/engines/provision", body).await;
        if answer.status == 200 {
            assert_eq!(demo.get(user).await.body["engine_version"], version);
        } else {
            assert_eq!((answer.status, answer.code()), (403, "POLICY_DENIED"), "{:?}", answer.body);
            assert_eq!(demo.get(user).await.status, 404);
        }
        answer.status == 200
    };
    assert!(ask("a", "september-engine:2.4.0").await, "the same repository");
    assert!(!ask("b", "evil/september-engine:2.3.0").await);
    assert!(!ask("b", "registry.example/september-engine:2.3.0").await);
    assert!(!ask("b", "september-engine-x:2.3.0").await);
    assert_eq!(
        set(&trial, "demo", json!({"allowed_versions": ["september-engine:2.5*", "own/image:1"]}))
            .await
            .status,
        200
    );
    assert!(ask("c", "september-engine:2.5.1").await);
    assert!(ask("d", "own/image:1").await);
    assert!(!ask("e", "own/image:10").await, "only a trailing star is a prefix");
    assert!(!ask("e", "september-engine:2.4.0").await, "the list takes the place of the rule");
    assert!(ask("e", "september-engine:2.3.0").await, "the default is always allowed");
    assert_eq!(set(&trial, "demo", json!({"allowed_versions": []})).await.status, 200);
    assert!(!ask("f", "september-engine:2.5.1").await);
    assert_eq!(demo.provision("f").await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resources_reach_the_object_at_its_next_start_and_change_nothing_running() {
    let (trial, demo) = Trial::with_product().await;
    let id = demo.engine("ada").await;
    assert_eq!(demo.explain("ada").await["backend"]["drift"], json!([]));
    let policy = json!({"resources": {"memory_mb": 512, "cpus": 0.5, "pids": 100}});
    assert_eq!(set(&trial, "demo", policy).await.status, 200);
    let told = demo.explain("ada").await;
    assert_ne!(told["backend"]["drift"], json!([]), "{told}");
    let passes = |trial: &Trial| trial.world.calls().iter().filter(|c| c.call == Call::List).count();
    let before = passes(&trial);
    until("two more passes", async || passes(&trial) >= before + 2).await;
    assert_eq!(trial.world.starts(id), 1, "drift restarts nothing");
    assert_eq!(demo.post("ada", "sleep").await.status, 200);
    assert_eq!(demo.admit("ada").await.body["admitted"], true);
    assert_eq!(trial.world.starts(id), 1, "a thaw makes nothing anew");
    assert_eq!(demo.post("ada", "stop").await.status, 200);
    assert_eq!(demo.post("ada", "start").await.status, 200);
    let told = demo.explain("ada").await;
    assert_eq!(
        (&told["backend"]["drift"], &told["backend"]["generation"]),
        (&json!([]), &json!(2)),
        "{told}"
    );
    assert_eq!(trial.row(id, "start").await["metadata"]["recreated"], true);
    let fresh = demo.engine("bob").await;
    assert_eq!(demo.explain("bob").await["backend"]["drift"], json!([]));
    assert_eq!(trial.world.starts(fresh), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_request_names_its_fields() {
    let (_trial, demo) = Trial::with_product().await;
    for (method, path, body, named) in [
        ("POST", "/engines/provision", json!({}), "user_id"),
        ("POST", "/engines/provision", json!({"user_id": 7}), "user_id"),
        ("POST", "/engines/provision", json!({"user_id": " ada"}), "user_id"),
        ("POST", "/engines/provision", json!({"user_id": "ada", "engine_version": 7}), "engine_version"),
        ("POST", "/engines/ada/admit", json!({"auto_wake": "yes"}), "auto_wake"),
        ("GET", "/engines?limit=0", Value::Null, "limit"),
        ("GET", "/engines?status=asleep", Value::Null, "status"),
    ] {
        let refused = demo.call(method, path, body).await;
        assert_eq!((refused.status, refused.code()), (400, "INVALID_REQUEST"), "{path}: {:?}", refused.body);
        assert_eq!(fields(&refused), [named], "{path}");
    }
    assert_eq!(demo.get("ada").await.status, 404);
}
