//! What it costs to bring up an engine, and to bring it back, beyond the engine's own boot.

use crate::replica::Deployment;
use crate::table::{Aim, Sample};
use crate::{Bench, CRASHES, PROVISIONS, release};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Provisions engines one after the other: whole time, boot as measured by the orchestrator, and the rest.
fn provisions(bench: &mut Bench, deployment: &Deployment, key: &str, what: &str, aim: f64) {
    let count = (PROVISIONS / bench.less).max(3);
    let (mut boots, mut rests) = (Vec::new(), Vec::new());
    for n in 0..count {
        let began = Instant::now();
        let path = "/engines/provision";
        let body = json!({"user_id": format!("user-{n}")});
        let answer = bench.runtime.block_on(deployment.call("POST", path, ("x-platform-key", key), body));
        let whole = began.elapsed().as_secs_f64() * 1000.0;
        assert_eq!(answer["status"], "running", "{answer}");
        let boot = bench.runtime.block_on(boot_ms(deployment, key, n));
        boots.push(boot);
        rests.push((whole - boot).max(0.0));
    }
    bench.table.row(&format!("boot of an engine, {what}"), "ms", &Sample::of(boots), Aim::None);
    bench.table.row(
        &format!("provision, {what}: beyond the boot"),
        "ms",
        &Sample::of(rests),
        Aim::AtMost(aim),
    );
}

async fn boot_ms(deployment: &Deployment, key: &str, n: usize) -> f64 {
    let path = format!("/audit?user=user-{n}&action=provision");
    let answer = deployment.call("GET", &path, ("x-platform-key", key), Value::Null).await;
    answer["entries"][0]["metadata"]["boot_ms"].as_f64().unwrap_or_else(|| panic!("{answer}"))
}

async fn destroy_all(deployment: &Deployment, key: &str) {
    let listed = deployment.call("GET", "/engines?limit=1000", ("x-platform-key", key), Value::Null).await;
    for engine in listed["engines"].as_array().into_iter().flatten() {
        let path = format!("/engines/{}", engine["user_id"].as_str().unwrap_or_default());
        deployment.call("DELETE", &path, ("x-platform-key", key), Value::Null).await;
    }
}

/// Real Engines as processes.
pub fn subprocess(bench: &mut Bench) {
    let program = release::september_engine();
    let root = tempfile::tempdir().expect("a directory");
    let variables = [
        ("ORCH_ENGINE_BACKEND", "subprocess"),
        ("ORCH_ENGINE_BINARY", program.to_str().expect("UTF-8")),
        ("ORCH_DATA_ROOT_PATH", root.path().to_str().expect("UTF-8")),
        ("ORCH_ENGINE_ENV_PASSTHROUGH", "LLM_PROVIDER"),
        ("LLM_PROVIDER", "offline"),
    ];
    let deployment = bench.runtime.block_on(Deployment::real(&variables));
    let key = bench.runtime.block_on(deployment.product());
    provisions(bench, &deployment, &key, "process", 30.0);
    bench.runtime.block_on(destroy_all(&deployment, &key));
    bench.runtime.block_on(deployment.end());
}

/// A small stand-in for the Engine in containers: what is measured is what Docker and we add.
pub fn docker(bench: &mut Bench) {
    let Some(daemon) = bench.runtime.block_on(testbed::docker::DockerDaemon::find()) else {
        bench.notes.push("Docker was not measured: there is no daemon.".to_owned());
        return;
    };
    let image = bench.runtime.block_on(daemon.engine_image());
    let host = daemon.host();
    let network = format!("bench-{}", std::process::id());
    let variables = [
        ("ORCH_ENGINE_BACKEND", "docker"),
        ("DOCKER_HOST", host.as_str()),
        ("ORCH_ENGINE_IMAGE", image.as_str()),
        ("ORCH_IMAGE_PULL", "never"),
        ("ORCH_ENGINE_NETWORK", network.as_str()),
        ("ORCH_ENGINE_URL_MODE", "host"),
        ("ORCH_PORT_MIN", "24000"),
        ("ORCH_PORT_MAX", "24200"),
    ];
    let deployment = bench.runtime.block_on(Deployment::real(&variables));
    let key = bench.runtime.block_on(deployment.product());
    provisions(bench, &deployment, &key, "container", 450.0);
    bench.runtime.block_on(destroy_all(&deployment, &key));
    bench.runtime.block_on(deployment.end());
    bench.runtime.block_on(daemon.call("DELETE", &format!("/networks/{network}"), None));
}

/// From `kill -9` of an engine to its answer, with a back-off of 10 ms instead of 5 s.
pub fn crash(bench: &mut Bench) {
    let program = release::september_engine();
    let root = tempfile::tempdir().expect("a directory");
    let variables = [
        ("ORCH_ENGINE_BACKEND", "subprocess"),
        ("ORCH_ENGINE_BINARY", program.to_str().expect("UTF-8")),
        ("ORCH_DATA_ROOT_PATH", root.path().to_str().expect("UTF-8")),
        ("ORCH_ENGINE_ENV_PASSTHROUGH", "LLM_PROVIDER"),
        ("LLM_PROVIDER", "offline"),
        ("ORCH_RESTART_BACKOFF_BASE_S", "0.01"),
        ("ORCH_RESTART_BACKOFF_MAX_S", "0.01"),
        ("ORCH_RESTART_MAX_ATTEMPTS", "1000"),
    ];
    let deployment = bench.runtime.block_on(Deployment::real(&variables));
    let key = bench.runtime.block_on(deployment.product());
    let body = json!({"user_id": "ada"});
    bench.runtime.block_on(deployment.call("POST", "/engines/provision", ("x-platform-key", &key), body));
    let (mut noticed, mut serving) = (Vec::new(), Vec::new());
    for _ in 0..(CRASHES / bench.less).max(3) {
        let pid = pid_in(root.path());
        // Settled: the supervisor has looked at this run.
        bench.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(300)).await });
        let began = Instant::now();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("our own process");
        let status = || bench.runtime.block_on(status(&deployment, &key));
        while status() == "running" {}
        noticed.push(began.elapsed().as_secs_f64() * 1000.0);
        while status() != "running" {}
        serving.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    bench.table.row("crash to failed, process", "ms", &Sample::of(noticed), Aim::AtMost(100.0));
    bench.table.row("crash to serving, process, back-off 10 ms", "ms", &Sample::of(serving), Aim::None);
    bench.runtime.block_on(destroy_all(&deployment, &key));
    bench.runtime.block_on(deployment.end());
}

async fn status(deployment: &Deployment, key: &str) -> String {
    let answer = deployment.call("GET", "/engines/ada", ("x-platform-key", key), Value::Null).await;
    answer["status"].as_str().unwrap_or_default().to_owned()
}

fn pid_in(root: &std::path::Path) -> rustix::process::Pid {
    let mut found = None;
    for dir in std::fs::read_dir(root).expect("the data root").flatten() {
        if let Ok(text) = std::fs::read_to_string(dir.path().join("engine.pid")) {
            let value: Value = serde_json::from_str(&text).expect("JSON");
            found = value["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        }
    }
    found.and_then(rustix::process::Pid::from_raw).expect("an engine runs")
}
