//! What can come back instead of an answer, and what it means to whoever called the backend.
//!
//! Pure. The one invariant: silence in any form is `Unreachable`; only words of the daemon become anything else.

use crate::BackendError;
use bollard::errors::Error;

/// Longest text taken over from the daemon, in characters. Longer fills audit rows; shorter cuts the half of a
/// nested message that names the cause.
const WORDS_MAX_CHARS: usize = 500;

/// Why a call to the daemon gave no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Nobody answered, or the line broke.
    Silence(String),
    /// The daemon answered with an error.
    Said {
        /// HTTP status.
        status: u16,
        /// Its words.
        words: String,
    },
    /// The daemon answered something we cannot use.
    Garbled(String),
}

impl Refusal {
    /// There is no such thing.
    pub fn is_absent(&self) -> bool {
        matches!(self, Refusal::Said { status: 404, .. })
    }

    /// It stands in the way of something, or is in another state than asked for.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Refusal::Said { status: 409, .. })
    }

    /// It is so already.
    pub fn is_unchanged(&self) -> bool {
        matches!(self, Refusal::Said { status: 304, .. })
    }

    /// Somebody else listens on the host port.
    pub fn is_port_taken(&self) -> bool {
        self.words().is_some_and(|words| {
            words.contains("port is already allocated") || words.contains("address already in use")
        })
    }

    /// The network has no room for another endpoint.
    pub fn is_network_full(&self) -> bool {
        const FULL: [&str; 3] =
            ["no available IPv4 addresses", "exchange full", "could not find an available"];
        self.words().is_some_and(|words| FULL.iter().any(|full| words.contains(full)))
    }

    /// Containers are on the network.
    pub fn is_network_in_use(&self) -> bool {
        self.words().is_some_and(|words| words.contains("has active endpoints"))
    }

    /// Several networks have the name of ours.
    pub fn is_network_ambiguous(&self) -> bool {
        self.words().is_some_and(|words| words.contains("is ambiguous"))
    }

    /// A directory to be mounted is not there.
    pub fn is_mount_missing(&self) -> bool {
        self.words().is_some_and(|words| words.contains("bind source path does not exist"))
    }

    /// The daemon's words, if it said any.
    pub fn words(&self) -> Option<&str> {
        match self {
            Refusal::Said { words, .. } => Some(words),
            Refusal::Silence(_) | Refusal::Garbled(_) => None,
        }
    }

    /// The same without these texts, where they are long enough to be recognised.
    pub fn without<'a>(self, secrets: impl Iterator<Item = &'a String>) -> Self {
        match self {
            Refusal::Said { status, mut words } => {
                // Shorter values ("1", "offline") would blot out innocent words and hide nothing.
                for secret in secrets.filter(|secret| secret.len() >= 8) {
                    words = words.replace(secret.as_str(), "[redacted]");
                }
                Refusal::Said { status, words }
            }
            Refusal::Silence(_) | Refusal::Garbled(_) => self,
        }
    }
}

impl From<Error> for Refusal {
    fn from(err: Error) -> Self {
        match err {
            // A proxy in front of a daemon that is gone says so with these.
            Error::DockerResponseServerError { status_code: status @ (502..=504), message } => {
                Refusal::Silence(shortened(&format!("{status} {message}")))
            }
            Error::DockerResponseServerError { status_code, message } => {
                Refusal::Said { status: status_code, words: shortened(&message) }
            }
            Error::DockerStreamError { error } => Refusal::Said { status: 500, words: shortened(&error) },
            Error::JsonDataError { .. }
            | Error::APIVersionParseError { .. }
            | Error::StrParseError { .. }
            | Error::HttpHeaderNotFoundError(_)
            | Error::HttpHeaderToStrError { .. } => Refusal::Garbled(shortened(&with_causes(&err))),
            _ => Refusal::Silence(shortened(&with_causes(&err))),
        }
    }
}

impl From<Refusal> for BackendError {
    fn from(refusal: Refusal) -> Self {
        let network_full = refusal.is_network_full();
        match refusal {
            Refusal::Silence(why) => BackendError::Unreachable(why),
            Refusal::Said { words, .. } if network_full => BackendError::Capacity(words),
            Refusal::Said { words, .. } => BackendError::Refused(words),
            Refusal::Garbled(why) => BackendError::Refused(why),
        }
    }
}

/// An error with everything that caused it, each said once.
fn with_causes(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = inner.source();
    }
    text
}

fn shortened(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(WORDS_MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status: u16, words: &str) -> Refusal {
        Error::DockerResponseServerError { status_code: status, message: words.into() }.into()
    }

    #[test]
    fn silence_is_unreachable_and_words_are_not() {
        let gone = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let silence = Refusal::from(Error::from(gone));
        assert!(matches!(BackendError::from(silence), BackendError::Unreachable(_)));
        assert!(matches!(BackendError::from(said(503, "no server")), BackendError::Unreachable(_)));
        assert_eq!(BackendError::from(said(500, "oh")), BackendError::Refused("oh".into()));
    }

    #[test]
    fn the_words_of_a_stolen_port_and_of_a_full_network_are_known() {
        let bind = "driver failed programming external connectivity on endpoint engine-1: \
                    Bind for 127.0.0.1:9001 failed: port is already allocated";
        assert!(said(500, bind).is_port_taken());
        let proxy = "Error starting userland proxy: listen tcp4 127.0.0.1:9001: bind: address already in use";
        assert!(said(500, proxy).is_port_taken());
        assert!(!said(500, "no space left on device").is_port_taken());
        let full = said(403, "no available IPv4 addresses on this network's address pools: engine_net");
        assert!(matches!(BackendError::from(full), BackendError::Capacity(_)));
    }

    #[test]
    fn values_of_the_environment_never_leave_with_the_daemons_words() {
        let values = ["sk-live-123456".to_owned(), "1".to_owned()];
        let clean = said(400, "invalid thing 1 sk-live-123456").without(values.iter());
        assert_eq!(clean.words(), Some("invalid thing 1 [redacted]"));
    }

    #[test]
    fn long_words_are_cut_and_stay_on_one_line() {
        let words = said(500, &format!("a\nb{}", "x".repeat(2000)));
        let text = words.words().expect("said");
        assert!(text.starts_with("a b") && text.chars().count() == WORDS_MAX_CHARS);
    }
}
