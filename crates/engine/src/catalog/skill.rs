//! skills/<name>/skill.json: a prompt template, scripts, or both. (specification 8.4)

use super::agent::{JSON_MAX, Layer, check_name, load, prompt};
use super::document::{Object, parse};
use super::files::{Files, Unread};
use super::problem::{Problem, quoted};
use super::template;
use ::memory::signals::Skill as Fate;
use serde_json::{Value, json};
use std::time::Duration;

/// Bytes of a skill's prompt. (specification 3.7, 14.6)
pub const PROMPT_MAX: usize = 64 * 1024;
/// Scripts of one skill. (specification 3.7)
pub const SCRIPTS_MAX: usize = 20;
/// Bytes of one script. (specification 3.7)
pub const SCRIPT_MAX: usize = 256 * 1024;
/// Characters of a description, in files and over HTTP. It goes into every model call that offers the skill.
pub const DESCRIPTION_MAX: usize = 1000;
/// Characters of a category.
pub const CATEGORY_MAX: usize = 64;
/// Capabilities of a skill; they are words for people.
pub const CAPABILITIES_MAX: usize = 50;
/// Characters of one capability.
pub const CAPABILITY_MAX: usize = 100;
/// Time limit of a script when the skill names none. (specification 8.4)
pub const TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time limit; as `bash` has it.
const TIMEOUT_MAX_S: u64 = 3600;
/// Longest tool name a provider takes.
const TOOL_NAME_MAX: usize = 64;
/// Bytes of a long skill's name that its tool name keeps before the digits that tell it from others.
const KEPT_OF_NAME: usize = 49;

/// Where the contents of a skill's scripts are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scripts {
    /// With the skill, read from the catalog: file name and contents.
    Kept(Vec<(String, String)>),
    /// In the brain; only the names are here.
    InBrain(Vec<String>),
}

impl Scripts {
    /// The file names, in order.
    pub fn names(&self) -> Vec<&str> {
        match self {
            Scripts::Kept(list) => list.iter().map(|(name, _)| name.as_str()).collect(),
            Scripts::InBrain(names) => names.iter().map(String::as_str).collect(),
        }
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        match self {
            Scripts::Kept(list) => list.is_empty(),
            Scripts::InBrain(names) => names.is_empty(),
        }
    }
}

/// A skill, of the program, of CATALOG_DIR, or made by a person.
#[derive(Debug, Clone, PartialEq)]
pub struct Skill {
    /// `[a-z0-9]+(-[a-z0-9]+)*`.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// A free word; `light` runs on LIGHT_MODEL.
    pub category: String,
    /// The prompt, when it has one.
    pub prompt_template: Option<String>,
    /// Words for people.
    pub capabilities: Vec<String>,
    /// How sure its maker was, 0..1.
    pub confidence: f64,
    /// Its scripts.
    pub scripts: Scripts,
    /// The script that is run; the first when none is named.
    pub entry: Option<String>,
    /// Time limit of the script.
    pub timeout: Duration,
    /// Program or CATALOG_DIR; `None` for a custom skill.
    pub layer: Option<Layer>,
}

impl Skill {
    /// A custom skill, as the brain has it.
    pub fn custom(stored: &brain::skills::Skill) -> Self {
        Self {
            name: stored.name.clone(),
            description: stored.description.clone(),
            category: stored.category.clone(),
            prompt_template: stored.prompt_template.clone(),
            capabilities: stored.capabilities.clone(),
            confidence: stored.confidence,
            scripts: Scripts::InBrain(stored.scripts.clone()),
            entry: custom_entry(&stored.scripts),
            timeout: TIMEOUT,
            layer: None,
        }
    }

    /// `platform` or `custom`.
    pub fn source(&self) -> &'static str {
        if self.layer.is_some() { "platform" } else { "custom" }
    }

    /// Whether agents are offered it. A draft that was learned from experience waits until it has been confirmed.
    pub fn is_offered(&self) -> bool {
        self.layer.is_some() || matches!(Fate::of(self.confidence), Fate::Offered(_))
    }

    /// The name of the tool it is offered as: unique because skill names have no `_`.
    pub fn tool_name(&self) -> String {
        let whole = format!("skill_{}", self.name.replace('-', "_"));
        if whole.len() <= TOOL_NAME_MAX {
            return whole;
        }
        let digits = &brain::blobs::name_of(self.name.as_bytes())[..8];
        format!("skill_{}_{digits}", self.name[..KEPT_OF_NAME].replace('-', "_"))
    }

    /// The schema of its parameters: the template's variables, and whatever else is sent.
    pub fn input_schema(&self) -> Value {
        let names = self.prompt_template.as_deref().map(template::variables).unwrap_or_default();
        let property = |name: &str| match name {
            "text" => json!({"type": "string", "description": "The text the skill works on"}),
            other => json!({"description": format!("Value of {other} in the skill's prompt")}),
        };
        let properties: serde_json::Map<String, Value> =
            names.iter().map(|name| ((*name).to_owned(), property(name))).collect();
        json!({"type": "object", "properties": properties})
    }

    /// One line of GET /skills.
    pub fn line(&self) -> Value {
        json!({
            "name": self.name,
            "description": self.description,
            "source": self.source(),
            "category": self.category,
            "confidence": self.confidence,
        })
    }
}

