//! GET /openapi.json: made from the route list, so it cannot drift from what is served.

mod memory;
mod learning;

use super::routes::OPERATIONS;
use axum::response::Response;
use chassis::http::openapi::{self, operation_id, reference};
use contract::engine_api::{
    Activity, ExecuteRequest, Health, HealthStatus, RotateKeyRequest, RotateKeyResponse, SandboxReport,
    SubsystemState, Subsystems,
};
use contract::{ApiError, ErrorCode};
use serde_json::{Map, Value, json};
use std::sync::LazyLock;
use utoipa::{PartialSchema, ToSchema};

/// The whole document, pretty-printed JSON with a line end. Built once: anyone may ask for it, without a key.
pub fn document() -> &'static str {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| openapi::text(&build()));
    &DOCUMENT
}

/// The handler. Every answer shares the same bytes.
pub async fn serve() -> Response {
    openapi::answer(document())
}

fn build() -> Value {
    let mut paths = Map::new();
    for operation in OPERATIONS {
        let item = paths.entry(operation.path).or_insert_with(|| json!({}));
        let mut value = json!({
            "summary": operation.summary,
            "operationId": operation_id(operation.method, operation.path),
            "responses": responses(operation.answer, operation.codes, operation.keyless),
        });
        if operation.keyless {
            value["security"] = json!([]);
        }
        let mut parameters: Vec<Value> = operation
            .parameters
            .iter()
            .map(|(name, place, kind, text)| {
                json!({"name": name, "in": place, "required": false, "schema": {"type": kind}, "description": text})
            })
            .collect();
        let text = json!({"type": "string"});
        for (name, schema) in [("store", &memory::store()), ("id", &text), ("name", &text)] {
            if operation.path.contains(&format!("{{{name}}}")) {
                parameters.push(json!({
                    "name": name, "in": "path", "required": true, "schema": schema,
                    "description": "percent-encoded"
                }));
            }
        }
        if !parameters.is_empty() {
            value["parameters"] = json!(parameters);
        }
        if let Some(body) = operation.body {
            value["requestBody"] = json!({
                "required": !matches!(body, "BackupRequest" | "LearningRun"),
                "content": {"application/json": {"schema": reference(body)}},
            });
        }
        item[operation.method.to_ascii_lowercase()] = value;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "September Engine",
            "version": crate::version::VERSION,
            "description": "One process, one user, one brain. Every error is {\"error\",\"message\",\"details\"?}; \
                `error` is stable. Streams are server-sent events; see docs/reference/events.md.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"engineKey": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"engineKey": {"type": "apiKey", "in": "header", "name": "X-Engine-Key"}},
            "schemas": all_schemas(),
        },
    })
}

fn responses(answer: &str, codes: &[ErrorCode], keyless: bool) -> Value {
    let content = if answer.contains('/') {
        json!({answer: {"schema": {"type": if answer == "application/json" { "object" } else { "string" }}}})
    } else {
        json!({"application/json": {"schema": reference(answer)}})
    };
    let mut all = Map::new();
    all.insert("200".into(), json!({"description": "Success", "content": content}));
    if answer == "Health" {
        all.insert("503".into(), json!({"description": "Not ready; `status` says why", "content": {"application/json": {"schema": reference("Health")}}}));
        all.insert("403".into(), error_answer(&[ErrorCode::PermissionDenied]));
        return Value::Object(all);
    }
    let common: &[ErrorCode] = if keyless {
        &[ErrorCode::PermissionDenied, ErrorCode::Starting]
    } else {
        &[
            ErrorCode::InvalidRequest,
            ErrorCode::InvalidKey,
            ErrorCode::KeyRotationPending,
            ErrorCode::PermissionDenied,
            ErrorCode::Internal,
            ErrorCode::Starting,
            ErrorCode::MigrationRequired,
            ErrorCode::BrainLocked,
        ]
    };
    let every: Vec<ErrorCode> = common.iter().chain(codes).copied().collect();
    let mut statuses: Vec<u16> = every.iter().map(|c| c.status()).collect();
    statuses.sort_unstable();
    statuses.dedup();
    for status in statuses {
        let names: Vec<ErrorCode> = every.iter().copied().filter(|c| c.status() == status).collect();
        all.insert(status.to_string(), error_answer(&names));
    }
    Value::Object(all)
}

