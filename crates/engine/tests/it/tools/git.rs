//! `git_status` and `git_log` on real repositories, honest ones and ones that want to run something.

use super::Tools;
use contract::ToolReason;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// Git as a person runs it, with an identity and no configuration of this machine.
fn git(dir: &Path, args: &[&str]) -> bool {
    let mut command = std::process::Command::new("git");
    command.args(["-c", "protocol.file.allow=always"]).args(args).current_dir(dir).env_clear();
    command.env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", dir).env("GIT_CONFIG_NOSYSTEM", "1");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "Asha").env(format!("GIT_{who}_EMAIL"), "asha@example.com");
        command.env(format!("GIT_{who}_DATE"), "2026-02-03T04:05:06+00:00");
    }
    command.output().expect("git is there").status.success()
}

fn must(dir: &Path, args: &[&str]) {
    assert!(git(dir, args), "git {args:?}");
}

fn repository(dir: &Path) {
    fs::create_dir_all(dir).expect("a directory");
    must(dir, &["init", "-q", "-b", "main"]);
    for (name, subject) in [("a", "First"), ("b c", "Second: a name with a space")] {
        fs::write(dir.join(name), name).expect("written");
        must(dir, &["add", "."]);
        must(dir, &["commit", "-q", "-m", subject]);
    }
}

fn subjects(log: &Value) -> Vec<&str> {
    let commits = log["commits"].as_array().expect("commits");
    commits.iter().map(|c| c["subject"].as_str().expect("a subject")).collect()
}

#[tokio::test]
async fn status_and_log_tell_what_a_repository_says() {
    let t = Tools::new();
    let repo = t.work().join("repo");
    repository(&repo);
    must(&t.work(), &["clone", "-q", "repo", "clone"]);
    let clone = t.work().join("clone");
    fs::write(clone.join("new"), "new").expect("written");
    must(&clone, &["add", "new"]);
    must(&clone, &["commit", "-q", "-m", "Third"]);
    must(&clone, &["mv", "a", "was a"]);
    fs::write(clone.join("b c"), "changed").expect("written");
    fs::remove_file(clone.join("new")).expect("removed");
    fs::write(clone.join("stray"), "").expect("written");

    let status = t.value("git_status", json!({"repo": "clone"})).await;
    assert_eq!(
        (&status["branch"], &status["ahead"], &status["behind"], &status["truncated"]),
        (&json!("main"), &json!(1), &json!(0), &json!(false))
    );
    let mut files = status["files"].as_array().expect("files").clone();
    files.sort_by_key(|f| f["path"].to_string());
    assert_eq!(
        files,
        [
            json!({"path": "b c", "state": "modified", "staged": false}),
            json!({"path": "new", "state": "deleted", "staged": false}),
            json!({"path": "stray", "state": "untracked", "staged": false}),
            json!({"path": "was a", "state": "renamed", "staged": true}),
        ]
    );
    let log = t.value("git_log", json!({"repo": "clone"})).await;
    assert_eq!(subjects(&log), ["Third", "Second: a name with a space", "First"]);
    let first = &log["commits"][2];
    assert_eq!(first["author"], "Asha");
    // releases of git write the same instant as `Z` or as `+00:00`
    assert!(first["date"].as_str().is_some_and(|date| date.starts_with("2026-02-03T04:05:06")), "{first}");
    assert_eq!(first["hash"].as_str().map(str::len), Some(40));
    assert_eq!(subjects(&t.value("git_log", json!({"repo": "clone", "limit": 1})).await), ["Third"]);
    // relative to the workspace, to the repository, absolute; and a file that is not there any more
    for path in ["clone/new", "new", clone.join("new").to_str().expect("text")] {
        let log = t.value("git_log", json!({"repo": "clone", "path": path})).await;
        assert_eq!(subjects(&log), ["Third"], "{path}");
    }
}

