//! Logins of registries, as `docker login` wrote them into `config.json`.
//!
//! Read at each pull, so that a renewed login works without a restart; kept nowhere, shown nowhere. Credential
//! helpers (other programs) are not run. The one invariant: a login goes only to the registry it was made for.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bollard::auth::DockerCredentials;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::Path;

/// Under which name Docker's own client files the default registry.
const DEFAULT_REGISTRY: &str = "https://index.docker.io/v1/";
/// Longest file that is read. Longer is no configuration; shorter could cut off somebody's hundredth registry.
const CONFIG_MAX_BYTES: u64 = 1024 * 1024;

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    auths: HashMap<String, Login>,
}

#[derive(Deserialize)]
struct Login {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    identitytoken: String,
}

/// The login for this image's registry, if the directory's `config.json` has one.
pub(crate) async fn for_image(directory: &Path, image: &str) -> Option<DockerCredentials> {
    let path = directory.join("config.json");
    let size = tokio::fs::metadata(&path).await.ok()?.len();
    if size > CONFIG_MAX_BYTES {
        tracing::warn!(path = %path.display(), size, "registry logins are not read: the file is too large");
        return None;
    }
    let text = tokio::fs::read_to_string(&path).await.ok()?;
    if let Ok(config) = serde_json::from_str::<Config>(&text) {
        return login(config, registry(image));
    }
    tracing::warn!(path = %path.display(), "registry logins are not read: the file is not understood");
    None
}

/// The first part of a reference is a registry when it looks like a host.
fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => DEFAULT_REGISTRY,
    }
}

fn login(mut config: Config, registry: &str) -> Option<DockerCredentials> {
    let spellings = [registry.to_owned(), format!("https://{registry}"), format!("http://{registry}")];
    let found = spellings.iter().find_map(|name| config.auths.remove(name))?;
    let mut credentials =
        DockerCredentials { serveraddress: Some(registry.to_owned()), ..DockerCredentials::default() };
    if !found.identitytoken.is_empty() {
        credentials.identitytoken = Some(found.identitytoken);
        return Some(credentials);
    }
    let decoded = String::from_utf8(STANDARD.decode(found.auth).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    credentials.username = Some(user.to_owned());
    credentials.password = Some(password.trim_end_matches('\0').to_owned());
    Some(credentials)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_login_goes_only_to_its_registry() {
        let directory = tempfile::tempdir().expect("a directory");
        let text = r#"{"auths":{"registry.example:5000":{"auth":"dXNlcjpwYTpzcw=="},
                       "https://index.docker.io/v1/":{"identitytoken":"t"},"ghcr.io":{}}}"#;
        std::fs::write(directory.path().join("config.json"), text).expect("written");
        let own = for_image(directory.path(), "registry.example:5000/engine:1").await.expect("a login");
        assert_eq!((own.username.as_deref(), own.password.as_deref()), (Some("user"), Some("pa:ss")));
        let hub = for_image(directory.path(), "september-engine").await.expect("a login");
        assert_eq!((hub.identitytoken.as_deref(), hub.password), (Some("t"), None));
        assert!(for_image(directory.path(), "ghcr.io/a/b").await.is_none(), "kept in a helper");
        assert!(for_image(directory.path(), "other.example/a").await.is_none());
        assert!(for_image(Path::new("/nowhere"), "a").await.is_none());
    }
}
