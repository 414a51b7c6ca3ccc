//! Every rule of the catalog has one file here that breaks it, and the message that says so.

mod agent;
mod tool;
mod skill;
mod soul_server_hooks;
mod snapshot;
mod any_input;

use super::entries::{Entries, read};
use super::files::InMemory;
use super::problem::Problem;
use super::snapshot::{Catalog, Models};
use crate::config::Provider;
use crate::tools::registry::Registry;
use crate::tools::{own, search, shell};
use serde_json::{Value, json};
use std::time::Duration;

fn platform() -> Registry {
    let mut tools = Registry::default();
    let all = [vec![shell::bash(Duration::from_secs(5))], search::tools(), own::tools()];
    for tool in all.into_iter().flatten() {
        tools.add(tool).expect("a good tool");
    }
    tools
}

fn files(list: &[(&str, String)]) -> InMemory {
    InMemory(list.iter().map(|(path, text)| ((*path).to_owned(), text.clone().into_bytes())).collect())
}

fn read_after(before: &Entries, list: &[(&str, String)]) -> (Entries, Vec<Problem>) {
    let mut problems = Vec::new();
    let entries = read(&files(list), None, &platform(), before, &mut problems);
    (entries, problems)
}

fn said(list: &[(&str, String)]) -> Vec<String> {
    let (_, problems) = read_after(&Entries::default(), list);
    problems.iter().map(|p| format!("{}{p}", if p.is_error() { "" } else { "warning: " })).collect()
}

fn assembled(entries: &Entries, problems: &mut Vec<Problem>) -> Catalog {
    let models =
        Models { provider: Provider::Openai, has_base_url: false, configured: "gpt-main".to_owned() };
    Catalog::assemble(1, entries, &platform(), &[], &models, None, problems)
}

/// The value with one key changed; `null` takes it away.
fn with(mut value: Value, key: &str, changed: Value) -> Value {
    match changed {
        Value::Null => drop(value.as_object_mut().expect("an object").remove(key)),
        changed => value[key] = changed,
    }
    value
}

fn agent() -> Value {
    json!({"name": "a", "description": "d", "tools": ["bash"], "system_prompt_path": "system-prompt.md"})
}

fn tool() -> Value {
    json!({
        "name": "t", "description": "d",
        "input_schema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
        "implementation": {"kind": "platform", "ref": "submit"}
    })
}

fn skill_json() -> Value {
    json!({"name": "s", "description": "d", "prompt": "{{text}}"})
}
