//! POST /rpc: one skill, one tool or one question to long-term memory, outside any turn.
//!
//! The same path as inside a turn, with the permission rules; only there is no turn to pause, so a call that a
//! person would have to allow is refused. (specification 3.4)

use super::app::App;
use super::fields::{Fields, missing};
use super::memory;
use crate::core::{Core, to_the_end};
use crate::tools::dispatch::alone;
use crate::tools::skill::SkillTool;
use crate::tools::tool::{AskModel, Failure, ModelAsk, Output};
use crate::turn::accept::storage;
use crate::turn::message::Spent;
use crate::turn::once::{self, Failed};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chassis::http::Refusal;
use contract::{ApiError, ErrorCode, ToolReason};
use futures::future::BoxFuture;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};

/// Characters of a method; a tool's name has at most 64.
const METHOD_CHARS: usize = 200;

/// Calls a method.
pub async fn call(State(app): State<Arc<App>>, body: Body) -> Result<Json<Value>, Refusal> {
    let core = Arc::clone(app.core_for_work()?);
    let mut fields = Fields::read(body, app.max_body).await?;
    let method = fields.text("method", 1, METHOD_CHARS)?;
    let params = fields.object("params")?.ok_or_else(|| missing("params"))?;
    // what has begun to act is not left half-way because its caller has gone away
    let result = to_the_end(async move { answer(&core, &method, params).await });
    Ok(app.told(json!({"result": result.await?})))
}

async fn answer(core: &Arc<Core>, method: &str, params: Value) -> Result<Value, ApiError> {
    if let Some(name) = method.strip_prefix("skill.") {
        skill(core, name, params).await
    } else if let Some(name) = method.strip_prefix("tool.") {
        tool(core, name, params).await
    } else if let (Some(name), Value::Object(params)) = (method.strip_prefix("memory."), params) {
        memory::rpc(core, name, params).await.unwrap_or_else(|| Err(no_such_method(method)))
    } else {
        Err(no_such_method(method))
    }
}

fn no_such_method(method: &str) -> ApiError {
    let text = "there is no such method; skill.<name>, tool.<name>, memory.knowledge_search, \
                memory.episodes_search, memory.social_search and memory.stats can be called";
    ApiError::new(ErrorCode::NotFound, text).with(json!({"method": method}))
}

async fn tool(core: &Arc<Core>, name: &str, params: Value) -> Result<Value, ApiError> {
    let catalog = core.catalog.present();
    let callable = |function: &str| !alone::ONLY_IN_TURNS.contains(&function);
    let Some(tool) = catalog.tools().get(name).filter(|t| callable(t.function())).cloned() else {
        return Err(no_such_method(&format!("tool.{name}")));
    };
    let model = Arc::new(OutsideTurns::new(core));
    let outcome = alone::call(core, tool, Some(catalog.tools()), params, Arc::clone(&model) as _).await?;
    match outcome {
        Ok(output) => Ok(with_media(json!({"output": output.value}), &output)),
        Err(failure) => refused_by(&model, failure),
    }
}

async fn skill(core: &Arc<Core>, name: &str, params: Value) -> Result<Value, ApiError> {
    let catalog = core.catalog.present();
    let Some(skill) = catalog.skill(name) else {
        return Err(
            ApiError::new(ErrorCode::SkillNotFound, "there is no such skill").with(json!({"name": name}))
        );
    };
    let tool = Arc::new(SkillTool::new(Arc::clone(skill), Some(core.brain.clone())));
    let model = Arc::new(OutsideTurns::new(core));
    match alone::call(core, tool, None, params, Arc::clone(&model) as _).await? {
        Ok(mut output) => {
            // there is no bash behind this answer to run them with
            if let Some(fields) = output.value.as_object_mut() {
                fields.remove("scripts");
            }
            Ok(output.value)
        }
        Err(failure) => refused_by(&model, failure),
    }
}

fn with_media(mut result: Value, output: &Output) -> Value {
    if !output.media.is_empty() {
        let shown =
            output.media.iter().map(|m| json!({"media_type": m.media_type, "data": BASE64.encode(&m.bytes)}));
        result["media"] = shown.collect();
    }
    result
}

/// A failed call: the provider's error as it is, any other failure as a result. (specification 3.4)
fn refused_by(model: &OutsideTurns, failure: Failure) -> Result<Value, ApiError> {
    if let Some(error) = model.error.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(error);
    }
    let Failure { reason, text, output, .. } = failure;
    match reason {
        ToolReason::McpConnectionFailed => Err(ApiError::new(ErrorCode::McpConnectionFailed, text)),
        ToolReason::McpTokenExpired => Err(ApiError::new(ErrorCode::McpTokenExpired, text)),
        reason => Ok(json!({"output": output, "error": text, "reason": reason.as_str()})),
    }
}

/// The model, for a call that belongs to no turn: nothing is streamed, the cost is booked without one.
struct OutsideTurns {
    core: Arc<Core>,
    error: Mutex<Option<ApiError>>,
}

impl OutsideTurns {
    fn new(core: &Arc<Core>) -> Self {
        Self { core: Arc::clone(core), error: Mutex::default() }
    }

    async fn make(&self, ask: ModelAsk) -> Result<String, ApiError> {
        let config = &self.core.config;
        let model = if ask.light { &config.light_model } else { &config.llm_model };
        let answer = once::ask(&self.core, model, ask.system, config.max_tokens).await;
        match answer {
            Ok(answer) => self.book(&answer.spent).await.map(|()| answer.text),
            Err(Failed { error, paid }) => {
                if let Some(spent) = paid {
                    self.book(&spent).await?;
                }
                Err(error.to_api())
            }
        }
    }

    async fn book(&self, spent: &Spent) -> Result<(), ApiError> {
        let row = spent.row(None, self.core.config.llm_provider.as_str());
        let written = self.core.brain.write("rpc usage", move |tx| brain::usage::record(tx, &row)).await;
        written.map_err(|e| storage(&e))
    }
}

impl AskModel for OutsideTurns {
    fn ask(&self, ask: ModelAsk) -> BoxFuture<'_, Result<String, Failure>> {
        Box::pin(async move {
            self.make(ask).await.map_err(|error| {
                let failure = Failure::new(ToolReason::Failed, error.message.clone());
                *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                failure
            })
        })
    }
}
