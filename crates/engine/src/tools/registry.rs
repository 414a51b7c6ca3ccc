//! The utility directory: every tool by name, with its compiled input schema.
//!
//! The invariant: a tool is only in here if its schema has been judged harmless and compiles, so validation ends soon
//! and cannot fail for another reason than the input.

use super::schema;
use super::tool::Tool;
use schemas::Schema;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Tools below a tool that check its input as well: a catalog's tool, its function, and the function's own action. More
/// would be a circle.
const BELOW_MAX: usize = 4;
/// Longest tool name; providers refuse longer ones.
const NAME_MAX: usize = 64;

/// Why a tool cannot be registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTool {
    /// The name is not snake_case or dotted, or too long.
    #[error("tool name `{0}` is not of the form [a-z][a-z0-9_]*(.[a-z][a-z0-9_]*)*, at most 64 characters")]
    Name(String),
    /// The input schema is no JSON Schema, or one that would hurt.
    #[error("input schema of tool `{name}`: {message}")]
    Schema {
        /// The tool.
        name: String,
        /// What is wrong with it.
        message: String,
    },
}

#[derive(Clone)]
struct Entry {
    tool: Arc<dyn Tool>,
    schema: Arc<Schema>,
}

/// Tools by name. Cheap to clone.
#[derive(Clone, Default)]
pub struct Registry {
    entries: BTreeMap<String, Entry>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.entries.keys()).finish()
    }
}

impl Registry {
    /// Adds a tool; one of the same name is replaced.
    pub fn add(&mut self, tool: Arc<dyn Tool>) -> Result<(), BadTool> {
        let name = tool.name().to_owned();
        if !is_tool_name(&name) {
            return Err(BadTool::Name(name));
        }
        self.insert(name, tool)
    }

    /// Adds a connector's action. Its name is the server's choice, so more is allowed than for our own.
    pub fn add_connected(&mut self, tool: Arc<dyn Tool>) -> Result<(), BadTool> {
        let name = tool.name().to_owned();
        if !is_action_name(&name) {
            return Err(BadTool::Name(name));
        }
        self.insert(name, tool)
    }

    fn insert(&mut self, name: String, tool: Arc<dyn Tool>) -> Result<(), BadTool> {
        let schema = Schema::new(tool.input_schema())
            .map_err(|refused| BadTool::Schema { name: name.clone(), message: refused.0 })?;
        self.entries.insert(name, Entry { tool, schema: Arc::new(schema) });
        Ok(())
    }

    /// The tool of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<dyn Tool>> {
        self.entries.get(name).map(|e| &e.tool)
    }

    /// What is wrong with `input` for the tool `name`; empty when nothing is, or when there is no such tool.
    pub async fn complaints(&self, name: &str, input: &Value) -> Vec<String> {
        for entry in self.checking(name) {
            let mut found = schema::complaints(&entry.schema, input).await;
            if found.is_empty() {
                found = entry.tool.complaints(input);
            }
            if !found.is_empty() {
                return found;
            }
        }
        Vec::new()
    }

    /// The entry of this name and those of the functions below it: what reaches a function has passed both.
    fn checking(&self, name: &str) -> Vec<&Entry> {
        let (mut registry, mut name) = (self, name);
        let mut found = Vec::new();
        while let Some(entry) = registry.entries.get(name) {
            found.push(entry);
            match entry.tool.below() {
                Some(below) if found.len() < BELOW_MAX => (registry, name) = below,
                Some(_) | None => break,
            }
        }
        found
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Every tool, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Tool>> {
        self.entries.values().map(|e| &e.tool)
    }

    /// The tools an agent's list names (`*`, `server.*`, exact names), by name.
    pub fn select<'a>(&'a self, patterns: &'a [String]) -> impl Iterator<Item = &'a Arc<dyn Tool>> {
        self.iter().filter(move |tool| patterns.iter().any(|p| matches_pattern(p, tool.name())))
    }
}

/// True when an entry of an agent's tool list means this tool.
pub fn matches_pattern(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some("") => true,
        Some(prefix) if prefix.ends_with('.') => name.starts_with(prefix),
        Some(_) | None => pattern == name,
    }
}

/// `<server>.<action>`, the action as the server writes it.
fn is_action_name(name: &str) -> bool {
    name.split_once('.').is_some_and(|(server, action)| {
        is_tool_name(server)
            && !action.is_empty()
            && action.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/'))
    })
}

/// True for `[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*` of at most 64 characters.
pub fn is_tool_name(name: &str) -> bool {
    let part = |p: &str| {
        p.starts_with(|c: char| c.is_ascii_lowercase())
            && p.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    name.len() <= NAME_MAX && name.split('.').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::{files, git, memory, own, search, shell};
    use serde_json::json;
    use std::time::Duration;

    fn platform() -> Registry {
        let mut registry = Registry::default();
        let mut all = vec![shell::bash(Duration::from_secs(5))];
        all.extend(files::tools(1 << 20));
        for more in [search::tools(), git::tools(), memory::tools(), own::tools()] {
            all.extend(more);
        }
        for tool in all {
            registry.add(tool).unwrap();
        }
        registry
    }

    #[test]
    fn every_schema_is_closed_and_describes_every_property() {
        for tool in platform().iter() {
            let schema = tool.input_schema();
            assert_eq!(schema["type"], "object", "{}", tool.name());
            assert_eq!(schema["additionalProperties"], false, "{}", tool.name());
            for (name, property) in schema["properties"].as_object().unwrap() {
                let text = property["description"].as_str().unwrap_or("");
                assert!(text.len() > 10, "{}.{name} has no description", tool.name());
            }
            assert!(tool.description().len() > 80, "{}", tool.name());
        }
    }

    #[tokio::test]
    async fn wrong_input_is_named_by_place() {
        let registry = platform();
        assert!(registry.complaints("bash", &json!({"command": "ls"})).await.is_empty());
        for bad in [
            json!({}),
            json!({"command": ""}),
            json!({"command": "ls", "timeout_s": 0}),
            json!({"command": "ls", "shell": "zsh"}),
        ] {
            assert_eq!(registry.complaints("bash", &bad).await.len(), 1, "{bad}");
        }
        let complaint = &registry.complaints("read_file", &json!({"path": "a", "offset": "x"})).await[0];
        assert!(complaint.starts_with("/offset: "), "{complaint}");
    }

    #[test]
    fn selection_knows_stars_and_servers() {
        assert!(matches_pattern("*", "bash"));
        assert!(matches_pattern("slack.*", "slack.send"));
        assert!(!matches_pattern("slack.*", "slackish"));
        assert!(!matches_pattern("ba*", "bash"));
        let registry = platform();
        let patterns = ["grep".to_string(), "bash".into(), "none".into()];
        let names: Vec<_> = registry.select(&patterns).map(|t| t.name().to_owned()).collect();
        assert_eq!(names, ["bash", "grep"]);
        for bad in ["", "Bash", "a..b", ".a", "a-b", "9a", &"a".repeat(65)] {
            assert!(!is_tool_name(bad), "{bad}");
        }
    }
}
