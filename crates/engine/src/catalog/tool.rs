//! tools/<tool>.json: a tool made of a platform function, a skill or a connector's action. (specification 8.3)

use super::agent::{JSON_MAX, load};
use super::document::{Object, is_plain_name, parse};
use super::files::Files;
use super::problem::{Problem, quoted};
use crate::tools::registry::{Registry, is_tool_name};
use crate::tools::schema;
use crate::tools::tool::Effect;
use serde_json::{Map, Value};

/// The function behind tools with which a model hands something in: it answers `{"status":"received"}`.
pub const SUBMIT: &str = "submit";
/// Characters of a description; it goes into every model call that offers the tool.
const DESCRIPTION_MAX: usize = 4000;
/// Bytes of an input schema, for the same reason.
const SCHEMA_MAX: usize = 64 * 1024;
/// Characters of a reference to a function, a server or an action.
const REF_MAX: usize = 200;

/// What a catalog tool does when it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Implementation {
    /// A registered function of the program: one of its tools, or `submit`.
    Platform(String),
    /// A skill; the input is its parameters.
    Skill(String),
    /// An action of a connector.
    Mcp {
        /// Server name.
        server: String,
        /// The action as the server names it.
        action: String,
    },
}

/// A tool as its file describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolFile {
    /// snake_case or dotted.
    pub name: String,
    /// For the model.
    pub description: String,
    /// JSON Schema of its input, type object.
    pub input_schema: Value,
    /// What it does.
    pub implementation: Implementation,
    /// Every call asks a person.
    pub requires_permission: bool,
    /// A call asks a person, who may say `always`.
    pub high_cost: bool,
    /// Tightens the effect class of what it does.
    pub effect: Option<Effect>,
}

/// Reads `tools/<name>.json`.
pub fn read(name: &str, files: &dyn Files, problems: &mut Vec<Problem>) -> Option<ToolFile> {
    let file = format!("tools/{name}.json");
    let map = match load(&file, files, JSON_MAX).and_then(|bytes| parse(&file, &bytes)) {
        Ok(map) => map,
        Err(problem) => {
            problems.push(problem);
            return None;
        }
    };
    let before = problems.len();
    let mut o = Object::new(&file, "", &map, problems);
    if let Some(own) = o.needed_text("name", 1, 64) {
        if !is_tool_name(&own) {
            let why = format!("{} is no tool name", quoted(&own));
            o.wrong("name", why, "use snake_case, or parts of it joined by dots");
        } else if own != name {
            let why = format!("{} is not the name of its file", quoted(&own));
            o.wrong("name", why, format!("write {}, or rename the file", quoted(name)));
        }
    }
    let description = o.needed_text("description", 1, DESCRIPTION_MAX);
    let input_schema = input_schema(&mut o);
    let implementation = match o.needed("implementation", "add {\"kind\":…,\"ref\":…}") {
        Some(_) => o.object("implementation"),
        None => None,
    };
    let implementation = implementation.and_then(|map| o.inner("implementation", map, implementation_of));
    let requires_permission = o.flag("requires_permission").unwrap_or(false);
    let high_cost = o.flag("high_cost").unwrap_or(false);
    let words = Effect::ALL.map(Effect::as_str);
    let effect = o.word("effect", &words).and_then(Effect::parse);
    o.finish();
    if problems[before..].iter().any(Problem::is_error) {
        return None;
    }
    Some(ToolFile {
        name: name.to_owned(),
        description: description?,
        input_schema: input_schema?,
        implementation: implementation?,
        requires_permission,
        high_cost,
        effect,
    })
}

fn input_schema(o: &mut Object<'_>) -> Option<Value> {
    let value = o.needed("input_schema", "add a JSON Schema of type object")?;
    let size = value.to_string().len();
    if !value.is_object() || value["type"] != "object" {
        o.wrong("input_schema", "is no JSON Schema of type object", "write {\"type\":\"object\",…}");
        None
    } else if size > SCHEMA_MAX {
        let why = format!("has {size} bytes, more than {SCHEMA_MAX}");
        o.wrong("input_schema", why, "describe less, or in fewer words");
        None
    } else if let Err(why) = schema::check(value) {
        let short: String = why.chars().take(300).collect();
        o.wrong("input_schema", short, "write a self-contained JSON Schema 2020-12");
        None
    } else {
        Some(value.clone())
    }
}

