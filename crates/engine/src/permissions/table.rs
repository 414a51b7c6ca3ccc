//! The rules as a table: command, verdict.

use super::{Grants, PermissionContext, Remembered, Scope, Verdict, check, rules};
use crate::outbound::facts::Reading;
use crate::sandbox::Workspace;
use crate::tools::files;
use crate::tools::tool::Effect;
use serde_json::json;
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

/// `state/{brain.sqlite,backups,scratch/t1,root/catalog}` and `srv/old`, with `state/root` as the only root.
struct World {
    _dir: tempfile::TempDir,
    base: PathBuf,
    workspace: Workspace,
    remembered: Remembered,
    agreed: HashSet<String>,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().canonicalize().unwrap();
    for sub in [
        "state/root/sub",
        "state/root/repo/.git",
        "state/backups",
        "state/scratch/t1",
        "srv/old",
        "state/root/catalog",
    ] {
        fs::create_dir_all(base.join(sub)).unwrap();
    }
    fs::write(base.join("state/brain.sqlite"), "brain").unwrap();
    fs::write(base.join("state/root/small"), "x").unwrap();
    fs::write(base.join("state/root/big"), vec![b'x'; 5000]).unwrap();
    fs::write(base.join("srv/old/f"), "x").unwrap();
    symlink(base.join("state/brain.sqlite"), base.join("state/root/link")).unwrap();
    symlink(base.join("srv"), base.join("state/root/out")).unwrap();
    fs::hard_link(base.join("state/brain.sqlite"), base.join("state/root/hard")).unwrap();
    let workspace = Workspace::new([base.join("state/root")])
        .unwrap()
        .seal_brain(&base.join("state/brain.sqlite"))
        .seal(&base.join("state/backups"))
        .seal(&base.join("state/hooks.json"))
        .read_only(&base.join("state/root/catalog"))
        .for_task(&base.join("state/scratch/t1"))
        .unwrap();
    World { _dir: dir, base, workspace, remembered: Remembered::default(), agreed: HashSet::new() }
}

impl World {
    fn context(&self) -> PermissionContext<'_> {
        PermissionContext {
            workspace: &self.workspace,
            remembered: &self.remembered,
            network: &[],
            reading: Reading::default(),
            agreed: &self.agreed,
            class: Effect::Once,
        }
    }

    /// `B` stands for the base directory.
    fn word(&self, command: &str) -> &'static str {
        match rules::bash(&command.replace('B', self.base.to_str().unwrap()), None, &self.context()) {
            Verdict::Allow { .. } => "allow",
            Verdict::Deny { .. } => "deny",
            Verdict::Prompt(_) => "ask",
        }
    }
}

