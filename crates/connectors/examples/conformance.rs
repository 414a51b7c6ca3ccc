//! A client for the MCP conformance suite: connects to the server it is given, authorizes where that is asked for,
//! and calls every tool there is. `scripts/test-mcp.sh` drives it.
//!
//! `conformance <url>` over HTTP, `conformance --stdio <command> [argument...]` for a program. The scenario and
//! its secrets come in the environment, as the suite defines them.

#[path = "../tests/it/house.rs"]
mod house;

use chassis::config::Values;
use chassis::seal::MasterKeys;
use connectors::connection::{CallOptions, Limits};
use connectors::directory::{ConnectError, Connected, Offered};
use connectors::oauth::Callback;
use connectors::trouble::Trouble;
use contract::ConnectionId;
use house::{House, Paper, Person};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// How often one connection is authorized: a server that is never content must not keep us for ever.
const CONSENTS_MAX: usize = 3;
/// The client document the suite knows.
const CLIENT_DOCUMENT: &str = "https://conformance-test.local/client-metadata.json";

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let environment = Values::process();
    let variable = |name: &str| {
        use chassis::config::Source as _;
        environment.get(name).unwrap_or_default()
    };
    let scenario = variable("MCP_CONFORMANCE_SCENARIO");
    let context: Value = serde_json::from_str(&variable("MCP_CONFORMANCE_CONTEXT")).unwrap_or_default();
    match run(&arguments, &scenario, &context).await {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{scenario}: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &[String], scenario: &str, context: &Value) -> Result<String, String> {
    let config = match arguments {
        [flag, command @ ..] if flag == "--stdio" && !command.is_empty() => {
            json!({"server_name": "suite", "transport": "stdio", "command": command, "auth_method": "none"})
        }
        [.., url] => {
            let auth = if scenario.starts_with("auth/") { "oauth" } else { "none" };
            let mut config =
                json!({"server_name": "suite", "transport": "http", "url": url, "auth_method": auth});
            for name in ["client_id", "client_secret"] {
                if let Some(value) = context.get(name).filter(|_| auth == "oauth") {
                    config[name] = value.clone();
                }
            }
            config
        }
        [] => return Err("usage: conformance URL | --stdio COMMAND [ARGUMENT...]".into()),
    };
    let keys = MasterKeys::parse(MasterKeys::generate().expose()).map_err(|error| error.to_string())?;
    let limits = Limits { call_timeout: Duration::from_secs(30), idle_stop: Duration::from_secs(600) };
    let document = CLIENT_DOCUMENT.parse().ok();
    let house = House::described(Paper::default(), keys, limits, document).await;

    let mut said = Vec::new();
    for _ in 0..CONSENTS_MAX {
        let id = match connect(&house, &config).await? {
            Some(id) => id,
            // authorized, and refused all the same: another authorization server may be in charge by now
            None => continue,
        };
        match call_everything(&house, &id, context).await {
            Ok(answers) => {
                said = answers;
                break;
            }
            // the server wants more: the next round asks the person for it
            Err(Trouble::Scope(scopes)) => eprintln!("further scopes: {scopes:?}"),
            Err(trouble) => return Err(trouble.to_string()),
        }
    }
    house.directory.close().await;
    Ok(json!({"tools": house.directory.offered().len(), "answers": said}).to_string())
}

async fn connect(house: &House, config: &Value) -> Result<Option<ConnectionId>, String> {
    match house.try_connect("suite", config.clone()).await {
        Ok(Connected::Ready(id)) => Ok(Some(id)),
        Ok(Connected::Pending(_, address)) => {
            let answer = consent(address.as_str()).await?;
            let field = |name: &str| answer.get(name).cloned();
            let callback = Callback {
                code: field("code"),
                state: field("state").unwrap_or_default(),
                iss: field("iss"),
                error: field("error"),
            };
            match house.directory.finish(callback).await {
                Ok(id) => Ok(Some(id)),
                Err(ConnectError::Failed(Trouble::Unauthorized(_))) => Ok(None),
                Err(error) => Err(format!("{error:?}")),
            }
        }
        Err(error) => Err(format!("{error:?}")),
    }
}

/// Does what a browser does.
async fn consent(address: &str) -> Result<HashMap<String, String>, String> {
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build();
    let http = http.map_err(|error| error.to_string())?;
    let answer = http.get(address).send().await.map_err(|error| error.to_string())?;
    let location = answer.headers().get("location").and_then(|value| value.to_str().ok());
    let location = location.ok_or("the authorization server does not redirect")?;
    let url = url::Url::parse(location).map_err(|error| error.to_string())?;
    Ok(url.query_pairs().into_owned().collect())
}

async fn call_everything(house: &House, id: &ConnectionId, context: &Value) -> Result<Vec<Value>, Trouble> {
    let mut answers = Vec::new();
    for (action, input) in wanted_calls(&house.directory.offered(), context) {
        let options = CallOptions { ask: Some(Arc::new(Person::who_says("{}"))), ..CallOptions::default() };
        let mut called = house.directory.call(id, &action, input.clone(), &options).await;
        if matches!(called, Err(Trouble::Changed)) {
            // A server may offer more once it knows its client: the person here says yes to what it offers now.
            for tool in house.directory.offered().iter().filter(|tool| tool.definition.action == action) {
                house.directory.approve(id, &action, &tool.hash).await.expect("books in memory");
            }
            called = house.directory.call(id, &action, input, &options).await;
        }
        let answer = match called {
            Ok(answer) => json!({"tool": action, "failed": answer.failed, "value": answer.value}),
            Err(Trouble::Refused(text)) => json!({"tool": action, "refused": text}),
            Err(trouble) => return Err(trouble),
        };
        answers.push(answer);
    }
    Ok(answers)
}

/// The calls the suite asks for, else every tool once.
fn wanted_calls(offered: &[Offered], context: &Value) -> Vec<(String, Map<String, Value>)> {
    if let Some(asked) = context["toolCalls"].as_array() {
        let read = |call: &Value| {
            let input = call["arguments"].as_object().cloned().unwrap_or_default();
            Some((call["name"].as_str()?.to_owned(), input))
        };
        return asked.iter().filter_map(read).collect();
    }
    let input = |tool: &Offered| match tool.definition.action.as_str() {
        // one scenario wants to see the schema as it was received
        "json_schema_echo" => {
            let other = offered.iter().find(|other| other.definition.action != "json_schema_echo");
            let schema = other.map(|other| other.definition.input_schema.clone()).unwrap_or_default();
            Map::from_iter([("schema".to_owned(), schema)])
        }
        _ => arguments_for(tool),
    };
    offered.iter().map(|tool| (tool.definition.action.clone(), input(tool))).collect()
}

/// Something that fits the schema.
fn arguments_for(tool: &Offered) -> Map<String, Value> {
    let schema = &tool.definition.input_schema;
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    let value = |name: &str| {
        let property = &schema["properties"][name];
        if let Some(first) = property["enum"].as_array().and_then(|all| all.first()) {
            return first.clone();
        }
        match property["type"].as_str() {
            Some("number" | "integer") => json!(property["minimum"].as_i64().unwrap_or(5).max(1)),
            Some("boolean") => json!(true),
            Some("array") => json!([]),
            Some("object") => json!({}),
            Some(_) | None => json!("test"),
        }
    };
    required.iter().filter_map(Value::as_str).map(|name| (name.to_owned(), value(name))).collect()
}
