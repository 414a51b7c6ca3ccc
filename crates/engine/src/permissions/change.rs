//! What a file tool would change in its file, for the person who is asked.
//!
//! Shown to that person only, never to the model. A file that cannot be compared is shown as what is known of it; it
//! never stops the question.

use crate::sandbox::{Place, Workspace};
use ::permissions::diff::{self, MAX_COMPARED_BYTES};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// The change a call of the function `tool` with `input` would make; `None` when it writes no file.
pub fn of(tool: &str, input: &Value, workspace: &Workspace) -> Option<String> {
    if !matches!(tool, "write_file" | "edit_file") {
        return None;
    }
    let path = workspace.resolve(input["path"].as_str()?);
    if workspace.place(&path) == Place::Sealed {
        return None;
    }
    let name = path.display().to_string();
    let before = match text(&path) {
        Ok(before) => before,
        Err(why) => return Some(format!("{name}: {why}\n")),
    };
    let after = if tool == "write_file" {
        let content = input["content"].as_str()?;
        match (&before, input["append"].as_bool()) {
            (Some(before), Some(true)) => format!("{before}{content}"),
            _ => content.to_owned(),
        }
    } else {
        let (old, new) = (input["old_text"].as_str()?, input["new_text"].as_str()?);
        let text = before.as_deref()?;
        if input["replace_all"].as_bool() == Some(true) {
            text.replace(old, new)
        } else {
            text.replacen(old, new, 1)
        }
    };
    Some(diff::unified(before.as_deref(), &after, &name))
}

/// The text of a file, `None` when there is none.
fn text(path: &Path) -> Result<Option<String>, &'static str> {
    let Ok(meta) = fs::symlink_metadata(path) else { return Ok(None) };
    if !meta.is_file() {
        return Err("not a regular file, its content is not shown");
    }
    if meta.len() > MAX_COMPARED_BYTES as u64 {
        return Err("too large to compare");
    }
    let bytes = fs::read(path).map_err(|_| "cannot be read, its content is not shown")?;
    String::from_utf8(bytes).map(Some).map_err(|_| "not text, its content is not shown")
}
