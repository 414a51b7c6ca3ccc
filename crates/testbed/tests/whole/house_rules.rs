//! The rules that keep the house in order, as tests.
//!
//! A rule that only stands in a document is broken within a month. Each test here reads the manifests or the
//! sources and names the file and the rule that it breaks. Nothing here judges behaviour.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which of our crates a crate may import. A new arrow is a decision: change the table and write down why.
const MAY_IMPORT: [(&str, &[&str]); 13] = [
    ("contract", &[]),
    ("chassis", &["contract"]),
    ("llm", &["contract"]),
    ("brain", &["contract"]),
    ("permissions", &["contract"]),
    ("memory", &["contract"]),
    ("schemas", &[]),
    ("connectors", &["contract", "chassis", "schemas"]),
    ("engine", &["contract", "chassis", "llm", "brain", "permissions", "memory", "schemas", "connectors"]),
    ("fleet", &["contract"]),
    ("backends", &["fleet", "contract"]),
    ("orchestrator", &["contract", "chassis", "fleet", "backends"]),
    ("testbed", &["contract"]),
];

/// Crates of others that a crate of ours must not depend on, because of what it refuses to do.
const DELIBERATELY_ABSENT: [(&str, &[&str]); 12] = [
    ("contract", &["tokio", "axum", "hyper", "reqwest", "rusqlite", "tokio-postgres"]),
    ("chassis", &["rusqlite", "tokio-postgres", "reqwest"]),
    ("llm", &["rusqlite", "tokio-postgres", "axum"]),
    ("brain", &["reqwest", "axum", "hyper", "tokio-postgres"]),
    ("permissions", &["tokio", "rustix", "libc", "tempfile", "reqwest", "rusqlite"]),
    ("memory", &["tokio", "rusqlite", "reqwest", "rand"]),
    ("schemas", &["tokio", "rusqlite", "reqwest", "rand", "tracing"]),
    ("connectors", &["rusqlite", "tokio-postgres", "axum", "tower"]),
    ("engine", &["rusqlite", "tokio-postgres", "bollard", "kube", "rmcp"]),
    ("fleet", &["tokio", "chrono", "rand", "reqwest", "axum", "rusqlite", "tokio-postgres"]),
    ("backends", &["rusqlite", "tokio-postgres", "axum"]),
    ("orchestrator", &["rusqlite"]),
];

/// The rooms of `chassis`. The list is short on purpose: what fits none of them belongs to another crate.
const CHASSIS_ROOMS: [&str; 7] = ["config", "drain", "http", "lib", "seal", "telemetry", "terminal"];

/// File names that say nothing about what is inside.
const NAMELESS: [&str; 8] =
    ["util.rs", "utils.rs", "common.rs", "helper.rs", "helpers.rs", "manager.rs", "misc.rs", "shared.rs"];

/// Beginnings of SQL statements, as they stand in a string literal.
const SQL: [&str; 14] = [
    "\"SELECT ",
    "\"WITH ",
    "\"LISTEN ",
    "\"NOTIFY ",
    "\"CREATE DATABASE ",
    "\"INSERT ",
    "\"UPDATE ",
    "\"DELETE FROM ",
    "\"CREATE TABLE ",
    "\"CREATE INDEX ",
    "\"ALTER TABLE ",
    "\"DROP TABLE ",
    "\"BEGIN IMMEDIATE",
    "\"PRAGMA ",
];

fn root() -> PathBuf {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_folder.ancestors().nth(2).expect("testbed lies in crates/").to_path_buf()
}

/// Every file of the project that a person wrote: what git would commit, without the lock file.
fn project_files() -> Vec<PathBuf> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .current_dir(root())
        .output()
        .expect("git lists the project's files");
    assert!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout).expect("file names are UTF-8");
    let mut files: Vec<PathBuf> = names
        .split('\0')
        .filter(|name| !name.is_empty() && *name != "Cargo.lock")
        .map(PathBuf::from)
        .filter(|path| root().join(path).is_file())
        .collect();
    files.sort();
    assert!(files.len() > 20, "only {} project files found", files.len());
    files
}

fn text(path: &Path) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_default()
}

fn rust_files() -> Vec<PathBuf> {
    project_files().into_iter().filter(|path| path.extension().is_some_and(|e| e == "rs")).collect()
}

