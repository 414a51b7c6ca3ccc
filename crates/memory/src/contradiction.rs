//! Which open facts and relations a new one closes.
//!
//! Nothing is deleted: what is closed gets the new one's beginning as its end, and stays in the history. Being alike is
//! not enough; somebody must have meant it as a replacement, and must be trusted as far as who wrote the old one.
//!
//! The invariant: nothing of higher trust is ever closed by something of lower trust.

use crate::replacement;
use crate::slot;
use contract::memory::{FactType, Trust};

/// Least cosine between a fact and the one that replaces it. Lower lets "prefers tea" close "prefers short answers";
/// higher keeps both "lives in Pune" and "moved to Berlin".
pub const REPLACES_COSINE: f32 = 0.6;
/// A new fact must be at least this part as sure as the old one. Lower lets a guess close what is known; 1 would forbid
/// the Learning Centre to correct anything a person wrote.
pub const CONFIDENCE_SHARE: f64 = 0.5;

/// Whether a new fact is meant to replace others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent<'a> {
    /// The Learning Centre names these ids.
    Named(&'a [String]),
    /// Written by knowledge_write or the API: a preference or rule replaces the one before it, and a plain fact the one
    /// that gave another value to a thing that has one (decision 031).
    Statement,
    /// Not meant so: turns, imports.
    None,
}

/// The fact that is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NewFact<'a> {
    /// The subject, as [`crate::entity::name_norm`] gives it.
    pub subject_norm: &'a str,
    /// What it says.
    pub content: &'a str,
    /// What it is.
    pub kind: FactType,
    /// How far it may be trusted.
    pub trust: Trust,
    /// How sure it is.
    pub confidence: f64,
}

/// A fact that is open now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OpenFact<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its subject, normalised.
    pub subject_norm: &'a str,
    /// What it says.
    pub content: &'a str,
    /// What it is.
    pub kind: FactType,
    /// As stored.
    pub trust: Trust,
    /// As stored.
    pub confidence: f64,
    /// Its cosine to the new one; None while one of them has no vector, and where vectors do not tell statements apart.
    pub cosine: Option<f32>,
}

/// The ids of the facts that a new one closes, in the order given.
pub fn closed_facts<'a>(new: &NewFact<'_>, intent: Intent<'_>, open: &[OpenFact<'a>]) -> Vec<&'a str> {
    open.iter()
        .filter(|old| old.subject_norm == new.subject_norm && old.kind == new.kind)
        .filter(|old| match intent {
            Intent::Named(ids) => ids.iter().any(|id| id == old.id),
            Intent::Statement => match new.kind {
                FactType::Preference | FactType::Rule => true,
                FactType::Fact => slot::has_another_value(old.content, new.content),
                FactType::Procedure => false,
            },
            Intent::None => false,
        })
        .filter(|old| match old.cosine {
            Some(cosine) => cosine >= REPLACES_COSINE,
            None => {
                matches!(intent, Intent::Named(_))
                    || new.kind == FactType::Fact
                    || replacement::replaces(new.subject_norm, old.content, new.content)
            }
        })
        .filter(|old| may_close((new.trust, new.confidence), (old.trust, old.confidence)))
        .map(|old| old.id)
        .collect()
}

/// The id of the first of these facts, which all began after a new one, that has taken its place already: what was said
/// earlier may be written later, by whoever reads a turn hours after it ended.
pub fn closed_by<'a>(new: &NewFact<'_>, later: &[OpenFact<'a>]) -> Option<&'a str> {
    let takes_its_place = |later: &&OpenFact<'_>| {
        let statement = NewFact {
            subject_norm: later.subject_norm,
            content: later.content,
            kind: later.kind,
            trust: later.trust,
            confidence: later.confidence,
        };
        let earlier = OpenFact {
            id: "",
            subject_norm: new.subject_norm,
            content: new.content,
            kind: new.kind,
            trust: new.trust,
            confidence: new.confidence,
            cosine: later.cosine,
        };
        !closed_facts(&statement, Intent::Statement, &[earlier]).is_empty()
    };
    later.iter().find(takes_its_place).map(|later| later.id)
}

/// A relation between two nodes, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Edge<'a> {
    /// Its id; of a new one whatever it will be.
    pub id: &'a str,
    /// From which node.
    pub from: &'a str,
    /// To which node.
    pub to: &'a str,
    /// How they are related.
    pub relation: &'a str,
    /// How far it may be trusted.
    pub trust: Trust,
    /// How sure it is.
    pub confidence: f64,
}

