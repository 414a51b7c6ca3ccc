//! The parser of event streams: however the bytes arrive, the events are the same and none is larger than the body.
//!
//! The first byte chooses how long the pieces are in which the rest arrives.

use llm::sse::{Event, Parser};

/// What must hold for any bytes.
pub fn holds(data: &[u8]) {
    let Some((first, body)) = data.split_first() else { return };
    let whole = events(body, body.len().max(1));
    assert_eq!(events(body, usize::from(*first % 7) + 1), whole);
    for event in &whole {
        assert!(!event.name.contains(['\n', '\r']) && !event.data.contains('\r'), "{event:?}");
    }
    // Every broken byte becomes one replacement character of three bytes.
    let size: usize = whole.iter().map(|event| event.name.len() + event.data.len()).sum();
    assert!(size <= 3 * body.len(), "{} bytes became {size}", body.len());
}

fn events(body: &[u8], length: usize) -> Vec<Event> {
    let (mut parser, mut events) = (Parser::new(), Vec::new());
    for chunk in body.chunks(length) {
        parser.push(chunk, &mut events).expect("the bodies are smaller than the limit");
    }
    parser.finish(&mut events);
    events
}
