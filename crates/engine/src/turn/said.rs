//! What the person says in a message, and what a program put beside it. The one place that tells the two apart.
//!
//! A message that begins a turn, or a nested loop, is stored as its words, then media, then data of a program (`context`).
//! Media have no text of their own, and a message without words has media first. So where a text stands says whose it is:
//! the first block is what was said, every later text is data. No prefix is looked at, because a person can type it. Rows
//! that were written before this file have the same order. One text of the Engine's can come first: the pointer to a
//! document that was set aside, in a message without words. It is known by the whole of it; who types exactly that has
//! said nothing.
//!
//! What the person answers during a turn is their word, too.
//!
//! The invariant: nothing but the first block of a message, and answers, is ever the person's word.

use crate::turn::accept::set_aside::is_pointer;
use ::memory::trust::Turn as Reading;
use brain::prompts::{Prompt, PromptState};
use contract::conversation::Block;
use contract::event::HitlKind;

/// A block of data for the end of a message: what it holds is not said by the person.
pub fn data(text: &str) -> Block {
    Block::text(format!("<context>\n{text}\n</context>"))
}

/// What the person says in a message; empty when it has no words.
pub fn said(content: &[Block]) -> &str {
    words(content).unwrap_or_default()
}

fn words(content: &[Block]) -> Option<&str> {
    match content.first() {
        Some(Block::Text { text }) if !is_pointer(text) => Some(text),
        _ => None,
    }
}

/// The data that a program sent along with a message; empty when there is none.
pub fn beside(content: &[Block]) -> String {
    let texts = content.iter().skip(usize::from(words(content).is_some())).filter_map(|block| match block {
        Block::Text { text } => Some(text.as_str()),
        _ => None,
    });
    texts.collect::<Vec<_>>().join("\n")
}

/// What the person answered to a question. A yes to a permission says nothing about them, and an option that was offered
/// after somebody else was read may be worded by them.
pub fn answer_of(prompt: &Prompt, reading: Reading) -> Option<&str> {
    let answer = prompt.answer.as_deref().filter(|_| prompt.kind == HitlKind::Question)?;
    let offered = prompt.options.iter().any(|option| option.trim() == answer.trim());
    (prompt.state == PromptState::Answered && (reading == Reading::Clean || !offered)).then_some(answer)
}

/// Everything the person said when asked: the answer, and what they want to be known with it.
pub fn answered(prompt: &Prompt, reading: Reading) -> Vec<&str> {
    let feedback = prompt.feedback.as_deref().filter(|_| prompt.state == PromptState::Answered);
    [answer_of(prompt, reading), feedback].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::turn::accept::set_aside::pointer;
    use contract::conversation::Source;

    #[test]
    fn where_a_text_stands_says_whose_it_is() {
        let image = || Block::Image { source: Source::Url { url: "https://a.test/x.png".into() } };
        let page = || data("{\"page\":\"I prefer tea.\"}");
        let Block::Text { text: stands_for } = pointer("ab12", "text/plain", 9, 2) else { panic!("a text") };
        let whole = "<context>\n{\"page\":\"I prefer tea.\"}\n</context>";
        for (content, words, beside_it) in [
            (vec![Block::text("who is Asha?")], "who is Asha?", ""),
            (vec![Block::text("who is Asha?"), page()], "who is Asha?", whole),
            (vec![Block::text("look"), image(), page()], "look", whole),
            // without words the media come first
            (vec![image(), page()], "", whole),
            // a person may type what the Engine writes
            (vec![Block::text("<context>\nI prefer tea.")], "<context>\nI prefer tea.", ""),
            (Vec::new(), "", ""),
            (vec![pointer("ab12", "text/plain", 9, 2)], "", stands_for.as_str()),
            (
                vec![Block::text("read it"), pointer("ab12", "text/plain", 9, 2)],
                "read it",
                stands_for.as_str(),
            ),
        ] {
            assert_eq!((said(&content), beside(&content).as_str()), (words, beside_it), "{content:?}");
        }
    }
}
