//! One-shot commands on the storage of an engine that does not run.
//!
//! At most one per engine, under one name; whatever an earlier one left behind is removed first. The one invariant:
//! a job never runs beside its engine.

use super::DockerBackend;
use super::object::{self, job_name};
use super::refusal::Refusal;
use crate::{BackendError, JobOutcome, JobSpec, Result};
use bollard::Docker;
use bollard::errors::Error;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{
    CreateContainerOptions, LogsOptions, RemoveContainerOptions, StartContainerOptions, WaitContainerOptions,
};
use contract::EngineId;
use fleet::observation::ObjectState;
use fleet::spec::ROLE_JOB;
use futures::StreamExt;
use std::time::Duration;

/// Most that is kept of an output. More bloats operations and audit; less cuts the report of a verification.
const OUTPUT_MAX_BYTES: usize = 64 * 1024;
/// Pause between two looks at something that is about to change. Longer wastes time, shorter asks for nothing.
const POLL: Duration = Duration::from_millis(50);
/// Exit code of a job whose wait brought none: it was killed.
const KILLED: i64 = 137;

impl DockerBackend {
    pub(super) async fn run(&self, job: &JobSpec) -> Result<JobOutcome> {
        let spec = &job.engine;
        let docker = self.daemon.calls().await?;
        if let Some(found) = self.find(docker, spec.engine_id).await? {
            match found.object.state {
                ObjectState::Created | ObjectState::Exited { .. } => {}
                ObjectState::Running { .. }
                | ObjectState::Paused
                | ObjectState::Restarting { .. }
                | ObjectState::Removing => {
                    return Err(BackendError::Refused(format!(
                        "engine object is {}; a job needs it stopped",
                        found.object.state.word()
                    )));
                }
            }
        }
        super::image::inspect(docker, &spec.image).await?;
        self.remember_image(&spec.image);
        if !self.storage(spec.engine_id).exists(docker).await? {
            return Err(BackendError::StorageMissing(spec.engine_id));
        }
        let cpus = self.host_cpus(docker, spec.resources.cpus).await?;
        self.run_once(docker, spec.engine_id, object::job(spec, &job.args, &self.root, cpus)).await
    }

    /// Makes the job's container, runs it to its end, and removes it.
    pub(super) async fn run_once(
        &self,
        docker: &Docker,
        id: EngineId,
        body: ContainerCreateBody,
    ) -> Result<JobOutcome> {
        self.clear_job(docker, id).await?;
        let options = CreateContainerOptions { name: Some(job_name(id)), ..Default::default() };
        let made = match docker.create_container(Some(options), body).await.map_err(Refusal::from) {
            Ok(made) => made.id,
            Err(refusal) if refusal.is_conflict() => return Err(BackendError::Conflict(job_name(id))),
            Err(refusal) => return Err(refusal.into()),
        };
        let outcome = self.to_the_end(docker, &made).await;
        let removed = self.remove_container(docker, &made).await;
        let outcome = outcome?;
        removed.map(|()| outcome)
    }

    async fn to_the_end(&self, docker: &Docker, container: &str) -> Result<JobOutcome> {
        docker.start_container(container, None::<StartContainerOptions>).await.map_err(Refusal::from)?;
        let options = WaitContainerOptions { condition: "not-running".into() };
        let mut ends = docker.wait_container(container, Some(options));
        let code = match ends.next().await {
            Some(Ok(end)) => end.status_code,
            Some(Err(Error::DockerContainerWaitError { code, .. })) => code,
            Some(Err(err)) => return Err(Refusal::from(err).into()),
            None => KILLED,
        };
        let output = last_output(docker, container, None).await?;
        Ok(JobOutcome { exit_code: i32::try_from(code).unwrap_or(-1), output })
    }

    /// Removes what an earlier job left behind; running or not, it must not meet the next writer.
    pub(super) async fn clear_job(&self, docker: &Docker, id: EngineId) -> Result<()> {
        match self.find_named(docker, &job_name(id), id, ROLE_JOB).await? {
            Some(left) => self.remove_container(docker, &left.id).await,
            None => Ok(()),
        }
    }

    /// Removes a container, running or not, and waits until it is gone; gone already is success.
    pub(super) async fn remove_container(&self, docker: &Docker, container: &str) -> Result<()> {
        loop {
            let options = RemoveContainerOptions { v: true, force: true, link: false };
            match docker.remove_container(container, Some(options)).await.map_err(Refusal::from) {
                Ok(()) => return Ok(()),
                Err(refusal) if refusal.is_absent() => return Ok(()),
                // Somebody else removes it at this moment; the deadline of the call ends the wait.
                Err(refusal) if refusal.is_conflict() => tokio::time::sleep(POLL).await,
                Err(refusal) => return Err(refusal.into()),
            }
        }
    }
}

/// The end of a container's output: at most that many lines, and 64 KiB.
pub(super) async fn last_output(docker: &Docker, container: &str, lines: Option<u16>) -> Result<String> {
    let options = LogsOptions {
        stdout: true,
        stderr: true,
        tail: lines.map_or_else(|| "all".to_owned(), |lines| lines.to_string()),
        ..Default::default()
    };
    let mut pieces = docker.logs(container, Some(options));
    let mut kept: Vec<u8> = Vec::new();
    while let Some(piece) = pieces.next().await {
        kept.extend_from_slice(&piece.map_err(Refusal::from)?.into_bytes());
        if kept.len() > 2 * OUTPUT_MAX_BYTES {
            kept.drain(..kept.len() - OUTPUT_MAX_BYTES);
        }
    }
    Ok(ending(&kept).to_owned())
}

/// At most [`OUTPUT_MAX_BYTES`] from the end, beginning with a whole character.
fn ending(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut from = text.len().saturating_sub(OUTPUT_MAX_BYTES);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text[from..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_is_cut_at_its_beginning_between_characters() {
        let text = "ä".repeat(OUTPUT_MAX_BYTES);
        let kept = ending(format!("x{text}").as_bytes());
        assert!(kept.len() <= OUTPUT_MAX_BYTES && kept.chars().all(|c| c == 'ä'));
        assert_eq!(ending(b"short"), "short");
    }
}
