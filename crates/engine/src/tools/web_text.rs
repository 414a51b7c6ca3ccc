//! From what a web server sends to text a model can read. Pure.
//!
//! HTML is read by a tokenizer that knows the standard's rules for broken pages; nothing is executed, nothing is
//! loaded, and nesting costs no stack. Links keep their address (`[text](url)`), because a later call may follow
//! them and the permission rules ask whether a URL was shown.

use encoding_rs::{Encoding, UTF_8};
use html5gum::emitters::default::DefaultEmitter;
use html5gum::{Token, Tokenizer};
use url::Url;

/// Characters of a link's address that are kept. Longer ones are data, and crowd the text out.
const LINK_MAX: usize = 2000;
/// Characters of a title.
const TITLE_MAX: usize = 300;
/// Elements whose content is not for reading.
const HIDDEN: [&str; 10] =
    ["script", "style", "noscript", "template", "svg", "iframe", "object", "canvas", "textarea", "select"];
/// Elements that begin on a line of their own.
const BLOCKS: [&str; 34] = [
    "address",
    "article",
    "aside",
    "blockquote",
    "br",
    "dd",
    "details",
    "div",
    "dl",
    "dt",
    "fieldset",
    "figcaption",
    "figure",
    "footer",
    "form",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "header",
    "hr",
    "li",
    "main",
    "nav",
    "ol",
    "p",
    "pre",
    "section",
    "summary",
    "table",
    "tr",
    "ul",
];
/// Of these, the ones with an empty line before them.
const PARAGRAPHS: [&str; 12] =
    ["p", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "pre", "table", "article", "section"];

/// What a page says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Text {
    /// Its title, when it has one.
    pub title: Option<String>,
    /// Its text.
    pub text: String,
}

/// What kind of body a Content-Type means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// HTML, to be turned into text.
    Html,
    /// Text as it is: plain text, JSON, XML, source code.
    Plain,
    /// Not text.
    Other,
}

/// The kind, from the header and, without one, from the first bytes.
pub fn kind_of(content_type: &str, body: &[u8]) -> BodyKind {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "text/html" | "application/xhtml+xml" => BodyKind::Html,
        "" | "application/octet-stream" => {
            let start = &body[..body.len().min(1024)];
            let text = String::from_utf8_lossy(start).to_ascii_lowercase();
            if start.contains(&0) || (essence.is_empty() && std::str::from_utf8(body).is_err()) {
                BodyKind::Other
            } else if text.contains("<html") || text.contains("<!doctype html") {
                BodyKind::Html
            } else if essence.is_empty() {
                BodyKind::Plain
            } else {
                BodyKind::Other
            }
        }
        other => {
            let textual =
                ["json", "xml", "javascript", "yaml", "toml", "csv", "x-www-form-urlencoded", "x-sh"];
            let known = other.starts_with("text/") || textual.iter().any(|t| other.contains(t));
            if known { BodyKind::Plain } else { BodyKind::Other }
        }
    }
}

/// The characters of a body, by the charset of its header, a byte order mark, or a `<meta>` near the beginning;
/// UTF-8 without any of them.
pub fn decode(content_type: &str, body: &[u8]) -> String {
    let labelled = |text: &str| {
        let lower = text.to_ascii_lowercase();
        let label = lower.split("charset").nth(1)?.trim_start().strip_prefix('=')?.trim_start();
        let label = label.trim_start_matches(['"', '\'']);
        let end =
            label.find(|c: char| !(c.is_ascii_alphanumeric() || "-_:.".contains(c))).unwrap_or(label.len());
        Encoding::for_label(&label.as_bytes()[..end])
    };
    let start = String::from_utf8_lossy(&body[..body.len().min(1024)]);
    let encoding = labelled(content_type).or_else(|| labelled(&start)).unwrap_or(UTF_8);
    encoding.decode(body).0.into_owned()
}

/// The text of a page that came from `base`.
pub fn of_html(html: &str, base: &Url) -> Text {
    let mut emitter = DefaultEmitter::default();
    // scripts and styles are not markup
    emitter.naively_switch_states(true);
    let mut page = Page::new(base);
    for token in Tokenizer::new_with_emitter(html, emitter) {
        let Ok(token) = token;
        match token {
            Token::StartTag(tag) => {
                let name = String::from_utf8_lossy(&tag.name).into_owned();
                let attribute = |wanted: &[u8]| {
                    let found = tag.attributes.iter().find(|(name, _)| name.as_slice() == wanted);
                    found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
                };
                page.open(&name, tag.self_closing, attribute);
            }
            Token::EndTag(tag) => page.close(&String::from_utf8_lossy(&tag.name)),
            Token::String(text) => page.say(&String::from_utf8_lossy(&text)),
            Token::Comment(_) | Token::Doctype(_) | Token::Error(_) => {}
        }
    }
    page.finish()
}

