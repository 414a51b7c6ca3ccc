//! Whether two statements give two values to one thing that has one: "my dentist is Doctor Weber", "my dentist is Doctor
//! Braun".
//!
//! A plain fact closes no other, since most facts hold beside each other; a person who corrects one by saying it anew
//! would be left with both. Here it is said of which things there is one: what is somebody's favourite, what an office has
//! one holder of, dates, numbers and addresses. Of sisters, dogs and friends there may be several, and "my dentist is
//! expensive" is no other dentist, so everything else is kept.
//!
//! The invariant: a statement gives no other value than itself, and the same two texts give the same answer.

use crate::tokens::{joined, tokens};

/// Words of a thing. More takes the verb of a second sentence for that of the first; fewer misses "the deadline of the
/// report for Anna".
const THING_WORDS: usize = 6;
/// Words of a value. More compares sentences that say other things, too; fewer misses addresses and titles.
const VALUE_WORDS: usize = 6;
/// Words of a value that is no name. More takes what is told of the favourite for another favourite.
const PLAIN_WORDS: usize = 2;

/// Words before a thing that make it the only one.
const FAVOURITE: [&str; 3] = ["favourite", "favorite", "preferred"];
/// The same, of things that are mostly described: only names and numbers are values of them.
const ONLY: [&str; 6] = ["next", "current", "main", "primary", "default", "usual"];
/// Favourites whose values are common words.
const KINDS: [&str; 34] = [
    "colour",
    "color",
    "food",
    "drink",
    "fruit",
    "vegetable",
    "animal",
    "season",
    "sport",
    "tea",
    "coffee",
    "dish",
    "meal",
    "music",
    "genre",
    "subject",
    "hobby",
    "snack",
    "dessert",
    "flower",
    "tree",
    "cheese",
    "cuisine",
    "instrument",
    "spice",
    "sauce",
    "breakfast",
    "editor",
    "language",
    "weekday",
    "day",
    "month",
    "number",
    "metal",
];
/// Who a person has one of at a time.
const OFFICES: [&str; 22] = [
    "dentist",
    "doctor",
    "gp",
    "physician",
    "therapist",
    "lawyer",
    "accountant",
    "hairdresser",
    "vet",
    "landlord",
    "landlady",
    "boss",
    "manager",
    "supervisor",
    "wife",
    "husband",
    "spouse",
    "partner",
    "fiance",
    "mother",
    "father",
    "midwife",
];
/// What a thing or a person has one of.
const ATTRIBUTES: [&str; 22] = [
    "name",
    "surname",
    "nickname",
    "birthday",
    "birthplace",
    "hometown",
    "age",
    "height",
    "weight",
    "address",
    "email",
    "number",
    "code",
    "postcode",
    "timezone",
    "deadline",
    "date",
    "version",
    "capital",
    "employer",
    "nationality",
    "iban",
];
/// Capitalised words that describe somebody and do not name them.
const ORIGINS: [&str; 24] = [
    "german",
    "english",
    "french",
    "spanish",
    "italian",
    "portuguese",
    "dutch",
    "indian",
    "chinese",
    "japanese",
    "korean",
    "arab",
    "russian",
    "turkish",
    "polish",
    "swedish",
    "american",
    "british",
    "irish",
    "swiss",
    "austrian",
    "canadian",
    "catholic",
    "jewish",
];
/// Words after "is" that belong to the question and not to the answer: where and when are not who.
const RELATING: [&str; 7] = ["in", "on", "at", "from", "by", "near", "with"];
/// Words that make more of a value than a value.
const JOINING: [&str; 10] = ["and", "or", "but", "not", "no", "never", "who", "which", "that", "because"];

/// What one thing is said to be.
#[derive(Debug, PartialEq)]
struct Slot {
    /// Whose, the thing, and what relates the value to it.
    frame: (bool, Vec<String>, Option<String>),
    /// The value, folded.
    value: String,
    /// Whether the value is a name or a number.
    named: bool,
}

impl Slot {
    fn of(text: &str) -> Option<Self> {
        let text = text.trim().trim_end_matches(['.', '!']);
        let words: Vec<&str> = text.split_whitespace().take(3 + THING_WORDS + VALUE_WORDS + 3).collect();
        let folded: Vec<String> = words.iter().map(|word| joined(word)).collect();
        let plain: Vec<&str> = folded.iter().map(String::as_str).collect();
        let (own, start) = match plain.as_slice() {
            ["my", ..] => (true, 1),
            ["the", "user s", ..] => (true, 2),
            ["the", ..] => (false, 1),
            _ => return None,
        };
        let verb = plain.iter().position(|word| *word == "is").filter(|at| *at > start)?;
        let thing = &folded[start..verb];
        let mut behind = (verb + 1..words.len()).collect::<Vec<usize>>();
        behind.retain(|at| plain[*at] != "now");
        let relating =
            behind.first().filter(|at| RELATING.contains(&plain[**at])).map(|at| folded[*at].clone());
        let value = &behind[usize::from(relating.is_some())..];
        if thing.len() > THING_WORDS
            || !(1..=VALUE_WORDS).contains(&value.len())
            || value.iter().any(|at| JOINING.contains(&plain[*at]))
        {
            return None;
        }
        let said: Vec<&str> = value.iter().map(|at| words[*at]).collect();
        let named = said[0].starts_with(char::is_uppercase)
            || said.iter().any(|word| word.contains(|c: char| c.is_ascii_digit() || c == '@'));
        let one = Self { frame: (own, thing.to_vec(), relating), value: said.join(" "), named };
        let one = Self { value: joined(&one.value), ..one };
        (one.has_one_value() && !one.value.is_empty()).then_some(one)
    }

