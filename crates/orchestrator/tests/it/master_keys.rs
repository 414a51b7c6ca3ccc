//! Another master key: while replicas serve, cut off in the middle, until the old one may go.

use crate::cli::{Program, Replica, serve};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use testbed::postgres::TestDatabase;

/// Stored keys besides the one of the engine that serves: three batches and a bit.
const MORE: i64 = 1_700;

/// The same program with other master keys, in a directory of its own.
fn with_keys(program: &Program, keys: &str) -> Program {
    Program { dir: tempfile::tempdir().expect("a directory"), env: program.env.clone() }
        .with("ORCH_MASTER_KEY", keys)
}

async fn tokens(url: &str) -> BTreeSet<String> {
    let rows = query(url, "SELECT id::text || engine_key_enc FROM engines").await;
    rows.iter().map(|row| row.get(0)).collect()
}

async fn query(url: &str, sql: &str) -> Vec<tokio_postgres::Row> {
    let (client, connection) =
        tokio_postgres::connect(url, tokio_postgres::NoTls).await.expect("the database is up");
    tokio::spawn(connection);
    client.query(sql, &[]).await.expect("is good SQL")
}

/// Starts a rotation and kills it after its first batch.
fn cut_off(program: &Program) {
    let child = program.command(&["rotate-master-key"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child: Child = child.expect("the program starts");
    let told = BufReader::new(child.stderr.take().expect("is piped"));
    let first = told.lines().next().expect("it tells its progress").expect("is text");
    assert!(first.starts_with("500 of "), "{first}");
    child.kill().expect("it still works");
    let _ = child.wait();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn master_key_rotation_online_interruptible() {
    let database = TestDatabase::create().await;
    let url = database.url.clone();
    let new = chassis::seal::MasterKeys::generate();
    let both = format!("{},{}", new.expose(), crate::cli::MASTER);
    // The replica has both keys, and seals with the old one to the end.
    let (program, replica) =
        serve(with_keys(&Program::on(&url), &format!("{},{}", crate::cli::MASTER, new.expose())));
    let product = program.json(&["products", "register", "demo"])["platform_api_key"].clone();
    let program = program.with("BAP_PLATFORM_KEY", product.as_str().expect("is shown once"));
    let key = program.json(&["engines", "provision", "demo/ada"])["api_key"].clone();
    program.json(&["engines", "provision", "demo/bob"]);
    program.json(&["engines", "stop", "demo/bob"]);
    let copies = format!(
        "INSERT INTO engines (id, product_id, user_id, status, desired, backend, engine_version, engine_key_hash, engine_key_enc) \
         SELECT gen_random_uuid(), product_id, 'copy-' || n, 'stopped', 'stopped', backend, engine_version, engine_key_hash, \
           engine_key_enc FROM engines, generate_series(1, {MORE}) n WHERE user_id = 'bob'"
    );
    query(&url, &copies).await;

    // A rotation that is killed in the middle, twice, while the replica serves.
    let rotating = with_keys(&program, &both);
    let shown = |program: &Program, user: &str| -> Value {
        program.json(&["engines", "get", user, "--show-key"])["api_key"].clone()
    };
    let before = tokens(&url).await;
    cut_off(&rotating);
    let once: usize = tokens(&url).await.difference(&before).count();
    assert!((500..=before.len()).contains(&once), "{once} of {} were sealed anew", before.len());
    for user in ["ada", "copy-1", &format!("copy-{MORE}")] {
        assert!(shown(&program, user).as_str().is_some_and(|k| k.starts_with("sk-sept-")), "{user}");
    }
    assert_eq!(shown(&program, "ada"), key);
    cut_off(&rotating);
    let twice: usize = tokens(&url).await.difference(&before).count();
    assert!(twice >= once + 500, "the second one went on behind the first: {once}, {twice}");

    // A rotation of an engine's key next to it loses nothing.
    let other = rotating
        .command(&["rotate-master-key", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let other = other.expect("the program starts");
    let rotated = program.json(&["engines", "rotate-key", "demo/ada"])["api_key"].clone();
    let report = other.wait_with_output().expect("it ends");
    assert!(report.status.success(), "{}", report.status);
    let report: Value = serde_json::from_slice(&report.stdout).expect("is JSON");
    assert_ne!(rotated, key);
    assert_eq!(shown(&program, "ada"), rotated);
    let all = before.len();
    assert_eq!(report["rows"].as_u64(), u64::try_from(all).ok(), "{report}");
    let resealed = report["resealed"].as_u64().and_then(|n| usize::try_from(n).ok()).expect("a number");
    // The key that was made meanwhile is sealed with the old one: it is met twice, once, or not before the next run.
    assert!((all - twice - 1..=all - twice + 2).contains(&resealed), "{report}: {twice} of {all} were done");
    assert!(rotating.json(&["rotate-master-key"])["resealed"].as_u64() <= Some(2));
    assert_eq!(rotating.json(&["rotate-master-key"])["resealed"], 0, "nothing is left");
    assert_eq!(shown(&program, "ada"), rotated);
    let rows = query(&url, "SELECT 1 FROM audit_log WHERE action = 'rotate_master_key'").await;
    assert_eq!(rows.len(), 3, "one for each run that ended");
    drop(replica);

    // The old key may go.
    let (program, replica): (Program, Replica) = serve(with_keys(&program, new.expose()));
    assert_eq!(shown(&program, "ada"), rotated);
    drop(replica);
    let refused = with_keys(&program, crate::cli::MASTER).fails(&["serve"], 3);
    assert!(refused.contains("cannot be decrypted"), "{refused}");
}
