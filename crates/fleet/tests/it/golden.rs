//! Committed text files that a test must reproduce byte for byte.

use std::path::Path;

/// Compares with `tests/<name>`; on a difference leaves the actual text where it can be copied from.
pub fn same(name: &str, actual: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name);
    let expected = std::fs::read_to_string(&file).unwrap_or_default();
    if expected == actual {
        return;
    }
    let left = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name.replace('/', "-"));
    std::fs::write(&left, actual).expect("the target directory is writable");
    let line = expected.lines().zip(actual.lines()).position(|(e, a)| e != a);
    let line = line.unwrap_or_else(|| expected.lines().count().min(actual.lines().count()));
    panic!(
        "{name} differs at line {}:\n  committed: {:?}\n  now:       {:?}\nthe whole text is in {}",
        line + 1,
        expected.lines().nth(line),
        actual.lines().nth(line),
        left.display()
    );
}
