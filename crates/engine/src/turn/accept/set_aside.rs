//! Documents of a message that are too long to be shown: their text is cut into pieces that `media_read` reads, and the
//! message keeps a pointer. (CONTENT_INGESTION_ENABLED)
//!
//! The document itself stays stored as long as the message does, and its pieces as long as the document. Refused:
//! messages with more text than [`TEXT_MAX`]. The invariant: a pointer and the pieces it points to are committed
//! together.

use super::Checked;
use crate::core::Core;
use crate::media::pieces;
use brain::memory::chunks::{self, Chunk};
use brain::{Tx, blobs};
use contract::conversation::{Block, Source};
use contract::{ApiError, ErrorCode, MessageId, TaskId, Timestamp};
use serde_json::json;

/// Bytes of text of all documents of one message. All pieces of a message are committed at once: more keeps other turns
/// waiting for seconds.
const TEXT_MAX: usize = 32 * 1024 * 1024;

/// Takes the long documents out of a message.
pub(super) async fn set_aside(core: &Core, checked: &mut Checked) -> Result<(), ApiError> {
    let documents = |b: &Block| matches!(b, Block::Document { source: Source::Blob { .. } });
    if !core.config.content_ingestion_enabled || !checked.blocks.iter().any(documents) {
        return Ok(());
    }
    let media = std::mem::take(&mut checked.media);
    let mut blocks = std::mem::take(&mut checked.blocks);
    let work = move || {
        let aside = all(&mut blocks, &media);
        (blocks, media, aside)
    };
    let done = tokio::task::spawn_blocking(work).await;
    let (blocks, media, aside) = done.map_err(|e| super::internal("read the documents", &e))?;
    (checked.blocks, checked.media, checked.aside) = (blocks, media, aside);
    let bytes: usize = checked.aside.iter().map(|piece| piece.text.len()).sum();
    if bytes > TEXT_MAX {
        return Err(ApiError::new(ErrorCode::PayloadTooLarge, "the documents hold too much text")
            .with(json!({"field": "media", "limit": TEXT_MAX})));
    }
    Ok(())
}

fn all(blocks: &mut [Block], media: &[(Vec<u8>, String)]) -> Vec<Chunk> {
    let mut aside: Vec<Chunk> = Vec::new();
    for (bytes, media_type) in media {
        let name = blobs::name_of(bytes);
        let is_it = |block: &&mut Block| matches!(&**block, Block::Document { source: Source::Blob { sha256, .. } } if *sha256 == name);
        let mut places = blocks.iter_mut().filter(is_it).peekable();
        if places.peek().is_none() {
            continue;
        }
        let Some(pieces) = pieces::of_long(media_type, bytes) else { continue };
        for place in places {
            *place = pointer(&name, media_type, bytes.len(), pieces.len());
        }
        aside.extend((0..).zip(pieces).map(|(position, text)| Chunk {
            sha256: name.clone(),
            position,
            text,
        }));
    }
    aside
}

/// What stands for the document.
fn pointer(sha256: &str, media_type: &str, bytes: usize, pieces: usize) -> Block {
    Block::text(format!(
        "[A document of type {media_type} ({bytes} bytes) is attached here, too long to be shown. Read it with the tool \
         media_read, in {pieces} pieces or by a query: {{\"media\": \"{sha256}\"}}]"
    ))
}

/// Stores the pieces; the message that points to them keeps their documents.
pub(super) fn commit(
    tx: &Tx<'_>,
    task: &TaskId,
    message: &MessageId,
    aside: &[Chunk],
    now: Timestamp,
) -> brain::Result<()> {
    chunks::put(tx, task, aside, now)?;
    for first in aside.iter().filter(|piece| piece.position == 0) {
        blobs::refer(tx, &first.sha256, "conversations", message.as_str())?;
    }
    Ok(())
}
