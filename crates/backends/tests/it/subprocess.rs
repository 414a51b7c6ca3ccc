//! Processes of this host: the suite, and what only this place can get wrong.

mod place;

use crate::conformance::{Place, conformance_suite};
use backends::{BackendError, BackendEvent, BackendEventKind, EngineBackend, JobSpec, SubprocessBackend};
use bytes::Bytes;
use fleet::observation::{Object, ObjectState, Observation};
use fleet::spec::EngineSpec;
use futures::{StreamExt, stream};
use place::{CALL, GRACE, SOON, Subprocess, eventually, lives, settings, stat};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

conformance_suite!(Subprocess);

#[tokio::test]
async fn engines_outlive_the_backend_that_started_them() {
    let place = Subprocess::fresh(CALL).await;
    let spec = place.spec(3);
    place.backend.ensure_storage(spec.engine_id, true).await.expect("makes storage");
    let settings = settings(place.instance, &place.binary, place.above.path(), CALL);
    let first = SubprocessBackend::new(settings).expect("opens");
    first.create(&spec).await.expect("creates");
    let before = first.observe(spec.engine_id).await.expect("observes");
    drop(first);
    assert!(before.is_running());
    assert_eq!(place.backend.observe(spec.engine_id).await, Ok(before));
    place.create(&spec).await;
}

/// Starts an engine as somebody else's child, as one is whose orchestrator has died, and writes its record.
async fn start_as_an_orphan(place: &Subprocess, spec: &EngineSpec, write_record: bool) -> (i32, u64) {
    let dir = place.dir(spec.engine_id);
    fs::create_dir_all(&dir).expect("makes it");
    let script = r#"cd "$1" && setsid -f "$0" serve </dev/null >engine.log 2>&1"#;
    let started = Command::new("sh")
        .arg("-c")
        .arg(script)
        .arg(&place.binary)
        .arg(&dir)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("SQLITE_DB_PATH", dir.join("brain.sqlite"))
        .env("ENGINE_HOST", "127.0.0.1")
        .env("ENGINE_PORT", spec.port.expect("has one").to_string())
        .env("BRAIN_GENERATION", spec.generation.to_string())
        .status()
        .expect("sh runs");
    assert!(started.success());
    let pid = eventually("the orphan is there", || {
        fs::read_dir("/proc").expect("is there").flatten().find_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let ours = fs::read_link(entry.path().join("cwd")).ok()? == dir;
            let program = fs::read_link(entry.path().join("exe")).ok()? == place.binary;
            (ours && program).then_some(pid)
        })
    })
    .await;
    let (_, ticks) = stat(pid).expect("it lives");
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("readable");
    let known = if write_record { (pid, ticks) } else { (0, 0) };
    let record = json!({
        "pid": known.0, "start_ticks": known.1, "boot_id": boot_id.trim(), "generation": spec.generation,
        "spec_hash": spec.spec_hash, "instance": spec.instance, "product": spec.product_id, "image": spec.image,
        "port": spec.port, "started_at": contract::Timestamp::now(),
    });
    fs::write(dir.join("engine.pid"), record.to_string()).expect("writes");
    (pid, ticks)
}

#[tokio::test]
async fn an_adopted_engine_is_watched_and_its_exit_code_is_unknown() {
    let place = Subprocess::fresh(CALL).await;
    let spec = place.spec(1);
    let (pid, ticks) = start_as_an_orphan(&place, &spec, true).await;
    let mut events = place.backend.events();
    assert_eq!(events.next().await, Some(BackendEvent { engine: None, kind: BackendEventKind::Gap }));
    let seen = place.backend.observe(spec.engine_id).await.expect("observes");
    assert!(seen.is_running());
    assert_eq!(seen.object().expect("is there").container_id, format!("{pid}@{ticks}"));
    place.signal(spec.engine_id, Signal::KILL);
    let died = BackendEvent { engine: Some(spec.engine_id), kind: BackendEventKind::Die };
    let heard = tokio::time::timeout(SOON, events.next()).await;
    assert_eq!(heard, Ok(Some(died)), "told without having started it");
    assert!(matches!(place.state(spec.engine_id).await, ObjectState::Exited { code: None, .. }));
}

#[tokio::test]
async fn an_adopted_engine_is_stopped_frozen_and_replaced_like_any_other() {
    let place = Subprocess::fresh(CALL).await;
    let spec = place.spec(1);
    let (pid, ticks) = start_as_an_orphan(&place, &spec, true).await;
    place.backend.freeze(spec.engine_id).await.expect("freezes");
    assert_eq!(place.state(spec.engine_id).await, ObjectState::Paused);
    let mut newer = spec.clone();
    newer.generation = 2;
    place.create(&newer).await;
    assert!(!lives(pid, ticks));
    let stopped = place.backend.stop(spec.engine_id, GRACE).await.expect("stops");
    assert_eq!((stopped.killed, stopped.exit_code), (false, Some(0)), "this one is our child");
}