#[tokio::test]
async fn where_there_is_no_repository_the_answer_says_so_and_an_empty_one_has_an_empty_log() {
    let t = Tools::new();
    // one that lies around the workspace is not the workspace's
    must(&t.sandbox.base, &["init", "-q"]);
    for repo in [json!({}), json!({"repo": "sub"}), json!({"repo": "none"}), json!({"repo": "../../outside"})]
    {
        for tool in ["git_status", "git_log"] {
            assert_eq!(t.reason(tool, repo.clone()).await, ToolReason::NotFound, "{tool} {repo}");
        }
    }
    must(&t.work(), &["init", "-q", "-b", "main"]);
    assert_eq!(t.value("git_log", json!({})).await, json!({"commits": []}));
    let status = t.value("git_status", json!({"repo": "sub"})).await;
    assert_eq!((&status["branch"], &status["ahead"]), (&json!("main"), &Value::Null));
    assert_eq!(t.reason("git_log", json!({"path": "../../outside/secret"})).await, ToolReason::NotFound);
}

/// A repository whose every program leaves a file behind, also those of a submodule and of an included file.
fn hostile(t: &Tools) -> (std::path::PathBuf, std::path::PathBuf) {
    let (repo, ran) = (t.work().join("repo"), t.work().join("ran"));
    repository(&t.work().join("inner"));
    repository(&repo);
    must(&repo, &["submodule", "--quiet", "add", "../inner", "module"]);
    fs::write(repo.join(".gitattributes"), "a filter=x.y=z diff=d\n* filter=w\n").expect("written");
    must(&repo, &["add", "."]);
    must(&repo, &["commit", "-q", "-m", "Third"]);
    let program = t.work().join("program");
    fs::write(&program, format!("#!/bin/sh\n: > {}\ncat\n", ran.display())).expect("written");
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("executable");
    let hooks = t.work().join("hooks");
    fs::create_dir(&hooks).expect("a directory");
    for hook in ["post-index-change", "reference-transaction", "fsmonitor-watchman"] {
        fs::copy(&program, hooks.join(hook)).expect("copied");
    }
    let (program, hooks) = (program.display().to_string(), hooks.display().to_string());
    let included = t.work().join("included");
    let filter = format!("[filter \"w\"]\n\tclean = {program}\n\tprocess = {program}\n\trequired = true\n");
    fs::write(&included, filter).expect("written");
    let settings = [
        ("core.fsmonitor", &program),
        ("core.pager", &program),
        ("core.hooksPath", &hooks),
        ("core.sshCommand", &program),
        ("filter.x.y=z.clean", &program),
        ("diff.external", &program),
        ("diff.d.textconv", &program),
        ("diff.d.command", &program),
        ("gpg.program", &program),
        ("log.showSignature", &"true".to_owned()),
        ("pager.log", &program),
        ("pager.status", &program),
        ("alias.status", &format!("!{program}")),
        ("include.path", &included.display().to_string()),
    ];
    for dir in [&repo, &repo.join("module")] {
        for (key, value) in settings {
            must(dir, &["config", key, value]);
        }
    }
    // as if changed lately: now git looks into it, through every filter
    for file in ["a", "module/a"] {
        fs::write(repo.join(file), "z").expect("written");
    }
    (repo, ran)
}

#[tokio::test]
async fn a_repository_cannot_make_its_reader_run_anything() {
    let t = Tools::new();
    let (repo, ran) = hostile(&t);
    let before = fs::read(repo.join(".git/index")).expect("an index");
    let status = t.value("git_status", json!({"repo": "repo"})).await;
    assert!(!ran.exists(), "a program of the repository ran");
    let paths: Vec<&str> =
        status["files"].as_array().expect("files").iter().filter_map(|f| f["path"].as_str()).collect();
    assert_eq!(paths, ["a"], "the change is seen all the same");
    let log = t.value("git_log", json!({"repo": "repo", "path": "repo/a"})).await;
    assert_eq!(subjects(&log), ["First"]);
    assert!(!ran.exists(), "a program of the repository ran");
    assert_eq!(fs::read(repo.join(".git/index")).expect("an index"), before, "nothing is written");
    // it would have: as a person runs it, it does
    let _ = git(&repo, &["status"]);
    assert!(ran.exists(), "the repository is harmless, so nothing was tried");
}
