//! A small declaration, read the way a program reads its own.

use chassis::config::{
    DefaultValue, Kind, Layered, Problems, Reader, Report, Secret, Values, Var, reference_page,
};

const VARS: &[Var] = &[
    Var::new("One", "APP_PORT", DefaultValue::Text("80"), Kind::Int { min: 0, max: 65_535 }, "Port."),
    Var::new("One", "APP_KEY", DefaultValue::None, Kind::Text { min: 8, max: 64 }, "Key.").secret(),
    Var::new("Two", "CACHE_ENABLED", DefaultValue::Text("true"), Kind::Flag, "Cache."),
    Var::new("Two", "MODE", DefaultValue::Text("fast"), Kind::OneOf(&["fast", "safe"]), "Mode | way.")
        .later(),
    Var::new("Two", "NAME", DefaultValue::Computed("from the port"), Kind::Text { min: 1, max: 9 }, "Name."),
];

fn read(pairs: &[(&'static str, &'static str)]) -> Result<Report, Problems> {
    let values = Values::new("environment", pairs.iter().copied());
    let mut reader = Reader::new(VARS, &values);
    let port: u16 = reader.int("APP_PORT");
    reader.computed("NAME", format!("app-{port}"));
    reader.finish()
}

#[test]
fn all_problems_are_found_at_once_and_no_secret_is_shown() {
    let given = [("APP_PORT", "70000"), ("APP_KEY", "hunter2"), ("CACHE_ENABLED", "yes"), ("MODE", "fats")];
    let problems = read(&given).expect_err("all four are wrong");
    let text = problems.to_string();
    let nearest: Vec<_> = problems.problems.iter().map(|p| (p.name.as_str(), p.nearest.as_deref())).collect();
    let want = [
        ("APP_PORT", Some("65535")),
        ("APP_KEY", None),
        ("CACHE_ENABLED", Some("true")),
        ("MODE", Some("fast")),
    ];
    assert_eq!(nearest, want);
    assert!(text.contains("APP_KEY is `[redacted]`: expected a text of 8..64 characters"), "{text}");
    let everything = format!(
        "{text}{problems:?}{}{}",
        problems.report.to_table(&problems.problems),
        problems.report.to_json(&problems.problems)
    );
    assert!(!everything.contains("hunter2"));
}

#[test]
fn an_empty_value_is_not_set() {
    let report = read(&[("APP_PORT", " "), ("MODE", "")]).expect("is valid");
    assert_eq!(report.rows[0].value.as_deref(), Some("80"));
    assert_eq!(report.rows[0].source, "default");
    assert_eq!(report.rows[4].value.as_deref(), Some("app-80"));
    assert!(report.warnings.is_empty());
}

#[test]
fn misspelt_flags_and_names_and_features_to_come_are_warned_of() {
    let report = read(&[("CASHE_ENABLED", "true"), ("APP_PROT", "1"), ("APP_PORTS", "1"), ("MODE", "safe")])
        .expect("warnings only");
    let of = |name: &str| report.warnings.iter().find(|w| w.name == name).map(|w| w.text.clone());
    assert!(of("CASHE_ENABLED").expect("is named").contains("CACHE_ENABLED"));
    assert!(of("APP_PORTS").expect("is named").contains("APP_PORT"));
    assert!(of("MODE").expect("is named").contains("not in this version"));
    assert_eq!(of("APP_PROT"), None, "two edits away is somebody else's variable");
}

#[test]
fn the_report_says_where_each_value_comes_from() {
    let layers = Layered::new([
        Values::new("environment", [("APP_PORT", "1")]),
        Values::new(".env", [("APP_PORT", "2"), ("APP_KEY", "long-enough-key")]),
    ]);
    let report = Reader::new(VARS, &layers).finish().expect("is valid");
    let json = report.to_json(&[]);
    let row = |n: usize| (&json["variables"][n]["value"], &json["variables"][n]["source"]);
    assert_eq!(row(0), (&"1".into(), &"environment".into()));
    assert_eq!(row(1), (&"[redacted]".into(), &".env".into()));
    assert_eq!(row(2), (&"true".into(), &"default".into()));
    assert_eq!(json["valid"], true);
}

#[test]
fn credentials_inside_a_url_are_masked() {
    const URLS: &[Var] = &[Var::new("One", "APP_URL", DefaultValue::None, Kind::Url, "Where.")];
    let values =
        Values::new("environment", [("APP_URL", "https://user:hunter2@host.example/path?key=hunter2&x=1")]);
    let problems = Reader::new(URLS, &values).finish().expect_err("credentials are refused");
    let text = format!("{problems}{problems:?}");
    assert!(
        text.contains("https://[redacted]@host.example/path?[redacted]`") && !text.contains("hunter2"),
        "{text}"
    );
}

#[test]
fn the_reference_page_lists_every_variable_under_its_heading() {
    let page = reference_page("Variables", "Intro.", VARS);
    let want = "# Variables\n\nIntro.\n\n## One\n\n| Name | Default | Accepted | Meaning |\n|---|---|---|---|\n\
                | `APP_PORT` | `80` | an integer 0..65535 | Port. |\n\
                | `APP_KEY` (secret) | none | a text of 8..64 characters | Key. |\n\n\
                ## Two\n\n| Name | Default | Accepted | Meaning |\n|---|---|---|---|\n\
                | `CACHE_ENABLED` | `true` | true or false | Cache. |\n\
                | `MODE` | `fast` | one of fast, safe | Mode \\| way. *Checked, but without effect in this version.* |\n\
                | `NAME` | from the port | a text of 1..9 characters | Name. |\n";
    assert_eq!(page, want);
}

#[test]
fn a_secret_shows_only_when_asked() {
    let secret = Secret::new("hunter2");
    assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "[redacted] [redacted] Some([redacted])");
    assert_eq!(secret.expose(), "hunter2");
}

#[test]
fn a_file_that_is_not_there_is_no_file() {
    let missing = std::env::temp_dir().join("chassis-no-such-dir").join(".env");
    assert!(matches!(Values::env_file(&missing), Ok(None)));
}

#[test]
fn a_bad_line_of_a_file_is_told_with_every_other_problem() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("app.env");
    std::fs::write(&file, "export APP_KEY=hunter2hunter2\nMODE=fats\nAPP_PORT=70000\n").expect("is written");
    let layers = Layered::new(Values::env_file(&file).expect("can be read"));
    let text = Reader::new(VARS, &layers).finish().expect_err("three things are wrong").to_string();
    let line = format!("{}:1: expected NAME=value, no `export` before it", file.display());
    for wanted in [line.as_str(), "MODE is `fats`", "APP_PORT is `70000`"] {
        assert!(text.contains(wanted), "{wanted} is not in {text}");
    }
    assert!(!text.contains("hunter2"), "{text}");
}
