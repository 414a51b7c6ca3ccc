//! The way out of the sandbox: an HTTP proxy inside the Engine that reaches the hosts an operator has named.
//!
//! Commands get its address and a token in HTTP_PROXY and HTTPS_PROXY; direct sockets stay blocked by the other
//! layers. CONNECT for anything with TLS, GET and HEAD of plain `http://`. Every request is resolved and checked
//! by [`crate::outbound`], and the connection goes to a checked address; redirects are the command's business,
//! because each one comes back here as a new request.
//!
//! Refused here: hosts that are not in TOOL_NETWORK_ALLOWLIST, requests without the token, other methods. Not
//! here: looking into TLS.
//!
//! The invariant: no byte leaves before its destination was checked, and everything has a limit.

mod request;
mod relay;

use super::launcher::{Command, Network};
use crate::outbound::{Admitted, Guard, Refused};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rand::RngExt;
use request::{Asked, Problem};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// Connections at once. More would let a command take the Engine's descriptors, fewer would stall parallel
/// downloads.
const CONNECTIONS_MAX: usize = 64;
/// Bytes of a request's head.
const HEAD_MAX: usize = 16 * 1024;
/// How long a head may take; a command that dawdles holds a place.
const HEAD_WAIT: Duration = Duration::from_secs(10);
/// How long connecting to one address may take.
const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// Name in the proxy's address; the token is what counts.
const USER: &str = "sandbox";
/// Characters of the token: far more than can be guessed.
const TOKEN_LENGTH: usize = 32;
/// The variables programs look at.
const VARIABLES: [&str; 6] =
    ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"];

/// The running proxy. Dropping it closes its port.
pub struct Proxy {
    port: u16,
    token: String,
    accepting: JoinHandle<()>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("port", &self.port)
            .field("token", &"[redacted]")
            .finish_non_exhaustive()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1, which is another one at every start.
    pub async fn start(guard: Guard) -> io::Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
        let port = listener.local_addr()?.port();
        let mut random = rand::rng();
        let letters = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let token: String =
            (0..TOKEN_LENGTH).map(|_| char::from(letters[random.random_range(0..letters.len())])).collect();
        let credentials = BASE64.encode(format!("{USER}:{token}"));
        let accepting = tokio::spawn(accept(listener, Arc::new(Door { guard, credentials })));
        Ok(Self { port, token, accepting })
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its token, so that it can be kept out of what leaves.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Lets a command use it.
    pub fn open_for(&self, command: &mut Command) {
        command.network = Network::Proxy(self.port);
        let address = format!("http://{USER}:{}@127.0.0.1:{}", self.token, self.port);
        command.env.extend(VARIABLES.map(|name| (name.to_owned(), address.clone())));
    }
}

struct Door {
    guard: Guard,
    credentials: String,
}

async fn accept(listener: TcpListener, door: Arc<Door>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // a place first: what cannot be served waits in the kernel's queue
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let door = Arc::clone(&door);
                tokio::spawn(async move {
                    serve(stream, &door).await;
                    drop(place);
                });
            }
            // descriptors are short: those that are open end by themselves
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Why a request was not passed on, as the command sees it.
struct Refusal {
    status: &'static str,
    text: String,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        let status = match problem {
            Problem::TooLong => "431 Request Header Fields Too Large",
            Problem::Malformed(_) => "400 Bad Request",
            Problem::NoToken => "407 Proxy Authentication Required",
            Problem::Method => "405 Method Not Allowed",
        };
        Self { status, text: problem.to_string() }
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        let status = match refused {
            Refused::Unknown(_) => "502 Bad Gateway",
            Refused::Url(_) => "400 Bad Request",
            _ => "403 Forbidden",
        };
        Self { status, text: format!("refused by the sandbox: {refused}") }
    }
}

async fn serve(mut stream: TcpStream, door: &Door) {
    if let Err(refusal) = passed_on(&mut stream, door).await {
        tracing::debug!(status = refusal.status, "The proxy refused a request of a command");
        let Refusal { status, text } = refusal;
        let asks =
            if status.starts_with("407") { "Proxy-Authenticate: Basic realm=\"sandbox\"\r\n" } else { "" };
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n{asks}Connection: close\r\n\r\n{text}\n",
            text.len() + 1
        );
        // who has hung up does not want to know
        let _ = tokio::time::timeout(HEAD_WAIT, stream.write_all(answer.as_bytes())).await;
        let _ = stream.shutdown().await;
    }
}

async fn passed_on(stream: &mut TcpStream, door: &Door) -> Result<(), Refusal> {
    let head = match tokio::time::timeout(HEAD_WAIT, head_of(stream)).await {
        Ok(head) => head?,
        Err(_) => return Err(Problem::Malformed("the request did not come").into()),
    };
    // a client that sends more than its head at once has begun to talk to the other side
    let (head, early) = head.split_at(request::head_length(&head).unwrap_or(head.len()));
    let asked = request::read(head, &door.credentials)?;
    let admitted = door.guard.admit_listed(asked.authority()).await?;
    let mut remote = connect(&admitted).await?;
    let sent = match &asked {
        Asked::Connect { .. } => {
            stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.and(Ok(()))
        }
        Asked::Plain { head, .. } => remote.write_all(head.as_bytes()).await,
    };
    if sent.is_ok() && remote.write_all(early).await.is_ok() {
        relay::relay(stream, &mut remote).await;
    }
    Ok(())
}

/// Reads until the empty line; what came with it comes too.
async fn head_of(stream: &mut TcpStream) -> Result<Vec<u8>, Problem> {
    let mut head = Vec::with_capacity(1024);
    let mut piece = [0; 1024];
    loop {
        match stream.read(&mut piece).await {
            Ok(count @ 1..) => head.extend_from_slice(&piece[..count]),
            Ok(0) | Err(_) => return Err(Problem::Malformed("the request is not complete")),
        }
        if request::head_length(&head).is_some() {
            return Ok(head);
        }
        if head.len() > HEAD_MAX {
            return Err(Problem::TooLong);
        }
    }
}

/// Connects to the first checked address that answers.
async fn connect(admitted: &Admitted) -> Result<TcpStream, Refusal> {
    let mut why = "no address answered".to_owned();
    for address in &admitted.addresses {
        match tokio::time::timeout(CONNECT_WAIT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => why = error.kind().to_string(),
            Err(_) => why = "it does not answer".to_owned(),
        }
    }
    let text = format!("`{}` cannot be reached: {why}", admitted.target.host);
    Err(Refusal { status: "502 Bad Gateway", text })
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
