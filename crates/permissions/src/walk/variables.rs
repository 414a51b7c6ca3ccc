//! What the shell knows by name: variables, arguments, and the directories it may be in.
//!
//! The invariant: a name nothing is known of has any value.

use super::Walker;
use crate::pattern::UNKNOWN;
use crate::words::Value;

/// Variables a shell sets by itself.
const SET_BY_SHELL: [&str; 20] = [
    "PWD",
    "OLDPWD",
    "UID",
    "EUID",
    "PPID",
    "RANDOM",
    "SRANDOM",
    "SECONDS",
    "LINENO",
    "HOSTNAME",
    "HOSTTYPE",
    "OSTYPE",
    "MACHTYPE",
    "PATH",
    "SHELL",
    "SHLVL",
    "EPOCHSECONDS",
    "EPOCHREALTIME",
    "HOME",
    "IFS",
];

impl Walker<'_> {
    /// The value of a variable.
    pub fn variable(&self, name: &str) -> Value {
        match name {
            "PWD" if !self.state.lost => Value::Known(self.working_directories()),
            _ => self.state.variables.get(name).cloned().unwrap_or(Value::Unknown),
        }
    }

    /// True for a variable that neither the command nor the shell has set.
    pub fn may_be_unset(&self, name: &str) -> bool {
        let ordinary = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        ordinary
            && !SET_BY_SHELL.contains(&name)
            && !name.starts_with("BASH")
            && !self.state.variables.contains_key(name)
    }

    /// `$@`.
    pub fn positional(&self) -> Value {
        self.state.positional.clone()
    }

    /// Sets a variable.
    pub fn assign(&mut self, name: &str, value: Value) {
        let value = match value {
            Value::Known(values) if values.is_empty() => Value::Known(vec![String::new()]),
            value => value,
        };
        // Arithmetic, `test -v`, `${a[x]}` and prompts look at what a name or a value says once more.
        self.looked_at_again(name, false);
        if let Value::Known(values) = &value {
            let everywhere = name.starts_with("PS") || self.whole.contains("@P}");
            values.iter().for_each(|text| self.looked_at_again(text, everywhere));
        }
        self.state.variables.insert(name.to_owned(), value);
    }

    /// IFS is not what it is by default.
    pub fn separators_changed(&self) -> bool {
        self.state.variables.contains_key("IFS")
    }

    /// Patterns may match names that begin with a dot.
    pub fn dotglob(&self) -> bool {
        self.whole.contains("dotglob")
    }

    /// The directories the shell may be in.
    pub fn working_directories(&self) -> Vec<String> {
        if self.state.lost {
            return vec![UNKNOWN.into()];
        }
        self.state.directories.iter().map(|d| d.to_string_lossy().into_owned()).collect()
    }
}
