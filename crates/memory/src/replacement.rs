//! Whether the words of a statement say by themselves that an older one no longer holds.
//!
//! Asked where no vector can tell: the built-in table knows words and not statements, so that to it "Never deploy on
//! Friday" and "Never deploy without a backup" are 0.84 alike. Only a few forms are known, and both statements must be
//! the same but for them: the opposite ("always", "never", "no longer"), two things that changed places ("tea over coffee"),
//! a thing that is named as given up ("instead of"), one of several values of which only one can be wanted ("in German",
//! "in English"), another limit ("under 100 words"), and the value of what everybody has one of ("lives in").
//!
//! Closing by mistake loses what is true; not closing leaves two statements, of which the newer one ranks higher. So
//! whatever is not one of these forms closes nothing.
//!
//! The invariant: a statement never replaces itself, and the same two texts give the same answer.

use crate::stem::stem;
use crate::tokens::tokens;
use std::collections::BTreeSet;

/// Words of a statement that are compared. More makes two pages be compared word by word at every write; fewer leaves
/// long statements open, which is what is wanted: they say more than one thing.
const WORDS: usize = 40;
/// Words that do not change what is said: who it is about, politeness, and what only carries a "not".
const SILENT: [&str; 28] = [
    "the", "a", "an", "user", "person", "i", "he", "she", "they", "we", "you", "my", "his", "her", "their",
    "your", "s", "please", "do", "does", "did", "should", "must", "will", "always", "now", "ever", "that",
];
/// Words that turn a statement into its opposite.
const NOT: [&str; 6] = ["not", "no", "never", "t", "don", "doesn"];
/// Verbs that are others with a "not".
const DISLIKES: [&str; 4] = ["dislikes", "dislike", "hates", "hate"];
/// Words between two things of which the first goes before the second.
const ORDERING: [&str; 4] = ["over", "than", "before", "after"];
/// Words before a number that is a limit, of which there is one.
const LIMITS: [&str; 10] =
    ["under", "over", "below", "above", "most", "least", "than", "within", "exactly", "to"];
/// Values of which a person wants one at a time, when everything around them is the same.
const EXCLUSIVE: [&[&str]; 18] = [
    &["short", "long", "brief", "detailed", "concise", "verbose", "terse"],
    &["dark", "light"],
    &["tabs", "spaces"],
    &["metric", "imperial"],
    &["celsius", "fahrenheit"],
    &["formal", "informal", "casual"],
    &["first", "last"],
    &["large", "small", "big"],
    &["green", "black", "white", "red", "blue", "yellow"],
    &["daily", "weekly", "monthly", "hourly", "yearly"],
    &["hot", "cold", "warm"],
    &["early", "late"],
    &["upper", "lower"],
    &["single", "double"],
    &["left", "right"],
    &["12", "24"],
    &["with", "without"],
    &[
        "english",
        "german",
        "french",
        "spanish",
        "italian",
        "portuguese",
        "dutch",
        "hindi",
        "marathi",
        "chinese",
        "japanese",
        "korean",
        "arabic",
        "russian",
        "turkish",
        "polish",
        "swedish",
    ],
];
/// Verbs that ask for one thing at a time; after "likes" both values hold.
const ASKING: [&str; 14] = [
    "prefer", "want", "need", "use", "us", "write", "answer", "repli", "reply", "speak", "keep", "set",
    "format", "send",
];
/// What everybody has one of, as stems, up to its value.
const SINGLE: [&[&str]; 9] = [
    &["live", "in"],
    &["name", "is"],
    &["is", "call"],
    &["born", "in"],
    &["born", "on"],
    &["birthday", "is"],
    &["timezon", "is"],
    &["time", "zone", "is"],
    &["nativ", "languag", "is"],
];

/// A statement as far as it is compared.
struct Said {
    /// Stems in order, without silent words and without a "not".
    stems: Vec<String>,
    /// The same words as they stood there.
    words: Vec<String>,
    /// Whether it says that something is not so.
    negated: bool,
    /// Whether it says that something ceased to be so.
    ceased: bool,
}

