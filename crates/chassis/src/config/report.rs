//! What is shown to people: the effective configuration and the reference page.

use super::{DefaultValue, Problem, Var, Warning};
use std::fmt::Write as _;

/// Longest value shown in the table for people. Larger makes one list fill the screen, smaller hides paths.
const TABLE_VALUE_CHARS: usize = 72;

/// One line of a [`Report`].
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Row {
    /// Name.
    pub name: &'static str,
    /// Heading.
    pub section: &'static str,
    /// Effective value, masked if secret; `None` when there is none.
    pub value: Option<String>,
    /// `environment`, `.env`, `--env-file`, `default`, …
    pub source: &'static str,
    /// The default, for comparison.
    pub default: Option<String>,
    /// False when the variable steers nothing in this version.
    pub takes_effect: bool,
}

/// The effective configuration, fit to be shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Every declared variable, in order of declaration.
    pub rows: Vec<Row>,
    /// What a person should know.
    pub warnings: Vec<Warning>,
}

impl Report {
    /// The report and the problems as a table for people.
    pub fn to_table(&self, problems: &[Problem]) -> String {
        let mut text = String::new();
        let width = self.rows.iter().map(|r| r.name.len()).max().unwrap_or(0);
        let mut section = "";
        for row in &self.rows {
            if row.section != section {
                section = row.section;
                let _ = writeln!(text, "{}{section}", if text.is_empty() { "" } else { "\n" });
            }
            let value = row.value.as_deref().unwrap_or("-");
            let shown: String = match value.char_indices().nth(TABLE_VALUE_CHARS) {
                Some((end, _)) => format!("{}…", &value[..end]),
                None => value.to_owned(),
            };
            let later = if row.takes_effect { "" } else { "  (no effect in this version)" };
            let _ = writeln!(text, "  {:width$}  {shown}  [{}]{later}", row.name, row.source);
        }
        for warning in &self.warnings {
            let _ = writeln!(text, "\nwarning: {}: {}", warning.name, warning.text);
        }
        for problem in problems {
            let _ = writeln!(text, "\nerror: {problem}");
        }
        let _ = match problems.len() {
            0 => writeln!(text, "\nconfiguration is valid, {} warning(s)", self.warnings.len()),
            n => writeln!(text, "\n{n} error(s), {} warning(s)", self.warnings.len()),
        };
        text
    }

    /// The report and the problems as one JSON document.
    pub fn to_json(&self, problems: &[Problem]) -> serde_json::Value {
        serde_json::json!({
            "valid": problems.is_empty(),
            "variables": self.rows,
            "warnings": self.warnings.iter()
                .map(|w| serde_json::json!({"name": w.name, "message": w.text}))
                .collect::<Vec<_>>(),
            "errors": problems.iter()
                .map(|p| serde_json::json!({
                    "name": p.name, "value": p.value, "expected": p.expected, "nearest": p.nearest,
                }))
                .collect::<Vec<_>>(),
        })
    }
}

/// The reference page of a declaration, in Markdown. `intro` stands under the title.
pub fn reference_page(title: &str, intro: &str, vars: &[Var]) -> String {
    let mut page = format!("# {title}\n\n{}\n", intro.trim());
    let mut section = "";
    for var in vars {
        if var.section != section {
            section = var.section;
            let _ = write!(
                page,
                "\n## {section}\n\n| Name | Default | Accepted | Meaning |\n|---|---|---|---|\n"
            );
        }
        let secret = if var.secret { " (secret)" } else { "" };
        let default = match var.default {
            DefaultValue::None => "none".to_owned(),
            DefaultValue::Text(text) => format!("`{text}`"),
            DefaultValue::Computed(description) => description.to_owned(),
        };
        let later = if var.takes_effect { "" } else { " *Checked, but without effect in this version.*" };
        let cell = |text: &str| text.replace('|', "\\|");
        let _ = writeln!(
            page,
            "| `{}`{secret} | {} | {} | {}{later} |",
            var.name,
            cell(&default),
            cell(&var.kind.expected()).replace('*', "\\*"),
            cell(var.meaning)
        );
    }
    page
}
