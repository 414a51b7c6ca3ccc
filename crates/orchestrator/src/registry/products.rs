//! Products: registration, policy, platform keys, removal.
//!
//! A platform key is looked up by its hash only. A product being deleted has no key any more.

use super::audit;
use super::cells::{Cells, product_columns};
use super::db::{Query, retried};
use super::error::Fault;
use super::lease::millis;
use super::notify::Notice;
use super::{AuditEntry, Product, Registry, RegistryError};
use chrono::{DateTime, Utc};
use contract::{ProductId, Slug, Timestamp};
use serde_json::Value;
use std::time::Duration;

/// How an operator names a product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProductRef {
    /// By id.
    Id(ProductId),
    /// By short name.
    Slug(Slug),
}

/// What became of the wish to delete a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeletionMark {
    /// It is being deleted, with this many engines to destroy.
    Deleting(i64),
    /// It has this many engines that nobody allowed to destroy; nothing was changed.
    EnginesLeft(i64),
    /// There is no such product.
    Missing,
}

/// What became of the removal of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProductRemoval {
    /// The row is gone.
    Removed,
    /// It still has this many engines.
    EnginesLeft(i64),
    /// There is no such product.
    Missing,
}

impl ProductRemoval {
    /// True when there is no such product any more.
    pub fn is_gone(self) -> bool {
        match self {
            ProductRemoval::Removed | ProductRemoval::Missing => true,
            ProductRemoval::EnginesLeft(_) => false,
        }
    }
}

const REGISTER: Query = Query::new(
    "register",
    concat!(
        "INSERT INTO products AS p (slug, display_name, api_key_hash, policy, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, clock_timestamp(), clock_timestamp()) RETURNING ",
        product_columns!()
    ),
);

const PRODUCT_BY_KEY: Query = Query::new(
    "product_by_key",
    concat!(
        "SELECT ",
        product_columns!(),
        " FROM products p WHERE NOT p.deleting AND (p.api_key_hash = $1 \
         OR (p.previous_api_key_hash = $1 AND p.previous_key_expires_at > clock_timestamp())) LIMIT 1"
    ),
);

const PRODUCT_BY_ID: Query =
    Query::new("product_by_id", concat!("SELECT ", product_columns!(), " FROM products p WHERE p.id = $1"));

const PRODUCT_BY_SLUG: Query = Query::new(
    "product_by_slug",
    concat!("SELECT ", product_columns!(), " FROM products p WHERE p.slug = $1"),
);

const PRODUCTS: Query = Query::new(
    "products",
    concat!(
        "SELECT ",
        product_columns!(),
        ", (SELECT count(*) FROM engines e WHERE e.product_id = p.id) FROM products p \
         WHERE $1::timestamptz IS NULL \
           OR (date_trunc('milliseconds', p.created_at), p.id) > ($1::timestamptz, $2::uuid) \
         ORDER BY date_trunc('milliseconds', p.created_at), p.id LIMIT $3"
    ),
);

const LOCK_POLICY: Query = Query::new("lock_policy", "SELECT policy FROM products WHERE id = $1 FOR UPDATE");

const SET_POLICY: Query = Query::new(
    "set_policy",
    concat!(
        "UPDATE products AS p SET policy = $2, updated_at = clock_timestamp() WHERE p.id = $1 RETURNING ",
        product_columns!()
    ),
);

const ROTATE: Query = Query::new(
    "rotate_platform_key",
    "UPDATE products SET \
       previous_api_key_hash = CASE WHEN $3::bigint > 0 THEN api_key_hash END, \
       previous_key_expires_at = CASE WHEN $3::bigint > 0 \
         THEN clock_timestamp() + $3::bigint * INTERVAL '1 millisecond' END, \
       api_key_hash = $2, updated_at = clock_timestamp() \
     WHERE id = $1 RETURNING previous_key_expires_at",
);

const MARK_DELETING: Query = Query::new(
    "mark_deleting",
    "UPDATE products SET deleting = TRUE, engines_to_destroy = COALESCE(engines_to_destroy, $2), \
     updated_at = clock_timestamp() WHERE id = $1",
);

const LOCK_PRODUCT_ROW: Query =
    Query::new("lock_product_row", "SELECT engines_to_destroy FROM products WHERE id = $1 FOR UPDATE");

const COUNT_ENGINES: Query =
    Query::new("count_engines", "SELECT count(*) FROM engines WHERE product_id = $1");

const DELETE_PRODUCT: Query = Query::new("delete_product", "DELETE FROM products WHERE id = $1");

