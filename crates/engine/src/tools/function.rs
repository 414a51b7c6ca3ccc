//! What the functions of this program have in common as tools: a card, an input type, and one way to run.
//!
//! A function states only what differs from the others; [`tool`] makes a [`Tool`] of it. Skills, connectors' actions
//! and the tools of catalog files are no functions: what they are is known only when they are loaded.
//!
//! The invariant: a function's schema is closed, and its input has been read into its type before it runs.

use super::tool::{CallContext, Effect, Failure, Output, Tool};
use crate::permissions::{PermissionContext, Verdict};
use contract::ToolReason;
use futures::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::future::Future;
use std::sync::Arc;

/// Characters of a path: as many as Linux takes in one. Fewer would refuse files that exist.
const PATH_CHARS: usize = 4096;

/// What is known of a function before anybody calls it.
#[derive(Debug, Clone)]
pub struct Card {
    /// Its name.
    pub name: &'static str,
    /// Inputs, outputs, when to use it and when not, for the model.
    pub description: &'static str,
    /// Its effect class; [`Function::effect`] may say otherwise of one input.
    pub effect: Effect,
    /// The properties that every input has.
    pub required: &'static [&'static str],
    /// The schema of every property, by name. There are no others.
    pub properties: Value,
}

impl Card {
    fn schema(&self) -> Value {
        let mut schema =
            json!({"type": "object", "additionalProperties": false, "properties": self.properties});
        if !self.required.is_empty() {
            schema["required"] = json!(self.required);
        }
        schema
    }
}

/// A function of this program that models can call. Where a method says nothing else, it means what the method of
/// the same name in [`Tool`] means.
pub trait Function: Send + Sync + 'static {
    /// What an input is read into.
    type Input: DeserializeOwned + Send;

    /// What is known of it; asked for once.
    fn card(&self) -> Card;

    /// The effect class of this very input; `usual` is the card's.
    fn effect(&self, usual: Effect, _input: &Value) -> Effect {
        usual
    }

    /// What is wrong with an input that its schema accepts.
    fn complaints(&self, _input: &Value) -> Vec<String> {
        Vec::new()
    }

    /// True when what it gives back was written by somebody else.
    fn reads_untrusted(&self) -> bool {
        false
    }

    /// True when this output holds words of somebody else.
    fn holds_untrusted(&self, _output: &Value) -> bool {
        false
    }

    /// Its own permission rules for this input.
    fn check(&self, _input: &Value, _context: &PermissionContext<'_>) -> Verdict {
        Verdict::allow()
    }

    /// Runs the call.
    fn run(
        &self,
        call: CallContext,
        input: Self::Input,
    ) -> impl Future<Output = Result<Output, Failure>> + Send;
}

/// The tool of a function.
pub fn tool(function: impl Function) -> Arc<dyn Tool> {
    let card = function.card();
    Arc::new(Platform { schema: card.schema(), card, function })
}

/// A property that is a path of the workspace.
pub fn path_property(description: &str) -> Value {
    json!({"type": "string", "minLength": 1, "maxLength": PATH_CHARS, "description": description})
}

struct Platform<F> {
    card: Card,
    schema: Value,
    function: F,
}

impl<F: Function> Tool for Platform<F> {
    fn name(&self) -> &str {
        self.card.name
    }

    fn description(&self) -> &str {
        self.card.description
    }

    fn input_schema(&self) -> &Value {
        &self.schema
    }

    fn effect(&self, input: &Value) -> Effect {
        self.function.effect(self.card.effect, input)
    }

    fn complaints(&self, input: &Value) -> Vec<String> {
        self.function.complaints(input)
    }

    fn reads_untrusted(&self) -> bool {
        self.function.reads_untrusted()
    }

    fn holds_untrusted(&self, output: &Value) -> bool {
        self.function.holds_untrusted(output)
    }

    fn check(&self, input: &Value, context: &PermissionContext<'_>) -> Verdict {
        self.function.check(input, context)
    }

    fn run<'a>(&'a self, call: CallContext, input: Value) -> BoxFuture<'a, Result<Output, Failure>> {
        Box::pin(async move {
            // the schema has been checked; a mismatch that it let through is answered like one it did not
            let input = serde_json::from_value(input)
                .map_err(|e| Failure::new(ToolReason::InvalidInput, e.to_string()))?;
            self.function.run(call, input).await
        })
    }
}
