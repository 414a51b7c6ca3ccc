//! Files below `/data/backups`, in and out of storage, through the daemon's archive calls.
//!
//! Where the engine's container is gone, a carrier container that is never started stands in. Nothing is followed
//! out of the container: links are refused on the way out. The one invariant: no carrier outlives its use.

use super::DockerBackend;
use super::look::numeric_user;
use super::object::{self, job_name};
use super::refusal::Refusal;
use super::storage::ENGINE_USER;
use super::tar::{self, Entry, Unpack};
use super::wire::Daemon;
use crate::backup_path::below_backups;
use crate::{BackendError, ByteStream, Result};
use bollard::Docker;
use bollard::query_parameters::{
    CreateContainerOptions, DownloadFromContainerOptions, ListImagesOptions, RemoveContainerOptions,
    UploadToContainerOptions,
};
use bytes::Bytes;
use contract::EngineId;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use std::collections::VecDeque;
use std::io::{Error, ErrorKind, Seek};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;

/// Largest file that is carried in. Larger fills the disk it waits on; smaller would refuse the brain of a user of
/// many years.
const WRITE_MAX_BYTES: u64 = 64 << 30;
/// Piece in which a waiting file is read again. Larger holds memory, smaller costs calls.
const CHUNK_BYTES: usize = 64 * 1024;

/// A container through which an engine's storage can be reached.
pub(super) enum Access {
    /// The engine's own.
    Engine { id: String, owner: (u32, u32) },
    /// One made for this.
    Carrier(Carrier),
}

impl Access {
    fn container(&self) -> &str {
        match self {
            Access::Engine { id, .. } => id,
            Access::Carrier(carrier) => &carrier.id,
        }
    }

    fn owner(&self) -> (u32, u32) {
        match self {
            Access::Engine { owner, .. } => *owner,
            Access::Carrier(carrier) => carrier.owner,
        }
    }
}

/// A container that is removed when nobody holds it any more.
pub(super) struct Carrier {
    daemon: Daemon,
    id: String,
    owner: (u32, u32),
}

impl Drop for Carrier {
    fn drop(&mut self) {
        let (daemon, id) = (self.daemon.clone(), self.id.clone());
        // Without a runtime the process ends; the next job of this engine clears the name.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let options = RemoveContainerOptions { v: true, force: true, link: false };
                if let Ok(docker) = daemon.calls().await
                    && let Err(error) = docker.remove_container(&id, Some(options)).await
                {
                    tracing::debug!(%error, "a carrier stays until the next job");
                }
            });
        }
    }
}

impl DockerBackend {
    pub(super) async fn download(&self, id: EngineId, path: &str) -> Result<ByteStream> {
        below_backups(path)?;
        let docker = self.daemon.calls().await?;
        let access = self.access(docker, id).await?;
        let options = DownloadFromContainerOptions { path: path.to_owned() };
        let archive =
            docker.download_from_container(access.container(), Some(options)).map_err(Refusal::from);
        let mut file = File {
            archive: archive.boxed(),
            unpack: Unpack::new(),
            ready: VecDeque::new(),
            silence_max: self.deadlines.start(),
            _access: access,
        };
        // The first piece says whether there is such a file.
        match file.next().await {
            Ok(first) => {
                let rest = stream::try_unfold(file, |mut file| async move {
                    Ok(file.next().await?.map(|piece| (piece, file)))
                });
                Ok(stream::iter(first.map(Ok)).chain(rest).boxed())
            }
            Err(Broken::Daemon(refusal)) if refusal.is_absent() => {
                Err(BackendError::Refused(format!("there is no file {path}")))
            }
            Err(Broken::Daemon(refusal)) => Err(refusal.into()),
            Err(Broken::Archive(err)) => Err(BackendError::Refused(format!("{path}: {err}"))),
        }
    }

    pub(super) async fn upload(&self, id: EngineId, path: &str, data: ByteStream) -> Result<()> {
        let name = format!("backups/{}", below_backups(path)?);
        let docker = self.daemon.calls().await?;
        let access = self.access(docker, id).await?;
        let headers = |size| -> std::io::Result<Vec<Bytes>> {
            let parents = name.match_indices('/').map(|(at, _)| &name[..=at]);
            let mut all: Vec<Bytes> = parents
                .map(|parent| tar::header(parent, Entry::Directory, access.owner()))
                .collect::<std::io::Result<_>>()?;
            all.push(tar::header(&name, Entry::File(size), access.owner())?);
            Ok(all)
        };
        // A name that does not fit is refused before anything is read.
        headers(0).map_err(|err| BackendError::Refused(format!("{path}: {err}")))?;
        let (waiting, size) =
            spool(data).await.map_err(|err| BackendError::Refused(format!("{path}: {err}")))?;
        let headers = headers(size).map_err(|err| BackendError::Refused(format!("{path}: {err}")))?;
        let body = stream::iter(headers.into_iter().map(Ok))
            .chain(ReaderStream::with_capacity(waiting, CHUNK_BYTES))
            .chain(stream::iter([Ok(tar::ending(size))]));
        let options = UploadToContainerOptions { path: "/data".into(), ..Default::default() };
        docker
            .upload_to_container(access.container(), Some(options), bollard::body_try_stream(body))
            .await
            .map_err(Refusal::from)?;
        Ok(())
    }

