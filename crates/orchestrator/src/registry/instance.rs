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

const DATABASE_EXISTS: Query = Query::new("database_exists", "SELECT 1 FROM pg_database WHERE datname = $1");

/// Names cannot be parameters of this statement; the caller's name is checked to be a plain word.
const CREATE_DATABASE: &str = "CREATE DATABASE ";

const SET_PORT_ASIDE: Query = Query::new(
    "set_port_aside",
    "INSERT INTO quarantined_ports (port, reason, until) VALUES ($1, $2, 'infinity') ON CONFLICT (port) DO NOTHING",
);

impl Registry {
    /// Makes a database on this server unless it is there; for `up`, which owns the whole server.
    pub async fn create_database(&self, name: &str) -> Result<(), RegistryError> {
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
            return Err(RegistryError::Defect(format!("{name:?} is no plain name of a database")));
        }
        let conn = self.database.conn().await?;
        if conn.maybe(&DATABASE_EXISTS, &[&name]).await?.is_some() {
            return Ok(());
        }
        drop(conn);
        let client = self.database.aside().await?;
        let statement = format!("{CREATE_DATABASE}{name}");
        client.batch_execute(&statement).await.map_err(|error| RegistryError::Defect(error.to_string()))
    }

    /// Keeps a port of the range from engines for good: a listener of ours is on it.
    pub async fn set_port_aside(&self, port: u16, reason: &str) -> Result<(), RegistryError> {
        let conn = self.database.conn().await?;
        conn.rows(&SET_PORT_ASIDE, &[&i32::from(port), &reason]).await?;
        Ok(())
    }

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
