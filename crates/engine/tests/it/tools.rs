//! The file, search and shell tools, called as the dispatcher calls them.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod git;

use crate::sandbox::Sandbox;
use contract::{CallId, TaskId, ToolReason, TurnId};
use engine::permissions::Grants;
use engine::tools::registry::Registry;
use engine::tools::tool::{CallContext, Effect, Failure, NoDocuments, NoMemory, NoModel, Output};
use engine::tools::{files, git as git_tools, search, shell};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

struct Tools {
    sandbox: Sandbox,
    registry: Registry,
    grants: Grants,
    cancel: CancellationToken,
    output_max: usize,
    spawned: Arc<Mutex<Vec<i32>>>,
}

impl Tools {
    fn new() -> Self {
        let mut registry = Registry::default();
        let bash = vec![shell::bash(Duration::from_secs(10))];
        for tool in [bash, search::tools(), files::tools(1 << 20), git_tools::tools()].concat() {
            registry.add(tool).unwrap();
        }
        Self {
            sandbox: Sandbox::new(),
            registry,
            grants: Grants::default(),
            cancel: CancellationToken::new(),
            output_max: 65536,
            spawned: Arc::default(),
        }
    }

    fn work(&self) -> PathBuf {
        self.sandbox.base.join("data/work")
    }

    async fn call(&self, name: &str, input: Value) -> Result<Output, Failure> {
        assert_eq!(self.registry.complaints(name, &input).await, [""; 0]);
        let spawned = Arc::clone(&self.spawned);
        let context = CallContext {
            task_id: TaskId::parse("t1").unwrap(),
            turn_id: TurnId::generate(),
            call_id: CallId::generate(),
            workspace: Arc::new(self.sandbox.workspace.clone()),
            launcher: Arc::clone(&self.sandbox.launcher),
            proxy: None,
            known: Arc::default(),
            grants: self.grants.clone(),
            cancel: self.cancel.clone(),
            output_max: self.output_max,
            groups: Arc::clone(&self.sandbox.groups),
            on_spawn: Arc::new(move |pgid| {
                spawned.lock().unwrap().push(pgid);
                Box::pin(async {})
            }),
            task_tmp: self.sandbox.base.join("data/tmp/t1"),
            model: Arc::new(NoModel),
            memory: Arc::new(NoMemory),
            documents: Arc::new(NoDocuments),
        };
        self.registry.get(name).unwrap().run(context, input).await
    }

    async fn value(&self, name: &str, input: Value) -> Value {
        self.call(name, input).await.unwrap().value
    }

    async fn reason(&self, name: &str, input: Value) -> ToolReason {
        self.call(name, input).await.unwrap_err().reason
    }
}

fn paths(list: &Value, below: &Path) -> Vec<String> {
    let list = list.as_array().unwrap().iter();
    list.map(|e| {
        let path = Path::new(e["path"].as_str().unwrap());
        path.strip_prefix(below).unwrap().display().to_string()
    })
    .collect()
}

#[tokio::test]
async fn a_file_is_written_read_edited_and_read_again() {
    let t = Tools::new();
    let written = t.value("write_file", json!({"path": "new/a.txt", "content": "one\ntwo\n"})).await;
    let path = t.work().join("new/a.txt");
    assert_eq!(written, json!({"path": path, "bytes": 8, "created": true}));
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
    let again = t.value("write_file", json!({"path": path, "content": "one\ntwo\n"})).await;
    assert_eq!(again["created"], false);
    let appended =
        t.value("write_file", json!({"path": "new/a.txt", "content": "three", "append": true})).await;
    assert_eq!(appended["bytes"], 5);
    let edited = json!({"path": "new/a.txt", "old_text": "two", "new_text": "2"});
    assert_eq!(t.value("edit_file", edited.clone()).await["replacements"], 1);
    assert_eq!(t.value("edit_file", edited).await["replacements"], 0, "already applied");
    let read = t.value("read_file", json!({"path": "new/a.txt", "offset": 2})).await;
    let expected = json!({"content": "2\nthree", "path": path, "start_line": 2, "end_line": 3, "total_lines": 3, "next_offset": null});
    assert_eq!(read, expected);
    assert_eq!(
        t.reason("edit_file", json!({"path": "new/a.txt", "old_text": "x", "new_text": "y"})).await,
        ToolReason::Failed
    );
    let names: Vec<_> = fs::read_dir(t.work().join("new")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["a.txt"], "no temporary file is left");
}

