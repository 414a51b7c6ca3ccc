//! GET /openapi.json: made from the route list and the wire types, so it cannot drift from what is served.

use super::routes::{Auth, OPERATIONS, Operation};
use axum::response::Response;
use chassis::http::openapi::{self, operation_id, reference};
use contract::FleetCode;
use contract::fleet_api as wire;
use serde_json::{Map, Value, json};
use std::sync::LazyLock;
use utoipa::{PartialSchema, ToSchema};

/// The whole document, pretty-printed JSON with a line end.
pub fn document() -> &'static str {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| openapi::text(&build()));
    &DOCUMENT
}

/// The handler.
pub async fn serve() -> Response {
    openapi::answer(document())
}

fn build() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for operation in OPERATIONS {
        let item = paths.entry(operation.path).or_insert_with(|| json!({}));
        item[operation.method.to_ascii_lowercase()] = described(operation);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "bap-engine",
            "version": crate::version::VERSION,
            "description": "The orchestrator: one Engine per user, found, admitted and kept alive. Every error is \
                {\"error\":{\"code\",\"message\",\"details\"?}}; `code` is stable. Engines are called directly, with \
                the URL and the key that admit hands out.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "securitySchemes": {
                "platformKey": {"type": "apiKey", "in": "header", "name": "X-Platform-Key"},
                "adminKey": {"type": "apiKey", "in": "header", "name": "X-Admin-Key"},
            },
            "schemas": schemas(),
        },
    })
}

fn described(operation: &Operation) -> Value {
    let mut value = json!({
        "operationId": operation_id(operation.method, operation.path),
        "summary": operation.summary,
        "tags": [tag(operation.path)],
        "security": security(operation.auth),
        "responses": responses(operation),
    });
    let mut parameters: Vec<Value> = Vec::new();
    for name in ["user_id", "product"].into_iter().filter(|n| operation.path.contains(&format!("{{{n}}}"))) {
        let meaning = if name == "user_id" { "1..256 bytes, percent-encoded" } else { "product id or slug" };
        parameters.push(json!({
            "name": name, "in": "path", "required": true, "schema": {"type": "string"}, "description": meaning,
        }));
    }
    parameters.extend(operation.parameters.iter().map(|(name, place, kind, meaning)| {
        json!({"name": name, "in": place, "required": false, "schema": {"type": kind}, "description": meaning})
    }));
    if !parameters.is_empty() {
        value["parameters"] = json!(parameters);
    }
    if let Some(body) = operation.body {
        let optional = matches!(body, "AdmitRequest" | "RotatePlatformKeyRequest");
        value["requestBody"] = json!({
            "required": !optional,
            "content": {"application/json": {"schema": reference(body)}},
        });
    }
    value
}

fn tag(path: &str) -> &'static str {
    match path.split('/').nth(1) {
        Some("engines") => "engines",
        Some("products") => "products",
        Some("status" | "metrics" | "audit") => "fleet",
        _ => "service",
    }
}

fn security(auth: Auth) -> Value {
    match auth {
        Auth::Nobody => json!([]),
        Auth::Product | Auth::InHandler => json!([{"platformKey": []}]),
        Auth::Admin => json!([{"adminKey": []}]),
        Auth::ProductOrAdmin => json!([{"platformKey": []}, {"adminKey": []}]),
    }
}

/// Codes that every operation of this class may answer, beside its own.
fn common(operation: &Operation) -> Vec<FleetCode> {
    use FleetCode as C;
    let mut codes = vec![C::InvalidRequest, C::PolicyDenied, C::Internal, C::Starting];
    match operation.auth {
        Auth::Nobody => return codes,
        Auth::Product | Auth::InHandler => codes.push(C::InvalidPlatformKey),
        Auth::Admin => codes.push(C::InvalidAdminKey),
        Auth::ProductOrAdmin => codes.extend([C::InvalidPlatformKey, C::InvalidAdminKey]),
    }
    codes.push(C::DatabaseUnavailable);
    if operation.changes {
        codes.extend([C::Draining, C::ReadOnly]);
    }
    codes
}

