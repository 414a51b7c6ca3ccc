//! The reference pages that are made from declarations: variables, error codes, events.
//!
//! `docs/reference/` holds their text, and a test compares, so a page cannot say anything else than the
//! program. `september-engine reference --out docs/reference` writes them.

use contract::conversation::ToolReason;
use contract::{ErrorCode, EventName, StopReason};
use std::fmt::Write as _;

/// The command that brings `docs/reference` up to date.
pub const REGENERATE: &str = "cargo run -p engine -- reference --out docs/reference";

/// Every generated page: file name and text.
pub fn pages() -> Vec<(&'static str, String)> {
    vec![("variables.md", crate::config::reference()), ("errors.md", errors()), ("events.md", events())]
}

fn head(title: &str, made_from: &str) -> String {
    format!(
        "# {title}\n\nGenerated from `{made_from}`; a test compares. To change it, change the declaration and run\n`{REGENERATE}`.\n\n"
    )
}

fn errors() -> String {
    let mut page = head("Error codes", "crates/contract/src/code.rs");
    page.push_str(
        "Every error body is flat: `{\"error\":\"CODE\",\"message\":\"text\",\"details\":{}}`. `error` is stable, \
         `message` is for people, `details` is optional. The status counts before the first stream byte and on all \
         other endpoints; inside a stream an `error` event carries the same body and the code alone counts. Answers \
         with status 429 and 503 carry `Retry-After`. What is no request of HTTP (a head that cannot be parsed, or is \
         too large) is answered 400, 414 or 431 without a body, and the connection is closed.\n\n| Code | Status |\n|---|---|\n",
    );
    for code in ErrorCode::ALL {
        let _ = writeln!(page, "| [{code}](#{}) | {} |", code.as_str().to_lowercase(), code.status());
    }
    for code in ErrorCode::ALL {
        let _ = write!(
            page,
            "\n## {code}\n\nStatus {}. {}\n\n**What to do.** {}\n",
            code.status(),
            code.meaning(),
            code.client()
        );
    }
    page
}

fn events() -> String {
    let mut page = head("Events", "crates/contract/src/event.rs");
    page.push_str(
        "A stream is `text/event-stream`. Each frame is an `id:` line, an `event:` line, exactly one `data:` line of \
         JSON, and a blank line; line ends are LF. There are these fourteen events and nothing else. Every payload \
         carries `task_id`, `turn_id` and `timestamp`; events of a nested call also carry `agent` and \
         `parent_tool_call_id`. The id is the brain's sequence number: send the last one you have seen as \
         `Last-Event-ID` to GET /execute/replay and the stream goes on without gap or duplicate.\n\n\
         ```\nid: 812\nevent: text_delta\ndata: {\"task_id\":\"demo-1\",\"turn_id\":\"turn-0196…\",\
         \"timestamp\":\"2026-04-27T12:34:56.120Z\",\"text\":\"Here are\",\"block_index\":0}\n\n```\n",
    );
    for name in EventName::ALL {
        let (tells, fields) = name.payload();
        let _ = write!(page, "\n## {}\n\n{tells}\n\nFields: {fields}.\n", name.as_str());
    }
    let words = |words: Vec<&str>| words.into_iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", ");
    let _ = write!(
        page,
        "\n## Words\n\n`stop_reason` is one of {}.\n\n`reason` of a failed `tool_result` is one of {}.\n",
        words(StopReason::ALL.iter().map(|r| r.as_str()).collect()),
        words(ToolReason::ALL.iter().map(|r| r.as_str()).collect())
    );
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_and_every_event_has_an_entry_of_its_own() {
        let (errors, events) = (errors(), events());
        for code in ErrorCode::ALL {
            assert!(errors.contains(&format!("\n## {code}\n")), "{code}");
        }
        for name in EventName::ALL {
            assert!(events.contains(&format!("\n## {}\n", name.as_str())), "{}", name.as_str());
        }
    }
}
