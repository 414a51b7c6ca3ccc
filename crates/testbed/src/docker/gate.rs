//! A socket in front of a daemon's socket, that can be taken away, made to hang, and cut.
//!
//! It understands nothing of what passes through. The one invariant: what it is told takes effect on connections that
//! are open already, not only on new ones.

use std::path::{Path, PathBuf};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    hangs: bool,
    /// Connections of an earlier epoch are cut.
    epoch: u64,
}

/// A door to a daemon.
#[derive(Debug)]
pub struct SocketGate {
    directory: tempfile::TempDir,
    target: PathBuf,
    rule: watch::Sender<Rule>,
    accepting: std::sync::Mutex<Option<JoinHandle<()>>>,
}

impl SocketGate {
    /// An open door to this socket.
    pub fn to(target: &Path) -> Self {
        let gate = Self {
            directory: tempfile::tempdir().expect("a directory for a socket"),
            target: target.to_owned(),
            rule: watch::Sender::new(Rule { hangs: false, epoch: 0 }),
            accepting: std::sync::Mutex::default(),
        };
        gate.open();
        gate
    }

    /// As `DOCKER_HOST` names it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Where the door is.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("gate.sock")
    }

    /// Lets everything pass (again).
    pub fn open(&self) {
        self.rule.send_modify(|rule| rule.hangs = false);
        let mut accepting = self.accepting.lock().expect("no panic while held");
        if accepting.is_some() {
            return;
        }
        let listener = UnixListener::bind(self.socket()).expect("nobody else uses the directory");
        let (target, rule) = (self.target.clone(), self.rule.subscribe());
        *accepting = Some(tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, target.clone(), rule.clone()));
            }
        }));
    }

    /// Takes the socket away and cuts every connection, as a daemon that ended.
    pub fn close(&self) {
        if let Some(accepting) = self.accepting.lock().expect("no panic while held").take() {
            accepting.abort();
        }
        // Gone already when it was closed before.
        let _ = std::fs::remove_file(self.socket());
        self.cut();
    }

    /// From now on nothing passes, in no direction, but connections stay.
    pub fn hang(&self) {
        self.rule.send_modify(|rule| rule.hangs = true);
    }

    /// Cuts every connection; new ones pass.
    pub fn cut(&self) {
        self.rule.send_modify(|rule| rule.epoch += 1);
    }
}

impl Drop for SocketGate {
    fn drop(&mut self) {
        self.close();
    }
}

async fn carry(near: UnixStream, target: PathBuf, mut rule: watch::Receiver<Rule>) {
    let epoch = rule.borrow().epoch;
    let Ok(far) = UnixStream::connect(target).await else { return };
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let there = pass(near_read, far_write, rule.clone());
    let back = pass(far_read, near_write, rule.clone());
    tokio::select! {
        _ = async { tokio::join!(there, back) } => {}
        _ = rule.wait_for(|rule| rule.epoch != epoch) => {}
    }
}

async fn pass(
    mut from: tokio::net::unix::OwnedReadHalf,
    mut to: tokio::net::unix::OwnedWriteHalf,
    mut rule: watch::Receiver<Rule>,
) {
    let mut piece = vec![0; 16 * 1024];
    while let Ok(size @ 1..) = from.read(&mut piece).await {
        if rule.wait_for(|rule| !rule.hangs).await.is_err() || to.write_all(&piece[..size]).await.is_err() {
            return;
        }
    }
    // The other side may be gone already.
    let _ = to.shutdown().await;
}