/// The crate of ours a file belongs to, and the file's path inside that crate.
fn room(path: &Path) -> Option<(String, PathBuf)> {
    let inside = path.strip_prefix("crates").ok()?;
    let name = inside.components().next()?.as_os_str().to_str()?.to_owned();
    let rest = inside.strip_prefix(&name).ok()?.to_path_buf();
    Some((name, rest))
}

fn is_shipped(path: &Path) -> bool {
    room(path).is_some_and(|(name, inside)| name != "testbed" && inside.starts_with("src"))
}

/// The lines of a source file in front of its unit tests, without comments, with their numbers.
fn code_lines(source: &str) -> Vec<(usize, &str)> {
    source
        .lines()
        .enumerate()
        .map(|(number, line)| (number + 1, line))
        .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .collect()
}

fn assert_none(rule: &str, offences: &[String]) {
    assert!(offences.is_empty(), "{rule}\n  {}\n", offences.join("\n  "));
}

struct Dependency {
    of: String,
    on: String,
    only_for_tests: bool,
}

/// Every direct dependency of every crate of ours, as Cargo reads the manifests.
fn dependencies() -> Vec<Dependency> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo reads the manifests");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let mut found = Vec::new();
    for package in metadata["packages"].as_array().expect("packages") {
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            found.push(Dependency {
                of: package["name"].as_str().expect("name").to_owned(),
                on: dependency["name"].as_str().expect("name").to_owned(),
                only_for_tests: dependency["kind"] == "dev",
            });
        }
    }
    found
}

#[test]
fn imports_follow_the_table() {
    let table: BTreeMap<&str, &[&str]> = MAY_IMPORT.into_iter().collect();
    let mut offences = Vec::new();
    for dependency in dependencies() {
        let Some(allowed) = table.get(dependency.of.as_str()) else {
            offences.push(format!("{} is not in the table", dependency.of));
            continue;
        };
        if !table.contains_key(dependency.on.as_str()) || allowed.contains(&dependency.on.as_str()) {
            continue;
        }
        // Tests may use the testbed; the testbed's own tests may use everything.
        if dependency.only_for_tests && (dependency.on == "testbed" || dependency.of == "testbed") {
            continue;
        }
        offences.push(format!("{} → {}", dependency.of, dependency.on));
    }
    assert_none("these crates import what the house does not allow:", &offences);
}

#[test]
fn what_a_crate_refuses_to_do_it_does_not_depend_on() {
    let absent: BTreeMap<&str, &[&str]> = DELIBERATELY_ABSENT.into_iter().collect();
    let offences: Vec<String> = dependencies()
        .iter()
        .filter(|d| !d.only_for_tests)
        .filter(|d| absent.get(d.of.as_str()).is_some_and(|names| names.contains(&d.on.as_str())))
        .map(|d| format!("{} → {}", d.of, d.on))
        .collect();
    assert_none("these dependencies are deliberately absent:", &offences);
}

#[test]
fn every_crate_folder_is_a_crate_of_the_table() {
    let known: BTreeSet<&str> = MAY_IMPORT.into_iter().map(|(name, _)| name).collect();
    let offences: Vec<String> = fs::read_dir(root().join("crates"))
        .expect("crates/ is readable")
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .filter(|name| !known.contains(name.as_str()))
        .collect();
    assert_none("folders under crates/ that the table does not know:", &offences);
}

#[test]
fn every_source_file_opens_with_what_it_is_for() {
    let offences: Vec<String> = rust_files()
        .iter()
        .filter(|path| !text(path).trim_start().starts_with("//!"))
        .map(|path| path.display().to_string())
        .collect();
    assert_none("these files do not open with `//!`:", &offences);
}

#[test]
fn placeholders_are_not_committed() {
    let offences: Vec<String> = rust_files()
        .iter()
        .filter(|path| text(path).starts_with("//! placeholder"))
        .map(|path| path.display().to_string())
        .collect();
    assert_none("these files are still empty:", &offences);
}

/// Whether SQL may stand in this file: SQLite's is spoken in `brain`, PostgreSQL's in the registry.
fn speaks_sql(path: &Path) -> bool {
    room(path).is_some_and(|(name, inside)| {
        name == "brain" || (name == "orchestrator" && inside.starts_with("src/registry"))
    })
}

