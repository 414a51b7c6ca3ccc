//! The first look at a bundle: every row is checked, and what the rows say of each other.
//!
//! Ids that stand twice and relations to nobody are refused. References that only tell where something came from (what
//! superseded a fact, which memory another stems from) may lead out of a bundle, because an export takes longer than
//! one instant; they are left out, and so is one that leads back to where it began.
//!
//! The invariant: what is staged after this look refers to nothing outside the bundle.

use super::check::{Wrong, checked};
use super::read::{Refusal, Rows, Unreadable, is_too_deep, read};
use super::rows::{FactRow, ParentRow, Row};
use contract::memory::ParentKind;
use contract::{FactId, NodeId};
use std::collections::{BTreeSet, HashMap, HashSet};

/// What is known of a bundle that nothing is wrong with.
#[derive(Debug, Default)]
pub struct Survey {
    ids: HashSet<String>,
    nodes: HashSet<NodeId>,
    superseded: HashMap<FactId, FactId>,
    skills: BTreeSet<String>,
    versions: HashSet<i64>,
    ends: Vec<(usize, NodeId, NodeId)>,
    edges: usize,
    bundle: String,
}

impl Survey {
    /// Looks at a whole bundle. `bundle` is its name.
    pub fn of(bytes: &[u8], bundle: &str) -> Result<Self, Unreadable> {
        if is_too_deep(bytes) {
            return Err(Unreadable::NotJson("it is nested too deeply".to_owned()));
        }
        let mut survey = Self { bundle: bundle.to_owned(), ..Self::default() };
        read(bytes, &mut survey)?;
        for (at, from, to) in std::mem::take(&mut survey.ends) {
            for (field, end) in [("from", &from), ("to", &to)] {
                if !survey.nodes.contains(end) {
                    let pointer = format!("/social/edges/{at}/{field}");
                    let refusal = Refusal::new(pointer, "the id of a node in this bundle");
                    return Err(Unreadable::Refused(refusal.seen_in(bytes)));
                }
            }
        }
        survey.break_circles();
        Ok(survey)
    }

    /// The names of its skills.
    pub fn skills(&self) -> &BTreeSet<String> {
        &self.skills
    }

    /// The row as it is staged: references that lead nowhere are left out.
    pub fn settled(&self, row: Row) -> Result<Row, Wrong> {
        Ok(match checked(row, &self.bundle)? {
            Row::Episode(mut row) => {
                self.keep_known(&mut row.lineage.0, row.id.as_str());
                Row::Episode(row)
            }
            Row::Fact(mut row) => {
                self.keep_known(&mut row.lineage.0, row.id.as_str());
                row.superseded_by = self.superseded.get(&row.id).cloned();
                Row::Fact(row)
            }
            Row::Node(mut row) => {
                self.keep_known(&mut row.lineage.0, row.id.as_str());
                Row::Node(row)
            }
            Row::Edge(mut row) => {
                self.keep_known(&mut row.lineage.0, row.id.as_str());
                Row::Edge(row)
            }
            other @ (Row::Soul(_) | Row::Version(_) | Row::Skill(_) | Row::Signal(_)) => other,
        })
    }

    fn keep_known(&self, lineage: &mut Vec<ParentRow>, own: &str) {
        lineage.retain(|parent| {
            parent.kind != ParentKind::Memory || (parent.id != own && self.ids.contains(&parent.id))
        });
    }

    /// Takes out what superseded a fact where that leads out of the bundle or back to the fact.
    fn break_circles(&mut self) {
        let ids = &self.ids;
        self.superseded.retain(|_, by| ids.contains(by.as_str()));
        let mut sound: HashSet<FactId> = HashSet::new();
        let mut starts: Vec<FactId> = self.superseded.keys().cloned().collect();
        starts.sort();
        for start in starts {
            let mut path: HashSet<FactId> = HashSet::new();
            let mut at = start;
            while !sound.contains(&at) {
                path.insert(at.clone());
                let Some(next) = self.superseded.get(&at).cloned() else { break };
                if path.contains(&next) {
                    self.superseded.remove(&at);
                    break;
                }
                at = next;
            }
            sound.extend(path);
        }
    }

