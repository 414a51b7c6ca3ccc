//! A client that costs next to nothing: one blocking connection, HTTP/1.1, bodies with a length or in chunks.
//!
//! Own code rather than a crate, because what is measured here is the Engine and the client shares its CPU.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// The key of every Engine here.
pub const KEY: &str = "benchmark-key-1";
/// Longest silence of a server before a measurement is given up. Heartbeats come every 15 s.
const SILENCE: Duration = Duration::from_secs(60);
/// Bytes read at once.
const READ: usize = 64 * 1024;

/// One connection to an Engine, kept open between requests.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    start: usize,
    left: Left,
}

/// What is still to come of the body under way.
#[derive(Clone, Copy, PartialEq)]
enum Left {
    /// So many bytes, and then the body is over.
    Length(usize),
    /// A chunk is expected.
    Chunk,
    /// Nothing: the next bytes are another answer.
    Nothing,
}

fn nonsense(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

impl Connection {
    /// Connects to an Engine on loopback.
    pub fn open(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        Ok(Self { stream, buffer: Vec::new(), start: 0, left: Left::Nothing })
    }

    /// Sends a request and reads the head of its answer; returns the status.
    pub fn ask(&mut self, method: &str, target: &str, body: &str) -> io::Result<u16> {
        let request = format!(
            "{method} {target} HTTP/1.1\r\nhost: 127.0.0.1\r\nx-engine-key: {KEY}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.write_all(request.as_bytes())?;
        let end = loop {
            if let Some(at) = find(&self.buffer[self.start..], b"\r\n\r\n") {
                break self.start + at;
            }
            self.fill()?;
        };
        let head = String::from_utf8_lossy(&self.buffer[self.start..end]).to_ascii_lowercase();
        self.start = end + 4;
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok());
        let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")?.trim().parse().ok());
        self.left = match length {
            Some(0) => Left::Nothing,
            Some(length) => Left::Length(length),
            None if head.contains("transfer-encoding: chunked") => Left::Chunk,
            None => return Err(nonsense("an answer without a length")),
        };
        status.ok_or_else(|| nonsense("an answer without a status"))
    }

    /// Appends the next piece of the body to `out`; false at its end.
    pub fn piece(&mut self, out: &mut Vec<u8>) -> io::Result<bool> {
        match self.left {
            Left::Nothing => Ok(false),
            Left::Length(length) => {
                if self.start == self.buffer.len() {
                    self.fill()?;
                }
                let there = (self.buffer.len() - self.start).min(length);
                out.extend_from_slice(&self.buffer[self.start..self.start + there]);
                self.start += there;
                self.left = if there == length { Left::Nothing } else { Left::Length(length - there) };
                Ok(true)
            }
            Left::Chunk => {
                let (from, size) = loop {
                    if let Some(at) = find(&self.buffer[self.start..], b"\r\n") {
                        let line = String::from_utf8_lossy(&self.buffer[self.start..self.start + at]);
                        let size = usize::from_str_radix(line.trim(), 16);
                        break (self.start + at + 2, size.map_err(|_| nonsense("a chunk without a size"))?);
                    }
                    self.fill()?;
                };
                let skipped = from - self.start;
                self.start = from;
                while self.buffer.len() - self.start < size + 2 {
                    self.fill()?;
                }
                debug_assert!(skipped > 0);
                out.extend_from_slice(&self.buffer[self.start..self.start + size]);
                self.start += size + 2;
                if size == 0 {
                    self.left = Left::Nothing;
                }
                Ok(size > 0)
            }
        }
    }

    /// Reads the rest of the body.
    pub fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        while self.piece(&mut out)? {}
        Ok(out)
    }

    fn fill(&mut self) -> io::Result<()> {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        let length = self.buffer.len();
        self.buffer.resize(length + READ, 0);
        let read = self.stream.read(&mut self.buffer[length..])?;
        self.buffer.truncate(length + read);
        if read == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

/// Where `wanted` begins in `text`.
pub fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|w| w == wanted)
}

/// Takes the complete frames out of `text`: name and data of each.
pub fn frames(text: &mut Vec<u8>, mut each: impl FnMut(&str, &str)) {
    let mut start = 0;
    while let Some(at) = find(&text[start..], b"\n\n") {
        let frame = std::str::from_utf8(&text[start..start + at]).expect("frames are UTF-8");
        let field = |name: &str| frame.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
        each(field("event: "), field("data: "));
        start += at + 2;
    }
    text.drain(..start);
}
