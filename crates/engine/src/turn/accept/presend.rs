//! Media of a message or an answer, looked at and made smaller before anything is stored; see
//! [`crate::media::presend`] for what is refused.
//!
//! The invariant: afterwards every blob the blocks name is one of `media`, under the type it has there.

use super::{Checked, by_url};
use crate::core::Core;
use crate::media::presend::{self, Refused, Wish};
use brain::blobs;
use contract::conversation::{Block, Source};
use contract::{ApiError, ErrorCode};
use serde_json::json;

/// Prepares a message's media, unless it is the repetition of one that has its turn.
pub(super) async fn prepare(core: &Core, checked: &mut Checked, key: Option<&str>) -> Result<(), ApiError> {
    if checked.media.is_empty() || Wish::of(&core.config).is_none() || by_url::is_repeated(core, key).await? {
        return Ok(());
    }
    let media = by_url::media_of(&mut checked.blocks);
    prepared(core, media, &mut checked.media, "media").await
}

/// Prepares `media`, which stand in `blocks` as blobs. `list` names the blocks in errors.
pub(in crate::turn) async fn prepared(
    core: &Core,
    blocks: &mut [Block],
    media: &mut Vec<(Vec<u8>, String)>,
    list: &str,
) -> Result<(), ApiError> {
    let Some(wish) = Wish::of(&core.config).filter(|_| !media.is_empty()) else { return Ok(()) };
    let before: Vec<(String, String)> =
        media.iter().map(|(bytes, media_type)| (blobs::name_of(bytes), media_type.clone())).collect();
    let made = presend::prepared(wish, std::mem::take(media)).await;
    let made = made.map_err(|(at, refused)| {
        let is_it =
            |b: &Block| blob_of(b).is_some_and(|(name, kind)| before[at] == (name.into(), kind.into()));
        let place = blocks.iter().position(is_it);
        error(&format!("{list}[{}]", place.unwrap_or_default()), &refused)
    })?;
    for ((name, _), (bytes, media_type)) in before.iter().zip(&made) {
        let now = blobs::name_of(bytes);
        if now == *name {
            continue;
        }
        for block in &mut *blocks {
            if blob_of(block).is_some_and(|(blob, _)| blob == name)
                && let Some(source) = block.source_mut()
            {
                let (sha256, media_type) = (now.clone(), media_type.clone());
                *source = Source::Blob { sha256, media_type, size: bytes.len() as u64 };
            }
        }
    }
    *media = made;
    Ok(())
}

/// Name and type.
fn blob_of(block: &Block) -> Option<(&str, &str)> {
    match block.source() {
        Some(Source::Blob { sha256, media_type, .. }) => Some((sha256, media_type)),
        _ => None,
    }
}

fn error(field: &str, refused: &Refused) -> ApiError {
    match refused {
        Refused::Busy => ApiError::new(ErrorCode::EngineBusy, format!("{field}: {refused}"))
            .with(json!({"reason": "queue_full"})),
        Refused::Another { said, is } => {
            ApiError::new(ErrorCode::ValidationError, format!("{field}: {refused}"))
                .with(json!({"field": field, "media_type": said, "found": is}))
        }
        Refused::Picture(_) => ApiError::new(ErrorCode::ValidationError, format!("{field}: {refused}"))
            .with(json!({"field": field})),
    }
}
