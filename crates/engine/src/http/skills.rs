//! /skills: what there is, and the custom ones made, changed and deleted by people.
//!
//! Platform skills come from the catalog and cannot be changed here. Every change of a custom skill is a new
//! version of the catalog, in the order of the commits.

use super::app::App;
use super::fields::{Fields, Name};
use crate::catalog::document::is_plain_name;
use crate::catalog::skill::{
    CAPABILITIES_MAX, CAPABILITY_MAX, CATEGORY_MAX, DESCRIPTION_MAX, PROMPT_MAX, SCRIPT_MAX, SCRIPTS_MAX,
    Scripts, Skill, is_script_name,
};
use crate::core::{Core, to_the_end};
use crate::turn::accept::storage;
use ::memory::signals::SKILL_WRITTEN;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use brain::Tx;
use brain::skills::{self, Change};
use chassis::http::Refusal;
use contract::{ApiError, ErrorCode, Timestamp};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Custom skills of one brain. Each is offered to the model by every agent with `*`, so more would fill its
/// context with descriptions; and prompts are kept in memory.
pub(crate) const CUSTOM_MAX: u64 = 500;

/// Every skill, by name.
pub async fn list(State(app): State<Arc<App>>) -> Result<Json<Value>, Refusal> {
    let catalog = app.core()?.catalog.present();
    Ok(app.told(catalog.skills().map(|s| s.line()).collect()))
}

/// One skill with its prompt and scripts.
pub async fn get(State(app): State<Arc<App>>, Name(name): Name) -> Result<Json<Value>, Refusal> {
    let core = app.core()?;
    let catalog = core.catalog.present();
    let skill = catalog.skill(&name).ok_or_else(|| missing(&name))?;
    Ok(app.told(whole(core, skill).await?))
}

fn missing(name: &str) -> ApiError {
    let shown: String = name.chars().take(64).collect();
    ApiError::new(ErrorCode::SkillNotFound, "there is no such skill").with(json!({"name": shown}))
}

/// A skill as GET /skills/{name} shows it.
async fn whole(core: &Core, skill: &Skill) -> Result<Value, ApiError> {
    let scripts = match &skill.scripts {
        Scripts::Kept(list) => list.clone(),
        Scripts::InBrain(_) => {
            let name = skill.name.clone();
            let read = core.brain.read("skill scripts", move |tx| skills::scripts(tx, &name)).await;
            read.map_err(|e| storage(&e))?
        }
    };
    Ok(shape(skill, &scripts))
}

fn shape(skill: &Skill, scripts: &[(String, String)]) -> Value {
    let contents: Map<String, Value> =
        scripts.iter().map(|(name, text)| (name.clone(), Value::String(text.clone()))).collect();
    json!({
        "name": skill.name,
        "description": skill.description,
        "category": skill.category,
        "prompt_template": skill.prompt_template,
        "scripts": contents,
        "capabilities": skill.capabilities,
        "source": skill.source(),
    })
}

/// The fields of a skill as they were sent; `None` is a field that was left out.
struct Sent {
    description: Option<String>,
    category: Option<String>,
    prompt: Option<String>,
    capabilities: Option<Vec<String>>,
    scripts: Option<Vec<(String, String)>>,
}

fn sent(fields: &mut Fields) -> Result<Sent, ApiError> {
    let prompt = match fields.opt_text("prompt", 0, PROMPT_MAX)? {
        Some(prompt) => Some(prompt),
        None => fields.opt_text("prompt_template", 0, PROMPT_MAX)?,
    };
    if let Some(prompt) = prompt.as_ref().filter(|p| p.len() > PROMPT_MAX) {
        let expected = format!("at most {PROMPT_MAX} bytes");
        return Err(ApiError::invalid_field("prompt", &expected, json!(prompt.len())));
    }
    Ok(Sent {
        description: fields.opt_text("description", 0, DESCRIPTION_MAX)?,
        category: fields.opt_text("category", 0, CATEGORY_MAX)?,
        prompt,
        capabilities: capabilities(fields)?,
        scripts: scripts(fields)?,
    })
}

