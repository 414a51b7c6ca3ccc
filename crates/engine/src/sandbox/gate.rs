//! The way from inside the sandbox to the Engine's proxy, and to nobody else.
//!
//! Two kinds, by what the machine offers. With a network namespace of its own, a child finds a listener on the
//! loopback of that namespace; process 1 makes it and hands it out, and what arrives there is relayed to the
//! proxy. Without one, landlock refuses every TCP connection, and [`super::notify`] lends a child that asks for
//! the proxy's address a connection the Engine has made.
//!
//! Landlock's rule about a port is not enough by itself: it sees the port and not the address, so a child could
//! talk to any machine that listens on the proxy's number.
//!
//! The invariant: whatever a child does, the only address it gets a connection to is the proxy's.

use super::door;
use super::notify;
use super::proxy::relay::relay;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// Connections of one launch at once. More would only wait at the proxy, which serves as many; fewer stall
/// parallel downloads.
const CONNECTIONS_MAX: usize = 64;
/// How long the proxy may take to accept. It is this very process: longer only holds a place.
pub(super) const PROXY_WAIT: Duration = Duration::from_secs(5);
/// How long is waited when no descriptor is left; those that are open end by themselves.
const SHORT_OF_DESCRIPTORS: Duration = Duration::from_millis(50);

/// What a child hands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A listener in its own network namespace.
    Listener,
    /// Where the kernel asks about its `connect` calls.
    Notifier,
}

/// A gate that waits for what the child hands out.
#[derive(Debug)]
pub(super) struct Door {
    /// The Engine's end.
    pub end: OwnedFd,
    pub kind: Kind,
    /// Where the proxy listens.
    pub port: u16,
}

impl Door {
    /// Opens it; the child has been started.
    pub(super) fn open(self) -> io::Result<Gate> {
        let handed = door::take(&self.end)?;
        let port = self.port;
        Ok(Gate(match self.kind {
            Kind::Listener => {
                let listener = std::net::TcpListener::from(handed);
                listener.set_nonblocking(true)?;
                let listener = TcpListener::from_std(listener)?;
                tokio::spawn(serve(listener, port))
            }
            Kind::Notifier => tokio::spawn(notify::supervise(handed, port)),
        }))
    }
}

/// An open gate; dropping it closes it.
#[derive(Debug)]
pub(super) struct Gate(JoinHandle<()>);

impl Drop for Gate {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn serve(listener: TcpListener, port: u16) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((mut inner, _)) => {
                tokio::spawn(async move {
                    if let Ok(mut outer) = to_proxy(port).await {
                        relay(&mut inner, &mut outer).await;
                    }
                    drop(place);
                });
            }
            Err(_) => tokio::time::sleep(SHORT_OF_DESCRIPTORS).await,
        }
    }
}

/// A connection to the proxy.
pub(super) async fn to_proxy(port: u16) -> io::Result<TcpStream> {
    match tokio::time::timeout(PROXY_WAIT, TcpStream::connect((Ipv4Addr::LOCALHOST, port))).await {
        Ok(connected) => connected,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
