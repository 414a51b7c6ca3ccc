//! Generated commands are really run by bash: whatever changes a file outside the workspace must have been asked about.
//!
//! The generator knows many ways to write a path and many ways to run a command; bash, on throw-away directories, says
//! what a command really does. Everything it can reach lies in those directories.

use permissions::rules::{self, Facts};
use permissions::{FileFacts, Ground, Kind, Policy, Remembered, Verdict};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The file system as it is.
struct Real;

impl Ground for Real {
    fn link(&self, path: &Path) -> Option<PathBuf> {
        fs::read_link(path).ok()
    }

    fn facts(&self, path: &Path) -> Option<FileFacts> {
        let meta = fs::symlink_metadata(path).ok()?;
        let kind = match meta.file_type() {
            t if t.is_file() => Kind::File,
            t if t.is_dir() => Kind::Directory,
            t if t.is_symlink() => Kind::Link,
            _ => Kind::Other,
        };
        Some(FileFacts { kind, size: meta.len(), identity: (meta.dev(), meta.ino()), names: meta.nlink() })
    }

    fn names(&self, path: &Path, limit: usize) -> Option<Vec<String>> {
        let names: Vec<String> = fs::read_dir(path)
            .ok()?
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        (names.len() <= limit).then_some(names)
    }

    fn is_repository(&self, path: &Path) -> bool {
        path.join(".git").exists()
    }
}

/// A workspace and a place outside of it, both thrown away.
struct Places {
    _dir: tempfile::TempDir,
    base: PathBuf,
}

fn places() -> Places {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let base = dir.path().canonicalize().expect("it exists");
    for sub in ["home/sub/deep", "home/t/home", "outside/dir", "elsewhere"] {
        fs::create_dir_all(base.join(sub)).expect("made");
    }
    for file in ["home/small", "home/other.txt", "home/sub/in.txt", "outside/old", "outside/dir/old.txt"] {
        fs::write(base.join(file), "x\n").expect("written");
    }
    symlink(base.join("outside"), base.join("home/link")).expect("linked");
    symlink("../outside/old", base.join("home/filelink")).expect("linked");
    symlink("sub/deep", base.join("home/deep")).expect("linked");
    Places { _dir: dir, base }
}

impl Places {
    fn verdict(&self, command: &str) -> Verdict {
        let policy = Policy {
            roots: vec![self.base.join("home")],
            scratch: Some(self.base.join("home/t")),
            ..Policy::default()
        };
        rules::bash(
            command,
            None,
            &Facts { policy: &policy, ground: &Real, remembered: &Remembered::default() },
        )
    }

    fn run(&self, command: &str) {
        let status = Command::new("timeout")
            .args(["10", "bash", "--noprofile", "--norc", "-c", command])
            .current_dir(self.base.join("home"))
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.base.join("home/t/home"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.expect("bash runs");
    }

    /// Everything that is not in the workspace.
    fn outside(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut open = vec![self.base.clone()];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                let path = entry.path();
                if path == self.base.join("home") {
                    continue;
                }
                let Ok(meta) = fs::symlink_metadata(&path) else { continue };
                let content = if meta.is_file() {
                    fs::read_to_string(&path).unwrap_or_default()
                } else {
                    String::new()
                };
                found.insert(path.clone(), format!("{:o} {content}", meta.permissions().mode()));
                if meta.is_dir() {
                    open.push(path);
                }
            }
        }
        found
    }
}

fn single_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn double_quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "\\$").replace('`', "\\`"))
}

fn backslashed(text: &str) -> String {
    text.chars().flat_map(|c| ['\\', c]).collect()
}

fn hexed(text: &str) -> String {
    format!("$'{}'", text.bytes().map(|b| format!("\\x{b:02x}")).collect::<String>())
}

/// How a path may be written; `B` is the directory that holds everything.
const PATHS: [&str; 28] = [
    "B/outside/NAME",
    "../outside/NAME",
    "./sub/../../outside/NAME",
    "sub/deep/../../../outside/NAME",
    "deep/../../../outside/NAME",
    "link/NAME",
    "./link/../outside/NAME",
    "B/home/link/NAME",
    "filelink",
    "$V/NAME",
    "\"$V\"/NAME",
    "${V}/NAME",
    "${V%zzz}/NAME",
    "\"${U:-$V}/NAME\"",
    "$W/NAME",
    "$(echo B)/outside/NAME",
    "\"$(pwd)/../outside/NAME\"",
    "$PWD/../outside/NAME",
    "$NOBODY'B'/outside/NAME",
    "$NOBODY\"B/outside\"/NAME",
    "~/../../../outside/NAME",
    "{B/outside/NAME,sub/x}",
    "../{outside,elsewhere}/NAME",
    "../out*/NAME",
    "../outside/o?d",
    "\"${A[1]}\"/NAME",
    "sub/new",
    "small",
];

/// What may be done to a path `P`.
const ACTIONS: [&str; 44] = [
    "echo y > P",
    "echo y >> P",
    "echo y >| P",
    "> P",
    "echo y &> P",
    "echo y >& P",
    "ls missing 2> P",
    "cat <> P",
    "exec 5> P",
    "tee P < small",
    "echo y | tee -a P",
    "cp small P",
    "cp -f -- small P",
    "mv small P",
    "mv P moved",
    "ln -sf small P",
    "ln P hard; echo y >> hard",
    "install small P",
    "install -m 600 small P",
    "rm P",
    "rm -f P",
    "rm -rf P",
    "unlink P",
    "mkdir P.d",
    "mkdir -p P.d/e",
    "touch P",
    "touch -d 2001-01-01 -- P.new",
    "truncate -s 0 P",
    "dd if=small of=P status=none",
    "sed -i s/x/z/ P",
    "sed --in-place=.bak s/x/z/ P",
    "sort small -o P",
    "sort --output=P small",
    "uniq small P",
    "chmod 600 P",
    "split -l 1 small P",
    "mkfifo P.p",
    "find sub -fprint P",
    "find P -delete",
    "echo P | xargs rm -f",
    "echo P | xargs -I{} cp small {}",
    "find sub -name in.txt -exec cp {} P \\;",
    "tar cf P small",
    "cat small | (cat > P)",
];

