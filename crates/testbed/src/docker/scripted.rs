//! A daemon that is nothing but answers: for what no real daemon does on demand.
//!
//! The test's function sees every request and answers or stays silent. The one invariant: it never answers anything
//! the test did not say.

use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

/// What a scripted daemon does about one request.
#[derive(Debug, Clone)]
pub enum Served {
    /// This status and this JSON.
    Answer(u16, Value),
    /// Nothing, for ever.
    Silence,
}

/// A daemon made of one function.
#[derive(Debug)]
pub struct ScriptedDaemon {
    directory: tempfile::TempDir,
    accepting: JoinHandle<()>,
}

impl ScriptedDaemon {
    /// Serves the function: method, path with query, body.
    pub fn serve(script: impl Fn(&str, &str, &[u8]) -> Served + Send + Sync + 'static) -> Self {
        let directory = tempfile::tempdir().expect("a directory for a socket");
        let listener = UnixListener::bind(directory.path().join("docker.sock")).expect("a fresh directory");
        let script = Arc::new(script);
        let accepting = tokio::spawn(async move {
            while let Ok((line, _)) = listener.accept().await {
                let script = Arc::clone(&script);
                let service = service_fn(move |request: http::Request<Incoming>| {
                    let script = Arc::clone(&script);
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                        match script(head.method.as_str(), &head.uri.to_string(), &body) {
                            Served::Answer(status, answer) => Ok::<_, Infallible>(
                                http::Response::builder()
                                    .status(status)
                                    .header("content-type", "application/json")
                                    .body(Full::new(bytes::Bytes::from(answer.to_string())))
                                    .expect("a status of three digits"),
                            ),
                            Served::Silence => std::future::pending().await,
                        }
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(line), service),
                );
            }
        });
        Self { directory, accepting }
    }

    /// As `DOCKER_HOST` names it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.directory.path().join("docker.sock").display())
    }
}

impl Drop for ScriptedDaemon {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
