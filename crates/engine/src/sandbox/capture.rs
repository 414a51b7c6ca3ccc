//! A child's output: read as fast as we are ready for it, kept up to a limit, head and tail.

use std::collections::VecDeque;

/// Bytes kept of one stream. What a blob can hold of one call; larger costs memory for every running
/// command, smaller loses the middle of long build logs that nobody can ask for again.
pub const FULL_MAX: usize = 8 * 1024 * 1024;

/// What was kept of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    max: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    dropped: u64,
}

impl Default for Captured {
    fn default() -> Self {
        Self::with_limit(FULL_MAX)
    }
}

impl Captured {
    /// Keeps at most `max` bytes, half of them from the start and half from the end.
    pub fn with_limit(max: usize) -> Self {
        Self { max, head: Vec::new(), tail: VecDeque::new(), dropped: 0 }
    }

    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        let room = (self.max / 2).saturating_sub(self.head.len()).min(bytes.len());
        let (head, rest) = bytes.split_at(room);
        self.head.extend_from_slice(head);
        self.tail.extend(rest);
        let over = self.tail.len().saturating_sub(self.max - self.max / 2);
        self.tail.drain(..over);
        self.dropped += over as u64;
    }

    /// Bytes that were read but not kept.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The text, with a note in the place of what was not kept. Bytes that are not UTF-8 are replaced.
    pub fn into_text(self) -> String {
        let mut bytes = self.head;
        if self.dropped > 0 {
            bytes.extend_from_slice(format!("\n[… {} bytes were not kept …]\n", self.dropped).as_bytes());
        }
        bytes.extend(self.tail);
        match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(e) => String::from_utf8_lossy(e.as_bytes()).into_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_and_tail_survive_and_the_gap_is_counted() {
        let mut captured = Captured::with_limit(8);
        for chunk in ["ab", "cdefg", "hijklmnop", "z"] {
            captured.push(chunk.as_bytes());
        }
        assert_eq!(captured.dropped(), 9);
        assert_eq!(captured.into_text(), "abcd\n[… 9 bytes were not kept …]\nnopz");
    }

    #[test]
    fn short_output_is_kept_as_it_is() {
        let mut captured = Captured::default();
        captured.push(b"caf\xc3");
        captured.push(b"\xa9\n");
        assert_eq!(captured.into_text(), "café\n");
    }
}