impl Registry {
    /// Registers a product; `None` when the slug is taken. The audit row gets the new product's id.
    pub async fn register(
        &self,
        slug: &Slug,
        display_name: &str,
        key_hash: &str,
        policy: &Value,
        audit: AuditEntry,
    ) -> Result<Option<Product>, RegistryError> {
        audit::check(std::slice::from_ref(&audit))?;
        retried!(self.register_once(slug, display_name, key_hash, policy, &audit))
    }

    async fn register_once(
        &self,
        slug: &Slug,
        display_name: &str,
        key_hash: &str,
        policy: &Value,
        audit: &AuditEntry,
    ) -> Result<Option<Product>, Fault> {
        let mut conn = self.database.conn().await?;
        let tx = conn.begin().await?;
        let product = match tx.one(&REGISTER, &[&slug.as_str(), &display_name, &key_hash, policy]).await {
            Ok(row) => Cells::of(&row).product()?,
            Err(fault) if fault.constraint() == Some("products_slug_key") => return Ok(None),
            Err(fault) => return Err(fault),
        };
        let entry = AuditEntry { product_id: Some(product.id), ..audit.clone() };
        audit::insert(&tx, &[entry]).await?;
        tx.tell(&[Notice::Product { id: product.id }]).await?;
        tx.commit().await?;
        Ok(Some(product))
    }

    /// The product whose platform key has this hash: the current key, or the previous one inside its overlap.
    pub async fn product_by_key(&self, key_hash: &str) -> Result<Option<Product>, RegistryError> {
        let conn = self.database.conn().await?;
        let row = conn.maybe(&PRODUCT_BY_KEY, &[&key_hash]).await?;
        row.map(|row| Cells::of(&row).product()).transpose()
    }

    /// A product by id or slug.
    pub async fn product(&self, reference: &ProductRef) -> Result<Option<Product>, RegistryError> {
        let conn = self.database.conn().await?;
        let row = match reference {
            ProductRef::Id(id) => conn.maybe(&PRODUCT_BY_ID, &[&id.uuid()]).await?,
            ProductRef::Slug(slug) => conn.maybe(&PRODUCT_BY_SLUG, &[&slug.as_str()]).await?,
        };
        row.map(|row| Cells::of(&row).product()).transpose()
    }

    /// Products in the order they were registered, each with its number of engines; the cursor is the last one's
    /// `(created_at, id)`.
    pub async fn products(
        &self,
        limit: i64,
        after: Option<(Timestamp, ProductId)>,
    ) -> Result<Vec<(Product, i64)>, RegistryError> {
        let conn = self.database.conn().await?;
        let (time, id): (Option<DateTime<Utc>>, _) = match after {
            None => (None, None),
            Some((time, id)) => (Some(super::cells::instant(time)?), Some(id.uuid())),
        };
        let rows = conn.rows(&PRODUCTS, &[&time, &id, &limit]).await?;
        rows.iter()
            .map(|row| {
                let mut cells = Cells::of(row);
                Ok((cells.product()?, cells.cell()?))
            })
            .collect()
    }

    /// Replaces a product's policy; `None` when there is no such product. The audit row's `before` and `after` are
    /// filled in here.
    pub async fn set_policy(
        &self,
        id: ProductId,
        policy: &Value,
        audit: AuditEntry,
    ) -> Result<Option<Product>, RegistryError> {
        retried!(self.set_policy_once(id, policy, &audit))
    }

    async fn set_policy_once(
        &self,
        id: ProductId,
        policy: &Value,
        audit: &AuditEntry,
    ) -> Result<Option<Product>, Fault> {
        let mut conn = self.database.conn().await?;
        let tx = conn.begin().await?;
        let Some(row) = tx.maybe(&LOCK_POLICY, &[&id.uuid()]).await? else { return Ok(None) };
        let before: Value = Cells::of(&row).cell()?;
        let product = Cells::of(&tx.one(&SET_POLICY, &[&id.uuid(), policy]).await?).product()?;
        let mut entry = AuditEntry { product_id: Some(id), ..audit.clone() };
        if let Value::Object(metadata) = &mut entry.metadata {
            metadata.insert("before".to_owned(), before);
            metadata.insert("after".to_owned(), policy.clone());
        }
        audit::check(std::slice::from_ref(&entry))?;
        audit::insert(&tx, &[entry]).await?;
        tx.tell(&[Notice::Product { id }]).await?;
        tx.commit().await?;
        Ok(Some(product))
    }

