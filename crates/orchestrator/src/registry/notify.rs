//! Telling the other replicas: notifications inside the transaction that changes state, and one listening connection.
//!
//! Correctness never rests on delivery: whoever waits also polls. After a reconnect, and after notices had to be
//! dropped because nobody took them, [`Notice::Reconnected`] says "read again everything you wait for".

use super::Registry;
use super::db::{Query, Shared, Tx};
use super::error::{Fault, chain};
use contract::{EngineId, OperationId, ProductId};
use fleet::operation::OperationStatus;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_postgres::AsyncMessage;

/// The channel.
pub(super) const CHANNEL: &str = "bap_events";
/// Notices waiting to be taken. More only hides a stuck reader; fewer turns a burst into a full re-read.
const WAITING: usize = 1024;
/// Pause before the first new connection, doubling up to the second. Shorter hammers a database that is coming up;
/// longer leaves waiters on their one-second poll for longer.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What another replica (or this one) did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "k", rename_all = "lowercase")]
pub enum Notice {
    /// A row of `engines` changed.
    Engine {
        /// Which.
        id: EngineId,
        /// Whose.
        product: ProductId,
        /// Its revision now.
        #[serde(rename = "rev")]
        revision: i64,
    },
    /// An operation was opened, ended, superseded, or its executor let go.
    Operation {
        /// Which.
        id: OperationId,
        /// On which engine.
        engine: EngineId,
        /// How far it is.
        status: OperationStatus,
    },
    /// A product was registered, changed or removed.
    Product {
        /// Which.
        id: ProductId,
    },
    /// The supervisor's lease is free.
    Lease,
    /// There is an operation that anybody may claim.
    Queue,
    /// Notices may have been missed: read again.
    #[serde(skip)]
    Reconnected,
}

const NOTIFY: Query = Query::new(
    "notify",
    "SELECT pg_notify('bap_events', payload) IS NULL FROM unnest($1::text[]) AS payload",
);

impl Notice {
    /// The JSON text of this notice; below 500 bytes, because it holds only ids and words.
    pub(super) fn payload(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Tx<'_> {
    /// Tells the others when, and only when, this transaction commits.
    pub(super) async fn tell(&self, notices: &[Notice]) -> Result<(), Fault> {
        let payloads: Vec<String> = notices.iter().map(Notice::payload).collect();
        self.rows(&NOTIFY, &[&payloads]).await.map(drop)
    }
}

impl Registry {
    /// Listens on a connection of its own, for as long as the receiver lives. The first notice is
    /// [`Notice::Reconnected`], as soon as the connection stands.
    pub fn listen(&self) -> mpsc::Receiver<Notice> {
        let (sender, receiver) = mpsc::channel(WAITING);
        tokio::spawn(keep_listening(self.database.clone(), Outlet { sender, missed: false }));
        receiver
    }
}

/// The sending end, which remembers that something was dropped.
struct Outlet {
    sender: mpsc::Sender<Notice>,
    missed: bool,
}

impl Outlet {
    fn send(&mut self, notice: Notice) {
        if self.missed && self.sender.try_send(Notice::Reconnected).is_ok() {
            self.missed = false;
        }
        if self.sender.try_send(notice).is_err() {
            self.missed = true;
        }
    }
}

async fn keep_listening(database: Shared, mut outlet: Outlet) {
    let mut pause = FIRST_PAUSE;
    let gone = outlet.sender.clone();
    loop {
        tokio::select! {
            () = gone.closed() => return,
            ended = listen_once(&database, &mut outlet, &mut pause) => {
                tracing::warn!(reason = %ended, "the connection that listens for notifications ended; connecting again");
            }
        }
        tokio::select! {
            () = gone.closed() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Listens until the connection ends; the answer is why it did.
async fn listen_once(database: &Shared, outlet: &mut Outlet, pause: &mut Duration) -> String {
    let (client, mut connection) = match database.dial().await {
        Ok(pair) => pair,
        Err(error) => return error.to_string(),
    };
    let listening = async move {
        let listened = client.batch_execute("LISTEN bap_events").await;
        // The client must outlive the listening: dropping it ends the connection.
        listened.map(|()| client)
    };
    tokio::pin!(listening);
    let mut kept = None;
    loop {
        tokio::select! {
            listened = &mut listening, if kept.is_none() => match listened {
                Ok(client) => {
                    kept = Some(client);
                    *pause = FIRST_PAUSE;
                    outlet.send(Notice::Reconnected);
                }
                Err(error) => return chain(&error),
            },
            message = std::future::poll_fn(|cx| connection.poll_message(cx)) => match message {
                Some(Ok(AsyncMessage::Notification(note))) => match serde_json::from_str(note.payload()) {
                    Ok(notice) => outlet.send(notice),
                    // A newer release may say more than this one understands.
                    Err(_) => tracing::debug!("a notification this release does not know"),
                },
                Some(Ok(_)) => {}
                Some(Err(error)) => return chain(&error),
                None => return "closed by the server".to_owned(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_short_and_read_back() {
        let engine = EngineId::generate();
        let all = [
            Notice::Engine { id: engine, product: ProductId::generate(), revision: i64::MAX },
            Notice::Operation { id: OperationId::generate(), engine, status: OperationStatus::Superseded },
            Notice::Product { id: ProductId::generate() },
            Notice::Lease,
            Notice::Queue,
        ];
        for notice in all {
            let text = notice.payload();
            assert!(text.len() < 500 && text.contains("\"k\":"), "{text}");
            assert_eq!(serde_json::from_str::<Notice>(&text).expect("reads back"), notice);
        }
    }

    #[test]
    fn a_full_outlet_asks_for_a_re_read() {
        let (sender, mut receiver) = mpsc::channel(1);
        let mut outlet = Outlet { sender, missed: false };
        outlet.send(Notice::Queue);
        outlet.send(Notice::Lease);
        assert_eq!(receiver.try_recv(), Ok(Notice::Queue));
        outlet.send(Notice::Queue);
        assert_eq!(receiver.try_recv(), Ok(Notice::Reconnected));
    }
}
