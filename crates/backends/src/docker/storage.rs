//! Where brains lie on a Docker host: a directory below the data root, or a named volume.
//!
//! It refuses to make what may not be made: an engine that has booted before never gets an empty brain. A data root
//! that is gone is a place that does not answer, not storage that is missing. The one invariant: nothing is deleted
//! at a live path; a directory is renamed first.

use super::object::{StorageRoot, volume_name};
use super::refusal::Refusal;
use crate::{BackendError, Result};
use bollard::Docker;
use bollard::models::VolumeCreateRequest;
use bollard::query_parameters::RemoveVolumeOptions;
use contract::{EngineId, InstanceId};
use fleet::spec::{LABEL_ENGINE, LABEL_INSTANCE};
use std::collections::HashMap;
use std::fs;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};

/// User and group of engines, unless their image says another number.
pub(crate) const ENGINE_USER: (u32, u32) = (10001, 10001);

/// The storage of one engine.
#[derive(Debug, Clone)]
pub(crate) struct Storage {
    /// Whose.
    pub engine: EngineId,
    /// Of which deployment.
    pub instance: InstanceId,
    /// Where all of them lie.
    pub root: StorageRoot,
}

impl Storage {
    /// Is it there?
    pub async fn exists(&self, docker: &Docker) -> Result<bool> {
        match &self.root {
            StorageRoot::Volumes => self.volume_exists(docker).await,
            StorageRoot::Directories { local, .. } => {
                // A directory without a daemon to mount it is a place that does not answer.
                docker.ping().await.map_err(Refusal::from)?;
                let (local, engine) = (local.clone(), self.engine);
                on_disk(move || directory_exists(&local, engine)).await
            }
        }
    }

    /// Makes it if that is allowed and needed.
    pub async fn ensure(&self, docker: &Docker, may_create: bool) -> Result<()> {
        if self.exists(docker).await? {
            return Ok(());
        }
        if !may_create {
            return Err(BackendError::StorageMissing(self.engine));
        }
        match &self.root {
            StorageRoot::Volumes => {
                let labels = HashMap::from([
                    (LABEL_INSTANCE.to_owned(), self.instance.to_string()),
                    (LABEL_ENGINE.to_owned(), self.engine.to_string()),
                ]);
                let request = VolumeCreateRequest {
                    name: Some(volume_name(self.engine)),
                    labels: Some(labels),
                    ..Default::default()
                };
                docker.create_volume(request).await.map_err(Refusal::from)?;
                Ok(())
            }
            StorageRoot::Directories { local, .. } => {
                let path = live(local, self.engine);
                on_disk(move || make_directory(&path)).await
            }
        }
    }

    /// Hands a directory that is still empty over to the user the image runs as.
    pub async fn fit_owner(&self, user: Option<(u32, u32)>) -> Result<()> {
        let (StorageRoot::Directories { local, .. }, Some((uid, gid))) = (&self.root, user) else {
            return Ok(());
        };
        let path = live(local, self.engine);
        on_disk(move || {
            if fs::metadata(&path)?.uid() != uid && is_root() && fs::read_dir(&path)?.next().is_none() {
                chown(&path, Some(uid), Some(gid))?;
            }
            Ok(())
        })
        .await
    }

    /// Removes it; absent is success.
    pub async fn remove(&self, docker: &Docker) -> Result<()> {
        match &self.root {
            StorageRoot::Volumes => {
                if !self.volume_exists(docker).await? {
                    return Ok(());
                }
                let name = volume_name(self.engine);
                match docker.remove_volume(&name, None::<RemoveVolumeOptions>).await.map_err(Refusal::from) {
                    Ok(()) => Ok(()),
                    Err(refusal) if refusal.is_absent() => Ok(()),
                    Err(refusal) => Err(refusal.into()),
                }
            }
            StorageRoot::Directories { local, .. } => {
                let (local, engine) = (local.clone(), self.engine);
                on_disk(move || remove_directory(&local, engine)).await
            }
        }
    }