fn error_answer(codes: &[ErrorCode]) -> Value {
    let names: Vec<&str> = codes.iter().map(|c| c.as_str()).collect();
    json!({
        "description": names.join(", "),
        "content": {"application/json": {"schema": reference("ApiError")}},
    })
}

fn schema_of<T: ToSchema + PartialSchema>() -> Value {
    serde_json::to_value(T::schema()).expect("a schema always serialises")
}

fn list_of(name: &str, item: Value) -> Value {
    json!({
        "type": "object",
        "properties": {name: {"type": "array", "items": item}, "next_cursor": {"type": ["string", "null"]}},
        "required": [name, "next_cursor"],
    })
}

fn object(properties: Value, required: &[&str]) -> Value {
    json!({"type": "object", "properties": properties, "required": required})
}

fn all_schemas() -> Value {
    let mut all = schemas();
    if let Some(map) = all.as_object_mut() {
        map.extend(catalog_schemas());
        map.extend(memory::schemas());
        map.extend(learning::schemas());
        if let Value::Object(assets) = asset_schemas() {
            map.extend(assets);
        }
    }
    all
}

/// Schemas of /assets.
fn asset_schemas() -> Value {
    let text = json!({"type": "string"});
    let number = json!({"type": "integer"});
    let time = json!({"type": "string", "format": "date-time"});
    let maybe = |value: &Value| json!({"anyOf": [value, {"type": "null"}]});
    json!({
        "ServerList": json!({"type": "array", "items": object(
            json!({"server_name": text, "display_name": text, "transport": {"type": "string", "enum": ["http", "sse", "stdio"]}, "auth_method": {"type": "string", "enum": ["oauth", "static", "none"]}, "status": {"type": "string", "enum": ["available", "unavailable"]}}),
            &["server_name", "display_name", "transport", "auth_method", "status"],
        )}),
        "ConnectionList": json!({"type": "array", "items": object(
            json!({"ref_id": text, "server_name": text, "status": {"type": "string", "enum": ["pending_oauth", "connected", "expired", "error"]}, "scopes": {"type": "array", "items": text}, "expires_at": maybe(&time), "tools": number, "last_error": maybe(&text), "left_out": {"type": "array", "maxItems": 20, "description": "tools of its last listing that cannot be offered", "items": object(json!({"tool": text, "reason": text}), &["tool", "reason"])}}),
            &["ref_id", "server_name", "status", "scopes", "expires_at", "tools", "last_error", "left_out"],
        )}),
        "ConnectRequest": object(
            json!({"server_name": text, "server_config": {"anyOf": [{"type": "object", "description": "api_key, headers, client_id, client_secret, scopes, or a whole server entry"}, {"type": "null"}]}}),
            &["server_name"],
        ),
        "ConnectResponse": object(
            json!({"ref_id": text, "status": {"type": "string", "enum": ["connected", "pending_oauth"]}, "auth_url": {"type": "string", "format": "uri"}}),
            &["ref_id", "status"],
        ),
        "CallbackRequest": object(json!({"code": text, "state": text, "iss": text}), &["code", "state"]),
        "OauthClientDocument": object(
            json!({
                "client_id": text, "client_name": text,
                "redirect_uris": {"type": "array", "items": text},
                "grant_types": {"type": "array", "items": text},
                "response_types": {"type": "array", "items": text},
                "token_endpoint_auth_method": text, "application_type": text,
            }),
            &["client_id", "client_name", "redirect_uris", "token_endpoint_auth_method"],
        ),
        "ConnectionDeleted": object(json!({"status": text, "ref_id": text}), &["status", "ref_id"]),
    })
}

