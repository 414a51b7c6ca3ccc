//! The tools that reach the web, from the configuration.

use super::file_search::file_search;
use super::tool::Tool;
use super::web_fetch::web_fetch;
use super::web_search::{self, Service, web_search};
use crate::config::Config;
use crate::outbound::{AllowList, Guard, SystemResolver};
use chassis::config::Secret;
use std::sync::Arc;

/// Where requests of this Engine's tools may go.
pub fn guard(config: &Config) -> Guard {
    Guard::new(AllowList::new(&config.tool_network_allowlist), Arc::new(SystemResolver))
}

/// web_search, web_fetch, and file_search, which searches like them but stays at home.
pub fn tools(config: &Config) -> Vec<Arc<dyn Tool>> {
    let service = |key: &Option<Secret>, base: &Option<String>, usual: &str| {
        let key = key.as_ref()?.expose().to_owned();
        Some(Service { base: base.clone().unwrap_or_else(|| usual.to_owned()), key })
    };
    let search = web_search(
        service(&config.brave_api_key, &config.brave_base_url, web_search::BRAVE),
        service(&config.tavily_api_key, &config.tavily_base_url, web_search::TAVILY),
    );
    let fetch = web_fetch(guard(config), config.web_fetch_enabled);
    vec![search, fetch, file_search()]
}
