//! A server that asks the person something in the middle of a call (elicitation).
//!
//! The question goes to whoever implements [`Ask`]; the answer is one text. Here it is only fitted to what the
//! server wants: a form with one property takes the text itself, any other form a JSON object.

use async_trait::async_trait;
use rmcp::model::{ElicitRequestParams, ElicitResult, ElicitationAction};
use serde_json::{Map, Value, json};

/// A server's question.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Who asks.
    pub server: String,
    /// What.
    pub message: String,
    /// What it wants.
    pub wants: Wants,
}

/// What a server wants from the person.
#[derive(Debug, Clone, PartialEq)]
pub enum Wants {
    /// Values for the properties of this JSON Schema.
    Form(Value),
    /// That the person visits this address and says when that is done.
    Visit(String),
}

/// What the person said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// An answer.
    Text(String),
    /// No.
    Declined,
    /// Nothing: it expired, or the turn was cancelled.
    Cancelled,
}

/// Whoever can reach the person.
#[async_trait]
pub trait Ask: Send + Sync {
    /// Asks and waits for the answer.
    async fn ask(&self, question: Question) -> Reply;
}

/// The question in a server's request.
pub(crate) fn question(server: &str, params: &ElicitRequestParams) -> Option<Question> {
    let server = server.to_owned();
    match params {
        ElicitRequestParams::FormElicitationParams { message, requested_schema, .. } => {
            let schema = serde_json::to_value(requested_schema).ok()?;
            Some(Question { server, message: message.clone(), wants: Wants::Form(schema) })
        }
        ElicitRequestParams::UrlElicitationParams { message, url, .. } => {
            Some(Question { server, message: message.clone(), wants: Wants::Visit(url.clone()) })
        }
        // rmcp may learn further kinds
        _ => None,
    }
}

/// The answer in the server's form.
pub(crate) fn result(wants: &Wants, reply: Reply) -> ElicitResult {
    let text = match reply {
        Reply::Text(text) => text,
        Reply::Declined => return ElicitResult::new(ElicitationAction::Decline),
        Reply::Cancelled => return ElicitResult::new(ElicitationAction::Cancel),
    };
    if text.trim().eq_ignore_ascii_case("no") {
        return ElicitResult::new(ElicitationAction::Decline);
    }
    match wants {
        Wants::Visit(_) => ElicitResult::new(ElicitationAction::Accept),
        Wants::Form(schema) => match fill(schema, &text) {
            Some(content) => ElicitResult::new(ElicitationAction::Accept).with_content(content),
            None => ElicitResult::new(ElicitationAction::Decline),
        },
    }
}

/// Fits a text to a form; `None` when it does not fit. Properties that were not given take their defaults.
fn fill(schema: &Value, text: &str) -> Option<Value> {
    let empty = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
    let mut given = match serde_json::from_str::<Value>(text) {
        Ok(Value::Object(map)) => map,
        _ if properties.len() == 1 => {
            let (name, property) = properties.iter().next()?;
            Map::from_iter([(name.clone(), typed(property, text)?)])
        }
        _ if properties.is_empty() => Map::new(),
        // a bare yes accepts a form of defaults
        _ if text.trim().eq_ignore_ascii_case("yes") => Map::new(),
        _ => return None,
    };
    for (name, property) in properties {
        if let Some(default) = property.get("default") {
            given.entry(name.clone()).or_insert_with(|| default.clone());
        }
    }
    let required = schema.get("required").and_then(Value::as_array);
    let complete = required
        .is_none_or(|names| names.iter().filter_map(Value::as_str).all(|name| given.contains_key(name)));
    complete.then_some(Value::Object(given))
}

fn typed(property: &Value, text: &str) -> Option<Value> {
    let text = text.trim();
    match property.get("type").and_then(Value::as_str) {
        Some("integer") => text.parse::<i64>().ok().map(|number| json!(number)),
        Some("number") => {
            text.parse::<f64>().ok().filter(|number| number.is_finite()).map(|number| json!(number))
        }
        Some("boolean") => match text.to_ascii_lowercase().as_str() {
            "true" | "yes" => Some(json!(true)),
            "false" => Some(json!(false)),
            _ => None,
        },
        Some("array") => Some(json!(text.split(',').map(str::trim).collect::<Vec<_>>())),
        Some(_) | None => Some(json!(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(schema: Value, text: &str) -> (ElicitationAction, Option<Value>) {
        let answer = result(&Wants::Form(schema), Reply::Text(text.into()));
        (answer.action, answer.content)
    }

    #[test]
    fn one_property_takes_the_text_and_more_take_an_object() {
        let one =
            |kind: &str| json!({"type": "object", "properties": {"n": {"type": kind}}, "required": ["n"]});
        let two = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"default": 7}}, "required": ["a", "b"]});
        let accept = ElicitationAction::Accept;
        assert_eq!(form(one("string"), "hello"), (accept.clone(), Some(json!({"n": "hello"}))));
        assert_eq!(form(one("integer"), " 42 "), (accept.clone(), Some(json!({"n": 42}))));
        assert_eq!(form(one("boolean"), "Yes"), (accept.clone(), Some(json!({"n": true}))));
        assert_eq!(form(two.clone(), r#"{"a":"x"}"#), (accept, Some(json!({"a": "x", "b": 7}))));
        for (schema, text) in
            [(one("integer"), "many"), (two.clone(), "x"), (two, "{}"), (one("string"), "No")]
        {
            assert_eq!(form(schema, text), (ElicitationAction::Decline, None), "{text}");
        }
    }

    #[test]
    fn silence_is_cancel_and_no_is_decline() {
        let visit = Wants::Visit("https://x.example.com".into());
        assert_eq!(result(&visit, Reply::Cancelled).action, ElicitationAction::Cancel);
        assert_eq!(result(&visit, Reply::Declined).action, ElicitationAction::Decline);
        assert_eq!(result(&visit, Reply::Text("done".into())).action, ElicitationAction::Accept);
        assert_eq!(result(&visit, Reply::Text("no".into())).action, ElicitationAction::Decline);
    }
}
