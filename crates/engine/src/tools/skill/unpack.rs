//! Writing scripts into a task's scratch, where hostile commands of the same task may be at work.
//!
//! The directory is new and is held open while files are made in it, links are never followed, and nothing is
//! overwritten: whatever a neighbour swaps in meanwhile, no byte lands outside the scratch.

use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Makes a directory in `scratch` and writes the files into it, runnable by their owner.
pub(super) fn into_new_dir(scratch: &Path, files: &[(String, String)]) -> io::Result<PathBuf> {
    let at = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let parent = rustix::fs::open(scratch, at, Mode::empty())?;
    let name = format!("skill-{:016x}", rand::random::<u64>());
    rustix::fs::mkdirat(&parent, name.as_str(), Mode::from_raw_mode(0o700))?;
    let dir = rustix::fs::openat(&parent, name.as_str(), at, Mode::empty())?;
    for (file, text) in files {
        let new = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&dir, file.as_str(), new, Mode::from_raw_mode(0o700))?;
        File::from(fd).write_all(text.as_bytes())?;
    }
    Ok(scratch.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn every_call_gets_a_directory_of_its_own_and_links_are_not_followed() {
        let scratch = tempfile::tempdir().expect("a directory");
        let files = vec![("main.py".to_owned(), "print(1)".to_owned()), ("b.sh".to_owned(), String::new())];
        let (one, two) = (
            into_new_dir(scratch.path(), &files).expect("unpacked"),
            into_new_dir(scratch.path(), &files).expect("unpacked"),
        );
        assert_ne!(one, two);
        assert_eq!(std::fs::read_to_string(one.join("main.py")).expect("a file"), "print(1)");
        assert_eq!(std::fs::metadata(two.join("b.sh")).expect("a file").mode() & 0o777, 0o700);
        let elsewhere = tempfile::tempdir().expect("a directory");
        let link = scratch.path().join("link");
        symlink(elsewhere.path(), &link).expect("linked");
        assert!(into_new_dir(&link, &files).is_err(), "a scratch that is a link");
        assert_eq!(std::fs::read_dir(elsewhere.path()).expect("read").count(), 0);
    }
}