/// How a command is written inside another one.
type Quoting = fn(&str) -> String;

/// How a command `C` may be run; the second part says how it is quoted there.
const WRAPPERS: [(&str, Quoting); 38] = [
    ("C", str::to_owned),
    ("(C)", str::to_owned),
    ("( (C) )", str::to_owned),
    ("{ C; }", str::to_owned),
    ("true && { C; }", str::to_owned),
    ("false || { C; }", str::to_owned),
    ("if true; then C; fi", str::to_owned),
    ("if false; then :; else C; fi", str::to_owned),
    ("for i in 1 2; do C; done", str::to_owned),
    ("for ((i=0; i<2; i++)); do C; done", str::to_owned),
    ("while true; do C; break; done", str::to_owned),
    ("until C; do break; done", str::to_owned),
    ("case x in y) ;; *) C;; esac", str::to_owned),
    ("f() { C; }; f", str::to_owned),
    ("function g { C; }; g a b", str::to_owned),
    ("! { C; }", str::to_owned),
    ("time { C; }", str::to_owned),
    ("C & wait", str::to_owned),
    ("echo $(C)", str::to_owned),
    ("X=$(C)", str::to_owned),
    ("echo \"a $(C) b\"", str::to_owned),
    ("[[ -z $(C) ]]", str::to_owned),
    ("ls | { C; }", str::to_owned),
    ("{ C; } | cat", str::to_owned),
    ("cd sub; cd ..; C", str::to_owned),
    ("cd link && cd .. && C", str::to_owned),
    ("cd missing; C", str::to_owned),
    ("(cd link; ls); C", str::to_owned),
    ("eval C", single_quoted),
    ("eval C", double_quoted),
    ("export V W; bash -c C", single_quoted),
    ("export V W; bash -c C", hexed),
    ("export V W; env -u LANG bash -ec C", backslashed),
    ("export V W; echo C | bash", single_quoted),
    ("export V W; bash <<< C", single_quoted),
    ("trap C EXIT", single_quoted),
    ("set -- a; C # rest", str::to_owned),
    ("echo \\$'\\' ; C #'", str::to_owned),
];

/// What comes in front: the variables the paths use.
const SETTINGS: &str = "V=B/outside; W=B/out; W+=side; A=(sub B/outside); ";

fn command(path: usize, name: &str, action: usize, wrappers: &[usize]) -> String {
    let path = PATHS[path].replace("NAME", name);
    let mut command = ACTIONS[action].replace('P', &path);
    for wrapper in wrappers {
        let (form, quote) = WRAPPERS[*wrapper];
        command = form.replacen('C', &quote(&command), 1);
    }
    format!("{SETTINGS}{command}")
}

#[test]
fn no_generated_command_changes_something_outside_without_being_asked_about() {
    let strategy = (
        0..PATHS.len(),
        prop::sample::select(vec!["old", "new", "dir/old.txt", "n e w", "é"]),
        0..ACTIONS.len(),
        prop::collection::vec(0..WRAPPERS.len(), 0..3),
    );
    let (ran, changed, asked_for_nothing) = (Cell::new(0u32), Cell::new(0u32), Cell::new(0u32));
    let config = Config { cases: 700, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&strategy, |(path, name, action, wrappers)| {
            let name = if name.contains(' ') { "'n e w'" } else { name };
            let places = places();
            let base = places.base.to_str().expect("utf-8").to_owned();
            // The placeholder of the base is a capital of its own, replaced last so that quoting has seen it all.
            let command = command(path, name, action, &wrappers)
                .replace('B', &base)
                .replace(&hexed("B"), &hexed(&base));
            let command =
                command.replace("\\x42", &base.bytes().map(|b| format!("\\x{b:02x}")).collect::<String>());
            let verdict = places.verdict(&command);
            let before = places.outside();
            places.run(&command);
            let differs = places.outside() != before;
            ran.set(ran.get() + 1);
            changed.set(changed.get() + u32::from(differs));
            let allowed = matches!(verdict, Verdict::Allow { .. });
            asked_for_nothing.set(asked_for_nothing.get() + u32::from(!differs && !allowed));
            prop_assert!(!(differs && allowed), "allowed, and changed something outside: {}", command);
            Ok(())
        })
        .unwrap_or_else(|e| panic!("{e}"));
    println!(
        "{} commands run, {} changed something outside, {} were asked about and changed nothing there",
        ran.get(),
        changed.get(),
        asked_for_nothing.get()
    );
    assert!(
        changed.get() * 3 > ran.get(),
        "the generator has lost its teeth: {} of {}",
        changed.get(),
        ran.get()
    );
}

#[test]
fn commands_that_stay_inside_are_mostly_left_alone() {
    let (mut ran, mut asked) = (0, Vec::new());
    for action in ACTIONS {
        for path in ["sub/new", "small"] {
            let places = places();
            let command = action.replace('P', path);
            let before = places.outside();
            let verdict = places.verdict(&command);
            places.run(&command);
            assert_eq!(before, places.outside(), "{command}");
            ran += 1;
            if !matches!(verdict, Verdict::Allow { .. }) {
                asked.push(command);
            }
        }
    }
    // `dd of=` always asks.
    assert!(asked.iter().all(|c| c.starts_with("dd ")), "{ran} commands, asked about: {asked:#?}");
}
