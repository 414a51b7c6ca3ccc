//! Media that stand in a message or an answer by URL, brought in before anything is stored, for a provider that does
//! not fetch them.
//!
//! From then on they are blobs like others: a later turn, a retry and a restart fetch nothing. Whoever fetches, what
//! stood at the address is somebody else's: see [`super::is_somebody_elses`]. Refused: what web_fetch would refuse.

use super::{Checked, storage, too_large};
use crate::config::Provider;
use crate::core::Core;
use crate::outbound::media::{self, MediaError, Medium};
use brain::{blobs, turns};
use contract::conversation::{Block, Source};
use contract::{ApiError, ErrorCode};
use serde_json::json;
use std::time::Duration;

/// Bytes of all media of one message that are fetched by URL; base64 ones are bounded by the body. One medium may
/// always be as large as MEDIA_MAX_BYTES. More would let one small request fill the memory.
const MEDIA_BY_URL_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long all of them may take together: the client waits for its stream. Shorter fails on slow servers.
const MEDIA_BY_URL_TIME_MAX: Duration = Duration::from_secs(60);
/// Fetches the media that stand in the message by URL, where that is the Engine's business.
pub(super) async fn bring_in(core: &Core, checked: &mut Checked, key: Option<&str>) -> Result<(), ApiError> {
    if is_needed(core, checked, key).await? {
        let media = media_of(&mut checked.blocks);
        checked.media.extend(fetched(core, media, "media").await?);
    }
    Ok(())
}

/// The blocks from the first medium on: those before are the message's text.
pub(super) fn media_of(blocks: &mut [Block]) -> &mut [Block] {
    let first = blocks.iter().position(|b| b.source().is_some()).unwrap_or_default();
    blocks.get_mut(first..).unwrap_or_default()
}

/// True when media stand in `blocks` by URL and the provider does not fetch them itself.
pub(in crate::turn) fn are_ours_to_fetch(core: &Core, blocks: &[Block]) -> bool {
    let by_url = blocks.iter().any(|b| matches!(b.source(), Some(Source::Url { .. })));
    by_url && core.config.llm_provider == Provider::Gemini
}

/// Fetches what stands in `blocks` by URL and puts blobs in its place; their bytes and types. `field` names the list
/// in errors.
pub(in crate::turn) async fn fetched(
    core: &Core,
    blocks: &mut [Block],
    field: &str,
) -> Result<Vec<(Vec<u8>, String)>, ApiError> {
    let all = tokio::time::timeout(MEDIA_BY_URL_TIME_MAX, all(core, blocks, field));
    all.await.unwrap_or_else(|_| {
        let text = format!("media by URL did not come within {} s", MEDIA_BY_URL_TIME_MAX.as_secs());
        Err(ApiError::new(ErrorCode::ValidationError, text).with(json!({"field": field})))
    })
}

/// True when media stand in the message by URL, the provider does not fetch them itself, and the request is not a
/// repetition of one that has its turn.
async fn is_needed(core: &Core, checked: &Checked, key: Option<&str>) -> Result<bool, ApiError> {
    if !are_ours_to_fetch(core, &checked.blocks) {
        return Ok(false);
    }
    Ok(!is_repeated(core, key).await?)
}

/// True when a turn has this Idempotency-Key.
pub(super) async fn is_repeated(core: &Core, key: Option<&str>) -> Result<bool, ApiError> {
    let Some(key) = key.map(str::to_owned) else { return Ok(false) };
    let earlier =
        core.brain.read("find repeated request", move |tx| turns::by_idempotency_key(tx, &key)).await;
    Ok(earlier.map_err(|e| storage(&e))?.is_some())
}

async fn all(core: &Core, blocks: &mut [Block], list: &str) -> Result<Vec<(Vec<u8>, String)>, ApiError> {
    let guard = crate::tools::web::guard(&core.config);
    let limit = core.config.media_max_bytes;
    let mut left = MEDIA_BY_URL_BYTES_MAX.max(limit);
    let mut brought = Vec::new();
    for (index, block) in blocks.iter_mut().enumerate() {
        let field = format!("{list}[{index}]");
        let kind = match block {
            Block::Image { .. } => "image",
            Block::Audio { .. } => "audio",
            Block::Video { .. } => "video",
            _ => "document",
        };
        let Some(source @ Source::Url { .. }) = block.source_mut() else { continue };
        let Source::Url { url } = &*source else { continue };
        let refuse = |why: String| {
            ApiError::new(ErrorCode::ValidationError, format!("{field}: the address was not fetched: {why}"))
                .with(json!({"field": field, "url": url}))
        };
        if !core.config.web_fetch_enabled {
            return Err(refuse("WEB_FETCH_ENABLED is false; send the data as base64".into()));
        }
        let fetched = media::get(&guard, url, limit.min(left)).await.map_err(|error| match error {
            MediaError::TooLarge(_) => too_large(&field, limit),
            other => refuse(other.to_string()),
        })?;
        let Medium { bytes, media_type } = fetched;
        if !crate::turn::context::provider_takes(core.config.llm_provider, kind, &media_type) {
            return Err(refuse(format!("the configured provider cannot take {kind} of type `{media_type}`")));
        }
        left -= bytes.len();
        let size = bytes.len() as u64;
        *source = Source::Blob { sha256: blobs::name_of(&bytes), media_type: media_type.clone(), size };
        brought.push((bytes, media_type));
    }
    Ok(brought)
}
