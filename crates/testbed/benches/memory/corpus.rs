//! A year of conversations between some dozens of people, and questions of which it is known which turns answer them.
//!
//! Made by rule from phrases, topics and a fixed seed. Nothing here was changed after a result had been seen. About a sixth
//! of the turns answer something; a quarter uses the words of a topic for something else; the rest is chatter and replies
//! that name other people. Four kinds of question:
//!
//! - direct: in words of the turn;
//! - paraphrase: no word of it but the speaker's name;
//! - temporal: the speaker said it twice, months apart; the question names the time of one, in words;
//! - two hops: about "the sister of" somebody: one turn says who that is, another of her own the rest.
//!
//! The invariant: a question's evidence is exactly the turns that answer it.

use crate::date::Date;
use crate::draw::Draw;
use crate::phrases::Phrases;
use crate::topics::{self, Topic};
use contract::Timestamp;

/// Turns in all.
const TURNS: usize = 6200;
/// Conversations they are parts of.
const CONVERSATIONS: usize = 430;
/// Things said once.
const ONCE: usize = 900;
/// Things said twice, months apart.
const TWICE: usize = 150;
/// Sentences that share the words of a topic.
const DISTRACTORS: usize = 1500;
/// Relations that each person mentions.
const KIN_EACH: usize = 3;
/// Questions of each class.
const ASKED: [(Class, usize); 4] =
    [(Class::Direct, 150), (Class::Paraphrase, 220), (Class::Temporal, 150), (Class::TwoHops, 120)];
/// Days of the year that is told.
const DAYS: usize = 420;
/// Least days between two tellings, so that a month never holds both.
const APART: i64 = 62;

/// What makes a question hard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// In words of the turn.
    Direct,
    /// In other words.
    Paraphrase,
    /// With a time.
    Temporal,
    /// About somebody who is not named.
    TwoHops,
}

impl Class {
    /// Every class and its name.
    pub const ALL: [(Class, &'static str); 4] = [
        (Class::Direct, "direct"),
        (Class::Paraphrase, "paraphrase"),
        (Class::Temporal, "temporal"),
        (Class::TwoHops, "two hops"),
    ];
}

/// One thing said.
pub struct Turn {
    /// In which conversation.
    pub conversation: usize,
    /// Its place there.
    pub position: i64,
    /// When.
    pub at: Timestamp,
    /// "Maya: …".
    pub text: String,
}

/// A question and the turns that answer it, by their places in [`Corpus::turns`].
pub struct Question {
    /// Of which class.
    pub class: Class,
    /// As it is asked.
    pub text: String,
    /// What a complete answer needs.
    pub evidence: Vec<usize>,
}

/// All of it.
pub struct Corpus {
    /// In the order of their conversations.
    pub turns: Vec<Turn>,
    /// Class by class.
    pub questions: Vec<Question>,
    /// When they are asked: after the last turn.
    pub now: Timestamp,
}

impl Corpus {
    /// The corpus of these words.
    pub fn of(words: &'static Phrases) -> Self {
        Maker::new(words).corpus()
    }
}

struct Conversation {
    day: i64,
    people: [usize; 2],
}

/// Something said, before it has its place.
struct Said {
    conversation: usize,
    order: u64,
    text: String,
    mark: usize,
}

/// A thing told: by whom, about what, with which words in its places, and the marks of its tellings.
struct Told {
    person: usize,
    topic: usize,
    fill: Draw,
    marks: Vec<usize>,
}

struct Maker {
    words: &'static Phrases,
    draw: Draw,
    topics: Vec<Topic>,
    conversations: Vec<Conversation>,
    said: Vec<Said>,
}

impl Maker {
    fn new(words: &'static Phrases) -> Self {
        let people = words.people.len();
        let mut draw = Draw::new(words.seed);
        let conversations = (0..CONVERSATIONS)
            .map(|n| {
                let first = n % people;
                let second = (first + 1 + draw.below(people - 1)) % people;
                Conversation { day: draw.below(DAYS) as i64, people: [first, second] }
            })
            .collect();
        Self { words, draw, topics: topics::read(words), conversations, said: Vec::new() }
    }