    /// Makes this hash the product's platform key; the old key works for `overlap` (zero: not at all), one before it
    /// no longer. `None` when there is no such product, else the end of the overlap.
    pub async fn rotate_platform_key(
        &self,
        id: ProductId,
        new_hash: &str,
        overlap: Duration,
        audit: AuditEntry,
    ) -> Result<Option<Option<Timestamp>>, RegistryError> {
        audit::check(std::slice::from_ref(&audit))?;
        retried!(self.rotate_once(id, new_hash, overlap, &audit))
    }

    async fn rotate_once(
        &self,
        id: ProductId,
        new_hash: &str,
        overlap: Duration,
        audit: &AuditEntry,
    ) -> Result<Option<Option<Timestamp>>, Fault> {
        let mut conn = self.database.conn().await?;
        let tx = conn.begin().await?;
        let Some(row) = tx.maybe(&ROTATE, &[&id.uuid(), &new_hash, &millis(overlap)]).await? else {
            return Ok(None);
        };
        let ends = Cells::of(&row).time_opt()?;
        audit::insert(&tx, &[AuditEntry { product_id: Some(id), ..audit.clone() }]).await?;
        tx.tell(&[Notice::Product { id }]).await?;
        tx.commit().await?;
        Ok(Some(ends))
    }

    /// From now on the product's keys are dead and it gets no new engines. With engines left only when they may be
    /// destroyed; they are counted under the lock that a reservation takes, so none slips in between. The first count
    /// stays in the row until the end.
    pub async fn mark_deleting(
        &self,
        id: ProductId,
        destroy_engines: bool,
    ) -> Result<DeletionMark, RegistryError> {
        retried!(self.mark_deleting_once(id, destroy_engines))
    }

    async fn mark_deleting_once(&self, id: ProductId, destroy_engines: bool) -> Result<DeletionMark, Fault> {
        let mut conn = self.database.conn().await?;
        let tx = conn.begin().await?;
        if tx.maybe(&LOCK_PRODUCT_ROW, &[&id.uuid()]).await?.is_none() {
            return Ok(DeletionMark::Missing);
        }
        let left: i64 = Cells::of(&tx.one(&COUNT_ENGINES, &[&id.uuid()]).await?).cell()?;
        if left > 0 && !destroy_engines {
            return Ok(DeletionMark::EnginesLeft(left));
        }
        tx.rows(&MARK_DELETING, &[&id.uuid(), &left]).await?;
        tx.tell(&[Notice::Product { id }]).await?;
        tx.commit().await?;
        Ok(DeletionMark::Deleting(left))
    }

    /// Removes a product that has no engines, with its row for the log. The row's `engines_destroyed` is filled in here:
    /// what was counted when the deletion began.
    pub async fn delete_product_if_empty(
        &self,
        id: ProductId,
        audit: AuditEntry,
    ) -> Result<ProductRemoval, RegistryError> {
        audit::check(std::slice::from_ref(&audit))?;
        retried!(self.delete_product_once(id, &audit))
    }

    async fn delete_product_once(&self, id: ProductId, audit: &AuditEntry) -> Result<ProductRemoval, Fault> {
        let mut conn = self.database.conn().await?;
        let tx = conn.begin().await?;
        let Some(row) = tx.maybe(&LOCK_PRODUCT_ROW, &[&id.uuid()]).await? else {
            return Ok(ProductRemoval::Missing);
        };
        let counted: Option<i64> = Cells::of(&row).cell()?;
        let left: i64 = Cells::of(&tx.one(&COUNT_ENGINES, &[&id.uuid()]).await?).cell()?;
        if left > 0 {
            return Ok(ProductRemoval::EnginesLeft(left));
        }
        tx.rows(&DELETE_PRODUCT, &[&id.uuid()]).await?;
        let mut entry = AuditEntry { product_id: Some(id), ..audit.clone() };
        if let Value::Object(metadata) = &mut entry.metadata {
            metadata.insert("engines_destroyed".to_owned(), counted.unwrap_or(0).into());
        }
        audit::check(std::slice::from_ref(&entry))?;
        audit::insert(&tx, &[entry]).await?;
        tx.tell(&[Notice::Product { id }]).await?;
        tx.commit().await?;
        Ok(ProductRemoval::Removed)
    }

    /// Engines of a product, in any state.
    pub async fn count_engines(&self, product: ProductId) -> Result<i64, RegistryError> {
        let conn = self.database.conn().await?;
        Cells::of(&conn.one(&COUNT_ENGINES, &[&product.uuid()]).await?).cell()
    }
}
