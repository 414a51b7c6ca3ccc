//! Puts the commit and the build time into the program. Neither may fail a build.

use std::process::Command;

fn output(program: &str, args: &[&str]) -> Option<String> {
    let out = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    (out.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

fn main() {
    let commit = output("git", &["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    let built = output("date", &["-u", "+%Y-%m-%dT%H:%M:%S.000Z"])
        .unwrap_or_else(|| "1970-01-01T00:00:00.000Z".to_owned());
    println!("cargo::rustc-env=SEPTEMBER_COMMIT={commit}");
    println!("cargo::rustc-env=SEPTEMBER_BUILT_AT={built}");
    // without this every change of any file would run the script and rebuild the crate
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../../.git/HEAD");
}
