//! The text under which a memory is found by keywords: its fields and its date, written out.
//!
//! Questions name days and months in words ("on Monday", "in April"); the date stands in the index in the same words.
//! Nothing is shortened here: sizes are the business of [`crate::field`].
//!
//! The invariant: the same memory always has the same search text, so the index can be rebuilt from the rows.

use chrono::{DateTime, Utc};
use contract::Timestamp;
use serde_json::Value;

/// `2026-04-27 Monday April 2026`.
pub fn written_out(at: Timestamp) -> String {
    let time = DateTime::<Utc>::from_timestamp_millis(at.millis()).unwrap_or(DateTime::<Utc>::UNIX_EPOCH);
    time.format("%Y-%m-%d %A %B %Y").to_string()
}

/// What of a search text is embedded: all but the written-out date. The date is there for words; to an embedder it makes
/// all memories of a day alike.
pub fn embedded(search_text: &str) -> &str {
    let Some((said, last)) = search_text.rsplit_once('\n') else { return search_text };
    let date = last.get(..10).and_then(|day| Timestamp::parse(&format!("{day}T00:00:00.000Z")));
    if date.is_some_and(|at| written_out(at) == last) { said } else { search_text }
}

/// The search text of an episode.
pub fn episode(key: &str, description: &str, value: Option<&str>, occurred_at: Timestamp) -> String {
    lines([key, description, value.unwrap_or_default(), &written_out(occurred_at)])
}

/// The search text of a fact.
pub fn fact(subject: &str, content: &str, valid_from: Timestamp) -> String {
    lines([subject, content, &written_out(valid_from)])
}

/// One relation of a node, as it is searched: "manager_of" and the name at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relation<'a> {
    /// How they are related.
    pub relation: &'a str,
    /// The name of the other.
    pub other: &'a str,
}

/// The search text of a node of the social graph: it changes with its relations, and has no date of its own.
pub fn node(name: &str, aliases: &[String], attributes: &Value, relations: &[Relation<'_>]) -> String {
    let mut told = Vec::new();
    flatten(attributes, &mut told);
    let related: Vec<String> =
        relations.iter().map(|r| format!("{} {}", r.relation.replace('_', " "), r.other)).collect();
    lines([name, &aliases.join(" "), &told.join(" "), &related.join("\n")])
}

/// The words of an attribute object: names and values, by name, however the object was read.
fn flatten(value: &Value, told: &mut Vec<String>) {
    match value {
        Value::Null => {}
        Value::Bool(b) => told.push(b.to_string()),
        Value::Number(n) => told.push(n.to_string()),
        Value::String(s) => told.push(s.clone()),
        Value::Array(items) => items.iter().for_each(|item| flatten(item, told)),
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            for (name, item) in fields {
                told.push(name.replace('_', " "));
                flatten(item, told);
            }
        }
    }
}

fn lines<const N: usize>(parts: [&str; N]) -> String {
    parts.into_iter().map(str::trim).filter(|p| !p.is_empty()).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at() -> Timestamp {
        Timestamp::parse("2026-04-27T23:59:59Z").expect("a time")
    }

    #[test]
    fn the_date_is_written_out() {
        assert_eq!(written_out(at()), "2026-04-27 Monday April 2026");
    }

    #[test]
    fn the_date_and_nothing_else_is_left_out_of_what_is_embedded() {
        assert_eq!(embedded(&fact("testing", "Run it", at())), "testing\nRun it");
        for whole in
            ["", "Asha", "due\n2026-04-27", "due\n2026-04-27 Friday April 2026", "due\n☕☕☕☕☕☕☕☕☕☕"]
        {
            assert_eq!(embedded(whole), whole);
        }
    }

    #[test]
    fn every_field_can_be_found() {
        assert_eq!(
            episode("deploy-friday", "Deployment failed", None, at()),
            "deploy-friday\nDeployment failed\n2026-04-27 Monday April 2026"
        );
        assert_eq!(fact("testing", "Run it", at()), "testing\nRun it\n2026-04-27 Monday April 2026");
        let relations = [Relation { relation: "manager_of", other: "Ben" }];
        assert_eq!(
            node("Asha", &["A.".to_owned()], &json!({"home_town": ["Pune"], "age": 41}), &relations),
            "Asha\nA.\nage 41 home town Pune\nmanager of Ben"
        );
    }
}