#[tokio::test]
async fn a_process_whose_number_was_never_written_is_found_again() {
    let place = Subprocess::fresh(CALL).await;
    let spec = place.spec(7);
    let (pid, ticks) = start_as_an_orphan(&place, &spec, false).await;
    let seen = place.backend.observe(spec.engine_id).await.expect("observes");
    assert!(seen.is_running(), "{seen}");
    assert_eq!(seen.object().expect("is there").container_id, format!("{pid}@{ticks}"));
    place.backend.destroy(spec.engine_id).await.expect("destroys");
    assert!(!lives(pid, ticks));

    // and when it never came to be, that is an end
    let spec = place.running(1).await;
    place.backend.stop(spec.engine_id, GRACE).await.expect("stops");
    let mut record = place.pid_file(spec.engine_id);
    (record["pid"], record["start_ticks"]) = (json!(0), json!(0));
    fs::write(place.dir(spec.engine_id).join("engine.pid"), record.to_string()).expect("writes");
    assert!(matches!(place.state(spec.engine_id).await, ObjectState::Exited { code: None, .. }));
    place.create(&spec).await;
}

#[tokio::test]
async fn subprocess_never_signals_a_reused_pid() {
    let place = Subprocess::fresh(CALL).await;
    let spec = place.running(1).await;
    let id = spec.engine_id;
    place.backend.stop(id, GRACE).await.expect("stops");
    let mut stranger = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().expect("starts");
    let pid = i32::try_from(stranger.id()).expect("small");
    let (_, ticks) = stat(pid).expect("lives");
    let genuine = place.pid_file(id);
    let write = |pid: i32, ticks: u64, boot: &Value| {
        let mut record = genuine.clone();
        (record["pid"], record["start_ticks"]) = (json!(pid), json!(ticks));
        record["boot_id"] = boot.clone();
        fs::write(place.dir(id).join("engine.pid"), record.to_string()).expect("writes");
    };
    for (ticks, boot) in [(ticks + 1, genuine["boot_id"].clone()), (ticks, json!("another-boot"))] {
        write(pid, ticks, &boot);
        assert!(matches!(place.state(id).await, ObjectState::Exited { code: None, .. }));
        place.backend.stop(id, Duration::ZERO).await.expect("stops");
        place.backend.freeze(id).await.expect("freezes");
        place.backend.remove(id).await.expect("removes");
        write(pid, ticks, &boot);
        let mut newer = spec.clone();
        newer.generation += 1;
        place.create(&newer).await;
        place.backend.stop(id, GRACE).await.expect("stops");
        let (state, _) = stat(pid).expect("lives");
        assert!(!matches!(state, 'Z' | 'T'), "the stranger was signalled: {state}");
    }
    stranger.kill().expect("ends");
    stranger.wait().expect("ends");
}

#[tokio::test]
async fn an_end_of_our_own_child_has_its_code_and_is_told_at_once() {
    let place = Subprocess::fresh(CALL).await;
    let mut spec = place.spec(1);
    spec.env.0.insert("FAKE_CRASH_AFTER_MS".into(), "300".into());
    spec.env.0.insert("FAKE_CRASH_CODE".into(), "4".into());
    let mut events = place.backend.events();
    place.backend.ensure_storage(spec.engine_id, true).await.expect("makes storage");
    place.backend.create(&spec).await.expect("creates");
    let (pid, ticks) = (place.pid(spec.engine_id), place.pid_file(spec.engine_id)["start_ticks"].clone());
    let died = BackendEvent { engine: Some(spec.engine_id), kind: BackendEventKind::Die };
    while tokio::time::timeout(SOON, events.next()).await.expect("in time") != Some(died.clone()) {}
    let Some(Observation::Present(Object { state: ObjectState::Exited { code, at, .. }, .. })) =
        place.backend.observe(spec.engine_id).await.ok()
    else {
        panic!("it has ended");
    };
    assert_eq!((code, at.is_some()), (Some(4), true));
    assert!(stat(pid).is_none_or(|(_, now)| json!(now) != ticks), "no zombie is left");
    assert!(place.backend.tail(spec.engine_id, 5).await.expect("reads").contains("crashing as told"));
}

#[tokio::test]
async fn a_port_somebody_listens_on_is_taken() {
    let place = Subprocess::fresh(CALL).await;
    let spec = place.spec(1);
    let port = spec.port.expect("has one");
    place.backend.ensure_storage(spec.engine_id, true).await.expect("makes storage");
    for address in [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED] {
        let stranger = TcpListener::bind((address, port)).expect("was free");
        assert_eq!(place.backend.create(&spec).await, Err(BackendError::PortTaken(port)));
        drop(stranger);
    }
    assert_eq!(place.backend.observe(spec.engine_id).await, Ok(Observation::Absent), "nothing half is left");
    place.create(&spec).await;
}

