//! What a tool call gave back, in the shape the rest of the Engine knows.
//!
//! Text blocks are joined, structured content is passed on as JSON, pictures stay pictures, links become text.
//! All of it is a stranger's word: the caller must treat it as untrusted.

use crate::trouble::Trouble;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rmcp::model::{CallToolResult, ContentBlock, ResourceContents};
use serde_json::{Value, json};

/// Most pictures of one result. More would fill the model's context with one call.
pub const IMAGES_MAX: usize = 16;
/// Most parts of one result. More would copy each part of an answer that nobody can read; fewer refuses tools that
/// give every line or row a part of its own.
pub const PARTS_MAX: usize = 1_000;

/// One picture.
#[derive(Clone, PartialEq, Eq)]
pub struct Image {
    /// MIME type.
    pub media_type: String,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({}, {} bytes)", self.media_type, self.bytes.len())
    }
}

/// The result of one call.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// `{"text"?, "structured"?}`, or the structured content alone when there is no text of its own.
    pub value: Value,
    /// Pictures, in order.
    pub images: Vec<Image>,
    /// The tool itself says that it failed.
    pub failed: bool,
}

impl Answer {
    /// Reads a result of `tools/call`; one of too many parts is refused before any part is copied.
    pub fn read(result: &CallToolResult) -> Result<Self, Trouble> {
        if result.content.len() > PARTS_MAX {
            return Err(Trouble::Garbage(format!(
                "a result of {} parts, more than {PARTS_MAX}",
                result.content.len()
            )));
        }
        let (mut texts, mut images) = (Vec::new(), Vec::new());
        for block in &result.content {
            match block {
                ContentBlock::Text(text) => texts.push(text.text.clone()),
                ContentBlock::Image(image) => match STANDARD.decode(image.data.as_bytes()) {
                    Ok(bytes) if images.len() < IMAGES_MAX => {
                        images.push(Image { media_type: image.mime_type.clone(), bytes });
                    }
                    Ok(_) => {
                        texts.push(format!("[a further image of type {} was left out]", image.mime_type))
                    }
                    Err(_) => texts.push(format!("[an unreadable image of type {}]", image.mime_type)),
                },
                ContentBlock::Audio(audio) => texts.push(format!("[audio of type {}]", audio.mime_type)),
                ContentBlock::ResourceLink(link) => texts.push(format!("[{}]({})", link.name, link.uri)),
                ContentBlock::Resource(embedded) => texts.push(resource(&embedded.resource)),
                // rmcp may learn further kinds
                _ => texts.push("[content of an unknown kind]".to_owned()),
            }
        }
        let text = texts.join("\n");
        let value = match &result.structured_content {
            Some(structured) if repeats(&text, structured) => structured.clone(),
            Some(structured) => json!({"text": text, "structured": structured}),
            None => Value::String(text),
        };
        Ok(Self { value, images, failed: result.is_error == Some(true) })
    }

    /// The answer as text, for a failure.
    pub fn text(&self) -> String {
        match &self.value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }
}

/// Servers repeat structured content as text for old clients; the model need not read it twice.
fn repeats(text: &str, structured: &Value) -> bool {
    text.is_empty() || serde_json::from_str::<Value>(text).is_ok_and(|same| same == *structured)
}

fn resource(contents: &ResourceContents) -> String {
    match contents {
        ResourceContents::TextResourceContents { uri, text, .. } => format!("[{uri}]\n{text}"),
        ResourceContents::BlobResourceContents { uri, mime_type, .. } => {
            format!("[{uri}] (binary, {})", mime_type.as_deref().unwrap_or("unknown type"))
        }
        // rmcp may learn further kinds
        _ => "[a resource of an unknown kind]".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(result: Value) -> Result<Answer, Trouble> {
        Answer::read(&serde_json::from_value(result).expect("is a result"))
    }

    fn answer(result: Value) -> Answer {
        read(result).expect("is few enough")
    }

    #[test]
    fn each_kind_of_content_has_its_form() {
        let text = answer(json!({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}));
        assert_eq!((text.value, text.failed), (json!("a\nb"), false));

        let picture =
            answer(json!({"content": [{"type": "image", "data": "AAEC", "mimeType": "image/png"}]}));
        assert_eq!(picture.images, [Image { media_type: "image/png".into(), bytes: vec![0, 1, 2] }]);

        let link = answer(json!({"content": [
            {"type": "resource_link", "name": "log", "uri": "file:///log"},
            {"type": "resource", "resource": {"uri": "file:///a", "text": "inside"}}
        ]}));
        assert_eq!(link.value, json!("[log](file:///log)\n[file:///a]\ninside"));

        let failed =
            answer(json!({"content": [{"type": "text", "text": "no such channel"}], "isError": true}));
        assert!(failed.failed && failed.text() == "no such channel");
    }

    #[test]
    fn structured_content_is_not_shown_twice() {
        let structured = json!({"n": 1});
        let twice = answer(
            json!({"content": [{"type": "text", "text": "{\"n\": 1}"}], "structuredContent": structured}),
        );
        assert_eq!(twice.value, structured);
        let both =
            answer(json!({"content": [{"type": "text", "text": "one"}], "structuredContent": structured}));
        assert_eq!(both.value, json!({"text": "one", "structured": {"n": 1}}));
    }

    #[test]
    fn a_result_of_too_many_parts_is_refused_with_their_number() {
        let parts = |count| json!({"content": vec![json!({"type": "text", "text": ""}); count]});
        assert!(read(parts(PARTS_MAX)).is_ok());
        let trouble = read(parts(PARTS_MAX + 1)).expect_err("is too many");
        assert!(trouble.to_string().ends_with("a result of 1001 parts, more than 1000"), "{trouble}");
    }

    #[test]
    fn a_broken_picture_and_too_many_pictures_are_told_not_lost() {
        let broken = answer(json!({"content": [{"type": "image", "data": "%%%", "mimeType": "image/png"}]}));
        assert_eq!(broken.value, json!("[an unreadable image of type image/png]"));
        let block = json!({"type": "image", "data": "AAEC", "mimeType": "image/png"});
        let many = answer(json!({"content": vec![block; IMAGES_MAX + 1]}));
        assert_eq!(
            (many.images.len(), many.value),
            (IMAGES_MAX, json!("[a further image of type image/png was left out]"))
        );
    }
}
