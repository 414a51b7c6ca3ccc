//! agents/<name>/agent.json: configured behaviour. (specification 8.2)
//!
//! Parsing is pure but for the prompt's text, which its caller has read. Names of tools and skills are
//! compared with what there is only when a whole catalog is put together.

use super::document::{Object, is_plain_name, parse};
use super::files::{Files, Unread};
use super::problem::{Problem, quoted};
use crate::config::Provider;
use crate::tools::registry::{is_tool_name, matches_pattern};

/// Bytes of a JSON file of the catalog. Larger files are data that landed in the wrong place.
pub const JSON_MAX: usize = 1024 * 1024;
/// Bytes of a system prompt. (specification 8.2)
pub const PROMPT_MAX: usize = 256 * 1024;
/// Entries of an agent's tool or skill list; more than a model can tell apart.
const LIST_MAX: usize = 1000;
/// Largest `max_tokens`; no provider gives more in one answer.
const TOKENS_MAX: u64 = 1_000_000;

/// Where an entry of the catalog comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    /// The program.
    Builtin,
    /// CATALOG_DIR.
    Directory,
}

impl Layer {
    /// The word of GET /agents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Layer::Builtin => "builtin",
            Layer::Directory => "catalog",
        }
    }
}

/// An agent: system prompt, allowed tools and skills, model preference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// `[a-z0-9]+(-[a-z0-9]+)*`.
    pub name: String,
    /// For people and for agents that delegate.
    pub description: String,
    /// The model it asks for.
    pub model: Option<String>,
    /// Tool names, `*`, or `<server>.*`.
    pub tools: Vec<String>,
    /// Skill names or `*`.
    pub skills: Vec<String>,
    /// The agent's own part of the system prompt.
    pub system_prompt: String,
    /// Used when a new task names no agent.
    pub default: bool,
    /// Its own output limit.
    pub max_tokens: Option<u32>,
    /// Program or CATALOG_DIR.
    pub layer: Layer,
}

impl Agent {
    /// Whether its list names a tool. `working_memory_write` goes with every non-empty list.
    pub fn names_tool(&self, tool: &str) -> bool {
        self.tools.iter().any(|p| matches_pattern(p, tool))
            || (tool == crate::tools::own::WORKING_MEMORY_WRITE && !self.tools.is_empty())
    }

    /// Whether its list names a skill.
    pub fn names_skill(&self, skill: &str) -> bool {
        self.skills.iter().any(|s| s == "*" || s == skill)
    }
}

/// Reads `agents/<name>/agent.json` and the prompt it names.
pub fn read(name: &str, files: &dyn Files, problems: &mut Vec<Problem>) -> Option<Agent> {
    let file = format!("agents/{name}/agent.json");
    let map = match load(&file, files, JSON_MAX).and_then(|bytes| parse(&file, &bytes)) {
        Ok(map) => map,
        Err(problem) => {
            problems.push(problem);
            return None;
        }
    };
    let before = problems.len();
    let mut o = Object::new(&file, "", &map, problems);
    let own_name = o.needed_text("name", 1, 64);
    check_name(&mut o, own_name.as_deref(), name);
    let description = o.needed_text("description", 1, 1000);
    let model = o.text("model", 1, 200);
    let tools = match o.needed("tools", "add a list of tool names; [] is no tools") {
        Some(_) => o.texts("tools", LIST_MAX, 100),
        None => None,
    };
    for (index, tool) in tools.iter().flatten().enumerate() {
        if !is_tool_pattern(tool) {
            let why = format!("{} is no tool name", quoted(tool));
            o.wrong_at("tools", index, why, "write a tool name, `*`, or `<server>.*`");
        }
    }
    let skills = o.texts("skills", LIST_MAX, 64).unwrap_or_default();
    for (index, skill) in skills.iter().enumerate() {
        if skill != "*" && !is_plain_name(skill) {
            let why = format!("{} is no skill name", quoted(skill));
            o.wrong_at("skills", index, why, "write the name of a skill, or `*`");
        }
    }
    let path = o.needed_text("system_prompt_path", 1, 200);
    let prompt = path.and_then(|path| {
        prompt(&mut o, "system_prompt_path", &format!("agents/{name}"), &path, PROMPT_MAX, files)
    });
    let default = o.flag("default").unwrap_or(false);
    let max_tokens = o.whole("max_tokens", 1, TOKENS_MAX);
    o.finish();
    if problems[before..].iter().any(Problem::is_error) {
        return None;
    }
    Some(Agent {
        name: name.to_owned(),
        description: description?,
        model,
        tools: tools?,
        skills,
        system_prompt: prompt?.trim().to_owned(),
        default,
        max_tokens: max_tokens.and_then(|n| u32::try_from(n).ok()),
        layer: Layer::Directory,
    })
}

