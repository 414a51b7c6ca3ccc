//! A call outside any turn (POST /rpc): the same steps as inside one, but there is nobody to ask.
//!
//! Resolve, validate, hooks, rules, run, hooks. There is no turn to journal it in and no turn to pause: a call
//! that the rules would ask about is refused. The invariant: what is refused here runs nowhere.

use super::{count, long_term};
use crate::catalog::hooks::HookEvent;
use crate::core::Core;
use crate::outbound::facts::Reading;
use crate::permissions::{self, PermissionContext, Remembered, Verdict};
use crate::sandbox::{ProcessGroups, Workspace};
use crate::tools::own;
use crate::tools::registry::Registry;
use crate::tools::result;
use crate::tools::tool::{AskModel, CallContext, Failure, NoDocuments, Output, Tool};
use crate::turn::hooks::{Gate, Runner, appended};
use brain::observability::{self, Observation};
use contract::{ApiError, CallId, ErrorCode, TaskId, Timestamp, TurnId};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Functions that make no sense without a turn. (specification 3.4)
pub const ONLY_IN_TURNS: [&str; 4] = own::NAMES;

/// Runs one call of a tool with all its checks. `checked_by` has the schema of its input; without one anything fits.
pub async fn call(
    core: &Arc<Core>,
    tool: Arc<dyn Tool>,
    checked_by: Option<&Registry>,
    input: Value,
    model: Arc<dyn AskModel>,
) -> Result<Result<Output, Failure>, ApiError> {
    let place = Place::make(core)?;
    let done = one(core, &*tool, checked_by, input, model, &place).await;
    place.groups.kill_all().await;
    let dir = place.dir.clone();
    // what is left over goes with the next emptying of the scratch
    let _ = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(dir)).await;
    done
}

/// A private directory and the processes in it, for one call.
struct Place {
    dir: PathBuf,
    workspace: Arc<Workspace>,
    groups: Arc<ProcessGroups>,
}

impl Place {
    fn make(core: &Core) -> Result<Self, ApiError> {
        let dir = core.scratch.join(format!("rpc-{:016x}", rand::random::<u64>()));
        let made = std::fs::DirBuilder::new().mode(0o700).create(&dir);
        let workspace = made.and_then(|()| core.workspace.for_task(&dir)).map_err(|error| {
            tracing::error!(code = "INTERNAL", error = %error, "A private directory cannot be made");
            ApiError::new(ErrorCode::Internal, "a private directory for the call cannot be made")
        })?;
        let groups = Arc::new(ProcessGroups::new(dir.clone()));
        Ok(Self { dir, workspace: Arc::new(workspace), groups })
    }
}