/// The script of a custom skill that is run: the one called `main`, else the first by name.
fn custom_entry(names: &[String]) -> Option<String> {
    let is_main = |name: &&String| name.as_str() == "main" || name.starts_with("main.");
    names.iter().find(is_main).or_else(|| names.iter().min()).cloned()
}

/// True for the name of a script: `[A-Za-z0-9._-]{1,64}`, not `.` or `..`.
pub fn is_script_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && !matches!(name, "." | "..")
}

/// Reads `skills/<name>/skill.json` with its prompt and scripts.
pub fn read(name: &str, files: &dyn Files, problems: &mut Vec<Problem>) -> Option<Skill> {
    let file = format!("skills/{name}/skill.json");
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
    let description = o.needed_text("description", 1, DESCRIPTION_MAX);
    let category = o.text("category", 0, CATEGORY_MAX).unwrap_or_default();
    let inline = inline_prompt(&mut o);
    let path = o.text("prompt_path", 1, 200);
    if inline.is_some() && path.is_some() {
        o.wrong("prompt", "stands beside prompt_path", "keep one of the two");
    }
    let folder = format!("skills/{name}");
    let from_file = path.and_then(|path| prompt(&mut o, "prompt_path", &folder, &path, PROMPT_MAX, files));
    let names = o.texts("scripts", SCRIPTS_MAX, 64).unwrap_or_default();
    let scripts = contents(&mut o, &folder, &names, files);
    let has_prompt = map.contains_key("prompt") || map.contains_key("prompt_path");
    if !has_prompt && names.is_empty() {
        o.wrong("prompt_path", "is missing, and there are no scripts", "add prompt_path, prompt, or scripts");
    }
    let entry = o.text("entry", 1, 64);
    if let Some(entry) = entry.as_ref().filter(|e| !names.contains(e)) {
        let why = format!("{} is not one of the scripts", quoted(entry));
        o.wrong("entry", why, "name one of `scripts`");
    }
    let capabilities = o.texts("capabilities", CAPABILITIES_MAX, CAPABILITY_MAX).unwrap_or_default();
    let confidence = o.number("confidence", 0.0, 1.0).unwrap_or(1.0);
    let timeout = o.whole("timeout_s", 1, TIMEOUT_MAX_S).map_or(TIMEOUT, Duration::from_secs);
    o.finish();
    if problems[before..].iter().any(Problem::is_error) {
        return None;
    }
    Some(Skill {
        name: name.to_owned(),
        description: description?,
        category,
        prompt_template: inline.or(from_file),
        capabilities,
        confidence,
        entry: entry.or_else(|| names.first().cloned()),
        scripts: Scripts::Kept(scripts),
        timeout,
        layer: Some(Layer::Directory),
    })
}

fn inline_prompt(o: &mut Object<'_>) -> Option<String> {
    let text = o.text("prompt", 1, PROMPT_MAX)?;
    if text.len() > PROMPT_MAX {
        o.wrong("prompt", format!("is larger than {PROMPT_MAX} bytes"), "make it smaller");
        return None;
    }
    Some(text)
}

fn contents(o: &mut Object<'_>, folder: &str, names: &[String], files: &dyn Files) -> Vec<(String, String)> {
    let mut out: Vec<(String, String)> = Vec::new();
    for (index, name) in names.iter().enumerate() {
        if !is_script_name(name) {
            let why = format!("{} is no file name", quoted(name));
            o.wrong_at("scripts", index, why, "use letters, digits, `.`, `_` and `-`");
            continue;
        }
        if out.iter().any(|(n, _)| n == name) {
            o.wrong_at("scripts", index, format!("{} is listed twice", quoted(name)), "list it once");
            continue;
        }
        let why = match files.read(&format!("{folder}/scripts/{name}"), SCRIPT_MAX) {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => {
                    out.push((name.clone(), text));
                    continue;
                }
                Err(_) => "is not UTF-8".to_owned(),
            },
            Err(Unread::Missing) => "is missing".to_owned(),
            Err(Unread::TooLarge) => format!("is larger than {SCRIPT_MAX} bytes"),
            Err(Unread::Refused(why)) => format!("cannot be read: {why}"),
        };
        let fix = format!("put a UTF-8 text of at most {SCRIPT_MAX} bytes there");
        o.wrong_at("scripts", index, format!("scripts/{name} {why}"), fix);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::builtin;

    #[test]
    fn a_skills_tool_name_is_its_own_and_short_enough_for_providers() {
        let named = |name: &str| Skill { name: name.to_owned(), ..builtin::skills()[0].clone() }.tool_name();
        assert_eq!(named("fact-checker"), "skill_fact_checker");
        let long = |last: &str| format!("{}{last}", "a-".repeat(30));
        let (one, two) = (named(&long("x")), named(&long("y")));
        assert!(one.len() <= 64 && one != two, "{one} {two}");
        for name in [one, two, named(&"z".repeat(64))] {
            assert!(crate::tools::registry::is_tool_name(&name), "{name}");
        }
    }

    #[test]
    fn the_parameters_of_a_skill_are_the_variables_of_its_prompt() {
        let skill =
            Skill { prompt_template: Some("{{text}} {{tone}}".to_owned()), ..builtin::skills()[0].clone() };
        let schema = skill.input_schema();
        assert_eq!(schema["properties"]["text"]["type"], "string");
        assert_eq!(schema["properties"]["tone"]["description"], "Value of tone in the skill's prompt");
        assert!(schema.get("additionalProperties").is_none(), "whatever else is sent is allowed");
    }
}
