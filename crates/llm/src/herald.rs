//! A model call with patience: retries, and at last the fallback model, as long as nothing was emitted.
//!
//! After the first piece nothing is ever repeated: what a person has read cannot be unsaid. Rate limits
//! are not waited out. The fallback is per call, one try, and not remembered.

use crate::provider::{CallError, ErrorKind, Piece, Provider, Request};
use crate::retry::back_off;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use std::sync::Arc;
use std::time::Duration;

/// A provider with retries and a fallback model.
#[derive(Clone)]
pub struct Herald {
    provider: Arc<dyn Provider>,
    max_retries: u32,
    fallback_model: Option<String>,
    wait: fn(u32) -> Duration,
}

type Pieces = BoxStream<'static, Result<Piece, CallError>>;

impl Herald {
    /// `max_retries` is LLM_MAX_RETRIES, `fallback_model` FALLBACK_MODEL.
    pub fn new(provider: Arc<dyn Provider>, max_retries: u32, fallback_model: Option<String>) -> Self {
        Self { provider, max_retries, fallback_model, wait: |retry| back_off(retry, rand::random()) }
    }

    /// Waits this long before retry number n (from 0) instead; for tests.
    pub fn with_waits(mut self, wait: fn(u32) -> Duration) -> Self {
        self.wait = wait;
        self
    }

    /// The word of LLM_PROVIDER.
    pub fn provider_name(&self) -> &'static str {
        self.provider.name()
    }

    /// Makes one call. The stream begins with [`Piece::Began`], which names the model that answers, as soon
    /// as that model has sent its first piece; it ends with [`Piece::Stop`] or with one error. When the
    /// fallback fails as well, the error is the first model's: that is the one to act on. Dropping the
    /// stream aborts the call.
    pub fn complete(&self, request: Request) -> Pieces {
        let herald = self.clone();
        stream::once(async move {
            match herald.begin(request).await {
                Ok((model, first, rest)) => {
                    stream::iter([Ok(Piece::Began { model }), Ok(first)]).chain(rest).boxed()
                }
                Err(error) => stream::iter([Err(error)]).boxed(),
            }
        })
        .flatten()
        .boxed()
    }

    /// Tries until a first piece is there.
    async fn begin(&self, request: Request) -> Result<(String, Piece, Pieces), CallError> {
        let mut retries = 0;
        let error = loop {
            match self.first_piece(request.clone()).await {
                Ok((first, rest)) => return Ok((request.model, first, rest)),
                Err(error) if error.is_retryable() && retries < self.max_retries => {
                    let wait = (self.wait)(retries);
                    retries += 1;
                    tracing::info!(
                        provider = self.provider.name(),
                        model = %request.model,
                        kind = ?error.kind,
                        status = error.status,
                        retry = retries,
                        wait_ms = wait.as_millis() as u64,
                        "Model call failed before its first piece; it is sent again"
                    );
                    tokio::time::sleep(wait).await;
                }
                Err(error) => break error,
            }
        };
        let Some(fallback) = self.fallback_model.as_ref().filter(|m| **m != request.model) else {
            return Err(error);
        };
        if !error.allows_fallback() {
            return Err(error);
        }
        tracing::info!(
            provider = self.provider.name(),
            model = %request.model,
            fallback = %fallback,
            kind = ?error.kind,
            status = error.status,
            "Model call failed; the fallback model is tried once"
        );
        match self.first_piece(Request { model: fallback.clone(), ..request }).await {
            Ok((first, rest)) => Ok((fallback.clone(), first, rest)),
            Err(second) => {
                tracing::info!(fallback = %fallback, kind = ?second.kind, status = second.status, "The fallback model failed too");
                Err(error)
            }
        }
    }

    async fn first_piece(&self, request: Request) -> Result<(Piece, Pieces), CallError> {
        let mut pieces = self.provider.complete(request);
        loop {
            match pieces.next().await {
                Some(Ok(Piece::Began { .. })) => {} // ours to say
                Some(Ok(first)) => return Ok((first, pieces)),
                Some(Err(error)) => return Err(error),
                None => return Err(CallError::new(ErrorKind::Stream, "the provider sent an empty answer")),
            }
        }
    }
}
