//! GET /docs: a viewer of /openapi.json in one page, without any external asset.
//!
//! Script and style are inside the page, and the content security policy names their hashes: nothing else runs,
//! whatever a document or an answer contains.

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chassis::http::viewer::{SCRIPT, STYLE};
use sha2::{Digest, Sha256};
use std::sync::LazyLock;

/// The page, and the policy sent with it.
static PAGE: LazyLock<(String, String)> = LazyLock::new(|| {
    let page = include_str!("docs.html").replace("{style}", STYLE).replace("{script}", SCRIPT);
    let policy = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(SCRIPT),
        hash(STYLE)
    );
    (page, policy)
});

fn hash(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text.as_bytes())))
}

/// The handler.
pub async fn serve() -> Response {
    let (page, policy) = &*PAGE;
    let mut response = ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], page.as_str()).into_response();
    if let Ok(value) = HeaderValue::from_str(policy) {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_carries_everything_and_its_policy_lets_only_that_run() {
        let (page, policy) = &*PAGE;
        assert!(page.contains(SCRIPT) && page.contains(STYLE));
        assert_eq!(page.matches("<script").count(), 1, "the script cannot end its own element");
        assert_eq!(page.matches("</style").count(), 1);
        for outside in ["src=", "http://", "https://", "@import", "url("] {
            assert!(!page.contains(outside), "{outside} fetches something");
        }
        for inline in ["style=\"", "onclick=", "innerHTML", "eval("] {
            assert!(!page.contains(inline), "{inline} is refused by the policy");
        }
        assert!(policy.contains("script-src 'sha256-") && HeaderValue::from_str(policy).is_ok(), "{policy}");
    }
}
