//! Skills from experience (specification 10.9): a procedure that worked in several turns becomes a draft.
//!
//! A draft is listed and not offered. Feedback on the turns it was made of, or that used it, moves it; a person who writes
//! it with PUT makes it theirs, and from then on nothing here touches it. What a skill was made of is used up: a draft
//! that was removed comes back only when as many new turns show it.
//!
//! The invariant: only turns that succeeded and read nothing of somebody else make a skill.

use super::commit::Shown;
use super::lessons::Showing;
use crate::catalog::skill::{DESCRIPTION_MAX, PROMPT_MAX, Skill as Listed};
use crate::http::skills::CUSTOM_MAX;
use ::memory::entity::name_norm;
use ::memory::likeness::{differ_in_substance, stem_jaccard};
use ::memory::signals::{Outcome, SKILL_START, Showing as OfTurn, Skill as Fate, makes_a_skill};
use ::memory::soul::is_same_line;
use brain::memory::erase::Procedure as Erased;
use brain::memory::{signals, trajectories};
use brain::skills::{self, Skill};
use brain::turns::TurnState;
use brain::{Tx, effects, turns};
use contract::conversation::StopReason;
use contract::memory::{Rating, Trust};
use contract::{Timestamp, TurnId};
use std::collections::{BTreeSet, HashSet};

/// The source of a learned skill begins so; the first turn that showed it follows.
const LEARNED: &str = "trajectory:";
/// Shared stems from which on two texts under one subject are one procedure. Higher keeps every wording apart; lower
/// calls two ways of doing the same thing one.
const SAME_PROCEDURE: f64 = 0.5;
/// How the description of a learned skill begins; what it is about follows.
const ABOUT: &str = "Learned from experience: ";
/// How the prompt of a learned skill begins; the procedure follows.
const BEFORE_THE_WAY: &str = "Carry out what is asked below in the way that has worked before.\n\nThe way:\n";
/// How it ends.
const AFTER_THE_WAY: &str = "\n\nWhat is asked:\n{{text}}";
/// Longest name of a skill.
const NAME_BYTES: usize = 64;

/// One procedure and the turns that showed it, each once.
#[derive(Debug, Clone, PartialEq)]
struct Procedure {
    subject: String,
    /// In the words of its last showing.
    text: String,
    shown: Vec<(TurnId, Trust)>,
}

/// The procedures in what turns have shown, `shown` newest first.
fn procedures(shown: &[(TurnId, Shown)]) -> Vec<Procedure> {
    let mut found: Vec<Procedure> = Vec::new();
    for (turn, shown) in shown {
        for Showing { subject, text, trust } in &shown.procedures {
            match found.iter_mut().find(|p| is_same((&p.subject, &p.text), (subject, text))) {
                Some(there) if there.shown.iter().any(|(of, _)| of == turn) => {}
                Some(there) => there.shown.push((turn.clone(), *trust)),
                None => found.push(Procedure {
                    subject: subject.clone(),
                    text: text.clone(),
                    shown: vec![(turn.clone(), *trust)],
                }),
            }
        }
    }
    found
}

/// Whether two procedures, each a subject and a text, are one.
pub fn is_same((about, way): (&str, &str), (subject, text): (&str, &str)) -> bool {
    let alike = name_norm(about) == name_norm(subject)
        && stem_jaccard(way, text) >= SAME_PROCEDURE
        && !differ_in_substance(way, text);
    alike || is_same_line(way, text)
}

