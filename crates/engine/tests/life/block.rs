//! The recalled block as a careful stranger reads it: strictly, and without the code that wrote it.
//!
//! The invariant: what this file accepts has every untrusted word between `<quoted>` and `</quoted>`, and no tag that
//! is not the block's own.

use super::story::POISON;

/// One recalled memory.
#[derive(Debug, Clone)]
pub struct Shown {
    /// Its id.
    pub id: String,
    /// Its date.
    pub date: String,
    /// As the block says.
    pub trust: String,
    /// What it says, without the quoting.
    pub body: String,
}

/// The block of a text, from tag to tag.
pub fn of(text: &str) -> Option<&str> {
    let (from, to) = (text.find("<memory>\n")?, text.rfind("</memory>")?);
    text.get(from..to + "</memory>".len())
}

/// The items of a block, or what is wrong with it.
pub fn read(block: &str) -> Result<Vec<Shown>, String> {
    let inside = block.strip_prefix("<memory>\n").and_then(|b| b.strip_suffix("</memory>"));
    let mut rest = inside.ok_or("no block")?;
    let mut items = Vec::new();
    while !rest.is_empty() {
        let (head, behind) = rest.split_once('\n').ok_or("a head without an end")?;
        let head =
            head.strip_prefix("<item ").and_then(|h| h.strip_suffix('>')).ok_or("words between items")?;
        let (body, after) = behind.split_once("\n</item>\n").ok_or("an item without an end")?;
        let attribute = |name: &str| {
            let from = head.find(&format!("{name}=\""))? + name.len() + 2;
            Some(head[from..].split('"').next()?.to_owned())
        };
        let all = || Some((attribute("id")?, attribute("date")?, attribute("trust")?));
        let (id, date, trust) = all().ok_or("an attribute is missing")?;
        let body = match trust.as_str() {
            "untrusted" => {
                let quoted = body.strip_prefix("<quoted>\n").and_then(|b| b.strip_suffix("\n</quoted>"));
                let quoted = quoted.ok_or("an untrusted item that is not quoted")?;
                if quoted.contains('<') {
                    return Err(format!("a tag inside a quotation: {quoted}"));
                }
                quoted
            }
            "user" | "tool" => {
                let low = body.to_lowercase();
                if low.contains(POISON) {
                    return Err(format!("words of a page are shown as {trust}: {body}"));
                }
                if ["<memory", "</memory", "<item", "</item", "<quoted", "</quoted"]
                    .iter()
                    .any(|t| low.contains(t))
                {
                    return Err(format!("a tag of the block inside an item: {body}"));
                }
                body
            }
            other => return Err(format!("no such trust: {other}")),
        };
        items.push(Shown { id, date, trust, body: body.to_owned() });
        rest = after;
    }
    Ok(items)
}