fn responses(operation: &Operation) -> Value {
    let answer = operation.answer;
    let content = match answer {
        "application/json" => json!({answer: {"schema": {"type": "object"}}}),
        media if media.contains('/') => json!({media: {"schema": {"type": "string"}}}),
        name => json!({"application/json": {"schema": reference(name)}}),
    };
    let mut all = Map::new();
    all.insert("200".into(), json!({"description": "Success", "content": content}));
    if answer == "HealthResponse" {
        all.insert("503".into(), json!({"description": "Not ready; `status` says why", "content": content}));
        return Value::Object(all);
    }
    let mut codes = common(operation);
    codes.extend(operation.codes);
    codes.sort_unstable();
    codes.dedup();
    let mut statuses: Vec<u16> = codes.iter().map(|c| c.status()).collect();
    statuses.sort_unstable();
    statuses.dedup();
    for status in statuses {
        let names: Vec<&str> = codes.iter().filter(|c| c.status() == status).map(|c| c.as_str()).collect();
        let content = json!({"application/json": {"schema": reference("ErrorBody")}});
        all.insert(status.to_string(), json!({"description": names.join(", "), "content": content}));
    }
    Value::Object(all)
}

fn schema_of<T: ToSchema + PartialSchema>(all: &mut Map<String, Value>) {
    let schema = serde_json::to_value(T::schema()).expect("a schema always serialises");
    all.insert(T::name().into_owned(), schema);
}

macro_rules! schemas_of {
    ($($kind:ty),* $(,)?) => {{
        let mut all = Map::new();
        $(schema_of::<$kind>(&mut all);)*
        all
    }};
}

fn schemas() -> Map<String, Value> {
    schemas_of![
        wire::ErrorBody,
        wire::ErrorFields,
        FleetCode,
        wire::IssuedKey,
        wire::EngineRecord,
        wire::ProvisionRequest,
        wire::ProvisionResponse,
        wire::AdmitRequest,
        wire::AdmitResponse,
        wire::AdmitRefusal,
        wire::StartResponse,
        wire::StopResponse,
        wire::SleepResponse,
        wire::RotateKeyResponse,
        wire::DestroyResponse,
        wire::ExplainResponse,
        wire::ExplainReason,
        wire::ExplainHealth,
        wire::ExplainSleep,
        wire::ExplainBackend,
        wire::ExplainAdmission,
        wire::EngineList,
        wire::StatusResponse,
        wire::StatusCounts,
        wire::FleetHealth,
        wire::MetricsResponse,
        wire::AuditPage,
        wire::AuditRecord,
        wire::RegisterRequest,
        wire::RegisterResponse,
        wire::PolicyDocument,
        wire::ProductList,
        wire::ProductRecord,
        wire::ProductDetail,
        wire::DeleteProductResponse,
        wire::RotatePlatformKeyRequest,
        wire::RotatePlatformKeyResponse,
        wire::HealthResponse,
        wire::HealthWord,
        wire::HealthParts,
        wire::PartState,
        contract::EngineId,
        contract::ProductId,
        contract::UserId,
        contract::Slug,
        contract::Timestamp,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(value: &Value, visit: &mut impl FnMut(&str)) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(target)) = map.get("$ref") {
                    visit(target.trim_start_matches("#/components/schemas/"));
                }
                map.values().for_each(|v| walk(v, visit));
            }
            Value::Array(items) => items.iter().for_each(|v| walk(v, visit)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn every_reference_in_the_document_has_a_target_and_every_named_type_a_schema() {
        let document = build();
        let known = document["components"]["schemas"].as_object().expect("schemas");
        walk(&document, &mut |name| assert!(known.contains_key(name), "{name} has no schema"));
        for operation in OPERATIONS {
            for name in operation.body.into_iter().chain(Some(operation.answer)).filter(|n| !n.contains('/'))
            {
                assert!(known.contains_key(name), "{name} of {} has no schema", operation.path);
            }
        }
    }

    #[test]
    fn operation_ids_are_unique() {
        let mut seen = std::collections::BTreeSet::new();
        for operation in OPERATIONS {
            let id = operation_id(operation.method, operation.path);
            assert!(seen.insert(id.clone()), "{id}");
        }
    }
}
