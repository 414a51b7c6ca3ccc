//! The tools one agent may call in one loop: what its catalog has, its list names and its place allows.
//!
//! Made once per loop, so that what a model is offered and what is run for it are judged by the same version.

use super::own;
use super::tool::Tool;
use crate::catalog::{Agent, Catalog};
use llm::ToolSpec;
use serde_json::Value;
use std::sync::Arc;

/// What goes by the place of a loop and not only by its agent's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// The planner: only the main loop makes plans, and not when the caller wants a direct answer.
    pub plan: bool,
    /// Sub-agents: not at the lowest depth.
    pub delegate: bool,
}

/// An agent at work, with the catalog its turn keeps.
#[derive(Debug, Clone)]
pub struct Toolbox {
    /// Who works.
    pub agent: Arc<Agent>,
    /// What the turn sees.
    pub catalog: Arc<Catalog>,
    /// What its place allows.
    pub offer: Offer,
}

impl Toolbox {
    /// The tools of `agent` in `catalog`; `None` when there is no such agent.
    pub fn of(agent: &str, catalog: Arc<Catalog>, offer: Offer) -> Option<Self> {
        Some(Self { agent: Arc::clone(catalog.agent(agent)?), catalog, offer })
    }

    /// The tool of this name, when the agent may call it.
    pub fn get(&self, name: &str) -> Option<Arc<dyn Tool>> {
        let tool = self.catalog.tools().get(name)?;
        self.allows(&**tool).then(|| Arc::clone(tool))
    }

    fn allows(&self, tool: &dyn Tool) -> bool {
        let named = self.catalog.allows(&self.agent, tool.name());
        match tool.function() {
            // goes with every non-empty list
            own::PLAN => {
                self.offer.plan && (named || (tool.name() == own::PLAN && !self.agent.tools.is_empty()))
            }
            own::DELEGATE => self.offer.delegate && named,
            _ => named,
        }
    }

    /// What is wrong with an input.
    pub async fn complaints(&self, name: &str, input: &Value) -> Vec<String> {
        if input.is_object() {
            self.catalog.tools().complaints(name, input).await
        } else {
            vec!["the input is not a JSON object".to_owned()]
        }
    }

    /// What the model is offered, sorted by name.
    pub fn offered(&self) -> Vec<ToolSpec> {
        let tools = self.catalog.tools().iter().filter(|t| self.allows(&***t));
        tools
            .map(|t| ToolSpec {
                name: t.name().to_owned(),
                description: match t.function() {
                    own::DELEGATE => format!("{}\n{}", t.description(), self.agents()),
                    _ => t.description().to_owned(),
                },
                input_schema: t.input_schema().clone(),
            })
            .collect()
    }

    /// Whether a server wrote the description of any tool that the model is offered.
    pub fn is_described_elsewhere(&self) -> bool {
        self.catalog.tools().iter().any(|tool| tool.is_described_elsewhere() && self.allows(&**tool))
    }

    /// Every agent with what it is for: a model can only ask for those it knows.
    fn agents(&self) -> String {
        let names = self.catalog.agent_names();
        let agents = names.iter().filter_map(|name| self.catalog.agent(name));
        let lines: Vec<String> = agents.map(|a| format!("- {}: {}", a.name, a.description)).collect();
        format!("Agents:\n{}", lines.join("\n"))
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
