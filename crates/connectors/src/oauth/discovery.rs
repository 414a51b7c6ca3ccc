//! Which authorization server speaks for an MCP server: challenge, protected-resource metadata, RFC 8414, OpenID.
//!
//! The protocol library walks that way and filters addresses. Here its findings are checked once more: https, or
//! this machine when the MCP server is on this machine, too.

use crate::server::{is_loopback, usable_url};
use crate::trouble::Trouble;
use rmcp::transport::auth::{AuthorizationManager, AuthorizationMetadata, OAuthClientConfig};
use serde_json::Value;
use url::Url;

/// An authorization server, as far as it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub issuer: String,
    pub authorization_endpoint: Url,
    pub token_endpoint: Url,
    pub registration_endpoint: Option<Url>,
    pub revocation_endpoint: Option<Url>,
    /// Empty when it does not say.
    pub client_auth_methods: Vec<String>,
    /// It promises an `iss` parameter.
    pub names_itself: bool,
    /// It takes client metadata documents.
    pub takes_documents: bool,
    /// What the token shall be for.
    pub resource: String,
    pub scopes: Vec<String>,
}

/// Asks around. `scopes` is what to ask for when neither challenge nor metadata say.
pub(crate) async fn discover(
    server: &Url,
    challenge: Option<&str>,
    scopes: &[String],
) -> Result<Found, Trouble> {
    let failed = |_| Trouble::Garbage("its authorization server cannot be found".into());
    let mut manager = AuthorizationManager::new(server.clone()).await.map_err(failed)?;
    let challenge = challenge.filter(|text| !text.is_empty());
    let metadata = manager.resolve_metadata_from_challenge(challenge).await.map_err(failed)?.metadata;
    manager.set_metadata(metadata.clone());
    let defaults: Vec<&str> = scopes.iter().map(String::as_str).collect();
    let chosen = manager.select_initial_scopes(&defaults).await;
    let resource = resource(&mut manager).await.unwrap_or_else(|| canonical(server));
    read(server, &metadata, resource, chosen)
}

/// The resource the metadata named. The library tells it only inside an authorization address of its own.
async fn resource(manager: &mut AuthorizationManager) -> Option<String> {
    manager.configure_client(OAuthClientConfig::new("nobody", "http://127.0.0.1/")).ok()?;
    let address = Url::parse(&manager.get_authorization_url(&[]).await.ok()?).ok()?;
    address.query_pairs().find(|(name, _)| name == "resource").map(|(_, value)| value.into_owned())
}

/// An address without query and fragment.
fn canonical(server: &Url) -> String {
    let mut url = server.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

fn read(
    server: &Url,
    metadata: &AuthorizationMetadata,
    resource: String,
    scopes: Vec<String>,
) -> Result<Found, Trouble> {
    let local = is_loopback(server);
    let usable = |text: &str| {
        let url = usable_url(text).ok().filter(|url| local || !is_loopback(url));
        url.ok_or_else(|| {
            Trouble::Garbage("its authorization server has an address that must not be used".into())
        })
    };
    let more = &metadata.additional_fields;
    let flag = |name: &str| more.get(name).and_then(Value::as_bool) == Some(true);
    let optional = |text: Option<&str>| text.map(usable).transpose();
    if metadata
        .code_challenge_methods_supported
        .as_ref()
        .is_some_and(|all| !all.iter().any(|one| one == "S256"))
    {
        return Err(Trouble::Garbage("its authorization server does not know PKCE with S256".into()));
    }
    let methods = more.get("token_endpoint_auth_methods_supported").and_then(Value::as_array);
    let methods = methods.map(|all| all.iter().filter_map(Value::as_str).map(str::to_owned).collect());
    Ok(Found {
        issuer: metadata.issuer.clone().unwrap_or_else(|| server.origin().ascii_serialization()),
        authorization_endpoint: usable(&metadata.authorization_endpoint)?,
        token_endpoint: usable(&metadata.token_endpoint)?,
        registration_endpoint: optional(metadata.registration_endpoint.as_deref())?,
        revocation_endpoint: optional(more.get("revocation_endpoint").and_then(Value::as_str))?,
        client_auth_methods: methods.unwrap_or_default(),
        names_itself: flag("authorization_response_iss_parameter_supported"),
        takes_documents: flag("client_id_metadata_document_supported"),
        resource,
        scopes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(server: &str, change: Value) -> Result<Found, Trouble> {
        let mut metadata = json!({
            "issuer": "https://as.example.com",
            "authorization_endpoint": "https://as.example.com/authorize",
            "token_endpoint": "https://as.example.com/token",
            "revocation_endpoint": "https://as.example.com/revoke",
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none", "client_secret_post"],
            "authorization_response_iss_parameter_supported": true,
        });
        for (key, value) in change.as_object().expect("object") {
            metadata[key] = value.clone();
        }
        let metadata = serde_json::from_value(metadata).expect("is metadata");
        read(&Url::parse(server).expect("is a URL"), &metadata, "r".into(), Vec::new())
    }

    #[test]
    fn what_the_server_says_is_read_and_checked() {
        let good = found("https://mcp.example.com/", json!({})).expect("is usable");
        assert!(good.names_itself && !good.takes_documents && good.registration_endpoint.is_none());
        assert_eq!(good.client_auth_methods, ["none", "client_secret_post"]);
        for bad in [
            json!({"token_endpoint": "http://as.example.com/token"}),
            json!({"token_endpoint": "https://127.0.0.1/token"}),
            json!({"revocation_endpoint": "file:///x"}),
            json!({"code_challenge_methods_supported": ["plain"]}),
        ] {
            assert!(found("https://mcp.example.com/", bad.clone()).is_err(), "{bad}");
        }
        let local = json!({"token_endpoint": "http://127.0.0.1:9/token"});
        assert!(found("http://127.0.0.1:8/mcp", local).is_ok(), "this machine may speak for this machine");
    }
}
