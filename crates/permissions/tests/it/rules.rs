//! The order of the rules, what prompts carry, and the rules about tools, addresses and connected actions.

use crate::world::world;
use permissions::rules::{self, ActionFacts, FetchFacts, Pin, ToolFacts, reason};
use permissions::{Grants, How, Prompt, Remembered, Scope, Verdict, analyse};
use std::path::PathBuf;

fn prompt(verdict: Verdict) -> Prompt {
    match verdict {
        Verdict::Prompt(prompt) => prompt,
        other => panic!("must ask, but: {other:?}"),
    }
}

#[test]
fn a_prompt_says_what_would_be_remembered_what_would_be_touched_and_what_a_yes_opens() {
    let w = world();
    let asked = prompt(w.bash("rm   -rf  /srv/old  sub"));
    assert_eq!(asked.rule, "bash:rm -rf /srv/old sub");
    assert_eq!(asked.question, "Run rm -rf /srv/old sub?");
    assert_eq!(asked.reason, reason::DESTRUCTIVE_OUTSIDE);
    assert_eq!(asked.options, ["yes", "no", "always"]);
    assert_eq!(asked.grants, Grants::paths(vec!["/srv/old".into()]));
    let touched: Vec<_> = asked.touches.iter().map(|t| (t.path.to_str().unwrap(), t.how)).collect();
    let how = How::Delete { recursive: true, force: true };
    assert_eq!(touched, [("/srv/old", how), ("/data/root/sub", how)], "outside first");
    let asked = prompt(rules::bash("git reset --hard", Some("sub"), &w.facts()));
    assert_eq!(asked.rule, "bash:cd /data/root/sub && git reset --hard");
    let long = format!("rm -rf /srv/{}", "x".repeat(5000));
    let asked = prompt(w.bash(&long));
    assert!(
        asked.question.chars().count() <= rules::QUESTION_MAX_CHARS + 10 && asked.question.ends_with(" …?")
    );
    assert_eq!(asked.rule, format!("bash:{long}"), "the rule is the whole command");
}

#[test]
fn a_remembered_rule_allows_exactly_its_command_and_never_what_is_denied() {
    let mut w = world();
    let scope = prompt(w.bash("rm -rf /srv/old")).scope;
    for command in ["rm -rf /srv/old", "cat ../brain.sqlite"] {
        w.remembered.insert(format!("bash:{command}"), scope.clone());
    }
    w.remembered.insert("write:/data/brain.sqlite", Scope::default());
    assert_eq!(
        w.bash(" rm  -rf /srv/old"),
        Verdict::Allow {
            rule: Some("bash:rm -rf /srv/old".into()),
            grants: Grants::paths(vec!["/srv/old".into()])
        }
    );
    prompt(w.bash("rm -rf /srv/old/"));
    prompt(w.bash("rm -rf '/srv/old'"));
    prompt(rules::bash("rm -rf /srv/old", Some("sub"), &w.facts()));
    assert_eq!(w.bash("cat ../brain.sqlite"), Verdict::deny(reason::PROTECTED));
    assert_eq!(rules::write_path("../brain.sqlite", &w.facts()), Verdict::deny(reason::PROTECTED));
}

#[test]
fn file_tools_ask_outside_and_are_denied_sealed_places_by_every_name() {
    let w = world();
    let asked = prompt(rules::write_path("../../srv/./new", &w.facts()));
    assert_eq!((asked.rule.as_str(), asked.reason.as_str()), ("write:/srv/new", reason::WRITES_OUTSIDE));
    assert_eq!(asked.grants, Grants::paths(vec![PathBuf::from("/srv/new")]));
    assert_eq!(prompt(rules::write_path("out/new", &w.facts())).rule, "write:/srv/new");
    for path in [
        "/data/brain.sqlite",
        "../brain.sqlite-wal",
        "../brain.sqlite.lock",
        "link",
        "later",
        "hard",
        "hard-backup",
        "sub/../../backups/new",
        "../hooks.json",
        "/proc/self/environ",
        "/proc/1/mem",
        "/proc/1/root/x",
        "/proc/self/root/data/brain.sqlite",
    ] {
        assert_eq!(rules::read_path(path, &w.facts()), Verdict::deny(reason::PROTECTED), "{path}");
        assert_eq!(rules::write_path(path, &w.facts()), Verdict::deny(reason::PROTECTED), "{path}");
    }
    assert_eq!(rules::write_path("catalog/x", &w.facts()), Verdict::deny(reason::READ_ONLY));
    for path in ["catalog/x", "/etc/hosts", "small", "loop"] {
        assert_eq!(rules::read_path(path, &w.facts()), Verdict::allow(), "{path}");
    }
}