/// Makes drafts of what enough turns show; true when there are new ones. `platform` are names that are taken.
pub fn learn(
    tx: &Tx<'_>,
    shown: &[(TurnId, Shown)],
    platform: &HashSet<String>,
    now: Timestamp,
) -> brain::Result<bool> {
    let mut made = false;
    let names: Vec<Skill> = skills::list(tx)?;
    let mut names: HashSet<String> = names.into_iter().map(|skill| skill.name).collect();
    for procedure in procedures(shown) {
        let mut showings = Vec::new();
        for (turn, trust) in &procedure.shown {
            showings.push(OfTurn { turn_id: turn.as_str(), trust: *trust, outcome: outcome(tx, turn)? });
        }
        if !makes_a_skill(&showings) {
            continue;
        }
        let good = showings.iter().filter(|s| s.trust >= Trust::Tool && s.outcome == Outcome::Succeeded);
        let trust = good.map(|s| s.trust).min().unwrap_or(Trust::Tool);
        let Some(name) = name_of(&procedure.subject) else { continue };
        if names.len() as u64 >= CUSTOM_MAX && !names.contains(&name) {
            break;
        }
        if !platform.contains(&name) && names.insert(name.clone()) {
            let change = skills::create(tx, &draft(&name, &procedure, trust), &Vec::new(), now)?;
            made |= change == skills::Change::Changed;
        }
        use_up(tx, &procedure, &name)?;
    }
    Ok(made)
}

/// What was learned is text, not a template.
fn plain(text: &str) -> String {
    text.replace('{', "{ ")
}

fn draft(name: &str, procedure: &Procedure, trust: Trust) -> Skill {
    let mut prompt = format!("{BEFORE_THE_WAY}{}{AFTER_THE_WAY}", plain(&procedure.text));
    prompt.truncate(prompt.floor_char_boundary(PROMPT_MAX));
    let description = format!("{ABOUT}{}", procedure.subject);
    let first = procedure.shown.last().map_or("", |(turn, _)| turn.as_str());
    Skill {
        name: name.to_owned(),
        description: description.chars().take(DESCRIPTION_MAX).collect(),
        category: "learned".to_owned(),
        prompt_template: Some(prompt),
        scripts: Vec::new(),
        capabilities: Vec::new(),
        confidence: SKILL_START,
        source: format!("{LEARNED}{first}"),
        trust: trust.as_str().to_owned(),
    }
}

/// A skill's name from what it is about; `None` when nothing of that can stand in one.
fn name_of(subject: &str) -> Option<String> {
    let mut name = String::new();
    for word in subject.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()) {
        let longer = name.len() + usize::from(!name.is_empty()) + word.len();
        if longer > NAME_BYTES {
            break;
        }
        if !name.is_empty() {
            name.push('-');
        }
        name.push_str(&word.to_ascii_lowercase());
    }
    (!name.is_empty()).then_some(name)
}

fn outcome(tx: &Tx<'_>, turn: &TurnId) -> brain::Result<Outcome> {
    let Some(stored) = turns::get(tx, turn)? else { return Ok(Outcome::Failed) };
    let complained = signals::of_turn(tx, turn)?.iter().rev().find_map(|s| s.rating) == Some(Rating::Down);
    let ended_well = stored.state == TurnState::Completed && stored.stop_reason == Some(StopReason::EndTurn);
    Ok(if ended_well && !complained { Outcome::Succeeded } else { Outcome::Failed })
}

/// Notes with the turns of a procedure which skill it became; it counts for no other.
fn use_up(tx: &Tx<'_>, procedure: &Procedure, name: &str) -> brain::Result<()> {
    for (turn, _) in &procedure.shown {
        let mut shown = shown_by(tx, turn)?;
        shown.procedures.retain(|p| !is_same((&procedure.subject, &procedure.text), (&p.subject, &p.text)));
        if !shown.skills.iter().any(|there| there == name) {
            shown.skills.push(name.to_owned());
        }
        trajectories::note_shown(tx, turn, &serde_json::to_value(shown).expect("texts always serialise"))?;
    }
    Ok(())
}

/// What a turn shows now.
pub fn shown_by(tx: &Tx<'_>, turn: &TurnId) -> brain::Result<Shown> {
    match trajectories::shown_by(tx, turn)? {
        None => Ok(Shown::default()),
        Some(shown) => serde_json::from_value(shown)
            .map_err(|_| brain::Error::bad_data("trajectories.trace_json", turn.as_str())),
    }
}

