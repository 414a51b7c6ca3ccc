//! What a plain sentence is about, by rule and without a model.
//!
//! The `offline` provider names the facts so that it is asked to remember, and the Learning Centre without a model reads the
//! same sentences again: only one rule for both makes the second a confirmation and not another fact.
//!
//! The invariant: the subject of a sentence with a word in it is not empty and no longer than [`SUBJECT_CHARS`].

/// What sentences about the person who speaks are about.
pub const THE_PERSON: &str = "user";
/// Characters of a subject, as every way to write a fact takes at most.
pub const SUBJECT_CHARS: usize = 200;
/// Words of a subject when no verb comes early. More makes a whole sentence its own subject; fewer says nothing of it.
const SUBJECT_WORDS: usize = 4;
/// Words before a verb that are still a subject. More takes the verb of a second sentence; fewer cuts long names.
const WORDS_BEFORE_VERB: usize = 12;
/// Verbs that end a subject: what people are asked to remember is mostly said with one of these.
const VERBS: [&str; 40] = [
    "am", "is", "are", "was", "were", "has", "have", "had", "does", "will", "can", "must", "should", "likes",
    "like", "loves", "love", "hates", "hate", "prefers", "prefer", "wants", "want", "needs", "need", "lives",
    "live", "works", "work", "plays", "speaks", "owns", "drives", "studies", "teaches", "runs", "starts",
    "ends", "costs", "means",
];

/// What a sentence is about: the words before its verb, or the first few; of one that begins with "I", [`THE_PERSON`].
pub fn subject(said: &str) -> String {
    let words: Vec<&str> = said.split_whitespace().collect();
    let verb = words.iter().position(|word| VERBS.contains(word));
    let verb = verb.filter(|at| (1..=WORDS_BEFORE_VERB).contains(at));
    let subject = words[..verb.unwrap_or(words.len().min(SUBJECT_WORDS))].join(" ");
    match subject.as_str() {
        "I" | "i" => THE_PERSON.to_owned(),
        other => other.chars().take(SUBJECT_CHARS).collect(),
    }
}

/// Whether a sentence says of itself that it is a preference of who speaks.
pub fn is_preference(said: &str) -> bool {
    let mut words = said.split_whitespace();
    let (who, verb) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    who.eq_ignore_ascii_case("i") && verb.eq_ignore_ascii_case("prefer") && words.next().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_is_about_the_words_before_its_verb() {
        for (said, about) in [
            ("my sister Asha lives in Lisbon.", "my sister Asha"),
            ("the next release is v1.2", "the next release"),
            ("I am vegetarian", "user"),
            ("is it so", "is it so"),
            ("water the plants on every other Friday", "water the plants on"),
            ("", ""),
        ] {
            assert_eq!(subject(said), about, "{said}");
        }
        for (said, prefers) in [("I prefer tea", true), ("i prefer", false), ("Ada prefers tea", false)] {
            assert_eq!(is_preference(said), prefers, "{said}");
        }
        let long = "x".repeat(500);
        assert_eq!(subject(&long).len(), SUBJECT_CHARS);
    }
}