impl Said {
    fn of(subject: &str, text: &str) -> Option<Self> {
        let about = tokens(subject);
        let mut all = tokens(text);
        if all.len() > WORDS {
            return None;
        }
        let (mut ceased, mut negations) = (false, 0);
        for (marker, left) in [
            (&["no", "longer"][..], &[][..]),
            (&["any", "more"], &[]),
            (&["anymore"], &[]),
            (&["from", "now", "on"], &[]),
            (&["instead", "of"], &["insteadof"]),
            (&["rather", "than"], &["insteadof"]),
        ] {
            while let Some(at) = all.windows(marker.len()).position(|window| window == marker) {
                all.splice(at..at + marker.len(), left.iter().map(|word| (*word).to_owned()));
                ceased |= marker.contains(&"longer") || marker.contains(&"more") || marker == ["anymore"];
                negations += usize::from(marker.contains(&"longer"));
            }
        }
        // "don't" is cut into "don" and "t", and is one "not"
        let mut words: Vec<String> = Vec::new();
        let mut before = "";
        for word in &all {
            let parts = word == "t" && NOT.contains(&before);
            before = word.as_str();
            if NOT.contains(&word.as_str()) {
                negations += usize::from(!parts);
            } else if DISLIKES.contains(&word.as_str()) {
                negations += 1;
                words.push("like".to_owned());
            } else if !SILENT.contains(&word.as_str()) && !about.contains(word) {
                words.push(word.clone());
            }
        }
        let negated = negations % 2 == 1;
        let stems = words.iter().map(|word| stem(word)).collect();
        Some(Self { stems, words, negated, ceased: ceased && negated })
    }

    fn set(&self) -> BTreeSet<&str> {
        self.stems.iter().map(String::as_str).collect()
    }
}

/// True when what is said of a subject now says that what was said of it before does not hold any more.
pub fn replaces(subject: &str, old: &str, new: &str) -> bool {
    let (Some(old), Some(new)) = (Said::of(subject, old), Said::of(subject, new)) else { return false };
    if old.stems.is_empty() || new.stems.is_empty() {
        return false;
    }
    is_opposite(&old, &new)
        || (old.negated == new.negated && (changed_places(&old, &new) || is_another_value(&old, &new)))
        || (!old.negated && !new.negated && (is_given_up(&old, &new) || is_another_single(&old, &new)))
}

/// "Always deploy on Friday", "Never deploy on Friday"; "drinks coffee after lunch", "no longer drinks coffee".
fn is_opposite(old: &Said, new: &Said) -> bool {
    if old.negated == new.negated {
        return false;
    }
    // what ceased altogether ceased in every one of its cases; the verb alone names no case
    let narrower = new.ceased && new.stems.len() > 1 && old.stems.starts_with(&new.stems);
    old.stems == new.stems || narrower
}

/// "tea over coffee", "coffee over tea": the same words, and what stood before the comparison stands behind it.
fn changed_places(old: &Said, new: &Said) -> bool {
    if old.stems.len() != new.stems.len() || old.stems == new.stems {
        return false;
    }
    let place = |said: &Said| said.words.iter().position(|word| ORDERING.contains(&word.as_str()));
    let (Some(there), Some(here)) = (place(old), place(new)) else { return false };
    if old.words[there] != new.words[here] {
        return false;
    }
    let (before, behind) = (&old.stems[..there], &old.stems[there + 1..]);
    let (first, second) = (&new.stems[..here], &new.stems[here + 1..]);
    let frame = before.iter().zip(first).take_while(|(a, b)| a == b).count();
    let tail = behind.iter().rev().zip(second.iter().rev()).take_while(|(a, b)| a == b).count();
    before[frame..] == second[..second.len() - tail] && first[frame..] == behind[..behind.len() - tail]
}