/// Notes that `name` is no name, or not the folder's.
pub(super) fn check_name(o: &mut Object<'_>, name: Option<&str>, folder: &str) {
    let Some(name) = name else { return };
    if !is_plain_name(name) {
        let fix = "use small letters and digits, with single dashes between words";
        o.wrong("name", format!("{} is no name", quoted(name)), fix);
    } else if name != folder {
        let why = format!("{} is not the name of its folder", quoted(name));
        o.wrong("name", why, format!("write {}, or rename the folder", quoted(folder)));
    }
}

/// A file that must be there.
pub(super) fn load(file: &str, files: &dyn Files, limit: usize) -> Result<Vec<u8>, Problem> {
    files.read(file, limit).map_err(|unread| match unread {
        Unread::Missing => Problem::error(file, "", "is missing", "add the file, or remove the folder"),
        Unread::TooLarge => {
            Problem::error(file, "", format!("is larger than {limit} bytes"), "make it smaller")
        }
        Unread::Refused(why) => Problem::error(
            file,
            "",
            format!("cannot be read: {why}"),
            "make it readable for the Engine's user",
        ),
    })
}

/// The text of a prompt file that a key names, inside its folder.
pub(super) fn prompt(
    o: &mut Object<'_>,
    key: &str,
    folder: &str,
    path: &str,
    limit: usize,
    files: &dyn Files,
) -> Option<String> {
    let plain = !path.starts_with('/') && path.split('/').all(|p| !matches!(p, "" | "." | ".."));
    if !plain {
        let why = format!("{} does not stay inside the folder", quoted(path));
        o.wrong(key, why, "write the name of a file beside this one");
        return None;
    }
    let why = match files.read(&format!("{folder}/{path}"), limit) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => return Some(text),
            Err(_) => format!("{} is not UTF-8", quoted(path)),
        },
        Err(Unread::Missing) => format!("{} is missing", quoted(path)),
        Err(Unread::TooLarge) => format!("{} is larger than {limit} bytes", quoted(path)),
        Err(Unread::Refused(why)) => format!("{} cannot be read: {why}", quoted(path)),
    };
    o.wrong(key, why, format!("put a UTF-8 text of at most {limit} bytes there"));
    None
}

/// True for what may stand in an agent's list of tools.
fn is_tool_pattern(text: &str) -> bool {
    text == "*" || is_tool_name(text.strip_suffix(".*").unwrap_or(text))
}

/// The model of an agent's calls: its own when the configured provider can serve it, else the configured
/// one. (specification 8.2)
pub fn model_of(
    wanted: Option<&str>,
    provider: Provider,
    has_base_url: bool,
    configured: &str,
) -> Option<String> {
    let Some(wanted) = wanted else { return Some(configured.to_owned()) };
    let o_series = wanted.strip_prefix('o').is_some_and(|r| r.starts_with(|c: char| c.is_ascii_digit()));
    let fits = match provider {
        _ if has_base_url => true,
        Provider::Openai => wanted.starts_with("gpt-") || wanted.starts_with("chatgpt-") || o_series,
        Provider::Anthropic => wanted.starts_with("claude-"),
        Provider::Gemini => wanted.starts_with("gemini-"),
        Provider::Offline => false,
    };
    fits.then(|| wanted.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agents_model_is_used_only_where_the_provider_can_serve_it() {
        use Provider::{Anthropic, Gemini, Offline, Openai};
        let table = [
            (None, Openai, false, Some("main")),
            (Some("gpt-9"), Openai, false, Some("gpt-9")),
            (Some("o3-mini"), Openai, false, Some("o3-mini")),
            (Some("opus"), Openai, false, None),
            (Some("chatgpt-x"), Openai, false, Some("chatgpt-x")),
            (Some("claude-sonnet-4-7"), Openai, false, None),
            (Some("claude-sonnet-4-7"), Anthropic, false, Some("claude-sonnet-4-7")),
            (Some("gemini-3"), Gemini, false, Some("gemini-3")),
            (Some("llama"), Openai, true, Some("llama")),
            (Some("gpt-9"), Offline, false, None),
        ];
        for (wanted, provider, base_url, expected) in table {
            let got = model_of(wanted, provider, base_url, "main");
            assert_eq!(got.as_deref(), expected, "{wanted:?} on {provider:?}");
        }
    }
}
