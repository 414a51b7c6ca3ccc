//! Deterministic answers for crash tests: a full answer is a function of what the person said, and an
//! answer that was cut off is continued exactly where it stopped.
//!
//! A message may hold directives, one per line:
//! - `call <tool> <json>`: call this tool; calls on adjacent lines come in one block.
//! - `then`: the following calls come in a later block, after the results of the earlier ones.
//! - `json <json>`: the final answer is exactly this.
//! - `words <n>`: the final answer has this many words.

use super::script::Reply;
use super::seen::{SeenMessage, SeenRequest, said};
use std::time::Duration;

/// How answers are streamed.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Words of an answer, unless the message says otherwise.
    pub words: usize,
    /// Pause before each frame (one word each).
    pub pause: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { words: 60, pause: Duration::ZERO }
    }
}

/// The rules, with the text that asks for a continuation.
#[derive(Debug, Clone)]
pub struct Rules {
    continue_request: String,
    pace: Pace,
}

/// What a message asks for.
#[derive(Debug, Default, PartialEq)]
struct Wish {
    rounds: Vec<Vec<(String, String)>>,
    json: Option<String>,
    words: Option<usize>,
    rest: Vec<String>,
}

impl Rules {
    /// `continue_request` is the text with which the Engine asks for a continuation.
    pub fn new(continue_request: &str, pace: Pace) -> Self {
        Self { continue_request: continue_request.to_owned(), pace }
    }

    /// The whole text that answers a message, however often it is interrupted.
    pub fn full_answer(&self, message: &str) -> String {
        let wish = Wish::read(message);
        if let Some(json) = wish.json {
            return json;
        }
        let calls: usize = wish.rounds.iter().map(Vec::len).sum();
        let mut text = format!("Answer to “{}” after {calls} calls:", wish.rest.join(" "));
        for n in 1..=wish.words.unwrap_or(self.pace.words) {
            text += &format!(" word{n}");
        }
        text + "."
    }

    /// The reply to a request.
    pub fn reply(&self, request: &SeenRequest) -> Reply {
        let (before, told) = self.split(&request.messages);
        let asked = before.iter().rposition(|m| m.role == "user" && !said(m).is_empty());
        let message = asked.map(|at| said(&before[at])).unwrap_or_default();
        let since = asked.map_or(before, |at| &before[at..]);
        let rounds_done = since.iter().filter(|m| !m.calls.is_empty()).count();
        let wish = Wish::read(&message);
        let reply = Reply::new().pace(self.pace.pause);
        if let Some(round) = wish.rounds.get(rounds_done) {
            return round.iter().fold(reply, |reply, (tool, args)| reply.raw_tool_call(tool, args));
        }
        let full = self.full_answer(&message);
        match full.strip_prefix(&told) {
            // All was said before the cut: an answer without content, as providers give it.
            Some("") => reply,
            Some(rest) => reply.say(rest),
            None => reply.say("[what was said before is not a beginning of the answer]"),
        }
    }

    fn split<'a>(&self, messages: &'a [SeenMessage]) -> (&'a [SeenMessage], String) {
        let mut before = messages;
        let mut told = String::new();
        while let [rest @ .., partial, ask] = before {
            let asks = ask.role == "user" && said(ask).trim() == self.continue_request.trim();
            if !asks || partial.role != "assistant" {
                break;
            }
            told = partial.text() + &told;
            before = rest;
        }
        (before, told)
    }
}

impl Wish {
    fn read(message: &str) -> Self {
        let mut wish = Wish::default();
        let mut new_round = true;
        for line in message.lines().map(str::trim) {
            if let Some(call) = line.strip_prefix("call ") {
                let (tool, args) = call.split_once(' ').unwrap_or((call, "{}"));
                if std::mem::take(&mut new_round) {
                    wish.rounds.push(Vec::new());
                }
                if let Some(round) = wish.rounds.last_mut() {
                    round.push((tool.to_owned(), args.trim().to_owned()));
                }
            } else if line == "then" {
                new_round = true;
            } else if let Some(json) = line.strip_prefix("json ") {
                wish.json = Some(json.to_owned());
            } else if let Some(n) = line.strip_prefix("words ").and_then(|n| n.parse().ok()) {
                wish.words = Some(n);
            } else if !line.is_empty() {
                wish.rest.push(line.to_owned());
            }
        }
        wish
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_read_in_rounds() {
        let wish =
            Wish::read("hello\ncall bash {\"command\":\"ls\"}\ncall plan {}\nthen\ncall grep\nwords 3");
        assert_eq!(wish.rounds.len(), 2);
        assert_eq!(wish.rounds[0][0], ("bash".to_owned(), "{\"command\":\"ls\"}".to_owned()));
        assert_eq!(wish.rounds[1], vec![("grep".to_owned(), "{}".to_owned())]);
        let rules = Rules::new("go on", Pace::default());
        assert_eq!(rules.full_answer("hi\nwords 2"), "Answer to “hi” after 0 calls: word1 word2.");
    }
}