fn capabilities(fields: &mut Fields) -> Result<Option<Vec<String>>, ApiError> {
    let expected = format!("at most {CAPABILITIES_MAX} strings of 1..{CAPABILITY_MAX} characters");
    let Some(value) = fields.take("capabilities") else { return Ok(None) };
    let wrong = |got: Value| ApiError::invalid_field("capabilities", &expected, got);
    let Value::Array(items) = value else { return Err(wrong(Value::Null)) };
    if items.len() > CAPABILITIES_MAX {
        return Err(wrong(json!(items.len())));
    }
    let texts = items.into_iter().map(|item| match item {
        Value::String(text) if (1..=CAPABILITY_MAX).contains(&text.chars().count()) => {
            Ok(super::sanitise::text(&text))
        }
        _ => Err(wrong(Value::Null)),
    });
    texts.collect::<Result<_, _>>().map(Some)
}

fn scripts(fields: &mut Fields) -> Result<Option<Vec<(String, String)>>, ApiError> {
    let Some(value) = fields.take("scripts") else { return Ok(None) };
    let Value::Object(map) = value else {
        return Err(ApiError::invalid_field("scripts", "an object of file names and contents", Value::Null));
    };
    if map.len() > SCRIPTS_MAX {
        let expected = format!("at most {SCRIPTS_MAX} scripts");
        return Err(ApiError::invalid_field("scripts", &expected, json!(map.len())));
    }
    let one = |(name, text): (String, Value)| {
        if !is_script_name(&name) {
            let expected = "file names of 1..64 of [A-Za-z0-9._-]";
            let shown: String = name.chars().take(64).collect();
            return Err(ApiError::invalid_field("scripts", expected, json!(shown)));
        }
        match text {
            Value::String(text) if text.len() <= SCRIPT_MAX => Ok((name, text)),
            Value::String(text) => {
                let expected = format!("at most {SCRIPT_MAX} bytes");
                Err(ApiError::invalid_field(&format!("scripts.{name}"), &expected, json!(text.len())))
            }
            _ => Err(ApiError::invalid_field(&format!("scripts.{name}"), "a string", Value::Null)),
        }
    };
    map.into_iter().map(one).collect::<Result<_, _>>().map(Some)
}

fn neither() -> ApiError {
    ApiError::new(ErrorCode::ValidationError, "a skill has a prompt, or scripts, or both")
        .with(json!({"field": "prompt", "expected": "a prompt, because there are no scripts"}))
}

/// Makes a custom skill.
pub async fn create(State(app): State<Arc<App>>, body: Body) -> Result<Json<Value>, Refusal> {
    let core = app.core()?;
    let mut fields = Fields::read(body, app.max_body).await?;
    let name = fields.text("name", 1, 64)?;
    if !is_plain_name(&name) {
        let expected = "small letters and digits, with single dashes between words";
        return Err(ApiError::invalid_field("name", expected, json!(name)).into());
    }
    let sent = sent(&mut fields)?;
    let scripts = sent.scripts.unwrap_or_default();
    let prompt = sent.prompt.filter(|p| !p.is_empty());
    if prompt.is_none() && scripts.is_empty() {
        return Err(neither().into());
    }
    let taken = || {
        ApiError::new(ErrorCode::Conflict, "there is a skill of that name already")
            .with(json!({"reason": "already_exists", "name": name}))
    };
    let of_platform = |skill: &Skill| skill.layer.is_some();
    if core.catalog.present().skill(&name).is_some_and(|s| of_platform(s)) {
        return Err(taken().into());
    }
    let skill = skills::Skill {
        name: name.clone(),
        description: sent.description.unwrap_or_default(),
        category: sent.category.unwrap_or_default(),
        prompt_template: prompt,
        scripts: scripts.iter().map(|(n, _)| n.clone()).collect(),
        capabilities: sent.capabilities.unwrap_or_default(),
        confidence: SKILL_WRITTEN,
        source: "user:api".to_owned(),
        trust: "user".to_owned(),
    };
    let shown = shape(&Skill::custom(&skill), &scripts);
    let change = change(core, "create skill", move |tx| {
        if skills::count(tx)? >= CUSTOM_MAX {
            return Ok(None);
        }
        skills::create(tx, &skill, &scripts, Timestamp::now()).map(Some)
    });
    match change.await? {
        Some(Change::Changed) => Ok(app.told(shown)),
        Some(Change::Exists | Change::Missing) => Err(taken().into()),
        None => {
            let text = format!("there are {CUSTOM_MAX} custom skills; delete one first");
            Err(ApiError::new(ErrorCode::ValidationError, text).with(json!({"limit": CUSTOM_MAX})).into())
        }
    }
}

