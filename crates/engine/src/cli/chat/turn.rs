//! One turn on the screen: frames, questions and Ctrl-C at once, until the last frame.

use super::Session;
use super::client::Failure;
use super::follow::{self, Start, Step};
use super::frames::Frame;
use super::input::{Ask, Typed};
use super::question::{Answer, Question};
use chassis::terminal;
use contract::ErrorCode;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How long after a question the stream must be quiet before it is asked. In a replay the frame that
/// settles it follows at once; shorter would ask what has been answered, longer is felt as a delay.
const SETTLE: Duration = Duration::from_millis(60);

/// How long an answer is tried to be delivered to an Engine that is away, and the wait between attempts.
/// Giving up earlier would lose what a person has decided during a restart.
const DELIVERY: (Duration, Duration) = (Duration::from_secs(60), Duration::from_millis(500));

/// How following a turn ended.
#[derive(Debug)]
pub enum Outcome {
    /// Its last frame is on the screen.
    Done,
    /// The person left before its end.
    Left {
        /// It is being cancelled; otherwise it goes on.
        cancelled: bool,
    },
    /// Another turn of the task is under way or waits for a person; its name, if known.
    Occupied(Option<String>),
    /// A question waits and standard input is at its end.
    NobodyToAsk,
    /// It could not be followed.
    Failed(Failure),
}

/// The question on the screen.
struct Asking {
    question: Question,
    /// Settled elsewhere: whatever is typed does not count.
    settled: bool,
    answer: oneshot::Receiver<Typed>,
}

/// What the loop waits for.
enum Event {
    Step(Option<Step>),
    Typed(Typed),
    Interrupt,
    Quit,
    Quiet,
}

impl Session {
    /// Follows a turn to its end. `text` is the message that was sent, for /edit.
    pub(super) async fn turn(&mut self, start: Start, text: Option<&str>) -> Outcome {
        self.view.begin(Instant::now());
        let mut steps = follow::follow(self.client.clone(), start);
        let mut questions: VecDeque<Question> = VecDeque::new();
        let mut asking: Option<Asking> = None;
        // What came while a question is on the screen; shown after it.
        let mut held: VecDeque<Step> = VecDeque::new();
        let mut interrupts = 0;
        let mut ended = false;
        self.show_waiting();
        loop {
            if asking.is_none()
                && let Some(step) = held.pop_front()
            {
                if let Some(outcome) = self.step(step, text, &mut questions) {
                    return outcome;
                }
                continue;
            }
            if asking.is_none() && ended {
                return Outcome::Done;
            }
            let event = tokio::select! {
                step = steps.recv(), if !ended => Event::Step(step),
                typed = answered(&mut asking) => Event::Typed(typed),
                _ = self.interrupts.recv() => Event::Interrupt,
                _ = self.quits.recv() => Event::Quit,
                () = tokio::time::sleep(SETTLE), if asking.is_none() && !questions.is_empty() => Event::Quiet,
            };
            match event {
                Event::Step(Some(step)) => {
                    self.notice_settled(&step, &mut questions, asking.as_mut());
                    held.push_back(step);
                }
                // Nothing more will come, but the person may still have a line to finish.
                Event::Step(None) => ended = true,
                Event::Quit => return Outcome::Left { cancelled: interrupts > 0 },
                Event::Quiet => {
                    if let Some(question) = questions.pop_front() {
                        asking = Some(self.ask(question));
                    }
                }
                Event::Typed(Typed::End) if !self.input.is_terminal() => return Outcome::NobodyToAsk,
                Event::Typed(Typed::Line(line)) => {
                    if let Some(current) = asking.take() {
                        asking = self.answer(current, &line).await;
                    }
                }
                // Ctrl-D at a question: the question stays, the person goes.
                Event::Typed(Typed::End) => return Outcome::Left { cancelled: interrupts > 0 },
                Event::Typed(Typed::Interrupted) | Event::Interrupt => {
                    if asking.is_none() && self.input.is_terminal() && !self.waiting {
                        self.view.echoed();
                    }
                    interrupts += 1;
                    if interrupts > 1 {
                        return Outcome::Left { cancelled: true };
                    }
                    asking = asking.filter(|_| !self.input.is_terminal());
                    self.cancel().await;
                }
            }
        }
    }

    /// Shows one step; an outcome when it was the last.
    fn step(
        &mut self,
        step: Step,
        text: Option<&str>,
        questions: &mut VecDeque<Question>,
    ) -> Option<Outcome> {
        match step {
            Step::Frame(frame) => {
                self.frame(&frame, text, questions);
                return frame.is_final().then_some(Outcome::Done);
            }
            Step::Reconnecting(why) => self.dim(&format!("(reconnecting… {})", terminal::one_line(&why, 60))),
            Step::Reconnected => self.dim("(connected again)"),
            Step::Expired => {
                self.dim(
                    "(the turn is over, but its last events are no longer stored; /task shows the answer)",
                );
                return Some(Outcome::Done);
            }
            Step::Failed(failure) => return Some(self.refused(failure)),
        }
        None
    }

