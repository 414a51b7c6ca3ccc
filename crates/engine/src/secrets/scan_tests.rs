//! What the scanner takes out, what it leaves alone, and that pieces do not matter.

use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use proptest::prelude::*;
use std::path::{Path, PathBuf};

fn everything(text: &str) -> String {
    Scan::whole(&Known::default(), text).0
}

/// Made at run time, so that no file of this project holds anything that looks like a key.
fn random(length: usize) -> String {
    "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7xC0".chars().cycle().take(length).collect()
}

fn pem() -> String {
    let body = [random(64), random(64), random(20) + "=="].join("\n");
    format!("-----BEGIN RSA {0}-----\n{body}\n-----END RSA {0}-----", "PRIVATE KEY")
}

fn web_token() -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.{}", part(r#"{"alg":"HS256","typ":"JWT"}"#), part(r#"{"sub":"1234567890"}"#), random(43))
}

/// One of every shape, with the word it is replaced by.
fn samples() -> Vec<(String, Kind)> {
    let join = |prefix: &str, length: usize| format!("{prefix}{}", random(length));
    vec![
        (join("sk-sept-", 43), Kind::EngineKey),
        (join("sk-ant-api03-", 90), Kind::ProviderKey),
        (join("sk-proj-", 120), Kind::ProviderKey),
        (join("sk-", 48), Kind::ProviderKey),
        (join("AIza", 35), Kind::ProviderKey),
        (join("ghp_", 36), Kind::GithubToken),
        (join("github_pat_", 82), Kind::GithubToken),
        (join("xoxb-", 50), Kind::SlackToken),
        (join("sk_live_", 24), Kind::StripeKey),
        (join("whsec_", 32), Kind::StripeKey),
        (format!("AKIA{}", random(30).to_uppercase().chars().take(16).collect::<String>()), Kind::AwsKey),
        (web_token(), Kind::Jwt),
        (pem(), Kind::PrivateKey),
        (
            pem().replace("-----\nAb", "-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-1,7F\n\nAb"),
            Kind::PrivateKey,
        ),
        (pem().replace('\n', "\\n"), Kind::PrivateKey),
    ]
}

#[test]
fn every_shape_is_replaced_as_a_whole_wherever_it_stands() {
    for (secret, kind) in samples() {
        for (front, back) in
            [("", ""), ("key: ", " and on"), ("\"", "\","), ("\\n", "\\n"), ("(", ")"), ("=", "\n")]
        {
            let text = format!("{front}{secret}{back}");
            assert_eq!(everything(&text), format!("{front}[redacted:{kind}]{back}"), "{text}");
        }
    }
}

#[test]
fn the_value_of_an_assignment_goes_and_its_name_stays() {
    let value = "S3cr3tP4ssw0rd";
    for (front, back) in [
        ("password=", ""),
        ("DB_PASSWORD = '", "'"),
        ("dbPassword: ", ";"),
        ("{\"client_secret\": \"", "\"}"),
        ("{\\\"api_key\\\":\\\"", "\\\"}"),
        ("aws_secret_access_key=", "\n"),
        ("Token := \"", "\""),
        ("api-key => '", "'"),
        ("https://x.example/?access_token=", "\" x"),
    ] {
        let text = format!("{front}{value}{back}");
        assert_eq!(everything(&text), format!("{front}[redacted:password]{back}"), "{text}");
    }
}

#[test]
fn words_that_only_begin_like_a_secret_stay() {
    for text in [
        "a risk-assessment-of-the-whole-thing1234567890",
        "task-0196a7b2c3d4e5f60718293a4b5c6d7e",
        "sk-learn, sk-image and skis",
        "the token is passed as `Authorization: Bearer <token>`",
        "password: string; secret = get_secret(name1); let token = lexer.next_token();",
        "AKIAAKIAAKIAAKIAAKIAAKIAAKIAAKIA",
        "-----BEGIN PRIVATE KEY----- is how such a file begins.",
        "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIUQ2xhdWRlV2FzSGVyZTEyMzQ1Njc4OTAwCgYIKoZIzj0E\n",
        "eyJhbGciOiJIUzI1NiJ9 alone is no token",
        "spwd=S3cr3tP4ssw0rd",
    ] {
        assert_eq!(everything(text), text);
    }
}

/// Files of this repository that hold no key on purpose.
fn shipped() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the workspace").to_path_buf();
    let mut files = vec![root.join("Cargo.lock")];
    let mut folders = vec![root.join("crates"), root.join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            let text =
                path.extension().is_some_and(|e| ["rs", "md", "json", "sql", "toml"].iter().any(|x| e == *x));
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(path),
                Ok(kind) if kind.is_file() && text => files.push(path),
                _ => {}
            }
        }
    }
    files
}

