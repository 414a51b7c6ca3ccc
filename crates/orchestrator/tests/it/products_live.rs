//! Products: registered, listed, given new keys, removed with everything they have.

use crate::trial::{Product, Trial};
use backends::{Call, Fault, FaultKind};
use contract::Timestamp;
use serde_json::{Value, json};

async fn works(product: &Product) -> bool {
    match product.call("GET", "/status", Value::Null).await {
        answer if answer.status == 200 => true,
        answer => {
            assert_eq!((answer.status, answer.code()), (401, "INVALID_PLATFORM_KEY"), "{:?}", answer.body);
            false
        }
    }
}

fn with_key(product: &Product, key: &Value) -> Product {
    product.clone().with_key(key.as_str().expect("a key is shown"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn products_are_registered_listed_shown_and_deleted() {
    let (trial, demo) = Trial::with_product().await;
    let again =
        trial.admin("POST", "/products/register", json!({"slug": "demo", "display_name": "Other"})).await;
    assert_eq!((again.status, again.code()), (409, "PRODUCT_SLUG_EXISTS"), "{:?}", again.body);
    for slug in ["one", "two"] {
        trial.product(slug, json!({"max_engines": 5})).await;
    }
    demo.engine("ada").await;
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = trial.admin("GET", &format!("/products?limit=2{cursor}"), Value::Null).await.body;
        for product in page["products"].as_array().expect("is a list") {
            seen.push((product["slug"].as_str().expect("has one").to_owned(), product["engines"].as_i64()));
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let expected = [("demo", Some(1)), ("one", Some(0)), ("two", Some(0))].map(|(s, n)| (s.to_owned(), n));
    assert_eq!(seen, expected);
    let shown = trial.admin("GET", "/products/one", Value::Null).await.body;
    let id = shown["product_id"].as_str().expect("has an id").to_owned();
    assert_eq!(
        trial.admin("GET", &format!("/products/{id}"), Value::Null).await.body,
        shown,
        "by id as by slug"
    );
    assert_eq!(
        (&shown["policy"], &shown["previous_key_expires_at"]),
        (&json!({"max_engines": 5}), &Value::Null)
    );
    let text = trial.admin("GET", "/products", Value::Null).await.body.to_string();
    assert!(!text.contains("hash") && !text.contains("pk-sept-"), "{text}");

    let deleted = trial.admin("DELETE", "/products/one", Value::Null).await;
    assert_eq!(deleted.body, json!({"product_id": id, "status": "deleted", "engines_left": 0}));
    for method in ["GET", "DELETE"] {
        let gone = trial.admin(method, "/products/one", Value::Null).await;
        assert_eq!((gone.status, gone.code()), (404, "PRODUCT_NOT_FOUND"));
    }
    let row = &trial.rows("action=product_delete").await[0];
    assert_eq!(
        (&row["metadata"]["slug"], &row["metadata"]["engines_destroyed"]),
        (&json!("one"), &json!(0)),
        "{row}"
    );
    trial.product("one", json!({})).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_product_with_engines_goes_only_when_asked_for_and_its_key_is_dead_at_once() {
    let (mut trial, demo) = Trial::with_product().await;
    trial.replica().await;
    let other = trial.product("other", json!({})).await;
    let kept = other.engine("ada").await;
    let mut ids = Vec::new();
    for user in ["running", "sleeping", "stopped"] {
        ids.push(demo.engine(user).await);
    }
    assert_eq!(demo.post("sleeping", "sleep").await.status, 200);
    assert_eq!(demo.post("stopped", "stop").await.status, 200);
    for path in ["/products/demo", "/products/demo?destroy_engines=false"] {
        let refused = trial.admin("DELETE", path, Value::Null).await;
        assert_eq!((refused.status, refused.code()), (409, "PRODUCT_NOT_EMPTY"), "{:?}", refused.body);
        assert_eq!(refused.body["error"]["details"]["engines"], 3);
    }
    assert!(works(&demo).await, "a refusal kills no key");

    trial.world.fault(Fault::new(FaultKind::Hang).on(Call::Destroy));
    let path = "/products/demo?destroy_engines=true";
    let deleting = async { trial.admin("DELETE", path, Value::Null).await };
    let watching = async {
        crate::trial::until("a removal is under way", async || {
            trial.world.calls().iter().any(|c| c.call == Call::Destroy)
        })
        .await;
        for base in [trial.base(0), trial.base(1)] {
            let demo = demo.clone().at(base);
            assert!(!works(&demo).await, "the key of a product that is being deleted works");
            assert_eq!(demo.admit("running").await.code(), "INVALID_PLATFORM_KEY");
        }
        trial.world.heal();
    };
    let (deleted, ()) = tokio::join!(deleting, watching);
    assert_eq!(
        (&deleted.body["status"], &deleted.body["engines_left"]),
        (&json!("deleted"), &json!(0)),
        "{:?}",
        deleted.body
    );
    assert_eq!(trial.world.objects(), [kept], "of the other product nothing was touched");
    assert!(ids.iter().all(|id| !trial.world.has_storage(*id)), "storage is left");
    for id in ids {
        let row = trial.row(id, "destroy").await;
        assert_eq!(row["actor"], "admin", "{row}");
    }
    let row = &trial.rows("action=product_delete").await[0];
    assert_eq!(row["metadata"]["engines_destroyed"], 3, "{row}");
    assert!(works(&other).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn platform_key_overlap_and_second_rotation() {
    let (trial, first) = Trial::with_product().await;
    first.engine("ada").await;
    let rotate = async |body: Value| trial.admin("POST", "/products/demo/rotate-platform-key", body).await;
    let answer = rotate(json!({"overlap_seconds": 3600})).await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let until =
        answer.body["previous_key_expires_at"].as_str().and_then(Timestamp::parse).expect("it has an end");
    let rest = until.millis() - Timestamp::now().millis();
    assert!((3_590_000..=3_601_000).contains(&rest), "{rest} ms");
    let second = with_key(&first, &answer.body["platform_api_key"]);
    assert!(works(&first).await && works(&second).await, "both work in the window");
    assert_eq!(first.admit("ada").await.body["admitted"], true);
    let shown = trial.admin("GET", "/products/demo", Value::Null).await.body;
    assert_eq!(shown["previous_key_expires_at"], answer.body["previous_key_expires_at"]);

    let third = with_key(&first, &rotate(json!({"overlap_seconds": 3600})).await.body["platform_api_key"]);
    assert!(!works(&first).await, "a second rotation ends the older key's window at once");
    assert!(works(&second).await && works(&third).await);
    assert_eq!(first.admit("ada").await.code(), "INVALID_PLATFORM_KEY");

    let fourth = with_key(&first, &rotate(json!({"overlap_seconds": 0})).await.body["platform_api_key"]);
    assert!(!works(&third).await && !works(&second).await, "without overlap the old key is dead at once");
    assert!(works(&fourth).await);
    let fifth = with_key(&first, &rotate(json!({"overlap_seconds": 1})).await.body["platform_api_key"]);
    assert!(works(&fifth).await);
    crate::trial::until("the window is over", async || !works(&fourth).await).await;
    assert!(works(&fifth).await);

    let default = rotate(json!({})).await.body;
    let until =
        default["previous_key_expires_at"].as_str().and_then(Timestamp::parse).expect("it has an end");
    assert!((86_390_000..=86_401_000).contains(&(until.millis() - Timestamp::now().millis())), "{default}");
    let overlaps: Vec<Value> = trial
        .rows("action=rotate_platform_key")
        .await
        .iter()
        .map(|r| r["metadata"]["overlap_s"].clone())
        .collect();
    assert_eq!(overlaps, [86_400, 1, 0, 3600, 3600]);
    for wrong in
        [json!({"overlap_seconds": -1}), json!({"overlap_seconds": 604_801}), json!({"overlap_seconds": "1"})]
    {
        assert_eq!(rotate(wrong).await.code(), "INVALID_REQUEST");
    }
    let gone = trial.admin("POST", "/products/nobody/rotate-platform-key", json!({})).await;
    assert_eq!(gone.code(), "PRODUCT_NOT_FOUND");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_was_cut_off_goes_on_when_it_is_said_again() {
    let (mut trial, demo) = Trial::with_product().await;
    for user in ["a", "b"] {
        demo.engine(user).await;
    }
    trial.world.fault(Fault::new(FaultKind::Hang).on(Call::Destroy));
    let path = "/products/demo?destroy_engines=true";
    let cut = tokio::spawn({
        let (base, http) = (trial.base(0), reqwest_of());
        async move {
            let request = http.delete(format!("{base}{path}")).header("x-admin-key", crate::trial::ADMIN_KEY);
            let _ = request.send().await;
        }
    });
    crate::trial::until("a removal is under way", async || {
        trial.world.calls().iter().any(|c| c.call == Call::Destroy)
    })
    .await;
    trial.kill(0).await;
    cut.abort();
    trial.world.heal();
    trial.replica().await;
    assert!(!works(&demo.clone().at(trial.base(0))).await, "the key stays dead");
    let deleted = trial.admin("DELETE", path, Value::Null).await;
    assert_eq!(deleted.body["status"], "deleted", "{:?}", deleted.body);
    assert!(trial.world.objects().is_empty());
    assert_eq!(trial.admin("DELETE", path, Value::Null).await.code(), "PRODUCT_NOT_FOUND");
}

/// The count is in the product's row, not in the replica that began.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_tells_how_many_engines_a_deletion_began_with_whoever_ends_it() {
    let (mut trial, demo) = Trial::with_product().await;
    for user in ["a", "b"] {
        demo.engine(user).await;
    }
    let last = demo.engine("c").await;
    trial.world.fault(Fault::new(FaultKind::Hang).on(Call::Destroy).of(last));
    let path = "/products/demo?destroy_engines=true";
    let cut = tokio::spawn({
        let (base, http) = (trial.base(0), reqwest_of());
        async move {
            let request = http.delete(format!("{base}{path}")).header("x-admin-key", crate::trial::ADMIN_KEY);
            let _ = request.send().await;
        }
    });
    let sql = trial.sql().await;
    crate::trial::until("one engine is left", async || {
        let row = sql.query_one("SELECT count(*) FROM engines", &[]).await.expect("the database is up");
        row.get::<_, i64>(0) == 1
    })
    .await;
    trial.kill(0).await;
    cut.abort();
    trial.world.heal();
    trial.replica().await;
    let deleted = trial.admin("DELETE", path, Value::Null).await;
    assert_eq!(deleted.body["status"], "deleted", "{:?}", deleted.body);
    let rows = trial.rows("action=product_delete").await;
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0]["metadata"]["engines_destroyed"], 3, "{rows:?}");
}

/// The row of the product remembers that it is to go, whoever dies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_whose_replica_is_gone_is_finished_by_another() {
    let (mut trial, demo) = Trial::with_product().await;
    let empty = trial.product("empty", json!({})).await;
    let id = demo.engine("ada").await;
    trial.kill(0).await;
    trial
        .sql()
        .await
        .execute("UPDATE products SET deleting = TRUE", &[])
        .await
        .expect("both deletions have begun");
    trial.replica().await;
    for product in [&demo, &empty] {
        assert!(!works(&product.clone().at(trial.base(0))).await);
    }
    let gone =
        async |slug: &str| trial.admin("GET", &format!("/products/{slug}"), Value::Null).await.status == 404;
    crate::trial::until("the empty one is gone", async || gone("empty").await).await;
    crate::trial::until("the engine is gone", async || trial.world.objects().is_empty()).await;
    crate::trial::until("its storage is gone", async || !trial.world.has_storage(id)).await;
    let deleted = trial.admin("DELETE", "/products/demo?destroy_engines=true", Value::Null).await;
    assert_eq!(deleted.status, 200, "{:?}", deleted.body);
    assert_eq!(trial.rows("action=product_delete").await.len(), 2, "one row each");
}

fn reqwest_of() -> reqwest::Client {
    #[allow(clippy::disallowed_methods, reason = "plain HTTP on the loopback")]
    reqwest::Client::builder().no_proxy().build().expect("a client without TLS roots is built")
}