struct Page {
    base: Url,
    title: String,
    in_title: bool,
    hidden: Option<(String, usize)>,
    preformatted: usize,
    links: Vec<(Option<String>, usize)>,
    text: String,
}

impl Page {
    fn new(base: &Url) -> Self {
        Self {
            base: base.clone(),
            title: String::new(),
            in_title: false,
            hidden: None,
            preformatted: 0,
            links: Vec::new(),
            text: String::new(),
        }
    }

    fn open(&mut self, name: &str, self_closing: bool, attribute: impl Fn(&[u8]) -> Option<String>) {
        if let Some((hidden, depth)) = &mut self.hidden {
            if hidden == name && !self_closing {
                *depth += 1;
            }
            return;
        }
        if HIDDEN.contains(&name) {
            if !self_closing {
                self.hidden = Some((name.to_owned(), 1));
            }
            return;
        }
        self.line_for(name);
        match name {
            "title" => self.in_title = self.title.is_empty(),
            "base" => {
                if let Some(base) = attribute(b"href").and_then(|href| self.base.join(&href).ok()) {
                    self.base = base;
                }
            }
            "a" => {
                self.end_link();
                let href = attribute(b"href").and_then(|href| self.base.join(href.trim()).ok());
                let href = href.filter(|u| matches!(u.scheme(), "http" | "https")).map(String::from);
                self.links.push((href.filter(|h| h.len() <= LINK_MAX), self.text.len()));
            }
            "img" => {
                if let Some(alt) = attribute(b"alt").filter(|alt| !alt.trim().is_empty()) {
                    self.say(&format!("[image: {}]", alt.trim()));
                }
            }
            "li" => self.text.push_str("- "),
            "td" | "th" if !self.text.is_empty() && !self.text.ends_with('\n') => self.text.push_str(" | "),
            "hr" => self.text.push_str("---\n"),
            "pre" => self.preformatted += 1,
            _ => {}
        }
        if let Some(level) = heading(name) {
            self.text.push_str(&"#".repeat(level));
            self.text.push(' ');
        }
    }

    fn close(&mut self, name: &str) {
        if let Some((hidden, depth)) = &mut self.hidden {
            if hidden == name {
                *depth -= 1;
                if *depth == 0 {
                    self.hidden = None;
                }
            }
            return;
        }
        match name {
            "title" => self.in_title = false,
            "a" => self.end_link(),
            "pre" => self.preformatted = self.preformatted.saturating_sub(1),
            _ => {}
        }
        if name != "br" {
            self.line_for(name);
        }
    }

    fn say(&mut self, said: &str) {
        if self.hidden.is_some() {
            return;
        }
        if self.in_title {
            self.title.push_str(said);
            return;
        }
        if self.preformatted > 0 {
            self.text.push_str(said);
            return;
        }
        for c in said.chars() {
            if !c.is_whitespace() && !c.is_control() {
                self.text.push(c);
            } else if !self.text.is_empty() && !self.text.ends_with([' ', '\n']) {
                self.text.push(' ');
            }
        }
    }

    /// The text of the open link becomes `[text](url)`; a link without text is left out.
    fn end_link(&mut self) {
        let Some((Some(href), start)) = self.links.pop() else { return };
        let start = self.text.floor_char_boundary(start.min(self.text.len()));
        let label = self.text[start..].trim();
        if !label.is_empty() && !label.contains("](") {
            let label = label.replace('\n', " ");
            self.text.truncate(start);
            self.text.push_str(&format!("[{label}]({href})"));
        }
    }

    fn line_for(&mut self, name: &str) {
        if !BLOCKS.contains(&name) {
            return;
        }
        let kept = self.text.trim_end_matches(' ').len();
        self.text.truncate(kept);
        let wanted = if PARAGRAPHS.contains(&name) { 2 } else { 1 };
        let lines = self.text.len() - self.text.trim_end_matches('\n').len();
        if !self.text.is_empty() && lines < wanted {
            self.text.push_str(&"\n\n"[lines..wanted]);
        }
    }

