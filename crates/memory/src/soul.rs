//! What the Learning Centre may add to the soul.
//!
//! It only ever adds patterns, and only those that show in several turns in which the person alone had a say. It never
//! takes anything away: what stands there a person may have written.
//!
//! The invariant: every line present before is present after, in the same order.

use crate::field::{self, Field, Refused};
use crate::likeness::{differ_in_substance, normalised, trigram_jaccard};
use contract::memory::Trust;
use std::collections::BTreeSet;

/// Turns that must show a pattern. Fewer makes a mood a trait; more never learns what is only asked for now and then.
pub const SUPPORTING_TURNS: usize = 3;
/// Lines of a list of the soul. More fills every context; fewer stops learning early. A person may write as many.
pub const LINES: usize = 50;
/// From this likeness on two lines are the same pattern in other words.
const SAME_PATTERN: f64 = 0.8;

/// A pattern as one turn shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// In one line.
    pub text: String,
    /// Which turn.
    pub turn_id: String,
    /// The trust of that turn's evidence.
    pub trust: Trust,
}

/// What the soul is to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// All its patterns: those before, then the new ones.
    pub patterns: Vec<String>,
    /// The new ones.
    pub added: Vec<String>,
    /// Why, for the history.
    pub rationale: String,
}

/// The patterns that enough trusted turns show and the soul does not have; None when there are none. The wording is
/// that of the first sighting.
pub fn learned(present: &[String], sightings: &[Sighting]) -> Option<Change> {
    let mut groups: Vec<(&str, BTreeSet<&str>)> = Vec::new();
    for sighting in sightings.iter().filter(|s| s.trust == Trust::User) {
        match groups.iter_mut().find(|(text, _)| is_same_pattern(text, &sighting.text)) {
            Some((_, turns)) => {
                turns.insert(&sighting.turn_id);
            }
            None => groups.push((&sighting.text, BTreeSet::from([sighting.turn_id.as_str()]))),
        }
    }
    let new: Vec<(&str, BTreeSet<&str>)> = groups
        .into_iter()
        .filter(|(text, turns)| {
            turns.len() >= SUPPORTING_TURNS && !present.iter().any(|line| is_same_pattern(line, text))
        })
        .take(LINES.saturating_sub(present.len()))
        .collect();
    if new.is_empty() {
        return None;
    }
    let turns: BTreeSet<&str> = new.iter().flat_map(|(_, turns)| turns.iter().copied()).collect();
    let added: Vec<String> = new.iter().map(|(text, _)| (*text).to_owned()).collect();
    let patterns = present.iter().chain(&added).cloned().collect();
    let rationale = format!("seen in {}", turns.into_iter().collect::<Vec<_>>().join(", "));
    Some(Change { patterns, added, rationale })
}

/// Checks what a person writes into a list of the soul; empty lines go.
pub fn lines(name: &'static str, raw: &[String]) -> Result<Vec<String>, Refused> {
    let written: Vec<&String> = raw.iter().filter(|line| !field::sanitised(line).is_empty()).collect();
    if written.len() > LINES {
        return Err(Refused::TooMany { field: name, count: written.len(), max: LINES });
    }
    let line_of = |line: &String| {
        field::text(Field::SoulLine, line).map_err(|refused| match refused {
            Refused::TooLong { chars, max, .. } => Refused::TooLong { field: name, chars, max },
            other => other,
        })
    };
    written.into_iter().map(line_of).collect()
}

fn is_same_pattern(a: &str, b: &str) -> bool {
    normalised(a) == normalised(b) || (trigram_jaccard(a, b) >= SAME_PATTERN && !differ_in_substance(a, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(text: &str, turn: usize, trust: Trust) -> Sighting {
        Sighting { text: text.to_owned(), turn_id: format!("turn-{turn}"), trust }
    }

    #[test]
    fn a_pattern_needs_three_turns_of_the_person() {
        let two_turns: Vec<_> = [1, 2, 2].map(|turn| seen("Short answers", turn, Trust::User)).into();
        assert_eq!(learned(&[], &two_turns), None);
        let mut with_a_page = two_turns.clone();
        with_a_page.push(seen("Short answers", 3, Trust::Untrusted));
        with_a_page.push(seen("Short answers", 4, Trust::Tool));
        assert_eq!(learned(&[], &with_a_page), None);
        let mut three = two_turns;
        three.push(seen("short  answers", 3, Trust::User));
        let change = learned(&["Be kind".to_owned()], &three).expect("supported");
        assert_eq!(change.patterns, ["Be kind", "Short answers"]);
        assert_eq!(change.rationale, "seen in turn-1, turn-2, turn-3");
    }

    #[test]
    fn what_a_person_wrote_stays_and_is_not_said_twice() {
        let three: Vec<_> = [1, 2, 3].map(|turn| seen("Short answers.", turn, Trust::User)).into();
        assert_eq!(learned(&["Short answers".to_owned()], &three), None);
        let full: Vec<String> = (0..LINES).map(|i| format!("line {i}")).collect();
        assert_eq!(learned(&full, &three), None);
    }

    #[test]
    fn lines_have_a_number_and_a_length() {
        let given = [" a ", "", "b"].map(str::to_owned);
        assert_eq!(lines("values", &given), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert!(lines("values", &vec!["x".to_owned(); LINES + 1]).is_err());
        assert_eq!(lines("values", &["x".repeat(501)]).expect_err("too long").field(), "values");
    }
}