async fn one(
    core: &Arc<Core>,
    tool: &dyn Tool,
    checked_by: Option<&Registry>,
    input: Value,
    model: Arc<dyn AskModel>,
    place: &Place,
) -> Result<Result<Output, Failure>, ApiError> {
    refuse_bad(checked_by, tool, &input).await?;
    let catalog = core.catalog.present();
    let cancel = core.halt.child_token();
    let runner = Runner {
        launcher: &core.launcher,
        workspace: &place.workspace,
        groups: &place.groups,
        readable: core.config.catalog_dir.iter().cloned().collect(),
        cancel: &cancel,
        known: &core.known,
    };
    let name = tool.name().to_owned();
    let mut subject = json!({"task_id": null, "turn_id": null, "agent": null, "tool": name, "input": input});
    let before = if core.config.pre_tool_hooks_enabled {
        catalog.hooks(HookEvent::PreTool, &name)
    } else {
        Vec::new()
    };
    let (input, ask) = match runner.before(&before, &subject).await {
        Gate::Go(passed) => (passed.input.unwrap_or(input), passed.ask),
        Gate::Deny(reason) => return Err(denied(core, &name, None, reason).await),
        Gate::Stopped => return Err(ApiError::new(ErrorCode::Draining, "the engine is shutting down")),
    };
    refuse_bad(checked_by, tool, &input).await?;
    let (remembered, agreed) = (Remembered::default(), HashSet::new());
    let context = PermissionContext {
        workspace: &place.workspace,
        remembered: &remembered,
        network: &core.config.tool_network_allowlist,
        // no turn, so nothing has been read in it
        reading: Reading::default(),
        agreed: &agreed,
        class: tool.effect(&input),
    };
    let grants = match permissions::check(tool, &input, &context) {
        Verdict::Allow { grants, .. } => match ask {
            None => grants,
            Some(reason) => return Err(denied(core, &name, Some(format!("tool:{name}")), reason).await),
        },
        Verdict::Deny { reason } => return Err(denied(core, &name, None, reason).await),
        Verdict::Prompt(question) => {
            return Err(denied(core, &name, Some(question.rule), question.reason).await);
        }
    };
    let call = CallContext {
        task_id: TaskId::parse("rpc").map_err(|_| ApiError::new(ErrorCode::Internal, "a bug"))?,
        turn_id: TurnId::generate(),
        call_id: CallId::generate(),
        workspace: Arc::clone(&place.workspace),
        launcher: Arc::clone(&core.launcher),
        proxy: core.proxy.clone(),
        known: Arc::clone(&core.known),
        grants,
        cancel: cancel.clone(),
        output_max: core.config.tool_output_max_bytes,
        groups: Arc::clone(&place.groups),
        // nothing survives this process that would have to be found: the scratch marks its processes
        on_spawn: Arc::new(|_| Box::pin(async {})),
        task_tmp: place.dir.clone(),
        model,
        memory: Arc::new(long_term::OfCaller::new(core)),
        documents: Arc::new(NoDocuments),
    };
    let started = Instant::now();
    let outcome = tool.run(call, input.clone()).await;
    let mut outcome = result::scrubbed(&core.known, outcome);
    let word = outcome.as_ref().map_or_else(|f| f.reason.as_str(), |_| "ok");
    count(&name, word, started.elapsed());
    let after = if core.config.post_tool_hooks_enabled {
        catalog.hooks(HookEvent::PostTool, &name)
    } else {
        Vec::new()
    };
    subject["input"] = input;
    match &outcome {
        Ok(output) => subject["output"] = output.value.clone(),
        Err(failure) => {
            subject["output"] = failure.output.clone().unwrap_or(Value::Null);
            subject["error"] = json!(failure.text);
        }
    }
    if let Some(text) = runner.after(&after, &subject).await {
        match &mut outcome {
            Ok(output) => output.value = appended(std::mem::take(&mut output.value), &text),
            Err(failure) => {
                failure.output = Some(appended(failure.output.take().unwrap_or(Value::Null), &text))
            }
        }
    }
    Ok(outcome)
}

async fn refuse_bad(registry: Option<&Registry>, tool: &dyn Tool, input: &Value) -> Result<(), ApiError> {
    let Some(registry) = registry else { return Ok(()) };
    match registry.complaints(tool.name(), input).await {
        found if found.is_empty() => Ok(()),
        found => Err(ApiError::new(ErrorCode::ValidationError, "the params do not fit the schema")
            .with(json!({"field": "params", "problems": found}))),
    }
}

/// The refusal of a call, noted as every refusal is.
async fn denied(core: &Core, tool: &str, rule: Option<String>, reason: String) -> ApiError {
    let observation = Observation {
        kind: "permission_denied",
        code: None,
        task_id: None,
        turn_id: None,
        message: "a call over /rpc was not permitted".to_owned(),
        data: Some(json!({"tool": tool})),
        at: Timestamp::now(),
    };
    metrics::counter!("engine_permission_denied_total").increment(1);
    let noted = core.brain.write("note observation", move |tx| observability::note(tx, &observation)).await;
    if let Err(error) = noted {
        tracing::warn!(error = %error, "An observation could not be written");
    }
    let text = format!("this call is not permitted outside a turn, where nobody can be asked: {reason}");
    ApiError::new(ErrorCode::PermissionDenied, text)
        .with(json!({"rule": rule, "reason": reason, "tool": tool}))
}
