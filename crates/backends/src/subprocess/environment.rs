//! What a process of an engine is given: its program and its environment.
//!
//! Pure but for the look whether a program is there. The one invariant: nothing of our own environment reaches an
//! engine but the five names that were handed over.

use crate::{BackendError, Result};
use contract::env;
use fleet::spec::EngineSpec;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What every process needs of its host, and all it gets.
pub(super) const BASE: [&str; 5] = ["PATH", "HOME", "TMPDIR", "LANG", "TZ"];

/// Where an engine listens.
const HOST: &str = "127.0.0.1";

/// The environment of the engine's program.
pub(super) fn of(
    base: &BTreeMap<String, String>,
    spec: &EngineSpec,
    dir: &Path,
    empty_catalog: &Path,
) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = base
        .iter()
        .filter(|(name, _)| BASE.contains(&name.as_str()))
        .map(|(n, v)| (n.clone(), v.clone()))
        .collect();
    all.extend(spec.env.0.iter().map(|(name, value)| (name.clone(), value.clone())));
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let catalog = spec.catalog.clone().unwrap_or_else(|| text(empty_catalog));
    all.insert(env::SQLITE_DB_PATH.to_owned(), text(&dir.join("brain.sqlite")));
    all.insert(env::CATALOG_DIR.to_owned(), catalog);
    all.insert(env::BRAIN_GENERATION.to_owned(), spec.generation.to_string());
    all.insert(env::ENGINE_HOST.to_owned(), HOST.to_owned());
    if let Some(port) = spec.port {
        all.insert(env::ENGINE_PORT.to_owned(), port.to_string());
    }
    all
}

/// The program of an image: `{tag}` is replaced, a name without a slash is looked up on `path`.
pub(super) fn program(binary: &str, image: &str, path: Option<&str>) -> Result<PathBuf> {
    let name = image.split('@').next().unwrap_or(image);
    let last = name.rsplit('/').next().unwrap_or(name);
    let tag = last.split_once(':').map_or("latest", |(_, tag)| tag);
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if tag.is_empty() || tag.starts_with('.') || !tag.bytes().all(plain) {
        return Err(BackendError::ImageMissing(image.to_owned()));
    }
    let binary = binary.replace("{tag}", tag);
    let candidates: Vec<PathBuf> = if binary.contains('/') {
        vec![PathBuf::from(&binary)]
    } else {
        path.unwrap_or_default()
            .split(':')
            .filter(|p| !p.is_empty())
            .map(|p| Path::new(p).join(&binary))
            .collect()
    };
    candidates
        .into_iter()
        .filter(|candidate| is_program(candidate))
        .find_map(|candidate| std::path::absolute(candidate).ok())
        .ok_or_else(|| BackendError::ImageMissing(format!("{image}: no program {binary}")))
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// An argument of a job, with `/data` as inside a container replaced by the engine's directory.
pub(super) fn argument(arg: &str, dir: &Path) -> Result<String> {
    match arg.strip_prefix("/data") {
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            if rest.split('/').any(|part| part == "..") {
                return Err(BackendError::Refused("a path of a job climbs".into()));
            }
            Ok(format!("{}{rest}", dir.display()))
        }
        Some(_) | None => Ok(arg.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_selects_the_program_and_cannot_leave_its_place() {
        let sh = program("sh", "engine:1", Some("/nowhere:/bin")).expect("every host has one");
        assert_eq!(sh, Path::new("/bin/sh"));
        assert_eq!(program("/bin/{tag}", "registry:5000/engine:sh", None), Ok("/bin/sh".into()));
        for image in ["engine:../sh", "engine:", "engine:a/../../bin/sh", "engine:none", "engine"] {
            let found = program("/bin/{tag}", image, None);
            assert!(matches!(found, Err(BackendError::ImageMissing(_))), "{image}: {found:?}");
        }
    }

    #[test]
    fn only_paths_below_data_are_translated() {
        let dir = Path::new("/srv/brains/ada");
        assert_eq!(argument("/data/backups/x", dir), Ok("/srv/brains/ada/backups/x".into()));
        assert_eq!(argument("/data", dir), Ok("/srv/brains/ada".into()));
        assert_eq!(argument("/database", dir), Ok("/database".into()));
        assert_eq!(argument("verify", dir), Ok("verify".into()));
        assert!(argument("/data/../bob/brain.sqlite", dir).is_err());
    }
}
