//! Deleting a product: its key is dead at once, every engine is destroyed, then the row goes.

use crate::core::Core;
use crate::registry::rows::{AuditEntry, Found, Product};
use crate::registry::{DeletionMark, ProductRemoval};
use contract::fleet_api::DeleteProductResponse;
use contract::{FleetCode, FleetError, RequestId};
use fleet::audit::AuditAction;
use fleet::lifecycle::Status;
use fleet::operation::OperationKind;
use fleet::request::{Meeting, Request, Standing, meet};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// How long the caller is held (§3.4 endpoint 19); the work goes on afterwards.
const HELD_MAX: Duration = Duration::from_secs(60);
/// Between two looks at what is left.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Engines whose removal is opened per look. More floods the queue of removals; fewer takes longer to begin.
const PAGE: i64 = 200;

impl Core {
    /// Endpoint 19.
    pub async fn delete_product(
        self: &Arc<Self>,
        product: &Product,
        destroy_engines: bool,
        request_id: &RequestId,
    ) -> Result<DeleteProductResponse, FleetError> {
        match self.registry.mark_deleting(product.id, destroy_engines).await? {
            // Missing: somebody else removed it meanwhile, which is what was wanted.
            DeletionMark::Deleting(_) | DeletionMark::Missing => {}
            DeletionMark::EnginesLeft(left) => {
                return Err(FleetError::new(
                    FleetCode::ProductNotEmpty,
                    format!("the product still has {left} engines; destroy them or say destroy_engines=true"),
                )
                .with(json!({"engines": left})));
            }
        }
        let held = tokio::time::timeout(HELD_MAX, self.emptied(product, request_id));
        let waited = tokio::select! {
            waited = held => waited,
            () = self.drain.closing() => {
                return Err(FleetError::new(
                    FleetCode::Draining,
                    "this replica is going down; the work goes on, say it again to see its end",
                )
                .retry_after(1));
            }
        };
        match waited {
            Ok(done) => done,
            Err(_) => Ok(DeleteProductResponse {
                product_id: product.id,
                status: "deleting".to_owned(),
                engines_left: self.registry.count_engines(product.id).await?,
            }),
        }
    }

    /// Waits until the product is gone. The work is a task of this replica, so that it goes on when the caller leaves;
    /// when the replica goes down the task ends, and a caller who is still held is served by looking on.
    async fn emptied(
        self: &Arc<Self>,
        product: &Product,
        request_id: &RequestId,
    ) -> Result<DeleteProductResponse, FleetError> {
        let (core, owned, id) = (Arc::clone(self), product.clone(), request_id.clone());
        let work = self.tasks.spawn(async move {
            let halted = core.halt.clone();
            tokio::select! {
                () = halted.cancelled() => None,
                gone = core.empty_product(&owned, &id) => Some(gone),
            }
        });
        match work.await {
            Ok(Some(gone)) => gone?,
            Ok(None) => self.empty_product(product, request_id).await?,
            Err(error) => {
                tracing::error!(%error, "the removal of a product broke off");
                return Err(FleetError::new(
                    FleetCode::Internal,
                    "the removal broke off; say it again to go on",
                ));
            }
        }
        Ok(DeleteProductResponse { product_id: product.id, status: "deleted".to_owned(), engines_left: 0 })
    }

    /// Destroys engine after engine until none is left, then deletes the row.
    async fn empty_product(
        self: &Arc<Self>,
        product: &Product,
        request_id: &RequestId,
    ) -> Result<(), FleetError> {
        while !self.removal_pass(product, request_id).await? {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// One look at a product that is being deleted: opens the removals that are missing, or deletes the row when no
    /// engine is left. True = it is gone. Harmless on two replicas at once.
    async fn removal_pass(
        self: &Arc<Self>,
        product: &Product,
        request_id: &RequestId,
    ) -> Result<bool, FleetError> {
        let (engines, left) = self.registry.list(Some(product.id), None, None, PAGE, 0).await?;
        if left == 0 {
            let entry = AuditEntry {
                started_at: None,
                product_id: Some(product.id),
                user_id: None,
                engine_id: None,
                action: AuditAction::ProductDelete,
                actor: "admin".to_owned(),
                metadata: json!({"slug": product.slug, "request_id": request_id}),
                has_duration: false,
            };
            let removal = self.registry.delete_product_if_empty(product.id, entry).await?;
            return Ok(!matches!(removal, ProductRemoval::EnginesLeft(_)));
        }
        for found in &engines {
            if found.engine.status != Status::Destroying {
                self.open_destroy(found, request_id).await?;
            }
        }
        Ok(false)
    }

    /// Goes on with a deletion whose replica is gone. The row of the product is the memory of it.
    pub(crate) async fn go_on_deleting(self: &Arc<Self>, product: &Product) -> Result<(), FleetError> {
        // An older release marked it without a count; what is left now is the best that is known.
        self.registry.mark_deleting(product.id, true).await?;
        if self.removal_pass(product, &RequestId::generate()).await? {
            tracing::info!(product_id = %product.id, product = product.slug.as_str(), action = "product_delete", "Product deleted");
        }
        Ok(())
    }

    async fn open_destroy(self: &Arc<Self>, found: &Found, request_id: &RequestId) -> Result<(), FleetError> {
        let standing = Standing {
            status: found.engine.status,
            desired: found.engine.desired,
            open: found.operation.as_ref().map(|o| o.kind),
        };
        let supersedes = match meet(Request::Destroy, Some(standing)) {
            Meeting::Open(OperationKind::Destroy) => false,
            Meeting::Supersede(OperationKind::Destroy) => true,
            _ => return Ok(()),
        };
        let open =
            self.opening(found, OperationKind::Destroy, supersedes, json!({}), "admin", Some(request_id));
        match self.begin(open).await {
            Ok(_) => Ok(()),
            Err(error) if error.code == FleetCode::EngineNotFound => Ok(()),
            Err(error) => Err(error),
        }
    }
}
