//! Which environment variables a child gets. Pure: parent's variables in, child's variables out.
//!
//! Secrets declared by the Engine never pass, in any mode. The child's HOME and TMPDIR always point into
//! the sandbox; TMPDIR is also how processes of a task are recognised (see [`super::groups`]).

pub use crate::config::ScrubMode;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;

/// Names kept by [`ScrubMode::Strict`], besides HOME and TMPDIR which are always set anew.
const STRICT_NAMES: [&str; 4] = ["PATH", "LANG", "TERM", "TZ"];
/// A name containing one of these looks secret.
const SECRET_WORDS: [&str; 15] = [
    "KEY",
    "TOKEN",
    "SECRET",
    "PASSWORD",
    "PASSWD",
    "PASSPHRASE",
    "CREDENTIAL",
    "AUTH",
    "COOKIE",
    "PRIVATE",
    "SESSION",
    "DSN",
    "DATABASE_URL",
    "CONNECTION_STRING",
    "WEBHOOK",
];
/// Names that change what a child loads or whom it talks to; they never help a tool.
const DANGEROUS_PREFIXES: [&str; 7] =
    ["LD_", "DYLD_", "BASH_ENV", "BASH_FUNC_", "GIT_", "PYTHONSTARTUP", "PERL5OPT"];
/// Used when the parent has no PATH.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// What the parent offers and what must never pass.
#[derive(Debug, Clone, Default)]
pub struct Parent {
    /// The Engine's environment, read once by the configuration.
    pub variables: Vec<(OsString, OsString)>,
    /// Names of every variable declared as a secret.
    pub secret_names: Vec<String>,
}

/// The child's whole environment. `additions` (a server entry's `env`) win over everything but HOME/TMPDIR.
pub fn environment(
    mode: ScrubMode,
    parent: &Parent,
    home: &Path,
    tmp: &Path,
    additions: &[(String, String)],
) -> BTreeMap<OsString, OsString> {
    let mut out: BTreeMap<OsString, OsString> = parent
        .variables
        .iter()
        .filter(|(name, value)| passes(mode, parent, name, value))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let path = out.get(OsStr::new("PATH")).map_or_else(|| DEFAULT_PATH.into(), |p| absolute_only(p));
    out.insert("PATH".into(), path);
    out.entry("LANG".into()).or_insert_with(|| "C.UTF-8".into());
    out.entry("TERM".into()).or_insert_with(|| "dumb".into());
    for (name, value) in additions {
        out.insert(name.into(), value.into());
    }
    out.insert("HOME".into(), home.into());
    out.insert("TMPDIR".into(), tmp.into());
    out
}

fn passes(mode: ScrubMode, parent: &Parent, name: &OsStr, value: &OsStr) -> bool {
    let (Some(name), value) = (name.to_str(), value.to_string_lossy()) else { return false };
    if parent.secret_names.iter().any(|s| s == name) {
        return false;
    }
    match mode {
        ScrubMode::Off => true,
        ScrubMode::Strict => STRICT_NAMES.contains(&name),
        ScrubMode::Standard => {
            let upper = name.to_ascii_uppercase();
            !SECRET_WORDS.iter().any(|w| upper.contains(w))
                && !DANGEROUS_PREFIXES.iter().any(|p| upper.starts_with(p))
                && upper != "ENV"
                && !upper.starts_with("ENGINE_")
                && !has_url_password(&value)
        }
    }
}

/// `scheme://user:password@host` anywhere in the value.
fn has_url_password(value: &str) -> bool {
    value.split("://").skip(1).any(|rest| {
        let authority = rest.split(['/', '?', '#', ' ']).next().unwrap_or(rest);
        authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
    })
}

/// Drops empty and relative entries: they would run whatever lies in the working directory.
fn absolute_only(path: &OsStr) -> OsString {
    let kept: Vec<_> = std::env::split_paths(path).filter(|p| p.is_absolute()).collect();
    match std::env::join_paths(kept) {
        Ok(joined) if !joined.is_empty() => joined,
        _ => DEFAULT_PATH.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent() -> Parent {
        let variables = [
            ("PATH", "/usr/bin:.::rel:/bin"),
            ("TZ", "UTC"),
            ("LLM_API_KEY", "sk-1"),
            ("EDITOR", "vi"),
            ("MY_PASSWORD_FILE", "/x"),
            ("MIRROR", "https://user:pw@example.com/x"),
            ("LD_PRELOAD", "/evil.so"),
            ("ENGINE_PORT", "8000"),
            ("PLAIN_LOOKING", "canary"),
            ("HOME", "/root"),
        ];
        Parent {
            variables: variables.iter().map(|(n, v)| (n.into(), v.into())).collect(),
            secret_names: vec!["PLAIN_LOOKING".into(), "LLM_API_KEY".into()],
        }
    }

    fn names(mode: ScrubMode) -> Vec<String> {
        environment(mode, &parent(), Path::new("/t/home"), Path::new("/t"), &[])
            .into_keys()
            .map(|k| k.into_string().unwrap())
            .collect()
    }

    #[test]
    fn strict_passes_the_allow_list_only() {
        assert_eq!(names(ScrubMode::Strict), ["HOME", "LANG", "PATH", "TERM", "TMPDIR", "TZ"]);
    }

    #[test]
    fn standard_drops_what_looks_secret_and_what_changes_loading() {
        assert_eq!(names(ScrubMode::Standard), ["EDITOR", "HOME", "LANG", "PATH", "TERM", "TMPDIR", "TZ"]);
    }

    #[test]
    fn declared_secrets_pass_in_no_mode() {
        for &mode in ScrubMode::ALL {
            let names = names(mode);
            assert!(!names.iter().any(|n| n == "PLAIN_LOOKING" || n == "LLM_API_KEY"), "{mode:?}");
        }
    }

    #[test]
    fn home_and_tmpdir_point_into_the_sandbox_and_path_has_no_relative_entry() {
        let additions = [("LOG".to_string(), "1".to_string()), ("TMPDIR".into(), "/elsewhere".into())];
        let env =
            environment(ScrubMode::Strict, &parent(), Path::new("/t/home"), Path::new("/t"), &additions);
        assert_eq!(env[OsStr::new("HOME")], "/t/home");
        assert_eq!(env[OsStr::new("TMPDIR")], "/t");
        assert_eq!(env[OsStr::new("PATH")], "/usr/bin:/bin");
        assert_eq!(env[OsStr::new("LOG")], "1");
    }
}
