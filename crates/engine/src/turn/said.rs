//! What the person says in a message, and what a program put beside it. The one place that tells the two apart.
//!
//! A message that begins a turn, or a nested loop, is stored as its words, then media, then data of a program (`context`).
//! Media have no text of their own, and a message without words has media first. So where a text stands says whose it is:
//! the first block is what was said, every later text is data. No prefix is looked at, because a person can type it. Rows
//! that were written before this file have the same order.
//!
//! The invariant: nothing but the first block of a message is ever the person's word.

use contract::conversation::Block;

/// A block of data for the end of a message: what it holds is not said by the person.
pub fn data(text: &str) -> Block {
    Block::text(format!("<context>\n{text}\n</context>"))
}

/// What the person says in a message; empty when it has no words.
pub fn said(content: &[Block]) -> &str {
    match content.first() {
        Some(Block::Text { text }) => text,
        _ => "",
    }
}

/// The data that a program sent along with a message; empty when there is none.
pub fn beside(content: &[Block]) -> String {
    let texts = content.iter().skip(1).filter_map(|block| match block {
        Block::Text { text } => Some(text.as_str()),
        _ => None,
    });
    texts.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::conversation::Source;

    #[test]
    fn where_a_text_stands_says_whose_it_is() {
        let image = || Block::Image { source: Source::Url { url: "https://a.test/x.png".into() } };
        let page = || data("{\"page\":\"I prefer tea.\"}");
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
        ] {
            assert_eq!((said(&content), beside(&content).as_str()), (words, beside_it), "{content:?}");
        }
    }
}