/// Changes a custom skill; what is left out stays.
pub async fn replace(
    State(app): State<Arc<App>>,
    Name(name): Name,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    let core = app.core()?;
    let mut fields = Fields::read(body, app.max_body).await?;
    let sent = sent(&mut fields)?;
    refuse_platform(core, &name)?;
    let wanted = name.clone();
    let changed = change(core, "change skill", move |tx| {
        let Some(mut skill) = skills::get(tx, &wanted)? else { return Ok(Err(missing(&wanted))) };
        let scripts = match sent.scripts {
            Some(scripts) => scripts,
            None => skills::scripts(tx, &wanted)?,
        };
        skill.scripts = scripts.iter().map(|(n, _)| n.clone()).collect();
        skill.description = sent.description.unwrap_or(skill.description);
        skill.category = sent.category.unwrap_or(skill.category);
        skill.capabilities = sent.capabilities.unwrap_or(skill.capabilities);
        if let Some(prompt) = sent.prompt {
            skill.prompt_template = Some(prompt).filter(|p| !p.is_empty());
        }
        if skill.prompt_template.is_none() && scripts.is_empty() {
            return Ok(Err(neither()));
        }
        // what a person has written is theirs: sure, and never removed by itself
        skill.confidence = SKILL_WRITTEN;
        (skill.source, skill.trust) = ("user:api".to_owned(), "user".to_owned());
        skills::replace(tx, &skill, &scripts, Timestamp::now())?;
        Ok(Ok(shape(&Skill::custom(&skill), &scripts)))
    });
    Ok(app.told(changed.await??))
}

/// Deletes a custom skill.
pub async fn delete(State(app): State<Arc<App>>, Name(name): Name) -> Result<Json<Value>, Refusal> {
    let core = app.core()?;
    refuse_platform(core, &name)?;
    let wanted = name.clone();
    match change(core, "delete skill", move |tx| skills::delete(tx, &wanted)).await? {
        Change::Changed => Ok(Json(json!({"status": "deleted", "name": name}))),
        Change::Missing | Change::Exists => Err(missing(&name).into()),
    }
}

fn refuse_platform(core: &Core, name: &str) -> Result<(), ApiError> {
    let is_platform = core.catalog.present().skill(name).is_some_and(|s| s.layer.is_some());
    if is_platform {
        let text = "platform skills come from the catalog and are not changed over the API";
        return Err(ApiError::new(ErrorCode::PermissionDenied, text).with(json!({"name": name})));
    }
    Ok(())
}

/// Changes the stored skills and, in the order of the commits, the catalog.
async fn change<T: Send + 'static>(
    core: &Arc<Core>,
    name: &'static str,
    work: impl FnOnce(&Tx<'_>) -> brain::Result<T> + Send + 'static,
) -> Result<T, ApiError> {
    let core = Arc::clone(core);
    let written = to_the_end(async move {
        let shelf = Arc::clone(&core.catalog);
        core.brain
            .write_then(
                name,
                move |tx| {
                    let value = work(tx)?;
                    Ok((value, skills::list(tx)?))
                },
                move |(_, stored)| shelf.set_custom(stored),
            )
            .await
    });
    Ok(written.await.map_err(|e| storage(&e))?.0)
}
