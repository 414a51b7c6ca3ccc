//! `september-engine chat`: talk to a running Engine from a terminal, or from a script.
//!
//! The client keeps nothing: conversations live in the Engine, and `chat --task <id>` picks one up where it
//! stands, with its unanswered questions and its running turn. It never starts an Engine and never opens
//! the brain. Without a terminal it reads lines from standard input and prints plain text.
//!
//! The invariant: leaving, in whatever way, never stops a turn; only cancelling does.

mod client;
mod command;
mod follow;
mod frames;
mod input;
mod opening;
mod question;
mod turn;
mod view;

use super::Exit;
use chassis::config::Source;
use chassis::terminal::{self, Paint};
use client::Client;
use command::Line;
use contract::engine_api::ExecuteRequest;
use contract::{RequestId, Timestamp};
use follow::Start;
use input::{Ask, Input, Typed};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use turn::Outcome;
use view::View;

/// How long connecting may take. Longer leaves a person waiting for a host that is not there; shorter
/// gives up on a slow network.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Conversations listed by /tasks. More would scroll the newest ones away.
const LISTED_TASKS: usize = 15;

/// Options of `chat`.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Address of the Engine [default: http://127.0.0.1:<ENGINE_PORT>]
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// Conversation to continue or to start [default: a new one]
    #[arg(long, value_name = "ID")]
    pub task: Option<String>,
    /// What to type to come back, up to the conversation's name: for scripts that start this program
    #[arg(long, value_name = "COMMAND", hide = true)]
    pub back_with: Option<String>,
}

impl Options {
    /// What a person types to come back to a conversation: the way they came, up to the name.
    fn way_back(&self, program: &str, env_file: Option<&Path>) -> String {
        if let Some(command) = &self.back_with {
            return command.clone();
        }
        let file = env_file.map(|file| format!(" --env-file {}", super::quoted(&file.to_string_lossy())));
        let url = self.url.as_ref().map(|url| format!(" --url {}", super::quoted(url)));
        format!("{program}{} chat{} --task ", file.unwrap_or_default(), url.unwrap_or_default())
    }
}

/// Talks until the person leaves or the script ends.
pub fn run(options: &Options, env_file: Option<&Path>, source: &dyn Source) -> Exit {
    let Some(key) = crate::config::plain_engine_key(source) else {
        eprintln!("{}", missing_key(source));
        return Exit::Configuration;
    };
    let base = options.url.clone().unwrap_or_else(|| super::default_url(source));
    let task = options.task.clone().unwrap_or_else(new_task);
    if let Err(error) = contract::TaskId::parse(&task) {
        eprintln!("--task: {error}");
        return Exit::Configuration;
    }
    let Some(http) = http_client(&base) else {
        eprintln!("--url: expected http://host[:port] or https://host[:port], got {base}");
        return Exit::Configuration;
    };
    let paint = Paint::stdout(source);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Exit::fail(&format!("could not start: {error}")),
    };
    runtime.block_on(async {
        let client = Client::new(http, &base, key.expose().to_owned());
        let signals = signal(SignalKind::interrupt()).and_then(|i| Ok((i, signal(SignalKind::quit())?)));
        let (input, (interrupts, quits)) = match (Input::start(), signals) {
            (Ok(input), Ok(signals)) => (input, signals),
            (Err(error), _) | (_, Err(error)) => {
                return Exit::fail(&format!("could not use the terminal: {error}"));
            }
        };
        let mut session = Session {
            client,
            input,
            interrupts,
            quits,
            view: View::new(paint),
            task,
            way_back: options.way_back(&super::called(), env_file),
            last_message: None,
            draft: String::new(),
            thinking: false,
            went_wrong: false,
            waiting: false,
        };
        session.talk().await
    })
}

