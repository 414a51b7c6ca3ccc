//! This deployment: the one row that names it and says which backend its engines are on.

use super::cells::Cells;
use super::db::Query;
use super::{Instance, Registry, RegistryError};
use contract::InstanceId;

const INSTANCE: Query = Query::new("instance", "SELECT id, spec_salt, backend_identity FROM instance");

const SET_BACKEND_IDENTITY: Query = Query::new(
    "set_backend_identity",
    "UPDATE instance SET backend_identity = $2 WHERE backend_identity IS NOT DISTINCT FROM $1 RETURNING id",
);

impl Registry {
    /// This deployment.
    pub async fn instance(&self) -> Result<Instance, RegistryError> {
        let conn = self.database.conn().await?;
        let row = conn.maybe(&INSTANCE, &[]).await?;
        let row = row.ok_or_else(|| RegistryError::Corrupt("table instance holds no row".to_owned()))?;
        let mut cells = Cells::of(&row);
        Ok(Instance {
            id: cells.cell().map(InstanceId::from_uuid)?,
            spec_salt: cells.cell()?,
            backend_identity: cells.cell()?,
        })
    }

    /// Records which backend the engines are on; false when it is not (any more) the expected one.
    pub async fn set_backend_identity(
        &self,
        expected: Option<&str>,
        new: &str,
    ) -> Result<bool, RegistryError> {
        let conn = self.database.conn().await?;
        Ok(conn.maybe(&SET_BACKEND_IDENTITY, &[&expected, &new]).await?.is_some())
    }
}
