//! Whether the model provider can be reached and accepts the key: one cheap request that makes no tokens.

use super::Check;
use crate::config::{Config, Provider};
use llm::ProviderKind;
use reqwest::StatusCode;
use std::time::Duration;

/// How long the provider may take. Longer makes the report feel stuck; shorter accuses slow networks.
const LIMIT: Duration = Duration::from_secs(6);

/// Asks the configured provider for its models.
pub fn provider(config: &Config) -> Vec<Check> {
    let word = config.llm_provider.as_str();
    let base = match (&config.llm_base_url, ProviderKind::parse(word).and_then(ProviderKind::default_base)) {
        (Some(base), _) => base.clone(),
        (None, Some(base)) => base.to_owned(),
        (None, None) => {
            return vec![Check::ok("provider", format!("{word}: built in, nothing to reach"))];
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return vec![Check::error("provider", format!("could not be asked: {error}"), "")],
    };
    vec![runtime.block_on(ask(config, word, base.trim_end_matches('/')))]
}

async fn ask(config: &Config, word: &str, base: &str) -> Check {
    let key = config.llm_api_key.as_ref().map(|k| k.expose().trim().to_owned());
    let client = llm::net::client(LIMIT);
    let request = match config.llm_provider {
        Provider::Openai => {
            let request = client.get(format!("{base}/models"));
            key.iter().fold(request, |r, key| r.bearer_auth(key))
        }
        Provider::Anthropic => {
            let request = client.get(format!("{base}/v1/models")).header("anthropic-version", "2023-06-01");
            key.iter().fold(request, |r, key| r.header("x-api-key", key))
        }
        Provider::Gemini => {
            let request = client.get(format!("{base}/v1beta/models"));
            key.iter().fold(request, |r, key| r.header("x-goog-api-key", key))
        }
        Provider::Offline => return Check::ok("provider", "offline: built in, nothing to reach"),
    };
    let host = base.split("://").nth(1).and_then(|r| r.split('/').next()).unwrap_or(base);
    match request.timeout(LIMIT).send().await {
        Ok(response) => judge(response.status(), word, host, &config.llm_model),
        Err(error) => Check::error(
            "provider",
            format!("{word} at {host} cannot be reached ({})", llm::net::describe(error)),
            "check the network, a proxy (HTTPS_PROXY), CA certificates (SSL_CERT_FILE), or LLM_BASE_URL",
        ),
    }
}

fn judge(status: StatusCode, word: &str, host: &str, model: &str) -> Check {
    if status.is_success() {
        return Check::ok("provider", format!("{word} at {host} accepts the key; model {model}"));
    }
    match status.as_u16() {
        401 | 403 => Check::error(
            "provider",
            format!("{word} at {host} refuses the key ({status})"),
            "set LLM_API_KEY to a valid key of this provider",
        ),
        // Compatible servers need not list their models; that they answer is what counts.
        404 | 405 => Check::ok("provider", format!("{word} at {host} answers; it does not list models")),
        429 => Check::warning(
            "provider",
            format!("{word} at {host} limits the rate at the moment"),
            "wait, or raise the account's limit",
        ),
        _ => Check::warning(
            "provider",
            format!("{word} at {host} answers {status}"),
            "look at the provider's status page",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn a_refused_key_is_an_error_and_an_unlisted_model_is_not() {
        let state = |code: u16| judge(StatusCode::from_u16(code).expect("valid"), "openai", "h", "m").state;
        assert_eq!((state(200), state(401), state(404)), (State::Ok, State::Error, State::Ok));
        assert_eq!((state(429), state(500)), (State::Warning, State::Warning));
    }
}
