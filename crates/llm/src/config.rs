//! Which provider to use and how to reach it, and the one function that makes it.

use crate::anthropic::Anthropic;
use crate::gemini::Gemini;
use crate::offline::Offline;
use crate::openai::OpenAi;
use crate::provider::Provider;
use crate::wire::{Line, Remote, Timeouts};
use std::fmt;
use std::sync::Arc;

/// The values of LLM_PROVIDER.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProviderKind {
    /// OpenAI, and every server that speaks its chat completions.
    OpenAi,
    /// Anthropic.
    Anthropic,
    /// Google Gemini.
    Gemini,
    /// The built-in rule set, without network. Never chosen unless named.
    Offline,
}

impl ProviderKind {
    /// Every value.
    pub const ALL: [ProviderKind; 4] =
        [ProviderKind::OpenAi, ProviderKind::Anthropic, ProviderKind::Gemini, ProviderKind::Offline];

    /// The word of LLM_PROVIDER.
    pub const fn as_str(self) -> &'static str {
        match self {
            ProviderKind::OpenAi => "openai",
            ProviderKind::Anthropic => "anthropic",
            ProviderKind::Gemini => "gemini",
            ProviderKind::Offline => "offline",
        }
    }

    /// Reads the word back.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.as_str() == text)
    }

    /// The model when LLM_MODEL is not set.
    pub const fn default_model(self) -> &'static str {
        match self {
            ProviderKind::OpenAi => "gpt-4o",
            ProviderKind::Anthropic => "claude-sonnet-5-5",
            ProviderKind::Gemini => "gemini-3.8-flash",
            ProviderKind::Offline => "offline-1",
        }
    }

    /// The address when LLM_BASE_URL is not set; none for `offline`.
    pub const fn default_base(self) -> Option<&'static str> {
        match self {
            ProviderKind::OpenAi => Some(crate::openai::DEFAULT_BASE),
            ProviderKind::Anthropic => Some(crate::anthropic::DEFAULT_BASE),
            ProviderKind::Gemini => Some(crate::gemini::DEFAULT_BASE),
            ProviderKind::Offline => None,
        }
    }
}

/// How to reach a provider.
#[derive(Clone, PartialEq, Eq)]
pub struct ProviderConfig {
    /// Which one.
    pub provider: ProviderKind,
    /// The key; without one no auth header is sent. Blanks around it are removed.
    pub api_key: Option<String>,
    /// Replaces [`ProviderKind::default_base`] exactly.
    pub base_url: Option<String>,
    /// Time limits.
    pub timeouts: Timeouts,
}

impl fmt::Debug for ProviderConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderConfig")
            .field("provider", &self.provider)
            .field("api_key", &self.api_key.as_ref().map(|_| "[redacted]"))
            .field("base_url", &self.base_url.as_deref().map(without_login))
            .field("timeouts", &self.timeouts)
            .finish()
    }
}

/// A URL without the user name and password it may carry.
fn without_login(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://[redacted]@{host}"),
        _ => url.to_owned(),
    }
}

/// Makes the provider. Reads nothing, connects to nothing; that happens at the first call.
pub fn build(config: ProviderConfig) -> Arc<dyn Provider> {
    let ProviderConfig { provider, api_key, base_url, timeouts } = config;
    let key = api_key.map(|k| k.trim().to_owned()).filter(|k| !k.is_empty());
    let base = base_url.as_deref();
    let line = Line::new(timeouts, key.clone());
    match provider {
        ProviderKind::OpenAi => Arc::new(Remote::new(OpenAi::new(base, key), line)),
        ProviderKind::Anthropic => Arc::new(Remote::new(Anthropic::new(base, key), line)),
        ProviderKind::Gemini => Arc::new(Remote::new(Gemini::new(base, key), line)),
        ProviderKind::Offline => Arc::new(Offline),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_not_shown() {
        let config = ProviderConfig {
            provider: ProviderKind::OpenAi,
            api_key: Some("sk-canary".into()),
            base_url: Some("http://ada:canary@proxy.internal/v1".into()),
            timeouts: Timeouts::default(),
        };
        let shown = format!("{config:?}");
        assert!(shown.contains("Some(\"[redacted]\")") && !shown.contains("canary"), "{shown}");
        assert!(shown.contains("http://[redacted]@proxy.internal/v1"), "{shown}");
    }

    #[test]
    fn every_word_reads_back_and_names_its_provider() {
        for kind in ProviderKind::ALL {
            assert_eq!(ProviderKind::parse(kind.as_str()), Some(kind));
            let config = ProviderConfig {
                provider: kind,
                api_key: None,
                base_url: None,
                timeouts: Timeouts::default(),
            };
            assert_eq!(build(config).name(), kind.as_str());
        }
        assert_eq!(ProviderKind::parse("OpenAI"), None);
    }
}
