//! Prompt templates: `{{name}}` is replaced by the parameter of that name. No logic. (specification 8.4)
//!
//! What a parameter contains is never read as a template again, so a value cannot reach another value.

use serde_json::{Map, Value};

/// The parts of a template between and inside the braces.
fn parts(template: &str) -> impl Iterator<Item = Part<'_>> {
    let mut rest = template;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        if let Some((name, after)) = variable_at(rest) {
            rest = after;
            return Some(Part::Variable(name));
        }
        // the first pair of braces may be plain text; the search goes on behind it
        let from = rest.char_indices().nth(1).map_or(rest.len(), |(i, _)| i);
        let mut end = from;
        loop {
            match rest[end..].find("{{") {
                None => end = rest.len(),
                Some(at) if variable_at(&rest[end + at..]).is_some() => end += at,
                Some(at) => {
                    end += at + 1;
                    continue;
                }
            }
            break;
        }
        let (text, after) = rest.split_at(end);
        rest = after;
        Some(Part::Text(text))
    })
}

enum Part<'a> {
    Text(&'a str),
    Variable(&'a str),
}

/// The variable that a text begins with, and what follows it.
fn variable_at(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix("{{")?;
    let name_end = inner.find(|c: char| c != ' ')?;
    let trimmed = &inner[name_end..];
    let length = trimmed.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-')))?;
    if length == 0 {
        return None;
    }
    let after = trimmed[length..].trim_start_matches(' ').strip_prefix("}}")?;
    Some((&trimmed[..length], after))
}

/// The template with its variables replaced: strings as they are, other values as JSON, missing ones empty.
pub fn fill(template: &str, parameters: &Map<String, Value>) -> String {
    let mut out = String::with_capacity(template.len());
    for part in parts(template) {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Variable(name) => match parameters.get(name) {
                None => {}
                Some(Value::String(text)) => out.push_str(text),
                Some(other) => out.push_str(&other.to_string()),
            },
        }
    }
    out
}

/// The names of a template's variables, each once, in the order they appear.
pub fn variables(template: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for part in parts(template) {
        if let Part::Variable(name) = part
            && !names.contains(&name)
        {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn filled(template: &str, parameters: Value) -> String {
        fill(template, parameters.as_object().expect("an object"))
    }

    #[test]
    fn strings_go_in_raw_other_values_as_json_and_missing_ones_are_empty() {
        let table = [
            ("Sum up: {{text}}", json!({"text": "a \"b\"\nc"}), "Sum up: a \"b\"\nc"),
            ("{{a}}{{ b }}|{{c}}", json!({"a": 1, "b": [1, "x"], "d": 2}), "1[1,\"x\"]|"),
            ("{{a}}", json!({"a": null}), "null"),
            ("{{ }} {{}} {x} {{a b}} {{{a}}}", json!({"a": 1}), "{{ }} {{}} {x} {{a b}} {1}"),
            ("{{a}} {{", json!({"a": "{{b}}", "b": "no"}), "{{b}} {{"),
            ("", json!({}), ""),
            ("é{{ä}}{{x-y}}{{x_y}}", json!({"x-y": "1", "x_y": "2"}), "é{{ä}}12"),
        ];
        for (template, parameters, expected) in table {
            assert_eq!(filled(template, parameters), expected, "{template}");
        }
        assert_eq!(variables("{{b}} {{a}} {{b}} {{ c}} {{}}"), ["b", "a", "c"]);
    }

    proptest! {
        #[test]
        fn text_without_variables_is_left_as_it_is(text in "[{} a-zé\n]{0,60}") {
            let names = variables(&text);
            if names.is_empty() {
                prop_assert_eq!(fill(&text, &Map::new()), text);
            } else {
                prop_assert!(fill(&text, &Map::new()).len() < text.len());
            }
        }

        #[test]
        fn values_are_never_read_as_templates(value in ".{0,40}") {
            let parameters = json!({"a": value, "b": "REPLACED"});
            prop_assert_eq!(filled("<{{a}}>", parameters), format!("<{value}>"));
        }
    }
}
