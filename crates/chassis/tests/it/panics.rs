//! What a panic leaves on stderr, seen from outside the process.

use chassis::telemetry::{IdFields, LogLevel, Scrub, capture, install_panic_hook};
use serde_json::Value;
use std::process::Command;
use std::sync::Arc;

const IDS: IdFields = &["request_id", "task_id"];

/// Panics twice inside a span, the hook installed. A test of its own, and the child of the one below.
#[test]
fn a_panic_goes_on_unwinding() {
    let scrub: Scrub = Arc::new(|line| line.replace("hunter2", "[redacted]"));
    let (subscriber, _logs) = capture(LogLevel::Info, &["it"], IDS);
    let _logging = tracing::subscriber::set_default(subscriber);
    install_panic_hook(LogLevel::Info, IDS, Some(scrub));
    let outcomes = tracing::info_span!("request", request_id = "req-1", task_id = "demo-1").in_scope(|| {
        let user_text = "what the user wrote";
        let fixed = std::panic::catch_unwind(|| panic!("fixed words, hunter2"));
        let made = std::panic::catch_unwind(|| panic!("cannot cut {user_text}"));
        (fixed.is_err(), made.is_err())
    });
    drop(std::panic::take_hook());
    assert_eq!(outcomes, (true, true));
}

#[test]
fn a_panic_is_one_json_line_without_secrets_and_user_text() {
    let this = std::env::current_exe().expect("this test has a file");
    let child = ["--exact", "panics::a_panic_goes_on_unwinding", "--nocapture"];
    let output = Command::new(this).args(child).output().expect("starts");
    let text = String::from_utf8(output.stderr).expect("is text");
    let lines: Vec<Value> = text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
    assert_eq!(lines.len(), 2, "{text}");
    for line in &lines {
        assert_eq!((&line["level"], &line["request_id"]), (&"ERROR".into(), &"req-1".into()));
        assert_eq!((&line["task_id"], &line["extra"]["code"]), (&"demo-1".into(), &"INTERNAL".into()));
        assert!(line["extra"]["place"].as_str().expect("has a place").contains("panics.rs:"));
        assert!(!line["extra"]["backtrace"].as_str().expect("has a backtrace").is_empty());
    }
    assert_eq!(lines[0]["extra"]["panic"], "fixed words, [redacted]");
    assert!(!text.contains("what the user wrote") && !text.contains("hunter2"), "{text}");
}
