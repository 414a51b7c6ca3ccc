//! The release programs that the benchmarks start, built when needed.
//!
//! The invariant: a build from inside a benchmark is the same build as one from a shell. What cargo sets for the
//! benchmark itself is taken away again, because crates with native code (ring) are built anew when it changes, and with
//! them everything that stands on them: minutes per run.

use std::path::PathBuf;
use std::process::Command;

/// What cargo sets for a program that it runs and a build script may look at.
const OF_THE_BENCHMARK: [&str; 19] = [
    "CARGO",
    "CARGO_CRATE_NAME",
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_LINKS",
    "CARGO_MANIFEST_PATH",
    "CARGO_PKG_AUTHORS",
    "CARGO_PKG_DESCRIPTION",
    "CARGO_PKG_HOMEPAGE",
    "CARGO_PKG_LICENSE",
    "CARGO_PKG_LICENSE_FILE",
    "CARGO_PKG_NAME",
    "CARGO_PKG_README",
    "CARGO_PKG_REPOSITORY",
    "CARGO_PKG_RUST_VERSION",
    "CARGO_PKG_VERSION",
    "CARGO_PKG_VERSION_MAJOR",
    "CARGO_PKG_VERSION_MINOR",
    "CARGO_PKG_VERSION_PATCH",
    "CARGO_PKG_VERSION_PRE",
];

/// The release program of the Engine.
pub fn september_engine() -> PathBuf {
    let mut build = Command::new(env!("CARGO"));
    for name in OF_THE_BENCHMARK {
        build.env_remove(name);
    }
    let built = build
        // As `make up` builds it, without what only tests switch on. `cargo bench -p testbed` resolves the same
        // features, so that only the program itself is built here; `cargo bench --workspace` takes the tests' features
        // of every crate in, and everything would be built twice.
        .args(["build", "--release", "--workspace", "--bins"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo runs");
    assert!(built.success(), "the release build failed");
    let bench = std::env::current_exe().expect("a path");
    // <target>/release/deps/engine-… → <target>/release/september-engine
    bench.ancestors().nth(2).expect("a target folder").join("september-engine")
}