    /// Whether there is one such thing, and this is a value of it.
    fn has_one_value(&self) -> bool {
        let (_, thing, _) = &self.frame;
        let is =
            |list: &[&str], word: Option<&String>| word.is_some_and(|word| list.contains(&word.as_str()));
        let end = thing.iter().position(|word| ["of", "for", "in", "at"].contains(&word.as_str()));
        let head = thing[..end.unwrap_or(thing.len())].last();
        if is(&FAVOURITE, thing.first()) {
            return self.named || (is(&KINDS, head) && tokens(&self.value).len() <= PLAIN_WORDS);
        }
        let describes = ORIGINS.contains(&self.value.as_str());
        self.named
            && (is(&ONLY, thing.first()) || is(&ATTRIBUTES, head) || (is(&OFFICES, head) && !describes))
    }
}

/// True when both statements are about the one value of one thing, and the new one names another.
pub fn has_another_value(old: &str, new: &str) -> bool {
    match (Slot::of(old), Slot::of(new)) {
        (Some(old), Some(new)) => old.frame == new.frame && old.named == new.named && old.value != new.value,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ANOTHER: [(&str, &str); 14] = [
        ("my dentist is Doctor Weber", "my dentist is Doctor Braun"),
        ("My dentist is Doctor Weber.", "my dentist is now Doctor Braun"),
        ("The user's dentist is Doctor Weber", "my dentist is Doctor Braun"),
        ("my favourite colour is green", "my favourite colour is red"),
        ("my favorite color is green", "my favorite color is dark red"),
        ("my favourite restaurant is Roma", "my favourite restaurant is Sale e Pepe"),
        ("my wife is Ada", "my wife is Eve"),
        ("my email is ada@example.org", "my email is ada@example.com"),
        ("my phone number is 0431 123", "my phone number is 0431 456"),
        ("the next release is v1.2", "the next release is v1.3"),
        ("the deadline of the report is Friday", "the deadline of the report is Monday"),
        ("the deadline is on Friday", "the deadline is on Monday"),
        ("the door code is 1234", "the door code is 4321"),
        ("my birthday is 3 May", "my birthday is 4 May"),
    ];

    const BESIDE: [(&str, &str); 23] = [
        ("my dentist is Doctor Weber", "my dentist is Doctor Weber!"),
        ("my dentist is Doctor Weber", "my dentist is expensive"),
        ("my dentist is Doctor Weber", "my dentist is German"),
        ("my dentist is Doctor Weber", "my dentist is in Kiel"),
        ("my dentist is Doctor Weber", "my doctor is Doctor Braun"),
        ("my dentist is Doctor Weber", "Anna's dentist is Doctor Braun"),
        ("my dentist is Doctor Weber", "the dentist is Doctor Braun"),
        ("my dog is called Rex", "my dog is called Bruno"),
        ("my dog is Rex", "my dog is Bruno"),
        ("my sister is Ada", "my sister is Eve"),
        ("my friend is Ada", "my friend is Eve"),
        ("my car is red", "my car is old"),
        ("the house is red", "the house is big"),
        ("my favourite restaurant is expensive", "my favourite restaurant is closed on Mondays"),
        ("my favourite restaurant is Roma", "my favourite restaurant is closed"),
        ("my favourite colours are green and red", "my favourite colours are blue and red"),
        ("my favourite colour is green", "my favourite colour is not red"),
        ("my favourite colour is green", "my favourite tea is red"),
        ("the deadline is on Friday", "the deadline is in Kiel"),
        ("the deadline is Friday", "the deadline is tight"),
        ("my name is Ada", "my age is 30"),
        ("I live in Berlin", "I live in Pune"),
        ("my manager is Anna and my vet is Ben", "my manager is Carla"),
    ];

    #[test]
    fn what_there_is_one_of_has_another_value() {
        for (old, new) in ANOTHER {
            assert!(has_another_value(old, new), "{old:?} stays beside {new:?}");
        }
    }

    #[test]
    fn what_there_may_be_several_of_and_what_only_describes_stays() {
        for (old, new) in BESIDE {
            assert!(!has_another_value(old, new), "{old:?} is closed by {new:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_has_another_value_than_itself(text in "(my|the) (next |favourite )?[a-z]{1,6} is .{0,20}") {
            prop_assert!(!has_another_value(&text, &text));
        }

        #[test]
        fn any_two_texts_can_be_asked_about(old in ".{0,60}", new in ".{0,60}") {
            has_another_value(&old, &new);
        }
    }
}