#[test]
fn code_prose_and_lock_files_of_this_repository_lose_nothing() {
    let (mut bytes, mut found) = (0, Vec::new());
    for path in shipped() {
        let text = std::fs::read_to_string(&path).expect("text");
        bytes += text.len();
        for (number, line) in text.lines().enumerate() {
            let scanned = everything(line);
            if scanned != line && !is_made_up(line) {
                found.push(format!("{}:{}: {scanned}", path.display(), number + 1));
            }
        }
    }
    assert!(bytes > 1_000_000, "only {bytes} bytes were read");
    assert!(found.is_empty(), "{} redactions:\n{}", found.len(), found.join("\n"));
}

/// The one made-up value that tests of this room write down.
fn is_made_up(line: &str) -> bool {
    line.contains("S3cr3tP4ssw0rd")
}

#[test]
fn hashes_ids_images_and_data_urls_lose_nothing() {
    let bytes: Vec<u8> = (0..60_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let image = STANDARD.encode(&bytes);
    let lines: Vec<&str> =
        image.as_bytes().chunks(76).map(|c| std::str::from_utf8(c).expect("ASCII")).collect();
    for text in [
        format!("data:image/png;base64,{image}"),
        lines.join("\n"),
        URL_SAFE_NO_PAD.encode(&bytes),
        "commit 78ab36c0f1e2d3c4b5a69788796a5b4c3d2e1f00\ncommit 7668a1f\n".repeat(50),
        "550e8400-e29b-41d4-a716-446655440000 turn-0196a7b2-c3d4-7e5f-8071-8293a4b5c6d7\n".repeat(50),
        "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n".repeat(50),
        "AAAAB3NzaC1yc2EAAAADAQABAAABgQC7 user@host\n".repeat(50),
    ] {
        assert_eq!(everything(&text), text);
    }
}

fn known() -> Known {
    Known::new(["canary/42 value", "canary/42 value+more", "ключ-от-всех-дверей", &"long".repeat(60)])
}

fn in_pieces(known: &Known, text: &str, cuts: &[usize]) -> String {
    let mut scan = Scan::of_everything(known);
    let mut out = String::new();
    let mut from = 0;
    for cut in cuts.iter().map(|c| text.floor_char_boundary(c % (text.len() + 1))).chain([text.len()]) {
        if cut >= from {
            out.push_str(&scan.push(&text[from..cut]));
            assert!(scan.held() <= HOLD_MAX, "{} characters held", scan.held());
            from = cut;
        }
    }
    out.push_str(&scan.end());
    assert_eq!(scan.held(), 0);
    out
}

/// Text made of secrets, beginnings of secrets, and ordinary words, without separators between them.
fn mixture() -> impl Strategy<Value = String> {
    let mut parts: Vec<String> = samples().into_iter().map(|(secret, _)| secret).collect();
    parts.extend(parts.clone().iter().map(|s| s[..s.len() / 2].to_owned()));
    parts.extend(parts.clone().iter().map(|s| s[..s.len().min(4)].to_owned()));
    let more = [
        "canary/42 value",
        "canary/42 val",
        "canary%2F42%20value",
        "canary/42%20value",
        "canary\\/42 val",
        "canary&#x2F;42 value",
        "&#99;&#97;",
        "\\u043a\\u043b",
        "ключ-от-всех-дверей",
        "ключ-от",
        "password=",
        "Secret: \"",
        "S3cr3tP4ssw0rd",
        "\\n",
        "\"",
        " ",
        "\n",
        "ü",
        "word",
        "task-",
    ];
    parts.extend(more.map(String::from));
    parts.extend(["long".repeat(60), "long".repeat(40), STANDARD.encode("xcanary/42 value+moreyz")]);
    proptest::collection::vec(proptest::sample::select(parts), 0..8).prop_map(|parts| parts.concat())
}

#[test]
fn a_mark_is_never_taken_for_a_secret() {
    for kind in Kind::ALL {
        for text in [format!("a [redacted:{kind}] b"), format!("password=[redacted:{kind}]")] {
            assert_eq!(Scan::whole(&known(), &text).0, text);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn pieces_never_change_what_comes_out(
        text in mixture(),
        mut cuts in proptest::collection::vec(any::<usize>(), 0..12),
    ) {
        let known = known();
        for cut in &mut cuts {
            *cut %= text.len() + 1;
        }
        cuts.sort_unstable();
        let whole = Scan::whole(&known, &text).0;
        prop_assert_eq!(&in_pieces(&known, &text, &cuts), &whole);
        let every: Vec<usize> = (0..text.len()).collect();
        prop_assert_eq!(&in_pieces(&known, &text, &every), &whole, "byte by byte");
        for value in ["canary/42 value", "ключ-от-всех-дверей", &"long".repeat(60)] {
            prop_assert!(!whole.contains(value), "{}", whole);
        }
    }

    #[test]
    fn any_text_passes_without_a_panic(text in "\\PC{0,600}") {
        let _ = Scan::whole(&known(), &text);
    }
}
