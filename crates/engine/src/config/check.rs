//! Rules that involve more than one variable, and defaults that depend on others.
//!
//! Each function notes its problems and warnings in the reader and answers with a value that lets the
//! reading go on, so that all problems are found in one run.

use super::{EmbeddingProvider, Provider, Purpose};
use chassis::config::{Reader, Secret};
use chassis::http::KeyHash;
use rustix::fs::Access;
use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};

/// Endings of the files that make up a brain.
const BRAIN_FILES: &[&str] = &["", "-wal", "-shm", "-journal", ".lock"];

/// The hash of the key callers present, from whichever variable holds it.
pub(super) fn engine_key(r: &mut Reader<'_>, purpose: Purpose) -> Option<KeyHash> {
    let plain = r.secret("ENGINE_API_KEY").map(|key| KeyHash::of(key.expose()));
    let hash = r.text("ENGINE_KEY_HASH").and_then(|hex| KeyHash::parse(&hex));
    match (plain, hash) {
        (Some(of_plain), Some(hash)) if of_plain != hash => {
            r.refuse("ENGINE_KEY_HASH", "the SHA-256 of ENGINE_API_KEY, or only one of the two", None);
            Some(hash)
        }
        (Some(_), Some(hash)) => {
            r.warn(
                "ENGINE_API_KEY",
                "is set together with ENGINE_KEY_HASH; they agree, one of them is enough",
            );
            Some(hash)
        }
        (None, None) => {
            let unset = !r.is_set("ENGINE_API_KEY") && !r.is_set("ENGINE_KEY_HASH");
            if purpose == Purpose::Serve && unset {
                let fix = "ENGINE_KEY_HASH (production; `september-engine hash-key --new` makes one) or \
                           ENGINE_API_KEY (development) to serve";
                r.refuse("ENGINE_KEY_HASH", fix, None);
            }
            None
        }
        (plain, hash) => plain.or(hash),
    }
}

/// The model provider's key.
pub(super) fn provider_key(r: &mut Reader<'_>, provider: Provider, purpose: Purpose) -> Option<Secret> {
    let own = provider.key_variable();
    let from = [Some("LLM_API_KEY"), own].into_iter().flatten().find(|name| r.is_set(name));
    let Some(name) = from else {
        // Of a provider that is misspelt nobody knows whether it needs a key.
        let known = !r.is_refused("LLM_PROVIDER");
        let required = known && provider != Provider::Offline && !r.is_set("LLM_BASE_URL");
        if purpose == Purpose::Serve
            && required
            && let Some(own) = own
        {
            let fix = format!(
                "the key of {provider} (here or in {own}), or LLM_BASE_URL of a compatible server, or LLM_PROVIDER=offline"
            );
            r.refuse("LLM_API_KEY", fix, None);
        }
        return None;
    };
    let key = r.secret(name)?;
    if name != "LLM_API_KEY" {
        r.computed("LLM_API_KEY", key.expose());
    }
    // Behind another base URL any key may be right.
    if let Some(owner) = Provider::of_key(key.expose())
        && owner != provider
        && provider != Provider::Offline
        && !r.is_set("LLM_BASE_URL")
    {
        r.warn(name, &format!("looks like a key of {owner}, but LLM_PROVIDER is {provider}"));
    }
    Some(key)
}

/// The main model; notes what the model variables default to.
pub(super) fn default_models(r: &mut Reader<'_>, provider: Provider) -> String {
    r.computed("LLM_MODEL", provider.default_model());
    let model = r.text("LLM_MODEL").unwrap_or_else(|| provider.default_model().to_owned());
    r.computed("PLANNER_MODEL", model.clone());
    r.computed("LIGHT_MODEL", model.clone());
    r.computed("LLM_CONTEXT_WINDOW", llm::context_window::context_window(&model).to_string());
    model
}

/// Rotation window, CORS, listen address.
pub(super) fn server(r: &mut Reader<'_>, host: IpAddr) {
    let min: i64 = r.int("BAP_KEY_ROTATION_MIN_OVERLAP_SECONDS");
    let max: i64 = r.int("BAP_KEY_ROTATION_MAX_OVERLAP_SECONDS");
    if min > max {
        let expected = format!("at most BAP_KEY_ROTATION_MAX_OVERLAP_SECONDS ({max})");
        r.refuse("BAP_KEY_ROTATION_MIN_OVERLAP_SECONDS", expected, Some(max.to_string()));
    }
    if r.list("CORS_ORIGINS").iter().any(|o| o == "*") {
        r.warn("CORS_ORIGINS", "`*` lets every web site call this Engine");
        if r.flag("CORS_ALLOW_CREDENTIALS") {
            r.refuse("CORS_ALLOW_CREDENTIALS", "false while CORS_ORIGINS is `*`", Some("false".to_owned()));
        }
    }
    if r.list("ENGINE_ALLOWED_HOSTS").iter().any(|h| h == "*") {
        r.warn("ENGINE_ALLOWED_HOSTS", "`*` gives up the protection against DNS rebinding");
    }
    if host.is_unspecified() {
        r.warn("ENGINE_HOST", &format!("{host} listens on every network this machine is in"));
    }
}