/// The same but for one word, of values that exclude each other or of a limit.
fn is_another_value(old: &Said, new: &Said) -> bool {
    if old.negated || old.stems.len() != new.stems.len() {
        return false;
    }
    let mut other = (0..old.stems.len()).filter(|at| old.stems[*at] != new.stems[*at]);
    let (Some(at), None) = (other.next(), other.next()) else { return false };
    let (a, b) = (old.words[at].as_str(), new.words[at].as_str());
    let asks = old.stems[..at].iter().any(|word| ASKING.contains(&word.as_str()));
    let exclusive = asks && EXCLUSIVE.iter().any(|group| group.contains(&a) && group.contains(&b));
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    let limit = at > 0 && LIMITS.contains(&old.words[at - 1].as_str()) && is_number(a) && is_number(b);
    exclusive || limit
}

/// "tea instead of coffee" gives up "coffee", and "tea over coffee" gives up "coffee" alone.
fn is_given_up(old: &Said, new: &Said) -> bool {
    let mark =
        |word: &String| word == "insteadof" || (word == "over" && new.stems.contains(&"prefer".to_owned()));
    let Some(at) = new.words.iter().position(mark) else { return false };
    let (before, behind) = (&new.stems[..at], &new.stems[at + 1..]);
    let (Some(chosen), false) = (before.last(), behind.is_empty()) else { return false };
    let there = old.set();
    behind.iter().all(|word| there.contains(word.as_str()))
        && !there.contains(chosen.as_str())
        && !behind.contains(chosen)
        && old.stems.first() == before.first()
        && there.is_subset(&new.set())
}

