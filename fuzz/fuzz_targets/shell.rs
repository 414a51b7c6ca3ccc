//! The shell analyser: no text may make it panic, overflow the stack or run long.
#![no_main]

use libfuzzer_sys::fuzz_target;
use permissions::{Setting, Tree, analyse, normalised};

fuzz_target!(|text: &str| {
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
    assert!(!(analysis.read_only && analysis.touches.iter().any(|t| t.how.changes() && t.path != *"/dev/null")));
    assert_eq!(normalised(&analysis.normalised), analysis.normalised);
});
