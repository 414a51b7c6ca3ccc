//! Accepting `/execute`: everything that is checked before the first byte, and the one transaction that
//! makes a turn.

pub(super) mod by_url;
pub(super) mod presend;
pub mod set_aside;

use crate::core::{Core, Emitted};
use crate::turn::checkpoint::Checkpoint;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use brain::memory::chunks::Chunk;
use brain::snapshots::Step;
use brain::turns::{NewTurn, Turn, TurnState};
use brain::{Tx, blobs, compactions, messages, prompts, snapshots, tasks, turns};
use contract::conversation::{Block, Role, Source};
use contract::engine_api::ExecuteRequest;
use contract::event::{Event, Started};
use contract::{ApiError, ErrorCode, MessageId, TaskId, Timestamp, TurnId};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Media blocks of one message. More would make one request hold hundreds of megabytes while it is decoded.
pub const MAX_MEDIA_BLOCKS: usize = 20;
/// Bytes of `context` as JSON. More belongs into a file or a document.
pub const MAX_CONTEXT_BYTES: usize = 256 * 1024;
/// Bytes of an output_schema; deeper or larger schemas are refused by providers, too.
pub const MAX_SCHEMA_BYTES: usize = 64 * 1024;
/// Characters of a task's title.
const TITLE_CHARS: usize = 80;

/// What became of a request.
#[derive(Debug)]
pub enum Accepted {
    /// A new turn; its `thread_lifecycle` started has this `seq`.
    New {
        /// The task.
        task: TaskId,
        /// The turn.
        turn: TurnId,
        /// The started event.
        first_seq: i64,
    },
    /// The Idempotency-Key belongs to this earlier turn.
    Joined(Box<Turn>),
}

enum Decision {
    New(i64),
    Joined(Box<Turn>),
    Refused(ApiError),
}

/// A request whose fields are fine alone.
struct Checked {
    task: TaskId,
    blocks: Vec<Block>,
    media: Vec<(Vec<u8>, String)>,
    /// Pieces of documents that are not shown whole.
    aside: Vec<Chunk>,
    /// Something attached was written by somebody else.
    untrusted: bool,
    schema: Option<Value>,
    hash: String,
}

/// Checks a request against the fields' limits. Media become blob references; the bytes go along.
fn check(core: &Core, request: &ExecuteRequest) -> Result<Checked, ApiError> {
    let task = TaskId::parse(&request.task_id).map_err(|e| {
        ApiError::invalid_field("task_id", e.expected, json!(request.task_id.chars().count()))
    })?;
    if request.edit_message_id.is_some() && request.retry_message_id.is_some() {
        return Err(ApiError::new(
            ErrorCode::ValidationError,
            "send edit_message_id or retry_message_id, not both",
        ));
    }
    if request.message.trim().is_empty() && request.media.is_empty() && request.retry_message_id.is_none() {
        return Err(ApiError::invalid_field("message", "text, or media, or retry_message_id", json!("")));
    }
    if request.media.len() > MAX_MEDIA_BLOCKS {
        return Err(ApiError::invalid_field(
            "media",
            &format!("at most {MAX_MEDIA_BLOCKS} blocks"),
            json!(request.media.len()),
        ));
    }
    let mut blocks = Vec::new();
    if !request.message.is_empty() {
        blocks.push(Block::text(request.message.clone()));
    }
    let mut media = Vec::new();
    for (index, value) in request.media.iter().enumerate() {
        let block = media_block(core, index, value, &mut media)?;
        blocks.push(block);
    }
    if let Some(context) = &request.context {
        if !context.is_object() {
            return Err(ApiError::invalid_field("context", "an object", json!(kind_of(context))));
        }
        let text = context.to_string();
        if text.len() > MAX_CONTEXT_BYTES {
            return Err(ApiError::invalid_field(
                "context",
                &format!("at most {MAX_CONTEXT_BYTES} bytes of JSON"),
                json!(text.len()),
            ));
        }
        // behind words and media: see `said`
        blocks.push(crate::turn::said::data(&text));
    }
    if let Some(schema) = &request.output_schema {
        check_schema(schema)?;
    }
    let body = serde_json::to_vec(request).map_err(|e| internal("hash the request", &e))?;
    let hash = Sha256::digest(&body).iter().map(|b| format!("{b:02x}")).collect();
    let schema = request.output_schema.clone();
    let untrusted = blocks.iter().any(is_somebody_elses);
    Ok(Checked { task, blocks, media, aside: Vec::new(), untrusted, schema, hash })
}

