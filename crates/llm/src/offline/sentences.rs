//! What a sentence of the person is for the rules: something stated, something asked for by name, or a wish to forget.
//!
//! Pure, and of the words alone. A question, a greeting, a command and an answer of the rule set itself state nothing:
//! taken for statements they would be quoted back to the person who asked, longer each time.
//!
//! The invariant: what is read as a statement stands in the sentence word for word.

/// Words that may stand before the words that decide.
const OPENINGS: [&str; 13] =
    ["hi", "hello", "hey", "please", "and", "also", "so", "oh", "ok", "okay", "well", "but", "now"];
/// What says by itself that a statement follows.
const TOLD: [&str; 6] = [
    "remember that ",
    "remember: ",
    "don't forget that ",
    "don’t forget that ",
    "do not forget that ",
    "note that ",
];
/// What asks to forget.
const FORGET: [&str; 9] = [
    "forget ",
    "can you forget ",
    "could you forget ",
    "you can forget ",
    "i want you to forget ",
    "don't remember ",
    "don’t remember ",
    "do not remember ",
    "forget: ",
];
/// First words of questions without their mark, and of what is to be done. More words overlook statements; fewer tell
/// the person their own question.
const NOT_STATED: [&str; 42] = [
    "who",
    "whom",
    "whose",
    "what",
    "which",
    "where",
    "when",
    "why",
    "how",
    "do",
    "does",
    "did",
    "is",
    "are",
    "am",
    "was",
    "were",
    "can",
    "could",
    "would",
    "should",
    "run",
    "read",
    "search",
    "ask",
    "plan",
    "forget",
    "tell",
    "show",
    "list",
    "find",
    "give",
    "explain",
    "translate",
    "describe",
    "summarise",
    "summarize",
    "don",
    "don't",
    "thanks",
    "thank",
    "bye",
];
const GREETINGS: [&str; 5] = ["good morning", "good afternoon", "good evening", "good night", "good day"];
/// Words of a thing that somebody has. More takes half a sentence for one.
const THING_WORDS: usize = 4;
const VERBS: [(&str, &str); 4] = [(" is ", "is"), (" are ", "are"), (" was ", "was"), (": ", "is")];

/// What is said of something the person has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// "boat", in lower case.
    pub thing: String,
    verb: &'static str,
    value: String,
    /// Whether the value is what the thing is called.
    named: bool,
}

impl Statement {
    /// `My name is Ada.` states "Ada" of "name", and `the name of my boat is Zora` "Zora" of "boat".
    pub fn read(sentence: &str) -> Option<Self> {
        let at = word_at(sentence, "my ")?;
        let rest = &sentence[at + "my ".len()..];
        let (verb_at, mark, verb) = verb_in(rest, &VERBS[..3])?;
        let (thing, owned) = without_name(rest[..verb_at].trim());
        let value = rest[verb_at + mark.len()..].split([',', ';', '\n']).next()?;
        let of = ends_with_ci(sentence[..at].trim_end(), "name of");
        Self::made(thing, verb, value, owned || of)
    }

    /// What a line of memory says of a thing; such a line need not be in the person's words: "The user's name is Ada".
    pub fn of_memory(line: &str, thing: &str) -> Option<Self> {
        if let Some(own) = Self::read(line) {
            let same =
                own.thing == thing || (thing != "name" && ends_with_ci(&own.thing, &format!(" {thing}")));
            return same.then_some(own);
        }
        let at = word_at(line, thing)?;
        let (before, behind) = (line[..at].trim_end(), &line[at + thing.len()..]);
        let of_another = ["'s", "’s"].iter().any(|s| before.ends_with(s))
            && !["user's", "user’s"].iter().any(|s| ends_with_ci(before, s));
        // "boatman", and "the name of somebody"
        if of_another || behind.starts_with(char::is_alphanumeric) || behind.starts_with(" of ") {
            return None;
        }
        let (verb_at, mark, verb) = verb_in(behind, &VERBS)?;
        let between = behind[..verb_at].trim();
        let owned = ["'s name", "’s name"].contains(&between);
        let value = &behind[verb_at + mark.len()..];
        let end = [". ", ";"].iter().filter_map(|end| value.find(end)).min().unwrap_or(value.len());
        let of = before.to_lowercase().contains("name of ");
        Self::made(thing, verb, &value[..end], owned || of)
    }

    fn made(thing: &str, verb: &'static str, value: &str, named: bool) -> Option<Self> {
        let value = value.trim().trim_end_matches(['?', '!', '.', ' ']);
        let called = ["called ", "named "].iter().find_map(|word| strip_ci(value, word));
        let made = Self {
            thing: thing.to_lowercase(),
            verb,
            value: called.unwrap_or(value).trim().to_owned(),
            named: named || called.is_some(),
        };
        let plain =
            !thing.is_empty() && thing.split_whitespace().count() <= THING_WORDS && !made.value.is_empty();
        plain.then_some(made)
    }

