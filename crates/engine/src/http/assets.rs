//! /assets/*: the person's connectors. What is asked for is checked here, done by the directory, and answered.

use super::app::App;
use super::fields::{Fields, Id, Query};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chassis::http::Refusal;
use connectors::BooksError;
use connectors::directory::{ConnectError, Connected, Directory};
use connectors::oauth::{Callback, Unfinished};
use contract::{ApiError, ConnectionId, ErrorCode};
use serde_json::{Value, json};
use std::sync::Arc;
use url::Url;

/// Longest code, state and issuer of a callback. Larger ones are none.
const CALLBACK_TEXT_MAX: usize = 8_192;

fn directory(app: &App) -> Result<Directory, ApiError> {
    app.core()?.connectors().cloned()
}

fn books(error: &BooksError) -> ApiError {
    tracing::error!(code = "INTERNAL", error = %error, "The connectors' books failed");
    ApiError::new(ErrorCode::Internal, "the connections could not be read or written; the log tells more")
}

/// Servers that can be connected.
pub async fn servers(State(app): State<Arc<App>>) -> Result<Json<Value>, Refusal> {
    let servers = directory(&app)?.servers(true).await.map_err(|e| books(&e))?;
    let shown: Vec<Value> = servers
        .iter()
        .map(|server| {
            json!({
                "server_name": server.server_name,
                "display_name": server.display_name,
                "transport": server.transport,
                "auth_method": server.auth_method,
                "status": if server.available { "available" } else { "unavailable" },
            })
        })
        .collect();
    Ok(Json(Value::Array(shown)))
}

/// Connections, oldest first.
pub async fn connections(State(app): State<Arc<App>>) -> Result<Json<Value>, Refusal> {
    let list = directory(&app)?.connections().await.map_err(|e| books(&e))?;
    let shown: Vec<Value> = list
        .iter()
        .map(|listed| {
            let row = &listed.connection;
            let credential = row.credential.as_ref();
            let left_out =
                listed.left_out.iter().map(|bad| json!({"tool": bad.action, "reason": bad.reason}));
            json!({
                "ref_id": row.ref_id,
                "server_name": row.server_name,
                "status": row.status.word(),
                "scopes": credential.map_or(&[][..], |sealed| &sealed.scopes),
                "expires_at": credential.and_then(|sealed| sealed.expires_at),
                "tools": listed.tools,
                "last_error": row.last_error,
                "left_out": left_out.collect::<Vec<Value>>(),
            })
        })
        .collect();
    Ok(Json(Value::Array(shown)))
}

/// Connects to a server.
pub async fn connect(State(app): State<Arc<App>>, body: Body) -> Result<Json<Value>, Refusal> {
    let mut fields = Fields::read(body, app.max_body).await?;
    let name = fields.text("server_name", 1, 64)?;
    let config = fields.object("server_config")?;
    app.core_for_work()?;
    let directory = directory(&app)?;
    // to the end: a client that hangs up must not leave half a connection
    let done = crate::core::to_the_end(async move {
        directory.connect(&name, config.as_ref().and_then(Value::as_object)).await
    })
    .await;
    match done.map_err(|error| refusal(&error))? {
        Connected::Ready(id) => Ok(Json(json!({"ref_id": id, "status": "connected"}))),
        Connected::Pending(id, url) => {
            Ok(Json(json!({"ref_id": id, "status": "pending_oauth", "auth_url": url.as_str()})))
        }
    }
}

/// Finishes an authorization for an application that received the redirect itself.
pub async fn callback(State(app): State<Arc<App>>, body: Body) -> Result<Json<Value>, Refusal> {
    let mut fields = Fields::read(body, app.max_body).await?;
    let callback = Callback {
        code: Some(fields.text("code", 1, CALLBACK_TEXT_MAX)?),
        state: fields.text("state", 1, CALLBACK_TEXT_MAX)?,
        iss: fields.opt_text("iss", 1, CALLBACK_TEXT_MAX)?,
        error: None,
    };
    let id = finish(&app, callback).await?;
    Ok(Json(json!({"ref_id": id, "status": "connected"})))
}

async fn finish(app: &App, callback: Callback) -> Result<ConnectionId, ApiError> {
    let directory = directory(app)?;
    let done = crate::core::to_the_end(async move { directory.finish(callback).await }).await;
    done.map_err(|error| refusal(&error))
}