#[test]
fn sql_is_spoken_only_in_brain_and_in_the_registry() {
    let mut offences = Vec::new();
    for path in rust_files().iter().filter(|path| is_shipped(path) && !speaks_sql(path)) {
        let source = text(path);
        for (number, line) in code_lines(&source) {
            // An escaped quote is a word quoted for a person, not a statement for SQLite.
            let literals = line.replace("\\\"", "'");
            if SQL.iter().any(|statement| literals.contains(statement)) {
                offences.push(format!("{}:{number}: {}", path.display(), line.trim()));
            }
        }
    }
    assert_none("SQL outside the brain and the registry:", &offences);
}

/// Settings are read by name. Taking the whole environment at once (`vars_os`) is not reading a setting: it is what
/// child processes get, after scrubbing.
#[test]
fn the_environment_is_read_in_one_place() {
    let mut offences = Vec::new();
    for path in rust_files().iter().filter(|path| is_shipped(path)) {
        let (name, inside) = room(path).expect("shipped files lie in crates/");
        if name == "chassis" && (inside.starts_with("src/config") || inside == Path::new("src/config.rs")) {
            continue;
        }
        let source = text(path);
        for (number, line) in code_lines(&source) {
            if ["env::var(", "env::var_os(", "env::vars("].iter().any(|call| line.contains(call)) {
                offences.push(format!("{}:{number}: {}", path.display(), line.trim()));
            }
        }
    }
    assert_none("variables are declared once and read through chassis::config:", &offences);
}

#[test]
fn chassis_has_its_planned_rooms_and_no_other() {
    let rooms: BTreeSet<String> = fs::read_dir(root().join("crates/chassis/src"))
        .expect("chassis/src is readable")
        .map(|entry| entry.expect("entry").path().file_stem().expect("name").to_string_lossy().into_owned())
        .collect();
    let planned: BTreeSet<String> = CHASSIS_ROOMS.into_iter().map(str::to_owned).collect();
    assert_eq!(rooms, planned, "a new room in chassis is a decision: write it down and change the list");
}

#[test]
fn chassis_has_no_word_about_what_it_carries() {
    let mut offences = Vec::new();
    for path in rust_files().iter().filter(|path| path.starts_with("crates/chassis/src")) {
        let source = text(path);
        for (number, line) in code_lines(&source) {
            // Another's crate may call a part of itself an engine.
            let lower = line.replace("base64::engine", "").replace("base64::Engine", "").to_lowercase();
            let mut words = lower.split(|c: char| !c.is_ascii_alphabetic());
            if words.any(|word| ["agent", "agents", "engine", "engines", "fleet", "fleets"].contains(&word)) {
                offences.push(format!("{}:{number}: {}", path.display(), line.trim()));
            }
        }
    }
    assert_none("chassis carries any server; it must not know which:", &offences);
}

#[test]
fn file_names_are_nouns() {
    let offences: Vec<String> = rust_files()
        .iter()
        .filter(|path| path.file_name().is_some_and(|n| NAMELESS.iter().any(|bad| n == *bad)))
        .map(|path| path.display().to_string())
        .collect();
    assert_none("these names say nothing; name the noun inside:", &offences);
}

#[test]
fn no_test_is_switched_off() {
    let switch = concat!("#[", "ignore");
    let offences: Vec<String> = rust_files()
        .iter()
        .filter(|path| text(path).lines().any(|line| line.trim_start().starts_with(switch)))
        .map(|path| path.display().to_string())
        .collect();
    assert_none("a test that does not run proves nothing:", &offences);
}

/// Whether a line names this path from the root of the file system, not as the end of a longer one.
fn names(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        !line[..at].ends_with(|before: char| before.is_ascii_alphanumeric() || "-_.}".contains(before))
    })
}

