//! Texts made to hurt: nothing panics, overflows the stack or runs long.

use crate::mutations::corpus::Dice;
use crate::world::world;
use permissions::{Verdict, normalised};
use proptest::prelude::*;
use std::time::{Duration, Instant};

/// What one verdict may take on a slow machine in a debug build. Honest commands take a thousandth of it.
const PATIENCE: Duration = Duration::from_secs(10);
/// The stack a worker thread of tokio has.
const STACK_BYTES: usize = 2 * 1024 * 1024;

#[test]
fn deep_and_long_texts_end_soon_on_the_stack_of_a_worker() {
    let shapes: [(&str, &str, &str); 22] = [
        ("(", "a", ")"),
        ("( ", "a", " )"),
        ("$(", "a", ")"),
        ("echo $(", "a", ")"),
        ("echo \"$(", "a", ")\""),
        ("{ ", "a;", " };"),
        ("if a; then ", "b;", " fi;"),
        ("while a; do ", "b;", " done;"),
        ("for i in a; do ", "b;", " done;"),
        ("case a in b) ", "c", " ;; esac"),
        ("f() { ", "c;", " }"),
        ("f() { f; }; ", "f", ""),
        ("echo ${a:-", "x", "}"),
        ("echo $((", "1", "))"),
        ("((", "1", "))"),
        ("{a,", "x", "}"),
        ("bash -c \"", "a", "\""),
        ("`", "a", "`"),
        ("eval ", "a", ""),
        ("x=$x$x; ", "echo $x", ""),
        ("[[ ( ", "a", " ) ]]"),
        ("cat <<E\n", "a", "\nE\n"),
    ];
    let worker = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
        let w = world();
        for (open, middle, close) in shapes {
            for count in [8, 9, 10, 11, 30, 300, 3000] {
                for text in [
                    format!("{}{middle}{}", open.repeat(count), close.repeat(count)),
                    open.repeat(count),
                    format!("{}{middle}{} ;;", open.repeat(count), close.repeat(count)),
                ] {
                    let begun = Instant::now();
                    w.bash(&text);
                    let took = begun.elapsed();
                    assert!(took < PATIENCE, "{count} times {open:?}: {took:?}");
                }
            }
        }
        for text in [
            "a; ".repeat(30_000),
            "*".repeat(90_000),
            "a".repeat(100_000),
            "ls | ".repeat(20_000),
            "\\\n".repeat(40_000),
        ] {
            let begun = Instant::now();
            w.bash(&text);
            assert!(begun.elapsed() < PATIENCE, "{:?}", &text[..10]);
        }
    });
    worker.expect("a thread").join().expect("nothing panics");
}

#[test]
fn what_is_too_much_is_asked_about() {
    let w = world();
    for text in [
        "ls; ".repeat(25_000),
        "f() { f; f; }; f".to_owned(),
        "x=aaaaaaaaaaaaaaaa; ".to_owned() + &"x=$x$x; ".repeat(40) + "rm -rf \"$x\"",
        "( ".repeat(20) + "ls" + &" )".repeat(20),
        "echo a\u{10ffff}b".to_owned(),
        "echo 99999999999999999999>x".to_owned(),
    ] {
        assert!(
            matches!(w.bash(&text), Verdict::Prompt(_)),
            "{:?}",
            text.chars().take(40).collect::<String>()
        );
    }
}

#[test]
fn twenty_thousand_mutations_of_the_corpus_do_no_harm() {
    let w = world();
    let seeds: Vec<Vec<char>> = include_str!("corpus.txt")
        .lines()
        .filter_map(|l| l.split_once(" | "))
        .map(|(_, command)| command.replace('⏎', "\n").chars().collect())
        .collect();
    let spice: Vec<char> = "'\"`$(){}[]<>|&;#\\*?~!=\n \t-/.0a\u{e000}\u{10ffff}é".chars().collect();
    let mut dice = Dice(0x5eed_cafe);
    let begun = Instant::now();
    for _ in 0..20_000 {
        let mut text = seeds[dice.roll(seeds.len())].clone();
        for _ in 0..=dice.roll(4) {
            let at = dice.roll(text.len() + 1);
            match dice.roll(4) {
                0 => text.insert(at, spice[dice.roll(spice.len())]),
                1 if at < text.len() => {
                    text.remove(at);
                }
                2 => {
                    let other = &seeds[dice.roll(seeds.len())];
                    let from = dice.roll(other.len());
                    let until = (from + dice.roll(12)).min(other.len());
                    let piece: Vec<char> = other[from..until].to_vec();
                    text.splice(at..at, piece);
                }
                _ => {
                    let piece: Vec<char> = text[at..(at + dice.roll(8)).min(text.len())].to_vec();
                    text.extend(piece);
                }
            }
        }
        let text: String = text.into_iter().collect();
        w.bash(&text);
        let normal = normalised(&text);
        assert_eq!(normalised(&normal), normal, "{text:?}");
    }
    println!("20000 mutations in {:?}", begun.elapsed());
}

proptest! {
    #[test]
    fn no_text_breaks_the_analyser(text in "\\PC{0,80}", quoted in "[ -~\n]{0,60}") {
        let w = world();
        w.bash(&text);
        w.bash(&quoted);
        w.bash(&format!("rm -rf {quoted}"));
    }
}
