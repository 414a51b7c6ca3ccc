//! Whether a URL was shown to the model, or is one it made up. Pure.
//!
//! In a turn that has read untrusted content, a made-up URL may carry out what the content asked for. A URL counts
//! as shown when it stands, whole, in a message of the person, in a search result, or as a link of a fetched page.
//! (specification 7.3(e))

use contract::conversation::{Block, Role};
use std::collections::HashMap;

/// The tools whose results show URLs.
const SHOWING_TOOLS: [&str; 2] = ["web_search", "web_fetch"];

/// True when `url` was shown in these messages of a task, oldest first.
pub fn was_shown<'a>(url: &str, messages: impl IntoIterator<Item = (Role, &'a [Block])>) -> bool {
    let spellings = spellings(url);
    let mut tools: HashMap<&str, &str> = HashMap::new();
    for (role, content) in messages {
        for block in content {
            match block {
                Block::ToolUse { id, name, .. } => {
                    tools.insert(id, name);
                }
                Block::Text { text } if role == Role::User && stands_in(text, &spellings) => return true,
                // a failure may name an address that nobody chose: the target of a redirect that was not followed
                Block::ToolResult { tool_use_id, content, is_error: false } => {
                    let shows = tools.get(tool_use_id.as_str()).is_some_and(|t| SHOWING_TOOLS.contains(t));
                    let text = |b: &Block| matches!(b, Block::Text { text } if stands_in(text, &spellings));
                    if shows && content.iter().any(text) {
                        return true;
                    }
                }
                _ => {}
            }
        }
    }
    false
}

/// The URL as it was written, as it is requested, and both with and without a last slash.
fn spellings(url: &str) -> Vec<String> {
    let url = url.trim();
    let mut all = vec![url.to_owned()];
    if let Ok(mut parsed) = url::Url::parse(url) {
        all.push(parsed.to_string());
        parsed.set_fragment(None);
        all.push(parsed.to_string());
    }
    let slashes: Vec<String> = all.iter().map(|u| u.trim_end_matches('/').to_owned()).collect();
    all.extend(slashes);
    all.retain(|u| u.contains("://"));
    all
}

fn stands_in(text: &str, spellings: &[String]) -> bool {
    spellings
        .iter()
        .any(|url| text.match_indices(url.as_str()).any(|(at, _)| ends_there(&text[at + url.len()..])))
}

/// True when a URL that is followed by `rest` ends there. A sentence's dot does not belong to it.
fn ends_there(rest: &str) -> bool {
    let rest = rest.strip_prefix('/').unwrap_or(rest);
    let rest = rest.trim_start_matches(['.', ',', ';', ':', '!', '?', ')', ']', '\'']);
    // a JSON text ends a URL with an escape; a fragment is never sent
    !rest.starts_with(|c: char| c.is_alphanumeric() || "/-_~%&=+@$*".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_refused_redirect_names_was_not_shown() {
        let mut said = call("web_fetch", &json!({"redirects_to": "https://evil.test/?s=1"}).to_string());
        assert!(shown("https://evil.test/?s=1", &said));
        if let Block::ToolResult { is_error, .. } = &mut said[1].1[0] {
            *is_error = true;
        }
        assert!(!shown("https://evil.test/?s=1", &said));
    }

    type Said = Vec<(Role, Vec<Block>)>;

    fn shown(url: &str, said: &Said) -> bool {
        was_shown(url, said.iter().map(|(role, content)| (*role, content.as_slice())))
    }

    fn call(tool: &str, result: &str) -> Said {
        let used =
            Block::ToolUse { id: "call-1".into(), name: tool.into(), input: json!({}), signature: None };
        let content = vec![Block::text(result)];
        let told = Block::ToolResult { tool_use_id: "call-1".into(), content, is_error: false };
        vec![(Role::Assistant, vec![used]), (Role::Tool, vec![told])]
    }

    #[test]
    fn a_url_of_the_person_of_a_search_and_of_a_page_was_shown() {
        let said = vec![(Role::User, vec![Block::text("read https://a.test/x?y=1, please")])];
        assert!(shown("https://a.test/x?y=1", &said));
        assert!(shown("https://A.test/x?y=1#part", &said));
        let found = call("web_search", &json!([{"url": "https://b.test/p"}]).to_string());
        assert!(shown("https://b.test/p", &found) && shown("https://b.test/p/", &found));
        let page = call("web_fetch", &json!({"text": "see [this](https://c.test/q).\nMore"}).to_string());
        assert!(shown("https://c.test/q", &page));
    }

    #[test]
    fn a_longer_shorter_or_elsewhere_shown_url_was_not() {
        let said = vec![(Role::User, vec![Block::text("read https://a.test/x/y now")])];
        for made_up in
            ["https://a.test/x/y?leak=1", "https://a.test/x/yz", "https://a.test/x", "https://a.test/"]
        {
            assert!(!shown(made_up, &said), "{made_up}");
        }
        assert!(!shown("https://b.test/p", &call("bash", "https://b.test/p")));
        let own = vec![(Role::Assistant, vec![Block::text("https://d.test/")])];
        assert!(!shown("https://d.test/", &own), "the model's own words show nothing");
    }
}
