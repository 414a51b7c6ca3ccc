//! What bytes are, by how they begin.
//!
//! Refuses to guess: what begins like nothing known has no kind, and a media type nobody listed here is believed.

/// How files begin, and what they are.
const BEGINNINGS: [(&[u8], &str); 6] = [
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"%PDF-", "application/pdf"),
    (b"ID3", "audio/mpeg"),
    (b"\x1a\x45\xdf\xa3", "video/webm"),
];
/// How far from its beginning a PDF may say what it is: readers accept mail headers and the like before it. Larger
/// takes documents about PDFs for one.
const PDF_LOOK: usize = 1024;

/// What the bytes are, when their beginning says so.
pub fn recognised(bytes: &[u8]) -> Option<&'static str> {
    let found = BEGINNINGS.iter().find(|(beginning, _)| bytes.starts_with(beginning)).map(|(_, kind)| *kind);
    let riff = |kind: &[u8]| bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(kind);
    found.or_else(|| {
        if riff(b"WEBP") {
            Some("image/webp")
        } else if riff(b"WAVE") {
            Some("audio/wav")
        } else if bytes.get(4..8) == Some(b"ftyp") {
            Some("video/mp4")
        } else {
            None
        }
    })
}

/// Whether bytes can be what a media type says. A type that has no beginning of its own can be anything.
pub fn fits(media_type: &str, bytes: &[u8]) -> bool {
    let media_type = media_type.to_ascii_lowercase();
    let is = |kind: &str| recognised(bytes) == Some(kind);
    match media_type.as_str() {
        "image/jpg" => is("image/jpeg"),
        "image/png" | "image/jpeg" | "image/gif" | "image/webp" => is(&media_type),
        "application/pdf" => {
            let head = &bytes[..bytes.len().min(PDF_LOOK)];
            head.windows(5).any(|w| w == b"%PDF-")
        }
        "audio/wav" | "audio/x-wav" | "audio/wave" | "audio/vnd.wave" => is("audio/wav"),
        "audio/mpeg" | "audio/mp3" => {
            // without a tag it begins with a frame
            is("audio/mpeg") || matches!(bytes, [0xff, second, ..] if second & 0xe0 == 0xe0)
        }
        "video/mp4" | "video/3gpp" => is("video/mp4"),
        "video/quicktime" => {
            let parts: [&[u8]; 5] = [b"moov", b"mdat", b"wide", b"free", b"skip"];
            is("video/mp4") || bytes.get(4..8).is_some_and(|part| parts.contains(&part))
        }
        "video/webm" | "video/x-matroska" => is("video/webm"),
        "video/mpeg" => matches!(bytes, [0, 0, 1, 0xb3 | 0xba, ..]),
        // a text has no beginning of its own, but no text holds a zero byte
        text if text.starts_with("text/") => !bytes.contains(&0),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_what_they_begin_like() {
        for (bytes, kind) in [
            (b"\x89PNG\r\n\x1a\n....".as_slice(), Some("image/png")),
            (b"RIFF....WEBPVP8 ", Some("image/webp")),
            (b"RIFF....WAVEfmt ", Some("audio/wav")),
            (b"....ftypisom", Some("video/mp4")),
            (b"%PDF-1.7", Some("application/pdf")),
            (b"whatever", None),
            (b"", None),
        ] {
            assert_eq!(recognised(bytes), kind);
        }
    }

    #[test]
    fn a_type_is_believed_only_where_the_bytes_do_not_speak_against_it() {
        for (media_type, bytes, fitting) in [
            ("image/png", b"\x89PNG\r\n\x1a\n".as_slice(), true),
            ("IMAGE/PNG", b"\x89PNG\r\n\x1a\n", true),
            ("image/png", b"\xff\xd8\xff\xe0", false),
            ("image/webp", b"RIFF....WAVEfmt ", false),
            ("application/pdf", b"From: me\n\n%PDF-1.4", true),
            ("application/pdf", b"<html>", false),
            ("audio/mp3", b"\xff\xfb\x90", true),
            ("audio/mp3", b"\xff", false),
            ("audio/mp3", b"RIFF....WAVEfmt ", false),
            ("video/quicktime", b"....moov", true),
            ("video/mpeg", b"\0\0\x01\xba", true),
            ("text/plain", b"ID3 is a kind of tag", true),
            ("text/csv", b"a\0b\0", false),
            ("audio/flac", b"anything", true),
        ] {
            assert_eq!(fits(media_type, bytes), fitting, "{media_type} {bytes:?}");
        }
    }
}
