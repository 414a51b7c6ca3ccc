//! What many turns teach about how the person wants to be helped: patterns of the soul.
//!
//! Every line learned is a version of its own, and its rationale names the turns that speak for it. So it can be seen
//! later which lines were learned, from what, and whether that still stands: feedback "down" or the end of its task takes
//! a turn's word back, and a line with too few turns left is retired, again as a version.
//!
//! The invariant: a line that stood in a version that a person wrote is the person's and stays.

use super::commit::Shown;
use ::memory::soul::{Lesson, Sighting, learned, retired};
use brain::memory::signals;
use brain::soul::{self, Source, Version};
use brain::{Tx, turns};
use contract::memory::Rating;
use contract::{Timestamp, TurnId};
use std::collections::HashMap;

/// Versions of the soul that are looked through for learned lines. More reads megabytes; a line older than these is
/// never retired.
const HISTORY: u32 = 200;
/// How the rationale of a learned line begins; the turns follow.
const SEEN_IN: &str = "seen in ";
/// How the rationale of a retired line begins.
const RETIRED: &str = "no longer shown by enough turns: ";
/// Characters of a line in a rationale. A whole line could be longer than a rationale.
const LINE_CHARS: usize = 200;

/// Adds what enough turns show, and retires what they no longer do; how many versions that made.
pub fn learn(tx: &Tx<'_>, shown: &[(TurnId, Shown)], now: Timestamp) -> brain::Result<usize> {
    let mut soul = soul::get(tx)?.map(|stored| stored.soul).unwrap_or_default();
    let mut standing: HashMap<String, bool> = HashMap::new();
    let mut versions = 0;

    let lessons = lessons_in(&soul::history(tx, None, HISTORY)?, &soul.patterns);
    for turn in lessons.iter().flat_map(|lesson| &lesson.turns) {
        if !standing.contains_key(turn) {
            standing.insert(turn.clone(), stands(tx, turn)?);
        }
    }
    for lesson in retired(&lessons, |turn| standing.get(turn).copied().unwrap_or(true)) {
        soul.patterns.retain(|line| *line != lesson.text);
        let line: String = lesson.text.chars().take(LINE_CHARS).collect();
        soul::set(tx, &soul, Source::Learning, &format!("{RETIRED}{line}"), now)?;
        versions += 1;
    }

    let mut sightings = Vec::new();
    // the oldest first: a pattern keeps the words it was first seen in
    for (turn, shown) in shown.iter().rev().filter(|(_, shown)| !shown.patterns.is_empty()) {
        if !stands(tx, turn.as_str())? {
            continue;
        }
        sightings.extend(shown.patterns.iter().map(|pattern| Sighting {
            text: pattern.text.clone(),
            turn_id: turn.as_str().to_owned(),
            trust: pattern.trust,
        }));
    }
    for lesson in learned(&soul.patterns, &sightings) {
        soul.patterns.push(lesson.text);
        soul::set(tx, &soul, Source::Learning, &format!("{SEEN_IN}{}", lesson.turns.join(", ")), now)?;
        versions += 1;
    }
    Ok(versions)
}

/// Whether a turn still speaks for what it showed: it is there, not replaced by an edit or a
/// retry, and the last word on it was not "down".
fn stands(tx: &Tx<'_>, turn: &str) -> brain::Result<bool> {
    let Ok(turn) = TurnId::parse(turn) else { return Ok(false) };
    // one message that is answered twice speaks once
    match turns::get(tx, &turn)? {
        Some(row) if !turns::is_superseded(tx, &row)? => {}
        Some(_) | None => return Ok(false),
    }
    let last = signals::of_turn(tx, &turn)?.into_iter().rev().find_map(|signal| signal.rating);
    Ok(last != Some(Rating::Down))
}

/// The learned lines among the present ones that no person has written since, with the turns that spoke for them.
fn lessons_in(newest_first: &[Version], present: &[String]) -> Vec<Lesson> {
    let mut lessons: Vec<Lesson> = Vec::new();
    let mut before: &[String] = &[];
    for (at, version) in newest_first.iter().rev().enumerate() {
        let lines = &version.soul.patterns;
        match version.source {
            Source::User | Source::Catalog => lessons.retain(|lesson| !lines.contains(&lesson.text)),
            // of the oldest version that is looked at nobody can say what it added
            Source::Learning if at > 0 || version.version == 1 => {
                let added = lines.iter().find(|line| !before.contains(line));
                if let (Some(added), Some(turns)) = (added, version.rationale.strip_prefix(SEEN_IN)) {
                    let turns = turns.split(", ").map(str::to_owned).collect();
                    lessons.push(Lesson { text: added.clone(), turns });
                }
            }
            Source::Learning => {}
        }
        before = lines;
    }
    lessons.retain(|lesson| present.contains(&lesson.text));
    lessons
}

#[cfg(test)]
mod tests {
    use super::*;
    use brain::soul::Soul;

    fn version(version: i64, patterns: &[&str], source: Source, rationale: &str) -> Version {
        let patterns = patterns.iter().map(|line| (*line).to_owned()).collect();
        let soul = Soul { identity: String::new(), values: Vec::new(), patterns };
        Version {
            version,
            soul,
            source,
            rationale: rationale.into(),
            created_at: Timestamp::from_millis(version),
        }
    }

    fn texts(newest_last: Vec<Version>) -> Vec<(String, usize)> {
        let present = newest_last.last().expect("a version").soul.patterns.clone();
        let newest_first: Vec<Version> = newest_last.into_iter().rev().collect();
        let lessons = lessons_in(&newest_first, &present);
        lessons.into_iter().map(|lesson| (lesson.text, lesson.turns.len())).collect()
    }

    #[test]
    fn a_line_is_a_lesson_until_a_person_writes_it() {
        let seen = "seen in turn-1, turn-2, turn-3";
        let learned = || version(2, &["be kind", "short"], Source::Learning, seen);
        let first = || version(1, &["be kind"], Source::Catalog, "template");
        assert_eq!(texts(vec![first(), learned()]), [("short".to_owned(), 3)]);
        let taken_over = version(3, &["be kind", "short"], Source::User, "written over the API");
        assert_eq!(texts(vec![first(), learned(), taken_over]), []);
        let dropped = version(3, &["be kind"], Source::User, "written over the API");
        assert_eq!(texts(vec![first(), learned(), dropped]), []);
        let more =
            version(3, &["be kind", "short", "metric"], Source::Learning, "seen in turn-4, turn-5, turn-6");
        assert_eq!(texts(vec![first(), learned(), more]).len(), 2);
        assert_eq!(texts(vec![version(1, &["short"], Source::Learning, seen)]), [("short".to_owned(), 3)]);
    }

    #[test]
    fn of_a_version_without_the_one_before_it_nobody_knows_what_it_added() {
        let oldest = version(7, &["be kind", "short"], Source::Learning, "seen in turn-1, turn-2, turn-3");
        assert_eq!(texts(vec![oldest]), []);
    }
}