/// Embedding provider, model and size must fit together.
pub(super) fn embeddings(r: &mut Reader<'_>) -> EmbeddingProvider {
    let has_key = r.is_set("OPENAI_API_KEY");
    let default = if has_key { EmbeddingProvider::Openai } else { EmbeddingProvider::Local };
    r.computed("EMBEDDING_PROVIDER", default.as_str());
    let provider =
        r.text("EMBEDDING_PROVIDER").and_then(|word| EmbeddingProvider::parse(&word)).unwrap_or(default);
    r.computed("EMBEDDING_MODEL", provider.default_model());
    r.computed("EMBEDDING_DIM", provider.default_dim().to_string());
    match provider {
        EmbeddingProvider::Openai => {
            if !has_key && !r.is_set("EMBEDDING_BASE_URL") {
                let expected = "local, or set OPENAI_API_KEY or EMBEDDING_BASE_URL";
                r.refuse("EMBEDDING_PROVIDER", expected, Some("local".to_owned()));
            }
        }
        EmbeddingProvider::Local => {
            if r.text("EMBEDDING_MODEL").is_some_and(|m| m != provider.default_model()) {
                let expected = "builtin, the only model of local embeddings";
                r.refuse("EMBEDDING_MODEL", expected, Some("builtin".to_owned()));
            }
            if r.int_opt::<usize>("EMBEDDING_DIM").is_some_and(|dim| dim != provider.default_dim()) {
                r.refuse("EMBEDDING_DIM", "256, the only size of local embeddings", Some("256".to_owned()));
            }
        }
    }
    provider
}

/// The paths that depend on where the brain is.
pub(super) struct Paths {
    pub(super) backup_dir: PathBuf,
    pub(super) allowed_roots: Vec<PathBuf>,
}

impl Paths {
    pub(super) fn read(r: &mut Reader<'_>, brain: &Path) -> Self {
        let dir = brain_dir(brain);
        brain_place(r, brain, &dir);

        let backups = dir.join("backups");
        r.computed("BACKUP_DIR", backups.display().to_string());
        let backup_dir = r.path("BACKUP_DIR").unwrap_or(backups);

        let workspace = resolved(&dir).join("workspace");
        r.computed("ALLOWED_ROOTS", workspace.display().to_string());
        let mut allowed_roots: Vec<PathBuf> =
            r.list("ALLOWED_ROOTS").into_iter().map(PathBuf::from).collect();
        roots(r, brain, &allowed_roots);
        if allowed_roots.is_empty() {
            allowed_roots.push(workspace);
        }
        hooks(r, &allowed_roots);
        Self { backup_dir, allowed_roots }
    }
}

/// The directory of the brain; `.` for a bare file name.
pub(super) fn brain_dir(brain: &Path) -> PathBuf {
    match brain.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn brain_place(r: &mut Reader<'_>, brain: &Path, dir: &Path) {
    let shown = dir.display();
    if brain.is_dir() || brain.file_name().is_none() {
        r.refuse("SQLITE_DB_PATH", "the path of a file, e.g. brain.sqlite in that directory", None);
    } else if !dir.is_dir() {
        let fix = format!("a file in an existing directory; make it with: mkdir -p {shown}");
        r.refuse("SQLITE_DB_PATH", fix, None);
    } else if rustix::fs::access(dir, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        let fix = format!("a file in a writable directory; give this user the right to write in {shown}");
        r.refuse("SQLITE_DB_PATH", fix, None);
    }
}

fn roots(r: &mut Reader<'_>, brain: &Path, roots: &[PathBuf]) {
    let brain = resolved(brain);
    for root in roots {
        let place = resolved(root);
        let is_brain_file = BRAIN_FILES.iter().any(|ending| {
            let mut file = brain.clone().into_os_string();
            file.push(ending);
            place == Path::new(&file)
        });
        if is_brain_file {
            let expected = format!("directories without the brain's own file {}", root.display());
            r.refuse("ALLOWED_ROOTS", expected, None);
        } else if brain.starts_with(&place) {
            let text = format!("{} contains the brain, which stays invisible to tools", root.display());
            r.warn("ALLOWED_ROOTS", &text);
        }
    }
}

fn hooks(r: &mut Reader<'_>, roots: &[PathBuf]) {
    if let Some(catalog) = r.text("CATALOG_DIR") {
        let default = Path::new(&catalog).join("hooks.json");
        r.computed("HOOKS_SETTINGS_PATH", default.display().to_string());
    }
    let set = r.path("HOOKS_SETTINGS_PATH");
    let under = set.is_some_and(|path| {
        let place = resolved(&path);
        roots.iter().any(|root| place.starts_with(resolved(root)))
    });
    if under {
        r.refuse("HOOKS_SETTINGS_PATH", "a path outside ALLOWED_ROOTS, where the model cannot write", None);
    }
}

/// An absolute path with the links of its existing part followed and `.` and `..` taken out, so that two
/// spellings of one place compare equal.
fn resolved(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut flat = PathBuf::new();
    for part in absolute.components() {
        match part {
            Component::ParentDir => {
                flat.pop();
            }
            Component::CurDir => {}
            other => flat.push(other),
        }
    }
    let existing = flat.ancestors().find_map(|a| Some((a, a.canonicalize().ok()?)));
    match existing {
        Some((ancestor, real)) => match flat.strip_prefix(ancestor) {
            Ok(rest) if rest.as_os_str().is_empty() => real,
            Ok(rest) => real.join(rest),
            Err(_) => flat,
        },
        None => flat,
    }
}