/// A client for this address; `None` when it is not one. An Engine on this machine is reached directly,
/// whatever proxy the environment names, and without reading CA certificates.
fn http_client(base: &str) -> Option<reqwest::Client> {
    let url = url::Url::parse(base).ok().filter(|u| matches!(u.scheme(), "http" | "https"))?;
    let here = match url.host()? {
        url::Host::Domain(name) => name == "localhost",
        url::Host::Ipv4(ip) => ip.is_loopback(),
        url::Host::Ipv6(ip) => ip.is_loopback(),
    };
    if here && url.scheme() == "http" {
        llm::net::install_crypto();
        let direct = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_LIMIT);
        if let Ok(client) = direct.build() {
            return Some(client);
        }
    }
    Some(llm::net::client(CONNECT_LIMIT))
}

fn missing_key(source: &dyn Source) -> String {
    let hashed = match source.get("ENGINE_KEY_HASH") {
        Some(_) => {
            "\n  ENGINE_KEY_HASH is set, but a hash cannot be turned back: set ENGINE_API_KEY to the key itself."
        }
        None => "",
    };
    format!(
        "chat needs the key the Engine was started with: set ENGINE_API_KEY in the environment or in .env, or name a \
         file that has it with --env-file (never as an argument).{hashed}\n  \
         `make engine` keeps its key in .september/engine.env, and `make chat` uses it."
    )
}

/// A name for a new conversation that sorts by time and can be typed.
fn new_task() -> String {
    let now = Timestamp::now().to_string();
    let digits: String = now.chars().filter(char::is_ascii_digit).collect();
    format!("chat-{}-{}-{:03x}", &digits[..8], &digits[8..14], rand::random::<u16>() & 0xfff)
}

/// One person (or script) talking to one Engine.
struct Session {
    client: Client,
    input: Input,
    /// Ctrl-C outside of a prompt.
    interrupts: Signal,
    /// Ctrl-\.
    quits: Signal,
    view: View,
    task: String,
    /// What to type to come back, up to the task's name.
    way_back: String,
    /// The last user message of the task, for /retry and /edit.
    last_message: Option<(String, String)>,
    /// What to offer for editing at the next prompt.
    draft: String,
    thinking: bool,
    went_wrong: bool,
    /// A sign that something is under way stands on the current line.
    waiting: bool,
}

/// Go on, or leave with this.
enum Next {
    Prompt,
    Leave(Exit),
}

impl Session {
    async fn talk(&mut self) -> Exit {
        let version = match self.client.version().await {
            Ok(version) => version,
            Err(failure) => return Exit::fail(&failure.advice()),
        };
        if self.input.is_terminal() {
            let number = terminal::one_line(version["version"].as_str().unwrap_or("?"), 20);
            self.dim(&format!("september-engine {number} at {} · task {}", self.client.base(), self.task));
            self.dim("Type a message, /help for commands, Ctrl-D to leave.");
        } else {
            // A script's output is the conversation; with whom is told beside it.
            eprintln!("talking to the Engine at {}, task {}", self.client.base(), self.task);
        }
        if let Next::Leave(exit) = self.enter_task().await {
            return exit;
        }
        let mut interrupted = false;
        loop {
            match self.prompt().await {
                Typed::End => return self.leave(),
                Typed::Interrupted if interrupted => return self.leave(),
                Typed::Interrupted => {
                    interrupted = true;
                    self.dim("(Ctrl-C again, Ctrl-D or /quit leaves)");
                }
                Typed::Line(text) => {
                    interrupted = false;
                    if let Next::Leave(exit) = self.obey(Line::parse(&text)).await {
                        return exit;
                    }
                }
            }
        }
    }

    fn leave(&mut self) -> Exit {
        if self.input.is_terminal() {
            self.dim(&format!("back with: {}{}", self.way_back, super::quoted(&self.task)));
        }
        if self.went_wrong && !self.input.is_terminal() { Exit::Failure } else { Exit::Success }
    }