#[test]
fn a_tool_that_asks_every_time_cannot_be_remembered_and_an_expensive_one_can() {
    let w = world();
    let every = ToolFacts { name: "deploy", requires_permission: true, high_cost: false };
    let costly = ToolFacts { name: "render", requires_permission: false, high_cost: true };
    let plain = ToolFacts { name: "ls", requires_permission: false, high_cost: false };
    let remembered: Remembered =
        ["tool:deploy", "tool:render"].map(|rule| (rule, Scope::default())).into_iter().collect();
    let asked = prompt(rules::tool(Verdict::allow(), &every, &remembered));
    assert_eq!(
        (asked.rule.as_str(), asked.options.as_slice()),
        ("tool:deploy", &["yes".to_owned(), "no".into()][..])
    );
    let own = w.bash("rm -rf /srv/old");
    let asked = prompt(rules::tool(own.clone(), &every, &remembered));
    assert_eq!(
        asked.grants,
        Grants::paths(vec!["/srv/old".into()]),
        "a yes also opens what the command needs"
    );
    assert!(asked.reason.contains(reason::DESTRUCTIVE_OUTSIDE) && asked.question.contains("rm -rf"));
    assert_eq!(prompt(rules::tool(Verdict::allow(), &costly, &Remembered::default())).rule, "tool:render");
    assert_eq!(rules::tool(Verdict::allow(), &costly, &remembered), Verdict::allow());
    assert_eq!(prompt(rules::tool(own.clone(), &costly, &remembered)).rule, "bash:rm -rf /srv/old");
    assert_eq!(rules::tool(own.clone(), &plain, &Remembered::default()), own);
    for facts in [every, costly, plain] {
        assert_eq!(rules::tool(Verdict::deny("no"), &facts, &remembered), Verdict::deny("no"));
    }
}

#[test]
fn a_call_that_asks_for_two_reasons_asks_once_and_always_remembers_the_pair() {
    let w = world();
    let costly = ToolFacts { name: "render", requires_permission: false, high_cost: true };
    let own = w.bash("rm -rf /srv/old");
    let asked = prompt(rules::tool(own.clone(), &costly, &Remembered::default()));
    assert!(asked.reason.contains(reason::DESTRUCTIVE_OUTSIDE) && asked.reason.contains(reason::HIGH_COST));
    assert_eq!(asked.rule, "tool:render and bash:rm -rf /srv/old");
    assert!(asked.options.contains(&"always".to_owned()));
    // what `always` stores must let this very call run, with what it needs
    let pair: Remembered = [(asked.rule, asked.scope)].into_iter().collect();
    match rules::tool(own.clone(), &costly, &pair) {
        Verdict::Allow { rule, grants } => {
            assert_eq!(rule.as_deref(), Some("tool:render and bash:rm -rf /srv/old"));
            assert_eq!(grants, Grants::paths(vec!["/srv/old".into()]));
        }
        other => panic!("{other:?}"),
    }
    // and nothing else: neither another expensive call nor the same command without its cost
    assert_eq!(
        prompt(rules::tool(w.bash("rm -rf /srv/new"), &costly, &pair)).rule,
        "tool:render and bash:rm -rf /srv/new"
    );
    assert_eq!(prompt(rules::tool(Verdict::allow(), &costly, &pair)).rule, "tool:render");
    let both = ToolFacts { requires_permission: true, ..costly };
    let asked = prompt(rules::tool(own, &both, &pair));
    for reason in [reason::EVERY_CALL, reason::HIGH_COST, reason::DESTRUCTIVE_OUTSIDE] {
        assert!(asked.reason.contains(reason), "{}", asked.reason);
    }
}

#[test]
fn an_address_outside_the_list_asks_and_without_a_list_only_an_invented_one_does() {
    let mut w = world();
    let ask = |w: &crate::world::World, host, untrusted, seen| match rules::fetch(
        &FetchFacts { host, port: 443, untrusted, seen },
        &w.facts(),
    ) {
        Verdict::Prompt(prompt) => prompt.reason,
        Verdict::Allow { .. } => "allow".into(),
        Verdict::Deny { reason } => reason,
    };
    assert_eq!(ask(&w, "evil.example", false, true), reason::HOST);
    assert_eq!(ask(&w, "allowed.net", true, true), reason::HOST, "a suffix needs something in front of it");
    for host in ["example.org", "EXAMPLE.org.", "a.allowed.net", "a.b.allowed.net"] {
        assert_eq!(ask(&w, host, true, false), "allow", "{host}");
    }
    w.remembered.insert("net:evil.example", Scope::default());
    assert_eq!(ask(&w, "evil.example", true, false), "allow");
    w.remembered.clear();
    w.policy.network.clear();
    assert_eq!(ask(&w, "evil.example", false, false), "allow");
    assert_eq!(ask(&w, "evil.example", true, true), "allow");
    assert_eq!(ask(&w, "evil.example", true, false), reason::INVENTED_URL);
    assert_eq!(
        w.bash("curl https://evil.example/"),
        Verdict::allow(),
        "no list: the sandbox has no network anyway"
    );
    w.policy.network = vec!["*".into()];
    assert_eq!(ask(&w, "anything.example", true, false), "allow");
}