/// Schemas of /rpc, /skills and /admin/reload-catalog.
fn catalog_schemas() -> Map<String, Value> {
    let text = json!({"type": "string"});
    let number = json!({"type": "integer"});
    let texts = json!({"type": "array", "items": text});
    let source = json!({"type": "string", "enum": ["platform", "custom"]});
    let scripts =
        json!({"type": "object", "additionalProperties": text, "description": "contents by file name"});
    let prompt = json!({"anyOf": [text, {"type": "null"}]});
    let line = json!({
        "name": text, "description": text, "source": source, "category": text,
        "confidence": {"type": "number"},
    });
    let skill = json!({
        "name": text, "description": text, "category": text, "prompt_template": prompt,
        "scripts": scripts, "capabilities": texts, "source": source,
    });
    let sent = json!({
        "name": {"type": "string", "pattern": "^[a-z0-9]+(-[a-z0-9]+)*$", "maxLength": 64},
        "description": text, "category": text,
        "prompt": {"type": "string", "description": "required without scripts; accepted as prompt_template, too"},
        "capabilities": texts, "scripts": scripts,
    });
    let changed = json!({
        "description": text, "category": text, "prompt": text, "capabilities": texts, "scripts": scripts,
    });
    let method = json!({"type": "string", "description": "skill.<name>, tool.<name>, or memory.knowledge_search, memory.episodes_search, memory.social_search, memory.stats"});
    let error = object(json!({"file": text, "message": text}), &["file", "message"]);
    let reloaded = json!({
        "status": text, "agents": number, "tools": number, "skills": number, "servers": number,
        "errors": {"type": "array", "items": error},
    });
    let open = json!({"type": "object"});
    let shown = ["name", "description", "category", "prompt_template", "scripts", "capabilities", "source"];
    let lines = object(line, &["name", "description", "source", "category", "confidence"]);
    [
        ("RpcRequest", object(json!({"method": method, "params": open}), &["method", "params"])),
        ("RpcResult", object(json!({"result": open}), &["result"])),
        ("SkillList", json!({"type": "array", "items": lines})),
        ("Skill", object(skill, &shown)),
        ("SkillCreate", object(sent, &["name"])),
        ("SkillChange", object(changed, &[])),
        ("SkillDeleted", object(json!({"status": text, "name": text}), &["status", "name"])),
        ("CatalogReloaded", object(reloaded, &["status", "agents", "tools", "skills", "servers", "errors"])),
    ]
    .into_iter()
    .map(|(name, schema)| (name.to_owned(), schema))
    .collect()
}