#[tokio::test]
async fn long_files_are_read_on_by_offset_until_the_end() {
    let t = Tools::new();
    let text: String = (1..=5000).map(|n| format!("line {n} {}\n", "x".repeat(40))).collect();
    fs::write(t.work().join("long"), &text).unwrap();
    let (mut whole, mut offset) = (String::new(), json!(1));
    let mut calls = 0;
    while !offset.is_null() {
        let page = t.value("read_file", json!({"path": "long", "offset": offset})).await;
        assert!(page["content"].as_str().unwrap().len() <= 50 * 1024);
        assert_eq!(page["total_lines"], 5000);
        whole += page["content"].as_str().unwrap();
        offset = page["next_offset"].clone();
        calls += 1;
    }
    assert_eq!(whole, text);
    assert!(calls > 3);
}

#[tokio::test]
async fn binary_files_are_refused_and_images_are_shown() {
    let t = Tools::new();
    fs::write(t.work().join("bin"), b"ELF\0\0").unwrap();
    assert_eq!(t.reason("read_file", json!({"path": "bin"})).await, ToolReason::Failed);
    let png = b"\x89PNG\r\n\x1a\n rest".to_vec();
    fs::write(t.work().join("p"), &png).unwrap();
    let output = t.call("read_file", json!({"path": "p"})).await.unwrap();
    assert_eq!((output.media[0].media_type.as_str(), &output.media[0].bytes), ("image/png", &png));
    fs::write(t.work().join("huge"), [&png[..], &vec![0; 2 << 20]].concat()).unwrap();
    assert_eq!(t.reason("read_file", json!({"path": "huge"})).await, ToolReason::TooLarge);
    assert_eq!(t.reason("read_file", json!({"path": "sub"})).await, ToolReason::Failed);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        t.work().join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    assert_eq!(
        t.reason("read_file", json!({"path": "fifo"})).await,
        ToolReason::Failed,
        "and it does not hang"
    );
}

#[tokio::test]
async fn no_trick_with_paths_leaves_the_workspace() {
    let mut t = Tools::new();
    let outside = t.sandbox.base.join("outside");
    symlink(&outside, t.work().join("dir")).unwrap();
    symlink(outside.join("secret"), t.work().join("file")).unwrap();
    symlink(outside.join("later"), t.work().join("dangling")).unwrap();
    symlink("../brain.sqlite", t.work().join("brain")).unwrap();
    fs::hard_link(t.sandbox.base.join("data/brain.sqlite"), t.work().join("hard")).unwrap();
    let outside_path = outside.join("secret").display().to_string();
    for path in [
        outside_path.as_str(),
        "dir/secret",
        "file",
        "../../outside/secret",
        "sub/../../../outside/secret",
        "/etc/passwd",
        "missing",
    ] {
        assert_eq!(t.reason("read_file", json!({"path": path})).await, ToolReason::NotFound, "{path}");
        assert_eq!(
            t.reason("grep", json!({"pattern": "SECRET", "path": path})).await,
            ToolReason::NotFound,
            "{path}"
        );
        assert_eq!(t.reason("find", json!({"path": path})).await, ToolReason::NotFound, "{path}");
    }
    for path in ["brain", "hard", "../brain.sqlite", "../backups/b1"] {
        assert_eq!(
            t.reason("read_file", json!({"path": path})).await,
            ToolReason::PermissionDenied,
            "{path}"
        );
        let write = json!({"path": path, "content": "x"});
        assert_eq!(t.reason("write_file", write).await, ToolReason::PermissionDenied, "{path}");
    }
    for path in ["dir/new", "dangling", "file", "/etc/engine-test", "../../outside/new"] {
        let write = json!({"path": path, "content": "x"});
        assert_eq!(t.reason("write_file", write).await, ToolReason::PermissionDenied, "{path}");
    }
    assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "SECRET");
    assert!(!outside.join("later").exists());
    let found = t.value("grep", json!({"pattern": "SECRET|BRAIN|BACKUP"})).await;
    assert_eq!(found["matches"], json!([]), "links are not followed, the brain's other name is passed over");
    let listed = t.value("find", json!({})).await;
    assert!(!paths(&listed["entries"], &t.work()).contains(&"hard".to_string()));
    // A person's yes for one path opens that path and no other.
    t.grants.write.push(outside.join("new"));
    t.value("write_file", json!({"path": "dir/new", "content": "x"})).await;
    assert_eq!(
        t.reason("write_file", json!({"path": "dir/new2", "content": "x"})).await,
        ToolReason::PermissionDenied
    );
}