#[test]
fn a_connected_action_asks_when_its_definition_moved_or_untrusted_content_was_read() {
    let mut w = world();
    let same = ActionFacts {
        name: "slack.send",
        definition: "abc",
        pin: Pin::Same,
        once: true,
        trusted: false,
        untrusted: false,
        agreed_in_turn: false,
    };
    assert_eq!(rules::action(&same, &w.facts()), Verdict::allow());
    let tainted = ActionFacts { untrusted: true, ..same };
    let asked = prompt(rules::action(&tainted, &w.facts()));
    assert_eq!((asked.rule.as_str(), asked.reason.as_str()), ("mcp:slack.send:abc", reason::AFTER_UNTRUSTED));
    for quiet in [
        ActionFacts { trusted: true, ..tainted },
        ActionFacts { once: false, ..tainted },
        ActionFacts { agreed_in_turn: true, ..tainted },
    ] {
        assert_eq!(rules::action(&quiet, &w.facts()), Verdict::allow());
    }
    for (pin, why) in [(Pin::Changed, reason::CHANGED), (Pin::Appeared, reason::APPEARED)] {
        let moved = ActionFacts { pin, trusted: true, once: false, agreed_in_turn: true, ..same };
        assert_eq!(prompt(rules::action(&moved, &w.facts())).reason, why);
    }
    w.remembered.insert("mcp:slack.send:abc", Scope::default());
    let moved = ActionFacts { pin: Pin::Changed, ..same };
    assert!(matches!(rules::action(&moved, &w.facts()), Verdict::Allow { rule: Some(_), .. }));
    let again = ActionFacts { definition: "other", ..moved };
    prompt(rules::action(&again, &w.facts()));
}

#[test]
fn only_listed_commands_with_harmless_arguments_are_read_only() {
    let w = world();
    let read_only = |command: &str| rules::analyse_bash(command, None, &w.facts()).read_only;
    for yes in [
        "ls -la",
        "cat a | grep b | sort -u | uniq -c",
        "git status && git log --oneline -5; git diff HEAD~1",
        "find . -name '*.rs' -type f 2>/dev/null",
        "echo \"$(wc -l < a)\" $HOME",
        "for f in *.rs; do head -n 3 \"$f\"; done",
        "du -sh . ; df -h ; date +%s",
        "if cat a; then ls; fi",
        "cat <<EOF\nx\nEOF",
    ] {
        assert!(read_only(yes), "{yes}");
    }
    for no in [
        "ls > out",
        "cat a >> b",
        "rm a",
        "find . -delete",
        "find . -exec rm {} ;",
        "sort -o a a",
        "sort -uo a a",
        "uniq a b",
        "date -s tomorrow",
        "git push",
        "git -c core.pager=evil log",
        "git diff --output=x",
        "GIT_PAGER=x git log",
        "X=1; ls",
        "echo $(rm a)",
        "$CMD a",
        "find $X",
        "ls; python3 x.py",
        "tail -f log",
        "./ls",
        "/tmp/ls",
        "echo 'unclosed",
        "rg --pre evil x",
        "cat <<EOF\n$(rm a)\nEOF",
        "ls() { rm a; }; ls",
        "cd sub && ls",
        "exec > log",
        "printf -v X y",
        "cat < /dev/tcp/a/80",
    ] {
        assert!(!read_only(no), "{no}");
    }
}

