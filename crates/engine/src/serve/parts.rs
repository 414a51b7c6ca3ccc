//! What a running Engine is made of, put together from its configuration.
//!
//! Nothing here waits or serves. The invariant: what is sealed is sealed before the first tool exists.

use super::Stop;
use super::scratch::{make_private_dir, scratch_path};
use super::secrecy::Secrecy;
use crate::catalog::entries::HooksFile;
use crate::catalog::snapshot::Models;
use crate::catalog::{self, Shelf};
use crate::config::{self, Config};
use crate::core::Core;
use crate::feed::Feed;
use crate::http::app::App;
use crate::memory::Memory;
use crate::sandbox::Workspace;
use crate::sandbox::launcher::Launcher;
use crate::tools::registry::{BadTool, Registry};
use crate::tools::tool::Tool;
use crate::tools::{files, git, media_read, memory, own, search, shell, web};
use crate::turn::coordinator::Coordinator;
use brain::Brain;
use contract::Timestamp;
use llm::{Herald, ProviderConfig, ProviderKind, Timeouts};
use std::sync::{Arc, Mutex, OnceLock};
use tokio_util::sync::CancellationToken;

pub(super) fn core_of(
    app: &Arc<App>,
    config: Config,
    brain: Brain,
    launcher: Arc<Launcher>,
    Secrecy { known, proxy }: Secrecy,
    custom: &[brain::skills::Skill],
) -> Result<Arc<Core>, Stop> {
    for root in &config.allowed_roots {
        make_private_dir(root)?;
    }
    let scratch = scratch_path(&config);
    make_private_dir(&scratch)?;
    let scratch = std::fs::canonicalize(&scratch)
        .map_err(|e| Stop::failure(format!("resolve {}: {e}", scratch.display())))?;
    let absolute = |p: &std::path::Path| std::path::absolute(p).unwrap_or_else(|_| p.to_owned());
    let mut workspace = Workspace::new(&config.allowed_roots)
        .map_err(|e| Stop::failure(format!("open ALLOWED_ROOTS: {e}")))?
        .seal_brain(&absolute(&config.sqlite_db_path))
        .seal(&absolute(&config.backup_dir));
    if let Some(catalog) = &config.catalog_dir {
        workspace = workspace.read_only(&absolute(catalog));
    }
    if let Some(hooks) = &config.hooks_settings_path {
        workspace = workspace.seal(&absolute(hooks));
    }
    let tools = platform_tools(&config).map_err(|e| Stop::failure(e.to_string()))?;
    let (shelf, loaded) = Shelf::open(catalog_place(&config), tools, Some(brain.clone()), custom);
    catalog::shelf::log(&loaded.problems);
    let provider = llm::build(ProviderConfig {
        provider: match config.llm_provider {
            config::Provider::Openai => ProviderKind::OpenAi,
            config::Provider::Anthropic => ProviderKind::Anthropic,
            config::Provider::Gemini => ProviderKind::Gemini,
            config::Provider::Offline => ProviderKind::Offline,
        },
        api_key: config.llm_api_key.as_ref().map(|k| k.expose().to_owned()),
        base_url: config.llm_base_url.clone(),
        timeouts: Timeouts {
            connect: config.llm_connect_timeout_s,
            first_byte: config.llm_first_byte_timeout_s,
            idle: config.llm_idle_timeout_s,
        },
    });
    Ok(Arc::new(Core {
        herald: Herald::new(provider, config.llm_max_retries, config.fallback_model.clone()),
        coordinator: Arc::new(Coordinator::new(config.engine_task_slots, config.engine_task_queue)),
        memory: Arc::new(Memory::new(&config, brain.clone())),
        learning: Arc::default(),
        brain,
        feed: Arc::new(Feed::default()),
        catalog: Arc::new(shelf),
        connectors: OnceLock::new(),
        known,
        proxy,
        launcher,
        workspace: Arc::new(workspace),
        groups: Mutex::default(),
        scratch,
        pulse: Arc::clone(&app.pulse),
        halt: CancellationToken::new(),
        config,
    }))
}

/// Every tool of the program.
pub fn platform_tools(config: &Config) -> Result<Registry, BadTool> {
    let mut tools = Registry::default();
    let mut all: Vec<Arc<dyn Tool>> = vec![shell::bash(config.bash_timeout_s)];
    all.extend(files::tools(config.media_max_bytes as u64));
    all.extend(search::tools());
    all.extend(git::tools());
    all.extend(web::tools(config));
    all.extend(memory::tools());
    if config.content_ingestion_enabled {
        all.push(media_read::media_read());
    }
    all.extend(own::tools());
    for tool in all {
        tools.add(tool)?;
    }
    Ok(tools)
}

/// Where the catalog comes from.
pub fn catalog_place(config: &Config) -> catalog::shelf::Place {
    let hooks = config.hooks_settings_path.clone().filter(|_| config.hooks_settings_load_enabled);
    catalog::shelf::Place {
        dir: config.catalog_dir.clone(),
        hooks: hooks.map(|path| HooksFile { path, roots: config.allowed_roots.clone() }),
        models: Models {
            provider: config.llm_provider,
            has_base_url: config.llm_base_url.is_some(),
            configured: config.llm_model.clone(),
        },
    }
}

/// Writes the soul's template where nobody else has written.
pub async fn put_soul(core: &Core) -> brain::Result<()> {
    let Some(soul) = core.catalog.present().soul().cloned() else { return Ok(()) };
    core.brain
        .write("soul template", move |tx| brain::soul::put_template(tx, &soul, Timestamp::now()))
        .await
        .map(drop)
}
