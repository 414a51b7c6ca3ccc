//! What the Engine put beside a message: recalled memory, working memory, a summary, data of a program; read line by line.
//!
//! What an earlier turn was answered is refused: it is not the person's word, and told again it would be told as if it were.
//!
//! The invariant: a line of kind [`Kind::Said`] is the first of a message that the person wrote.

use super::sentences::{is_own, statements};

/// What stands over an earlier turn in recalled memory; behind it come what was asked and what was answered.
const TURN_HEADING: &str = "An earlier turn:";

/// What a line of memory is. What is said first is believed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Something that holds; also what nobody marked otherwise.
    Fact,
    /// Something that happened.
    Event,
    /// What the person said in another conversation. What was answered there is never read: it is not their word.
    Said,
}

/// A line of what was known before.
#[derive(Debug, Clone, PartialEq)]
pub struct Recalled {
    /// As it stands there, without tags.
    pub text: String,
    /// What its item is about: it is found by that, too, and not quoted.
    pub heading: String,
    /// Somebody else's words: they may be shown, but the person has not said them.
    pub quoted: bool,
    /// What it is, and so how far it may be told.
    pub kind: Kind,
}

impl Recalled {
    /// What of it may be told: the whole line, or what the person stated in it.
    pub fn told(&self) -> Vec<&str> {
        match self.kind {
            Kind::Said => statements(&self.text),
            Kind::Fact | Kind::Event if is_own(&self.text) => Vec::new(),
            Kind::Fact | Kind::Event => vec![self.text.trim()],
        }
    }
}

/// True for what looks like data that a program sent along.
pub fn is_data(text: &str) -> bool {
    text.trim_start().starts_with("<context")
}

/// The lines of a block the Engine put beside the message: recalled memory and the like.
pub fn injected(text: &str) -> Option<Vec<Recalled>> {
    let start = text.trim_start();
    let ours =
        ["<memory", "<working_memory", "<summary"].iter().any(|tag| start.starts_with(tag)) || is_data(text);
    ours.then(|| {
        let (mut quoted, mut kind) = (false, Kind::Fact);
        let mut lines: Vec<Recalled> = Vec::new();
        // The first line of an item is its heading, when more follows; else it is all there is to quote.
        let mut heading: Option<Recalled> = None;
        let (mut opened, mut followed) = (false, false);
        for line in text.lines() {
            match line {
                "<quoted>" => quoted = true,
                "</quoted>" => quoted = false,
                "</item>" => {
                    lines.extend(heading.take().filter(|_| !followed && kind != Kind::Said));
                    kind = Kind::Fact;
                }
                _ => {}
            }
            let text = without_tags(line);
            if line.starts_with("<item ") {
                (heading, opened, followed) = (None, text.is_empty(), false);
                kind = if line.contains(" store=\"episodes\"") { Kind::Event } else { Kind::Fact };
            }
            if kind == Kind::Said && !line.trim().is_empty() && line != "</quoted>" {
                // of a turn only the first line is surely the person's: the answer follows without a mark
                if !std::mem::replace(&mut followed, true) {
                    lines.push(Recalled { text, heading: String::new(), quoted, kind });
                }
                continue;
            }
            if text.is_empty() {
                continue;
            }
            if std::mem::take(&mut opened) {
                if kind == Kind::Event && text.starts_with(TURN_HEADING) {
                    kind = Kind::Said;
                } else {
                    heading = Some(Recalled { text, heading: String::new(), quoted, kind });
                }
            } else {
                followed = true;
                let heading = heading.as_ref().map_or_else(String::new, |h| h.text.clone());
                lines.push(Recalled { text, heading, quoted, kind });
            }
        }
        lines
    })
}

/// A line without its tags. A `<` that nothing closes is text: "a < b".
fn without_tags(line: &str) -> String {
    let (mut out, mut rest) = (String::new(), line);
    while let Some((before, tag)) = rest.split_once('<')
        && let Some((_, behind)) = tag.split_once('>')
    {
        out.push_str(before);
        rest = behind;
    }
    (out + rest).trim().to_owned()
}
