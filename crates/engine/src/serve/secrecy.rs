//! What keeps secrets in and commands from going out: the launcher with its scrubbed environment, and the proxy.
//!
//! The invariant: a sandbox that is required and cannot be had ends the start.

use super::scratch::future_scratch;
use super::{CONFIGURATION, Stop};
use crate::config::{self, Config};
use crate::sandbox;
use crate::sandbox::launcher::{Launcher, LauncherConfig};
use crate::sandbox::mark::Mark;
use crate::sandbox::proxy::Proxy;
use crate::sandbox::scrub::Parent;
use crate::secrets::Known;
use crate::tools::web;
use std::sync::Arc;

/// What keeps secrets in and commands from going out.
pub(super) struct Secrecy {
    pub(super) known: Arc<Known>,
    pub(super) proxy: Option<Arc<Proxy>>,
}

#[allow(
    clippy::disallowed_methods,
    reason = "children inherit from the real environment, scrubbed by the launcher"
)]
pub(super) fn launcher_of(config: &Config) -> Result<Launcher, Stop> {
    let (mode, scrub) = (config.engine_sandbox, config.subprocess_scrub_mode);
    let limits = sandbox::Limits {
        cpu_s: config.sandbox_cpu_s,
        memory_mb: config.sandbox_memory_mb,
        max_processes: config.sandbox_max_processes,
        max_file_mb: config.sandbox_max_file_mb,
        scratch_bytes: sandbox::SCRATCH_MAX_BYTES,
    };
    let parent = Parent {
        variables: std::env::vars_os().collect(),
        secret_names: config::VARS.iter().filter(|v| v.secret).map(|v| v.name.to_owned()).collect(),
    };
    let trial = Some(Mark::of_trial(&future_scratch(config)));
    let launcher = LauncherConfig { trial, ..LauncherConfig::new(mode, scrub, limits, parent) };
    Launcher::detect(launcher).map_err(|e| Stop {
        code: CONFIGURATION,
        message: format!("ENGINE_SANDBOX=required cannot be met: {e}"),
    })
}

/// The proxy for sandboxed commands, when hosts are named and the kernel can keep commands to it.
pub(super) async fn proxy_of(
    config: &Config,
    launcher: &Launcher,
    known: &Known,
) -> Result<Option<Arc<Proxy>>, Stop> {
    if config.tool_network_allowlist.is_empty() {
        return Ok(None);
    }
    if !launcher.can_reach_a_proxy() {
        tracing::warn!(
            "TOOL_NETWORK_ALLOWLIST is set, but commands stay without network: that needs seccomp, and bubblewrap or landlock 4 (Linux 6.7)"
        );
        return Ok(None);
    }
    let proxy = Proxy::start(web::guard(config)).await;
    let proxy = proxy.map_err(|e| Stop::failure(format!("start the proxy of the sandbox: {e}")))?;
    known.learn(proxy.token());
    Ok(Some(Arc::new(proxy)))
}
