//! One model call outside the loop: a prompt in, a text out, nothing streamed.
//!
//! A call that fails after the provider has told what it took is paid for all the same; whoever asks books it. An estimate
//! is not, because nobody knows whether it was.

use crate::core::Core;
use crate::turn::message::Spent;
use contract::conversation::{Block, Role, Usage};
use contract::event::Purpose;
use futures::StreamExt;
use llm::{CallError, ErrorKind, Piece, Request, SystemPart};
use serde_json::Value;
use std::time::Instant;

/// What the model is told beside the prompt: providers want a message of the user.
const GO: &str = "Carry out the instructions above and answer with the result only.";

/// The answer to one call.
#[derive(Debug)]
pub struct Answer {
    /// Its text.
    pub text: String,
    /// What it cost.
    pub spent: Spent,
}

/// A call that came to nothing.
#[derive(Debug)]
pub struct Failed {
    /// Why.
    pub error: CallError,
    /// What it cost, as far as the provider has told it.
    pub paid: Option<Spent>,
}

impl From<CallError> for Failed {
    fn from(error: CallError) -> Self {
        Self { error, paid: None }
    }
}

/// One call.
#[derive(Debug)]
pub struct Question {
    /// The model that is asked.
    pub model: String,
    /// Its system text.
    pub system: String,
    /// What it is told as the user.
    pub said: String,
    /// What its answer must validate against; the caller checks that it does.
    pub output_schema: Option<Value>,
    /// Its output limit.
    pub max_tokens: u32,
    /// What the call is for.
    pub purpose: Purpose,
}

/// Makes one call of a skill, with `system` as its system text.
pub async fn ask(core: &Core, model: &str, system: String, max_tokens: u32) -> Result<Answer, Failed> {
    let question = Question {
        model: model.to_owned(),
        system,
        said: GO.to_owned(),
        output_schema: None,
        max_tokens,
        purpose: Purpose::Skill,
    };
    put(core, question).await
}

/// Makes one call. Stops when the process is about to.
pub async fn put(core: &Core, question: Question) -> Result<Answer, Failed> {
    let Question { model, system, said, output_schema, max_tokens, purpose } = question;
    let request = Request {
        model: model.clone(),
        system: vec![SystemPart { text: system, cache_here: false }],
        tools: Vec::new(),
        no_calls: false,
        messages: vec![llm::Message { role: Role::User, content: vec![Block::text(said)] }],
        max_tokens,
        thinking: false,
        thinking_budget: 0,
        output_schema,
        stable_messages: 0,
        traceparent: None,
    };
    let started = Instant::now();
    let mut answer = Answer { text: String::new(), spent: nothing_yet(&model, purpose) };
    let result = pieces(core, request, &mut answer).await;
    answer.spent.took = started.elapsed();
    let outcome = if result.is_ok() { "ok" } else { "error" };
    let labels = [
        ("provider", core.config.llm_provider.as_str().to_owned()),
        ("model", answer.spent.model.clone()),
        ("purpose", purpose.as_str().to_owned()),
        ("outcome", outcome.to_owned()),
    ];
    metrics::counter!("engine_llm_calls_total", &labels).increment(1);
    match &result {
        Ok(()) => core.pulse.provider(false),
        Err(error) => core.pulse.provider(error.marks_provider_down()),
    }
    match result {
        Ok(()) => Ok(answer),
        Err(error) => {
            let is_told = !answer.spent.estimated && answer.spent.tokens != Usage::default();
            Err(Failed { error, paid: is_told.then_some(answer.spent) })
        }
    }
}

fn nothing_yet(model: &str, purpose: Purpose) -> Spent {
    Spent {
        tokens: Usage::default(),
        estimated: true,
        model: model.to_owned(),
        purpose,
        took: std::time::Duration::ZERO,
    }
}

async fn pieces(core: &Core, request: Request, answer: &mut Answer) -> Result<(), CallError> {
    let mut stream = core.herald.complete(request);
    loop {
        let piece = tokio::select! {
            biased;
            () = core.halt.cancelled() => {
                return Err(CallError::new(ErrorKind::Stream, "the process is about to stop"));
            }
            piece = stream.next() => piece,
        };
        match piece.transpose()? {
            None => return Err(CallError::new(ErrorKind::Stream, "the provider's stream ended early")),
            Some(Piece::Text(text)) => answer.text.push_str(&text),
            Some(Piece::Began { model }) => answer.spent.model = model,
            Some(Piece::Usage { usage, estimated }) => {
                (answer.spent.tokens, answer.spent.estimated) = (usage, estimated);
            }
            Some(Piece::Stop(_)) => return Ok(()),
            Some(Piece::BlockStart(_) | Piece::Thinking(_) | Piece::BlockEnd(_)) => {}
        }
    }
}
