//! The route list: every operation of the API, once. The router, the `Allow` headers, who may call, what is refused
//! while draining or reading only, the OpenAPI document and the test of authorization are all made from it.

use super::answer::error_response;
use super::app::App;
use super::{audit_log, auth, docs, engines, fleet_status, health, openapi, products};
use axum::Router;
use axum::extract::Request;
use axum::handler::Handler;
use axum::http::{HeaderValue, header};
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter, any, on};
use chassis::http::current_request_id;
use contract::{FleetCode, FleetError};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Who may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// Everybody.
    Nobody,
    /// A product, by `X-Platform-Key`.
    Product,
    /// The same, judged by the handler.
    InHandler,
    /// The operator, by `X-Admin-Key`.
    Admin,
    /// The operator if `X-Admin-Key` is there, else a product.
    ProductOrAdmin,
}

/// Name, place, type, meaning.
pub type Parameter = (&'static str, &'static str, &'static str, &'static str);

/// One operation.
#[derive(Debug)]
pub struct Operation {
    /// HTTP method.
    pub method: &'static str,
    /// Path template.
    pub path: &'static str,
    /// One line for people.
    pub summary: &'static str,
    /// Who may call.
    pub auth: Auth,
    /// It may change something: refused while draining and in read-only deployments.
    pub changes: bool,
    /// Query parameters and headers.
    pub parameters: &'static [Parameter],
    /// Name of the body's schema in the OpenAPI document.
    pub body: Option<&'static str>,
    /// Name of the answer's schema, or a media type.
    pub answer: &'static str,
    /// Codes beyond those every operation of its class may answer.
    pub codes: &'static [FleetCode],
}

const fn op(
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    answer: &'static str,
) -> Operation {
    Operation {
        method,
        path,
        summary,
        auth: Auth::Product,
        changes: false,
        parameters: &[],
        body: None,
        answer,
        codes: &[],
    }
}

use FleetCode as C;

const LIMIT: Parameter = ("limit", "query", "integer", "1..1000, default 100");
const CURSOR: Parameter = ("cursor", "query", "string", "next_cursor of the answer before");

/// What an operation that starts an engine may answer.
const STARTS: &[FleetCode] = &[
    C::EngineNotFound,
    C::EngineAlreadyRunning,
    C::EngineBusy,
    C::BackendError,
    C::CapacityExhausted,
    C::BootTimeout,
];