    fn new_id(&mut self, id: &str) -> Result<(), Wrong> {
        match self.ids.insert(id.to_owned()) {
            true => Ok(()),
            false => Err(Wrong::new("id", "every id once in a bundle")),
        }
    }

    fn fact(&mut self, row: FactRow) {
        if let Some(by) = row.superseded_by {
            self.superseded.insert(row.id, by);
        }
    }
}

impl Rows for Survey {
    fn row(&mut self, row: Row) -> Result<(), Wrong> {
        match checked(row, &self.bundle)? {
            Row::Soul(_) => {}
            Row::Version(row) => {
                if !self.versions.insert(row.version) {
                    return Err(Wrong::new("version", "every version once"));
                }
            }
            Row::Episode(row) => self.new_id(row.id.as_str())?,
            Row::Fact(row) => {
                self.new_id(row.id.as_str())?;
                self.fact(row);
            }
            Row::Node(row) => {
                self.new_id(row.id.as_str())?;
                self.nodes.insert(row.id);
            }
            Row::Edge(row) => {
                self.new_id(row.id.as_str())?;
                self.ends.push((self.edges, row.from, row.to));
                self.edges += 1;
            }
            Row::Skill(row) => {
                if !self.skills.insert(row.name) {
                    return Err(Wrong::new("name", "every skill once"));
                }
            }
            Row::Signal(row) => self.new_id(row.id.as_str())?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn fact(id: &str, by: Option<&str>) -> Value {
        json!({"id": id, "subject": "s", "content": format!("c {id}"), "type": "fact",
               "valid_from": "2026-01-01T00:00:00Z", "superseded_by": by, "confidence": 0.5, "trust": "user",
               "created_at": "2026-01-01T00:00:00Z"})
    }

    fn look(bundle: &Value) -> Result<Survey, Unreadable> {
        Survey::of(bundle.to_string().as_bytes(), "test")
    }

    fn refused(bundle: &Value) -> Refusal {
        match look(bundle) {
            Err(Unreadable::Refused(refusal)) => refusal,
            other => panic!("{other:?}"),
        }
    }

    fn bundle(name: &str, rows: Value) -> Value {
        let mut bundle = json!({"format": "september-memory/1", "soul": null, "soul_history": [], "episodes": [],
                                "knowledge": [], "social": {"nodes": [], "edges": []}, "skills": [], "signals": []});
        bundle[name] = rows;
        bundle
    }

    #[test]
    fn what_is_wrong_is_named_by_its_place() {
        let mut wrong = fact("fact-1", None);
        wrong["content"] = json!(7);
        assert_eq!(
            refused(&bundle("knowledge", json!([fact("fact-0", None), wrong]))).pointer,
            "/knowledge/1/content"
        );
        let mut long = fact("fact-1", None);
        long["subject"] = json!("x".repeat(201));
        assert_eq!(refused(&bundle("knowledge", json!([long]))).pointer, "/knowledge/0/subject");
        let mut trust = fact("fact-1", None);
        trust["trust"] = json!("holy");
        assert_eq!(refused(&bundle("knowledge", json!([trust]))).pointer, "/knowledge/0/trust");
        let twice = json!([fact("fact-1", None), fact("fact-1", None)]);
        assert_eq!(refused(&bundle("knowledge", twice)).pointer, "/knowledge/1/id");
        assert_eq!(refused(&bundle("knowledge", json!({}))).pointer, "/knowledge");
        assert_eq!(refused(&json!({"format": "september-memory/2"})).pointer, "/format");
        assert_eq!(refused(&json!({})).pointer, "/format");
        let node = json!({"id": "soc-1", "name": "A", "kind": "person", "confidence": 0.5, "trust": "user",
                          "created_at": "2026-01-01T00:00:00Z"});
        let edge = json!({"id": "rel-1", "from": "soc-1", "to": "soc-2", "relation": "knows",
                          "valid_from": "2026-01-01T00:00:00Z", "confidence": 0.5, "trust": "user",
                          "created_at": "2026-01-01T00:00:00Z"});
        let social = bundle("social", json!({"edges": [edge], "nodes": [node]}));
        assert_eq!(refused(&social).pointer, "/social/edges/0/to");
        let mut sure = fact("fact-1", None);
        sure["confidence"] = json!(1.5);
        assert_eq!(refused(&bundle("knowledge", json!([sure]))).pointer, "/knowledge/0/confidence");
    }

    #[test]
    fn a_bundle_without_a_section_is_refused_by_the_name_of_the_section() {
        let full = bundle("knowledge", json!([]));
        assert!(look(&full).is_ok());
        for section in ["soul", "soul_history", "episodes", "knowledge", "social", "skills", "signals"] {
            let mut without = full.clone();
            without.as_object_mut().expect("an object").remove(section);
            assert_eq!(refused(&without).pointer, format!("/{section}"));
        }
        for section in ["nodes", "edges"] {
            let mut without = full.clone();
            without["social"].as_object_mut().expect("an object").remove(section);
            assert_eq!(refused(&without).pointer, format!("/social/{section}"));
        }
    }

    #[test]
    fn what_ends_before_it_begins_is_refused() {
        let mut row = fact("fact-1", None);
        row["valid_until"] = json!("2025-12-31T00:00:00Z");
        assert_eq!(refused(&bundle("knowledge", json!([row]))).pointer, "/knowledge/0/valid_until");
        row["valid_until"] = row["valid_from"].clone();
        assert!(look(&bundle("knowledge", json!([row]))).is_ok(), "replaced at once");
    }

    #[test]
    fn what_is_no_json_is_told_apart_from_what_is_no_bundle() {
        let whole = bundle("knowledge", json!([])).to_string();
        for text in ["", "{", "{\"format\":", "\u{0}", &whole[..whole.len() - 1], &format!("{whole} x")] {
            assert!(matches!(Survey::of(text.as_bytes(), "t"), Err(Unreadable::NotJson(_))), "{text}");
        }
        assert!(matches!(Survey::of(b"[]", "t"), Err(Unreadable::Refused(_))));
        let deep =
            format!("{{\"format\":\"september-memory/1\",\"x\":{}1{}}}", "[".repeat(500), "]".repeat(500));
        assert!(matches!(Survey::of(deep.as_bytes(), "t"), Err(Unreadable::NotJson(_))));
        let twice = br#"{"format":"september-memory/1","episodes":[],"episodes":[]}"#;
        assert!(matches!(Survey::of(twice, "t"), Err(Unreadable::Refused(_))));
    }

    #[test]
    fn what_leads_nowhere_or_back_is_left_out() {
        let rows = json!([
            fact("fact-1", Some("fact-2")),
            fact("fact-2", Some("fact-3")),
            fact("fact-3", Some("fact-1")),
            fact("fact-4", Some("fact-4")),
            fact("fact-5", Some("fact-gone")),
            fact("fact-6", Some("fact-1")),
        ]);
        let survey = look(&bundle("knowledge", rows)).expect("a bundle");
        assert_eq!(survey.superseded.len(), 3, "{:?}", survey.superseded);
        for start in survey.superseded.keys() {
            let (mut at, mut steps) = (start, 0);
            while let Some(next) = survey.superseded.get(at) {
                (at, steps) = (next, steps + 1);
                assert!(steps < 10, "a circle");
            }
        }
    }

    proptest! {
        #[test]
        fn no_document_is_too_strange_to_be_refused(text in ".{0,200}") {
            prop_assert!(Survey::of(text.as_bytes(), "t").is_err());
        }

        #[test]
        fn circles_are_broken_whatever_they_look_like(links in prop::collection::vec(0usize..12, 12)) {
            let id = |n: usize| format!("fact-{n}");
            let rows: Vec<Value> = links.iter().enumerate().map(|(n, by)| fact(&id(n), Some(&id(*by)))).collect();
            let survey = look(&bundle("knowledge", json!(rows))).expect("a bundle");
            for start in survey.superseded.keys() {
                let (mut at, mut steps) = (start, 0);
                while let Some(next) = survey.superseded.get(at) {
                    (at, steps) = (next, steps + 1);
                    prop_assert!(steps <= 12);
                }
            }
        }
    }
}