    fn corpus(mut self) -> Corpus {
        let mut pairs: Vec<(usize, usize)> =
            (0..self.words.people.len()).flat_map(|p| (0..self.topics.len()).map(move |t| (p, t))).collect();
        self.draw.shuffle(&mut pairs);
        let once: Vec<Told> = pairs.iter().take(ONCE).map(|(p, t)| self.tell(*p, *t, 1)).collect();
        let twice: Vec<Told> =
            pairs.iter().skip(ONCE).take(TWICE).map(|(p, t)| self.tell(*p, *t, 2)).collect();
        let kin = self.kin();
        for _ in 0..DISTRACTORS {
            let topic = self.draw.below(self.topics.len());
            let text = self.topics[topic].distractor.clone();
            let conversation = self.draw.below(CONVERSATIONS);
            self.chat(conversation, &text);
        }
        while self.said.len() < TURNS {
            let conversation = self.draw.below(CONVERSATIONS);
            let text = if self.draw.below(4) == 0 {
                (*self.draw.one_of(self.words.replies)).to_owned()
            } else {
                let (a, b, c) = (
                    self.draw.one_of(self.words.openers),
                    self.draw.one_of(self.words.chatter),
                    self.draw.one_of(self.words.closers),
                );
                format!("{a} {b}{c}")
            };
            self.chat(conversation, &text);
        }
        let places = self.placed();
        let mut questions = Vec::new();
        for (class, wanted) in ASKED {
            let made = match class {
                Class::Direct => self.plain(class, &once[..wanted]),
                Class::Paraphrase => self.plain(class, &once[ASKED[0].1..][..wanted]),
                Class::Temporal => self.temporal(&twice[..wanted]),
                Class::TwoHops => self.two_hops(&kin, &once, wanted),
            };
            questions.extend(made);
        }
        for question in &mut questions {
            for evidence in &mut question.evidence {
                *evidence = places[*evidence];
            }
        }
        let (conversations, mut said) = (self.conversations, self.said);
        said.sort_by_key(|s| (s.conversation, s.order));
        let mut turns: Vec<Turn> = Vec::with_capacity(said.len());
        for s in said {
            let position = match turns.last() {
                Some(last) if last.conversation == s.conversation => last.position + 1,
                Some(_) | None => 0,
            };
            let at = Date::of(conversations[s.conversation].day).at(position);
            turns.push(Turn { conversation: s.conversation, position, at, text: s.text });
        }
        Corpus { turns, questions, now: Date::of(DAYS as i64 + 1).at(0) }
    }

    /// The place of each mark among the turns, once all is said.
    fn placed(&self) -> Vec<usize> {
        let mut order: Vec<&Said> = self.said.iter().collect();
        order.sort_by_key(|s| (s.conversation, s.order));
        let mut places = vec![0; order.len()];
        for (place, said) in order.iter().enumerate() {
            places[said.mark] = place;
        }
        places
    }

    fn say(&mut self, conversation: usize, who: usize, text: &str) -> usize {
        let mark = self.said.len();
        let order = self.draw.bits();
        self.said.push(Said {
            conversation,
            order,
            text: format!("{}: {text}", self.words.people[who]),
            mark,
        });
        mark
    }

    fn filled(&self, sentence: &str, who: &str, draw: &Draw) -> String {
        topics::filled(self.words.pools, sentence, who, draw)
    }

    fn chat(&mut self, conversation: usize, text: &str) {
        let who = *self.draw.one_of(&self.conversations[conversation].people);
        let other = *self.draw.one_of(self.words.people);
        let fill = Draw::new(self.draw.bits());
        let text = self.filled(&text.replace("{other}", other), "", &fill);
        self.say(conversation, who, &text);
    }

