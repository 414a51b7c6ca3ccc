//! Puts the commit and the build time into the program. Neither may fail a build.

use std::process::Command;

fn output(program: &str, args: &[&str]) -> Option<String> {
    let out = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    (out.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

fn main() {
    // An image is built without the repository's history: its Dockerfile hands the commit over.
    #[expect(
        clippy::disallowed_methods,
        reason = "the build is told by its environment; nothing is configured here"
    )]
    let told = std::env::var("SEPTEMBER_COMMIT").ok().filter(|commit| !commit.is_empty());
    let commit = told
        .or_else(|| output("git", &["rev-parse", "--short=12", "HEAD"]))
        .unwrap_or_else(|| "unknown".to_owned());
    let built = output("date", &["-u", "+%Y-%m-%dT%H:%M:%S.000Z"])
        .unwrap_or_else(|| "1970-01-01T00:00:00.000Z".to_owned());
    println!("cargo::rustc-env=SEPTEMBER_COMMIT={commit}");
    println!("cargo::rustc-env=SEPTEMBER_BUILT_AT={built}");
    // without this every change of any file would run the script and rebuild the crate
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=SEPTEMBER_COMMIT");
    println!("cargo::rerun-if-changed=../../.git/HEAD");
}
