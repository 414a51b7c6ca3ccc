//! One version of the whole catalog: the layers on top of each other, and what refers to what resolved.
//!
//! A snapshot never changes; a new version is a new one. Pure: it is made from entries that are valid alone,
//! and tells what does not fit together as warnings.

use super::agent::{Agent, Layer, model_of};
use super::builtin;
use super::entries::Entries;
use super::hooks::{Hook, HookEvent};
use super::made::MadeTool;
use super::problem::{Problem, quoted};
use super::skill::Skill;
use super::tool::Implementation;
use crate::config::Provider;
use crate::tools::registry::Registry;
use crate::tools::skill::SkillTool;
use crate::tools::tool::Tool;
use brain::Brain;
use brain::soul::Soul;
use connectors::server::Entry;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the models of agents are judged by.
#[derive(Debug, Clone)]
pub struct Models {
    /// LLM_PROVIDER.
    pub provider: Provider,
    /// LLM_BASE_URL is set: any name may be right.
    pub has_base_url: bool,
    /// LLM_MODEL.
    pub configured: String,
}

/// An agent with the model its calls go to.
#[derive(Debug, Clone)]
struct Seat {
    agent: Arc<Agent>,
    model: String,
}

/// One version of the catalog.
#[derive(Debug, Clone)]
pub struct Catalog {
    version: u64,
    agents: BTreeMap<String, Seat>,
    skills: BTreeMap<String, Arc<Skill>>,
    skill_tools: BTreeMap<String, String>,
    tools: Registry,
    servers: BTreeMap<String, Arc<Entry>>,
    hooks: Arc<Vec<Hook>>,
    soul: Option<Soul>,
}

impl Catalog {
    /// Puts a version together. Custom skills whose name a platform skill has taken are left out.
    pub fn assemble(
        version: u64,
        entries: &Entries,
        platform: &Registry,
        custom: &[Arc<Skill>],
        models: &Models,
        brain: Option<&Brain>,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let skills = layered_skills(entries, custom);
        let mut tools = platform.clone();
        let mut skill_tools = BTreeMap::new();
        for skill in skills.values() {
            let tool = SkillTool::new(Arc::clone(skill), brain.cloned());
            skill_tools.insert(tool.name().to_owned(), skill.name.clone());
            add(&mut tools, Arc::new(tool), &format!("skills/{}/skill.json", skill.name), problems);
        }
        for file in entries.tools.values() {
            let path = format!("tools/{}.json", file.name);
            let skill = match &file.implementation {
                Implementation::Skill(name) => {
                    let found = skills.get(name).cloned();
                    if found.is_none() {
                        let why = format!("there is no skill {}; calls answer unavailable", quoted(name));
                        let fix = "write the name of a skill, or make that skill";
                        problems.push(Problem::warning(&path, "/implementation/ref", why, fix));
                    }
                    found
                }
                Implementation::Platform(_) | Implementation::Mcp { .. } => None,
            };
            skill_tools.remove(&file.name);
            add(
                &mut tools,
                Arc::new(MadeTool::new(Arc::clone(file), platform, skill, brain)),
                &path,
                problems,
            );
        }
        let mut catalog = Self {
            version,
            agents: BTreeMap::new(),
            skills,
            skill_tools,
            tools,
            servers: entries.servers.clone(),
            hooks: Arc::clone(&entries.hooks),
            soul: entries.soul.clone(),
        };
        let built_in = builtin::agents().into_iter().map(|a| (a.name.clone(), Arc::new(a)));
        let mut agents: BTreeMap<String, Arc<Agent>> = built_in.collect();
        agents.extend(entries.agents.iter().map(|(n, a)| (n.clone(), Arc::clone(a))));
        for (name, agent) in agents {
            let seat = catalog.seat(&agent, models, problems);
            catalog.agents.insert(name, seat);
        }
        catalog
    }

    /// An agent without what it refers to and does not exist, and the model of its calls.
    fn seat(&self, agent: &Arc<Agent>, models: &Models, problems: &mut Vec<Problem>) -> Seat {
        let file = format!("agents/{}/agent.json", agent.name);
        let wanted = agent.model.as_deref();
        let model = model_of(wanted, models.provider, models.has_base_url, &models.configured);
        let model = model.unwrap_or_else(|| {
            let why = format!("{} cannot be served by LLM_PROVIDER", quoted(wanted.unwrap_or_default()));
            let fix = format!("{} is used; name a model of that provider", models.configured);
            problems.push(Problem::warning(&file, "/model", why, fix));
            models.configured.clone()
        });
        let mut known = Agent::clone(agent);
        let mut missing = Vec::new();
        // a dotted name may belong to a server that is connected later
        let keep = |tool: &String| tool.contains(['*', '.']) || self.tools.get(tool).is_some();
        for (index, tool) in agent.tools.iter().enumerate().filter(|(_, t)| !keep(t)) {
            missing.push((format!("/tools/{index}"), format!("there is no tool {}", quoted(tool))));
        }
        known.tools.retain(keep);
        let keep = |skill: &String| skill == "*" || self.skills.contains_key(skill);
        for (index, skill) in agent.skills.iter().enumerate().filter(|(_, s)| !keep(s)) {
            missing.push((format!("/skills/{index}"), format!("there is no skill {}", quoted(skill))));
        }
        // a custom skill may be made later, and then the agent has it
        if agent.layer == Layer::Directory {
            let left_out = missing.into_iter();
            problems.extend(left_out.map(|(place, why)| {
                Problem::warning(&file, place, format!("{why}; it is left out"), "correct the name")
            }));
        }
        Seat { agent: Arc::new(known), model }
    }

