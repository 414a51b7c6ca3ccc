//! Reading the Engine's own stream: bytes in, whole frames out, with the sequence number of each.
//!
//! `llm::sse` reads provider streams and throws ids away, and it completes a last event that lacks its
//! blank line. Here both would be wrong: the id is what makes resuming exact, and a frame cut in the
//! middle must be dropped because it comes again.

use serde_json::Value;

/// Largest frame. Larger would let a hostile host fill the memory; smaller would refuse a tool result
/// with a big output cap.
const MAX_FRAME_BYTES: usize = 32 * 1024 * 1024;

/// One frame of the stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// The `id:` line: the brain's sequence number.
    pub seq: Option<i64>,
    /// The `event:` line.
    pub name: String,
    /// The `data:` line.
    pub data: Value,
}

impl Frame {
    /// A text field of the payload; empty when absent.
    pub fn text(&self, field: &str) -> &str {
        self.data.get(field).and_then(Value::as_str).unwrap_or_default()
    }

    /// A number of the payload; 0 when absent.
    pub fn number(&self, field: &str) -> u64 {
        self.data.get(field).and_then(Value::as_u64).unwrap_or_default()
    }

    /// A flag of the payload; false when absent.
    pub fn flag(&self, field: &str) -> bool {
        self.data.get(field).and_then(Value::as_bool).unwrap_or_default()
    }

    /// The last frame of a turn.
    pub fn is_final(&self) -> bool {
        self.name == "thread_lifecycle" && matches!(self.text("phase"), "completed" | "errored")
    }
}

/// What made the stream unreadable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// A frame grew beyond the limit.
    #[error("a frame of the stream is larger than {MAX_FRAME_BYTES} bytes")]
    TooLarge,
    /// The data is not JSON.
    #[error("the stream is not made of JSON frames; is this address an Engine?")]
    NotJson,
}

/// The parser of one connection.
#[derive(Debug, Default)]
pub struct Frames {
    buffer: Vec<u8>,
    seq: Option<i64>,
    name: String,
    data: Option<String>,
}

impl Frames {
    /// Takes the next bytes, appends the frames they complete.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<Frame>) -> Result<(), Unreadable> {
        self.buffer.extend_from_slice(bytes);
        let mut start = 0;
        while let Some(length) = self.buffer[start..].iter().position(|b| *b == b'\n') {
            let line = String::from_utf8_lossy(&self.buffer[start..start + length]).into_owned();
            start += length + 1;
            if let Some(frame) = self.line(line.strip_suffix('\r').unwrap_or(&line))? {
                out.push(frame);
            }
        }
        self.buffer.drain(..start);
        let held = self.buffer.len() + self.data.as_ref().map_or(0, String::len);
        if held > MAX_FRAME_BYTES { Err(Unreadable::TooLarge) } else { Ok(()) }
    }

    fn line(&mut self, line: &str) -> Result<Option<Frame>, Unreadable> {
        if line.is_empty() {
            let (seq, name) = (self.seq.take(), std::mem::take(&mut self.name));
            return match self.data.take() {
                Some(data) => {
                    let data = serde_json::from_str(&data).map_err(|_| Unreadable::NotJson)?;
                    Ok(Some(Frame { seq, name, data }))
                }
                None => Ok(None),
            };
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.seq = value.parse().ok(),
            "event" => value.clone_into(&mut self.name),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            _ => {} // a comment or a field this reader does not need
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const STREAM: &str = "id: 7\nevent: text_delta\ndata: {\"text\":\"Grüße\"}\n\nid: 8\nevent: usage\ndata: {\"input_tokens\":\ndata: 3}\n\nid: 9\nevent: text_delta\ndata: {\"te";

    #[test]
    fn any_chunking_gives_the_same_frames_and_a_cut_frame_is_dropped() {
        let expected = vec![
            Frame { seq: Some(7), name: "text_delta".into(), data: json!({"text": "Grüße"}) },
            Frame { seq: Some(8), name: "usage".into(), data: json!({"input_tokens": 3}) },
        ];
        for size in 1..STREAM.len() {
            let (mut frames, mut out) = (Frames::default(), Vec::new());
            for chunk in STREAM.as_bytes().chunks(size) {
                frames.push(chunk, &mut out).expect("readable");
            }
            assert_eq!(out, expected, "chunks of {size}");
        }
    }

    #[test]
    fn something_that_is_not_an_engine_is_told_from_a_stream() {
        let mut out = Vec::new();
        assert_eq!(Frames::default().push(b"data: <html>\n\n", &mut out), Err(Unreadable::NotJson));
    }
}
