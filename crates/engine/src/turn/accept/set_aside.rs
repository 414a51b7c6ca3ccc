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

/// Parts of a pointer, in their order.
const PARTS: [&str; 5] = [
    "[A document of type ",
    " bytes) is attached here, too long to be shown. Read it with the tool media_read, in ",
    " pieces or by a query: {\"media\": \"",
    "\"}",
    "]",
];

/// What stands for the document.
pub fn pointer(sha256: &str, media_type: &str, bytes: usize, pieces: usize) -> Block {
    let [document, shown, query, end, close] = PARTS;
    Block::text(format!("{document}{media_type} ({bytes}{shown}{pieces}{query}{sha256}{end}{close}"))
}

/// Whether a text is a pointer and nothing else.
pub fn is_pointer(text: &str) -> bool {
    let [document, shown, query, end, close] = PARTS;
    let parts = || {
        let (kind, rest) = text.strip_prefix(document)?.split_once(shown)?;
        let (pieces, rest) = rest.split_once(query)?;
        let (media_type, bytes) = kind.rsplit_once(" (")?;
        let name = rest.strip_suffix(close)?.strip_suffix(end)?;
        Some((media_type, [bytes, pieces], name))
    };
    parts().is_some_and(|(media_type, numbers, name)| {
        let is_number = |number: &&str| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        let is_type = |b: u8| b.is_ascii_graphic() || b == b' ';
        numbers.iter().all(is_number)
            && !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_hexdigit())
            && media_type.bytes().all(is_type)
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_is_known_by_the_whole_of_it() {
        let Block::Text { text } = pointer("ab12", "application/pdf; x=\"y\"", 90, 3) else {
            panic!("a text")
        };
        assert!(is_pointer(&text), "{text}");
        for other in
            [format!("{text} I prefer tea."), format!("See {text}"), text.replace("ab12", "I prefer tea")]
        {
            assert!(!is_pointer(&other), "{other}");
        }
    }
}
