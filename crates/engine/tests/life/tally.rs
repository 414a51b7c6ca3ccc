//! What is counted, and the table that is printed.
//!
//! Definitions stand in `docs/reference/life.md`; the numbers here are whole, shares are made when they are printed.
//!
//! The invariant: a figure is counted from what was sent and what is stored, never from what the script knows.

use super::block::Shown;
use super::player::{Sent, planted_on, topic_of, values};
use super::story::{HEARSAY, Question, UNKNOWN};
use std::collections::HashSet;
use std::fmt::Write as _;

/// Bytes of a token, as the Engine estimates them.
const BYTES_PER_TOKEN: f64 = 3.5;

/// Answers to the questions of an exam.
#[derive(Debug, Default, Clone)]
pub struct Answers {
    /// Asked.
    pub asked: usize,
    /// Right; for what was never told: no assertion.
    pub right: usize,
    /// What was right once.
    pub stale: usize,
    /// Asserted and never right.
    pub wrong: usize,
    /// "I do not know", though it was told.
    pub unknown: usize,
    /// Asked about what only pages say.
    pub untold: usize,
    /// Of those, asserted.
    pub believed: usize,
}

impl Answers {
    /// Judges one answer.
    pub fn add(&mut self, question: &Question, answer: &str) {
        self.asked += 1;
        let asserted = !answer.contains(UNKNOWN) && !answer.contains(HEARSAY);
        let says = |value: &str| asserted && answer.to_lowercase().contains(&value.to_lowercase());
        match question.right {
            None => {
                self.untold += 1;
                self.right += usize::from(!asserted);
                self.believed += usize::from(asserted);
            }
            Some(right) if says(right) => self.right += 1,
            Some(_) if question.once.iter().any(|old| says(old)) => self.stale += 1,
            Some(_) if asserted => self.wrong += 1,
            Some(_) => self.unknown += 1,
        }
    }
}

/// What was recalled for the questions of an exam.
#[derive(Debug, Default, Clone)]
pub struct Recall {
    /// Questions for which something was recalled.
    pub blocks: usize,
    /// Memories in all blocks.
    pub items: usize,
    /// Of those, about what was asked.
    pub fitting: usize,
    /// Of the fitting, saying what was so once.
    pub stale: usize,
    /// Greetings and thanks.
    pub junk: usize,
    /// Quoted.
    pub untrusted: usize,
    /// Bytes of all blocks.
    pub bytes: usize,
    /// Bytes of the largest.
    pub most_bytes: usize,
}

impl Recall {
    /// Counts what was recalled for a question.
    pub fn add(&mut self, question: &Question, sent: &Sent, is_junk: impl Fn(&Shown) -> bool) {
        self.blocks += usize::from(sent.bytes > 0);
        self.items += sent.items.len();
        self.bytes += sent.bytes;
        self.most_bytes = self.most_bytes.max(sent.bytes);
        for item in &sent.items {
            let says: Vec<&str> = match topic_of(&question.text) {
                Some(topic) => values(&item.body, topic),
                None => planted_on(&question.text, item).into_iter().collect(),
            };
            self.junk += usize::from(is_junk(item));
            self.untrusted += usize::from(item.trust == "untrusted");
            let Some(last) = says.last() else { continue };
            self.fitting += 1;
            let is = |value: &str| last.eq_ignore_ascii_case(value);
            self.stale += usize::from(question.once.iter().any(|old| is(old)));
        }
    }
}

/// What the stores hold on one day.
#[derive(Debug, Default, Clone)]
pub struct Stores {
    /// Episodes.
    pub episodes: i64,
    /// Facts that hold.
    pub open: i64,
    /// Facts that were closed.
    pub closed: i64,
    /// Of the open: not trusted.
    pub untrusted: i64,
    /// Of the open: politeness.
    pub junk: i64,
    /// Of the open, trusted, about a topic: not what is so.
    pub outdated: i64,
    /// Of those in all: about a topic and trusted.
    pub about: i64,
    /// Open, trusted, about a topic, and saying what an older one says in other words.
    pub again: i64,
}

/// One exam day.
#[derive(Debug, Default, Clone)]
pub struct Exam {
    /// The day.
    pub day: usize,
    /// With memory.
    pub with: Answers,
    /// Without.
    pub without: Answers,
    /// What was recalled.
    pub recall: Recall,
    /// The stores on the evening before the exam.
    pub stores: Stores,
}

/// What must not happen, in words; a promise is kept when its list is empty.
#[derive(Debug, Default)]
pub struct Broken {
    /// Untrusted words outside a quotation.
    pub instructions: Vec<String>,
    /// Facts made or strengthened by questions.
    pub loops: Vec<String>,
    /// Rows that say the same under the same subject.
    pub duplicates: Vec<String>,
    /// Closed facts in a block.
    pub closed: Vec<String>,
}