/// The ids of the relations that a new one closes: same ends, same relation, and named.
pub fn closed_edges<'a>(new: &Edge<'_>, replaces: &[String], open: &[Edge<'a>]) -> Vec<&'a str> {
    open.iter()
        .filter(|old| (old.from, old.to, old.relation) == (new.from, new.to, new.relation))
        .filter(|old| replaces.iter().any(|id| id == old.id))
        .filter(|old| may_close((new.trust, new.confidence), (old.trust, old.confidence)))
        .map(|old| old.id)
        .collect()
}

/// Trust and confidence of the new against those of the old.
fn may_close(new: (Trust, f64), old: (Trust, f64)) -> bool {
    new.0 >= old.0 && new.1 >= CONFIDENCE_SHARE * old.1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new() -> NewFact<'static> {
        NewFact {
            subject_norm: "editor",
            content: "prefers light mode",
            kind: FactType::Preference,
            trust: Trust::User,
            confidence: 0.9,
        }
    }

    #[test]
    fn what_was_said_earlier_and_written_later_ends_where_the_later_one_began() {
        let dark = |trust, confidence| OpenFact { trust, confidence, ..old() };
        assert_eq!(closed_by(&new(), &[dark(Trust::User, 0.9)]), Some("fact-1"));
        assert_eq!(closed_by(&new(), &[dark(Trust::Tool, 0.9)]), None, "the less trusted ends nothing");
        assert_eq!(closed_by(&new(), &[dark(Trust::User, 0.4)]), None, "nor does a guess");
        assert_eq!(closed_by(&new(), &[OpenFact { cosine: Some(0.2), ..old() }]), None);
        let fact = NewFact { kind: FactType::Fact, ..new() };
        assert_eq!(closed_by(&fact, &[OpenFact { kind: FactType::Fact, ..old() }]), None);
    }

    fn old() -> OpenFact<'static> {
        OpenFact {
            id: "fact-1",
            subject_norm: "editor",
            content: "prefers dark mode",
            kind: FactType::Preference,
            trust: Trust::User,
            confidence: 0.9,
            cosine: Some(0.8),
        }
    }

    #[test]
    fn a_stated_preference_closes_the_one_before_it() {
        assert_eq!(closed_facts(&new(), Intent::Statement, &[old()]), ["fact-1"]);
        assert_eq!(closed_facts(&new(), Intent::Named(&["fact-1".into()]), &[old()]), ["fact-1"]);
    }

    #[test]
    fn a_fact_is_only_closed_by_one_that_names_it() {
        let (new, old) =
            (NewFact { kind: FactType::Fact, ..new() }, OpenFact { kind: FactType::Fact, ..old() });
        assert!(closed_facts(&new, Intent::Statement, &[old]).is_empty());
        assert!(closed_facts(&new, Intent::Named(&["fact-2".into()]), &[old]).is_empty());
        assert_eq!(closed_facts(&new, Intent::Named(&["fact-1".into()]), &[old]), ["fact-1"]);
        assert!(closed_facts(&new, Intent::None, &[old]).is_empty());
    }

    #[test]
    fn a_fact_gives_another_value_to_what_has_one() {
        let dentist =
            |content| NewFact { subject_norm: "my dentist", content, kind: FactType::Fact, ..new() };
        let weber = OpenFact {
            subject_norm: "my dentist",
            content: "my dentist is Doctor Weber",
            kind: FactType::Fact,
            cosine: None,
            ..old()
        };
        let braun = dentist("my dentist is Doctor Braun");
        assert_eq!(closed_facts(&braun, Intent::Statement, &[weber]), ["fact-1"]);
        assert!(closed_facts(&braun, Intent::None, &[weber]).is_empty(), "a turn means nothing so");
        let unlike = OpenFact { cosine: Some(0.3), ..weber };
        assert!(closed_facts(&braun, Intent::Statement, &[unlike]).is_empty());
        let page = NewFact { trust: Trust::Untrusted, ..braun };
        assert!(closed_facts(&page, Intent::Statement, &[weber]).is_empty(), "nobody vouches for it");
        let more = dentist("my dentist is expensive");
        assert!(closed_facts(&more, Intent::Statement, &[weber]).is_empty());
    }

    #[test]
    fn what_is_about_something_else_stays() {
        for other in [
            OpenFact { subject_norm: "tea", ..old() },
            OpenFact { kind: FactType::Rule, ..old() },
            OpenFact { cosine: Some(0.59), ..old() },
            OpenFact { cosine: None, content: "prefers short answers", ..old() },
        ] {
            assert!(closed_facts(&new(), Intent::Statement, &[other]).is_empty(), "{other:?}");
        }
        assert_eq!(
            closed_facts(&new(), Intent::Statement, &[OpenFact { cosine: None, ..old() }]),
            ["fact-1"]
        );
    }

    #[test]
    fn lower_trust_or_less_than_half_the_confidence_never_closes() {
        for trust in [Trust::Untrusted, Trust::Tool] {
            let new = NewFact { trust, ..new() };
            assert!(closed_facts(&new, Intent::Named(&["fact-1".into()]), &[old()]).is_empty());
        }
        let unsure = NewFact { confidence: 0.44, ..new() };
        assert!(closed_facts(&unsure, Intent::Statement, &[old()]).is_empty());
        let enough = NewFact { confidence: 0.45, ..new() };
        assert_eq!(closed_facts(&enough, Intent::Statement, &[old()]), ["fact-1"]);
    }

    #[test]
    fn a_relation_is_closed_by_the_same_one_that_names_it() {
        let edge = |id| Edge {
            id,
            from: "soc-1",
            to: "soc-2",
            relation: "manager_of",
            trust: Trust::User,
            confidence: 0.9,
        };
        let named = ["rel-1".to_owned()];
        assert_eq!(closed_edges(&edge("new"), &named, &[edge("rel-1"), edge("rel-2")]), ["rel-1"]);
        assert!(closed_edges(&edge("new"), &named, &[Edge { to: "soc-3", ..edge("rel-1") }]).is_empty());
        assert!(
            closed_edges(&Edge { trust: Trust::Tool, ..edge("new") }, &named, &[edge("rel-1")]).is_empty()
        );
    }
}
