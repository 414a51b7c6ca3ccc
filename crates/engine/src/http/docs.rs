//! GET /docs: a viewer of /openapi.json, carried by the program and served without any external resource.
//!
//! Three static files, because the content security policy forbids inline scripts and styles. They are the
//! same bytes for everyone and need no key. Paths inside them are relative, so that a proxy may put the
//! Engine under a prefix.

use chassis::http::viewer;

/// The policy sent with the page: only its own script and style, only calls to its own origin.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Every file of the viewer: path, content type, bytes. The first is the page itself.
pub const fn assets() -> &'static [(&'static str, &'static str, &'static [u8])] {
    ASSETS
}

const ASSETS: &[(&str, &str, &[u8])] = &[
    ("/docs", "text/html; charset=utf-8", include_bytes!("docs.html")),
    ("/docs/app.js", "text/javascript; charset=utf-8", viewer::SCRIPT.as_bytes()),
    ("/docs/style.css", "text/css; charset=utf-8", viewer::STYLE.as_bytes()),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_viewer_obeys_its_own_policy() {
        for (path, _, bytes) in assets() {
            let text = std::str::from_utf8(bytes).expect("text");
            assert!(!text.contains("http://") && !text.contains("https://"), "{path} names another host");
            assert!(
                !text.contains("innerHTML") && !text.contains("eval("),
                "{path} could run what it is sent"
            );
        }
        let page = std::str::from_utf8(assets()[0].2).expect("text");
        assert!(
            !page.contains("style=") && !page.contains("<style") && !page.contains("onclick"),
            "inline parts"
        );
        for (path, _, _) in &assets()[1..] {
            assert!(
                page.contains(&format!("\"{}\"", path.trim_start_matches('/'))),
                "{path} is not referenced"
            );
        }
    }
}
