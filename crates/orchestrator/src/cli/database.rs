//! What the commands that work on the database share: a connection to a schema this program knows, and names of
//! things as people write them.

use super::{Exit, Stop};
use crate::config::Settings;
use crate::keys::{self, EngineKeys};
use crate::places::{self, Place};
use crate::registry::rows::{Found, Product};
use crate::registry::{DatabaseSettings, MigrateError, ProductRef, Registry, RegistryError};
use chassis::config::Secret;
use contract::{FleetCode, FleetError, ProductId, Slug, UserId};
use fleet::policy::Policy;

/// Connections of one command. More would take them from the replicas; with fewer a page and the lookups for it
/// wait for each other.
const CONNECTIONS: usize = 2;

/// The database, and the settings it was found by.
pub struct Database {
    /// Every variable.
    pub settings: Settings,
    /// The rows.
    pub registry: Registry,
}

/// Prepares the connection without looking at the schema.
pub fn connect(url: Option<&Secret>) -> Result<Registry, Stop> {
    let Some(url) = url else {
        return Err(Stop::unset("ORCH_DATABASE_URL"));
    };
    let settings = DatabaseSettings {
        url: url.clone(),
        max_connections: CONNECTIONS,
        application_name: "bap-engine command".to_owned(),
    };
    Registry::connect(settings).map_err(|error| Stop::new(Exit::Configuration, error.to_string()))
}

impl Database {
    /// Connects and refuses a schema that is not this program's.
    pub async fn open(settings: Settings) -> Result<Self, Stop> {
        let registry = connect(settings.database_url.as_ref())?;
        let status = registry.schema_status().await?;
        if !status.is_current() {
            let message = match status.database {
                0 => "the database has no schema yet; run `bap-engine migrate` or start a replica".to_owned(),
                level => format!(
                    "the database is at schema level {level}, this program at {}; run `bap-engine migrate`",
                    status.program
                ),
            };
            return Err(Stop::new(Exit::Refused, message));
        }
        Ok(Self { settings, registry })
    }

    /// The product behind an id or a short name.
    pub async fn product(&self, text: &str) -> Result<Product, Stop> {
        let reference = match ProductId::parse(text) {
            Ok(id) => ProductRef::Id(id),
            Err(_) => ProductRef::Slug(
                Slug::parse(text).map_err(|e| Stop::usage(format!("product `{text}`: {e}")))?,
            ),
        };
        let found = self.registry.product(&reference).await?;
        found.ok_or_else(|| {
            FleetError::new(FleetCode::ProductNotFound, format!("there is no product `{text}`")).into()
        })
    }

    /// Product and user behind `<product>/<user>`, or behind a user alone where only one product can be meant.
    pub async fn user(&self, text: &str) -> Result<(Product, UserId), Stop> {
        match split(text)? {
            (Some(product), user) => Ok((self.product(product).await?, user)),
            (None, user) => Ok((self.product_in_hand(text).await?, user)),
        }
    }

    /// The product of BAP_PLATFORM_KEY, else the only one there is.
    async fn product_in_hand(&self, text: &str) -> Result<Product, Stop> {
        if let Some(product) = own_product(&self.registry, &self.settings).await? {
            return Ok(product);
        }
        let mut first = self.registry.products(2, None).await?;
        match (first.pop(), first.pop()) {
            (Some((only, _)), None) => Ok(only),
            _ => Err(Stop::usage(format!(
                "`{text}` does not say which product; expected <product>/<user>, for example `demo/{text}`"
            ))),
        }
    }

    /// The engine behind `<product>/<user>`, with its product.
    pub async fn engine(&self, text: &str) -> Result<(Product, Found), Stop> {
        let (product, user) = self.user(text).await?;
        let found = self.registry.find(product.id, &user).await?;
        found.map(|found| (product, found)).ok_or_else(no_engine)
    }

    /// Where engines run.
    pub async fn place(&self) -> Result<Place, Stop> {
        let instance = self.registry.instance().await?;
        places::place(&self.settings, &instance).await.map_err(|why| Stop::new(Exit::Configuration, why))
    }

    /// What seals and opens engine keys.
    pub fn keys(&self) -> Result<EngineKeys, Stop> {
        match &self.settings.master_key {
            Some(master) => Ok(EngineKeys::new(master.clone())),
            None => Err(Stop::unset("ORCH_MASTER_KEY")),
        }
    }
}

/// The stored policy of a product.
pub fn policy(product: &Product) -> Result<Policy, Stop> {
    Policy::parse(&product.policy)
        .map_err(|_| Stop::failed(&format!("the stored policy of {} does not parse", product.slug)))
}

/// There is no such engine.
pub fn no_engine() -> Stop {
    FleetError::new(FleetCode::EngineNotFound, "this product has no engine for this user").into()
}

/// The product of BAP_PLATFORM_KEY, when that is set and still opens one.
pub async fn own_product(registry: &Registry, settings: &Settings) -> Result<Option<Product>, RegistryError> {
    match &settings.bap_platform_key {
        Some(key) => registry.product_by_key(&keys::hash_hex(key.expose())).await,
        None => Ok(None),
    }
}

/// `<product>/<user>`, or a user alone; a user's name may itself contain slashes after its product.
fn split(text: &str) -> Result<(Option<&str>, UserId), Stop> {
    let (product, user) = match text.split_once('/') {
        Some(("", _)) => {
            let wrong = format!("`{text}` is not <product>/<user>; for example `demo/demo-user-001`");
            return Err(Stop::usage(wrong));
        }
        Some((product, user)) => (Some(product), user),
        None => (None, text),
    };
    let user = UserId::parse(user).map_err(|e| Stop::usage(format!("user of `{text}`: {e}")))?;
    Ok((product, user))
}

impl From<RegistryError> for Stop {
    fn from(error: RegistryError) -> Self {
        let exit = if error.is_unavailable() { Exit::Unreachable } else { Exit::Failed };
        Stop::new(exit, error.to_string())
    }
}

impl From<MigrateError> for Stop {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::Registry(error) => error.into(),
            MigrateError::ChangedFile(_) | MigrateError::TooNew { .. } => {
                Stop::new(Exit::Refused, error.to_string())
            }
            MigrateError::Failed { .. } => Stop::failed(&error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_named_by_product_and_user_or_by_the_user_alone() {
        assert_eq!(split("demo/u").map(|(p, u)| (p, u.to_string())), Ok((Some("demo"), "u".to_owned())));
        assert_eq!(split("u").map(|(p, u)| (p, u.to_string())), Ok((None, "u".to_owned())));
        assert_eq!(split("demo/team/u@x").map(|(_, u)| u.to_string()), Ok("team/u@x".to_owned()));
        for wrong in ["demo/", "/u", "", "demo/ u"] {
            assert_eq!(split(wrong).map_err(|stop| stop.exit).err(), Some(Exit::Configuration), "{wrong:?}");
        }
    }

    #[test]
    fn what_cannot_be_reached_and_what_is_refused_have_exit_codes_of_their_own() {
        let away = RegistryError::Unavailable("x".to_owned());
        assert_eq!(Stop::from(away.clone()).exit, Exit::Unreachable);
        assert_eq!(Stop::from(MigrateError::Registry(away)).exit, Exit::Unreachable);
        assert_eq!(Stop::from(MigrateError::TooNew { database: 9, program: 1 }).exit, Exit::Refused);
        assert_eq!(Stop::from(RegistryError::Defect("x".to_owned())).exit, Exit::Failed);
    }
}
