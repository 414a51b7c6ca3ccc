//! What the Learning Centre may add to the soul.
//!
//! It only ever adds patterns, and only those that show in several turns in which the person alone had a say. It takes
//! away only what it added itself, when the turns that spoke for it no longer do.
//!
//! The invariant: no line that a person wrote is touched.

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

/// A pattern that enough turns show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lesson {
    /// In one line, in the words of its first sighting.
    pub text: String,
    /// The turns that show it, each once.
    pub turns: Vec<String>,
}

/// The patterns that enough trusted turns show and the soul does not have, as far as there is room.
pub fn learned(present: &[String], sightings: &[Sighting]) -> Vec<Lesson> {
    let mut groups: Vec<(&str, BTreeSet<&str>)> = Vec::new();
    for sighting in sightings.iter().filter(|s| s.trust == Trust::User) {
        match groups.iter_mut().find(|(text, _)| is_same_line(text, &sighting.text)) {
            Some((_, turns)) => {
                turns.insert(&sighting.turn_id);
            }
            None => groups.push((&sighting.text, BTreeSet::from([sighting.turn_id.as_str()]))),
        }
    }
    groups
        .into_iter()
        .filter(|(text, turns)| {
            turns.len() >= SUPPORTING_TURNS && !present.iter().any(|line| is_same_line(line, text))
        })
        .take(LINES.saturating_sub(present.len()))
        .map(|(text, turns)| Lesson {
            text: text.to_owned(),
            turns: turns.into_iter().map(str::to_owned).collect(),
        })
        .collect()
}

/// Which of the lessons that were learned, and that no person has written since, have lost their support: `stands` says
/// whether a turn still speaks for what it showed. Nothing else is ever taken away.
pub fn retired(lessons: &[Lesson], stands: impl Fn(&str) -> bool) -> Vec<&Lesson> {
    let supported =
        |lesson: &Lesson| lesson.turns.iter().filter(|turn| stands(turn)).count() >= SUPPORTING_TURNS;
    lessons.iter().filter(|lesson| !supported(lesson)).collect()
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

/// Whether two lines say the same.
pub fn is_same_line(a: &str, b: &str) -> bool {
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
        assert_eq!(learned(&[], &two_turns), []);
        let mut with_a_page = two_turns.clone();
        with_a_page.push(seen("Short answers", 3, Trust::Untrusted));
        with_a_page.push(seen("Short answers", 4, Trust::Tool));
        assert_eq!(learned(&[], &with_a_page), []);
        let mut three = two_turns;
        three.push(seen("short  answers", 3, Trust::User));
        let turns = ["turn-1", "turn-2", "turn-3"].map(str::to_owned).to_vec();
        let lesson = Lesson { text: "Short answers".to_owned(), turns };
        assert_eq!(learned(&["Be kind".to_owned()], &three), [lesson]);
    }

    #[test]
    fn what_a_person_wrote_is_not_said_twice_and_a_full_soul_learns_nothing() {
        let three: Vec<_> = [1, 2, 3].map(|turn| seen("Short answers.", turn, Trust::User)).into();
        assert_eq!(learned(&["Short answers".to_owned()], &three), []);
        let full: Vec<String> = (0..LINES).map(|i| format!("line {i}")).collect();
        assert_eq!(learned(&full, &three), []);
    }

    #[test]
    fn a_lesson_is_retired_when_too_few_of_its_turns_still_speak_for_it() {
        let lesson = |text: &str, turns: &[usize]| Lesson {
            text: text.to_owned(),
            turns: turns.iter().map(|turn| format!("turn-{turn}")).collect(),
        };
        let lessons = [lesson("Short answers", &[1, 2, 3]), lesson("Metric units", &[1, 2, 3, 4])];
        assert_eq!(retired(&lessons, |_| true), Vec::<&Lesson>::new());
        assert_eq!(retired(&lessons, |turn| turn != "turn-2"), [&lessons[0]]);
        assert_eq!(retired(&lessons, |_| false).len(), 2);
    }

    #[test]
    fn lines_have_a_number_and_a_length() {
        let given = [" a ", "", "b"].map(str::to_owned);
        assert_eq!(lines("values", &given), Ok(vec!["a".to_owned(), "b".to_owned()]));
        assert!(lines("values", &vec!["x".to_owned(); LINES + 1]).is_err());
        assert_eq!(lines("values", &["x".repeat(501)]).expect_err("too long").field(), "values");
    }
}