/// True for what a person hands over without having written it: documents, and whatever stands at an address. A turn
/// that reads such counts as tainted. (specification 10.2)
pub fn is_somebody_elses(block: &Block) -> bool {
    matches!(block, Block::Document { .. }) || matches!(block.source(), Some(Source::Url { .. }))
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn media_block(
    core: &Core,
    index: usize,
    value: &Value,
    media: &mut Vec<(Vec<u8>, String)>,
) -> Result<Block, ApiError> {
    let field = format!("media[{index}]");
    let mut block: Block = serde_json::from_value(value.clone()).map_err(|_| {
        ApiError::invalid_field(
            &field,
            "{\"type\":\"image|document|audio|video\",\"source\":{\"type\":\"base64|url\",…}}",
            json!(kind_of(value)),
        )
    })?;
    let kind = value["type"].as_str().unwrap_or_default().to_owned();
    let Some(source) = block.source_mut() else {
        return Err(ApiError::invalid_field(&field, "an image, document, audio or video block", json!(kind)));
    };
    match source {
        Source::Blob { .. } => {
            return Err(ApiError::invalid_field(&field, "a base64 or url source", json!("blob")));
        }
        Source::Url { url } => {
            let ok = url::Url::parse(url).is_ok_and(|u| matches!(u.scheme(), "http" | "https"));
            if !ok {
                return Err(ApiError::invalid_field(&field, "an absolute http(s) URL", json!(url)));
            }
        }
        Source::Base64 { media_type, data } => {
            let limit = core.config.media_max_bytes;
            if data.len() / 4 * 3 > limit + 3 {
                return Err(too_large(&field, limit));
            }
            let bytes = BASE64.decode(data.as_bytes()).map_err(|_| {
                ApiError::new(ErrorCode::ValidationError, format!("{field}: the data is not base64"))
                    .with(json!({"field": field, "expected": "standard base64 with padding"}))
            })?;
            if bytes.len() > limit {
                return Err(too_large(&field, limit));
            }
            let media_type = std::mem::take(media_type);
            if !crate::turn::context::provider_takes(core.config.llm_provider, &kind, &media_type) {
                return Err(ApiError::new(
                    ErrorCode::ValidationError,
                    format!("{field}: the configured provider cannot take {kind} of type {media_type}"),
                )
                .with(json!({"field": field, "media_type": media_type})));
            }
            *source = Source::Blob {
                sha256: blobs::name_of(&bytes),
                media_type: media_type.clone(),
                size: bytes.len() as u64,
            };
            media.push((bytes, media_type));
        }
    }
    Ok(block)
}

fn too_large(field: &str, limit: usize) -> ApiError {
    ApiError::new(ErrorCode::PayloadTooLarge, format!("{field} is larger than MEDIA_MAX_BYTES"))
        .with(json!({"field": field, "limit": limit}))
}

fn check_schema(schema: &Value) -> Result<(), ApiError> {
    let refuse = |message: String| {
        ApiError::new(ErrorCode::ValidationError, format!("output_schema: {message}"))
            .with(json!({"field": "output_schema"}))
    };
    if !schema.is_object() {
        return Err(ApiError::invalid_field("output_schema", "an object", json!(kind_of(schema))));
    }
    if schema.to_string().len() > MAX_SCHEMA_BYTES {
        return Err(refuse(format!("larger than {MAX_SCHEMA_BYTES} bytes")));
    }
    crate::tools::schema::check(schema).map_err(refuse)
}

/// Checks a request, commits its turn and queues it. The answer comes when the turn is durable.
pub async fn accept(
    core: &Arc<Core>,
    request: ExecuteRequest,
    idempotency_key: Option<String>,
    traceparent: Option<String>,
) -> Result<Accepted, ApiError> {
    let mut checked = check(core, &request)?;
    by_url::bring_in(core, &mut checked, idempotency_key.as_deref()).await?;
    presend::prepare(core, &mut checked, idempotency_key.as_deref()).await?;
    set_aside::set_aside(core, &mut checked).await?;
    let disk_ok = core.brain.free_bytes().is_none_or(|b| b >= core.config.brain_min_free_mb * 1024 * 1024);
    let place = core.coordinator.reserve();
    let turn_id = TurnId::generate();
    // the version the request is judged by is the one its turn will see
    let catalog = core.catalog.pin(&turn_id);
    let task = checked.task.clone();
    let plan = Plan {
        turn_id: turn_id.clone(),
        must_wait: place.as_ref().is_ok_and(|p| p.must_wait),
        refused_room: place.is_err(),
        refused_disk: !disk_ok,
        request,
        checked,
        idempotency_key,
        traceparent,
        agents: catalog.agent_names(),
        default_agent: catalog.default_agent().to_owned(),
        expiry_ms: crate::core::millis(core.config.channel_state_ttl_active),
    };
    let decision = core.record("accept turn", move |tx, out| commit(tx, out, plan)).await;
    if !matches!(decision, Ok(Decision::New(_))) {
        core.catalog.unpin(&turn_id);
    }
    match decision.map_err(|e| storage(&e))? {
        Decision::Refused(error) => Err(error),
        Decision::Joined(turn) => Ok(Accepted::Joined(turn)),
        Decision::New(first_seq) => {
            if let Ok(place) = place {
                place.fill(turn_id.clone());
            }
            core.pulse.activity();
            core.pump();
            Ok(Accepted::New { task, turn: turn_id, first_seq })
        }
    }
}

struct Plan {
    turn_id: TurnId,
    must_wait: bool,
    refused_room: bool,
    refused_disk: bool,
    request: ExecuteRequest,
    checked: Checked,
    idempotency_key: Option<String>,
    traceparent: Option<String>,
    agents: Vec<String>,
    default_agent: String,
    expiry_ms: i64,
}

fn commit(tx: &Tx<'_>, out: &mut Emitted, plan: Plan) -> brain::Result<Decision> {
    let Plan { request, checked, .. } = &plan;
    let task = &checked.task;
    let now = Timestamp::now();
    if let Some(key) = &plan.idempotency_key
        && let Some(earlier) = turns::by_idempotency_key(tx, key)?
    {
        if earlier.request_hash == checked.hash {
            return Ok(Decision::Joined(Box::new(earlier)));
        }
        return Ok(Decision::Refused(
            ApiError::new(
                ErrorCode::ValidationError,
                "this Idempotency-Key was used with a different request; use a new key for a new request",
            )
            .with(json!({"field": "Idempotency-Key"})),
        ));
    }
    if let Some(open) = turns::open_of(tx, task)? {
        return Ok(Decision::Refused(occupied(tx, task, &open)?));
    }
    if tasks::is_being_deleted(tx, task)? {
        return Ok(Decision::Refused(
            ApiError::new(ErrorCode::TaskBusy, "this task is being deleted; try again when it is gone")
                .with(json!({"task_id": task, "state": "deleting"})),
        ));
    }
    let known = tasks::get(tx, task)?;
    let agent = match (&request.agent, &known) {
        (Some(name), _) if !plan.agents.contains(name) => {
            return Ok(Decision::Refused(
                ApiError::new(ErrorCode::AgentNotFound, format!("there is no agent `{name}`"))
                    .with(json!({"agent": name, "known": plan.agents})),
            ));
        }
        (Some(name), _) => name.clone(),
        (None, Some(task)) if plan.agents.contains(&task.agent) => task.agent.clone(),
        (None, _) => plan.default_agent.clone(),
    };
    let target = match request.edit_message_id.as_ref().or(request.retry_message_id.as_ref()) {
        None => None,
        Some(id) => {
            if known.is_none() {
                return Ok(Decision::Refused(ApiError::new(
                    ErrorCode::TaskNotFound,
                    format!("there is no task `{task}` to edit or retry in"),
                )));
            }
            let found = match MessageId::parse(id) {
                Ok(id) => messages::get(tx, task, &id)?.filter(|m| m.role == Role::User && m.active),
                Err(_) => None,
            };
            match found {
                Some(message) => Some(message),
                None => {
                    return Ok(Decision::Refused(
                        ApiError::new(ErrorCode::NotFound, "no such user message in this task")
                            .with(json!({"message_id": id})),
                    ));
                }
            }
        }
    };
    if plan.refused_room {
        return Ok(Decision::Refused(
            ApiError::new(ErrorCode::EngineBusy, "all task slots are taken and the queue is full")
                .with(json!({"reason": "queue_full"})),
        ));
    }
    if plan.refused_disk {
        return Ok(Decision::Refused(
            ApiError::new(
                ErrorCode::EngineBusy,
                "the disk is nearly full; free space or lower BRAIN_MIN_FREE_MB",
            )
            .with(json!({"reason": "disk_full"})),
        ));
    }
    let title: String = request.message.trim().chars().take(TITLE_CHARS).collect();
    tasks::ensure(tx, task, &title, &agent, now)?;
    for (bytes, media_type) in &checked.media {
        blobs::put(tx, bytes, media_type, now)?;
    }
    let user_message = match (&target, request.retry_message_id.is_some()) {
        (Some(message), true) => {
            messages::supersede_from(tx, task, message.position + 1)?;
            compactions::drop_from(tx, task, message.position)?;
            message.message_id.clone()
        }
        (target, _) => {
            if let Some(message) = target {
                messages::supersede_from(tx, task, message.position)?;
                compactions::drop_from(tx, task, message.position)?;
            }
            MessageId::generate()
        }
    };
    turns::insert(
        tx,
        &NewTurn {
            turn_id: plan.turn_id.clone(),
            task_id: task.clone(),
            agent: agent.clone(),
            direct: request.direct,
            super_thinking: request.super_thinking,
            idempotency_key: plan.idempotency_key.clone(),
            request_hash: checked.hash.clone(),
            request: stored_request(request, &checked.blocks, plan.traceparent.as_deref()),
            output_schema: checked.schema.clone(),
            user_message_id: user_message.clone(),
            at: now,
        },
    )?;
    if checked.untrusted {
        turns::taint(tx, &plan.turn_id)?;
    }
    if request.retry_message_id.is_none() {
        messages::append(
            tx,
            &messages::NewMessage {
                message_id: user_message.clone(),
                task_id: task.clone(),
                turn_id: plan.turn_id.clone(),
                role: Role::User,
                token_estimate: crate::turn::context::estimate_blocks(&checked.blocks),
                content: checked.blocks.clone(),
                active: true,
                agent: None,
                parent: None,
                at: now,
            },
        )?;
        set_aside::commit(tx, task, &user_message, &checked.aside, now)?;
    }
    let started =
        Event::Started { phase: Started::Is, user_message_id: user_message, agent, queued: plan.must_wait };
    let seq = out.emit(tx, task, &plan.turn_id, &started, None)?;
    turns::set_first_seq(tx, &plan.turn_id, seq)?;
    let checkpoint = Checkpoint { call_after_seq: seq, ..Checkpoint::default() };
    snapshots::put(
        tx,
        &plan.turn_id,
        task,
        &checkpoint.snapshot(Step::Assemble),
        now,
        now.plus_millis(plan.expiry_ms),
    )?;
    Ok(Decision::New(seq))
}

/// The request as stored: media by reference only.
fn stored_request(request: &ExecuteRequest, blocks: &[Block], traceparent: Option<&str>) -> Value {
    let media: Vec<&Block> = blocks.iter().filter(|b| b.source().is_some()).collect();
    json!({
        "message": request.message,
        "media": media,
        "direct": request.direct,
        "edit_message_id": request.edit_message_id,
        "retry_message_id": request.retry_message_id,
        "super_thinking": request.super_thinking,
        "agent": request.agent,
        "context": request.context,
        "traceparent": traceparent,
    })
}

fn occupied(tx: &Tx<'_>, task: &TaskId, open: &Turn) -> brain::Result<ApiError> {
    if open.state == TurnState::Paused {
        let pending: Vec<Value> =
            prompts::pending_of(tx, task)?.iter().map(crate::turn::answers::pending_json).collect();
        return Ok(ApiError::new(
            ErrorCode::HitlRequired,
            "the task waits for a person; answer with POST /hitl/respond first",
        )
        .with(json!({"pending": pending})));
    }
    let last = brain::events::last_seq_of_task(tx, task)?;
    Ok(ApiError::new(
        ErrorCode::TaskBusy,
        "a turn of this task is under way; wait for it, follow it with GET /execute/replay, or cancel it",
    )
    .with(json!({
        "task_id": task,
        "turn_id": open.turn_id,
        "state": open.state.as_str(),
        "last_event_id": last,
    })))
}

/// The public error of a failed commit or read.
pub fn storage(error: &brain::Error) -> ApiError {
    match error {
        brain::Error::DiskFull => ApiError::new(
            ErrorCode::EngineBusy,
            "the disk holding the brain is full; free space and try again",
        )
        .with(json!({"reason": "disk_full"})),
        brain::Error::Closed => ApiError::new(ErrorCode::Draining, "the engine is shutting down"),
        other => {
            tracing::error!(code = "INTERNAL", error = %other, "The brain refused an operation");
            ApiError::new(ErrorCode::Internal, "the brain could not be read or written; the log tells more")
        }
    }
}

fn internal(what: &str, error: &dyn std::error::Error) -> ApiError {
    tracing::error!(code = "INTERNAL", error = %error, "Could not {what}");
    ApiError::new(ErrorCode::Internal, format!("could not {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_with_a_remote_reference_or_too_much_depth_is_refused() {
        assert!(
            check_schema(
                &json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {}}})
            )
            .is_ok()
        );
        assert!(check_schema(&json!({"$ref": "https://example.com/s.json"})).is_err());
        let mut deep = json!({});
        for _ in 0..40 {
            deep = json!({"properties": {"a": deep}});
        }
        assert!(check_schema(&deep).is_err());
        assert!(check_schema(&json!({"type": "no-such-type"})).is_err());
    }
}
