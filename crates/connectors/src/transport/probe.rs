//! A line to a server that may not know `server/discover` and may not answer it either: after five seconds the
//! line answers in its place that the method is unknown, and the handshake follows on the same line.

use rmcp::RoleClient;
use rmcp::model::{
    ClientJsonRpcMessage, ClientRequest, ErrorCode, ErrorData, RequestId, ServerJsonRpcMessage,
};
use rmcp::transport::Transport;
use std::time::Duration;
use tokio::time::Instant;

/// How long an old server may be silent. Longer delays its first use; shorter takes slow modern servers for old
/// ones.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(5);

/// A line that does not wait for ever for the answer to the probe.
pub(crate) struct Probe<T> {
    line: T,
    asked: Option<(RequestId, Instant)>,
}

impl<T> Probe<T> {
    pub fn new(line: T) -> Self {
        Self { line, asked: None }
    }
}

impl<T: Transport<RoleClient>> Transport<RoleClient> for Probe<T> {
    type Error = T::Error;

    fn send(
        &mut self,
        item: ClientJsonRpcMessage,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        if let ClientJsonRpcMessage::Request(request) = &item
            && matches!(request.request, ClientRequest::DiscoverRequest(_))
        {
            self.asked = Some((request.id.clone(), Instant::now() + SILENCE_MAX));
        }
        self.line.send(item)
    }

    async fn receive(&mut self) -> Option<ServerJsonRpcMessage> {
        let Some((id, until)) = self.asked.clone() else { return self.line.receive().await };
        match tokio::time::timeout_at(until, self.line.receive()).await {
            Ok(message) => {
                if matches!(message, Some(ServerJsonRpcMessage::Response(_) | ServerJsonRpcMessage::Error(_)))
                {
                    self.asked = None;
                }
                message
            }
            Err(_) => {
                self.asked = None;
                let silent =
                    ErrorData::new(ErrorCode::METHOD_NOT_FOUND, "no answer to server/discover", None);
                Some(ServerJsonRpcMessage::error(silent, Some(id)))
            }
        }
    }

    fn close(&mut self) -> impl Future<Output = Result<(), Self::Error>> + Send {
        self.line.close()
    }
}
