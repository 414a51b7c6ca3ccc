//! Agents: configured behaviour. The built-in ones are part of the program.
//!
//! An agent names the tools it may use (`*` for all of them). Tools that this build does not have are left
//! out of an agent silently: they come with the features that bring them.

use serde_json::{Value, json};

/// An agent: system prompt, allowed tools, model preference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// `[a-z0-9]+(-[a-z0-9]+)*`.
    pub name: String,
    /// One sentence for people.
    pub description: String,
    /// Tool names, or `*`.
    pub tools: Vec<String>,
    /// The agent's own part of the system prompt.
    pub system_prompt: String,
    /// Used when a new task names no agent.
    pub default: bool,
}

impl Agent {
    /// Whether the agent may use a tool. `working_memory_write` goes with every non-empty list.
    pub fn allows(&self, tool: &str) -> bool {
        self.tools.iter().any(|t| t == "*" || t == tool)
            || (tool == "working_memory_write" && !self.tools.is_empty())
    }
}

/// All agents, by name.
#[derive(Debug, Clone)]
pub struct Catalog {
    agents: Vec<Agent>,
}

const FILE_TOOLS: [&str; 5] = ["read_file", "write_file", "edit_file", "grep", "find"];

fn agent(name: &str, description: &str, tools: &[&str], prompt: &str) -> Agent {
    Agent {
        name: name.to_owned(),
        description: description.to_owned(),
        tools: tools.iter().map(|t| (*t).to_owned()).collect(),
        system_prompt: prompt.trim().to_owned(),
        default: name == "assistant",
    }
}

impl Default for Catalog {
    fn default() -> Self {
        let with_files = |more: &[&'static str]| -> Vec<&'static str> {
            FILE_TOOLS.iter().copied().chain(more.iter().copied()).collect()
        };
        let agents = vec![
            agent(
                "analyst",
                "Answers questions about data: reads files, computes, explains the numbers.",
                &with_files(&["bash", "ask_user"]),
                "You are an analyst. Look at the data before you speak about it, compute instead of guessing, \
                 and show the figures an answer rests on together with their limits.",
            ),
            agent(
                "assistant",
                "A general personal assistant with every tool.",
                &["*"],
                "You are a careful personal assistant. Do what is asked, use tools when they help, say plainly \
                 what you do not know, and keep answers as short as the question allows.",
            ),
            agent(
                "coder",
                "Writes and changes code in the workspace.",
                &with_files(&["bash", "ask_user"]),
                "You are a software engineer working in the person's workspace. Read the code around a change \
                 before making it, keep to its style, run what can be run, and report what you did and what \
                 you could not check.",
            ),
            agent(
                "researcher",
                "Finds things out and names its sources.",
                &["read_file", "grep", "find", "ask_user"],
                "You are a researcher. Gather evidence first, name the source of every claim, and separate what \
                 is established from what is likely.",
            ),
            agent(
                "writer",
                "Drafts and edits texts.",
                &with_files(&["ask_user"]),
                "You are a writer and editor. Ask for audience and purpose when they are not clear, keep the \
                 person's voice, and hand over finished text.",
            ),
        ];
        Self { agents }
    }
}

impl Catalog {
    /// One agent.
    pub fn get(&self, name: &str) -> Option<&Agent> {
        self.agents.iter().find(|a| a.name == name)
    }

    /// Every name, sorted.
    pub fn names(&self) -> Vec<String> {
        self.agents.iter().map(|a| a.name.clone()).collect()
    }

    /// The agent of a new task that names none.
    pub fn default_agent(&self) -> &str {
        self.agents
            .iter()
            .find(|a| a.default)
            .or(self.agents.first())
            .map_or("assistant", |a| a.name.as_str())
    }

    /// As GET /agents shows them; `known` are the tools of this build.
    pub fn json(&self, model: &str, known: &[String]) -> Value {
        let agents: Vec<Value> = self
            .agents
            .iter()
            .map(|a| {
                let tools: Vec<&String> = known.iter().filter(|t| a.allows(t)).collect();
                json!({
                    "name": a.name,
                    "description": a.description,
                    "model": model,
                    "tools": tools,
                    "skills": [],
                    "default": a.default,
                    "source": "builtin",
                })
            })
            .collect();
        json!({"agents": agents, "next_cursor": null})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_exactly_one_default_agent_and_names_are_sorted() {
        let catalog = Catalog::default();
        assert_eq!(catalog.default_agent(), "assistant");
        let names = catalog.names();
        assert!(names.is_sorted());
        assert_eq!(names.len(), 5);
    }

    #[test]
    fn an_agent_allows_what_it_names_and_working_memory() {
        let catalog = Catalog::default();
        let writer = catalog.get("writer").expect("built in");
        assert!(writer.allows("write_file") && writer.allows("working_memory_write"));
        assert!(!writer.allows("bash"));
        assert!(catalog.get("assistant").expect("built in").allows("anything"));
    }
}
