//! The route list: every operation of the API, once. The router, the `Allow` headers, the preflight
//! answers, the exemptions from the key and the OpenAPI document are all made from it.

use super::app::App;
use super::{
    admin, assets, bundle, catalog, docs, execute, feedback, health, hitl, learning, memory, openapi, rpc,
    skills, soul, tasks,
};
use axum::Router;
use axum::extract::Request;
use axum::handler::Handler;
use axum::http::{HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, any, on};
use chassis::http::error_response;
use contract::{ApiError, ErrorCode};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One operation.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    /// HTTP method.
    pub method: &'static str,
    /// Path template.
    pub path: &'static str,
    /// One line for people.
    pub summary: &'static str,
    /// Answered without a key.
    pub keyless: bool,
    /// Query parameters and headers: name, place, type, meaning.
    pub parameters: &'static [(&'static str, &'static str, &'static str, &'static str)],
    /// Name of the body's schema in the OpenAPI document.
    pub body: Option<&'static str>,
    /// Name of the answer's schema, or a media type.
    pub answer: &'static str,
    /// Codes beyond those every operation may answer.
    pub codes: &'static [ErrorCode],
}

const fn op(
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    answer: &'static str,
) -> Operation {
    Operation { method, path, summary, keyless: false, parameters: &[], body: None, answer, codes: &[] }
}

type Parameter = (&'static str, &'static str, &'static str, &'static str);
const LIMIT: Parameter = ("limit", "query", "integer", "1..200, default 50");
const CURSOR: Parameter = ("cursor", "query", "string", "next_cursor of the answer before");

use ErrorCode as C;