    async fn prompt(&mut self) -> Typed {
        if self.input.is_terminal() {
            self.print("\n");
        }
        let ask = Ask {
            prompt: "› ".into(),
            styled: self.view.paint().cyan("› "),
            initial: std::mem::take(&mut self.draft),
            message: true,
        };
        let answer = self.input.ask(ask);
        tokio::select! {
            typed = answer => typed.unwrap_or(Typed::End),
            _ = self.interrupts.recv(), if !self.input.is_terminal() => Typed::End,
        }
    }

    async fn obey(&mut self, line: Line) -> Next {
        match line {
            Line::Empty => {}
            Line::Message(text) => {
                return self.send(text.clone(), ExecuteRequest { message: text, ..self.request() }).await;
            }
            Line::Help => {
                let rows: Vec<Vec<String>> =
                    command::HELP.iter().map(|(c, what)| vec![(*c).to_owned(), (*what).to_owned()]).collect();
                let table = terminal::table(&rows, self.view.paint().columns);
                self.print(&table);
            }
            Line::Tasks => self.list_tasks().await,
            Line::Task(id) => return self.go_to(id).await,
            Line::New(id) => return self.go_to(id.unwrap_or_else(new_task)).await,
            Line::Retry => return self.again(None).await,
            Line::Edit(Some(text)) => return self.again(Some(text)).await,
            Line::Edit(None) => match self.last().await {
                Some((_, text)) => self.draft = format!("/edit {text}"),
                None => self.complain("there is no message to edit yet"),
            },
            Line::Cancel => match self.client.cancel(&self.task).await {
                Ok(status) => self.dim(&format!("({status})")),
                Err(failure) => self.complain(&failure.advice()),
            },
            Line::Pending => return self.show_pending().await,
            Line::Think => {
                self.thinking = !self.thinking;
                self.dim(if self.thinking { "(extended thinking on)" } else { "(extended thinking off)" });
            }
            Line::Quit => return Next::Leave(self.leave()),
            Line::Unknown(what) => self.complain(&what),
        }
        Next::Prompt
    }

    fn request(&self) -> ExecuteRequest {
        ExecuteRequest {
            task_id: self.task.clone(),
            super_thinking: self.thinking,
            ..ExecuteRequest::default()
        }
    }

    /// Runs the last message again, or another one in its place.
    async fn again(&mut self, instead: Option<String>) -> Next {
        let Some((id, text)) = self.last().await else {
            self.complain("there is no message yet");
            return Next::Prompt;
        };
        let (text, body) = match instead {
            Some(new) => {
                let body =
                    ExecuteRequest { message: new.clone(), edit_message_id: Some(id), ..self.request() };
                (new, body)
            }
            None => (text, ExecuteRequest { retry_message_id: Some(id), ..self.request() }),
        };
        self.send(text, body).await
    }

    /// The last user message: known from this session, or read from the Engine.
    async fn last(&mut self) -> Option<(String, String)> {
        if self.last_message.is_none() {
            match self.client.messages(&self.task).await {
                Ok(messages) => {
                    let last = messages.iter().rev().find(|m| m.role == "user");
                    self.last_message = last.map(|m| (m.message_id.clone(), m.text()));
                }
                Err(failure) => self.complain(&failure.advice()),
            }
        }
        self.last_message.clone()
    }

    /// Sends one message and follows its turn. When the task is busy or waits for an answer, that comes
    /// first, and then the message.
    async fn send(&mut self, text: String, body: ExecuteRequest) -> Next {
        let start =
            Start::Send { body: Box::new(body), idempotency_key: RequestId::generate().as_str().to_owned() };
        let mut outcome = self.turn(start.clone(), Some(&text)).await;
        if let Outcome::Occupied(turn_id) = outcome {
            let busy = Start::Join { task_id: self.task.clone(), turn_id };
            match self.turn(busy, None).await {
                Outcome::Done if self.input.is_terminal() => {
                    self.dim("(your message was not sent; Enter sends it now)");
                    self.draft = text;
                    return Next::Prompt;
                }
                Outcome::Done => outcome = self.turn(start, Some(&text)).await,
                other => outcome = other,
            }
        }
        if let Outcome::Failed(failure) = &outcome
            && failure.may_pass()
            && self.input.is_terminal()
        {
            self.draft = text;
        }
        self.after(outcome)
    }