fn schemas() -> Value {
    let text = json!({"type": "string"});
    let number = json!({"type": "integer"});
    let time = json!({"type": "string", "format": "date-time"});
    let open = json!({"type": "object"});
    let maybe = |value: &Value| json!({"anyOf": [value, {"type": "null"}]});
    let usage =
        json!({"calls": number, "input_tokens": number, "output_tokens": number, "cache_hit_tokens": number});
    let last_turn = object(
        json!({"turn_id": text, "state": text, "stop_reason": maybe(&text), "error": maybe(&text), "started_at": maybe(&time), "ended_at": maybe(&time)}),
        &["turn_id", "state"],
    );
    let task = json!({
        "task_id": text, "title": text, "agent": text,
        "status": {"type": "string", "enum": ["idle", "queued", "running", "paused"]},
        "message_count": number, "turn_count": number, "created_at": time, "updated_at": time,
        "last_turn": maybe(&last_turn),
    });
    let mut detail = task.clone();
    for (name, value) in [
        ("usage", open.clone()),
        ("pending", json!({"type": "array", "items": reference("HitlQuestion")})),
        ("working_memory", json!({"type": "array", "items": open})),
        ("plan", maybe(&open)),
        ("last_event_id", number.clone()),
    ] {
        detail[name] = value;
    }
    let task_required = [
        "task_id",
        "title",
        "agent",
        "status",
        "message_count",
        "turn_count",
        "created_at",
        "updated_at",
        "last_turn",
    ];
    json!({
        "ApiError": schema_of::<ApiError>(),
        "ErrorCode": schema_of::<ErrorCode>(),
        "ExecuteRequest": schema_of::<ExecuteRequest>(),
        "Health": schema_of::<Health>(),
        "HealthStatus": schema_of::<HealthStatus>(),
        "Subsystems": schema_of::<Subsystems>(),
        "SubsystemState": schema_of::<SubsystemState>(),
        "Activity": schema_of::<Activity>(),
        "SandboxReport": schema_of::<SandboxReport>(),
        "Timestamp": time,
        "RotateKeyRequest": schema_of::<RotateKeyRequest>(),
        "RotateKeyResponse": schema_of::<RotateKeyResponse>(),
        "CancelRequest": object(json!({"task_id": text, "turn_id": maybe(&text)}), &["task_id"]),
        "CancelResponse": object(json!({"status": {"type": "string", "enum": ["cancelling", "idle"]}, "task_id": text, "turn_id": maybe(&text)}), &["status", "task_id", "turn_id"]),
        "TaskList": list_of("tasks", object(task, &task_required)),
        "TaskDetail": object(detail, &task_required),
        "TaskDeleted": object(json!({"status": text, "task_id": text, "deleted": open}), &["status", "task_id", "deleted"]),
        "MessageList": list_of("messages", object(
            json!({"message_id": text, "turn_id": text, "role": {"type": "string", "enum": ["user", "assistant", "tool"]}, "content": {"type": "array", "items": open}, "status": {"type": "string", "enum": ["active", "superseded"]}, "compacted": {"type": "boolean"}, "created_at": time}),
            &["message_id", "turn_id", "role", "content", "status", "compacted", "created_at"],
        )),
        "HitlQuestion": object(
            json!({"request_id": text, "task_id": text, "turn_id": text, "tool_call_id": text, "kind": {"type": "string", "enum": ["permission", "question"]}, "question": text, "options": {"type": "array", "items": text}, "tool": text, "input": open, "reason": text, "rule": text, "created_at": time, "expires_at": time}),
            &["request_id", "task_id", "turn_id", "kind", "question", "options", "created_at", "expires_at"],
        ),
        "HitlPending": object(json!({"pending": {"type": "array", "items": reference("HitlQuestion")}}), &["pending"]),
        "HitlAnswer": object(
            json!({"request_id": text, "task_id": text, "answer": {"type": "string", "description": "permission: yes, no or always; question: free text"}, "feedback": text, "content_blocks": {"type": "array", "items": open}}),
            &["answer"],
        ),
        "HitlResumed": object(json!({"status": text, "request_id": text}), &["status", "request_id"]),
        "PermissionList": list_of("permissions", object(json!({"id": text, "task_id": text, "tool": text, "rule": text, "request_id": text, "created_at": time}), &["id", "task_id", "tool", "rule", "request_id", "created_at"])),
        "PermissionRevoked": object(json!({"status": text, "id": text}), &["status", "id"]),
        "AgentList": list_of("agents", object(json!({"name": text, "description": text, "model": text, "tools": {"type": "array", "items": text}, "skills": {"type": "array", "items": text}, "default": {"type": "boolean"}, "source": text}), &["name", "description", "model", "tools", "default", "source"])),
        "ToolList": list_of("tools", object(json!({"name": text, "description": text, "input_schema": open, "kind": text, "effect": {"type": "string", "enum": ["read-only", "idempotent", "once"]}, "requires_permission": {"type": "boolean"}, "available": {"type": "boolean"}}), &["name", "description", "input_schema", "kind", "effect", "requires_permission", "available"])),
        "UsageReport": object(json!({"from": time, "to": time, "groups": {"type": "array", "items": open}, "total": object(usage, &["calls"])}), &["from", "to", "groups", "total"]),
        "Version": object(json!({"name": text, "version": text, "commit": text, "built_at": text, "schema_version": number, "sqlite_version": text, "embedding": object(json!({"provider": text, "model": text, "dim": number}), &["provider", "model", "dim"])}), &["name", "version", "commit", "built_at", "schema_version", "sqlite_version", "embedding"]),
        "BackupRequest": object(json!({"name": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,100}$"}}), &[]),
        "BackupResponse": object(json!({"status": text, "path": text, "size_bytes": number, "schema_version": number, "verified": {"type": "boolean"}}), &["status", "path", "size_bytes", "schema_version", "verified"]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_document_is_built_once_and_every_answer_shares_its_bytes() {
        for _ in 0..2 {
            let body = axum::body::to_bytes(serve().await.into_body(), usize::MAX).await.expect("a body");
            assert_eq!((body.as_ptr(), body.len()), (document().as_ptr(), document().len()));
        }
    }

    #[test]
    fn every_reference_in_the_document_has_a_target() {
        fn walk(value: &Value, known: &Map<String, Value>) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(target)) = map.get("$ref") {
                        let name = target.trim_start_matches("#/components/schemas/");
                        assert!(known.contains_key(name), "{target} has no target");
                    }
                    map.values().for_each(|v| walk(v, known));
                }
                Value::Array(items) => items.iter().for_each(|v| walk(v, known)),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
        let document = build();
        let known = document["components"]["schemas"].as_object().expect("schemas").clone();
        walk(&document, &known);
    }
}