/// The learned skills that say one of these procedures: they are skills of their own, and stay.
pub fn skills_that_say(tx: &Tx<'_>, gone: &[Erased]) -> brain::Result<Vec<String>> {
    if gone.is_empty() {
        return Ok(Vec::new());
    }
    let says = |skill: &Skill| {
        let subject = skill.description.strip_prefix(ABOUT)?;
        let way = skill.prompt_template.as_deref()?.strip_prefix(BEFORE_THE_WAY)?;
        let way = way.strip_suffix(AFTER_THE_WAY).unwrap_or(way);
        gone.iter().find(|one| is_same((&one.subject, &plain(&one.content)), (subject, way)))
    };
    let learned = skills::list(tx)?.into_iter().filter(|skill| skill.source.starts_with(LEARNED));
    Ok(learned.filter(|skill| says(skill).is_some()).map(|skill| skill.name).collect())
}

/// What feedback on a turn does to the learned skills that were made of it or used in it; true when one has changed.
pub fn rated(tx: &Tx<'_>, turn: &TurnId, rating: Rating, now: Timestamp) -> brain::Result<bool> {
    let made_of_it: BTreeSet<String> = shown_by(tx, turn)?.skills.into_iter().collect();
    let used: BTreeSet<String> = effects::of_turn(tx, turn)?.into_iter().map(|effect| effect.tool).collect();
    let mut changed = false;
    for skill in skills::list(tx)?.into_iter().filter(|skill| skill.source.starts_with(LEARNED)) {
        if !made_of_it.contains(&skill.name) && !used.contains(&Listed::custom(&skill).tool_name()) {
            continue;
        }
        match Fate::after(skill.confidence, rating) {
            Fate::Removed => skills::delete(tx, &skill.name)?,
            Fate::Listed(confidence) | Fate::Offered(confidence) => {
                let scripts = skills::scripts(tx, &skill.name)?;
                skills::replace(tx, &Skill { confidence, ..skill }, &scripts, now)?
            }
        };
        changed = true;
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(turn: &str, subject: &str, text: &str, trust: Trust) -> (TurnId, Shown) {
        let showing = Showing { subject: subject.into(), text: text.into(), trust };
        let turn = TurnId::parse(turn).expect("an id");
        (turn, Shown { procedures: vec![showing], ..Shown::default() })
    }

    #[test]
    fn the_same_procedure_in_other_words_is_one() {
        let found = procedures(&[
            shown("turn-1", "Deploy", "Run the tests, then push to main", Trust::Tool),
            shown("turn-2", "deploy", "run all tests and then push to main", Trust::User),
            shown("turn-3", "deploy", "Never push to main, run the tests then", Trust::User),
            shown("turn-4", "backup", "Copy the files to the second disk", Trust::User),
        ]);
        let counts: Vec<(&str, usize)> = found.iter().map(|p| (p.subject.as_str(), p.shown.len())).collect();
        assert_eq!(counts, [("Deploy", 2), ("deploy", 1), ("backup", 1)]);
    }

    #[test]
    fn names_are_made_of_what_may_stand_in_them() {
        assert_eq!(name_of("Deploy on Friday!").as_deref(), Some("deploy-on-friday"));
        assert_eq!(name_of("日本"), None);
        let long = name_of(&"word ".repeat(40)).expect("a name");
        assert!(long.len() <= NAME_BYTES && !long.ends_with('-'), "{long}");
        assert!(crate::catalog::document::is_plain_name(&long));
    }

    #[test]
    fn a_learned_text_cannot_ask_for_parameters() {
        let (turn, shown) = shown("turn-1", "x", "send {{secret}} and {{{text}}}", Trust::User);
        let procedure = procedures(&[(turn, shown)]).remove(0);
        let draft = draft("x", &procedure, Trust::User);
        let template = draft.prompt_template.expect("a prompt");
        assert_eq!(crate::catalog::template::variables(&template), ["text"]);
        assert_eq!((draft.confidence, draft.source.as_str()), (SKILL_START, "trajectory:turn-1"));
    }
}