    /// A volume of that name; [`BackendError::Conflict`] when it says that it belongs to another deployment.
    async fn volume_exists(&self, docker: &Docker) -> Result<bool> {
        let name = volume_name(self.engine);
        match docker.inspect_volume(&name).await.map_err(Refusal::from) {
            // Without any label it was made by hand, for example by a restore: its name says whose it is.
            Ok(volume) => match volume.labels.get(LABEL_INSTANCE) {
                Some(instance) if *instance != self.instance.to_string() => Err(BackendError::Conflict(name)),
                Some(_) | None => Ok(true),
            },
            Err(refusal) if refusal.is_absent() => Ok(false),
            Err(refusal) => Err(refusal.into()),
        }
    }
}

fn live(root: &Path, engine: EngineId) -> PathBuf {
    root.join(engine.to_string())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// File work off the event loop. What fails on a root that is gone is silence.
async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await.map_err(Error::other).and_then(|result| result);
    done.map_err(|err| match err.kind() {
        ErrorKind::HostUnreachable => BackendError::Unreachable(err.to_string()),
        _ => BackendError::Refused(format!("storage directory: {err}")),
    })
}

fn directory_exists(root: &Path, engine: EngineId) -> std::io::Result<bool> {
    match fs::symlink_metadata(live(root, engine)) {
        Ok(found) if found.is_dir() => Ok(true),
        Ok(_) => Err(Error::other("there is something else in its place")),
        Err(err) if err.kind() == ErrorKind::NotFound => root_is_there(root).map(|()| false),
        Err(err) => Err(err),
    }
}

fn root_is_there(root: &Path) -> std::io::Result<()> {
    match fs::metadata(root) {
        Ok(found) if found.is_dir() => Ok(()),
        _ => {
            Err(Error::new(ErrorKind::HostUnreachable, format!("data root {} is not there", root.display())))
        }
    }
}

fn make_directory(path: &Path) -> std::io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(err) if err.kind() == ErrorKind::AlreadyExists => return Ok(()),
        Err(err) => return Err(err),
    }
    if is_root() {
        chown(path, Some(ENGINE_USER.0), Some(ENGINE_USER.1))?;
    }
    Ok(())
}

fn remove_directory(root: &Path, engine: EngineId) -> std::io::Result<()> {
    root_is_there(root)?;
    let trash = root.join(format!(".trash-{engine}"));
    let absent_is_fine = |result: std::io::Result<()>| match result {
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    };
    // What an earlier attempt left half deleted makes room first.
    absent_is_fine(fs::remove_dir_all(&trash))?;
    absent_is_fine(fs::rename(live(root, engine), &trash))?;
    absent_is_fine(fs::remove_dir_all(&trash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_directory_is_made_private_and_goes_without_a_trace() {
        let root = tempfile::tempdir().expect("a directory");
        let engine = EngineId::generate();
        assert!(!directory_exists(root.path(), engine).expect("looked"));
        let path = live(root.path(), engine);
        make_directory(&path).expect("made");
        make_directory(&path).expect("made already");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o700);
        fs::write(path.join("brain.sqlite"), "x").expect("written");
        // A crash between rename and deletion leaves this.
        fs::create_dir(root.path().join(format!(".trash-{engine}"))).expect("made");
        remove_directory(root.path(), engine).expect("removed");
        remove_directory(root.path(), engine).expect("removed already");
        assert_eq!(fs::read_dir(root.path()).expect("there").count(), 0);
    }

    #[test]
    fn a_data_root_that_is_gone_is_silence_and_not_missing_storage() {
        let gone = Path::new("/nowhere/brains");
        for result in [
            directory_exists(gone, EngineId::generate()).map(drop),
            remove_directory(gone, EngineId::generate()),
        ] {
            assert_eq!(result.expect_err("no root").kind(), ErrorKind::HostUnreachable);
        }
    }

    #[test]
    fn something_else_in_its_place_is_not_storage() {
        let root = tempfile::tempdir().expect("a directory");
        let engine = EngineId::generate();
        std::os::unix::fs::symlink("/etc", live(root.path(), engine)).expect("linked");
        directory_exists(root.path(), engine).expect_err("a link");
        remove_directory(root.path(), engine).expect("the link goes");
        assert!(Path::new("/etc/passwd").exists());
    }
}
