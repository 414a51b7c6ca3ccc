//! Whether a text says what a statement says, in its own words or in others: pure, without a model.
//!
//! What tells a statement from others are its words without those that any statement about a person is made of: of "The
//! user's name is Anton" that is "Anton". A text that holds half of them says it. A statement that has no such words
//! ("he is", "…") is said by no text.
//!
//! The invariant: no text says a statement without holding one of its own words.

use crate::query::terms;
use crate::stem::stem;
use crate::tokens::tokens;
use std::collections::HashSet;

/// Part of a statement's own words that a text must hold to say it. Higher lets a statement pass in other words; lower
/// finds it in texts about something else.
pub const SAID_SHARE: f64 = 0.5;
/// What statements about people are made of, stemmed: these tell none from another. More finds statements in fewer texts;
/// fewer finds "the user's name is …" wherever somebody renames a user.
const FRAME: [&str; 22] = [
    "assist", "call", "favorit", "favourit", "forget", "know", "like", "live", "love", "name", "note",
    "person", "prefer", "rememb", "sai", "said", "tell", "thing", "told", "user", "want", "work",
];

/// The words that tell a statement from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement(Vec<String>);

impl Statement {
    /// Of a statement as it is written down.
    pub fn of(text: &str) -> Self {
        let own =
            terms(text).into_iter().map(|term| term.stem).filter(|stem| !FRAME.contains(&stem.as_str()));
        Self(own.collect())
    }

    /// Which part of its own words stands in a text, 0 to 1; 0 for a statement that has none.
    pub fn share_in(&self, words: &Words) -> f64 {
        let there = self.0.iter().filter(|stem| words.0.contains(*stem)).count();
        there as f64 / self.0.len().max(1) as f64
    }

    /// Whether a text with these words says it.
    pub fn is_said_in(&self, words: &Words) -> bool {
        self.share_in(words) >= SAID_SHARE
    }
}

/// The words of one or more texts, without their endings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Words(HashSet<String>);

impl Words {
    /// Adds those of a text.
    pub fn read(&mut self, text: &str) {
        self.0.extend(tokens(text).iter().map(|word| stem(word)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(statement: &str, text: &str) -> bool {
        let mut words = Words::default();
        words.read(text);
        Statement::of(statement).is_said_in(&words)
    }

    #[test]
    fn a_statement_is_said_in_its_own_words_and_in_others() {
        for (statement, text) in [
            ("The user's name is Anton", "Hello! My name is Anton."),
            ("The user prefers tea", "I always take tea, never coffee"),
            ("the door code is 4711", "remember that the code of the door is 4711"),
            ("The dog is called Brimble", "Brimble barks all night"),
            ("The user lives in Lisbon", "we moved to Lisbon"),
            ("Ada works_in Berlin".replace('_', " ").as_str(), "Ada has an office in Berlin"),
        ] {
            assert!(says(statement, text), "{text:?} says {statement:?}");
        }
    }

    #[test]
    fn what_any_statement_is_made_of_says_none() {
        for (statement, text) in [
            ("The user's name is Anton", "rename the user name field"),
            ("The user likes tea", "I like the user interface"),
            ("he is", "he is there"),
            ("...", "anything at all"),
            ("👍", "a 👍 for that"),
            ("The user's name", "the name of the user"),
            ("Will", "I will be there"),
            ("It", "it is late"),
            ("", ""),
        ] {
            assert!(!says(statement, text), "{text:?} does not say {statement:?}");
        }
    }

    #[test]
    fn the_words_that_tell_nothing_are_stems() {
        for word in FRAME {
            assert_eq!(stem(word), word, "a stem stays what it is");
        }
    }
}