/// Every operation, in the order of the reference.
pub const OPERATIONS: &[Operation] = &[
    Operation {
        body: Some("ExecuteRequest"),
        parameters: &[
            (
                "Idempotency-Key",
                "header",
                "string",
                "1..255 visible ASCII characters; sending it again joins the same turn",
            ),
            ("Last-Event-ID", "header", "integer", "with a known Idempotency-Key: go on after this event"),
        ],
        codes: &[
            C::AgentNotFound,
            C::TaskNotFound,
            C::NotFound,
            C::TaskBusy,
            C::HitlRequired,
            C::PayloadTooLarge,
            C::ValidationError,
            C::EngineBusy,
            C::Draining,
        ],
        ..op("POST", "/execute", "Run one turn and stream it", "text/event-stream")
    },
    Operation {
        parameters: &[
            (
                "after",
                "query",
                "integer",
                "milliseconds since the epoch; events later than this instant; 0 = everything stored",
            ),
            ("task_id", "query", "string", "only this task; absent = all tasks"),
            (
                "follow",
                "query",
                "string",
                "auto (default): while a selected turn is not over; true: stay; false: stored events only",
            ),
            ("Last-Event-ID", "header", "integer", "events after this one; wins over `after`"),
        ],
        codes: &[C::TaskNotFound, C::EngineBusy],
        ..op("GET", "/execute/replay", "Stream stored events, then live ones", "text/event-stream")
    },
    Operation {
        body: Some("CancelRequest"),
        codes: &[C::TaskNotFound],
        ..op("POST", "/execute/cancel", "Cancel the turn in flight", "CancelResponse")
    },
    Operation {
        parameters: &[LIMIT, CURSOR, ("status", "query", "string", "idle, queued, running or paused")],
        ..op("GET", "/tasks", "Tasks, newest first", "TaskList")
    },
    Operation { codes: &[C::TaskNotFound], ..op("GET", "/tasks/{id}", "One task", "TaskDetail") },
    Operation {
        parameters: &[("memories", "query", "boolean", "erase memories that rest only on this task, too")],
        codes: &[C::TaskNotFound, C::TaskBusy],
        ..op(
            "DELETE",
            "/tasks/{id}",
            "Delete a task with its history; cancels a turn in flight first",
            "TaskDeleted",
        )
    },
    Operation {
        parameters: &[
            LIMIT,
            CURSOR,
            ("include", "query", "string", "`superseded` shows replaced messages, too"),
        ],
        codes: &[C::TaskNotFound],
        ..op("GET", "/tasks/{id}/messages", "Messages of a task, oldest first", "MessageList")
    },
    Operation {
        body: Some("HitlAnswer"),
        codes: &[C::TaskNotFound, C::Conflict],
        ..op("POST", "/hitl/respond", "Answer a permission prompt or a question", "HitlResumed")
    },
    op("GET", "/hitl/pending", "Questions that wait, of all tasks", "HitlPending"),
    Operation {
        parameters: &[LIMIT, CURSOR, ("task_id", "query", "string", "only this task")],
        codes: &[C::TaskNotFound],
        ..op("GET", "/permissions", "Remembered permissions", "PermissionList")
    },
    Operation {
        codes: &[C::NotFound],
        ..op("DELETE", "/permissions/{id}", "Forget a remembered permission", "PermissionRevoked")
    },
    Operation {
        body: Some("RpcRequest"),
        codes: &[
            C::SkillNotFound,
            C::NotFound,
            C::ValidationError,
            C::ContextOverflow,
            C::LlmRateLimited,
            C::LlmProviderError,
            C::ProviderTimeout,
            C::McpConnectionFailed,
            C::McpTokenExpired,
            C::Draining,
        ],
        ..op("POST", "/rpc", "Call one skill or tool outside a turn", "RpcResult")
    },
    op("GET", "/skills", "Skills, by name", "SkillList"),
    Operation { codes: &[C::SkillNotFound], ..op("GET", "/skills/{name}", "One skill", "Skill") },
    Operation {
        body: Some("SkillCreate"),
        codes: &[C::Conflict, C::ValidationError, C::PayloadTooLarge],
        ..op("POST", "/skills/create", "Make a custom skill", "Skill")
    },
    Operation {
        body: Some("SkillChange"),
        codes: &[C::SkillNotFound, C::ValidationError, C::PayloadTooLarge],
        ..op("PUT", "/skills/{name}", "Change a custom skill; fields left out stay", "Skill")
    },
    Operation {
        codes: &[C::SkillNotFound],
        ..op("DELETE", "/skills/{name}", "Delete a custom skill", "SkillDeleted")
    },
    op("GET", "/assets/servers", "Servers that can be connected", "ServerList"),
    op("GET", "/assets/connections", "Connections, oldest first", "ConnectionList"),
    Operation {
        body: Some("ConnectRequest"),
        codes: &[C::ConnectionNotFound, C::ValidationError, C::McpConnectionFailed, C::Draining],
        ..op("POST", "/assets/connect", "Connect to an MCP server", "ConnectResponse")
    },
    Operation {
        body: Some("CallbackRequest"),
        codes: &[C::McpConnectionFailed],
        ..op("POST", "/assets/callback", "Finish an authorization", "ConnectResponse")
    },
    Operation {
        keyless: true,
        parameters: &[
            ("code", "query", "string", "the authorization code"),
            ("state", "query", "string", "the state of the authorization; it is the proof"),
            ("iss", "query", "string", "the authorization server"),
            ("error", "query", "string", "the authorization server's refusal"),
        ],
        codes: &[C::InvalidRequest, C::McpConnectionFailed],
        ..op(
            "GET",
            "/assets/oauth/callback",
            "Where the browser comes back; 302 when OAUTH_RETURN_URL is set",
            "ConnectResponse",
        )
    },
    Operation {
        keyless: true,
        codes: &[C::NotFound],
        ..op(
            "GET",
            "/assets/oauth/client.json",
            "This Engine as an OAuth client, for authorization servers; only with a public https OAUTH_REDIRECT_BASE_URL",
            "OauthClientDocument",
        )
    },
    Operation {
        codes: &[C::ConnectionNotFound],
        ..op(
            "DELETE",
            "/assets/connections/{id}",
            "Delete a connection with its credentials",
            "ConnectionDeleted",
        )
    },
    Operation {
        body: Some("MemorySearch"),
        codes: &[C::NotFound, C::MemoryNotFound, C::ValidationError],
        ..op(
            "POST",
            "/memory/{store}/search",
            "Search one store of long-term memory, or list its newest",
            "MemoryList",
        )
    },
    Operation {
        body: Some("FactCreate"),
        codes: &[C::ValidationError, C::PayloadTooLarge, C::EngineBusy],
        ..op("POST", "/memory/knowledge", "Keep a fact", "MemoryWritten")
    },
    Operation {
        body: Some("EpisodeCreate"),
        codes: &[C::ValidationError, C::PayloadTooLarge, C::EngineBusy],
        ..op("POST", "/memory/episodes", "Keep an episode", "MemoryWritten")
    },
    Operation {
        body: Some("NodeCreate"),
        codes: &[C::MemoryNotFound, C::ValidationError, C::PayloadTooLarge, C::EngineBusy],
        ..op(
            "POST",
            "/memory/social",
            "Keep a person or organization, or add to one that is there",
            "MemoryWritten",
        )
    },
    Operation {
        codes: &[C::NotFound, C::MemoryNotFound],
        ..op("GET", "/memory/{store}/{id}", "One memory", "MemoryItem")
    },
    Operation {
        body: Some("MemoryChange"),
        codes: &[
            C::NotFound,
            C::MemoryNotFound,
            C::Conflict,
            C::ValidationError,
            C::PayloadTooLarge,
            C::EngineBusy,
        ],
        ..op("PATCH", "/memory/{store}/{id}", "Edit a memory; fields left out stay", "MemoryUpdated")
    },
    Operation {
        codes: &[C::NotFound, C::MemoryNotFound],
        ..op("DELETE", "/memory/{store}/{id}", "Forget a memory and what rests only on it", "MemoryDeleted")
    },
    Operation {
        parameters: &[(
            "source",
            "query",
            "string",
            "required; as the memories name it: message:ID, trajectory:ID of the turn, import:NAME, user:api",
        )],
        codes: &[C::MemoryNotFound],
        ..op(
            "DELETE",
            "/memory",
            "Forget everything that came from one source and what rests only on it",
            "MemorySourceDeleted",
        )
    },
    op("GET", "/memory/soul", "Who the assistant is", "Soul"),
    op("GET", "/memory/soul/full", "The same with its versions", "SoulFull"),
    Operation {
        body: Some("SoulChange"),
        codes: &[C::ValidationError, C::PayloadTooLarge, C::EngineBusy],
        ..op("PUT", "/memory/soul", "Write the soul; fields left out stay", "SoulFull")
    },
    op("DELETE", "/memory/soul/history", "Forget every earlier version of the soul", "SoulHistoryDeleted"),
    op("GET", "/memory/stats", "How much there is in long-term memory", "MemoryStats"),
    op("GET", "/memory/export", "Everything in long-term memory as one bundle, streamed", "application/json"),
    Operation {
        parameters: &[(
            "mode",
            "query",
            "string",
            "merge (default): add to what is there; replace: take its place",
        )],
        body: Some("MemoryBundle"),
        codes: &[C::ValidationError, C::PayloadTooLarge, C::EngineBusy, C::Draining],
        ..op("POST", "/memory/import", "Import a bundle; answers when it is complete", "MemoryImported")
    },
    Operation {
        parameters: &[("limit", "query", "integer", "1..100, default 20"), CURSOR],
        codes: &[C::NotFound],
        ..op("GET", "/feedback", "Feedback, newest first", "SignalList")
    },
    Operation {
        body: Some("FeedbackCreate"),
        codes: &[C::NotFound, C::ValidationError, C::PayloadTooLarge, C::EngineBusy],
        ..op(
            "POST",
            "/feedback",
            "Say what an answer was worth, or what it should have been",
            "FeedbackRecorded",
        )
    },
    Operation {
        codes: &[C::NotFound],
        ..op(
            "DELETE",
            "/feedback/{id}",
            "Forget feedback and the memories that rest on nothing else; what it moved stays moved",
            "FeedbackDeleted",
        )
    },
    op("GET", "/learning/status", "What was learned, what waits, and when it is due", "LearningStatus"),
    Operation {
        body: Some("LearningRun"),
        codes: &[C::TaskNotFound, C::Conflict, C::EngineBusy, C::Draining],
        ..op("POST", "/learning/run", "Learn now from what waits, of one task or of all", "LearningStarted")
    },
    op("GET", "/agents", "Agents", "AgentList"),
    op("GET", "/tools", "Tools", "ToolList"),
    Operation {
        parameters: &[
            ("from", "query", "string", "ISO-8601 date or time; default: 30 days before `to`"),
            ("to", "query", "string", "ISO-8601 date or time; default: now"),
            ("group_by", "query", "string", "day (default), model, task or purpose"),
        ],
        ..op("GET", "/usage", "Model calls and tokens", "UsageReport")
    },
    op("GET", "/version", "What is running", "Version"),
    Operation {
        keyless: true,
        ..op("GET", "/health", "Readiness, for supervisors; 200 only when turns are taken", "Health")
    },
    op("GET", "/metrics", "Prometheus metrics", "text/plain"),
    Operation { keyless: true, ..op("GET", "/openapi.json", "This document", "application/json") },
    Operation { keyless: true, ..op("GET", "/docs", "A viewer of this document", "text/html") },
    Operation { keyless: true, ..op("GET", "/docs/app.js", "The viewer's script", "text/javascript") },
    Operation { keyless: true, ..op("GET", "/docs/style.css", "The viewer's style", "text/css") },
    Operation {
        body: Some("RotateKeyRequest"),
        codes: &[C::Conflict],
        ..op("POST", "/admin/rotate-key", "Replace the key on the running Engine", "RotateKeyResponse")
    },
    op("POST", "/admin/reload-catalog", "Read the catalog again, each file on its own", "CatalogReloaded"),
    Operation {
        body: Some("BackupRequest"),
        codes: &[C::Conflict, C::EngineBusy],
        ..op("POST", "/admin/backup", "Make a verified online backup in BACKUP_DIR", "BackupResponse")
    },
];

