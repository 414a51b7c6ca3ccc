//! A caller that costs little: one keep-alive connection, requests written whole, answers read by their length.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longest answer that is read.
const ANSWER_MAX: usize = 64 * 1024;
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// The bytes of a request of a product.
pub fn request(api: SocketAddr, method: &str, path: &str, key: &str, body: &str) -> Vec<u8> {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: {api}\r\nx-platform-key: {key}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// One connection.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub fn open(api: SocketAddr) -> Self {
        let stream = TcpStream::connect(api).expect("the API listens");
        stream.set_nodelay(true).expect("an option of every TCP socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
        Self { stream, buffer: vec![0; ANSWER_MAX] }
    }

    /// Asks and reads the whole answer; the answer is its body.
    pub fn ask(&mut self, request: &[u8]) -> String {
        self.stream.write_all(request).expect("the request is taken");
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[filled..]).expect("an answer");
            assert!(read > 0, "the connection was closed");
            filled += read;
            let text = &self.buffer[..filled];
            let Some(head) = text.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
            let headers = String::from_utf8_lossy(&text[..head]).to_ascii_lowercase();
            let length = headers.lines().find_map(|l| l.strip_prefix("content-length:")).map(str::trim);
            let length: usize = length.and_then(|l| l.parse().ok()).expect("answers have a length");
            if filled >= head + 4 + length {
                return String::from_utf8_lossy(&text[head + 4..head + 4 + length]).into_owned();
            }
        }
    }
}

/// Requests per second of so many callers, for so long.
pub fn throughput(api: SocketAddr, request: &[u8], callers: usize, span: Duration) -> f64 {
    let over = AtomicBool::new(false);
    let answered = AtomicU64::new(0);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..callers {
            scope.spawn(|| {
                let mut connection = Connection::open(api);
                while !over.load(Ordering::Relaxed) {
                    assert!(connection.ask(request).contains("\"admitted\":true"), "an admit under load");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        std::thread::park_timeout(span);
        over.store(true, Ordering::Relaxed);
    });
    answered.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64()
}
