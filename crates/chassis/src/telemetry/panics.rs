//! A panic is one JSON line on stderr, with its backtrace.

use super::{IdFields, LogLevel, Scrub, last_words};
use std::backtrace::Backtrace;
use std::panic::PanicHookInfo;

/// What stands for a message that was put together at run time: it may quote user text (a sliced string, a
/// value that failed to parse), which no line above DEBUG may hold. Place and backtrace find the bug.
const WITHHELD: &str = "the message is shown at log level DEBUG, because it may quote user text";

/// Replaces the process's panic hook. The panic goes on unwinding; whoever catches it answers with INTERNAL.
pub fn install_panic_hook(level: LogLevel, ids: IdFields, scrub: Option<Scrub>) {
    std::panic::set_hook(Box::new(move |panic| report(panic, level, ids, scrub.as_ref())));
}

fn report(panic: &PanicHookInfo<'_>, level: LogLevel, ids: IdFields, scrub: Option<&Scrub>) {
    let payload = panic.payload();
    let message = match (payload.downcast_ref::<&'static str>(), payload.downcast_ref::<String>()) {
        (Some(fixed), _) => (*fixed).to_owned(),
        (None, Some(made)) if level == LogLevel::Debug => made.clone(),
        _ => WITHHELD.to_owned(),
    };
    let place = panic.location().map(|l| format!("{}:{}", l.file(), l.line()));
    let extra = serde_json::json!({
        "code": contract::ErrorCode::Internal.as_str(),
        "place": place,
        "panic": message,
        "thread": std::thread::current().name(),
        "backtrace": Backtrace::force_capture().to_string(),
    });
    last_words(LogLevel::Error, "panic", ids, "Panicked", &extra, scrub);
}
