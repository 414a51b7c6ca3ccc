//! A fleet of ten thousand simulated engines: boot, sweep, memory.

use crate::replica::{Deployment, config, until};
use crate::table::{Aim, Sample};
use crate::{Bench, FLEET};
use backends::{EngineBackend, SimulatedWorld};
use contract::{EngineId, ProductId};
use fleet::spec::{EngineEnv, EngineSpec, Resources, SecurityProfile};
use orchestrator::registry::{DatabaseSettings, Registry};
use std::sync::Arc;
use std::time::{Duration, Instant};
use testbed::postgres::TestDatabase;

/// Rows per statement when the fleet is written.
const PIECE: usize = 1000;

/// Writes the rows of a fleet and makes its objects; the answer is the world.
async fn populate(database: &TestDatabase, count: usize) -> SimulatedWorld {
    let config = config(database, &[]);
    let url = config.database_url.clone().expect("a URL");
    let settings = DatabaseSettings { url, max_connections: 4, application_name: "bench".to_owned() };
    let registry = Registry::connect(settings).expect("a registry");
    registry.migrate("bench").await.expect("migrated");
    let instance = registry.instance().await.expect("an instance");
    let (client, connection) =
        tokio_postgres::connect(&database.url, tokio_postgres::NoTls).await.expect("the database answers");
    let driver = tokio::spawn(connection);
    let keys = orchestrator::keys::EngineKeys::new(config.master_key.clone());
    let (key, _) = orchestrator::keys::new_engine_key();
    let (hash, sealed) = keys.seal(&key);
    let product = client
        .query_one("INSERT INTO products (slug, display_name, api_key_hash) VALUES ('large', 'Large', $1) RETURNING id", &[&"0".repeat(64)])
        .await
        .expect("a product");
    let product: uuid::Uuid = product.get(0);
    let world = SimulatedWorld::new(1);
    world.edit_default(|profile| {
        profile.boot = Duration::ZERO;
        profile.boot_jitter = Duration::ZERO;
    });
    let backend = world.backend(instance.id, Duration::from_secs(30));
    let ids: Vec<EngineId> = (0..count).map(|_| EngineId::generate()).collect();
    for id in &ids {
        backend.ensure_storage(*id, true).await.expect("storage");
        let spec = EngineSpec {
            instance: instance.id,
            engine_id: *id,
            product_id: ProductId::from_uuid(product),
            generation: 1,
            spec_hash: "0123456789abcdef".to_owned(),
            image: "september-engine:bench".to_owned(),
            env: EngineEnv::default(),
            port: None,
            catalog: None,
            resources: Resources { memory_mb: 2048, cpus: 0.0, pids: 512 },
            security: SecurityProfile::Hardened,
        };
        backend.create(&spec).await.expect("an object");
    }
    for (piece, ids) in ids.chunks(PIECE).enumerate() {
        let uuids: Vec<uuid::Uuid> = ids.iter().map(|id| id.uuid()).collect();
        let first = i64::try_from(piece * PIECE).expect("small");
        let engines = "INSERT INTO engines (id, product_id, user_id, status, desired, backend, engine_version, \
             engine_key_hash, engine_key_enc, boot_duration_ms, status_since) \
             SELECT id, $2, 'user-' || (n + $3), 'running', 'running', 'simulated', 'september-engine:bench', $4, $5, 1, \
             now() FROM unnest($1::uuid[]) WITH ORDINALITY AS t(id, n)";
        client.execute(engines, &[&uuids, &product, &first, &hash, &sealed]).await.expect("rows");
        let vitals = "INSERT INTO engine_vitals (engine_id) SELECT unnest($1::uuid[])";
        client.execute(vitals, &[&uuids]).await.expect("rows");
    }
    drop(client);
    driver.abort();
    world
}

fn resident_kib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("our own status");
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches("kB").trim().parse().expect("a number")
}

/// The sum and the count of a histogram with this label.
async fn histogram(deployment: &Deployment, name: &str, label: &str) -> (f64, f64) {
    let url = format!("http://{}/metrics", deployment.replica.internal);
    let _ = rustls::crypto::ring::default_provider().install_default();
    #[allow(clippy::disallowed_methods, reason = "plain HTTP on the loopback")]
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let text = http.get(url).send().await.expect("metrics").text().await.expect("text");
    let read = |suffix: &str| {
        let start = format!("{name}_{suffix}{{");
        let line = text.lines().find(|l| l.starts_with(&start) && l.contains(label));
        line.and_then(|l| l.rsplit(' ').next()).and_then(|n| n.parse().ok()).unwrap_or(0.0)
    };
    (read("sum"), read("count"))
}

/// Boot, sweep and memory.
pub fn measure(bench: &mut Bench) {
    let count = FLEET / bench.less;
    let empty = bench.runtime.block_on(async {
        let deployment = Deployment::simulated(&[]).await;
        let core = Arc::clone(&deployment.replica.core);
        until("an empty fleet is supervised", || core.pulse.is_supervisor()).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        deployment.end().await;
        resident_kib()
    });
    let _ = empty;
    let (database, world) = bench.runtime.block_on(async {
        let database = TestDatabase::durable().await;
        let world = populate(&database, count).await;
        (database, world)
    });
    world.forget_calls();
    let (before, mutations) = (resident_kib(), world.mutating_calls());
    let began = Instant::now();
    let variables = [("ORCH_RECONCILE_INTERVAL_S", "1"), ("ORCH_HEALTH_CHECK_INTERVAL_S", "30")];
    let deployment = bench.runtime.block_on(Deployment::on(database, world.clone(), &variables));
    let serving = began.elapsed();
    let passes = |n: f64| {
        let deployment = &deployment;
        bench.runtime.block_on(async {
            loop {
                let (sum, count) = histogram(deployment, "bap_loop_duration_seconds", "loop=\"plan\"").await;
                if count >= n {
                    return (sum, count);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    };
    let (_, first) = passes(1.0);
    let adopted = began.elapsed();
    let (sum_before, count_before) = passes(first + 2.0);
    let (sum_after, count_after) = passes(count_before + 8.0);
    let sweep = (sum_after - sum_before) / (count_after - count_before) * 1000.0;
    let after = resident_kib();
    let fleet = format!("{count} simulated engines");
    let ms = |span: Duration| Sample::of([span.as_secs_f64() * 1000.0]);
    bench.table.row(&format!("start to first answer, {fleet}"), "ms", &ms(serving), Aim::AtMost(2000.0));
    bench.table.row(
        &format!("start to whole fleet adopted, {fleet}"),
        "ms",
        &ms(adopted),
        Aim::AtMost(2000.0),
    );
    let writes = (world.mutating_calls() - mutations) as f64;
    bench.table.row("mutating backend calls of that start", "", &Sample::of([writes]), Aim::AtMost(0.0));
    bench.table.row(
        &format!("sweep with nothing to do, {fleet}"),
        "ms",
        &Sample::of([sweep]),
        Aim::AtMost(20.0),
    );
    let per_engine = (after - before) / count as f64;
    bench.table.row("resident memory per engine", "KiB", &Sample::of([per_engine]), Aim::AtMost(8.0));
    bench.runtime.block_on(deployment.end());
}
