//! Servers that are child processes: started at the first use, stopped when idle, restarted with a limit.

use crate::house::{House, until};
use connectors::trouble::Trouble;
use serde_json::json;
use std::time::Duration;

/// An MCP server in a dozen lines of shell: it knows the handshake only, and dies of the word `die`.
const SHELL: &str = r#"
echo start >> "$LOG"
while IFS= read -r line; do
  id=$(printf '%s' "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
  case "$line" in
    *'"server/discover"'*) [ "$SILENT" = 1 ] || echo "{\"jsonrpc\":\"2.0\",\"id\":$id,\"error\":{\"code\":-32601,\"message\":\"unknown\"}}";;
    *'"initialize"'*) echo "{\"jsonrpc\":\"2.0\",\"id\":$id,\"result\":{\"protocolVersion\":\"2025-06-18\",\"capabilities\":{\"tools\":{}},\"serverInfo\":{\"name\":\"sh\",\"version\":\"1\"}}}";;
    *'"tools/list"'*) echo "{\"jsonrpc\":\"2.0\",\"id\":$id,\"result\":{\"tools\":[{\"name\":\"echo\",\"inputSchema\":{\"type\":\"object\"}}]}}";;
    *'"tools/call"'*) case "$line" in *'"die"'*) exit 1;; esac
      echo "{\"jsonrpc\":\"2.0\",\"id\":$id,\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"sh\"}]}}";;
  esac
done
"#;

struct Program {
    dir: std::path::PathBuf,
}

impl Program {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("connectors-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        Self { dir }
    }

    fn config(&self, silent: bool) -> serde_json::Value {
        json!({"server_name": "sh", "transport": "stdio", "command": ["sh", "-c", SHELL], "auth_method": "none",
               "env": {"LOG": self.log().display().to_string(), "SILENT": if silent { "1" } else { "0" }}})
    }

    fn log(&self) -> std::path::PathBuf {
        self.dir.join("starts")
    }

    fn starts(&self) -> usize {
        std::fs::read_to_string(self.log()).unwrap_or_default().lines().count()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[tokio::test]
async fn a_program_is_started_once_and_spoken_to_over_its_pipes() {
    let (house, program) = (House::new().await, Program::new("once"));
    let id = house.connect_with("sh", program.config(false)).await;
    for _ in 0..3 {
        assert_eq!(house.say(&id, "x").await.expect("an answer").value, json!("sh"));
    }
    assert_eq!(program.starts(), 1);
}

#[tokio::test]
async fn a_program_that_ignores_the_probe_is_greeted_the_old_way() {
    let (house, program) = (House::new().await, Program::new("silent"));
    let begun = std::time::Instant::now();
    let id = house.connect_with("sh", program.config(true)).await;
    assert!(begun.elapsed() >= Duration::from_secs(5), "it was given its five seconds");
    assert!(house.say(&id, "x").await.is_ok());
    // the next start knows it
    let again = House::on(house.paper.clone(), house.keys.clone()).await;
    let begun = std::time::Instant::now();
    assert!(again.say(&id, "x").await.is_ok());
    assert!(begun.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn an_idle_program_is_stopped_and_started_again_when_needed() {
    let first = House::new().await;
    let (keys, idle) = (first.keys.clone(), Duration::from_millis(200));
    let house = House::with(first.paper.clone(), keys, Duration::from_secs(5), idle).await;
    let program = Program::new("idle");
    let id = house.connect_with("sh", program.config(false)).await;
    until("started again", || async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        house.say(&id, "x").await.is_ok() && program.starts() >= 3
    })
    .await;
}

#[tokio::test]
async fn a_program_that_keeps_dying_is_restarted_three_times() {
    let (house, program) = (House::new().await, Program::new("dying"));
    let id = house.connect_with("sh", program.config(false)).await;
    for _ in 0..4 {
        assert!(matches!(house.say(&id, "die").await, Err(Trouble::Unreachable(_))));
    }
    assert_eq!(program.starts(), 4, "the first start and three more");
    let trouble = house.say(&id, "x").await.expect_err("left alone");
    assert!(matches!(trouble, Trouble::Unreachable(_) | Trouble::Resting(_)), "{trouble:?}");
    assert_eq!(program.starts(), 4);
}

#[tokio::test]
async fn a_program_that_does_not_exist_is_told_as_such() {
    let house = House::new().await;
    let config = json!({"server_name": "x", "transport": "stdio", "command": ["/no/such/program"], "auth_method": "none"});
    let error = house.try_connect("x", config).await.expect_err("must fail");
    assert!(format!("{error:?}").contains("entity not found"), "{error:?}");
}
