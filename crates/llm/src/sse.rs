//! Reading a `text/event-stream`: bytes in, events out, whatever the chunking.
//!
//! Accepts LF, CRLF and CR line ends, comments, a byte order mark, multi-line data, and a last event
//! without its blank line (compatible servers close early). `id` and `retry` are ignored: provider streams
//! cannot be resumed. Own code rather than a crate because of the size limit and the lenient end.

/// Largest event. Larger would let one hostile frame fill the memory; smaller would refuse a long tool
/// call that a provider sends in one piece (Gemini does).
pub const MAX_EVENT_BYTES: usize = 16 * 1024 * 1024;

/// One event of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Event {
    /// The `event:` line; empty when there was none.
    pub name: String,
    /// The `data:` lines joined by LF.
    pub data: String,
}

/// An event grew beyond [`MAX_EVENT_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is larger than {MAX_EVENT_BYTES} bytes")]
pub struct TooLarge;

/// The parser. Feed it with [`Parser::push`], and call [`Parser::finish`] at the end of the body.
#[derive(Debug, Default)]
pub struct Parser {
    line: Vec<u8>,
    name: String,
    data: String,
    has_data: bool,
    after_cr: bool,
    seen_line: bool,
}

impl Parser {
    /// A parser at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes, appends the events they complete.
    pub fn push(&mut self, mut bytes: &[u8], events: &mut Vec<Event>) -> Result<(), TooLarge> {
        while !bytes.is_empty() {
            if std::mem::take(&mut self.after_cr) && bytes[0] == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = bytes.iter().position(|b| matches!(b, b'\n' | b'\r'));
            let part = &bytes[..end.unwrap_or(bytes.len())];
            if self.line.len() + self.data.len() + part.len() > MAX_EVENT_BYTES {
                return Err(TooLarge);
            }
            self.line.extend_from_slice(part);
            let Some(end) = end else { return Ok(()) };
            self.after_cr = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            self.end_line(events);
        }
        Ok(())
    }

    /// The body is over: completes a last line and a last event that lack their ends.
    pub fn finish(&mut self, events: &mut Vec<Event>) {
        if !self.line.is_empty() {
            self.end_line(events);
        }
        self.dispatch(events);
    }

    fn end_line(&mut self, events: &mut Vec<Event>) {
        let bytes = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&bytes);
        let mut line: &str = &text;
        if !std::mem::replace(&mut self.seen_line, true) {
            line = line.strip_prefix('\u{feff}').unwrap_or(line);
        }
        if line.is_empty() {
            self.dispatch(events);
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            "event" => value.clone_into(&mut self.name),
            _ => {} // a comment (empty field name), id, retry, or unknown
        }
    }

    fn dispatch(&mut self, events: &mut Vec<Event>) {
        let event = Event { name: std::mem::take(&mut self.name), data: std::mem::take(&mut self.data) };
        if std::mem::take(&mut self.has_data) {
            events.push(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(chunks: &[&[u8]]) -> Vec<Event> {
        let mut parser = Parser::new();
        let mut events = Vec::new();
        for chunk in chunks {
            parser.push(chunk, &mut events).expect("small");
        }
        parser.finish(&mut events);
        events
    }

    fn event(name: &str, data: &str) -> Event {
        Event { name: name.into(), data: data.into() }
    }

    #[test]
    fn line_ends_comments_and_multi_line_data_are_understood() {
        let text = "\u{feff}: hello\ndata: a\ndata:b\ndata\n\nevent: x\r\ndata:  c\r\n\r\nid: 1\rdata: d\r\rretry: 3\n\nevent: only\n\ndata: last";
        assert_eq!(
            parse(&[text.as_bytes()]),
            vec![event("", "a\nb\n"), event("x", " c"), event("", "d"), event("", "last")]
        );
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut parser = Parser::new();
        let mut events = Vec::new();
        let mib = vec![b'x'; 1024 * 1024];
        parser.push(b"data: ", &mut events).expect("small");
        let refused = (0..=16).find_map(|_| parser.push(&mib, &mut events).err());
        assert_eq!(refused, Some(TooLarge));
        assert!(events.is_empty());
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_events(
            text in "(data|event|id|:|é| |\r\n|\n|\r|x){0,60}",
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let bytes = text.as_bytes();
            let mut at: Vec<usize> = cuts.iter().map(|c| c.index(bytes.len() + 1)).collect();
            at.extend([0, bytes.len()]);
            at.sort_unstable();
            let chunks: Vec<&[u8]> = at.windows(2).map(|w| &bytes[w[0]..w[1]]).collect();
            prop_assert_eq!(parse(&chunks), parse(&[bytes]));
        }
    }
}