/// "lives in Berlin", "lives in Pune": one word after what everybody has one of.
fn is_another_single(old: &Said, new: &Said) -> bool {
    SINGLE.iter().any(|frame| {
        let value = |said: &Said| -> Option<String> {
            let rest = said.stems.iter().map(String::as_str).collect::<Vec<_>>();
            match rest.strip_prefix(*frame) {
                Some([value]) => Some((*value).to_owned()),
                _ => None,
            }
        };
        matches!((value(old), value(new)), (Some(a), Some(b)) if a != b)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Subject, what was said before, what is said now.
    type Pair = (&'static str, &'static str, &'static str);

    const REPLACED: [Pair; 32] = [
        ("drink", "The user prefers tea over coffee", "The user prefers coffee over tea"),
        ("user", "The user prefers tea over coffee at work", "The user prefers coffee over tea at work"),
        ("drink", "The user prefers green tea", "The user prefers black tea"),
        ("user", "I prefer tea with milk", "I prefer tea without milk"),
        ("user", "The user prefers tea without milk", "I prefer tea with milk"),
        ("editor", "prefers dark mode", "prefers light mode"),
        ("answers", "wants short answers", "wants long answers"),
        ("user", "The user wants answers in German", "The user wants answers in English"),
        ("style", "Always answer in German", "Always answer in French"),
        ("code", "Use tabs for indentation", "Use spaces for indentation"),
        ("code", "Use tabs", "From now on, use spaces"),
        ("units", "Use metric units", "Use imperial units"),
        ("clock", "prefers the 24 hour clock", "prefers the 12 hour clock"),
        ("answers", "Keep answers under 100 words", "Keep answers under 200 words"),
        ("answers", "Write at most 3 bullet points", "Write at most 5 bullet points"),
        ("deploy", "Always deploy on Friday", "Never deploy on Friday"),
        ("deploy", "Never deploy on Friday", "Deploy on Friday"),
        ("food", "eats meat", "eats no meat"),
        ("food", "The user eats meat", "The user no longer eats meat"),
        ("food", "The user eats meat", "The user does not eat meat any more"),
        ("food", "The user eats meat", "The user doesn't eat meat anymore"),
        ("coffee", "The user likes strong coffee", "The user dislikes strong coffee"),
        ("coffee", "The user hates strong coffee", "The user likes strong coffee"),
        ("drink", "drinks coffee after lunch", "no longer drinks coffee"),
        ("drink", "prefers coffee", "prefers tea instead of coffee"),
        ("drink", "prefers coffee", "prefers tea over coffee"),
        ("drink", "prefers coffee", "prefers tea rather than coffee"),
        ("code", "use spaces in Go", "Use tabs instead of spaces in Go"),
        ("user", "The user lives in Berlin", "The user lives in Pune"),
        ("user", "The user's name is Priya", "The user's name is Priyanka"),
        ("Asha", "Asha is called Ash", "Asha is called Shasha"),
        ("tests", "Run lint before tests", "Run tests before lint"),
    ];

    const KEPT: [Pair; 36] = [
        ("deploy", "Never deploy on Friday", "Never deploy without a backup"),
        ("deploy", "Never deploy on Friday", "Never deploy on Monday"),
        ("user", "prefers tea over coffee", "prefers trains over planes"),
        ("user", "prefers tea over coffee", "prefers tea over water"),
        ("user", "wants answers in German", "eats no meat"),
        ("user", "The user prefers tea", "The user prefers trains"),
        ("user", "The user prefers tea", "The user prefers short answers"),
        ("user", "prefers direct flights", "prefers cheap flights"),
        ("user", "prefers coffee in the morning", "prefers coffee in the evening"),
        ("user", "I prefer tea", "I prefer coffee"),
        ("user", "prefers tea with milk", "prefers coffee without milk"),
        ("user", "likes green tea", "likes black tea"),
        ("user", "likes tea", "likes coffee"),
        ("user", "eats no meat", "eats no fish"),
        ("user", "eats no meat", "eats no meat substitutes"),
        ("user", "eats meat on Sundays", "eats no meat"),
        ("user", "works on the roof", "no longer works"),
        ("user", "drinks coffee", "no longer drinks coffee after lunch"),
        ("code", "Never use tabs", "Never use spaces"),
        ("code", "Use tabs in Go", "Use spaces in Python"),
        ("code", "use spaces in Python", "Use tabs instead of spaces in Go"),
        ("code", "use spaces", "Use tabs instead of spaces in Go"),
        ("code", "Use tabs instead of spaces", "Use tabs instead of spaces in Go"),
        ("calls", "Call Anna at 9", "Call Anna at 17"),
        ("tests", "Run unit tests before every push", "Run integration tests before every push"),
        ("tests", "Run the tests before every push", "Run the tests after every push"),
        ("user", "lives in Berlin", "lives in a small house by the sea"),
        ("user", "lives in Berlin", "works in Pune"),
        ("user", "likes to live in Berlin", "likes to live in Pune"),
        ("answers", "Keep answers under 100 words", "Keep titles under 10 words"),
        ("mail", "Send the report to Anna", "Send the report to Ben"),
        ("mail", "Always sign mails", "Always spell-check mails"),
        ("user", "wants German lessons", "wants answers in German"),
        ("drink", "prefers tea over coffee", "prefers tea over coffee"),
        ("user", "prefers tea and coffee", "prefers tea instead of coffee"),
        ("money", "Never pay before asking", "Never share the account number"),
    ];

    #[test]
    fn what_the_words_take_back_is_replaced() {
        for (subject, old, new) in REPLACED {
            assert!(replaces(subject, old, new), "{subject}: {old:?} is not replaced by {new:?}");
        }
    }

    #[test]
    fn what_may_hold_beside_the_new_one_is_kept() {
        for (subject, old, new) in KEPT {
            assert!(!replaces(subject, old, new), "{subject}: {old:?} is replaced by {new:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_replaces_itself(subject in ".{0,20}", text in "(([a-z]{1,6}|not|over|instead of|12) ){0,12}") {
            prop_assert!(!replaces(&subject, &text, &text));
        }

        #[test]
        fn any_two_texts_can_be_compared(subject in ".{0,20}", old in ".{0,80}", new in ".{0,80}") {
            replaces(&subject, &old, &new);
        }
    }
}
