//! The tools one agent may call in one turn: what its catalog has and its list names.
//!
//! Made once per turn, so that what a model is offered and what is run for it are judged by the same version.

use super::tool::Tool;
use crate::catalog::{Agent, Catalog};
use llm::ToolSpec;
use serde_json::Value;
use std::sync::Arc;

/// An agent at work, with the catalog its turn keeps.
#[derive(Debug, Clone)]
pub struct Toolbox {
    /// Who works.
    pub agent: Arc<Agent>,
    /// What the turn sees.
    pub catalog: Arc<Catalog>,
}

impl Toolbox {
    /// The tools of `agent` in `catalog`; `None` when there is no such agent.
    pub fn of(agent: &str, catalog: Arc<Catalog>) -> Option<Self> {
        Some(Self { agent: Arc::clone(catalog.agent(agent)?), catalog })
    }

    /// The tool of this name, when the agent may call it.
    pub fn get(&self, name: &str) -> Option<Arc<dyn Tool>> {
        let tool = self.catalog.tools().get(name)?;
        self.catalog.allows(&self.agent, name).then(|| Arc::clone(tool))
    }

    /// What is wrong with an input.
    pub fn complaints(&self, name: &str, input: &Value) -> Vec<String> {
        if input.is_object() {
            self.catalog.tools().complaints(name, input)
        } else {
            vec!["the input is not a JSON object".to_owned()]
        }
    }

    /// What the model is offered, sorted by name.
    pub fn offered(&self) -> Vec<ToolSpec> {
        let tools = self.catalog.tools().iter().filter(|t| self.catalog.allows(&self.agent, t.name()));
        tools
            .map(|t| ToolSpec {
                name: t.name().to_owned(),
                description: t.description().to_owned(),
                input_schema: t.input_schema().clone(),
            })
            .collect()
    }

    /// The model of the agent's calls.
    pub fn model(&self) -> &str {
        self.catalog.model_of(&self.agent.name)
    }

    /// The output limit of the agent's calls.
    pub fn max_tokens(&self, configured: u32) -> u32 {
        self.agent.max_tokens.unwrap_or(configured)
    }
}