fn handler(operation: &Operation, app: &Arc<App>) -> MethodRouter {
    let filter = match operation.method {
        "GET" => MethodFilter::GET,
        "POST" => MethodFilter::POST,
        "DELETE" => MethodFilter::DELETE,
        "PUT" => MethodFilter::PUT,
        "PATCH" => MethodFilter::PATCH,
        other => unreachable!("the route list has no {other}"),
    };
    fn with<H, T>(filter: MethodFilter, handler: H, app: &Arc<App>) -> MethodRouter
    where
        H: Handler<T, Arc<App>>,
        T: 'static,
    {
        on(filter, handler).with_state(Arc::clone(app))
    }
    match (operation.method, operation.path) {
        ("POST", "/execute") => with(filter, execute::execute, app),
        ("GET", "/execute/replay") => with(filter, execute::replay, app),
        ("POST", "/execute/cancel") => with(filter, execute::cancel_turn, app),
        ("GET", "/tasks") => with(filter, tasks::list, app),
        ("GET", "/tasks/{id}") => with(filter, tasks::get, app),
        ("DELETE", "/tasks/{id}") => with(filter, tasks::delete, app),
        ("GET", "/tasks/{id}/messages") => with(filter, tasks::messages, app),
        ("POST", "/hitl/respond") => with(filter, hitl::respond, app),
        ("GET", "/hitl/pending") => with(filter, hitl::pending, app),
        ("GET", "/permissions") => with(filter, hitl::permissions, app),
        ("DELETE", "/permissions/{id}") => with(filter, hitl::revoke, app),
        ("GET", "/assets/servers") => with(filter, assets::servers, app),
        ("GET", "/assets/connections") => with(filter, assets::connections, app),
        ("POST", "/assets/connect") => with(filter, assets::connect, app),
        ("POST", "/assets/callback") => with(filter, assets::callback, app),
        ("GET", "/assets/oauth/callback") => with(filter, assets::redirected, app),
        ("GET", "/assets/oauth/client.json") => with(filter, assets::client_document, app),
        ("DELETE", "/assets/connections/{id}") => with(filter, assets::delete, app),
        ("POST", "/memory/{store}/search") => with(filter, memory::search, app),
        ("POST", "/memory/knowledge") => with(filter, memory::create_fact, app),
        ("POST", "/memory/episodes") => with(filter, memory::create_episode, app),
        ("POST", "/memory/social") => with(filter, memory::create_node, app),
        ("GET", "/memory/{store}/{id}") => with(filter, memory::get, app),
        ("PATCH", "/memory/{store}/{id}") => with(filter, memory::change, app),
        ("DELETE", "/memory/{store}/{id}") => with(filter, memory::delete, app),
        ("DELETE", "/memory") => with(filter, memory::delete_source, app),
        ("GET", "/memory/soul") => with(filter, soul::get, app),
        ("GET", "/memory/soul/full") => with(filter, soul::full, app),
        ("PUT", "/memory/soul") => with(filter, soul::put, app),
        ("DELETE", "/memory/soul/history") => with(filter, soul::forget_history, app),
        ("GET", "/memory/stats") => with(filter, memory::stats, app),
        ("GET", "/memory/export") => with(filter, bundle::export, app),
        ("POST", "/memory/import") => with(filter, bundle::import, app),
        ("POST", "/feedback") => with(filter, feedback::record, app),
        ("GET", "/feedback") => with(filter, feedback::list, app),
        ("DELETE", "/feedback/{id}") => with(filter, feedback::delete, app),
        ("GET", "/learning/status") => with(filter, learning::status, app),
        ("POST", "/learning/run") => with(filter, learning::run, app),
        ("GET", "/agents") => with(filter, catalog::agents, app),
        ("GET", "/tools") => with(filter, catalog::tools, app),
        ("GET", "/usage") => with(filter, catalog::usage, app),
        ("GET", "/version") => with(filter, catalog::version, app),
        ("GET", "/health") => with(filter, health::health, app),
        ("GET", "/metrics") => with(filter, health::metrics, app),
        ("GET", "/openapi.json") => with(filter, openapi::serve, app),
        ("GET", path) if path.starts_with("/docs") => with(filter, viewer, app),
        ("POST", "/admin/rotate-key") => with(filter, admin::rotate_key, app),
        ("POST", "/admin/backup") => with(filter, admin::backup, app),
        ("POST", "/admin/reload-catalog") => with(filter, admin::reload_catalog, app),
        ("POST", "/rpc") => with(filter, rpc::call, app),
        ("GET", "/skills") => with(filter, skills::list, app),
        ("GET", "/skills/{name}") => with(filter, skills::get, app),
        ("POST", "/skills/create") => with(filter, skills::create, app),
        ("PUT", "/skills/{name}") => with(filter, skills::replace, app),
        ("DELETE", "/skills/{name}") => with(filter, skills::delete, app),
        (method, path) => unreachable!("{method} {path} has no handler"),
    }
}

