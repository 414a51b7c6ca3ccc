//! A tool as the catalog describes it: the description and schema of the file, the work of something else.
//!
//! The invariant: nothing reaches a function that the function's own schema refuses, whatever the file says.

use super::skill::Skill;
use super::tool::{Implementation, SUBMIT, ToolFile};
use crate::permissions::{PermissionContext, Verdict};
use crate::tools::registry::Registry;
use crate::tools::skill;
use crate::tools::tool::{CallContext, Effect, Failure, Kind, Output, Tool};
use brain::Brain;
use contract::ToolReason;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use std::sync::Arc;

/// What does the work.
enum Work {
    Function(Arc<dyn Tool>, Registry),
    Submit,
    Skill(Arc<Skill>, Option<Brain>),
    /// A skill or a connector's action that is not there.
    Absent(String),
}

/// A tool of tools/<tool>.json.
pub struct MadeTool {
    file: Arc<ToolFile>,
    work: Work,
    kind: Kind,
}

impl MadeTool {
    /// A tool made of what the file names.
    pub fn new(
        file: Arc<ToolFile>,
        platform: &Registry,
        skill: Option<Arc<Skill>>,
        brain: Option<&Brain>,
    ) -> Self {
        let (work, kind) = match &file.implementation {
            Implementation::Platform(name) if name == SUBMIT => (Work::Submit, Kind::Platform),
            Implementation::Platform(name) => {
                let work = match platform.get(name) {
                    Some(function) => Work::Function(Arc::clone(function), platform.clone()),
                    None => Work::Absent(format!("there is no function `{name}`")),
                };
                (work, Kind::Platform)
            }
            Implementation::Skill(name) => {
                let work = match skill {
                    Some(skill) => Work::Skill(skill, brain.cloned()),
                    None => Work::Absent(format!("there is no skill `{name}`")),
                };
                (work, Kind::Skill)
            }
            Implementation::Mcp { server, action } => {
                let work = match platform.get(&format!("{server}.{action}")) {
                    Some(function) => Work::Function(Arc::clone(function), platform.clone()),
                    None => Work::Absent(format!("{server} is not connected, or has no action {action}")),
                };
                (work, Kind::Mcp)
            }
        };
        Self { file, work, kind }
    }
}

impl Tool for MadeTool {
    fn name(&self) -> &str {
        &self.file.name
    }

    fn description(&self) -> &str {
        &self.file.description
    }

    fn input_schema(&self) -> &Value {
        &self.file.input_schema
    }

    fn effect(&self, input: &Value) -> Effect {
        let own = match &self.work {
            Work::Function(function, _) => function.effect(input),
            Work::Submit => Effect::ReadOnly,
            Work::Skill(skill, _) => skill::effect_of(skill),
            Work::Absent(_) => Effect::Once,
        };
        own.tightened_by(self.file.effect.unwrap_or(Effect::ReadOnly))
    }

    fn requires_permission(&self) -> bool {
        self.file.requires_permission
            || matches!(&self.work, Work::Function(function, _) if function.requires_permission())
    }

    fn high_cost(&self) -> bool {
        self.file.high_cost || matches!(&self.work, Work::Function(function, _) if function.high_cost())
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn available(&self) -> bool {
        match &self.work {
            Work::Function(function, _) => function.available(),
            Work::Submit | Work::Skill(..) => true,
            Work::Absent(_) => false,
        }
    }

    fn function(&self) -> &str {
        match &self.work {
            Work::Function(function, _) => function.function(),
            Work::Submit | Work::Skill(..) | Work::Absent(_) => &self.file.name,
        }
    }

    fn below(&self) -> Option<(&Registry, &str)> {
        match &self.work {
            Work::Function(function, platform) => Some((platform, function.name())),
            Work::Submit | Work::Skill(..) | Work::Absent(_) => None,
        }
    }

    fn reads_untrusted(&self) -> bool {
        matches!(&self.work, Work::Function(function, _) if function.reads_untrusted())
    }

    fn holds_untrusted(&self, output: &Value) -> bool {
        matches!(&self.work, Work::Function(function, _) if function.holds_untrusted(output))
    }

    fn check(&self, input: &Value, context: &PermissionContext<'_>) -> Verdict {
        match &self.work {
            Work::Function(function, _) => function.check(input, context),
            Work::Submit | Work::Skill(..) | Work::Absent(_) => Verdict::allow(),
        }
    }

    fn run<'a>(&'a self, call: CallContext, input: Value) -> BoxFuture<'a, Result<Output, Failure>> {
        match &self.work {
            Work::Function(function, _) => function.run(call, input),
            Work::Submit => Box::pin(async { Ok(Output::json(json!({"status": "received"}))) }),
            Work::Skill(skill, brain) => Box::pin(skill::run(skill, brain.as_ref(), call, input)),
            Work::Absent(why) => Box::pin(async { Err(Failure::new(ToolReason::Unavailable, why.clone())) }),
        }
    }
}
