//! The registry on a real PostgreSQL: the stage all its tests stand on.
//!
//! Every test gets a database of its own, copied from one that the program's own migrations made.

use contract::{EngineId, OperationId, ProductId, ReplicaId, Slug, UserId};
use fleet::audit::AuditAction;
use fleet::lifecycle::{BackendKind, Desired, Status};
use fleet::operation::{OperationKind, Step};
use orchestrator::registry::{
    AuditEntry, Change, DatabaseSettings, Engine, EnginePatch, Finish, NewOperation, Open, OpenOutcome,
    Operation, Outcome, Product, Registry, Reserve, ReserveOutcome, SealedKey, migrate::MIGRATIONS,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use testbed::postgres::{TestDatabase, Version};
use tokio_postgres::{Client, NoTls};

pub const LEASE: Duration = Duration::from_secs(15);

/// A migrated database and a registry on it.
pub struct Stage {
    pub registry: Registry,
    pub url: String,
    _database: Option<TestDatabase>,
}

pub fn settings(url: &str, max_connections: usize) -> DatabaseSettings {
    DatabaseSettings {
        url: chassis::config::Secret::new(url),
        max_connections,
        application_name: "bap-engine-test".to_owned(),
    }
}

pub fn connect(url: &str, max_connections: usize) -> Registry {
    Registry::connect(settings(url, max_connections)).expect("the URL is good")
}

impl Stage {
    pub async fn set() -> Self {
        Self::set_on(Version::V18).await
    }

    pub async fn set_on(version: Version) -> Self {
        let checksums: String = MIGRATIONS.iter().map(|m| m.checksum()[..8].to_owned()).collect();
        let template = format!("registry_{checksums}");
        let database = TestDatabase::cloned(version, &template, async |url| {
            connect(&url, 1).migrate("test").await.expect("an empty database can be migrated");
        })
        .await;
        let url = database.url.clone();
        Self { registry: connect(&url, 8), url, _database: Some(database) }
    }

    /// On a server of the test's own.
    pub async fn at(url: String) -> Self {
        let registry = connect(&url, 8);
        registry.migrate("test").await.expect("an empty database can be migrated");
        Self { registry, url, _database: None }
    }

    /// Another replica: a pool of its own.
    pub fn replica(&self, max_connections: usize) -> Registry {
        connect(&self.url, max_connections)
    }

    /// A connection for what no program should do.
    pub async fn sql(&self) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.url, NoTls).await.expect("a connection");
        tokio::spawn(connection);
        client
    }

    pub async fn product(&self, slug: &str, policy: Value) -> Product {
        let hash = hash_of(slug);
        let entry = entry(AuditAction::PolicyRegister, json!({"slug": slug, "policy": policy}));
        self.registry
            .register(&Slug::parse(slug).expect("a slug"), "A product", &hash, &policy, entry)
            .await
            .expect("registers")
            .expect("the slug is free")
    }

    /// An engine in state provisioning, with its operation.
    pub async fn engine(&self, product: ProductId, user: &str) -> (Engine, Operation) {
        match self.registry.reserve(&wish(product, user)).await.expect("reserves") {
            ReserveOutcome::Reserved(both) => *both,
            other => panic!("{user}: {other:?}"),
        }
    }

    /// A running engine without an operation.
    pub async fn running(&self, product: ProductId, user: &str) -> Engine {
        let (engine, operation) = self.engine(product, user).await;
        let me = ReplicaId::generate();
        let claim =
            self.registry.claim(operation.id, me, LEASE).await.expect("claims").expect("is free").claim;
        let mut finish = finish(&operation, claim, &engine);
        finish.patch = EnginePatch {
            status: Some(Status::Running),
            boot_duration_ms: Some(412),
            ..EnginePatch::default()
        };
        finish.count_provision = true;
        finish.audit = vec![about(&engine, AuditAction::Provision, json!({"boot_ms": 412, "to": "running"}))];
        finish.timings = BTreeMap::from([("boot".to_owned(), 412)]);
        match self.registry.finish(&finish).await.expect("finishes") {
            Outcome::Changed(Some(engine)) => engine,
            other => panic!("{other:?}"),
        }
    }

    pub async fn reread(&self, engine: &Engine) -> orchestrator::registry::Found {
        self.registry.found(engine.id).await.expect("reads").expect("exists")
    }

    pub async fn count(&self, sql: &str) -> i64 {
        self.sql().await.query_one(sql, &[]).await.expect(sql).get(0)
    }
}