#[test]
fn every_command_has_its_verdict() {
    let w = world();
    let table = [
        // inside the workspace nothing is asked
        ("ls -la", "allow"),
        ("rm -rf sub", "allow"),
        ("rm -rf ./sub/*", "allow"),
        ("rm -rf $TMPDIR/x ~/.cache", "allow"),
        ("rm small", "allow"),
        ("mkdir -p a/b && touch a/b/c", "allow"),
        ("echo hi > new.txt", "allow"),
        ("echo hi > small", "allow"),
        ("echo hi >> big", "allow"),
        ("cp small other && mv other third", "allow"),
        ("cargo build 2>&1 | tee log | tail -n 5", "allow"),
        ("find . -name '*.o' -delete", "allow"),
        ("sed -i '/foo/d' small", "allow"),
        ("echo x > /dev/null 2> /dev/stderr", "allow"),
        ("python3 script.py", "allow"),
        ("python3 -c 'print(1)'", "allow"),
        ("bash -c 'rm -rf sub'", "allow"),
        ("git push origin main", "allow"),
        ("git -C repo clean -fd", "allow"),
        ("git commit -m 'rm -rf / is bad'", "allow"),
        ("echo 'rm -rf /srv'", "allow"),
        ("cat /etc/hosts", "allow"),
        ("for f in *.txt; do wc -l \"$f\"; done", "allow"),
        ("cat /proc/self/environ", "allow"),
        ("echo $(date) $((1 + 2))", "allow"),
        ("dd if=small of=/dev/null", "allow"),
        // destructive outside, or anywhere
        ("rm -rf /srv/old", "ask"),
        ("rm -rf B/srv/old", "ask"),
        ("rm -r -- ../x", "ask"),
        ("rm --recursive ../x", "ask"),
        ("rm --rec ../x", "ask"),
        ("/bin/rm -f ../x", "ask"),
        ("\\rm -rf ../x", "ask"),
        ("r''m -rf ../x", "ask"),
        ("rm -rf out/old", "ask"),
        ("rm -rf sub/../../x", "ask"),
        ("rm -rf /", "ask"),
        ("cd .. && rm -rf work2", "ask"),
        ("(cd B/srv; ls; rm -rf old)", "ask"),
        ("rm -rf \"$X\"", "ask"),
        ("rm -rf {a,../../b}", "ask"),
        ("rm -rf $(cat list)", "ask"),
        ("HOME=/ ; rm -rf ~", "ask"),
        ("ls | xargs rm -rf", "ask"),
        ("find . -exec rm -rf {} ;", "ask"),
        ("find B/srv -delete", "ask"),
        ("sudo -u bob rm -rf ../x", "ask"),
        ("env -u A nice -n 5 rm -rf ../x", "ask"),
        ("timeout 5 rm -rf ../x", "ask"),
        ("env -C .. rm -rf x", "ask"),
        ("sh -c 'rm -rf ../x'", "ask"),
        ("bash -lc \"rm -rf ../x\"", "ask"),
        ("eval 'rm -rf' ../x", "ask"),
        ("eval \"$CMD\" # rm", "ask"),
        ("$R -rf sub; rm x", "ask"),
        ("echo 'rm -rf ../x' | sh", "ask"),
        ("bash <<EOF\nrm -rf ../x\nEOF", "ask"),
        ("bash <<'EOF' | tee log\nrm -rf ../x\nEOF", "ask"),
        ("python3 -c 'import shutil; shutil.rmtree(\"sub\")'", "ask"),
        ("trap 'rm -rf ../x' EXIT", "ask"),
        ("if true; then rm -rf ../x; fi", "ask"),
        ("f() { rm -rf \"$1\"; }; f ..", "ask"),
        ("echo `rm -rf ../x`", "ask"),
        ("cat <(rm -rf ../x)", "ask"),
        ("rm -rf 'unclosed", "ask"),
        ("shred small", "ask"),
        ("dd if=/dev/zero of=small", "ask"),
        ("mkfs.ext4 /dev/sda1", "ask"),
        ("chmod -R 777 sub", "ask"),
        ("chown -hR nobody sub", "ask"),
        ("echo x > big", "ask"),
        (": > big", "ask"),
        (">big", "ask"),
        ("truncate -s 0 big", "ask"),
        ("tee big < small", "ask"),
        ("git push --force", "ask"),
        ("git push -f origin main", "ask"),
        ("git push origin +main", "ask"),
        ("git push --force-with-lease", "ask"),
        ("git -C repo reset --hard HEAD~1", "ask"),
        ("git clean -fdx", "ask"),
        // writing outside
        ("echo x > ../x", "ask"),
        ("echo x >> /etc/hosts", "ask"),
        ("cp small ../x", "ask"),
        ("mv ../x small", "ask"),
        ("cp -t /srv small", "ask"),
        ("tee ../x", "ask"),
        ("mkdir /srv/new", "ask"),
        ("touch out/f", "ask"),
        ("ln -s small ../l", "ask"),
        ("sed -i s/a/b/ ../x", "ask"),
        ("chmod 600 ../x", "ask"),
        ("tar xf a.tar -C /srv", "ask"),
        // never
        ("cat ../brain.sqlite", "deny"),
        ("sqlite3 B/state/brain.sqlite .dump", "deny"),
        ("cat link", "deny"),
        ("cat hard", "deny"),
        ("cat < ../brain.sqlite-wal", "deny"),
        ("cp ../backups/b1 .", "deny"),
        ("cat ../br*", "deny"),
        ("cat ../brain.sqlit?", "deny"),
        ("cd ..; cat brain.sqlite", "deny"),
        ("dd if=../brain.sqlite of=x", "deny"),
        ("tool --db=../brain.sqlite", "deny"),
        ("rm -rf ../brain.sqlite.lock", "deny"),
        ("echo '{}' > ../hooks.json", "deny"),
        ("cat /proc/1/environ", "deny"),
        ("cat /proc/*/environ", "deny"),
        ("cat /proc/$PPID/environ", "deny"),
        ("cat /proc/1/task/1/environ", "deny"),
        ("ls /proc/1/root/etc", "deny"),
        ("sh -c 'cat ../brain.sqlite'", "deny"),
        ("echo $(cat ../brain.sqlite)", "deny"),
        ("python3 -c 'open(\"B/state/brain.sqlite\")'", "deny"),
        ("echo x > catalog/agent.json", "deny"),
        ("rm -rf catalog/tools", "deny"),
        ("rm -rf B/srv/old; cat ../brain.sqlite", "deny"),
    ];
    let wrong: Vec<_> = table
        .iter()
        .map(|(command, expected)| (*command, *expected, w.word(command)))
        .filter(|(_, expected, got)| expected != got)
        .collect();
    assert!(wrong.is_empty(), "command, expected, got: {wrong:#?}");
    assert!(table.len() > 100);
}

