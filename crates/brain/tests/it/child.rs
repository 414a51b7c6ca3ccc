//! A second process: this test binary, started again with a part to play.

use crate::house::{options_at, put};
use brain::Brain;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

const PART: &str = "BRAIN_TEST_PART";
const PATH: &str = "BRAIN_TEST_PATH";
/// Writers in the child that are in flight at once.
const WRITERS: usize = 8;

/// A running child and what it says.
pub struct Player {
    child: Child,
    says: BufReader<ChildStdout>,
}

impl Player {
    /// Starts a child that opens the brain, says `open`, and does nothing more.
    pub fn holds(path: &Path) -> Self {
        let mut player = Self::start("hold", path);
        player.wait_for("open");
        player
    }

    /// Starts a child that writes numbers for ever and says `acked N` after each returned write.
    pub fn writes(path: &Path) -> Self {
        let mut player = Self::start("write", path);
        player.wait_for("open");
        player
    }

    fn start(part: &str, path: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "child::plays_its_part", "--nocapture", "--test-threads=1"])
            .env(PART, part)
            .env(PATH, path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a second process");
        let says = BufReader::new(child.stdout.take().expect("its output"));
        Self { child, says }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line; `None` when the child is gone.
    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let bytes = self.says.read_line(&mut line).expect("its output");
        (bytes > 0).then(|| line.trim_end().to_owned())
    }

    fn wait_for(&mut self, word: &str) {
        while let Some(line) = self.line() {
            if line.ends_with(word) {
                return;
            }
        }
        panic!("the child ended without saying {word}");
    }

    /// kill -9, and everything it had said before.
    pub fn killed(mut self) -> Vec<String> {
        self.child.kill().expect("kill");
        let mut rest = String::new();
        self.says.read_to_string(&mut rest).expect("its last words");
        self.child.wait().expect("wait");
        let whole = rest.rfind('\n').map_or("", |end| &rest[..end]);
        whole.lines().map(str::to_owned).collect()
    }

    /// Lets it close the brain and end.
    pub fn released(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().expect("wait").success(), "the child ended badly");
    }
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{text}\n").as_bytes()).and_then(|()| out.flush()).expect("stdout");
}

/// Not a claim: the part a child plays. In an ordinary run there is no part and nothing to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::disallowed_methods, reason = "a test's word to its own child, not configuration")]
async fn plays_its_part() {
    let (Ok(part), Ok(path)) = (std::env::var(PART), std::env::var(PATH)) else { return };
    let brain = Brain::open(options_at(PathBuf::from(path))).expect("the child opens the brain");
    say("open");
    if part == "hold" {
        let mut nothing = String::new();
        std::io::stdin().read_to_string(&mut nothing).expect("stdin");
        brain.close();
        return;
    }
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let brain = brain.clone();
        writers.spawn(async move {
            for n in 0.. {
                let key = format!("{writer}.{n}");
                put(&brain, &key, "written").await.expect("a write");
                say(&format!("acked {key}"));
            }
        });
    }
    writers.join_all().await;
}