    fn finish(mut self) -> Text {
        self.end_link();
        let title = self.title.split_whitespace().collect::<Vec<_>>().join(" ");
        let title: String = title.chars().take(TITLE_MAX).collect();
        let lines: Vec<&str> = self.text.lines().map(str::trim_end).collect();
        let text = lines.join("\n").trim_matches('\n').to_owned();
        Text { title: (!title.is_empty()).then_some(title), text }
    }
}

fn heading(name: &str) -> Option<usize> {
    let level = name.strip_prefix('h')?.parse().ok()?;
    (1..=6).contains(&level).then_some(level)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(html: &str) -> Text {
        of_html(html, &Url::parse("https://site.test/a/b").expect("a URL"))
    }

    #[test]
    fn a_page_becomes_readable_text_with_its_links() {
        let page = text(
            "<!doctype html><html><head><title> A &amp; B\n</title><style>p{}</style></head><body>\
             <script>if (a < b) { document.write('<p>no</p>') }</script><h1>Head</h1><p>One  <b>two</b>\n three\
             <a href='../c?x=1&amp;y=2'>a <i>link</i></a>.</p><ul><li>x<li>y</ul><table><tr><td>1<td>2</tr></table>\
             <img alt='a cat' src=x><pre>  kept\n   so</pre><noscript>no</noscript><a href='javascript:x()'>js</a>",
        );
        assert_eq!(page.title.as_deref(), Some("A & B"));
        assert_eq!(
            page.text,
            "# Head\n\nOne two three[a link](https://site.test/c?x=1&y=2).\n\n- x\n- y\n\n1 | 2\n\n[image: a cat]\n\n  kept\n   so\n\njs"
        );
    }

    #[test]
    fn broken_and_deeply_nested_pages_cost_neither_stack_nor_sense() {
        let deep = "<div>".repeat(200_000) + "deep" + &"<a href=/x>".repeat(10);
        assert_eq!(text(&deep).text, "deep");
        assert_eq!(text("a < b <c> d & &nosuch; &#x41;").text.chars().last(), Some('A'));
        assert_eq!(
            text("<base href='https://other.test/z/'><a href=q>l</a>").text,
            "[l](https://other.test/z/q)"
        );
        assert_eq!(text("<script>unclosed <p>").text, "");
        assert_eq!(text("").text, "");
    }

    #[test]
    fn kinds_and_charsets_are_recognised() {
        assert_eq!(kind_of("text/html; charset=x", b""), BodyKind::Html);
        assert_eq!(kind_of("", b"<!DOCTYPE html><p>"), BodyKind::Html);
        assert_eq!(kind_of("", b"hello"), BodyKind::Plain);
        assert_eq!(kind_of("", b"\x00\x01"), BodyKind::Other);
        for plain in ["text/plain", "application/json", "application/problem+json", "application/rss+xml"] {
            assert_eq!(kind_of(plain, b"x"), BodyKind::Plain, "{plain}");
        }
        for other in
            ["image/png", "application/pdf", "application/zip", "video/mp4", "application/octet-stream"]
        {
            assert_eq!(kind_of(other, b"x"), BodyKind::Other, "{other}");
        }
        assert_eq!(decode("text/plain; charset=iso-8859-1", b"\xfc"), "ü");
        assert_eq!(
            decode("text/html", b"<meta charset=\"windows-1252\">\x80"),
            "<meta charset=\"windows-1252\">€"
        );
        assert_eq!(decode("text/plain", "ü".as_bytes()), "ü");
        assert_eq!(decode("text/plain; charset=nonsense", "ü".as_bytes()), "ü");
    }

    proptest! {
        #[test]
        fn any_bytes_become_text(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let html = decode("text/html", &bytes);
            let _ = text(&html);
        }

        #[test]
        fn any_tags_become_text(parts in proptest::collection::vec(
            proptest::sample::select(vec!["<a href=x>", "</a>", "<pre>", "</pre>", "ü", " ", "\n", "<svg>", "</svg>",
                "<title>", "</title>", "<li>", "<td>", "<h1>", "<h9>", "w", "<script>", "</script>", "<a>"]), 0..60)
        ) {
            let _ = text(&parts.concat());
        }
    }
}