#[test]
fn no_file_speaks_of_the_machine_it_was_written_on() {
    let checkout = Some(root().display().to_string()).filter(|path| path.matches('/').count() > 1);
    let home = std::env::home_dir().map(|home| format!("{}/", home.display())).filter(|home| home.len() > 2);
    let places: Vec<String> = [checkout, home].into_iter().flatten().collect();
    let mut offences = Vec::new();
    for path in project_files() {
        for (number, line) in text(&path).lines().enumerate() {
            if places.iter().any(|place| names(line, place)) {
                offences.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    assert_none("paths of one machine:", &offences);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut offences = Vec::new();
    for path in project_files().iter().filter(|path| path.extension().is_some_and(|e| e == "md")) {
        for target in text(path).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") || file.contains(' ') {
                continue;
            }
            if !root().join(path).parent().expect("a folder").join(file).exists() {
                offences.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert_none("links that lead nowhere:", &offences);
}

#[test]
fn generated_pages_say_what_the_programs_say() {
    let mut pages: Vec<(&str, String, &str)> = Vec::new();
    let of_engine = engine::reference::REGENERATE;
    pages.extend(engine::reference::pages().into_iter().map(|(name, text)| (name, text, of_engine)));
    let document = engine::http::openapi::document().to_owned();
    pages.push(("openapi.json", document, "cargo run -p engine -- openapi > docs/reference/openapi.json"));
    let of_fleet = orchestrator::reference::REGENERATE;
    pages.extend(orchestrator::reference::pages().into_iter().map(|(name, text)| (name, text, of_fleet)));
    let offences: Vec<String> = pages
        .iter()
        .filter(|(name, expected, _)| text(&Path::new("docs/reference").join(name)) != *expected)
        .map(|(name, _, command)| format!("docs/reference/{name}; run `{command}`"))
        .collect();
    assert_none("these generated pages are out of date:", &offences);
}

/// The rooms of these crates that ARCHITECTURE.md names one by one: whoever looks for a thing reads there where it is.
const MAPPED: [&str; 3] = ["chassis", "fleet", "orchestrator"];

#[test]
fn the_map_of_the_house_shows_every_crate_and_room() {
    let map = text(Path::new("ARCHITECTURE.md"));
    let mut offences: Vec<String> = MAY_IMPORT
        .iter()
        .filter(|(name, _)| !map.contains(&format!("| `{name}` |")))
        .map(|(name, _)| format!("{name} is not in the code map"))
        .collect();
    for (name, imports) in MAY_IMPORT {
        let row = map.lines().find(|line| line.starts_with(&format!("| `{name}` |"))).unwrap_or_default();
        let told = row.split('|').nth(3).unwrap_or_default();
        let all = told.contains("all of the above");
        let missing = imports.iter().filter(|import| !all && !told.contains(&format!("`{import}`")));
        offences.extend(
            missing.map(|import| format!("{name} may import {import}; the code map does not say so")),
        );
    }
    for name in MAPPED {
        let rooms = fs::read_dir(root().join("crates").join(name).join("src")).expect("a crate has a src");
        for room in rooms.map(|entry| entry.expect("entry").path()) {
            let room = room.file_stem().expect("a name").to_string_lossy().into_owned();
            if !["lib", "main"].contains(&room.as_str()) && !map.contains(&format!("`{room}`")) {
                offences.push(format!("{name}: the room {room} is not named"));
            }
        }
    }
    assert_none("ARCHITECTURE.md does not show:", &offences);
}

#[test]
fn compose_hands_on_every_variable_of_the_orchestrator_that_makes_sense_in_a_container() {
    // Set by the image, of other backends, or of `up` and the command line.
    const APART: [&str; 8] = [
        "ORCH_BIND",
        "ORCH_BACKUP_DIR",
        "ORCH_DATA_DIR",
        "ORCH_DATA_ROOT_LOCAL_PATH",
        "ORCH_ENGINE_BACKEND",
        "ORCH_ENGINE_BINARY",
        "ORCH_PG_BIN_DIR",
        "ORCH_SIMULATED_SEED",
    ];
    let reference = text(&root().join("docs/reference/orchestrator-variables.md"));
    let compose = text(&root().join("compose.yaml"));
    let named: Vec<&str> = reference
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .filter(|name| name.starts_with("ORCH_") && !name.starts_with("ORCH_K8S_") && !APART.contains(name))
        .collect();
    assert!(named.len() > 30, "the reference lists the variables: {named:?}");
    let offences: Vec<String> = named
        .iter()
        .filter(|name| !compose.lines().any(|line| line.trim_start().starts_with(&format!("{name}:"))))
        .map(|name| (*name).to_owned())
        .collect();
    assert_none("a value in `.env` for these would be lost without a word:", &offences);
}
