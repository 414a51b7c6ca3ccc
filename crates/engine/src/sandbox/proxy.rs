//! The way out of the sandbox: an HTTP proxy inside the Engine that reaches the hosts an operator has named.
//!
//! Commands get its address and a token in HTTP_PROXY and HTTPS_PROXY; direct sockets stay blocked by the other
//! layers. CONNECT for anything with TLS, GET and HEAD of plain `http://`. Every request is resolved and checked
//! by [`crate::outbound`], and the connection goes to a checked address; redirects are the command's business,
//! because each one comes back here as a new request.
//!
//! A person's yes for a host beyond the list is a [`Pass`]: credentials of one call, with which that host is reached
//! and which end with the call. (specification 6.13)
//!
//! Refused here: hosts that are not in TOOL_NETWORK_ALLOWLIST, requests without the token, other methods. Not
//! here: looking into TLS.
//!
//! The invariant: no byte leaves before its destination was checked, and everything has a limit.

mod request;
pub(in crate::sandbox) mod relay;

use super::launcher::{Command, Network};
use crate::outbound::{Admitted, Guard, Refused};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rand::RngExt;
use request::{Asked, Problem};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
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
/// Letters of the name of a pass: one command must not guess another's.
const PASS_LENGTH: usize = 24;
/// Characters of the token: far more than can be guessed.
const TOKEN_LENGTH: usize = 32;
/// The variables programs look at.
const VARIABLES: [&str; 6] =
    ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY", "all_proxy"];

/// The running proxy. Dropping it closes its port.
pub struct Proxy {
    port: u16,
    token: String,
    door: Arc<Door>,
    accepting: JoinHandle<()>,
}

/// What one command may do at the proxy. Dropping it ends what it allows beyond the list.
pub struct Pass {
    user: String,
    token: String,
    port: u16,
    door: Arc<Door>,
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pass").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Pass {
    /// Lets a command use the proxy.
    pub fn open_for(&self, command: &mut Command) {
        command.network = Network::Proxy(self.port);
        let address = format!("http://{}:{}@127.0.0.1:{}", self.user, self.token, self.port);
        command.env.extend(VARIABLES.map(|name| (name.to_owned(), address.clone())));
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let credentials = credentials(&self.user, &self.token);
        self.door
            .passes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|(own, _)| *own != credentials);
    }
}

fn credentials(user: &str, token: &str) -> String {
    BASE64.encode(format!("{user}:{token}"))
}

fn letters(count: usize) -> String {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut random = rand::rng();
    (0..count).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())])).collect()
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
        let token = letters(TOKEN_LENGTH);
        let passes = Mutex::new(vec![(credentials(USER, &token), guard.clone())]);
        let door = Arc::new(Door { guard, passes });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&door)));
        Ok(Self { port, token, door, accepting })
    }

    /// The port it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its token, so that it can be kept out of what leaves.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// A pass for one command, with the hosts a person has allowed it beyond the list. These must be public.
    pub fn pass<S: AsRef<str>>(&self, granted: &[S]) -> Pass {
        let user = format!("call-{}", letters(PASS_LENGTH));
        let guard = self.door.guard.granting(granted);
        let own = (credentials(&user, &self.token), guard);
        self.door.passes.lock().unwrap_or_else(PoisonError::into_inner).push(own);
        Pass { user, token: self.token.clone(), port: self.port, door: Arc::clone(&self.door) }
    }

    /// Lets a command use it, for listed hosts.
    pub fn open_for(&self, command: &mut Command) {
        command.network = Network::Proxy(self.port);
        let address = format!("http://{USER}:{}@127.0.0.1:{}", self.token, self.port);
        command.env.extend(VARIABLES.map(|name| (name.to_owned(), address.clone())));
    }
}

/// Who may ask for what.
struct Door {
    guard: Guard,
    /// Credentials and what they open; as many as commands are under way.
    passes: Mutex<Vec<(String, Guard)>>,
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
    let (credentials, mut guards): (Vec<String>, Vec<Guard>) =
        door.passes.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().unzip();
    let (asked, whose) = request::read(head, &credentials)?;
    let admitted = guards.swap_remove(whose).admit_listed(asked.authority()).await?;
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
