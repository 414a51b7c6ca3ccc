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

/// The master and the admin key of this directory, made at its first use.
pub(super) fn keys(data_dir: &Path) -> io::Result<BTreeMap<String, String>> {
    let path = data_dir.join("keys.env");
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            let values = chassis::config::parse_env(&text).map_err(|problems| {
                let lines: Vec<String> =
                    problems.iter().map(|(line, why)| format!("line {line}: {why}")).collect();
                io::Error::new(io::ErrorKind::InvalidData, lines.join("; "))
            })?;
            Ok(values)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let values = BTreeMap::from([
                ("ORCH_MASTER_KEY".to_owned(), MasterKeys::generate().expose().to_owned()),
                ("ORCH_ADMIN_KEY".to_owned(), keys::new_admin_key().expose().to_owned()),
            ]);
            let text: String = values.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
            write_private(&path, &text)?;
            Ok(values)
        }
        Err(error) => Err(error),
    }
}