    fn frame(&mut self, frame: &Frame, text: Option<&str>, questions: &mut VecDeque<Question>) {
        if frame.name == "thread_lifecycle" && frame.text("phase") == "started" {
            let id = frame.text("user_message_id").to_owned();
            self.last_message = text.map(|text| (id, text.to_owned()));
        }
        if frame.name == "thread_lifecycle" && frame.text("phase") == "errored" {
            self.went_wrong = true;
        }
        if frame.name == "hitl_request" {
            questions.push_back(Question::read(&frame.data));
            return;
        }
        let shown = self.view.show(frame, Instant::now());
        self.print(&shown);
        if !frame.is_final() {
            self.show_waiting();
        }
    }

    /// A question that was settled elsewhere is not asked, or no longer counts.
    fn notice_settled(
        &mut self,
        step: &Step,
        questions: &mut VecDeque<Question>,
        asking: Option<&mut Asking>,
    ) {
        let Step::Frame(frame) = step else { return };
        if frame.name != "hitl_resolved" {
            return;
        }
        let id = frame.text("request_id");
        questions.retain(|q| q.request_id != id);
        if let Some(current) = asking
            && current.question.request_id == id
            && !current.settled
        {
            current.settled = true;
            self.input.say("(settled elsewhere; press Enter)");
        }
    }

    fn ask(&mut self, question: Question) -> Asking {
        for line in question.lines(self.view.paint()) {
            let line = self.view.line(&line);
            self.print(&line);
        }
        let answer = self.input.ask(self.prompt_for(&question.prompt()));
        Asking { question, settled: false, answer }
    }

    fn prompt_for(&self, prompt: &str) -> Ask {
        Ask { prompt: prompt.to_owned(), styled: self.view.paint().yellow(prompt), ..Ask::default() }
    }

    /// Takes one typed line; the question stays on the screen until it is answered.
    async fn answer(&mut self, mut asking: Asking, line: &str) -> Option<Asking> {
        if asking.settled {
            return None;
        }
        let prompt = match asking.question.understand(line) {
            Answer::Send { answer, feedback } => {
                self.deliver(&asking.question.request_id, &answer, feedback.as_deref()).await;
                self.show_waiting();
                return None;
            }
            Answer::Unclear(help) => {
                self.dim(&format!("  {help}"));
                asking.question.prompt()
            }
        };
        asking.answer = self.input.ask(self.prompt_for(&prompt));
        Some(asking)
    }

    /// Brings an answer to the Engine, also to one that is being restarted.
    async fn deliver(&mut self, request: &str, answer: &str, feedback: Option<&str>) {
        let since = Instant::now();
        loop {
            match self.client.respond(request, answer, feedback).await {
                Ok(()) => return,
                Err(failure) if failure.may_pass() && since.elapsed() < DELIVERY.0 => {
                    tokio::select! {
                        () = tokio::time::sleep(DELIVERY.1) => {}
                        _ = self.interrupts.recv() => return,
                    }
                }
                Err(failure) if failure.code() == Some(ErrorCode::Conflict) => {
                    return self.dim("(it was settled already)");
                }
                Err(failure) => return self.complain(&failure.advice()),
            }
        }
    }

    async fn cancel(&mut self) {
        self.dim("(cancelling; Ctrl-C again leaves)");
        if let Err(failure) = self.client.cancel(&self.task).await {
            self.complain(&failure.advice());
        }
    }

    /// A refusal of the turn: some mean that another turn comes first.
    fn refused(&mut self, failure: Failure) -> Outcome {
        let Failure::Refused(error) = &failure else { return Outcome::Failed(failure) };
        let details = error.details.as_ref();
        let turn = |at: &str| details.and_then(|d| d.pointer(at)?.as_str().map(str::to_owned));
        match error.error {
            ErrorCode::TaskBusy => {
                self.dim("(a turn of this conversation is under way; this is it)");
                Outcome::Occupied(turn("/turn_id"))
            }
            ErrorCode::HitlRequired => {
                self.dim("(this conversation waits for an answer first)");
                Outcome::Occupied(turn("/pending/0/turn_id"))
            }
            _ => Outcome::Failed(failure),
        }
    }
}

/// The next line for the question on the screen; never, when there is none.
async fn answered(asking: &mut Option<Asking>) -> Typed {
    match asking {
        Some(asking) => (&mut asking.answer).await.unwrap_or(Typed::End),
        None => std::future::pending().await,
    }
}
