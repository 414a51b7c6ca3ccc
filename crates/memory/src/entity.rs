//! Names of the social graph in questions and memories.
//!
//! Which names exist, the brain knows; here it is said which stretches of a question may be one ([`spans`]), and how
//! many of the names found are also in a memory ([`Names::in_text`]). Names are compared word by word, folded as the
//! full-text index folds, so "ASHA" is Asha and "Ashanti" is not.
//!
//! The invariant: a name is found exactly where its words stand next to each other.

use crate::query;
use crate::retrieval::ENTITY_COUNTED;
use crate::tokens::{joined, tokens};
use contract::sentence;
use std::collections::HashSet;

/// Words of the longest name that is recognised in a question. More multiplies the lookups of a long question; fewer
/// misses "Royal Society of London".
pub const NAME_WORDS: usize = 4;
/// Words of a question in which names are looked for. More makes a pasted document ask the brain for thousands of
/// names; fewer misses a name at the end of a long message.
pub const QUESTION_WORDS: usize = 128;

/// How a name is stored for comparison (`name_norm`, `subject_norm`).
pub fn name_norm(name: &str) -> String {
    let words = joined(name);
    // A name without letters or digits ("☕") is still a name.
    if words.is_empty() { crate::likeness::normalised(name) } else { words }
}

/// Every stretch of a question that could be a name, in the form of [`name_norm`], each once.
pub fn spans(question: &str) -> Vec<String> {
    let words = tokens(question);
    let words = &words[..words.len().min(QUESTION_WORDS)];
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for start in 0..words.len() {
        for end in start + 1..=words.len().min(start + NAME_WORDS) {
            let span = words[start..end].join(" ");
            if seen.insert(span.clone()) {
                found.push(span);
            }
        }
    }
    found
}

/// What the question asks when its person's own name means the person: memories call them "the user" and hardly ever by
/// name. The question without the name, or, when only that was asked, [`sentence::THE_PERSON`]; `None` when none of the
/// `own` names stands in it.
pub fn about_the_person<S: AsRef<str>>(question: &str, own: impl IntoIterator<Item = S>) -> Option<String> {
    let asked = tokens(question);
    let mut named = vec![false; asked.len()];
    for name in own {
        let name = tokens(name.as_ref());
        if name.is_empty() {
            continue;
        }
        for (at, window) in asked.windows(name.len()).enumerate() {
            if window == name {
                named[at..at + name.len()].fill(true);
            }
        }
    }
    if !named.contains(&true) {
        return None;
    }
    let rest: Vec<&str> =
        asked.iter().zip(&named).filter(|(_, named)| !**named).map(|(word, _)| word.as_str()).collect();
    let rest = rest.join(" ");
    Some(if query::terms(&rest).is_empty() { sentence::THE_PERSON.to_owned() } else { rest })
}

/// Names and aliases that stand in the question.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names(Vec<Vec<String>>);

impl Names {
    /// Those of the names and aliases that stand in the question, each once. The brain looks up the [`spans`] and may
    /// hand over all names of the nodes it found.
    pub fn in_question<S: AsRef<str>>(question: &str, names: impl IntoIterator<Item = S>) -> Self {
        let asked = tokens(question);
        let mut found: Vec<Vec<String>> = Vec::new();
        for name in names {
            let words = tokens(name.as_ref());
            if stands(&words, &asked) && !found.contains(&words) {
                found.push(words);
            }
        }
        Self(found)
    }

    /// True when the question names nobody: texts need not be looked at.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many of the names stand in a text, counted as far as it matters for the score.
    pub fn in_text(&self, text: &str) -> u32 {
        if self.is_empty() {
            return 0;
        }
        let words = tokens(text);
        self.0.iter().filter(|name| stands(name, &words)).take(ENTITY_COUNTED as usize).count() as u32
    }
}

fn stands(name: &[String], words: &[String]) -> bool {
    !name.is_empty() && words.windows(name.len()).any(|window| window == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_by_its_words_not_its_letters() {
        let names = Names::in_question("Did Asha meet Ben Ójal?", ["Asha", "Ben Ójal", "asha", "A.", "☕"]);
        assert_eq!(names.in_text("ASHA met ben ojal"), 2);
        assert_eq!(names.in_text("Ashanti met Ben and Ojal"), 0);
        assert_eq!(names.in_text("A. drinks ☕"), 0, "names that the question does not use");
        assert!(Names::in_question("tea?", ["Asha"]).is_empty());
    }

    #[test]
    fn the_person_s_own_name_means_the_person() {
        for (question, meant) in [
            ("what does Ada prefer", Some("what does prefer")),
            ("what does Ada Lovelace prefer?", Some("what does prefer")),
            ("Ada's dentist", Some("s dentist")),
            ("What about ADA?", Some("user")),
            ("Ada", Some("user")),
            ("what does Adam prefer", None),
            ("", None),
        ] {
            assert_eq!(
                about_the_person(question, ["Ada", "Ada Lovelace", "☕"]).as_deref(),
                meant,
                "{question}"
            );
        }
        assert_eq!(about_the_person("Ada", Vec::<String>::new()), None);
    }

    #[test]
    fn a_question_offers_every_stretch_that_could_be_a_name() {
        assert_eq!(
            spans("Who is Ben Ójal?"),
            [
                "who",
                "who is",
                "who is ben",
                "who is ben ojal",
                "is",
                "is ben",
                "is ben ojal",
                "ben",
                "ben ojal",
                "ojal",
            ]
        );
        assert!(spans(&"x y z ".repeat(10_000)).len() <= QUESTION_WORDS * NAME_WORDS);
        assert!(spans("Who is Ben Ójal?").contains(&name_norm("Ben Ójal")));
    }
}
