//! The soul as a turn sees it: one short section of the system text.
//!
//! It is taken once, when the turn begins, and kept with the turn: a soul that is edited meanwhile is the next turn's,
//! so that the calls of one turn have one and the same prefix.

use brain::soul::Soul;
use brain::{Tx, soul};

/// The section for the present soul; `None` while there is none, or nothing stands in it.
pub fn section(tx: &Tx<'_>) -> brain::Result<Option<String>> {
    Ok(soul::get(tx)?.and_then(|stored| rendered(&stored.soul)))
}

fn rendered(soul: &Soul) -> Option<String> {
    let list = |title: &str, lines: &[String]| {
        let lines: Vec<String> = lines.iter().map(|line| format!("- {}", line.trim())).collect();
        (!lines.is_empty()).then(|| format!("{title}:\n{}", lines.join("\n")))
    };
    let identity = soul.identity.trim();
    let parts: Vec<String> = [
        (!identity.is_empty()).then(|| identity.to_owned()),
        list("What you hold to", &soul.values),
        list("How you go about things", &soul.patterns),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!parts.is_empty()).then(|| format!("Who you are:\n{}", parts.join("\n\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_soul_is_one_section_and_an_empty_one_is_none() {
        let lines = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        let soul = Soul {
            identity: "You are calm.".into(),
            values: lines(&["honesty"]),
            patterns: lines(&["short answers", "no lists"]),
        };
        assert_eq!(
            rendered(&soul).expect("a section"),
            "Who you are:\nYou are calm.\n\nWhat you hold to:\n- honesty\n\nHow you go about things:\n- short answers\n- no lists"
        );
        assert_eq!(rendered(&Soul::default()), None);
        let patterns_only = Soul { patterns: lines(&["x"]), ..Soul::default() };
        assert_eq!(
            rendered(&patterns_only).expect("a section"),
            "Who you are:\nHow you go about things:\n- x"
        );
    }
}
