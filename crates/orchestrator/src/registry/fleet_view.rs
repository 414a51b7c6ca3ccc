//! The fleet at large: lists, counts, and every engine of a backend page by page.
//!
//! No answer holds the whole fleet at once. One damaged row never hides the others: the snapshot names it and goes on.

use super::cells::{Cells, engine_columns, found_columns, found_from, operation_columns, vitals_columns};
use super::db::Query;
use super::{Found, Registry, RegistryError};
use contract::{EngineId, ProductId, Slug};
use fleet::lifecycle::{BackendKind, Status};
use std::collections::BTreeMap;
use uuid::Uuid;

/// Rows of one page. More holds a connection longer and makes one answer larger; fewer costs round trips.
pub(super) const PAGE: i64 = 1000;

macro_rules! list_filter {
    () => {
        "WHERE ($1::uuid IS NULL OR e.product_id = $1) AND ($2::text IS NULL OR e.status = $2) \
         AND ($3::text IS NULL OR e.engine_version = $3)"
    };
}

const LIST: Query = Query::new(
    "list",
    concat!(
        "SELECT ",
        found_columns!(),
        found_from!(),
        list_filter!(),
        " ORDER BY e.created_at, e.id LIMIT $4 OFFSET $5"
    ),
);

const LIST_TOTAL: Query =
    Query::new("list_total", concat!("SELECT count(*) FROM engines e ", list_filter!()));

const STATUS_COUNTS: Query = Query::new(
    "status_counts",
    "SELECT status, count(*) FROM engines WHERE ($1::uuid IS NULL OR product_id = $1) GROUP BY status",
);

const DEGRADED_COUNT: Query = Query::new(
    "degraded_count",
    "SELECT count(*) FROM engines e JOIN engine_vitals v ON v.engine_id = e.id \
     WHERE ($1::uuid IS NULL OR e.product_id = $1) AND e.status = 'running' AND v.degraded",
);

const OTHER_BACKENDS: Query =
    Query::new("other_backends", "SELECT count(*) FROM engines WHERE backend <> $1");

const SNAPSHOT: Query = Query::new(
    "snapshot",
    concat!(
        "SELECT e.id, ",
        found_columns!(),
        ", (SELECT p.slug FROM products p WHERE p.id = e.product_id)",
        found_from!(),
        "WHERE e.backend = $1 AND e.id > $2 ORDER BY e.id LIMIT $3"
    ),
);

impl Registry {
    /// Engines in the order they were made, and how many the filter matches.
    pub async fn list(
        &self,
        product: Option<ProductId>,
        status: Option<Status>,
        version: Option<&str>,
        limit: i64,
        offset: i64,
    ) -> Result<(Vec<Found>, i64), RegistryError> {
        let conn = self.database.conn().await?;
        let product = product.map(ProductId::uuid);
        let status = status.map(Status::as_str);
        let rows = conn.rows(&LIST, &[&product, &status, &version, &limit, &offset]).await?;
        let found = rows.iter().map(|row| Cells::of(row).found()).collect::<Result<Vec<_>, _>>()?;
        let total = conn.one(&LIST_TOTAL, &[&product, &status, &version]).await?;
        Ok((found, Cells::of(&total).cell()?))
    }

    /// Engines per status; every status is there.
    pub async fn status_counts(
        &self,
        product: Option<ProductId>,
    ) -> Result<BTreeMap<Status, i64>, RegistryError> {
        let conn = self.database.conn().await?;
        let mut counts: BTreeMap<Status, i64> = Status::ALL.iter().map(|&status| (status, 0)).collect();
        for row in conn.rows(&STATUS_COUNTS, &[&product.map(ProductId::uuid)]).await? {
            let mut cells = Cells::of(&row);
            counts.insert(cells.word(Status::parse)?, cells.cell()?);
        }
        Ok(counts)
    }

    /// Engines that serve although a subsystem reports trouble.
    pub async fn degraded_count(&self, product: Option<ProductId>) -> Result<i64, RegistryError> {
        let conn = self.database.conn().await?;
        Cells::of(&conn.one(&DEGRADED_COUNT, &[&product.map(ProductId::uuid)]).await?).cell()
    }

    /// Engines that live on any other backend than this one.
    pub async fn count_other_backends(&self, backend: BackendKind) -> Result<i64, RegistryError> {
        let conn = self.database.conn().await?;
        Cells::of(&conn.one(&OTHER_BACKENDS, &[&backend.as_str()]).await?).cell()
    }

    /// Hands over every engine of a backend with its product's slug, page by page in the order of ids. The answer
    /// names the rows that could not be read, with the reason.
    pub async fn snapshot(
        &self,
        backend: BackendKind,
        mut each: impl FnMut(Found, Slug),
    ) -> Result<Vec<(EngineId, RegistryError)>, RegistryError> {
        let mut damaged = Vec::new();
        let mut after = Uuid::nil();
        loop {
            let conn = self.database.conn().await?;
            let rows = conn.rows(&SNAPSHOT, &[&backend.as_str(), &after, &PAGE]).await?;
            drop(conn);
            for row in &rows {
                let mut cells = Cells::of(row);
                after = cells.cell()?;
                match cells.found().and_then(|found| Ok((found, cells.slug()?))) {
                    Ok((found, slug)) => each(found, slug),
                    Err(error) => damaged.push((EngineId::from_uuid(after), error)),
                }
            }
            if i64::try_from(rows.len()).unwrap_or(PAGE) < PAGE {
                return Ok(damaged);
            }
        }
    }
}
