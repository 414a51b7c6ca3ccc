//! Long documents cut into pieces that are read one by one. (CONTENT_INGESTION_ENABLED)
//!
//! Pure. Only texts are read here; what a PDF says is the provider's to find out (docs/decisions/008). The invariant:
//! the pieces, put together, are the text.

use crate::tools::web_text::{self, BodyKind};
use crate::turn::context::estimate_bytes;
use url::Url;

/// Tokens above which a document is set aside. Smaller makes a model ask for what it could have seen; larger fills the
/// context window with one attachment. (specification 6.4)
const SET_ASIDE_TOKENS: u64 = 20_000;
/// Bytes of a piece: about 800 tokens. Smaller tears what belongs together, larger finds less exactly. (specification
/// 6.4)
const PIECE_BYTES: usize = 2800;
/// Where, from the end of a piece, a better place for the cut is looked for. Larger makes small pieces.
const LOOK_BACK: usize = PIECE_BYTES / 4;
/// Where a text is cut, the best first.
const BREAKS: [&str; 4] = ["\n\n", "\n", ". ", " "];

/// The pieces of a document that is too long to be shown whole; `None` for others, and for what is no text.
pub fn of_long(media_type: &str, bytes: &[u8]) -> Option<Vec<String>> {
    let text = text_of(media_type, bytes)?;
    (estimate_bytes(text.len()) > SET_ASIDE_TOKENS).then(|| cut(&text))
}

fn text_of(media_type: &str, bytes: &[u8]) -> Option<String> {
    if !media_type.to_ascii_lowercase().starts_with("text/") {
        return None;
    }
    let text = web_text::decode(media_type, bytes);
    match web_text::kind_of(media_type, bytes) {
        // its links lead nowhere: nobody said where it comes from
        BodyKind::Html => Url::parse("about:blank").ok().map(|base| web_text::of_html(&text, &base).text),
        BodyKind::Plain | BodyKind::Other => Some(text),
    }
}

fn cut(text: &str) -> Vec<String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while rest.len() > PIECE_BYTES {
        let most = rest.floor_char_boundary(PIECE_BYTES);
        let from = rest.ceil_char_boundary(most - LOOK_BACK);
        let found = BREAKS.iter().find_map(|b| rest[from..most].rfind(b).map(|at| from + at + b.len()));
        let (piece, after) = rest.split_at(found.unwrap_or(most));
        pieces.push(piece.to_owned());
        rest = after;
    }
    if !rest.is_empty() {
        pieces.push(rest.to_owned());
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_put_together_are_the_text_and_end_where_it_breathes() {
        for text in [
            "A sentence of some words. ".repeat(9000),
            "ü".repeat(90_000),
            "line\n".repeat(50_000),
            format!("{}\n\n{}", "a".repeat(2500), "b ".repeat(90_000)),
        ] {
            let pieces = of_long("text/plain", text.as_bytes()).expect("long");
            assert_eq!(pieces.concat(), text);
            assert!(pieces.iter().all(|p| !p.is_empty() && p.len() <= PIECE_BYTES));
        }
        let pieces = cut(&"A sentence of some words. ".repeat(9000));
        assert!(pieces.iter().all(|p| p.ends_with(". ")), "{:?}", pieces[0]);
    }

    #[test]
    fn only_long_texts_are_set_aside() {
        assert_eq!(of_long("text/plain", &[b'a'; 70_000]), None);
        assert!(of_long("text/plain", &[b'a'; 70_001]).is_some());
        assert_eq!(of_long("application/pdf", &[b'a'; 200_000]), None);
    }

    #[test]
    fn a_page_is_read_without_its_markup() {
        let page = format!("<html><script>evil()</script><p>{}</p></html>", "word ".repeat(20_000));
        let pieces = of_long("text/html", page.as_bytes()).expect("long");
        assert!(!pieces.concat().contains("evil") && pieces[0].contains("word word"), "{}", pieces[0]);
        let mostly_markup = format!("<html>{}</html>", "<b class='x'></b>".repeat(9000));
        assert_eq!(of_long("text/html", mostly_markup.as_bytes()), None);
    }
}