#[tokio::test]
async fn grep_finds_lines_within_its_limits() {
    let t = Tools::new();
    let work = t.work();
    fs::create_dir_all(work.join(".git")).unwrap();
    fs::write(work.join(".git/x"), "needle\n").unwrap();
    fs::write(work.join("bin"), b"needle\n\0needle\n").unwrap();
    fs::write(work.join("a.rs"), "one\nNeedle two\nthree\n").unwrap();
    fs::write(work.join("sub/b.txt"), format!("needle {}\n", "é".repeat(1000))).unwrap();
    fs::write(work.join(".hidden"), "needle\n").unwrap();
    let found = t.value("grep", json!({"pattern": "needle"})).await;
    assert_eq!(paths(&found["matches"], &work), [".hidden", "sub/b.txt"]);
    assert_eq!(found["matches"][1]["text"].as_str().unwrap().chars().count(), 501);
    assert_eq!(found["truncated"], false);
    let found = t
        .value("grep", json!({"pattern": "NEEDLE", "ignore_case": true, "glob": "*.rs", "context": 1}))
        .await;
    let expected = json!([{"path": work.join("a.rs"), "line": 2, "text": "Needle two", "before": ["one"], "after": ["three"]}]);
    assert_eq!(found["matches"], expected);
    let found = t.value("grep", json!({"pattern": "needle", "glob": "sub/**", "path": "."})).await;
    assert_eq!(paths(&found["matches"], &work), ["sub/b.txt"]);
    fs::write(work.join("many"), "needle\n".repeat(500)).unwrap();
    let found = t.value("grep", json!({"pattern": "^needle$", "path": "many"})).await;
    assert_eq!((found["matches"].as_array().unwrap().len(), &found["truncated"]), (100, &json!(true)));
    for bad in ["(", "a{1000}{1000}{1000}"] {
        assert_eq!(t.reason("grep", json!({"pattern": bad})).await, ToolReason::InvalidInput, "{bad}");
    }
    assert_eq!(t.reason("grep", json!({"pattern": "x", "glob": "[z-a]"})).await, ToolReason::InvalidInput);
}

#[tokio::test]
async fn find_filters_by_name_type_age_size_and_depth() {
    let t = Tools::new();
    let work = t.work();
    fs::create_dir_all(work.join("sub/deep")).unwrap();
    fs::write(work.join("sub/deep/x.toml"), "12345").unwrap();
    fs::write(work.join("y.toml"), "").unwrap();
    symlink("/etc", work.join("z.toml")).unwrap();
    let old = std::time::SystemTime::now() - Duration::from_secs(10 * 86400);
    fs::File::open(work.join("y.toml")).unwrap().set_modified(old).unwrap();
    let list = async |input: Value| paths(&t.value("find", input).await["entries"], &work);
    assert_eq!(list(json!({"name": "*.toml"})).await, ["sub/deep/x.toml", "y.toml", "z.toml"]);
    assert_eq!(
        list(json!({"name": "*.toml", "type": "file", "newer_than": "1d"})).await,
        ["sub/deep/x.toml"]
    );
    assert_eq!(list(json!({"older_than": "7d"})).await, ["y.toml"]);
    assert_eq!(list(json!({"type": "link"})).await, ["z.toml"]);
    assert_eq!(list(json!({"type": "dir", "max_depth": 1})).await, ["sub"]);
    assert_eq!(list(json!({"type": "file", "min_size": 5, "max_size": 5})).await, ["sub/deep/x.toml"]);
    assert_eq!(list(json!({"path": "sub", "name": "deep/*"})).await, ["sub/deep/x.toml"]);
    let entry = t.value("find", json!({"name": "x.toml"})).await["entries"][0].clone();
    assert_eq!((&entry["type"], &entry["size"]), (&json!("file"), &json!(5)));
    assert!(entry["modified"].as_str().unwrap().ends_with('Z'));
    for n in 0..1005 {
        fs::write(work.join(format!("sub/deep/f{n}")), "").unwrap();
    }
    let all = t.value("find", json!({"path": "sub/deep"})).await;
    assert_eq!((all["entries"].as_array().unwrap().len(), &all["truncated"]), (1000, &json!(true)));
}

