//! Media looked at, and made smaller, before they are stored and sent. (MEDIA_PRESEND_VALIDATION_ENABLED,
//! MEDIA_IMAGE_RESIZE_ENABLED)
//!
//! All of it happens on a thread for blocking work, one message at a time: decoding takes memory by the hundred
//! megabytes. A decoder that panics fails its picture and nothing else. Refused: what is not what it says it is, and
//! pictures nobody can look at.

use super::kind;
use super::picture::{self, Smaller, Unusable};
use crate::config::Config;
use crate::tools::tool::Media;
use std::time::Duration;
use tokio::sync::Semaphore;

/// How long a message waits for others' pictures. Longer holds a client's request up, shorter refuses messages that
/// only had to wait.
const TURN_WAIT: Duration = Duration::from_secs(30);
/// Messages whose media are worked on at once. More take half a gigabyte each at worst.
static AT_ONCE: Semaphore = Semaphore::const_new(1);

/// What is done to media before they are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Look whether they are what they say.
    pub validate: bool,
    /// Make pictures with longer edges, or too many bytes, smaller.
    pub edge: Option<u32>,
}

impl Wish {
    /// As configured; `None` when nothing is to be done.
    pub fn of(config: &Config) -> Option<Self> {
        let edge = config.media_image_resize_enabled.then_some(config.media_image_max_edge_px);
        let validate = config.media_presend_validation_enabled;
        (validate || edge.is_some()).then_some(Self { validate, edge })
    }
}

/// Why media are not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The bytes speak against the type.
    #[error("it is not {said}{}", .is.map(|kind| format!(" but {kind}")).unwrap_or_default())]
    Another {
        /// The type it was sent with.
        said: String,
        /// What it begins like.
        is: Option<&'static str>,
    },
    /// A picture nobody can look at.
    #[error("{0}")]
    Picture(#[from] Unusable),
    /// Other messages' pictures took too long.
    #[error("other pictures are being worked on; try again")]
    Busy,
}

/// One medium: bytes and type.
pub type Medium = (Vec<u8>, String);

/// The media as they are to be sent, in their order; an error with the place of the one that is refused.
pub async fn prepared(wish: Wish, media: Vec<Medium>) -> Result<Vec<Medium>, (usize, Refused)> {
    let turn = tokio::time::timeout(TURN_WAIT, AT_ONCE.acquire()).await;
    // it is never closed
    let Ok(Ok(_turn)) = turn else { return Err((0, Refused::Busy)) };
    let work = move || media.into_iter().enumerate().map(|(at, medium)| one(wish, at, medium)).collect();
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or(Err((0, Refused::Picture(Unusable::Broken))))
}

/// What a tool shows a model, made smaller as configured. What cannot be made smaller goes as it is: the call has
/// succeeded, and its picture is the provider's to judge.
pub async fn of_tool(config: &Config, media: &mut [Media]) {
    let Some(wish) = Wish::of(config).filter(|w| w.edge.is_some()) else { return };
    for shown in media {
        let medium = (shown.bytes.clone(), shown.media_type.clone());
        let made = prepared(Wish { validate: false, ..wish }, vec![medium]).await;
        if let Some((bytes, media_type)) = made.ok().and_then(|mut made| made.pop()) {
            *shown = Media { media_type, bytes };
        }
    }
}

fn one(wish: Wish, at: usize, (bytes, media_type): Medium) -> Result<Medium, (usize, Refused)> {
    // a decoder works on borrowed bytes and leaves nothing behind when it panics
    let look = std::panic::AssertUnwindSafe(|| judged(wish, &bytes, &media_type));
    let broken = |_| Err(Refused::Picture(Unusable::Broken));
    match std::panic::catch_unwind(look).unwrap_or_else(broken).map_err(|e| (at, e))? {
        Some(Smaller { bytes, media_type }) => Ok((bytes, media_type.to_owned())),
        None => Ok((bytes, media_type)),
    }
}

fn judged(wish: Wish, bytes: &[u8], media_type: &str) -> Result<Option<Smaller>, Refused> {
    let is_picture = media_type.starts_with("image/");
    if wish.validate {
        if !kind::fits(media_type, bytes) {
            return Err(Refused::Another { said: media_type.to_owned(), is: kind::recognised(bytes) });
        }
        let readable = kind::recognised(bytes).is_some_and(|kind| kind.starts_with("image/"));
        if is_picture && readable {
            picture::size_of(bytes)?;
        }
    }
    match wish.edge.filter(|_| is_picture) {
        Some(edge) => Ok(picture::shrunk(bytes, edge)?),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_refused_one_is_named_by_its_place() {
        let wish = Wish { validate: true, edge: None };
        let fine = (b"words".to_vec(), "text/plain".to_owned());
        let wrong = (b"%PDF-1.4".to_vec(), "image/png".to_owned());
        let (at, why) = prepared(wish, vec![fine.clone(), wrong.clone()]).await.expect_err("refused");
        assert_eq!((at, why.to_string().as_str()), (1, "it is not image/png but application/pdf"));
        let wish = Wish { validate: false, edge: Some(256) };
        let both = vec![fine, wrong];
        assert_eq!(prepared(wish, both.clone()).await.expect("nobody looks"), both);
    }
}
