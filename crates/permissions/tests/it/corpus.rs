//! Commands with the verdict and the reasons they must get; `corpus.txt` is meant to be read.

use crate::world::{World, world};
use permissions::rules::reason;
use permissions::{Verdict, rules};
use std::collections::BTreeMap;

const CORPUS: &str = include_str!("corpus.txt");

/// The short names of reasons in the corpus.
const REASONS: [(&str, &str); 11] = [
    ("protected", reason::PROTECTED),
    ("catalog", reason::READ_ONLY),
    ("destructive", reason::DESTRUCTIVE),
    ("outside", reason::WRITES_OUTSIDE),
    ("removes-outside", reason::DESTRUCTIVE_OUTSIDE),
    ("unknown-target", reason::DESTRUCTIVE_UNKNOWN),
    ("opaque", reason::DESTRUCTIVE_OPAQUE),
    ("too-much", reason::TOO_MUCH),
    ("empties", reason::TRUNCATES),
    ("git", reason::GIT),
    ("host", reason::HOST),
];

struct Line {
    number: usize,
    expected: String,
    command: String,
}

fn lines() -> Vec<Line> {
    let mut out = Vec::new();
    for (index, line) in CORPUS.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with("# ") {
            continue;
        }
        let (expected, command) =
            line.split_once(" | ").unwrap_or_else(|| panic!("line {}: no ` | `", index + 1));
        out.push(Line {
            number: index + 1,
            expected: expected.trim().to_owned(),
            command: command.replace('⏎', "\n"),
        });
    }
    out
}

fn short(reason: &str) -> String {
    let mut names: Vec<&str> = reason
        .split("; ")
        .map(|part| REASONS.iter().find(|(_, full)| *full == part).map_or(part, |(name, _)| name))
        .collect();
    names.sort_unstable();
    names.join("+")
}

fn told(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Allow { .. } => "allow".into(),
        Verdict::Deny { reason } => format!("deny {}", short(reason)),
        Verdict::Prompt(prompt) => format!("ask {}", short(&prompt.reason)),
    }
}

fn verdict(world: &World, command: &str) -> String {
    told(&world.bash(command))
}

#[test]
fn every_command_of_the_corpus_gets_its_verdict() {
    let world = world();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for line in lines() {
        let got = verdict(&world, &line.command);
        let kind = got.split(' ').next().unwrap_or("").to_owned();
        *counts.entry(kind).or_default() += 1;
        if got != line.expected {
            wrong.push(format!(
                "line {}: {:?}: expected {:?}, got {:?}",
                line.number, line.command, line.expected, got
            ));
        }
    }
    println!("{} commands: {counts:?}", lines().len());
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), lines().len(), wrong.join("\n"));
    assert!(lines().len() >= 300, "the corpus has shrunk to {}", lines().len());
}

#[test]
fn no_command_stands_twice_in_the_corpus() {
    let mut seen = std::collections::HashSet::new();
    for line in lines() {
        assert!(seen.insert(line.command.clone()), "line {}: {}", line.number, line.command);
    }
}

#[test]
fn the_verdict_does_not_depend_on_blanks_and_its_rule_is_stable() {
    let world = world();
    for line in lines() {
        let wide = format!("  {}  ", line.command);
        assert_eq!(verdict(&world, &wide), verdict(&world, &line.command), "{}", line.command);
        if let Verdict::Prompt(prompt) = world.bash(&line.command) {
            let normal = prompt.rule.strip_prefix("bash:").expect("a bash rule");
            let again = rules::bash(normal, None, &world.facts());
            assert_eq!(told(&again), line.expected, "the normal form of {}", line.command);
        }
    }
}