/// Every operation, in the order of the reference.
pub static OPERATIONS: &[Operation] = &[
    Operation {
        changes: true,
        body: Some("ProvisionRequest"),
        parameters: &[(
            "Idempotency-Key",
            "header",
            "string",
            "1..128 printable ASCII characters; for 24 hours a repeat with the same body joins or replays",
        )],
        codes: &[
            C::PolicyDenied,
            C::EngineNotFound,
            C::EngineAlreadyExists,
            C::EngineBusy,
            C::QuotaExceeded,
            C::BackendError,
            C::PortExhaustion,
            C::CapacityExhausted,
            C::BootTimeout,
        ],
        ..op(
            "POST",
            "/engines/provision",
            "Create a user's engine and wait until it serves",
            "ProvisionResponse",
        )
    },
    Operation {
        codes: &[C::EngineNotFound],
        ..op("GET", "/engines/{user_id}", "Find one engine, key included", "EngineRecord")
    },
    Operation {
        auth: Auth::InHandler,
        changes: true,
        body: Some("AdmitRequest"),
        codes: &[
            C::PolicyDenied,
            C::RateLimited,
            C::QuotaExceeded,
            C::BackendError,
            C::PortExhaustion,
            C::CapacityExhausted,
            C::BootTimeout,
        ],
        ..op("POST", "/engines/{user_id}/admit", "The call before every user request", "AdmitResponse")
    },
    Operation {
        changes: true,
        codes: STARTS,
        ..op(
            "POST",
            "/engines/{user_id}/start",
            "Start a stopped, sleeping or failed engine",
            "StartResponse",
        )
    },
    Operation {
        changes: true,
        codes: &[C::EngineNotFound, C::EngineNotRunning, C::EngineBusy, C::BackendError],
        ..op("POST", "/engines/{user_id}/stop", "Stop by hand; stays down until start", "StopResponse")
    },
    Operation {
        changes: true,
        codes: &[C::EngineNotFound, C::EngineNotRunning, C::EngineBusy, C::BackendError],
        ..op("POST", "/engines/{user_id}/sleep", "Put an idle engine to sleep now", "SleepResponse")
    },
    Operation {
        changes: true,
        codes: &[C::EngineNotFound, C::EngineNotRunning, C::EngineBusy, C::BackendError],
        ..op("POST", "/engines/{user_id}/rotate-key", "New engine key without restart", "RotateKeyResponse")
    },
    Operation {
        changes: true,
        codes: &[C::EngineNotFound, C::BackendError],
        ..op("DELETE", "/engines/{user_id}", "Remove engine, brain, port and row", "DestroyResponse")
    },
    Operation {
        codes: &[C::EngineNotFound],
        ..op("GET", "/engines/{user_id}/explain", "Why the engine is in its present state", "ExplainResponse")
    },
    Operation {
        parameters: &[
            ("status", "query", "string", "provisioning, running, sleeping, stopped, failed or destroying"),
            LIMIT,
            ("offset", "query", "integer", "0.., default 0"),
        ],
        ..op("GET", "/engines", "Engines, oldest first, without keys", "EngineList")
    },
    op("GET", "/status", "Fleet snapshot", "StatusResponse"),
    op("GET", "/metrics", "The last hour as JSON", "MetricsResponse"),
    Operation {
        auth: Auth::ProductOrAdmin,
        parameters: &[
            ("engine", "query", "string", "engine id"),
            ("user", "query", "string", "user id, exact"),
            ("action", "query", "string", "an action; may be repeated"),
            ("product", "query", "string", "with X-Admin-Key: product id or slug"),
            ("since", "query", "string", "ISO-8601 time, inclusive"),
            ("until", "query", "string", "ISO-8601 time, exclusive"),
            LIMIT,
            CURSOR,
        ],
        codes: &[C::ProductNotFound],
        ..op("GET", "/audit", "Audit rows, newest first", "AuditPage")
    },
    Operation {
        auth: Auth::Admin,
        changes: true,
        body: Some("RegisterRequest"),
        codes: &[C::ProductSlugExists],
        ..op("POST", "/products/register", "New product and platform key", "RegisterResponse")
    },
    Operation {
        auth: Auth::Admin,
        changes: true,
        body: Some("PolicyDocument"),
        codes: &[C::ProductNotFound],
        ..op("PUT", "/products/{product}/policy", "Replace the policy", "PolicyDocument")
    },
    Operation {
        auth: Auth::Admin,
        parameters: &[LIMIT, CURSOR],
        ..op("GET", "/products", "Products, oldest first", "ProductList")
    },
    Operation {
        auth: Auth::Admin,
        codes: &[C::ProductNotFound],
        ..op("GET", "/products/{product}", "One product", "ProductDetail")
    },
    Operation {
        auth: Auth::Admin,
        changes: true,
        parameters: &[(
            "destroy_engines",
            "query",
            "boolean",
            "true: destroy its engines first; default false",
        )],
        codes: &[C::ProductNotFound, C::ProductNotEmpty],
        ..op("DELETE", "/products/{product}", "Remove a product", "DeleteProductResponse")
    },
    Operation {
        auth: Auth::Admin,
        changes: true,
        body: Some("RotatePlatformKeyRequest"),
        codes: &[C::ProductNotFound],
        ..op(
            "POST",
            "/products/{product}/rotate-platform-key",
            "New platform key with overlap",
            "RotatePlatformKeyResponse",
        )
    },
    Operation { auth: Auth::Nobody, ..op("GET", "/health", "Probe", "HealthResponse") },
    Operation { auth: Auth::Nobody, ..op("GET", "/openapi.json", "This document", "application/json") },
    Operation { auth: Auth::Nobody, ..op("GET", "/docs", "A viewer of this document", "text/html") },
];

fn handler(operation: &'static Operation, app: &Arc<App>) -> MethodRouter {
    let filter = match operation.method {
        "GET" => MethodFilter::GET,
        "POST" => MethodFilter::POST,
        "PUT" => MethodFilter::PUT,
        "DELETE" => MethodFilter::DELETE,
        other => unreachable!("the route list has no {other}"),
    };
    fn with<H, T>(filter: MethodFilter, handler: H, app: &Arc<App>) -> MethodRouter
    where
        H: Handler<T, Arc<App>>,
        T: 'static,
    {
        on(filter, handler).with_state(Arc::clone(app))
    }
    let route = match (operation.method, operation.path) {
        ("POST", "/engines/provision") => with(filter, engines::provision, app),
        ("GET", "/engines/{user_id}") => with(filter, engines::get, app),
        ("POST", "/engines/{user_id}/admit") => with(filter, engines::admit, app),
        ("POST", "/engines/{user_id}/start") => with(filter, engines::start, app),
        ("POST", "/engines/{user_id}/stop") => with(filter, engines::stop, app),
        ("POST", "/engines/{user_id}/sleep") => with(filter, engines::sleep, app),
        ("POST", "/engines/{user_id}/rotate-key") => with(filter, engines::rotate_key, app),
        ("DELETE", "/engines/{user_id}") => with(filter, engines::destroy, app),
        ("GET", "/engines/{user_id}/explain") => with(filter, engines::explain, app),
        ("GET", "/engines") => with(filter, engines::list, app),
        ("GET", "/status") => with(filter, fleet_status::status, app),
        ("GET", "/metrics") => with(filter, fleet_status::metrics, app),
        ("GET", "/audit") => with(filter, audit_log::page, app),
        ("POST", "/products/register") => with(filter, products::register, app),
        ("PUT", "/products/{product}/policy") => with(filter, products::set_policy, app),
        ("GET", "/products") => with(filter, products::list, app),
        ("GET", "/products/{product}") => with(filter, products::get, app),
        ("DELETE", "/products/{product}") => with(filter, products::delete, app),
        ("POST", "/products/{product}/rotate-platform-key") => with(filter, products::rotate_key, app),
        ("GET", "/health") => with(filter, health::health, app),
        ("GET", "/openapi.json") => with(filter, openapi::serve, app),
        ("GET", "/docs") => with(filter, docs::serve, app),
        (method, path) => unreachable!("{method} {path} has no handler"),
    };
    route.route_layer(from_fn_with_state((Arc::clone(app), operation), auth::check))
}