    /// Whether it answers what is asked. What a thing is called is told by its name, and by "my cat is Mia".
    pub fn answers(&self, asked: &Asked) -> bool {
        !asked.named || self.named || self.value.starts_with(char::is_uppercase)
    }

    /// `your boat is called Zora`.
    pub fn told(&self) -> String {
        let called = if self.named { "called " } else { "" };
        format!("your {} {} {called}{}", self.thing, self.verb, self.value)
    }
}

/// What of the person's things is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// "boat", in lower case.
    pub thing: String,
    named: bool,
}

impl Asked {
    /// `what is my name?` asks for "name", `what is my boat called` for what "boat" is called.
    pub fn read(said: &str) -> Option<Self> {
        let lower = said.to_lowercase().replace('’', "'");
        let by_name = [
            "what is the name of my ",
            "what's the name of my ",
            "what do you call my ",
            "what do i call my ",
        ];
        let plain = [
            "what is my ",
            "what's my ",
            "what was my ",
            "what are my ",
            "who is my ",
            "who's my ",
            "who are my ",
            "where is my ",
            "where are my ",
            "how is my ",
        ];
        let behind = |starts: &[&str]| {
            let rest = starts.iter().find_map(|start| lower.split_once(start))?.1;
            Some(rest.split(['?', ',', '\n']).next()?.trim_end_matches(['!', '.', ' ']).trim().to_owned())
        };
        let (rest, by_name) = match behind(&by_name) {
            Some(rest) => (rest, true),
            None => (behind(&plain)?, false),
        };
        let (thing, owned) = without_name(&rest);
        let called = [" called", " named"].iter().find_map(|word| thing.strip_suffix(word));
        // "how is my sister" asks for no name
        if lower.contains("how is my ") && called.is_none() {
            return None;
        }
        let thing = called.unwrap_or(thing).trim().to_owned();
        (!thing.is_empty()).then(|| Self { thing, named: by_name || owned || called.is_some() })
    }

    /// `your colour`, or `what your boat is called`.
    pub fn told(&self) -> String {
        match self.named {
            true => format!("what your {} is called", self.thing),
            false => format!("your {}", self.thing),
        }
    }
}

/// The sentences in which the person states something, without the words around them.
pub fn statements(text: &str) -> Vec<&str> {
    sentences(text).into_iter().filter_map(stated).collect()
}

/// Whether one of its sentences asks to forget something.
pub fn asks_to_forget(text: &str) -> bool {
    sentences(text).into_iter().map(without_openings).any(|sentence| {
        unmarked(sentence).eq_ignore_ascii_case("forget")
            || FORGET.iter().any(|start| strip_ci(sentence, start).is_some())
    })
}

/// Whether two texts are the same words.
pub fn is_echo(text: &str, of: &str) -> bool {
    let words = |text: &str| -> Vec<String> {
        text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).map(str::to_lowercase).collect()
    };
    let same = words(text);
    same == words(of)
        || sentences(of).into_iter().any(|s| same == words(s) || stated(s).is_some_and(|s| same == words(s)))
}

/// Whether a line is an answer of these rules that quotes others: quoting it again and again would make every answer
/// longer than the one before.
pub fn is_own(line: &str) -> bool {
    let own = [
        "You said: “",
        "I understand “",
        "I am the built-in rule set",
        "I can quote what you said",
        "I keep that: your ",
        "You have not told me ",
        "I forget nothing ",
    ];
    own.iter().any(|start| line.starts_with(start))
        || ["you told me: “", "in memory: “", "you said: “"].iter().any(|part| line.contains(part))
}

fn stated(sentence: &str) -> Option<&str> {
    let own = without_openings(sentence);
    if own.ends_with('?') || is_own(own) {
        return None;
    }
    if let Some(told) = TOLD.iter().find_map(|start| strip_ci(own, start)) {
        return Some(unmarked(told)).filter(|told| !told.is_empty());
    }
    let mut words = own.split(|c: char| c.is_whitespace() || matches!(c, '\'' | '’' | ',' | ':'));
    let first = words.next().unwrap_or_default();
    let asks = NOT_STATED.iter().any(|word| first.eq_ignore_ascii_case(word));
    let greets = GREETINGS.iter().any(|words| strip_ci(own, words).is_some());
    (!asks && !greets && own.split_whitespace().nth(1).is_some() && !asks_to_forget(own))
        .then(|| unmarked(own))
}

/// Sentences: up to a full stop, question or exclamation mark before white space, or a line's end.
fn sentences(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut start = 0;
        let marks = line.char_indices().filter(|(_, c)| matches!(c, '.' | '!' | '?')).map(|(at, _)| at + 1);
        let ends = marks.filter(|end| line[*end..].chars().next().is_none_or(char::is_whitespace));
        for end in ends.chain([line.len()]) {
            found.push(line[start..end].trim());
            start = end;
        }
    }
    found.retain(|sentence| !sentence.is_empty());
    found
}