#[test]
fn a_command_that_names_another_port_of_a_listed_host_asks() {
    let mut w = world();
    w.policy.network = vec!["db.example:5432".into(), "web.example".into()];
    for listed in [
        "curl https://web.example/x",
        "wget web.example/x",
        "psql postgres://db.example:5432/x",
        "ssh web.example",
        "echo x > /dev/tcp/db.example/5432",
    ] {
        assert_eq!(w.bash(listed), Verdict::allow(), "{listed}");
    }
    for (other, named) in [
        ("curl https://web.example:8443/x", "web.example:8443"),
        ("curl http://db.example/x", "db.example:80"),
        ("curl db.example:9200", "db.example:9200"),
        ("echo x > /dev/tcp/web.example/25", "web.example:25"),
    ] {
        let asked = prompt(w.bash(other));
        assert_eq!(
            (asked.reason.as_str(), asked.grants.hosts),
            (reason::HOST, vec![named.to_owned()]),
            "{other}"
        );
    }
    let fetch =
        |host, port| rules::fetch(&FetchFacts { host, port, untrusted: false, seen: true }, &w.facts());
    assert_eq!(fetch("db.example", 5432), Verdict::allow());
    assert_eq!(prompt(fetch("db.example", 443)).rule, "net:db.example");
}

#[test]
fn hosts_are_read_wherever_a_command_names_them() {
    let w = world();
    let setting =
        permissions::Setting { ground: &w.tree, directory: "/data/root".into(), variables: Vec::new() };
    let hosts = |command: &str| analyse(command, &setting).hosts.into_iter().collect::<Vec<_>>();
    assert_eq!(
        hosts("curl -H 'A: b' https://u:p@A.example:8443/x?y=http://b.example/"),
        ["a.example:8443", "b.example:80"]
    );
    assert_eq!(hosts("curl 'http://[::1]:81/' a.example"), ["[::1]:81", "a.example:80"]);
    assert_eq!(hosts("echo x > /dev/tcp/f.example/25"), ["f.example:25"]);
    assert_eq!(hosts("ssh -i key me@c.example. ls"), ["c.example"]);
    assert_eq!(hosts("rsync a d.example:b; git push git@e.example:x/y"), ["d.example", "e.example"]);
    assert!(hosts("echo a.example b: c; ls x:y").is_empty());
}

#[test]
fn a_remembered_rule_does_not_follow_a_link_that_was_moved() {
    let mut w = world();
    for command in ["rm -rf out/old", "echo x > out/old/f", "cd out && rm -rf old", "cp small out/old/new"] {
        let asked = prompt(w.bash(command));
        w.remembered.insert(asked.rule.clone(), asked.scope);
        let rule = Some(asked.rule);
        assert_eq!(w.bash(command), Verdict::Allow { rule, grants: asked.grants }, "{command}");
    }
    w.tree = w.tree.symlink("/data/root/out", "/etc");
    for command in ["rm -rf out/old", "echo x > out/old/f", "cd out && rm -rf old", "cp small out/old/new"] {
        let again = prompt(w.bash(command));
        assert!(again.reason.ends_with(reason::MOVED), "{command}: {}", again.reason);
        assert!(again.question.contains("/etc/old"), "{command}: {}", again.question);
        assert!(again.grants.write.iter().all(|path| path.starts_with("/etc")), "{command}");
    }
    // a rule remembered before scopes were kept covers no place
    w.remembered.insert("bash:rm -rf /srv/old", Scope::default());
    prompt(w.bash("rm -rf /srv/old"));
}

#[test]
fn a_pattern_agreed_to_covers_what_appears_below_it_later() {
    let mut w = world();
    let asked = prompt(w.bash("rm -rf /srv/*"));
    w.remembered.insert(asked.rule, asked.scope);
    w.tree = w.tree.file("/srv/new", 10);
    assert!(matches!(w.bash("rm -rf /srv/*"), Verdict::Allow { .. }));
}

#[test]
fn a_question_that_nobody_could_check_is_refused() {
    let w = world();
    let many: Vec<String> = (0..2000).map(|n| format!("/srv/{n}{}", "x".repeat(200))).collect();
    assert_eq!(w.bash(&format!("rm -f {}", many.join(" "))), Verdict::deny(reason::TOO_MANY));
    prompt(w.bash(&format!("rm -f {}", many[..200].join(" "))));
}

#[test]
fn a_target_nobody_knows_is_compared_with_the_large_files_that_are_there() {
    let mut w = world();
    assert_eq!(prompt(w.bash("echo x > \"$X\"")).reason, reason::TRUNCATES);
    assert_eq!(w.bash("echo x > \"$X.md\""), Verdict::allow());
    w.tree = w.tree.file("/data/root/sub/notes.md", 9000);
    assert_eq!(prompt(w.bash("echo x > \"$X.md\"")).reason, reason::TRUNCATES);
    // what is too much to be looked through may hold one
    let mut crowded = world();
    for n in 0..20_001 {
        crowded.tree = crowded.tree.file(&format!("/data/root/many/{n}"), 1);
    }
    assert_eq!(prompt(crowded.bash("echo x > \"$X.md\"")).reason, reason::TRUNCATES);
}