    pub(super) async fn delete(&self, id: EngineId, path: &str) -> Result<()> {
        below_backups(path)?;
        let docker = self.daemon.calls().await?;
        if !self.storage(id).exists(docker).await? {
            return Ok(());
        }
        let program = ["rm".to_owned(), "-f".to_owned(), "--".to_owned(), path.to_owned()];
        let image = self.image_for_carrier(docker, id).await?;
        let body = object::carrier(self.instance, id, &image, Some(&program), &self.root);
        let outcome = self.run_once(docker, id, body).await?;
        match outcome.exit_code {
            0 => Ok(()),
            code => Err(BackendError::Refused(format!("rm ended with {code}: {}", outcome.output.trim()))),
        }
    }

    /// The engine's container in whatever state, else a carrier on its storage.
    async fn access(&self, docker: &Docker, id: EngineId) -> Result<Access> {
        if let Some(found) = self.find(docker, id).await? {
            let owner = found.user.unwrap_or(ENGINE_USER);
            return Ok(Access::Engine { id: found.id, owner });
        }
        if !self.storage(id).exists(docker).await? {
            return Err(BackendError::StorageMissing(id));
        }
        self.clear_job(docker, id).await?;
        let image = self.image_for_carrier(docker, id).await?;
        let user = super::image::inspect(docker, &image).await?.config.and_then(|config| config.user);
        let body = object::carrier(self.instance, id, &image, None, &self.root);
        let options = CreateContainerOptions { name: Some(job_name(id)), ..Default::default() };
        let made = docker.create_container(Some(options), body).await.map_err(Refusal::from)?;
        let owner = user.as_deref().and_then(numeric_user).unwrap_or(ENGINE_USER);
        Ok(Access::Carrier(Carrier { daemon: self.daemon.clone(), id: made.id, owner }))
    }

    /// The engine's own image, else the last one used here, else any: a carrier runs nothing of it but `rm`.
    async fn image_for_carrier(&self, docker: &Docker, id: EngineId) -> Result<String> {
        if let Some(found) = self.find(docker, id).await? {
            return Ok(found.object.image);
        }
        if let Some(image) = self.last_image() {
            return Ok(image);
        }
        let images = docker.list_images(None::<ListImagesOptions>).await.map_err(Refusal::from)?;
        let any = images.into_iter().next().map(|image| image.id);
        any.ok_or_else(|| BackendError::ImageMissing("there is no image to reach the storage with".into()))
    }
}

enum Broken {
    Daemon(Refusal),
    Archive(Error),
}

impl From<Broken> for Error {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Daemon(refusal) => Error::other(BackendError::from(refusal)),
            Broken::Archive(err) => err,
        }
    }
}

/// One file on its way out.
struct File {
    archive: BoxStream<'static, std::result::Result<Bytes, Refusal>>,
    unpack: Unpack,
    ready: VecDeque<Bytes>,
    /// A daemon that sends nothing for this long is gone.
    silence_max: Duration,
    _access: Access,
}

impl File {
    /// The next piece of the content; `None` after the last.
    async fn next(&mut self) -> std::result::Result<Option<Bytes>, Broken> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Ok(Some(piece));
            }
            if self.unpack.is_done() {
                return Ok(None);
            }
            let piece = match tokio::time::timeout(self.silence_max, self.archive.next()).await {
                Ok(Some(piece)) => piece.map_err(Broken::Daemon)?,
                Ok(None) => return Err(Broken::Archive(ErrorKind::UnexpectedEof.into())),
                Err(_) => return Err(Broken::Archive(ErrorKind::TimedOut.into())),
            };
            self.ready.extend(self.unpack.take(piece).map_err(Broken::Archive)?);
        }
    }
}

/// Lets the data wait in a file without a name, because an archive begins with the size of what follows.
async fn spool(mut data: ByteStream) -> std::io::Result<(tokio::fs::File, u64)> {
    let file = tokio::task::spawn_blocking(tempfile::tempfile).await.map_err(Error::other)??;
    let mut file = tokio::fs::File::from_std(file);
    let mut size = 0;
    while let Some(piece) = data.try_next().await? {
        size += piece.len() as u64;
        if size > WRITE_MAX_BYTES {
            return Err(Error::new(ErrorKind::FileTooLarge, "file is too large"));
        }
        file.write_all(&piece).await?;
    }
    file.flush().await?;
    let mut file = file.into_std().await;
    file.rewind()?;
    Ok((tokio::fs::File::from_std(file), size))
}