fn without_openings(sentence: &str) -> &str {
    let mut rest = sentence;
    while let Some((word, behind)) = rest.split_once([' ', ',']) {
        if !OPENINGS.iter().any(|opening| word.eq_ignore_ascii_case(opening)) {
            break;
        }
        rest = behind.trim_start_matches([' ', ',']);
    }
    rest
}

fn unmarked(sentence: &str) -> &str {
    sentence.trim().trim_end_matches(['.', '!', ' '])
}

/// `boat's name` is "boat", by name.
fn without_name(thing: &str) -> (&str, bool) {
    let owner = ["'s name", "’s name"].iter().find_map(|end| thing.strip_suffix(end));
    (owner.unwrap_or(thing), owner.is_some())
}

/// The first of these verbs: where, as it stands there, and as it is told.
fn verb_in(
    text: &str,
    verbs: &[(&'static str, &'static str)],
) -> Option<(usize, &'static str, &'static str)> {
    verbs.iter().filter_map(|(mark, verb)| text.find(mark).map(|at| (at, *mark, *verb))).min()
}

/// Where these words begin in a text, not in the middle of another word.
fn word_at(text: &str, words: &str) -> Option<usize> {
    text.char_indices().map(|(at, _)| at).find(|at| {
        strip_ci(&text[*at..], words).is_some() && !text[..*at].ends_with(|c: char| c.is_alphanumeric())
    })
}

fn ends_with_ci(text: &str, end: &str) -> bool {
    text.len()
        .checked_sub(end.len())
        .and_then(|at| text.get(at..))
        .is_some_and(|t| t.eq_ignore_ascii_case(end))
}

/// The rest of a text that begins with these words, whatever their case.
pub fn strip_ci<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    let head = text.get(..start.len())?;
    head.eq_ignore_ascii_case(start).then(|| &text[start.len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_stated_is_a_statement() {
        for (said, stated) in [
            ("Hello! My name is Ada. Where do I live?", &["My name is Ada"][..]),
            ("please remember that the release is v1.2.", &["the release is v1.2"]),
            ("Don't forget that my boat is red", &["my boat is red"]),
            ("So, I work at Acme", &["I work at Acme"]),
            ("where do I work", &[]),
            ("What's my name", &[]),
            ("hello", &[]),
            ("Good morning!", &[]),
            ("run ls", &[]),
            ("forget that my dentist is Doctor Weber", &[]),
            ("don't remember that my boat is red", &[]),
            ("Your boat is called Zora; you told me: “my boat is called Zora”.", &[]),
        ] {
            assert_eq!(statements(said), stated, "{said}");
        }
    }

    #[test]
    fn a_statement_is_told_as_it_was_made() {
        for (said, told) in [
            ("my boat is called Zora", "your boat is called Zora"),
            ("the name of my boat is Zora", "your boat is called Zora"),
            ("my boat's name is Zora", "your boat is called Zora"),
            ("My keys are in the drawer", "your keys are in the drawer"),
            ("my release is v1.2, I think", "your release is v1.2"),
        ] {
            assert_eq!(Statement::read(said).map(|s| s.told()).as_deref(), Some(told), "{said}");
        }
        for said in ["Tommy is here", "I know where my boat is ", "it rains"] {
            assert_eq!(Statement::read(said), None, "{said}");
        }
    }

    #[test]
    fn a_line_of_memory_speaks_of_its_own_thing() {
        let told = |line: &str, thing: &str| Statement::of_memory(line, thing).map(|s| s.told());
        assert_eq!(told("The user's name is Ada", "name").as_deref(), Some("your name is Ada"));
        assert_eq!(
            told("The yak is called Zora; it is old", "yak").as_deref(),
            Some("your yak is called Zora")
        );
        assert_eq!(told("my red boat is fast", "boat").as_deref(), Some("your red boat is fast"));
        for line in ["my dog's name is Rex", "The dog's name is Rex", "the name of the dog is Rex"] {
            assert_eq!(told(line, "name"), None, "{line}");
        }
    }

    #[test]
    fn a_name_is_asked_for_in_many_ways() {
        for said in [
            "what is my yak called?",
            "What's my yak named",
            "what is the name of my yak?",
            "what is my yak's name",
            "What’s my yak’s name?",
            "what do you call my yak",
            "How is my yak called?",
        ] {
            assert_eq!(Asked::read(said), Some(Asked { thing: "yak".to_owned(), named: true }), "{said}");
        }
        assert_eq!(Asked::read("Who is my yak?"), Some(Asked { thing: "yak".to_owned(), named: false }));
        assert_eq!(Asked::read("how is my yak"), None);
    }
}
