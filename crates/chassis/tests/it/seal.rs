//! Tokens are exchanged with another implementation: Python's `cryptography`, where it is installed.

use chassis::config::{Secret, Source as _, Values};
use chassis::seal::MasterKeys;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// Reads a key, a token and a text; prints what the token opens to, and the text sealed with the key.
const OTHER_SIDE: &str = "
import sys
from cryptography.fernet import Fernet
key, token, text = sys.stdin.read().split('\\n')
other = Fernet(key)
print(other.decrypt(token).decode())
print(other.encrypt(text.encode()).decode())
";

fn python_can(statement: &str) -> bool {
    let answer = Command::new("python3").args(["-c", statement]).stderr(Stdio::null()).status();
    answer.is_ok_and(|status| status.success())
}

#[test]
fn tokens_are_exchanged_with_python() {
    if !python_can("import cryptography.fernet") {
        let line = "Fernet tokens with Python's cryptography: python3 cannot import it";
        eprintln!("not tested: {line}");
        if let Some(path) = Values::process().get("SEPTEMBER_TEST_SKIPS") {
            let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
            writeln!(file.expect("the list of skips can be written"), "{line}").expect("is written");
        }
        return;
    }
    let key = MasterKeys::generate();
    let keys = MasterKeys::parse(key.expose()).expect("is a key");
    let token = keys.seal("sealed here, opened there: ä");
    let mut python = Command::new("python3")
        .args(["-X", "utf8", "-c", OTHER_SIDE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 starts");
    let input = format!("{}\n{token}\nsealed there, opened here: ß", key.expose());
    let mut stdin = python.stdin.take().expect("is piped");
    stdin.write_all(input.as_bytes()).expect("python reads");
    drop(stdin);
    let output = python.wait_with_output().expect("python ends");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("is UTF-8");
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("sealed here, opened there: ä"));
    let theirs = lines.next().expect("a token");
    assert_eq!(keys.open(theirs), Ok(Secret::new("sealed there, opened here: ß")));
}
