//! Model calls that a tool makes inside a turn: they belong to the call, so their events name it.

use crate::core::Core;
use crate::tools::tool::{AskModel, Failure, ModelAsk};
use crate::tools::toolbox::Toolbox;
use crate::turn::message::{Spent, record_usage};
use crate::turn::once::{self, Failed};
use brain::turns::Turn;
use contract::event::{Nested, Purpose};
use contract::{CallId, ToolReason};
use futures::future::BoxFuture;
use std::sync::Arc;

/// The model, for one call of one turn.
pub(super) struct OfTurn {
    core: Arc<Core>,
    turn: Turn,
    toolbox: Toolbox,
    call: CallId,
}

impl OfTurn {
    pub fn new(core: &Arc<Core>, turn: &Turn, toolbox: &Toolbox, call: &CallId) -> Self {
        Self { core: Arc::clone(core), turn: turn.clone(), toolbox: toolbox.clone(), call: call.clone() }
    }

    async fn make(&self, ask: ModelAsk) -> Result<String, Failure> {
        let model = if ask.light { &self.core.config.light_model } else { self.toolbox.model() };
        let limit = self.toolbox.max_tokens(self.core.config.max_tokens);
        let answer = once::ask(&self.core, model, ask.system, limit).await;
        match answer {
            Ok(answer) => self.book(answer.spent).await.map(|()| answer.text),
            Err(Failed { error, paid }) => {
                if let Some(spent) = paid {
                    self.book(spent).await?;
                }
                Err(Failure::new(ToolReason::Failed, format!("the model call failed: {error}")))
            }
        }
    }

    async fn book(&self, spent: Spent) -> Result<(), Failure> {
        let nested = Nested { agent: self.turn.agent.clone(), parent_tool_call_id: self.call.clone() };
        let spent = Spent { purpose: Purpose::Skill, ..spent };
        let (turn, provider) = (self.turn.clone(), self.core.config.llm_provider.as_str());
        let written = self
            .core
            .record("skill usage", move |tx, out| {
                record_usage(tx, out, &turn, &spent, provider, Some(&nested))
            })
            .await;
        written
            .map_err(|e| Failure::new(ToolReason::Failed, format!("what the call cost was not stored: {e}")))
    }
}

impl AskModel for OfTurn {
    fn ask(&self, ask: ModelAsk) -> BoxFuture<'_, Result<String, Failure>> {
        Box::pin(self.make(ask))
    }
}
