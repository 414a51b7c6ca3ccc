//! A call the provider refuses because of a picture or a document in it: what is to blame is left out, and the call is
//! made once more. (MEDIA_ERROR_RECOVERY_ENABLED)
//!
//! To blame are media of the kind the provider names: those that no call has been made with yet, and when there are
//! none, all. The model is told where each stood. The invariant: what is left out stays out of this task's calls, so
//! that one bad picture does not cost every later turn a refused call; what is stored keeps it.

use super::Run;
use crate::turn::compact::Cuts;
use crate::turn::context::History;
use crate::turn::frame::Seat;
use crate::turn::machine::Happening;
use brain::compactions;
use contract::Timestamp;
use contract::conversation::{Block, Role};
use llm::{CallError, ErrorKind};

/// Words by which providers name a kind of block.
const KINDS: [(&str, &[&str]); 4] = [
    ("image", &["image", "images", "picture", "photo"]),
    ("document", &["document", "documents", "pdf"]),
    ("audio", &["audio"]),
    ("video", &["video"]),
];

impl Run<'_> {
    /// Leaves out what a refused call names, so that it can be made again; `false` when that would not help.
    pub(super) async fn leave_media_out(
        &mut self,
        history: &History,
        error: &CallError,
        streamed: bool,
    ) -> brain::Result<bool> {
        let Seat { core, turn, frame, .. } = self.seat;
        let may = core.config.media_error_recovery_enabled && !streamed && !self.checkpoint.media_refused;
        if !may || !is_of_the_request(error) {
            return Ok(false);
        }
        let Some((left_out, up_to)) = to_blame(history, &kinds_named(&error.message)) else {
            return Ok(false);
        };
        tracing::info!(task_id = %turn.task_id, blocks = left_out.len(), "The provider refused media; the call is made once more without them");
        let (main, turn) = (frame.is_main(), turn.clone());
        self.advance(Happening::CallAgain, move |tx, _, checkpoint| {
            checkpoint.media_refused = true;
            if main {
                let detail = left_out.to_detail();
                compactions::shrink(tx, &turn.task_id, &turn.turn_id, up_to, detail, 0, 0, Timestamp::now())?;
            } else {
                checkpoint.cuts.extend(&left_out);
            }
            Ok(())
        })
        .await?;
        Ok(true)
    }
}

fn is_of_the_request(error: &CallError) -> bool {
    error.kind == ErrorKind::BadRequest && error.status == Some(400)
}

/// The kinds of blocks a provider's words name.
fn kinds_named(message: &str) -> Vec<&'static str> {
    let message = message.to_ascii_lowercase();
    let words: Vec<&str> = message.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    let named = KINDS.iter().filter(|(_, names)| names.iter().any(|name| words.contains(name)));
    named.map(|(kind, _)| *kind).collect()
}

/// The media of these kinds that are to be left out, and the position of the last message that holds one.
fn to_blame(history: &History, kinds: &[&str]) -> Option<(Cuts, i64)> {
    let answered = history.messages.iter().rev().find(|m| m.role == Role::Assistant).map(|m| m.position);
    let since = |after: i64| {
        let mut found = Cuts::default();
        let mut up_to = after;
        for message in history.messages.iter().filter(|m| m.position > after) {
            for block in &message.content {
                if look(block, kinds, &history.cuts, &mut found) {
                    up_to = up_to.max(message.position);
                }
            }
        }
        (!found.is_empty()).then_some((found, up_to))
    };
    answered.and_then(since).or_else(|| since(i64::MIN))
}

/// Notes the media of these kinds that a block shows; whether there were any.
fn look(block: &Block, kinds: &[&str], shown: &Cuts, found: &mut Cuts) -> bool {
    let kind = match block {
        Block::Image { .. } => "image",
        Block::Document { .. } => "document",
        Block::Audio { .. } => "audio",
        Block::Video { .. } => "video",
        Block::ToolResult { tool_use_id, content, .. } if shown.of(tool_use_id).is_none() => {
            // all are looked at, also after the first that is found
            return content.iter().filter(|inner| look(inner, kinds, shown, found)).count() > 0;
        }
        Block::Text { .. } | Block::Thinking { .. } | Block::ToolUse { .. } | Block::ToolResult { .. } => {
            return false;
        }
    };
    kinds.contains(&kind) && !shown.leaves_out(block) && found.leave_out(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_named_by_a_word_of_its_own() {
        for (message, kinds) in [
            ("messages.0.content.1.image.source.base64: image exceeds 5 MB maximum", vec!["image"]),
            ("anthropic answered 400: The PDF specified was not valid.", vec!["document"]),
            ("Unable to process input image or document", vec!["image", "document"]),
            ("Invalid 'messages[1].content[1].image_url.url'", vec!["image"]),
            ("imagine: the request is wrong", vec![]),
            ("max_tokens: must be greater than 0", vec![]),
        ] {
            assert_eq!(kinds_named(message), kinds, "{message}");
        }
    }

    #[test]
    fn only_a_refusal_of_the_request_is_recovered_from() {
        let error = |kind, status| CallError { status, ..CallError::new(kind, "image") };
        assert!(is_of_the_request(&error(ErrorKind::BadRequest, Some(400))));
        assert!(!is_of_the_request(&error(ErrorKind::Overflow, Some(400))));
        assert!(!is_of_the_request(&error(ErrorKind::BadRequest, None)));
        assert!(!is_of_the_request(&error(ErrorKind::Server, Some(500))));
    }
}
