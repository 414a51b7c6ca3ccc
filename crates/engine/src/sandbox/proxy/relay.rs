//! Bytes in both directions, until both are done, nothing moves any more, or too much has moved.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Bytes of one connection, both directions together. Larger lets one command fill a disk or a bill, smaller
/// breaks downloads of toolchains.
const BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;
/// A connection on which nothing moves this long is closed. Longer holds places for dead peers, shorter breaks
/// servers that think.
const IDLE_MAX: Duration = Duration::from_secs(120);
/// One read. Larger wastes memory per connection, smaller costs system calls.
const PIECE: usize = 16 * 1024;

struct Meter {
    moved: AtomicU64,
    last: Mutex<Instant>,
    bytes_max: u64,
}

impl Meter {
    /// Counts a piece; false when the limit is reached.
    fn count(&self, bytes: usize) -> bool {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.moved.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64 <= self.bytes_max
    }

    /// Returns when nothing has moved for `idle`.
    async fn idle(&self, idle: Duration) {
        loop {
            let until = *self.last.lock().unwrap_or_else(PoisonError::into_inner) + idle;
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

/// Moves bytes between the two until it is over.
pub(in crate::sandbox) async fn relay(one: &mut TcpStream, other: &mut TcpStream) {
    limited(one, other, BYTES_MAX, IDLE_MAX).await;
}

async fn limited(one: &mut TcpStream, other: &mut TcpStream, bytes_max: u64, idle: Duration) {
    let meter = Meter { moved: AtomicU64::new(0), last: Mutex::new(Instant::now()), bytes_max };
    let (mut one_reads, mut one_writes) = one.split();
    let (mut other_reads, mut other_writes) = other.split();
    let both = async {
        tokio::try_join!(
            pump(&mut one_reads, &mut other_writes, &meter),
            pump(&mut other_reads, &mut one_writes, &meter)
        )
    };
    tokio::select! {
        _ = both => {}
        () = meter.idle(idle) => {}
    }
}

/// One direction. Its end is passed on and leaves the other direction alone; a failure ends both.
async fn pump<R, W>(from: &mut R, to: &mut W, meter: &Meter) -> Result<(), ()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece).await {
            Ok(0) => return to.shutdown().await.map_err(drop),
            Ok(count) => {
                if !meter.count(count) || to.write_all(&piece[..count]).await.is_err() {
                    return Err(());
                }
            }
            Err(_) => return Err(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let connected = TcpStream::connect(listener.local_addr().expect("bound"));
        let (connected, accepted) = tokio::join!(connected, listener.accept());
        (connected.expect("connected"), accepted.expect("accepted").0)
    }

    #[tokio::test]
    async fn an_end_of_one_direction_leaves_the_other_open() {
        let (mut client, mut near) = pair().await;
        let (mut far, mut server) = pair().await;
        let relaying = tokio::spawn(async move { relay(&mut near, &mut far).await });
        client.write_all(b"question").await.expect("written");
        client.shutdown().await.expect("half closed");
        let mut question = String::new();
        server.read_to_string(&mut question).await.expect("the whole question");
        server.write_all(b"answer").await.expect("written");
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("the whole answer");
        assert_eq!((question.as_str(), answer.as_str()), ("question", "answer"));
        relaying.await.expect("ended");
    }

    #[tokio::test]
    async fn too_many_bytes_and_too_long_a_silence_end_it() {
        let (mut client, mut near) = pair().await;
        let (mut far, mut server) = pair().await;
        let counting = tokio::spawn(async move { limited(&mut near, &mut far, 1000, IDLE_MAX).await });
        let _ = client.write_all(&[7; 5000]).await;
        counting.await.expect("ended");
        let mut got = Vec::new();
        let _ = server.read_to_end(&mut got).await;
        assert!(got.len() <= 1000, "{}", got.len());

        let (_client, mut near) = pair().await;
        let (mut far, _server) = pair().await;
        let silent = limited(&mut near, &mut far, 1000, Duration::from_millis(50));
        tokio::time::timeout(Duration::from_secs(10), silent).await.expect("it ends by itself");
    }
}