/// The whole life.
#[derive(Debug, Default)]
pub struct Tally {
    /// Turns in all, exams included.
    pub turns: usize,
    /// Tasks beside the exams.
    pub tasks: usize,
    /// Pages read.
    pub pages: usize,
    /// Questions from which nothing may be learned.
    pub asked: usize,
    /// The exams.
    pub exams: Vec<Exam>,
    /// What must not happen.
    pub broken: Broken,
    /// Ids of closed facts that were ever looked for in blocks.
    pub closed_ids: HashSet<String>,
    /// Turns with a recalled block, exams included, and all memories in them.
    pub blocks: usize,
    /// All memories recalled.
    pub items: usize,
}

fn share(part: usize, of: usize) -> String {
    if of == 0 { "–".into() } else { format!("{:.1} %", 100.0 * part as f64 / of as f64) }
}

fn tokens(bytes: usize) -> usize {
    (bytes as f64 / BYTES_PER_TOKEN).ceil() as usize
}

impl Tally {
    /// The table.
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "{} tasks in 32 days and {} exam turns; {} pages read; {} blocks with {} memories sent.\n",
            self.tasks,
            self.turns - self.tasks,
            self.pages,
            self.blocks,
            self.items
        );
        let _ = writeln!(out, "| Promise | Broken | Of |\n|---|--:|--:|");
        let broken = &self.broken;
        for (name, count, of) in [
            (
                "Untrusted words rendered as instruction",
                broken.instructions.len(),
                format!("{} requests", self.turns),
            ),
            ("Recall loops", broken.loops.len(), format!("{} questions", self.asked)),
            ("Duplicates of one statement", broken.duplicates.len(), "all rows, daily".into()),
            (
                "Closed facts served as present",
                broken.closed.len(),
                format!("{} closed", self.closed_ids.len()),
            ),
        ] {
            let _ = writeln!(out, "| {name} | {count} | {of} |");
        }
        let head: String = self.exams.iter().map(|e| format!(" day {} |", e.day)).collect();
        let _ = writeln!(out, "\n| What |{head}\n|---|{}", "--:|".repeat(self.exams.len()));
        type Cell = fn(&Exam) -> String;
        let rows: [(&str, Cell); 20] = [
            ("Questions", |e| e.with.asked.to_string()),
            ("Right with memory", |e| share(e.with.right, e.with.asked)),
            ("Right without memory", |e| share(e.without.right, e.without.asked)),
            ("— of what was told: with", |e| {
                share(e.with.right + e.with.believed - e.with.untold, e.with.asked - e.with.untold)
            }),
            ("— of what was told: without", |e| {
                share(
                    e.without.right + e.without.believed - e.without.untold,
                    e.without.asked - e.without.untold,
                )
            }),
            ("Stale answers", |e| share(e.with.stale, e.with.asked)),
            ("Other wrong answers", |e| share(e.with.wrong, e.with.asked)),
            ("\"I do not know\", though told", |e| share(e.with.unknown, e.with.asked)),
            ("Gossip asserted as true", |e| share(e.with.believed, e.with.untold)),
            ("Recalled memories per question", |e| {
                format!("{:.1}", e.recall.items as f64 / e.with.asked as f64)
            }),
            ("Precision of what is recalled", |e| share(e.recall.fitting, e.recall.items)),
            ("Stale but served (of the fitting)", |e| share(e.recall.stale, e.recall.fitting)),
            ("Junk served", |e| share(e.recall.junk, e.recall.items)),
            ("Quoted (untrusted)", |e| share(e.recall.untrusted, e.recall.items)),
            ("Tokens of a block: mean", |e| tokens(e.recall.bytes / e.recall.blocks.max(1)).to_string()),
            ("Tokens of a block: most", |e| tokens(e.recall.most_bytes).to_string()),
            ("Stored: episodes / open facts / closed facts", |e| {
                format!("{} / {} / {}", e.stores.episodes, e.stores.open, e.stores.closed)
            }),
            ("Open facts: untrusted", |e| share(e.stores.untrusted as usize, e.stores.open as usize)),
            ("Open trusted facts: said again in other words", |e| {
                share(e.stores.again as usize, e.stores.about as usize)
            }),
            ("Open trusted facts: no longer so", |e| {
                share(e.stores.outdated as usize, e.stores.about as usize)
            }),
        ];
        for (name, cell) in rows {
            let cells: String = self.exams.iter().map(|e| format!(" {} |", cell(e))).collect();
            let _ = writeln!(out, "| {name} |{cells}");
        }
        let junk: Vec<String> =
            self.exams.iter().map(|e| format!("{} of {}", e.stores.junk, e.stores.open)).collect();
        let _ = writeln!(out, "| Open facts: junk | {} |", junk.join(" | "));
        out
    }
}