    /// 1, 2, 3, …, one more with every change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// One agent.
    pub fn agent(&self, name: &str) -> Option<&Arc<Agent>> {
        self.agents.get(name).map(|s| &s.agent)
    }

    /// The model of an agent's calls; empty for an agent that does not exist.
    pub fn model_of(&self, agent: &str) -> &str {
        self.agents.get(agent).map_or("", |s| &s.model)
    }

    /// Every agent's name, sorted.
    pub fn agent_names(&self) -> Vec<String> {
        self.agents.keys().cloned().collect()
    }

    /// The agent of a new task that names none: the first of CATALOG_DIR that is marked, else `assistant`.
    pub fn default_agent(&self) -> &str {
        let mut marked = self.agents.values().map(|s| &s.agent).filter(|a| a.default);
        let of_directory = marked.find(|a| a.layer == Layer::Directory);
        of_directory.map_or("assistant", |a| a.name.as_str())
    }

    /// Every tool that does not depend on a connection.
    pub fn tools(&self) -> &Registry {
        &self.tools
    }

    /// Whether an agent may call a tool.
    pub fn allows(&self, agent: &Agent, tool: &str) -> bool {
        match self.skill_tools.get(tool) {
            Some(skill) => agent.names_skill(skill) && self.is_offered(skill),
            None => agent.names_tool(tool),
        }
    }

    fn is_offered(&self, skill: &str) -> bool {
        self.skills.get(skill).is_some_and(|skill| skill.is_offered())
    }

    /// One skill, of whatever layer.
    pub fn skill(&self, name: &str) -> Option<&Arc<Skill>> {
        self.skills.get(name)
    }

    /// Every skill, by name.
    pub fn skills(&self) -> impl Iterator<Item = &Arc<Skill>> {
        self.skills.values()
    }

    /// Servers of CATALOG_DIR that are not disabled, by name.
    pub fn servers(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.servers.values().filter(|s| !s.disabled)
    }

    /// One server of CATALOG_DIR.
    pub fn server(&self, name: &str) -> Option<&Arc<Entry>> {
        self.servers.get(name).filter(|s| !s.disabled)
    }

    /// The hooks of an event about a tool (for stop hooks: an agent), in the order of their file.
    pub fn hooks(&self, event: HookEvent, name: &str) -> Vec<Hook> {
        self.hooks.iter().filter(|h| h.matches(event, name)).cloned().collect()
    }

    /// The soul's template.
    pub fn soul(&self) -> Option<&Soul> {
        self.soul.as_ref()
    }

    /// As GET /agents shows them.
    pub fn agents_json(&self) -> Value {
        let default = self.default_agent();
        let agents: Vec<Value> = self
            .agents
            .values()
            .map(|Seat { agent, model }| {
                let offered = |name: &&str| !self.skill_tools.contains_key(*name) && agent.names_tool(name);
                let mut tools: Vec<&str> = self.tools.iter().map(|t| t.name()).filter(offered).collect();
                // what a connection may bring is shown as it is written
                let later =
                    agent.tools.iter().map(String::as_str).filter(|t| t.contains('.') && !tools.contains(t));
                let later: Vec<&str> = later.collect();
                tools.extend(later);
                let skills: Vec<&str> = self
                    .skills
                    .keys()
                    .map(String::as_str)
                    .filter(|s| agent.names_skill(s) && self.is_offered(s))
                    .collect();
                json!({
                    "name": agent.name,
                    "description": agent.description,
                    "model": model,
                    "tools": tools,
                    "skills": skills,
                    "default": agent.name == default,
                    "source": agent.layer.as_str(),
                })
            })
            .collect();
        json!({"agents": agents, "next_cursor": null})
    }

    /// What POST /admin/reload-catalog counts.
    pub fn counts(&self) -> Value {
        json!({
            "agents": self.agents.len(),
            "tools": self.tools.len(),
            "skills": self.skills.values().filter(|s| s.layer.is_some()).count(),
            "servers": self.servers.len(),
        })
    }
}

/// Built-in skills, those of CATALOG_DIR over them, and custom ones where a name is free.
fn layered_skills(entries: &Entries, custom: &[Arc<Skill>]) -> BTreeMap<String, Arc<Skill>> {
    let built_in = builtin::skills().into_iter().map(|s| (s.name.clone(), Arc::new(s)));
    let mut skills: BTreeMap<String, Arc<Skill>> = built_in.collect();
    skills.extend(entries.skills.iter().map(|(n, s)| (n.clone(), Arc::clone(s))));
    for skill in custom {
        skills.entry(skill.name.clone()).or_insert_with(|| Arc::clone(skill));
    }
    skills
}

fn add(tools: &mut Registry, tool: Arc<dyn Tool>, file: &str, problems: &mut Vec<Problem>) {
    if let Err(bad) = tools.add(tool) {
        problems.push(Problem::error(file, "", bad.to_string(), "repair its input_schema"));
    }
}