async fn viewer(request: Request) -> Response {
    let found = docs::assets().iter().find(|(path, _, _)| *path == request.uri().path());
    match found {
        Some((_, content_type, bytes)) => (
            [
                (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
                (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(docs::CONTENT_SECURITY_POLICY)),
            ],
            *bytes,
        )
            .into_response(),
        None => no_such_path().await,
    }
}

async fn no_such_path() -> Response {
    let error = ApiError::new(ErrorCode::NotFound, "there is no such path; GET /openapi.json lists them");
    error_response(&error, chassis::http::current_request_id().as_ref())
}

async fn wrong_method(request: Request) -> Response {
    let allowed = methods(request.uri().path()).unwrap_or_default();
    let error = ApiError::new(ErrorCode::MethodNotAllowed, format!("this path takes {allowed}"));
    let mut response = error_response(&error, chassis::http::current_request_id().as_ref());
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

/// All routes.
pub fn router(app: &Arc<App>) -> Router {
    let mut paths: BTreeMap<&str, MethodRouter> = BTreeMap::new();
    for operation in OPERATIONS {
        // beginning with `any` keeps axum from adding `Allow` to answers that are not about the method
        let path = paths.remove(operation.path).unwrap_or_else(|| any(wrong_method));
        paths.insert(operation.path, path.merge(handler(operation, app)));
    }
    let router = paths.into_iter().fold(Router::new(), |router, (path, methods)| router.route(path, methods));
    router.fallback(no_such_path)
}

/// True for operations that need no key.
pub fn keyless(method: &Method, path: &str) -> bool {
    OPERATIONS
        .iter()
        .any(|o| o.keyless && o.path == path && (o.method == method.as_str() || *method == Method::HEAD))
}

/// The methods of a path, for `Allow` and preflights.
pub fn methods(path: &str) -> Option<&'static str> {
    // the template that names most of the path counts, from its beginning on, as in the router
    let template = OPERATIONS.iter().map(|o| o.path).filter(|t| matches(t, path)).min_by_key(|t| gaps(t))?;
    let found: Vec<&str> = OPERATIONS.iter().filter(|o| o.path == template).map(|o| o.method).collect();
    match found.as_slice() {
        ["GET"] => Some("GET"),
        ["POST"] => Some("POST"),
        ["DELETE"] => Some("DELETE"),
        ["GET", "DELETE"] => Some("GET, DELETE"),
        ["GET", "PUT"] => Some("GET, PUT"),
        ["GET", "POST"] => Some("GET, POST"),
        ["GET", "PATCH", "DELETE"] => Some("GET, PATCH, DELETE"),
        ["GET", "PUT", "DELETE"] => Some("GET, PUT, DELETE"),
        other => unreachable!("the route list has no path with {other:?}"),
    }
}

/// Which segments of a template are left open.
fn gaps(template: &str) -> Vec<bool> {
    template.split('/').map(|segment| segment.starts_with('{')).collect()
}

fn matches(template: &str, path: &str) -> bool {
    let (a, b): (Vec<&str>, Vec<&str>) = (template.split('/').collect(), path.split('/').collect());
    a.len() == b.len() && a.iter().zip(&b).all(|(t, p)| t == p || (t.starts_with('{') && !p.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_knows_its_methods_and_only_documented_ones_are_keyless() {
        for operation in OPERATIONS {
            let path = ["{id}", "{name}", "{store}"]
                .iter()
                .fold(operation.path.to_owned(), |path, open| path.replace(open, "x"));
            assert!(methods(&path).is_some_and(|m| m.contains(operation.method)), "{path}");
        }
        assert_eq!(methods("/tasks/abc"), Some("GET, DELETE"));
        assert_eq!(methods("/nowhere"), None);
        assert_eq!(methods("/memory/soul"), Some("GET, PUT"));
        assert_eq!(methods("/memory/knowledge/search"), Some("POST"));
        assert_eq!(methods("/memory/knowledge/fact-1"), Some("GET, PATCH, DELETE"));
        let open: Vec<&str> = OPERATIONS.iter().filter(|o| o.keyless).map(|o| o.path).collect();
        assert_eq!(
            open,
            [
                "/assets/oauth/callback",
                "/assets/oauth/client.json",
                "/health",
                "/openapi.json",
                "/docs",
                "/docs/app.js",
                "/docs/style.css"
            ]
        );
    }
}
