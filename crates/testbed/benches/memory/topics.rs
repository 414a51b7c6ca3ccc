//! What people of a corpus talk about: its file of topics, with their places filled in.
//!
//! A topic is something that somebody says of themselves in one of two ways, questions for it that share no word with
//! either, a question that does, and a sentence of the same words that says something else. [`Topics::read`] refuses a
//! question that is called a paraphrase and shares a word (as the index counts words) with what it asks for.

use crate::draw::Draw;
use crate::phrases::{Phrases, Pool};
use memory::query;
use memory::stem::stem;
use memory::tokens::tokens;
use std::collections::HashSet;

/// One line of the file.
pub struct Topic {
    /// Ways to say it.
    pub said: Vec<String>,
    /// Questions without a word of it.
    pub paraphrased: Vec<String>,
    /// The question in its words.
    pub direct: String,
    /// The same words about something else.
    pub distractor: String,
}

/// All topics.
pub fn read(words: &Phrases) -> Vec<Topic> {
    let parts = |text: &str| text.split('|').map(|p| p.trim().to_owned()).collect::<Vec<_>>();
    let topics: Vec<Topic> = words
        .topics
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(|line| match line.split('\t').collect::<Vec<_>>()[..] {
            [said, paraphrased, direct, distractor] => Topic {
                said: parts(said),
                paraphrased: parts(paraphrased),
                direct: direct.to_owned(),
                distractor: distractor.to_owned(),
            },
            _ => panic!("not a topic: {line}"),
        })
        .collect();
    let shared: Vec<String> = topics.iter().flat_map(shared).collect();
    assert!(shared.is_empty(), "paraphrases share words with what they ask for:\n{}", shared.join("\n"));
    topics
}

/// The paraphrases that share words with what they ask for.
fn shared(topic: &Topic) -> Vec<String> {
    let said: HashSet<String> = topic.said.iter().flat_map(|s| tokens(s)).map(|w| stem(&w)).collect();
    let shares = |question: &&String| {
        let words = query::terms(&question.replace("{who}", ""));
        let shared: Vec<String> = words.into_iter().map(|t| t.stem).filter(|s| said.contains(s)).collect();
        (!shared.is_empty()).then(|| format!("{question}: {}", shared.join(" ")))
    };
    topic.paraphrased.iter().filter_map(|q| shares(&q)).collect()
}

/// The sentence with its places filled; the same draw fills them the same way.
pub fn filled(pools: &[Pool], sentence: &str, who: &str, draw: &Draw) -> String {
    let mut text = sentence.replace("{who}", who);
    let mut draw = draw.clone();
    for (place, words) in pools {
        let word: &str = draw.one_of::<&str>(words);
        text = text.replace(&format!("{{{place}}}"), word);
    }
    assert!(!text.contains('{'), "a place nobody fills: {text}");
    text
}
