//! An HTTP server that answers what a test tells it to, and remembers what it was asked.
//!
//! One request per connection, one thread per connection: what is cut is really cut, in the middle of a
//! chunk if the test says so.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Longest wait for a request a test has announced.
const LIMIT: Duration = Duration::from_secs(20);

/// One request, as it came.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).expect("a JSON body")
    }
}

/// One piece of a streamed answer.
pub enum Piece {
    /// These bytes, at once.
    Send(String),
    /// Nothing, until a request with this path has come.
    WaitFor(&'static str),
}

/// How a stream ends.
#[derive(Clone, Copy)]
pub enum End {
    /// As HTTP has it.
    Whole,
    /// The connection is dropped.
    Cut,
}

/// What to answer.
pub enum Reply {
    Plain {
        status: u16,
        body: String,
    },
    Stream {
        pieces: Vec<Piece>,
        end: End,
    },
    /// The connection is dropped without a word.
    Nothing,
}

impl Reply {
    pub fn json(status: u16, body: &str) -> Self {
        Reply::Plain { status, body: body.to_owned() }
    }
}

#[derive(Default)]
struct Log {
    seen: Mutex<Vec<Seen>>,
    came: Condvar,
}

/// The server; it lives as long as the test process.
pub struct FakeEngine {
    port: u16,
    log: Arc<Log>,
}

impl FakeEngine {
    /// Starts answering with `answer`.
    pub fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (log, answer) = (Arc::new(Log::default()), Arc::new(answer));
        let shared = Arc::clone(&log);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, answer) = (Arc::clone(&shared), Arc::clone(&answer));
                std::thread::spawn(move || serve(stream, &log, answer.as_ref()));
            }
        });
        Self { port, log }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.log.seen.lock().expect("not poisoned").clone()
    }

    /// The requests with this path (query apart).
    pub fn seen_at(&self, path: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|s| s.path.split('?').next() == Some(path)).collect()
    }
}

fn serve(stream: TcpStream, log: &Log, answer: &dyn Fn(&Seen) -> Reply) {
    let Some(request) = read(&stream) else { return };
    log.seen.lock().expect("not poisoned").push(request.clone());
    log.came.notify_all();
    // A client that has gone away is part of many tests.
    let _ = write(&stream, answer(&request), log);
}

fn read(stream: &TcpStream) -> Option<Seen> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace().skip(1);
    let mut seen = Seen { path: words.next()?.to_owned(), ..Seen::default() };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        seen.headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let length = seen.header("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    seen.body = String::from_utf8(body).ok()?;
    Some(seen)
}

fn write(mut stream: &TcpStream, reply: Reply, log: &Log) -> std::io::Result<()> {
    match reply {
        Reply::Nothing => Ok(()),
        Reply::Plain { status, body } => write!(
            stream,
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        ),
        Reply::Stream { pieces, end } => {
            write!(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
            )?;
            for piece in pieces {
                match piece {
                    Piece::Send(text) => write!(stream, "{:x}\r\n{text}\r\n", text.len())?,
                    Piece::WaitFor(path) => wait_for(log, path),
                }
                stream.flush()?;
            }
            match end {
                End::Whole => write!(stream, "0\r\n\r\n"),
                End::Cut => Ok(()),
            }
        }
    }
}

fn wait_for(log: &Log, path: &str) {
    let seen = log.seen.lock().expect("not poisoned");
    let waited = log.came.wait_timeout_while(seen, LIMIT, |seen| !seen.iter().any(|s| s.path == path));
    drop(waited);
}

/// One frame of the Engine's stream.
pub fn frame(seq: i64, event: &str, mut payload: serde_json::Value) -> String {
    payload["task_id"] = "t".into();
    payload["turn_id"] = "turn-1".into();
    payload["timestamp"] = "2026-04-27T12:34:56.000Z".into();
    format!("id: {seq}\nevent: {event}\ndata: {payload}\n\n")
}
