//! A connector's action as a tool like any other: the same registry, the same rules, the same journal.
//!
//! The invariant: a definition that nobody approved is not called; the yes of a person pins exactly the
//! definition that the question showed.

use super::person::Person;
use crate::core::Core;
use crate::permissions::rules::{self, ActionFacts, Pin};
use crate::permissions::{ANSWERS_ONCE, Grants, PermissionContext, Prompt, Scope, Verdict};
use crate::tools::schema;
use crate::tools::tool::{CallContext, Effect, Failure, Kind, Media, Output, Tool};
use connectors::connection::CallOptions;
use connectors::directory::{Directory, Offered};
use connectors::server;
use connectors::trouble::Trouble;
use contract::ToolReason;
use futures::future::BoxFuture;
use schemas::Schema;
use serde_json::{Map, Value};
use std::sync::{Arc, Weak};

/// One action of one connection, as it was offered when this object was made.
pub struct ConnectorTool {
    offered: Offered,
    directory: Directory,
    core: Weak<Core>,
}

impl ConnectorTool {
    /// A tool of what the directory offers.
    pub fn new(offered: Offered, directory: Directory, core: Weak<Core>) -> Self {
        Self { offered, directory, core }
    }

    /// The rule a person's answer is about.
    fn rule(&self) -> String {
        format!("mcp:{}:{}", self.offered.name, self.offered.hash)
    }

    async fn call(&self, call: CallContext, input: Map<String, Value>) -> Result<Output, Failure> {
        if self.offered.difference.is_some() {
            self.approve(&input).await?;
        }
        let person =
            Person::new(self.core.clone(), call.task_id.clone(), call.turn_id.clone(), call.call_id.clone());
        let options = CallOptions {
            cancel: call.cancel.clone(),
            ask: Some(Arc::new(person)),
            definition: Some(self.offered.hash.clone()),
        };
        let action = &self.offered.definition.action;
        let done = self.directory.call(&self.offered.ref_id, action, input, &options).await;
        let word = match &done {
            Ok(answer) if answer.failed => "failed",
            Ok(_) => "ok",
            Err(_) => "error",
        };
        metrics::counter!("engine_mcp_calls_total", "server" => self.offered.server_name.clone(), "outcome" => word)
            .increment(1);
        let answer = done.map_err(|trouble| failure(&trouble))?;
        let images = answer.images.iter();
        let media =
            images.map(|i| Media { media_type: i.media_type.clone(), bytes: i.bytes.clone() }).collect();
        match answer.failed {
            true => Err(Failure::new(ToolReason::Failed, answer.text())),
            false => Ok(Output { value: answer.value, media, full: None }),
        }
    }

    /// The permission question was answered with yes: what it showed is pinned, and the input looked at again.
    async fn approve(&self, input: &Map<String, Value>) -> Result<(), Failure> {
        let Offered { ref_id, definition, hash, name, .. } = &self.offered;
        // The listing may be as old as the question: what the server says now is what would run.
        self.directory.refresh_tools(ref_id).await.map_err(|trouble| failure(&trouble))?;
        let pinned = self.directory.approve(ref_id, &definition.action, hash).await;
        if !pinned.map_err(|error| Failure::new(ToolReason::Unavailable, error.to_string()))? {
            let text = format!("{name} has changed again since the person was asked; call it once more");
            return Err(Failure::new(ToolReason::Unavailable, text));
        }
        let offered = self.directory.offered();
        let Some(now) = offered.iter().find(|one| one.name == *name) else {
            return Err(Failure::new(ToolReason::Unavailable, format!("{name} is gone")));
        };
        let schema = Schema::new(&now.definition.input_schema)
            .map_err(|_| Failure::new(ToolReason::Unavailable, format!("{name} has no usable schema now")))?;
        let complaints = schema::complaints(&Arc::new(schema), &Value::Object(input.clone())).await;
        match complaints.first() {
            None => Ok(()),
            Some(error) => {
                let text =
                    format!("the definition of {name} has changed, and the input does not fit it: {error}");
                Err(Failure::new(ToolReason::InvalidInput, text))
            }
        }
    }
}

fn failure(trouble: &Trouble) -> Failure {
    let reason = match trouble {
        Trouble::Unauthorized(_) | Trouble::Scope(_) => ToolReason::McpTokenExpired,
        Trouble::TimedOut(_) => ToolReason::Timeout,
        Trouble::Refused(_) => ToolReason::Failed,
        Trouble::Changed => {
            let text = format!("{trouble}; call it once more, and the person is asked");
            return Failure::new(ToolReason::Unavailable, text);
        }
        Trouble::Cancelled => return Failure::cancelled(),
        Trouble::Gone
        | Trouble::Resting(_)
        | Trouble::Reopened
        | Trouble::Unreachable(_)
        | Trouble::Garbage(_)
        | Trouble::Cut(_)
        | Trouble::Books(_) => ToolReason::McpConnectionFailed,
    };
    Failure::new(reason, trouble.to_string())
}

impl Tool for ConnectorTool {
    fn name(&self) -> &str {
        &self.offered.name
    }

    fn description(&self) -> &str {
        &self.offered.definition.description
    }

    fn input_schema(&self) -> &Value {
        &self.offered.definition.input_schema
    }

    fn effect(&self, _input: &Value) -> Effect {
        match self.offered.effect {
            server::Effect::ReadOnly => Effect::ReadOnly,
            server::Effect::Idempotent => Effect::Idempotent,
            server::Effect::Once => Effect::Once,
        }
    }

    fn kind(&self) -> Kind {
        Kind::Mcp
    }

    fn available(&self) -> bool {
        self.offered.available
    }

    fn is_described_elsewhere(&self) -> bool {
        true
    }

    fn reads_untrusted(&self) -> bool {
        true
    }

    fn check(&self, _input: &Value, context: &PermissionContext<'_>) -> Verdict {
        let Some(difference) = &self.offered.difference else {
            let facts = ActionFacts {
                name: &self.offered.name,
                definition: &self.offered.hash,
                pin: Pin::Same,
                once: context.class == Effect::Once,
                trusted: self.offered.trusted,
                untrusted: context.reading.untrusted,
                agreed_in_turn: context.agreed.contains(&self.rule()),
            };
            return rules::action(&facts, context);
        };
        let (server, name) = (&self.offered.server_name, &self.offered.name);
        if !difference.is_whole {
            let reason = format!(
                "the definition of {name} is new in more than a question can show; the person has to connect {server} anew"
            );
            return Verdict::Deny { reason };
        }
        let difference = &difference.text;
        Verdict::Prompt(Prompt {
            rule: self.rule(),
            reason: format!("the definition of this tool of {server} was never approved as it is now"),
            question: format!("Use {name} as {server} describes it now?\n{difference}"),
            options: ANSWERS_ONCE.map(String::from).to_vec(),
            grants: Grants::default(),
            // The rule names the definition itself.
            scope: Scope::default(),
            touches: Vec::new(),
            diff: None,
        })
    }

    fn run<'a>(&'a self, call: CallContext, input: Value) -> BoxFuture<'a, Result<Output, Failure>> {
        Box::pin(async move {
            match input {
                Value::Object(input) => self.call(call, input).await,
                _ => Err(Failure::new(ToolReason::InvalidInput, "the input is not a JSON object")),
            }
        })
    }
}