    /// Conversations of a person, in any order.
    fn with(&mut self, person: usize) -> Vec<usize> {
        let mut found: Vec<usize> =
            (0..CONVERSATIONS).filter(|c| self.conversations[*c].people.contains(&person)).collect();
        self.draw.shuffle(&mut found);
        found
    }

    /// Says something once, or twice with months between.
    fn tell(&mut self, person: usize, topic: usize, times: usize) -> Told {
        let fill = Draw::new(self.draw.bits());
        let conversations = self.with(person);
        let first = conversations[0];
        let mut chosen = vec![first];
        if times == 2 {
            let apart =
                |c: &&usize| (self.conversations[**c].day - self.conversations[first].day).abs() >= APART;
            chosen.push(*conversations.iter().find(apart).expect("a year of conversations"));
        }
        let mut way = self.draw.below(2);
        let mut marks = Vec::new();
        for conversation in chosen {
            let text = self.filled(&self.topics[topic].said[way], "", &fill);
            marks.push(self.say(conversation, person, &text));
            way = 1 - way;
        }
        Told { person, topic, fill, marks }
    }

    /// Everybody mentions some relations: who, what, whom, and the mark.
    fn kin(&mut self) -> Vec<(usize, usize, usize, usize)> {
        let mut found = Vec::new();
        for person in 0..self.words.people.len() {
            let mut kinds: Vec<usize> = (0..self.words.kin.len()).collect();
            self.draw.shuffle(&mut kinds);
            for kind in kinds.into_iter().take(KIN_EACH) {
                let other =
                    (person + 1 + self.draw.below(self.words.people.len() - 1)) % self.words.people.len();
                let conversation = self.with(person)[0];
                let text = self.words.kin[kind].1.replace("{other}", self.words.people[other]);
                found.push((person, kind, other, self.say(conversation, person, &text)));
            }
        }
        found
    }

    fn asked(&mut self, told: &Told, direct: bool, who: &str) -> String {
        let topic = &self.topics[told.topic];
        let question =
            if direct { topic.direct.clone() } else { self.draw.one_of(&topic.paraphrased).clone() };
        self.filled(&question, who, &told.fill)
    }

    fn plain(&mut self, class: Class, told: &[Told]) -> Vec<Question> {
        let ask = |t: &Told| Question {
            class,
            text: self.asked(t, class == Class::Direct, self.words.people[t.person]),
            evidence: t.marks.clone(),
        };
        told.iter().map(ask).collect()
    }

    fn temporal(&mut self, told: &[Told]) -> Vec<Question> {
        let mut found = Vec::new();
        for (n, t) in told.iter().enumerate() {
            let mark = t.marks[self.draw.below(2)];
            let date = Date::of(self.conversations[self.said[mark].conversation].day);
            let time = match self.draw.below(4) {
                0 => format!("on {}", date.iso()),
                1 => format!("on {} {} {}", date.day, date.month_name(), date.year),
                _ => format!("in {} {}", date.month_name(), date.year),
            };
            let question = self.asked(t, n % 2 == 0, self.words.people[t.person]);
            found.push(Question {
                class: Class::Temporal,
                text: format!("{question} I mean what was said {time}."),
                evidence: vec![mark],
            });
        }
        found
    }

    fn two_hops(
        &mut self,
        kin: &[(usize, usize, usize, usize)],
        once: &[Told],
        wanted: usize,
    ) -> Vec<Question> {
        let mut found = Vec::new();
        while found.len() < wanted {
            let (person, kind, other, mark) = *self.draw.one_of(kin);
            let theirs: Vec<&Told> = once.iter().filter(|t| t.person == other).collect();
            if theirs.is_empty() {
                continue;
            }
            let told = *self.draw.one_of(&theirs);
            let who = format!("the {} of {}", self.words.kin[kind].0, self.words.people[person]);
            let direct = found.len() % 2 == 0;
            found.push(Question {
                class: Class::TwoHops,
                text: self.asked(told, direct, &who),
                evidence: vec![mark, told.marks[0]],
            });
        }
        found
    }
}
