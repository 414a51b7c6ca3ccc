//! The shell analyser: no text may make it panic, overflow the stack or run long.

use permissions::{Setting, Tree, analyse, normalised};

/// What must hold for any bytes that are text.
pub fn holds(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let tree = Tree::new()
        .directory("/work/sub")
        .file("/work/small", 10)
        .file("/work/big", 10_000)
        .symlink("/work/out", "/srv")
        .symlink("/work/loop", "loop");
    let setting = Setting {
        ground: &tree,
        directory: "/work".into(),
        variables: vec![("HOME".to_owned(), "/work/home".to_owned())],
    };
    let analysis = analyse(text, &setting);
    let changes = analysis.touches.iter().any(|touch| touch.how.changes() && touch.path != *"/dev/null");
    assert!(!(analysis.read_only && changes), "{text:?}");
    assert_eq!(normalised(&analysis.normalised), analysis.normalised, "{text:?}");
}