/// Where the browser comes back. The state is the proof; there is no key.
pub async fn redirected(State(app): State<Arc<App>>, headers: HeaderMap, query: Query) -> Response {
    let text = |name: &str| query.get(name).filter(|text| text.len() <= CALLBACK_TEXT_MAX).map(str::to_owned);
    let callback = Callback {
        code: text("code"),
        state: text("state").unwrap_or_default(),
        iss: text("iss"),
        error: text("error"),
    };
    let done = finish(&app, callback).await;
    let back = app.core.get().and_then(|core| core.config.oauth_return_url.clone());
    if let Some(mut url) = back.as_deref().and_then(|url| Url::parse(url).ok()) {
        match &done {
            Ok(id) => {
                url.query_pairs_mut().append_pair("ref_id", id.as_str()).append_pair("status", "connected")
            }
            Err(_) => url.query_pairs_mut().append_pair("status", "error"),
        };
        if let Ok(location) = HeaderValue::from_str(url.as_str()) {
            return (StatusCode::FOUND, [(header::LOCATION, location)]).into_response();
        }
    }
    let wants = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match (done, wants.contains("text/html")) {
        (Ok(_), true) => page(StatusCode::OK, "Connected", "You can close this window."),
        (Ok(id), false) => Json(json!({"ref_id": id, "status": "connected"})).into_response(),
        (Err(error), true) => {
            let status = StatusCode::from_u16(error.error.status()).unwrap_or(StatusCode::BAD_GATEWAY);
            page(
                status,
                "Not connected",
                "The connection was not made. Start it again from your application.",
            )
        }
        (Err(error), false) => Refusal::from(error).into_response(),
    }
}

/// GET /assets/oauth/client.json: the client document, without a key, since authorization servers fetch it.
pub async fn client_document(State(app): State<Arc<App>>) -> Result<Json<Value>, Refusal> {
    let document = crate::mcp::client_document(&app.core()?.config).ok_or_else(|| {
        ApiError::new(
            ErrorCode::NotFound,
            "this Engine is no OAuth client by document: OAUTH_REDIRECT_BASE_URL is not a public https address",
        )
    })?;
    Ok(Json(document))
}

/// A page without anything of the request in it.
fn page(status: StatusCode, title: &str, text: &str) -> Response {
    let body = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title><h1>{title}</h1><p>{text}</p></html>\n"
    );
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (status, headers, body).into_response()
}

/// Deletes a connection.
pub async fn delete(State(app): State<Arc<App>>, Id(id): Id) -> Result<Json<Value>, Refusal> {
    let none = || ApiError::new(ErrorCode::ConnectionNotFound, "there is no such connection");
    let parsed = ConnectionId::parse(&id).map_err(|_| none())?;
    let directory = directory(&app)?;
    let done = crate::core::to_the_end(async move { directory.delete(&parsed).await }).await;
    match done.map_err(|e| books(&e))? {
        true => Ok(Json(json!({"status": "deleted", "ref_id": id}))),
        false => Err(none().into()),
    }
}

fn refusal(error: &ConnectError) -> ApiError {
    match error {
        ConnectError::NoServer => ApiError::new(
            ErrorCode::ConnectionNotFound,
            "there is no such server; see GET /assets/servers, or send the whole entry in server_config",
        ),
        ConnectError::Invalid(problems) => {
            let listed: Vec<Value> =
                problems.iter().map(|p| json!({"pointer": p.pointer, "message": p.message})).collect();
            let first = problems.first().map(ToString::to_string).unwrap_or_default();
            ApiError::new(ErrorCode::ValidationError, format!("server_config: {first}"))
                .with(json!({"field": "server_config", "problems": listed}))
        }
        ConnectError::NoKey => ApiError::new(
            ErrorCode::ValidationError,
            "this server needs credentials; set AD_ENCRYPTION_KEY and restart",
        )
        .with(json!({"variable": "AD_ENCRYPTION_KEY"})),
        ConnectError::Failed(trouble) => ApiError::new(
            ErrorCode::McpConnectionFailed,
            format!("the server could not be connected: {trouble}"),
        ),
        ConnectError::Unfinished(Unfinished::State) => {
            ApiError::new(ErrorCode::InvalidRequest, Unfinished::State.to_string())
                .with(json!({"field": "state"}))
        }
        ConnectError::Unfinished(unfinished @ Unfinished::Issuer(_)) => {
            ApiError::new(ErrorCode::InvalidRequest, unfinished.to_string()).with(json!({"field": "iss"}))
        }
        ConnectError::Unfinished(Unfinished::Exchange(_, trouble)) => {
            ApiError::new(ErrorCode::McpConnectionFailed, format!("the authorization failed: {trouble}"))
        }
        ConnectError::Unfinished(Unfinished::Books(error)) | ConnectError::Books(error) => books(error),
    }
}
