//! Programs that mean harm or are merely broken: they hold up nobody and fill nothing.

use crate::house::House;
use connectors::trouble::Trouble;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// An MCP server whose calls do what the text of the call says.
const SHELL: &str = r#"
trap '' TERM HUP PIPE
say() { printf '%s\n' "$1"; }
while IFS= read -r line; do
  id=$(printf '%s' "$line" | sed -n 's/.*"id":\([0-9]*\).*/\1/p')
  done="{\"jsonrpc\":\"2.0\",\"id\":$id,\"result\":{\"content\":[{\"type\":\"text\",\"text\":\"sh\"}]}}"
  case "$line" in
    *'"server/discover"'*) say "{\"jsonrpc\":\"2.0\",\"id\":$id,\"error\":{\"code\":-32601,\"message\":\"unknown\"}}";;
    *'"initialize"'*) say "{\"jsonrpc\":\"2.0\",\"id\":$id,\"result\":{\"protocolVersion\":\"2025-06-18\",\"capabilities\":{\"tools\":{}},\"serverInfo\":{\"name\":\"sh\",\"version\":\"1\"}}}";;
    *'"tools/list"'*) say "{\"jsonrpc\":\"2.0\",\"id\":$id,\"result\":{\"tools\":[{\"name\":\"echo\",\"inputSchema\":{\"type\":\"object\"}}]}}";;
    *'"tools/call"'*) case "$line" in
      *'"half"'*) printf '{"jsonrpc":"2.0","id":'; exit 1;;
      *'"noise"'*) say 'Listening on stdio...'; say '{"a":'; say '[]'; say '"x"'; say '{"jsonrpc":"2.0","id":99,"result":{}}'; say "$done";;
      *'"line"'*) head -c 134217728 /dev/zero | tr '\0' x; say ''; say "$done";;
      *'"flood"'*) while :; do n=$((n+1)); say "{\"jsonrpc\":\"2.0\",\"id\":\"q$n\",\"method\":\"ping\"}"; done;;
      *'"crumbs"'*) printf '{"jsonrpc":"2.0","id":%s,"result":{"content":[' "$id"
        yes '{"type":"text","text":""},' | head -n 300000 | tr -d '\n'; say '{"type":"text","text":""}]}}';;
      *'"deaf"'*) exec sleep 100;;
      *) say "$done";;
    esac;;
  esac
done
"#;

async fn house(call: Duration) -> House {
    let house = House::new().await;
    House::with(house.paper.clone(), house.keys.clone(), call, Duration::from_secs(600)).await
}

fn config() -> Value {
    json!({"server_name": "sh", "transport": "stdio", "command": ["sh", "-c", SHELL], "auth_method": "none"})
}

/// Resident memory of this process.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux tells");
    let pages: u64 = text.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number");
    pages * 4096
}

#[tokio::test]
async fn a_program_that_dies_within_a_word_fails_its_call_and_is_started_again() {
    let house = house(Duration::from_secs(10)).await;
    let id = house.connect_with("sh", config()).await;
    let begun = Instant::now();
    assert!(matches!(house.say(&id, "half").await, Err(Trouble::Unreachable(_))));
    assert!(begun.elapsed() < Duration::from_secs(5), "nobody waits for a dead program");
    assert_eq!(house.say(&id, "x").await.expect("an answer").value, json!("sh"));
}

#[tokio::test]
async fn noise_between_the_messages_is_passed_over() {
    let house = house(Duration::from_secs(10)).await;
    let id = house.connect_with("sh", config()).await;
    assert_eq!(house.say(&id, "noise").await.expect("an answer").value, json!("sh"));
}

#[tokio::test]
async fn a_line_without_an_end_is_not_kept() {
    let house = house(Duration::from_secs(60)).await;
    let id = house.connect_with("sh", config()).await;
    let before = resident();
    assert_eq!(house.say(&id, "line").await.expect("an answer").value, json!("sh"));
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 << 20, "grew by {} MiB of 128", grown >> 20);
}

#[tokio::test]
async fn an_answer_of_very_many_parts_is_cut_before_it_is_parsed() {
    let house = house(Duration::from_secs(60)).await;
    let id = house.connect_with("sh", config()).await;
    let before = resident();
    let trouble = house.say(&id, "crumbs").await.expect_err("must end");
    assert!(matches!(trouble, Trouble::Cut(_)) && trouble.counts(), "{trouble:?}");
    assert!(trouble.to_string().contains("holds more values than it may"), "{trouble}");
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 << 20, "grew by {} MiB", grown >> 20);
    assert_eq!(house.say(&id, "x").await.expect("started again").value, json!("sh"));
}

#[tokio::test]
async fn a_program_that_asks_without_end_and_reads_nothing_is_cut_off() {
    let house = house(Duration::from_secs(60)).await;
    let id = house.connect_with("sh", config()).await;
    let trouble = house.say(&id, "flood").await.expect_err("must end");
    assert!(matches!(trouble, Trouble::Cut(_)) && trouble.counts(), "{trouble:?}");
    assert_eq!(house.say(&id, "x").await.expect("started again").value, json!("sh"));
}

#[tokio::test]
async fn a_program_that_does_not_read_holds_up_neither_the_call_nor_its_cancelling() {
    let house = house(Duration::from_secs(1)).await;
    let id = house.connect_with("sh", config()).await;
    assert!(matches!(house.say(&id, "deaf").await, Err(Trouble::TimedOut(_))));
    // more than a pipe holds: it cannot be written, nor can what takes it back
    let begun = Instant::now();
    let long = "x".repeat(1 << 20);
    assert!(matches!(house.say(&id, &long).await, Err(Trouble::TimedOut(_))));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    let begun = Instant::now();
    house.directory.close().await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}
