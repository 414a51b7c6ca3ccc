//! Media that a message names by URL, fetched by the Engine for a provider that does not fetch itself (Gemini).
//! (specification 6.4)
//!
//! The person named the address, so nobody is asked about it; everything else is as for web_fetch: http(s), public
//! addresses, checked redirects, a limit of bytes and time, nothing of ours sent along. What comes back is somebody
//! else's: its turn counts as having read untrusted content.
//!
//! Refused here: what is larger than MEDIA_MAX_BYTES (it is not cut: half a picture is none), and an answer that is
//! no success.

use super::fetch::{self, FetchError, Hops, Limits};
use super::guard::Guard;
use crate::media::kind;
use std::time::Duration;

/// From the first lookup to the last byte of one medium, as web_fetch has it. Longer holds a request up that the
/// client waits for, shorter fails on slow servers.
const TIME_MAX: Duration = Duration::from_secs(30);
/// What servers say when they do not know.
const UNKNOWN_TYPES: [&str; 3] = ["", "application/octet-stream", "binary/octet-stream"];
/// What was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Medium {
    /// Its bytes, all of them.
    pub bytes: Vec<u8>,
    /// Its type, as the server says or as its first bytes do; empty when neither knows.
    pub media_type: String,
}

/// Why there is no medium.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// Larger than allowed.
    #[error("it is larger than {0} bytes")]
    TooLarge(usize),
    /// The server answered something else.
    #[error("the server answered with status {0}")]
    Status(u16),
    /// Not fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

/// Fetches one medium of at most `bytes_max`.
pub async fn get(guard: &Guard, url: &str, bytes_max: usize) -> Result<Medium, MediaError> {
    let limits = Limits { bytes: bytes_max, time: TIME_MAX };
    // with a list, a redirect may not lead beyond it: nobody named that address
    let hops = if guard.list().is_empty() { Hops::anywhere() } else { Hops::within(host_of(url)) };
    let page = fetch::get(guard, url, limits, &hops).await?;
    if !(200..300).contains(&page.status) {
        return Err(MediaError::Status(page.status));
    }
    if page.cut {
        return Err(MediaError::TooLarge(bytes_max));
    }
    Ok(Medium { media_type: type_of(&page.content_type, &page.body), bytes: page.body })
}

fn host_of(url: &str) -> Option<String> {
    url::Url::parse(url).ok()?.host_str().map(str::to_owned)
}

/// The type without its parameters.
fn type_of(content_type: &str, body: &[u8]) -> String {
    let said = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if !UNKNOWN_TYPES.contains(&said.as_str()) {
        return said;
    }
    kind::recognised(body).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_what_the_server_says_and_else_what_the_bytes_are() {
        for (said, body, wanted) in [
            ("image/PNG; charset=x", b"nonsense".as_slice(), "image/png"),
            ("application/octet-stream", b"\x89PNG\r\n\x1a\n....", "image/png"),
            ("", b"RIFF....WEBPVP8 ", "image/webp"),
            ("", b"RIFF....WAVEfmt ", "audio/wav"),
            ("binary/octet-stream", b"....ftypisom", "video/mp4"),
            ("", b"%PDF-1.7", "application/pdf"),
            ("", b"whatever", ""),
        ] {
            assert_eq!(type_of(said, body), wanted);
        }
    }
}