#[tokio::test]
async fn bash_answers_streams_code_and_time_out() {
    let mut t = Tools::new();
    let ran = t.value("bash", json!({"command": "echo out; echo err >&2; exit 3"})).await;
    assert_eq!(ran, json!({"stdout": "out\n", "stderr": "err\n", "exit_code": 3, "timed_out": false}));
    assert_eq!(t.spawned.lock().unwrap().len(), 1, "the group was recorded");
    let ran = t.value("bash", json!({"command": "pwd", "cwd": "sub"})).await;
    assert_eq!(ran["stdout"], format!("{}\n", t.work().join("sub").display()));
    assert_eq!(t.reason("bash", json!({"command": "pwd", "cwd": "/etc"})).await, ToolReason::NotFound);
    let begin = Instant::now();
    let failure = t.call("bash", json!({"command": "echo a; sleep 60", "timeout_s": 1})).await.unwrap_err();
    assert_eq!(failure.reason, ToolReason::Timeout);
    let output = failure.output.unwrap();
    assert_eq!((&output["stdout"], &output["timed_out"]), (&json!("a\n"), &json!(true)));
    assert!(begin.elapsed() < Duration::from_secs(3));
    t.output_max = 1000;
    let output = t.call("bash", json!({"command": "seq 1000; seq 5000 >&2"})).await.unwrap();
    let (out, err) = (output.value["stdout"].as_str().unwrap(), output.value["stderr"].as_str().unwrap());
    assert!(out.len() + err.len() <= 1000, "{} {}", out.len(), err.len());
    assert!(out.starts_with("1\n2\n") && out.ends_with("999\n1000\n") && err.ends_with("5000\n"), "{out}");
    let full = String::from_utf8(output.full.unwrap()).unwrap();
    assert!(full.contains("\n500\n") && full.contains("--- stderr ---") && full.ends_with("\n5000\n"));
}

#[tokio::test]
async fn a_cancelled_call_answers_within_a_second() {
    let t = Tools::new();
    let begin = Instant::now();
    let (answer, ()) = tokio::join!(t.call("bash", json!({"command": "sleep 60"})), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        t.cancel.cancel();
    });
    assert_eq!(answer.unwrap_err().reason, ToolReason::Cancelled);
    assert!(begin.elapsed() < Duration::from_secs(1));
    for (name, input) in
        [("grep", json!({"pattern": "x"})), ("find", json!({})), ("read_file", json!({"path": "hello"}))]
    {
        assert_eq!(t.reason(name, input).await, ToolReason::Cancelled);
    }
}

#[tokio::test]
async fn parallel_edits_of_one_file_lose_nothing() {
    let t = Tools::new();
    let lines: String = (0..20).map(|n| format!("<{n}>\n")).collect();
    fs::write(t.work().join("shared"), lines).unwrap();
    let edits = (0..20).map(|n| {
        let input = json!({"path": "shared", "old_text": format!("<{n}>"), "new_text": format!("done {n}")});
        t.value("edit_file", input)
    });
    futures::future::join_all(edits).await;
    let text = fs::read_to_string(t.work().join("shared")).unwrap();
    assert_eq!(text.matches("done").count(), 20, "{text}");
}

#[tokio::test]
async fn effect_classes_follow_the_input() {
    let t = Tools::new();
    let effect = |name: &str, input: Value| t.registry.get(name).unwrap().effect(&input);
    assert_eq!(effect("bash", json!({"command": "git status | head"})), Effect::ReadOnly);
    assert_eq!(effect("bash", json!({"command": "make"})), Effect::Once);
    assert_eq!(effect("write_file", json!({"path": "a", "content": ""})), Effect::Idempotent);
    assert_eq!(effect("write_file", json!({"path": "a", "content": "", "append": true})), Effect::Once);
    assert_eq!(effect("edit_file", json!({})), Effect::Idempotent);
    assert_eq!(effect("read_file", json!({})), Effect::ReadOnly);
}
