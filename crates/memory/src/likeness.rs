//! How alike two texts are: the same, nearly the same, made of the same words.
//!
//! Used by the write gate and wherever a text must be recognised again. Meaning is not judged here: that is what
//! vectors are for.
//!
//! The invariant: likeness is symmetric, 1 for equal texts, and never panics on any text.

use crate::stem::stem;
use crate::tokens::tokens;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use unicode_normalization::UnicodeNormalization;

/// Characters of a text that are compared by trigrams. More makes one write compare hundreds of kilobytes with every
/// neighbour; fewer calls two long texts the same that differ at their end.
const COMPARED_CHARS: usize = 20_000;
/// How much longer than a text the stretch of another may be in which its words count as an echo. Larger drops short
/// new statements because a long recalled turn holds their words; smaller misses an echo with words put in between.
pub const ECHO_STRETCH: usize = 2;
/// Words that turn a statement into its opposite. Two texts that differ in one of them are never "nearly the same".
const NEGATIONS: [&str; 12] = [
    "not", "no", "never", "none", "nothing", "without", "neither", "nor", "cannot", "t", "longer", "stopped",
];

/// What is compared: compatibility forms unified, lower case, every run of white space one space.
pub fn normalised(text: &str) -> String {
    let lower: String = text.nfkc().flat_map(char::to_lowercase).collect();
    lower.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The hash that finds exact duplicates: over the subject, key or name and the text, both normalised. Lower-case hex.
pub fn content_hash(key: &str, text: &str) -> String {
    let key = normalised(key);
    let mut hash = Sha256::new();
    // The length keeps ("a b", "c") and ("a", "b c") apart.
    hash.update((key.len() as u64).to_le_bytes());
    hash.update(key.as_bytes());
    hash.update(normalised(text).as_bytes());
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Shared sequences of three characters in all of them, 0 to 1, over normalised text.
pub fn trigram_jaccard(a: &str, b: &str) -> f64 {
    share(&trigrams(a), &trigrams(b))
}

/// Which part of the words of `text` also stands in `other`, 0 to 1, within one stretch of it that is at most
/// [`ECHO_STRETCH`] times as long: a page holds the words of almost any short sentence somewhere, which makes no echo.
/// 0 for a text without words.
pub fn word_overlap(text: &str, other: &str) -> f64 {
    let words = tokens(text);
    if words.is_empty() {
        return 0.0;
    }
    let mut weight: HashMap<&str, usize> = HashMap::new();
    for word in &words {
        *weight.entry(word).or_default() += 1;
    }
    let there = tokens(other);
    let stretch = words.len().saturating_mul(ECHO_STRETCH);
    let mut inside: HashMap<&str, usize> = HashMap::new();
    let (mut shared, mut most) = (0, 0);
    for (at, word) in there.iter().enumerate() {
        let Some(counts) = weight.get(word.as_str()) else {
            leave(&there, at, stretch, &weight, &mut inside, &mut shared);
            continue;
        };
        let count = inside.entry(word).or_default();
        *count += 1;
        if *count == 1 {
            shared += counts;
        }
        leave(&there, at, stretch, &weight, &mut inside, &mut shared);
        most = most.max(shared);
    }
    most as f64 / words.len() as f64
}

/// Takes out of the stretch that ends at `at` the word that is now too far back.
fn leave<'a>(
    there: &'a [String],
    at: usize,
    stretch: usize,
    weight: &HashMap<&str, usize>,
    inside: &mut HashMap<&'a str, usize>,
    shared: &mut usize,
) {
    let Some(gone) = at.checked_sub(stretch).and_then(|i| there.get(i)) else { return };
    if let Some(count) = inside.get_mut(gone.as_str()) {
        *count -= 1;
        if *count == 0 {
            inside.remove(gone.as_str());
            *shared -= weight.get(gone.as_str()).copied().unwrap_or(0);
        }
    }
}

/// Shared stems in all stems, 0 to 1: how near two statements are while no vector exists.
pub fn stem_jaccard(a: &str, b: &str) -> f64 {
    share(&stems_of(a), &stems_of(b))
}

/// The words of a text that mean something, without their endings.
pub fn stems_of(text: &str) -> HashSet<String> {
    crate::query::terms(text).into_iter().map(|term| term.stem).collect()
}

/// True when two texts that look alike still say different things: another number, or a "not" more or less.
/// Merging such texts would lose the newer statement.
pub fn differ_in_substance(a: &str, b: &str) -> bool {
    substance(a) != substance(b)
}

/// The numbers and the negations of a text, sorted, each as often as it stands there.
pub fn substance(text: &str) -> Vec<String> {
    let mut words: Vec<String> = tokens(text)
        .into_iter()
        .filter(|w| w.chars().any(char::is_numeric) || NEGATIONS.contains(&w.as_str()))
        .map(|w| stem(&w))
        .collect();
    words.sort();
    words
}

/// True when a text has a word, up to its ending, that another has not: then it says something that the other does not
/// say, however alike their letters are.
pub fn adds_a_word(text: &str, other: &str) -> bool {
    let there: HashSet<String> = tokens(other).iter().map(|word| stem(word)).collect();
    tokens(text).iter().any(|word| !there.contains(&stem(word)))
}

fn trigrams(text: &str) -> HashSet<[char; 3]> {
    let chars: Vec<char> = std::iter::once(' ')
        .chain(normalised(text).chars().take(COMPARED_CHARS))
        .chain(std::iter::once(' '))
        .collect();
    chars.windows(3).filter_map(|w| <[char; 3]>::try_from(w).ok()).collect()
}

fn share<T: Eq + std::hash::Hash>(a: &HashSet<T>, b: &HashSet<T>) -> f64 {
    let both = a.intersection(b).count();
    let all = a.len() + b.len() - both;
    if all == 0 { 1.0 } else { both as f64 / all as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn space_case_and_width_do_not_make_another_text() {
        assert_eq!(normalised("  Run\tthe\n ＳＵＩＴＥ "), "run the suite");
        assert_eq!(content_hash("Testing", "Run  it"), content_hash("testing", "run it"));
        assert_ne!(content_hash("a b", "c"), content_hash("a", "b c"));
        assert_eq!(content_hash("a", "b").len(), 64);
    }

    #[test]
    fn a_typing_error_is_nearly_the_same() {
        let a =
            "The deployment failed on Friday because a variable was missing in the production environment";
        let b =
            "The deployment failed on Friday because a variable was missing in the production environments";
        assert!(trigram_jaccard(a, b) >= 0.9);
        assert!(trigram_jaccard(a, "Asha likes tea") < 0.2);
    }

    #[test]
    fn an_echo_is_recognised_with_a_few_words_around_it() {
        let recalled = "Run the whole suite before every push to the main branch";
        assert!(word_overlap("run the whole suite before every push to the main branch", recalled) >= 0.9);
        assert!(word_overlap("deploy on Fridays only", recalled) < 0.9);
        assert_eq!(word_overlap("…", recalled), 0.0);
    }

    #[test]
    fn words_scattered_over_a_page_are_no_echo() {
        let page = "The weather was fine. ".repeat(20)
            + "A user came. "
            + &"It rained. ".repeat(20)
            + "She prefers tea.";
        assert!(word_overlap("The user prefers tea", &page) < 0.9);
        assert!(word_overlap("She prefers tea", &page) >= 0.9);
    }

    #[test]
    fn another_number_or_a_not_is_another_statement() {
        assert!(differ_in_substance("the port is 8080", "the port is 8081"));
        assert!(differ_in_substance("Asha eats meat", "Asha does not eat meat"));
        assert!(differ_in_substance("he can", "he can't"));
        assert!(!differ_in_substance("the port is 8080", "The port: 8080"));
    }

    #[test]
    fn one_other_word_in_a_long_text_adds_a_word_and_an_ending_does_not() {
        let monday =
            "The weekly meeting of the platform team is held in the large room of the old house on Monday";
        let friday = monday.replace("Monday", "Friday");
        assert!(trigram_jaccard(monday, &friday) >= 0.85 && adds_a_word(&friday, monday));
        assert!(!adds_a_word(&monday.replace("meeting", "meetings"), monday));
        assert!(!adds_a_word("the large room", monday));
    }

    proptest! {
        #[test]
        fn likeness_is_symmetric_and_whole_for_itself(a in any::<String>(), b in any::<String>()) {
            prop_assert_eq!(trigram_jaccard(&a, &b), trigram_jaccard(&b, &a));
            prop_assert_eq!(trigram_jaccard(&a, &a), 1.0);
            prop_assert_eq!(stem_jaccard(&a, &b), stem_jaccard(&b, &a));
            prop_assert!((0.0..=1.0).contains(&word_overlap(&a, &b)));
            prop_assert!(!differ_in_substance(&a, &a));
            prop_assert!(!adds_a_word(&a, &a));
        }
    }
}