/// The answer to a path that does not exist.
pub async fn no_such_path() -> Response {
    let error =
        FleetError::new(FleetCode::RouteNotFound, "there is no such path; GET /openapi.json lists them");
    error_response(&error, current_request_id().as_ref())
}

async fn wrong_method(request: Request) -> Response {
    let allowed = methods(request.uri().path()).join(", ");
    let error = FleetError::new(FleetCode::MethodNotAllowed, format!("this path takes {allowed}"));
    let mut response = error_response(&error, current_request_id().as_ref());
    if let Ok(value) = HeaderValue::from_str(&allowed) {
        response.headers_mut().insert(header::ALLOW, value);
    }
    response
}

/// All routes.
pub fn router(app: &Arc<App>) -> Router {
    let mut paths: BTreeMap<&str, MethodRouter> = BTreeMap::new();
    for operation in OPERATIONS {
        for path in served_under(operation) {
            // beginning with `any` keeps axum from adding `Allow` to answers that are not about the method
            let route = paths.remove(path).unwrap_or_else(|| any(wrong_method));
            paths.insert(path, route.merge(handler(operation, app)));
        }
    }
    let router = paths.into_iter().fold(Router::new(), |router, (path, methods)| router.route(path, methods));
    router.fallback(no_such_path)
}

/// A literal path hides a template of the same shape, but a user may be called `provision` and a product
/// `register`: what the literal does not take is served there, too.
fn served_under(operation: &Operation) -> impl Iterator<Item = &'static str> {
    let hidden = OPERATIONS.iter().map(|o| o.path).find(|literal| {
        !literal.contains('{') && *literal != operation.path && matches(operation.path, literal)
    });
    [Some(operation.path), hidden].into_iter().flatten()
}

/// The methods of a path, for `Allow`.
pub fn methods(path: &str) -> Vec<&'static str> {
    let mut found: Vec<&str> =
        OPERATIONS.iter().filter(|o| matches(o.path, path)).map(|o| o.method).collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn matches(template: &str, path: &str) -> bool {
    let (a, b): (Vec<&str>, Vec<&str>) = (template.split('/').collect(), path.split('/').collect());
    a.len() == b.len() && a.iter().zip(&b).all(|(t, p)| t == p || (t.starts_with('{') && !p.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_of_this_version_is_listed_once() {
        assert_eq!(OPERATIONS.len(), 22, "23 of the specification without upgrade");
        let mut seen = std::collections::BTreeSet::new();
        for operation in OPERATIONS {
            assert!(
                seen.insert((operation.method, operation.path)),
                "{} {} twice",
                operation.method,
                operation.path
            );
            let path = operation.path.replace("{user_id}", "x").replace("{product}", "x");
            assert!(methods(&path).contains(&operation.method), "{path}");
        }
    }

    #[test]
    fn everything_but_reading_changes_something_and_only_documents_and_probes_are_open() {
        for operation in OPERATIONS {
            assert_eq!(
                operation.changes,
                operation.method != "GET",
                "{} {}",
                operation.method,
                operation.path
            );
        }
        let open: Vec<&str> = OPERATIONS.iter().filter(|o| o.auth == Auth::Nobody).map(|o| o.path).collect();
        assert_eq!(open, ["/health", "/openapi.json", "/docs"]);
    }

    #[test]
    fn a_user_called_provision_and_a_product_called_register_are_reached() {
        assert_eq!(methods("/engines/provision"), ["DELETE", "GET", "POST"]);
        assert_eq!(methods("/engines/u"), ["DELETE", "GET"]);
        assert_eq!(methods("/products/register"), ["DELETE", "GET", "POST"]);
        assert_eq!(methods("/engines/u/upgrade"), [""; 0]);
        assert_eq!(methods("/nowhere"), [""; 0]);
    }
}