pub fn user(name: &str) -> UserId {
    UserId::parse(name).expect("a user name")
}

/// 64 hex digits that stand for a key.
pub fn hash_of(text: &str) -> String {
    let mut hex: String = text.bytes().map(|b| format!("{b:02x}")).collect();
    hex.truncate(64);
    format!("{hex:0<64}")
}

pub fn key(text: &str) -> SealedKey {
    SealedKey { hash: hash_of(text), sealed: format!("sealed-{text}") }
}

pub fn new_operation(kind: OperationKind) -> NewOperation {
    NewOperation {
        id: OperationId::generate(),
        kind,
        step: kind.steps().first().copied().unwrap_or(Step::Open),
        params: json!({}),
        actor: "demo".to_owned(),
        request_id: Some("req-1".to_owned()),
        owner: None,
    }
}

pub fn wish(product: ProductId, name: &str) -> Reserve {
    Reserve {
        engine_id: EngineId::generate(),
        product_id: product,
        user_id: user(name),
        backend: BackendKind::Simulated,
        engine_version: "september-engine:1".to_owned(),
        key: key("engine"),
        ports: Some((9001, 9999)),
        operation: NewOperation { step: Step::Pull, ..new_operation(OperationKind::Provision) },
        idempotency: None,
    }
}

pub fn entry(action: AuditAction, metadata: Value) -> AuditEntry {
    AuditEntry {
        started_at: None,
        product_id: None,
        user_id: None,
        engine_id: None,
        action,
        actor: "admin".to_owned(),
        metadata,
        has_duration: false,
    }
}

pub fn about(engine: &Engine, action: AuditAction, metadata: Value) -> AuditEntry {
    AuditEntry {
        product_id: Some(engine.product_id),
        user_id: Some(engine.user_id.clone()),
        engine_id: Some(engine.id),
        actor: "system".to_owned(),
        ..entry(action, metadata)
    }
}

/// The end of an operation that changes nothing yet.
pub fn finish(operation: &Operation, claim: i64, engine: &Engine) -> Finish {
    Finish {
        operation: operation.id,
        claim,
        succeeded: true,
        error: None,
        params: None,
        timings: BTreeMap::new(),
        engine_id: engine.id,
        revision: engine.revision,
        patch: EnginePatch::default(),
        delete_engine: false,
        count_provision: false,
        count_destroy: false,
        audit: Vec::new(),
    }
}

pub fn change(engine: &Engine, patch: EnginePatch) -> Change {
    Change {
        engine_id: engine.id,
        revision: engine.revision,
        only_without_operation: true,
        patch,
        audit: Vec::new(),
    }
}

pub fn desire(desired: Desired) -> EnginePatch {
    EnginePatch { desired: Some(desired), ..EnginePatch::default() }
}

pub fn open(engine: &Engine, kind: OperationKind, desired: Desired) -> Open {
    Open {
        engine_id: engine.id,
        revision: engine.revision,
        patch: desire(desired),
        operation: new_operation(kind),
        supersede: None,
        fence: None,
        backend: None,
        audit: Vec::new(),
    }
}

pub fn opened(outcome: OpenOutcome) -> (Engine, Operation) {
    match outcome {
        OpenOutcome::Opened(both) => *both,
        other => panic!("not opened: {other:?}"),
    }
}

pub fn changed<T: std::fmt::Debug>(outcome: Outcome<T>) -> T {
    match outcome {
        Outcome::Changed(value) => value,
        other => panic!("not changed: {other:?}"),
    }
}
