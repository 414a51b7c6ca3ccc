//! All our containers in one look, with a second look only at those that may have changed.
//!
//! The daemon's list names neither start times nor restarts; inspecting every container each time would cost it more
//! than the engines do. The one invariant: what is reported was seen now, or cannot have changed since it was seen.

use super::DockerBackend;
use super::look;
use super::refusal::Refusal;
use crate::Result;
use bollard::Docker;
use bollard::models::ContainerSummary;
use bollard::query_parameters::ListContainersOptions;
use contract::{EngineId, Timestamp};
use fleet::observation::{Object, Observation};
use fleet::spec::{LABEL_INSTANCE, LABEL_ROLE, ROLE_ENGINE};
use futures::{StreamExt, TryStreamExt, stream};
use std::collections::HashMap;
use std::sync::PoisonError;

/// Inspections of one list at a time: as many as connections are kept.
const INSPECTIONS_AT_ONCE: usize = 8;

impl DockerBackend {
    pub(super) async fn list_all(&self) -> Result<Vec<(EngineId, Observation)>> {
        let docker = self.daemon.calls().await?;
        let labels =
            vec![format!("{LABEL_INSTANCE}={}", self.instance), format!("{LABEL_ROLE}={ROLE_ENGINE}")];
        let options = ListContainersOptions {
            all: true,
            filters: Some(HashMap::from([("label".to_owned(), labels)])),
            ..Default::default()
        };
        let listed = docker.list_containers(Some(options)).await.map_err(Refusal::from)?;
        let before = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let now = Timestamp::now();
        let looks = listed.into_iter().filter_map(|summary| Some((look::engine_of(&summary)?, summary)));
        let objects: Vec<Option<(EngineId, Object)>> = stream::iter(looks)
            .map(|(id, summary)| {
                let known = before.get(&id).filter(|seen| look::still_as_seen(seen, &summary, now)).cloned();
                async move {
                    match known {
                        Some(object) => Ok(Some((id, object))),
                        None => self.inspect_listed(docker, id, &summary).await,
                    }
                }
            })
            .buffer_unordered(INSPECTIONS_AT_ONCE)
            .try_collect()
            .await?;
        let seen: HashMap<EngineId, Object> = objects.into_iter().flatten().collect();
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&seen);
        Ok(seen.into_iter().map(|(id, object)| (id, Observation::Present(object))).collect())
    }

    /// `None` when it went away since it was listed.
    async fn inspect_listed(
        &self,
        docker: &Docker,
        id: EngineId,
        summary: &ContainerSummary,
    ) -> Result<Option<(EngineId, Object)>> {
        let container = summary.id.as_deref().unwrap_or_default();
        Ok(self.find_named(docker, container, id, ROLE_ENGINE).await?.map(|found| (id, found.object)))
    }
}
