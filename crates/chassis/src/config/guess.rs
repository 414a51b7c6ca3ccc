//! What somebody probably meant who typed a name or a word wrong: pure.
//!
//! The invariant: nothing is guessed from afar; a wrong guess misleads more than none.

/// Characters of a typed name from which it may stand for any longer name that begins with it. Fewer would take a
/// family's common prefix for one of its members; more would miss short names that were cut off.
const CUT_OFF_CHARS: usize = 8;

/// The word that was probably meant by `text`, in whatever case: one that begins with it, or one a few typing mistakes
/// away. `None` when nothing is near: a wrong guess misleads more than none.
pub fn likely<'a>(text: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let text = text.to_lowercase();
    // A third of a word is about what fingers get wrong; more turns a word into another one.
    let limit = text.chars().count() / 3 + 1;
    let scored = words.filter_map(|word| {
        let lower = word.to_lowercase();
        let begun = text.len() > 2 && lower.starts_with(&text);
        let distance = if begun { 0 } else { edit_distance(&text, &lower) };
        (distance <= limit).then_some((distance, word))
    });
    scored.min_by_key(|(distance, _)| *distance).map(|(_, word)| word)
}

/// The declared name that was probably meant by an undeclared one: the one with the fewest typing mistakes, or one of which
/// the typed name is the beginning, give or take one character. `None` when nothing is near.
pub fn likely_name<'a>(typed: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Names of one family share a prefix, so that two edits are already half of a short one's own part.
    let limit = (typed.chars().count() / 6).clamp(1, 3);
    let scored = names.filter_map(|name| {
        let whole = edit_distance(typed, name);
        let begun = begins(typed, name);
        let distance = if begun { whole.min(1) } else { whole };
        // Of those that begin alike, the shortest adds the least.
        (distance <= limit).then_some(((distance, whole), name))
    });
    scored.min_by_key(|(score, _)| *score).map(|(_, name)| name)
}

/// Is `typed` the beginning of `name`: exactly, or up to the end of one of its words with one mistake?
fn begins(typed: &str, name: &str) -> bool {
    let exactly = typed.len() >= CUT_OFF_CHARS && name.starts_with(typed);
    let ends = name.match_indices('_').map(|(at, _)| at).skip(1);
    exactly || ends.into_iter().any(|end| edit_distance(typed, &name[..end]) <= 1)
}

/// How many characters must be inserted, removed or replaced to make `a` from `b`.
pub fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_suggested_for_one_that_begins_it_and_none_from_afar() {
        const NAMES: [&str; 5] = [
            "ORCH_BIND",
            "ORCH_IDLE_SCAN_S",
            "ORCH_IDLE_SLEEP_AFTER_S",
            "ORCH_STATE_BACKEND",
            "ORCH_BACKUP_DIR",
        ];
        let likely = |typed| likely_name(typed, NAMES.into_iter());
        assert_eq!(likely("ORCH_IDLE_SLEP"), Some("ORCH_IDLE_SLEEP_AFTER_S"));
        assert_eq!(likely("ORCH_IDLE_SLEEP"), Some("ORCH_IDLE_SLEEP_AFTER_S"));
        assert_eq!(likely("ORCH_IDLE_SLEEP_AFTR_S"), Some("ORCH_IDLE_SLEEP_AFTER_S"));
        assert_eq!(likely("ORCH_BNID"), None, "two edits of four characters");
        assert_eq!(likely("ORCH_BINDS"), Some("ORCH_BIND"));
        for stranger in ["ORCH_BACKEND", "ORCH_B", "ORCH_X", "ORCH_", "PATH"] {
            assert_eq!(likely(stranger), None, "{stranger}");
        }
    }

    #[test]
    fn the_distance_is_the_number_of_typing_mistakes() {
        assert_eq!(edit_distance("kitten", "sitting"), 3);
    }
}