    fn after(&mut self, outcome: Outcome) -> Next {
        match outcome {
            Outcome::Done => Next::Prompt,
            Outcome::Left { cancelled } => {
                self.dim(if cancelled {
                    "(left; the turn is being cancelled)"
                } else {
                    "(left; the turn goes on without you)"
                });
                Next::Leave(self.leave())
            }
            Outcome::Occupied(_) => {
                self.complain("the conversation is busy again; try once more");
                Next::Prompt
            }
            Outcome::NobodyToAsk => {
                self.complain(&format!(
                    "the question above waits for an answer: {}{}",
                    self.way_back,
                    super::quoted(&self.task)
                ));
                Next::Leave(Exit::Failure)
            }
            Outcome::Failed(failure) => {
                self.complain(&failure.advice());
                // A script cannot repair anything; a person can, and their message is kept for them.
                if self.input.is_terminal() { Next::Prompt } else { Next::Leave(Exit::Failure) }
            }
        }
    }

    async fn list_tasks(&mut self) {
        match self.client.tasks(LISTED_TASKS).await {
            Ok(tasks) if tasks.is_empty() => self.dim("(no conversations yet)"),
            Ok(tasks) => {
                let rows: Vec<Vec<String>> = tasks
                    .iter()
                    .map(|t| {
                        let here = if t.task_id == self.task { "›" } else { " " };
                        let when = t.updated_at.get(..16).unwrap_or_default().replace('T', " ");
                        let title = t.title.as_deref().unwrap_or_default();
                        vec![
                            format!("{here} {}", terminal::one_line(&t.task_id, 40)),
                            t.status.clone(),
                            match t.turn_count {
                                1 => "1 turn".to_owned(),
                                n => format!("{n} turns"),
                            },
                            when,
                            terminal::one_line(title, self.view.paint().columns),
                        ]
                    })
                    .collect();
                let table = terminal::table(&rows, self.view.paint().columns);
                self.print(&table);
            }
            Err(failure) => self.complain(&failure.advice()),
        }
    }

    fn dim(&mut self, text: &str) {
        let text = self.view.paint().dim(text);
        let line = self.view.line(&text);
        self.print(&line);
    }

    /// Something did not work: said on standard error, so that a script's output stays the conversation.
    fn complain(&mut self, text: &str) {
        self.went_wrong = true;
        self.clear_waiting();
        let lead = self.view.line("");
        if lead.len() > 1 {
            self.print("\n");
        }
        eprintln!("{}", self.view.paint().red(text));
    }

    fn print(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        self.clear_waiting();
        let mut out = std::io::stdout().lock();
        // When nobody reads any more, there is nobody to tell.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    /// Shows that something is under way, where nothing else stands on the line.
    fn show_waiting(&mut self) {
        if self.view.paint().colour && !self.waiting && !self.view.is_mid_line() {
            let sign = self.view.paint().dim("…");
            self.print(&sign);
            self.waiting = true;
        }
    }

    fn clear_waiting(&mut self) {
        if std::mem::take(&mut self.waiting) {
            let mut out = std::io::stdout().lock();
            let _ = out.write_all(b"\r\x1b[K").and_then(|()| out.flush());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_back_is_the_way_one_came() {
        let bare = Options { url: None, task: None, back_with: None };
        assert_eq!(bare.way_back("./september-engine", None), "./september-engine chat --task ");
        let there = Options { url: Some("http://127.0.0.1:8011".to_owned()), ..bare.clone() };
        assert_eq!(
            there.way_back("se", Some(Path::new("my files/engine.env"))),
            "se --env-file 'my files/engine.env' chat --url http://127.0.0.1:8011 --task "
        );
        let made = Options { back_with: Some("make chat TASK=".to_owned()), ..there };
        assert_eq!(made.way_back("se", None), "make chat TASK=");
    }
}
