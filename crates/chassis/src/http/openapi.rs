//! What programs that describe themselves by OpenAPI have in common: how the document is written, named and served.
//!
//! What stands in it is the program's own; [`super::viewer`] shows it. The invariant: one document has one text, so that
//! the committed file, the command line and the endpoint can be compared byte by byte.

use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};

/// A document as text: pretty-printed JSON with a line end.
pub fn text(document: &Value) -> String {
    // `{:#}` of a JSON value is its pretty print and cannot fail
    format!("{document:#}\n")
}

/// Answers with a document. Every answer shares the same bytes, because anyone may ask, without a key.
pub fn answer(text: &'static str) -> Response {
    ([(CONTENT_TYPE, "application/json")], text).into_response()
}

/// The id of an operation: its method and the words of its path.
pub fn operation_id(method: &str, path: &str) -> String {
    let words: Vec<&str> = path.split(['/', '-', '.', '{', '}']).filter(|w| !w.is_empty()).collect();
    format!("{}_{}", method.to_ascii_lowercase(), words.join("_"))
}

/// Points at a named schema of the same document.
pub fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_has_one_text_and_its_operations_are_named_by_their_paths() {
        assert_eq!(text(&json!({"b": [1], "a": {}})), "{\n  \"a\": {},\n  \"b\": [\n    1\n  ]\n}\n");
        assert_eq!(operation_id("GET", "/engines/{user_id}/rotate-key"), "get_engines_user_id_rotate_key");
        assert_eq!(operation_id("GET", "/openapi.json"), "get_openapi_json");
    }
}
