//! Local keys: made once, readable by their owner only.

use crate::keys;
use chassis::seal::MasterKeys;
use std::collections::BTreeMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// A directory that only its owner can look into.
pub(super) fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a file that only its owner can read; whole or not at all.
pub(super) fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let draft = path.with_extension("draft");
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&draft)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&draft, path)
}

/// The file of the master and the admin key.
pub(super) const KEYS: &str = "keys.env";

/// The master and the admin key of this directory, made at its first use; `None` when they would have to be made and
/// `database`, which only the old ones open, is there already.
pub(super) fn keys(data_dir: &Path, database: Option<&Path>) -> io::Result<Option<BTreeMap<String, String>>> {
    let path = data_dir.join(KEYS);
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let values = chassis::config::parse_env(&text).map_err(|problems| {
                let lines: Vec<String> =
                    problems.iter().map(|(line, why)| format!("line {line}: {why}")).collect();
                io::Error::new(io::ErrorKind::InvalidData, lines.join("; "))
            })?;
            Ok(Some(values))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && database.is_some() => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let values = BTreeMap::from([
                ("ORCH_MASTER_KEY".to_owned(), MasterKeys::generate().expose().to_owned()),
                ("ORCH_ADMIN_KEY".to_owned(), keys::new_admin_key().expose().to_owned()),
            ]);
            let text: String = values.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
            write_private(&path, &text)?;
            Ok(Some(values))
        }
        Err(error) => Err(error),
    }
}

/// The text of an environment file with these variables. Values that no such file can hold (with line ends, or with
/// both kinds of quotes) are left out.
pub(super) fn env_text(values: &BTreeMap<String, String>) -> String {
    let line = |(name, value): (&String, &String)| {
        let quote = ['\'', '"'].into_iter().find(|quote| !value.contains(*quote))?;
        (!value.contains(['\n', '\r'])).then(|| format!("{name}={quote}{value}{quote}\n"))
    };
    values.iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_keys_are_not_made_for_an_old_database() {
        let folder = tempfile::tempdir().expect("a directory");
        let database = folder.path().join("postgres");
        assert_eq!(keys(folder.path(), Some(&database)).expect("it can be read"), None);
        assert!(!folder.path().join(KEYS).exists());
        let made = keys(folder.path(), None).expect("it can be written").expect("they are made");
        assert_eq!(keys(folder.path(), Some(&database)).expect("it can be read"), Some(made));
    }

    #[test]
    fn an_environment_file_says_what_it_was_given() {
        let given = [("A", "plain"), ("B", "it's"), ("C", "a \"b\" # c"), ("D", "")];
        let given: BTreeMap<String, String> =
            given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        assert_eq!(chassis::config::parse_env(&env_text(&given)), Ok(given));
        let wrong = BTreeMap::from([("A".to_owned(), "1\n2".to_owned()), ("B".to_owned(), "'\"".to_owned())]);
        assert_eq!(env_text(&wrong), "");
    }
}