#[tokio::test]
async fn an_unreadable_record_is_an_error_and_never_in_the_way_of_destroy() {
    let place = Subprocess::fresh(CALL).await;
    let spec = place.running(1).await;
    let neighbour = place.running(1).await;
    let id = spec.engine_id;
    let (pid, ticks) = (place.pid(id), place.pid_file(id)["start_ticks"].as_u64().expect("a number"));
    for garbage in ["", "{\"pid\":1"] {
        fs::write(place.dir(id).join("engine.pid"), garbage).expect("writes");
        assert!(matches!(place.backend.observe(id).await, Err(BackendError::Refused(_))));
        let list = place.backend.list().await.expect("lists the others");
        assert_eq!(list.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [neighbour.engine_id]);
    }
    place.backend.destroy(id).await.expect("destroys");
    eventually("its process ends", || (!lives(pid, ticks)).then_some(())).await;
    assert_eq!(place.traces(id).await, Vec::<String>::new());
}

#[tokio::test]
async fn links_among_the_backups_are_not_followed() {
    let place = Subprocess::fresh(CALL).await;
    let spec = place.running(1).await;
    let id = spec.engine_id;
    let secret = place.above.path().join("secret");
    fs::write(&secret, "secret").expect("writes");
    let backups = place.dir(id).join("backups");
    fs::create_dir_all(&backups).expect("makes it");
    std::os::unix::fs::symlink(&secret, backups.join("link")).expect("links");
    std::os::unix::fs::symlink(place.above.path(), backups.join("dir")).expect("links");
    for path in ["/data/backups/link", "/data/backups/dir/secret"] {
        assert!(matches!(place.backend.read_file(id, path).await, Err(BackendError::Refused(_))), "{path}");
        let data = stream::iter([Ok(Bytes::from_static(b"changed"))]).boxed();
        // replacing the link itself is as good; what it points to is not touched
        let _ = place.backend.write_file(id, path, data).await;
        let _ = place.backend.remove_file(id, path).await;
    }
    assert_eq!(fs::read_to_string(&secret).expect("is there"), "secret");
    let broken = stream::iter([Ok(Bytes::from_static(b"half")), Err(std::io::Error::other("cut"))]).boxed();
    assert!(place.backend.write_file(id, "/data/backups/new", broken).await.is_err());
    let names: Vec<_> = fs::read_dir(&backups).expect("is there").flatten().map(|e| e.file_name()).collect();
    assert!(!names.iter().any(|n| n.to_string_lossy().contains("part") || n == "new"), "{names:?}");
}

#[tokio::test]
async fn a_job_ends_at_its_deadline_and_keeps_engines_out_until_then() {
    let place = Subprocess::fresh(Duration::from_millis(150)).await;
    let spec = place.spec(1);
    let id = spec.engine_id;
    place.backend.ensure_storage(id, true).await.expect("makes storage");
    let job = JobSpec { engine: spec.clone(), args: vec!["hang".into()] };
    let backend = place.backend.clone();
    let hanging = tokio::spawn(async move { backend.run_job(&job).await });
    let home = place.dir(id);
    let pid = eventually("the job runs", || {
        fs::read_dir("/proc").expect("is there").flatten().find_map(|entry| {
            let ours = fs::read_link(entry.path().join("cwd")).ok()? == home;
            ours.then(|| entry.file_name().to_str().expect("text").to_owned())
        })
    })
    .await;
    let kept_out = place.backend.create(&spec).await;
    assert!(kept_out.as_ref().is_err_and(BackendError::is_transient), "{kept_out:?}");
    let outcome = hanging.await.expect("ends");
    assert_eq!(outcome, Err(BackendError::TimedOut { call: "run_job", limit_ms: 1500 }));
    assert!(!Path::new("/proc").join(&pid).exists(), "killed and reaped");
}

#[tokio::test]
async fn a_tag_without_a_program_is_a_missing_image() {
    let place = Subprocess::fresh(CALL).await;
    let programs = place.above.path().join("programs");
    fs::create_dir(&programs).expect("makes it");
    std::os::unix::fs::symlink(&place.binary, programs.join("engine-1.2.3")).expect("links");
    let mut settings = settings(place.instance, &programs.join("engine-{tag}"), place.above.path(), CALL);
    settings.base_env.clear();
    let backend = SubprocessBackend::new(settings).expect("opens");
    backend.ensure_image("september-engine:1.2.3").await.expect("is there");
    let missing = backend.ensure_image("september-engine:9").await;
    assert!(matches!(missing, Err(BackendError::ImageMissing(_))), "{missing:?}");
    let mut spec = place.spec(1);
    spec.image = "september-engine:9".into();
    backend.ensure_storage(spec.engine_id, true).await.expect("makes storage");
    assert!(matches!(backend.create(&spec).await, Err(BackendError::ImageMissing(_))));
}

#[tokio::test]
async fn another_root_is_another_place() {
    let place = Subprocess::fresh(CALL).await;
    let before = place.backend.ping().await.expect("pings");
    let settings = settings(place.instance, &place.binary, place.above.path(), CALL);
    let again = SubprocessBackend::new(settings.clone()).expect("opens");
    assert_eq!(again.ping().await, Ok(before.clone()), "a restart changes nothing");
    fs::remove_dir_all(place.root()).expect("is there");
    assert!(matches!(again.ping().await, Err(BackendError::Unreachable(_))));
    let replaced = SubprocessBackend::new(settings).expect("opens");
    assert_ne!(replaced.ping().await.expect("pings").id, before.id, "an empty root in its place is noticed");
}
