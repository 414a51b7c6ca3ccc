//! Skills as tools: a prompt skill is one model call, a script skill one child in the sandbox.
//! (specification 8.4)
//!
//! Scripts are put into a new directory of the task's private scratch for each call, and read from the
//! catalog or the brain at that moment. A skill never sees more than the call that runs it.

mod unpack;

use super::shell::{answer, launch_failure};
use super::tool::{CallContext, Effect, Failure, Kind, ModelAsk, Output, Tool};
use crate::catalog::skill::{Scripts, Skill};
use crate::catalog::template;
use crate::sandbox::Command;
use brain::Brain;
use contract::ToolReason;
use futures::future::BoxFuture;
use serde_json::{Map, Value, json};
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

/// A skill under the name of its tool, `skill_<name>`.
#[derive(Clone)]
pub struct SkillTool {
    name: String,
    description: String,
    schema: Value,
    skill: Arc<Skill>,
    brain: Option<Brain>,
}

impl SkillTool {
    /// The tool of a skill.
    pub fn new(skill: Arc<Skill>, brain: Option<Brain>) -> Self {
        Self {
            name: skill.tool_name(),
            description: match skill.description.as_str() {
                "" => format!("Runs the skill {}.", skill.name),
                text => text.to_owned(),
            },
            schema: skill.input_schema(),
            skill,
            brain,
        }
    }
}

impl Tool for SkillTool {
    fn name(&self) -> &str {
        &self.name
    }

    fn description(&self) -> &str {
        &self.description
    }

    fn input_schema(&self) -> &Value {
        &self.schema
    }

    fn effect(&self, _input: &Value) -> Effect {
        effect_of(&self.skill)
    }

    fn kind(&self) -> Kind {
        Kind::Skill
    }

    fn run<'a>(&'a self, call: CallContext, input: Value) -> BoxFuture<'a, Result<Output, Failure>> {
        Box::pin(run(&self.skill, self.brain.as_ref(), call, input))
    }
}

/// A prompt can be run again; what scripts do nobody knows.
pub fn effect_of(skill: &Skill) -> Effect {
    if skill.prompt_template.is_some() { Effect::Idempotent } else { Effect::Once }
}

/// Runs a skill with these parameters.
pub async fn run(
    skill: &Skill,
    brain: Option<&Brain>,
    call: CallContext,
    parameters: Value,
) -> Result<Output, Failure> {
    let Value::Object(parameters) = parameters else {
        return Err(Failure::new(ToolReason::InvalidInput, "the parameters are not a JSON object"));
    };
    match &skill.prompt_template {
        Some(template) if skill.scripts.is_empty() => {
            let text = ask(skill, template::fill(template, &parameters), &call).await?;
            Ok(Output::json(json!({"text": text})))
        }
        Some(template) => with_scripts_at_hand(skill, brain, template, &parameters, &call).await,
        None => run_script(skill, brain, &parameters, &call).await,
    }
}

async fn ask(skill: &Skill, system: String, call: &CallContext) -> Result<String, Failure> {
    let ask = ModelAsk { light: skill.category == "light", system };
    call.unless_cancelled(call.model.ask(ask)).await
}

/// The prompt comes first; its scripts are put where `bash` finds them, and both are named in the answer.
async fn with_scripts_at_hand(
    skill: &Skill,
    brain: Option<&Brain>,
    template: &str,
    parameters: &Map<String, Value>,
    call: &CallContext,
) -> Result<Output, Failure> {
    let dir = unpacked(skill, brain, &call.task_tmp).await?;
    let paths: Vec<String> =
        skill.scripts.names().iter().map(|n| dir.join(n).display().to_string()).collect();
    let system = format!(
        "{}\n\nThese scripts can be run with bash by whoever reads your answer: {}",
        template::fill(template, parameters),
        paths.join(", ")
    );
    let text = ask(skill, system, call).await?;
    Ok(Output::json(json!({"text": text, "scripts": paths})))
}

async fn run_script(
    skill: &Skill,
    brain: Option<&Brain>,
    parameters: &Map<String, Value>,
    call: &CallContext,
) -> Result<Output, Failure> {
    let Some(entry) = &skill.entry else {
        return Err(Failure::new(ToolReason::Unavailable, "the skill has neither a prompt nor a script"));
    };
    let dir = unpacked(skill, brain, &call.task_tmp).await?;
    let (program, args) = program_of(&dir.join(entry));
    let mut command = Command::new(program, args);
    command.stdin = Some(Value::Object(parameters.clone()).to_string().into_bytes());
    command.grants = call.grants.clone();
    // held to the end of the call: a yes is for this call alone
    let pass = call.proxy.as_ref().map(|proxy| proxy.pass(&call.grants.hosts));
    if let Some(pass) = &pass {
        pass.open_for(&mut command);
    }
    let spawned = call.launcher.spawn(command, &call.workspace, &call.groups).await;
    let done = match spawned {
        Ok(running) => {
            (call.on_spawn)(running.pgid()).await;
            let finished = running.finish(skill.timeout, &call.cancel).await;
            answer(finished, skill.timeout, call.output_max, &call.known)
        }
        Err(error) => Err(launch_failure(&error)),
    };
    // nothing is lost when it stays: the scratch is emptied with its task
    let _ = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(dir)).await;
    let mut output = done?;
    if let Some(fields) = output.value.as_object_mut() {
        fields.remove("timed_out");
    }
    Ok(output)
}

/// `.py` by python3, `.sh` by sh, anything else by itself.
fn program_of(script: &Path) -> (OsString, Vec<OsString>) {
    match script.extension().and_then(|e| e.to_str()) {
        Some("py") => ("python3".into(), vec![script.into()]),
        Some("sh") => ("/bin/sh".into(), vec![script.into()]),
        _ => (script.into(), Vec::new()),
    }
}

async fn unpacked(
    skill: &Skill,
    brain: Option<&Brain>,
    scratch: &Path,
) -> Result<std::path::PathBuf, Failure> {
    let unavailable = |why: String| Failure::new(ToolReason::Unavailable, why);
    let files = match &skill.scripts {
        Scripts::Kept(files) => files.clone(),
        Scripts::InBrain(_) => {
            let Some(brain) = brain else { return Err(unavailable("there is no brain here".to_owned())) };
            let name = skill.name.clone();
            let read = brain.read("skill scripts", move |tx| brain::skills::scripts(tx, &name)).await;
            read.map_err(|e| unavailable(format!("the skill's scripts cannot be read: {e}")))?
        }
    };
    if files.is_empty() {
        return Err(unavailable("the skill has been deleted".to_owned()));
    }
    let scratch = scratch.to_path_buf();
    let done = tokio::task::spawn_blocking(move || unpack::into_new_dir(&scratch, &files)).await;
    match done {
        Ok(Ok(dir)) => Ok(dir),
        Ok(Err(error)) => Err(unavailable(format!("the skill's scripts cannot be unpacked: {error}"))),
        Err(_) => Err(unavailable("the skill's scripts cannot be unpacked; this is a bug".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_started_by_its_ending() {
        let started = |name: &str| {
            let (program, args) = program_of(Path::new(name));
            format!("{} {args:?}", program.display())
        };
        assert_eq!(started("/t/main.py"), "python3 [\"/t/main.py\"]");
        assert_eq!(started("/t/main.sh"), "/bin/sh [\"/t/main.sh\"]");
        assert_eq!(started("/t/main"), "/t/main []");
    }
}
