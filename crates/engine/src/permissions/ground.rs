//! Facts about real files for the rules. Reads names and metadata, never content, and changes nothing.

use crate::sandbox::Workspace;
use ::permissions::{FileFacts, Ground, Kind, Policy};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The file system as it is now.
#[derive(Debug, Clone, Copy)]
pub struct RealGround;

impl Ground for RealGround {
    fn link(&self, path: &Path) -> Option<PathBuf> {
        fs::read_link(path).ok()
    }

    fn facts(&self, path: &Path) -> Option<FileFacts> {
        let meta = fs::symlink_metadata(path).ok()?;
        let kind = match meta.file_type() {
            kind if kind.is_file() => Kind::File,
            kind if kind.is_dir() => Kind::Directory,
            kind if kind.is_symlink() => Kind::Link,
            _ => Kind::Other,
        };
        Some(FileFacts { kind, size: meta.len(), identity: (meta.dev(), meta.ino()), names: meta.nlink() })
    }

    fn names(&self, path: &Path, limit: usize) -> Option<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path).ok()?.flatten() {
            if names.len() == limit {
                return None;
            }
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        Some(names)
    }

    fn is_repository(&self, path: &Path) -> bool {
        path.join(".git").exists()
    }
}

/// The places of one task as the rules see them; `network` is TOOL_NETWORK_ALLOWLIST.
pub fn policy(workspace: &Workspace, network: &[String]) -> Policy {
    Policy {
        roots: workspace.roots().to_vec(),
        scratch: workspace.scratch().map(Path::to_path_buf),
        sealed: workspace.sealed_paths(),
        brains: workspace.brains().to_vec(),
        read_only: workspace.read_only_places().to_vec(),
        network: network.to_vec(),
    }
}
