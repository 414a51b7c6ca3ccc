//! What the person types: an edited line on a terminal, plain lines from a pipe.
//!
//! Reading blocks, so it lives on a thread of its own that is asked for one line at a time; the session
//! keeps waiting for frames and Ctrl-C meanwhile. The thread is never joined: a program that leaves must
//! not wait for another line.

use rustyline::error::ReadlineError;
use rustyline::history::MemHistory;
use rustyline::{Config, Editor, ExternalPrinter};
use std::io::{BufRead as _, IsTerminal as _, Read as _};
use std::sync::mpsc;
use tokio::sync::oneshot;

/// Lines kept for the arrow keys. More would only cost memory; the history is not written to disk,
/// because it holds what was said.
const HISTORY_LINES: usize = 500;

/// Longest joined message. Longer would be refused by the Engine's body limit anyway; the limit keeps an
/// endless pipe from filling the memory.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// Prompt of the second and further lines of a message.
const CONTINUATION: (&str, &str) = ("… ", "… ");

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Typed {
    /// A line, continuation lines joined.
    Line(String),
    /// Ctrl-C at the prompt.
    Interrupted,
    /// Ctrl-D, or the end of the pipe.
    End,
}

/// A question to the person.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    /// Shown before the cursor, without colour.
    pub prompt: String,
    /// The same with colour.
    pub styled: String,
    /// Already on the line, to be edited.
    pub initial: String,
    /// A trailing backslash continues on the next line, and the line goes into the history.
    pub message: bool,
}

/// The typing side of the terminal.
pub struct Input {
    asks: mpsc::Sender<(Ask, oneshot::Sender<Typed>)>,
    printer: Option<Box<dyn ExternalPrinter + Send>>,
    terminal: bool,
}

impl Input {
    /// Starts the reading thread: with line editing when a person sits at both ends.
    pub fn start() -> std::io::Result<Self> {
        let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        let (asks, questions) = mpsc::channel();
        let mut printer: Option<Box<dyn ExternalPrinter + Send>> = None;
        let mut lines: Box<dyn Lines + Send> = Box::new(Piped);
        if terminal {
            let mut editor = editor().map_err(std::io::Error::other)?;
            if let Ok(made) = editor.create_external_printer() {
                printer = Some(Box::new(made));
            }
            lines = Box::new(editor);
        }
        std::thread::Builder::new().name("input".into()).spawn(move || serve(&questions, lines.as_mut()))?;
        Ok(Self { asks, printer, terminal })
    }

    /// A person sits at the terminal.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Asks for one line. Dropping the receiver does not unask: the next line still goes to this question.
    pub fn ask(&self, ask: Ask) -> oneshot::Receiver<Typed> {
        let (reply, answer) = oneshot::channel();
        // The thread only ends with the program; then nobody waits for the answer.
        let _ = self.asks.send((ask, reply));
        answer
    }

    /// Says something while a question is on the screen, without tearing the line being typed.
    pub fn say(&mut self, text: &str) {
        match &mut self.printer {
            // A terminal that went away is noticed by the next read.
            Some(printer) => drop(printer.print(format!("{text}\n"))),
            None => drop(super::super::emit(&format!("{text}\n"))),
        }
    }
}

/// Where lines come from.
trait Lines {
    /// One line, without its end.
    fn line(&mut self, prompt: (&str, &str), initial: &str) -> Typed;
    /// Puts a message where the arrow keys find it.
    fn remember(&mut self, message: &str);
}

impl Lines for Editor<(), MemHistory> {
    fn line(&mut self, prompt: (&str, &str), initial: &str) -> Typed {
        match self.readline_with_initial(&prompt, (initial, "")) {
            Ok(line) => Typed::Line(line),
            Err(ReadlineError::Interrupted) => Typed::Interrupted,
            Err(_) => Typed::End,
        }
    }

    fn remember(&mut self, message: &str) {
        // A history that cannot take a line is no reason to stop talking.
        let _ = self.add_history_entry(message);
    }
}

/// Standard input as lines, without prompts.
struct Piped;

impl Lines for Piped {
    fn line(&mut self, _prompt: (&str, &str), _initial: &str) -> Typed {
        let mut line = Vec::new();
        let mut limited = std::io::stdin().lock().take(MAX_MESSAGE_BYTES as u64);
        match limited.read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => Typed::End,
            Ok(_) => {
                let text = String::from_utf8_lossy(&line);
                let text = text.strip_suffix('\n').unwrap_or(&text);
                Typed::Line(text.strip_suffix('\r').unwrap_or(text).to_owned())
            }
        }
    }

    fn remember(&mut self, _message: &str) {}
}

fn editor() -> rustyline::Result<Editor<(), MemHistory>> {
    let config = Config::builder().max_history_size(HISTORY_LINES)?.auto_add_history(false).build();
    let history = MemHistory::with_config(&config);
    Editor::with_history(config, history)
}

/// Answers questions until nobody can ask any more.
fn serve(questions: &mpsc::Receiver<(Ask, oneshot::Sender<Typed>)>, lines: &mut dyn Lines) {
    while let Ok((ask, reply)) = questions.recv() {
        // The session may have ended meanwhile.
        let _ = reply.send(one(&ask, lines));
    }
}

/// One answer: a line, or a message over several lines.
fn one(ask: &Ask, lines: &mut dyn Lines) -> Typed {
    let mut message = String::new();
    let mut prompt = (ask.prompt.as_str(), ask.styled.as_str());
    let mut initial = ask.initial.as_str();
    loop {
        let line = match lines.line(prompt, initial) {
            Typed::Line(line) => line,
            Typed::End if !message.is_empty() => String::new(),
            other => return other,
        };
        if ask.message
            && message.len() + line.len() < MAX_MESSAGE_BYTES
            && let Some(part) = line.strip_suffix('\\')
        {
            message.push_str(part);
            message.push('\n');
            (prompt, initial) = (CONTINUATION, "");
            continue;
        }
        message.push_str(&line);
        if ask.message && !message.trim().is_empty() {
            lines.remember(&message);
        }
        return Typed::Line(message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Script(Vec<Typed>, Vec<String>);

    impl Lines for Script {
        fn line(&mut self, _prompt: (&str, &str), _initial: &str) -> Typed {
            if self.0.is_empty() { Typed::End } else { self.0.remove(0) }
        }
        fn remember(&mut self, message: &str) {
            self.1.push(message.to_owned());
        }
    }

    fn line(text: &str) -> Typed {
        Typed::Line(text.to_owned())
    }

    #[test]
    fn a_trailing_backslash_continues_a_message_but_not_an_answer() {
        let mut script = Script(vec![line("a\\"), line("b"), line("c\\")], Vec::new());
        let message = Ask { message: true, ..Ask::default() };
        assert_eq!(one(&message, &mut script), line("a\nb"));
        assert_eq!(one(&Ask::default(), &mut script), line("c\\"));
        assert_eq!(one(&message, &mut script), Typed::End);
        assert_eq!(script.1, ["a\nb"]);
    }
}
