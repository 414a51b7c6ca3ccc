//! The specification of an object: environment, labels, hash, drift.

use contract::{EngineId, InstanceId, ProductId};
use fleet::observation::{Object, ObjectState};
use fleet::spec::{
    EngineEnv, EngineSpec, Mount, PassthroughProblem, RESERVED_ENV, Resources, SecurityProfile, Shape,
    check_passthrough, drift, drift_fields, env_of, job_labels, labels, spec_hash,
};
use std::collections::BTreeMap;
use std::time::Duration;

const KEY_HASH: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

fn passed(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn env(pairs: &[(&str, &str)]) -> EngineEnv {
    env_of(KEY_HASH, 4, Duration::from_secs(30), &passed(pairs))
}

#[test]
fn inspect_shows_only_the_contract() {
    let names: Vec<(String, String)> = env(&[("LLM_MODEL", "m")]).0.into_iter().collect();
    let expected = [
        ("BRAIN_GENERATION", "4"),
        ("CATALOG_DIR", "/catalog"),
        ("ENGINE_DRAIN_TIMEOUT_S", "25"),
        ("ENGINE_KEY_HASH", KEY_HASH),
        ("LLM_MODEL", "m"),
        ("SQLITE_DB_PATH", "/data/brain.sqlite"),
    ];
    assert_eq!(names, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

#[test]
fn the_engine_drains_within_the_grace_unless_it_was_told_otherwise() {
    let drain = |grace, pairs: &[(&str, &str)]| {
        let env = env_of(KEY_HASH, 1, Duration::from_secs(grace), &passed(pairs));
        env.0["ENGINE_DRAIN_TIMEOUT_S"].clone()
    };
    assert_eq!([drain(30, &[]), drain(6, &[]), drain(5, &[]), drain(1, &[])], ["25", "1", "1", "1"]);
    assert_eq!(drain(30, &[("ENGINE_DRAIN_TIMEOUT_S", "7")]), "7");
}

#[test]
fn passthrough_refuses_reserved_names() {
    for &name in RESERVED_ENV {
        assert_eq!(check_passthrough(name), Err(PassthroughProblem::Reserved), "{name}");
    }
    for name in ["ORCH_MASTER_KEY", "ORCH_X", "LD_PRELOAD", "PATH", "HOME"] {
        assert_eq!(check_passthrough(name), Err(PassthroughProblem::Foreign), "{name}");
    }
    for name in ["", "1A", "A-B", "A B", "Ä", "A="] {
        assert_eq!(check_passthrough(name), Err(PassthroughProblem::NotAName), "{name:?}");
    }
    for name in ["LLM_API_KEY", "_x", "MIGRATIONS", "PATHS", "ENGINE_DRAIN_TIMEOUT_S"] {
        assert_eq!(check_passthrough(name), Ok(()), "{name}");
    }
    let sneaked = env(&[("ENGINE_KEY_HASH", "mine"), ("LD_PRELOAD", "x"), ("BRAIN_GENERATION", "99")]);
    assert_eq!(sneaked, env(&[]), "even unchecked names never win");
}

#[test]
fn debug_of_an_environment_shows_names_only() {
    let text = format!("{:?}", env(&[("LLM_API_KEY", "very-secret")]));
    assert!(
        text.contains("LLM_API_KEY") && !text.contains("very-secret") && !text.contains(KEY_HASH),
        "{text}"
    );
}

fn spec() -> EngineSpec {
    EngineSpec {
        instance: InstanceId::parse("00000000-0000-4000-8000-000000000001").expect("a UUID"),
        engine_id: EngineId::parse("3f2a9c1e-7b40-4c58-9d1a-0a6f5f0f2b11").expect("a UUID"),
        product_id: ProductId::parse("00000000-0000-4000-8000-000000000002").expect("a UUID"),
        generation: 4,
        spec_hash: "0123456789abcdef".to_owned(),
        image: "september-engine:2.3.0".to_owned(),
        env: env(&[]),
        port: Some(9001),
        catalog: None,
        resources: Resources { memory_mb: 2048, cpus: 0.0, pids: 512 },
        security: SecurityProfile::Hardened,
    }
}

#[test]
fn labels_name_ids_and_never_a_user() {
    let expected = [
        ("bap-engine/engine-id", "3f2a9c1e-7b40-4c58-9d1a-0a6f5f0f2b11"),
        ("bap-engine/generation", "4"),
        ("bap-engine/instance", "00000000-0000-4000-8000-000000000001"),
        ("bap-engine/product-id", "00000000-0000-4000-8000-000000000002"),
        ("bap-engine/role", "engine"),
        ("bap-engine/spec-hash", "0123456789abcdef"),
    ];
    assert_eq!(labels(&spec()), passed(&expected));
    assert_eq!(job_labels(&spec())["bap-engine/role"], "job");
}

fn hash(change: impl FnOnce(&mut Made)) -> String {
    let mut made = Made {
        salt: vec![7; 32],
        image: "september-engine:2.3.0".to_owned(),
        env: env(&[("LLM_API_KEY", "k")]),
        mounts: vec![
            Mount { source: "/srv/1".to_owned(), target: "/data".to_owned(), read_only: false },
            Mount { source: "/srv/c".to_owned(), target: "/catalog".to_owned(), read_only: true },
        ],
        network: Some("engine_net".to_owned()),
        port: Some(9001),
        resources: Resources { memory_mb: 2048, cpus: 0.0, pids: 512 },
        security: SecurityProfile::Hardened,
    };
    change(&mut made);
    spec_hash(
        &made.salt,
        &Shape {
            image: &made.image,
            env: &made.env,
            mounts: &made.mounts,
            network: made.network.as_deref(),
            port: made.port,
            resources: &made.resources,
            security: made.security,
        },
    )
}

struct Made {
    salt: Vec<u8>,
    image: String,
    env: EngineEnv,
    mounts: Vec<Mount>,
    network: Option<String>,
    port: Option<u16>,
    resources: Resources,
    security: SecurityProfile,
}

#[test]
fn key_and_generation_do_not_change_the_hash_and_everything_else_does() {
    let same = hash(|_| {});
    assert_eq!(same.len(), 16);
    assert!(same.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
    assert_eq!(
        hash(|m| m.env = env_of("00", 99, Duration::from_secs(30), &passed(&[("LLM_API_KEY", "k")]))),
        same
    );
    assert_eq!(hash(|m| m.mounts.reverse()), same, "the order of mounts is no shape");
    type Change = (&'static str, fn(&mut Made));
    let changes: [Change; 9] = [
        ("salt", |m| m.salt[0] = 8),
        ("image", |m| m.image.push('1')),
        ("env value", |m| m.env = env(&[("LLM_API_KEY", "l")])),
        ("env name", |m| m.env = env(&[("LLM_API_KEY", "k"), ("A", "")])),
        ("mount", |m| m.mounts[0].read_only = true),
        ("network", |m| m.network = None),
        ("port", |m| m.port = Some(9002)),
        ("limits", |m| m.resources.cpus = 0.5),
        ("security", |m| m.security = SecurityProfile::Nested),
    ];
    let mut hashes: Vec<String> = changes.iter().map(|(_, change)| hash(change)).collect();
    for (name, change) in changes {
        assert!(drift(&same, &hash(change)), "{name}");
    }
    hashes.push(same.clone());
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), 10);
    assert!(!drift(&same, &same));
}

#[test]
fn the_hash_is_the_same_in_every_release() {
    // Computed once with another implementation of HMAC-SHA256 over the canonical JSON; a change of the canonical
    // form would re-create every engine of every deployment at its next start.
    let shape_env = EngineEnv(passed(&[("A", "1"), ("ENGINE_KEY_HASH", "x"), ("BRAIN_GENERATION", "1")]));
    let mounts = [Mount { source: "s".to_owned(), target: "/data".to_owned(), read_only: false }];
    let shape = Shape {
        image: "i:1",
        env: &shape_env,
        mounts: &mounts,
        network: None,
        port: Some(9001),
        resources: &Resources { memory_mb: 256, cpus: 0.5, pids: 64 },
        security: SecurityProfile::Hardened,
    };
    assert_eq!(spec_hash(b"salt", &shape), "7548fcd18fec2491");
}

#[test]
fn drift_names_what_is_visible() {
    let object = Object {
        state: ObjectState::Paused,
        generation: 1,
        spec_hash: "a".to_owned(),
        image: "i:1".to_owned(),
        container_id: String::new(),
        created_at: None,
    };
    assert_eq!(drift_fields(&object, "i:1", "a"), Vec::<&str>::new());
    assert_eq!(drift_fields(&object, "i:1", "b"), ["spec_hash"]);
    assert_eq!(drift_fields(&object, "i:2", "b"), ["image", "spec_hash"]);
}
