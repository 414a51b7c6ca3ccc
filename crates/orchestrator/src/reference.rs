//! The reference pages that are made from declarations: variables, error codes, metrics and the API.
//!
//! `docs/reference/` holds their text, and a test compares, so a page cannot say anything else than the program.
//! `bap-engine reference --out docs/reference` writes them.

use contract::FleetCode;
use std::fmt::Write as _;

/// The command that brings `docs/reference` up to date.
pub const REGENERATE: &str = "cargo run -p orchestrator -- reference --out docs/reference";

/// Every generated page: file name and text.
pub fn pages() -> Vec<(&'static str, String)> {
    vec![
        ("orchestrator-variables.md", crate::config::reference()),
        ("orchestrator-errors.md", errors()),
        ("orchestrator-metrics.md", crate::telemetry::catalog::reference()),
        ("orchestrator-openapi.json", crate::http::openapi::document().to_owned()),
    ]
}

/// Who must act when a code is seen.
pub fn who_acts(code: FleetCode) -> &'static str {
    match code {
        FleetCode::InvalidRequest
        | FleetCode::InvalidPlatformKey
        | FleetCode::ProductSlugExists
        | FleetCode::ProductNotFound
        | FleetCode::ProductNotEmpty
        | FleetCode::EngineNotFound
        | FleetCode::RouteNotFound
        | FleetCode::MethodNotAllowed
        | FleetCode::EngineAlreadyExists
        | FleetCode::EngineNotRunning
        | FleetCode::RateLimited => "the caller",
        FleetCode::InvalidAdminKey
        | FleetCode::PortExhaustion
        | FleetCode::ReadOnly
        | FleetCode::DatabaseUnavailable
        | FleetCode::BackendError
        | FleetCode::BootTimeout => "the operator",
        FleetCode::PolicyDenied | FleetCode::QuotaExceeded | FleetCode::CapacityExhausted => {
            "the caller; the operator when it lasts"
        }
        FleetCode::Internal => "the operator, and whoever maintains the program",
        FleetCode::EngineAlreadyRunning
        | FleetCode::EngineBusy
        | FleetCode::Starting
        | FleetCode::Draining => "nobody",
    }
}

/// The sentence behind the word of [`FleetCode::retry`].
fn retry(code: FleetCode) -> &'static str {
    match code.retry() {
        "yes" => "Yes, after `Retry-After`.",
        "later" => "Later, when what is named above has changed.",
        "once" => "Once; if it comes again, report it.",
        "if retrying" => {
            "When `details.retrying` is true the work goes on by itself; repeat the call to learn how it ended."
        }
        _ => "No: the same call gets the same answer.",
    }
}

fn errors() -> String {
    let mut page = format!(
        "# Orchestrator error codes\n\nGenerated from `crates/contract/src/fleet_code.rs`; a test compares. To change it, \
         change the declaration and run\n`{REGENERATE}`.\n\n\
         Every error body is `{{\"error\":{{\"code\":\"ENGINE_BUSY\",\"message\":\"…\",\"details\":{{}}}}}}`. Route on \
         `code`, which is stable; `message` is for people and may change; `details` is optional. `Retry-After` (whole \
         seconds) comes with every 429 and 503 but READ_ONLY, and with 409 ENGINE_BUSY, 502 and 504 when a retry is \
         scheduled. A 503 DATABASE_UNAVAILABLE with `details.operation_id` answers a call whose operation had begun: it \
         goes on when the database is back; repeat the call to learn how it ended. What is no request of HTTP (a head \
         that cannot be parsed, or is larger than {} KiB) is answered 400, 414 or 431 without a body, and the connection is \
         closed. The Engine's own codes are [another list](errors.md): some words occur in both.\n\n\
         | Code | Status | Who acts | Retry |\n|---|---|---|---|\n",
        crate::http::serve::limits().header_bytes / 1024
    );
    for &code in FleetCode::ALL {
        let _ = writeln!(
            page,
            "| [{code}](#{}) | {} | {} | {} |",
            code.as_str().to_lowercase(),
            code.status(),
            who_acts(code),
            code.retry()
        );
    }
    for &code in FleetCode::ALL {
        let _ = write!(
            page,
            "\n## {code}\n\nStatus {}. **Cause.** {}\n\n**Who acts.** {}. {}\n\n**Retry.** {}\n",
            code.status(),
            code.cause(),
            capital(who_acts(code)),
            code.caller(),
            retry(code)
        );
    }
    page
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_an_entry_of_its_own() {
        let page = errors();
        for &code in FleetCode::ALL {
            assert!(page.contains(&format!("\n## {code}\n")), "{code}");
            assert!(page.contains(code.cause()), "{code}");
        }
    }

    #[test]
    fn the_word_of_every_code_has_its_sentence() {
        for &code in FleetCode::ALL {
            assert!(["no", "yes", "later", "once", "if retrying"].contains(&code.retry()), "{code}");
            assert_eq!(retry(code).starts_with("No"), code.retry() == "no", "{code}");
        }
    }
}
