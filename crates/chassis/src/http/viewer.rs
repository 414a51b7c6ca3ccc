//! A viewer of an OpenAPI document, carried by the program and using no external resource.
//!
//! The script reads `openapi.json` beside the page and builds text nodes only, so nothing in a document or an answer
//! can become markup. The page around it is the program's: it has elements with the ids `title`, `about`, `filter`,
//! `key` and `operations`. The key typed in is sent in the header that the document's security scheme names.

/// The viewer's script.
pub const SCRIPT: &str = include_str!("viewer.js");

/// The viewer's style.
pub const STYLE: &str = include_str!("viewer.css");