#[test]
fn a_prompt_says_what_would_be_remembered_and_what_a_yes_opens() {
    let w = world();
    let old = w.base.join("srv/old");
    let command = format!("rm   -rf  {}", old.display());
    let Verdict::Prompt(prompt) = rules::bash(&command, None, &w.context()) else { panic!("must ask") };
    assert_eq!(prompt.rule, format!("bash:rm -rf {}", old.display()));
    assert_eq!(prompt.question, format!("Run rm -rf {}?", old.display()));
    assert_eq!(prompt.reason, "destructive command outside ALLOWED_ROOTS");
    assert_eq!(prompt.options, ["yes", "no", "always"]);
    assert_eq!(prompt.grants, Grants::paths(vec![old.clone()]));
    let Verdict::Prompt(elsewhere) = rules::bash("git reset --hard", Some("sub"), &w.context()) else {
        panic!("must ask")
    };
    assert_eq!(
        elsewhere.rule,
        format!("bash:cd {} && git reset --hard", w.base.join("state/root/sub").display())
    );
}

#[test]
fn remembered_rules_allow_but_never_what_is_denied() {
    let mut w = world();
    let tools = files::tools(1024);
    let tool = |name: &str| tools.iter().find(|t| t.name() == name).unwrap().clone();
    let target = w.base.join("srv/new");
    let input = json!({"path": target, "content": "x"});
    let Verdict::Prompt(prompt) = check(&*tool("write_file"), &input, &w.context()) else {
        panic!("must ask")
    };
    assert_eq!(prompt.rule, format!("write:{}", target.display()));
    w.remembered.insert(prompt.rule, prompt.scope);
    let grants = Grants::paths(vec![target]);
    let rule = Some(format!("write:{}", w.base.join("srv/new").display()));
    assert_eq!(check(&*tool("write_file"), &input, &w.context()), Verdict::Allow { rule, grants });
    let brain = w.base.join("state/brain.sqlite");
    w.remembered.insert(format!("write:{}", brain.display()), Scope::default());
    for name in ["read_file", "write_file", "edit_file"] {
        for path in [
            brain.to_str().unwrap(),
            "link",
            "hard",
            "sub/../../brain.sqlite",
            "/proc/self/environ",
            "/proc/1/mem",
        ] {
            let verdict = check(&*tool(name), &json!({"path": path}), &w.context());
            assert!(matches!(verdict, Verdict::Deny { .. }), "{name} {path}: {verdict:?}");
        }
    }
    let catalog = check(&*tool("write_file"), &json!({"path": "catalog/x"}), &w.context());
    assert!(matches!(catalog, Verdict::Deny { .. }));
    assert_eq!(check(&*tool("read_file"), &json!({"path": "catalog/x"}), &w.context()), Verdict::allow());
    assert_eq!(
        check(&*tool("read_file"), &json!({"path": "/etc/shadow"}), &w.context()),
        Verdict::allow(),
        "answers not_found when run"
    );
}

#[test]
fn a_question_about_a_file_shows_what_would_change_in_it() {
    let w = world();
    let tools = files::tools(1024);
    let tool = |name: &str| tools.iter().find(|t| t.name() == name).unwrap().clone();
    let target = w.base.join("srv/old/f");
    fs::write(&target, "one\ntwo\nthree\n").unwrap();
    let shown = |name: &str, input: serde_json::Value| match check(&*tool(name), &input, &w.context()) {
        Verdict::Prompt(prompt) => {
            assert_eq!(prompt.touches.len(), 1);
            assert_eq!(prompt.touches[0].path, target);
            prompt.diff.unwrap()
        }
        other => panic!("must ask, but: {other:?}"),
    };
    let name = target.display();
    let edited = shown("edit_file", json!({"path": target, "old_text": "two", "new_text": "2"}));
    assert_eq!(edited, format!("--- {name}\n+++ {name}\n@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n"));
    let appended = shown("write_file", json!({"path": target, "content": "four\n", "append": true}));
    assert!(appended.ends_with("\n three\n+four\n"), "{appended}");
    let replaced = shown("write_file", json!({"path": target, "content": ""}));
    assert!(replaced.contains("-one\n-two\n-three"), "{replaced}");
    fs::write(&target, [0xff, 0xfe]).unwrap();
    let binary = shown("write_file", json!({"path": target, "content": "x"}));
    assert!(binary.contains("not text"), "{binary}");
}
