//! The built-in embedder: the mean of a text's word pieces. In-process, deterministic, without network.
//!
//! It knows words, not sentences: order and negation are lost, and other languages than English are poorly known. The
//! same text gives the same bits on every machine, because every sum is taken in one fixed order.

use super::pieces::each_piece;
use super::table::{BUILTIN, DIMS};
use super::{Embedder, EmbeddingProvider, MAX_TEXT_TOKENS, beginning, to_unit_length};
use crate::provider::CallError;
use futures::future::BoxFuture;

/// The one value of EMBEDDING_MODEL.
pub const MODEL: &str = "builtin";

/// Bytes of text after which other tasks get their turn. More would hold up an answer that is being streamed by
/// milliseconds; less would switch tasks for nothing.
const BYTES_PER_TURN: usize = 16 * 1024;

/// The built-in table as an [`Embedder`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Local;

/// The vector of a text; all zeros when it holds no known piece.
pub fn vector(text: &str) -> Vec<f32> {
    let mut sum = vec![0.0_f32; DIMS];
    each_piece(&BUILTIN, beginning(text, MAX_TEXT_TOKENS), |place| {
        let row = BUILTIN.row(place);
        for (sum, step) in sum.iter_mut().zip(row.steps) {
            *sum += row.scale * f32::from(step.cast_signed());
        }
    });
    // The mean points where the sum points.
    to_unit_length(&mut sum);
    sum
}

impl Embedder for Local {
    fn provider(&self) -> EmbeddingProvider {
        EmbeddingProvider::Local
    }

    fn model(&self) -> &str {
        MODEL
    }

    fn dim(&self) -> usize {
        DIMS
    }

    fn space(&self) -> String {
        format!("local:{MODEL}-{}:{DIMS}", BUILTIN.edition())
    }

    fn at_once(&self, text: &str) -> Option<Vec<f32>> {
        Some(vector(text))
    }

    fn embed<'a>(&'a self, texts: &'a [String]) -> BoxFuture<'a, Result<Vec<Vec<f32>>, CallError>> {
        Box::pin(async move {
            let mut vectors = Vec::with_capacity(texts.len());
            let mut since_turn = 0;
            for text in texts {
                vectors.push(vector(text));
                since_turn += text.len();
                if since_turn >= BYTES_PER_TURN {
                    since_turn = 0;
                    tokio::task::yield_now().await;
                }
            }
            Ok(vectors)
        })
    }
}
