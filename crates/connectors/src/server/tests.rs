//! What an entry may say, as tables.

use super::*;
use serde_json::json;

fn wrong(entry: Value) -> Vec<String> {
    let problems = Entry::parse("slack", &entry).expect_err("must be refused");
    problems.into_iter().map(|problem| problem.pointer).collect()
}

fn http() -> Value {
    json!({"server_name": "slack", "transport": "http", "url": "https://mcp.example.com/slack", "auth_method": "none"})
}

fn with(key: &str, value: Value) -> Value {
    let mut entry = http();
    entry[key] = value;
    entry
}

#[test]
fn the_examples_of_the_documentation_are_accepted() {
    let slack = json!({
        "server_name": "slack", "display_name": "Slack", "transport": "http",
        "url": "https://mcp.example.com/slack", "auth_method": "oauth",
        "scopes": ["channels:read", "chat:write"], "trusted": false,
        "tools": {"allow": ["*"], "deny": [], "effects": {"list_channels": "read-only"}}
    });
    let entry = Entry::parse("slack", &slack).expect("is an entry");
    assert_eq!((entry.transport.word(), entry.auth.word()), ("http", "oauth"));
    assert_eq!(entry.tools.effects["list_channels"], Effect::ReadOnly);
    assert!(entry.warnings.is_empty() && !entry.disabled && !entry.trusted);

    let files = json!({
        "server_name": "files", "display_name": "Files", "transport": "stdio",
        "command": ["mcp-server-filesystem", "/data/workspace"], "env": {"LOG": "1"},
        "auth_method": "none", "network": []
    });
    let entry = Entry::parse("files", &files).expect("is an entry");
    let Transport::Stdio { command, env, network } = entry.transport else { panic!("stdio") };
    assert_eq!((command.len(), env["LOG"].as_str(), network.len()), (2, "1", 0));
    let secret = json!({
        "server_name": "s", "transport": "stdio", "command": ["x", "--key=c4nary"], "env": {"K": "c4nary"},
        "auth_method": "none"
    });
    let shown = format!("{:?}", Entry::parse("s", &secret).expect("is an entry"));
    assert!(!shown.contains("c4nary"), "{shown}");
}

#[test]
fn every_mistake_is_named_with_its_place() {
    let cases: [(Value, &[&str]); 22] = [
        (json!([]), &[""]),
        (json!({}), &["/server_name", "/transport", "/auth_method"]),
        (with("server_name", json!("Slack")), &["/server_name"]),
        (with("server_name", json!("other")), &["/server_name"]),
        (with("transport", json!("websocket")), &["/transport"]),
        (with("url", json!("http://mcp.example.com/")), &["/url"]),
        (with("url", json!("https://user:pw@mcp.example.com/")), &["/url"]),
        (with("url", json!("https://mcp.example.com/#x")), &["/url"]),
        (with("url", json!("file:///etc/passwd")), &["/url"]),
        (with("command", json!(["x"])), &["/command"]),
        (with("scopes", json!(["a"])), &["/scopes"]),
        (with("header", json!("X-Key: <api_key>")), &["/header"]),
        (with("trusted", json!("yes")), &["/trusted"]),
        (with("disabled", json!(1)), &["/disabled"]),
        (with("display_name", json!("")), &["/display_name"]),
        (with("tools", json!({"allow": "*"})), &["/tools/allow"]),
        (with("tools", json!({"effects": {"a/b": "never"}})), &["/tools/effects/a~1b"]),
        (with("auth_method", json!("basic")), &["/auth_method"]),
        (
            json!({"server_name": "slack", "transport": "stdio", "command": [], "auth_method": "none"}),
            &["/command"],
        ),
        (
            json!({"server_name": "slack", "transport": "stdio", "command": ["x"], "auth_method": "oauth"}),
            &["/auth_method"],
        ),
        (
            json!({"server_name": "slack", "transport": "stdio", "command": ["x"], "auth_method": "none",
                   "env": {"1A": "x", "B": 2}, "network": ["a b", "example.com:0", "ok.example.com:443", "*.x.org"]}),
            &["/env/1A", "/env/B", "/network/0", "/network/1"],
        ),
        (
            json!({"server_name": "slack", "transport": "sse", "url": "https://x.example.com", "auth_method": "oauth",
                   "client_secret_env": "S", "scopes": ["a b"]}),
            &["/client_secret_env", "/scopes/0"],
        ),
    ];
    for (entry, pointers) in cases {
        assert_eq!(wrong(entry.clone()), pointers, "{entry}");
    }
}

#[test]
fn plain_http_is_for_this_machine_only() {
    for url in
        ["http://localhost:1/mcp", "http://127.0.0.1:9/mcp", "http://[::1]:9/", "https://x.example.com"]
    {
        assert!(usable_url(url).is_ok(), "{url}");
    }
    for url in
        ["http://localhost.example.com/", "http://10.0.0.1/", "http://0.0.0.0/", "/mcp", "ftp://127.0.0.1/"]
    {
        assert!(usable_url(url).is_err(), "{url}");
    }
}

#[test]
fn a_key_goes_where_the_header_says() {
    let header = |text: &str| {
        let mut entry = with("auth_method", json!("static"));
        entry["header"] = json!(text);
        Entry::parse("slack", &entry).map(|entry| match entry.auth {
            Auth::Static { header } => (header.name.clone(), header.value("k")),
            Auth::None | Auth::OAuth { .. } => panic!("static"),
        })
    };
    assert_eq!(header("X-Api-Key: <api_key>"), Ok(("x-api-key".into(), "k".into())));
    assert_eq!(header("Authorization: Token <api_key>!"), Ok(("authorization".into(), "Token k!".into())));
    assert_eq!(KeyHeader::default().value("k"), "Bearer k");
    for text in ["X-Api-Key", "X Api: <api_key>", "X-Api-Key: key", ": <api_key>", "X: é<api_key>"] {
        assert!(header(text).is_err(), "{text}");
    }
}

#[test]
fn unknown_keys_are_warnings_and_values_are_never_repeated() {
    let entry = Entry::parse("slack", &with("colour", json!("red"))).expect("is an entry");
    assert_eq!(entry.warnings[0].pointer, "/colour");
    let problems = Entry::parse("slack", &with("url", json!("https://u:c4nary@x"))).expect_err("refused");
    assert!(!problems[0].to_string().contains("c4nary"));
}

#[test]
fn deny_wins_over_allow_and_a_star_ends_a_prefix() {
    let rules = |allow: &[&str], deny: &[&str]| ToolRules {
        allow: allow.iter().map(|s| (*s).to_owned()).collect(),
        deny: deny.iter().map(|s| (*s).to_owned()).collect(),
        effects: BTreeMap::new(),
    };
    assert!(ToolRules::default().offers("anything"));
    assert!(!rules(&["*"], &["drop_*"]).offers("drop_table"));
    assert!(rules(&["list_*"], &["drop_*"]).offers("list_tables"));
    assert!(!rules(&["list_*"], &[]).offers("lis"));
    assert!(!rules(&[], &[]).offers("list"));
}