fn implementation_of(o: &mut Object<'_>) -> Option<Implementation> {
    const KINDS: [&str; 3] = ["platform", "skill", "mcp"];
    o.needed("kind", "write platform, skill or mcp")?;
    let kind = o.word("kind", &KINDS);
    match kind {
        Some("platform") => o.needed_text("ref", 1, REF_MAX).map(Implementation::Platform),
        Some("skill") => {
            let name = o.needed_text("ref", 1, REF_MAX)?;
            if is_plain_name(&name) {
                return Some(Implementation::Skill(name));
            }
            o.wrong("ref", format!("{} is no skill name", quoted(&name)), "write the name of a skill");
            None
        }
        Some(_) => {
            o.needed("ref", "write {\"server\":…,\"action\":…}")?;
            let map = o.object("ref")?;
            o.inner("ref", map, action_of)
        }
        None => {
            // known by name even when its kind is not
            o.value("ref");
            None
        }
    }
}

fn action_of(o: &mut Object<'_>) -> Option<Implementation> {
    let server = o.needed_text("server", 1, REF_MAX);
    let older = o.text("tool", 1, REF_MAX);
    let action = match older {
        Some(action) => Some(action),
        None => o.needed_text("action", 1, REF_MAX),
    };
    Some(Implementation::Mcp { server: server?, action: action? })
}

/// What keeps a file from being used with the functions this program has.
pub fn misfits(file: &ToolFile, platform: &Registry) -> Vec<Problem> {
    let path = format!("tools/{}.json", file.name);
    let Implementation::Platform(name) = &file.implementation else { return Vec::new() };
    let own = if name == SUBMIT {
        Effect::ReadOnly
    } else {
        let Some(function) = platform.get(name) else {
            let why = format!("there is no function {}", quoted(name));
            let known: Vec<&str> = platform.iter().map(|t| t.name()).chain([SUBMIT]).collect();
            return vec![Problem::error(
                &path,
                "/implementation/ref",
                why,
                format!("write one of {}", known.join(", ")),
            )];
        };
        let wider = wider_than(&file.input_schema, function.input_schema());
        if !wider.is_empty() {
            let problem =
                |(place, why, fix): (String, String, String)| Problem::error(&path, place, why, fix);
            return wider.into_iter().map(problem).collect();
        }
        // the strictest class it has for any input
        function.effect(&Value::Null)
    };
    match file.effect {
        Some(declared) if declared < own => {
            let why = format!(
                "is {}, but the function is {} and may only be tightened",
                declared.as_str(),
                own.as_str()
            );
            vec![Problem::error(&path, "/effect", why, format!("write {}, or leave it out", own.as_str()))]
        }
        _ => Vec::new(),
    }
}

/// What keeps a file's schema from accepting only what its function accepts, as far as that can be told
/// without running anything; calls are checked against both schemas in any case.
pub fn wider_than(own: &Value, function: &Value) -> Vec<(String, String, String)> {
    let empty = Map::new();
    let properties = |schema: &Value| schema["properties"].as_object().unwrap_or(&empty).clone();
    let required = |schema: &Value| -> Vec<String> {
        let list = schema["required"].as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    let mut found = Vec::new();
    let (mine, theirs) = (properties(own), properties(function));
    if function["additionalProperties"] == false {
        for name in mine.keys().filter(|n| !theirs.contains_key(*n)) {
            let known: Vec<&str> = theirs.keys().map(String::as_str).collect();
            let place = format!("/input_schema/properties/{}", name.replace('~', "~0").replace('/', "~1"));
            let why = format!("the function takes no {}", quoted(name));
            found.push((place, why, format!("remove it; the function takes {}", known.join(", "))));
        }
    }
    let have = required(own);
    for name in required(function).into_iter().filter(|n| !have.contains(n)) {
        let why = format!("{} is not required, but the function needs it", quoted(&name));
        found.push(("/input_schema/required".to_owned(), why, "add it to the list".to_owned()));
    }
    found
}
