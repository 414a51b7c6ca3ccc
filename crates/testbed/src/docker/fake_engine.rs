//! The fake engine as a program and as an image, each made once per version of its source.
//!
//! It is linked statically by `rustc` alone, so that the same file runs here and in an image FROM scratch. The one
//! invariant: what is found under a version's name was made from exactly that source.

use super::{locked, request};
use rustix::fs::FlockOperation;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Stdio;

const SOURCES: [(&str, &str); 3] = [
    ("main.rs", include_str!("../bin/fake-engine/main.rs")),
    ("jobs.rs", include_str!("../bin/fake-engine/jobs.rs")),
    ("sha256.rs", include_str!("../bin/fake-engine/sha256.rs")),
];
/// User of engines, in the image and on its directories.
const USER: u32 = 10001;

fn version() -> String {
    let mut hasher = DefaultHasher::new();
    SOURCES.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Path of the statically linked program; compiled at the first call on this checkout.
pub async fn fake_engine() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fake-engine");
    let program = root.join(version()).join("fake-engine");
    if program.exists() {
        return program;
    }
    let dir = root.join(version());
    std::fs::create_dir_all(&dir).expect("target can be written");
    let _one = locked(root.join("lock"), FlockOperation::LockExclusive).await;
    if program.exists() {
        return program;
    }
    for (name, source) in SOURCES {
        std::fs::write(dir.join(name), source).expect("target can be written");
    }
    let (source, fresh) = (dir.join("main.rs"), dir.join("fake-engine.new"));
    let done = tokio::process::Command::new("rustc")
        .args(["--edition", "2024", "-O", "-C", "target-feature=+crt-static", "-C", "panic=abort", "-C"])
        .args(["strip=symbols", "--crate-name", "fake_engine", "--target"])
        .arg(format!("{}-unknown-linux-gnu", std::env::consts::ARCH))
        .arg("-o")
        .args([&fresh, &source])
        .stdin(Stdio::null())
        .output()
        .await
        .expect("rustc runs");
    assert!(
        done.status.success(),
        "the fake engine does not compile:\n{}",
        String::from_utf8_lossy(&done.stderr)
    );
    std::fs::rename(&fresh, &program).expect("target can be written");
    program
}

/// Imports the image where the daemon lacks it, and names it.
pub(super) async fn image(socket: &Path) -> String {
    let name = format!("september-fake-engine:{}", version());
    let known = || async {
        let path = format!("/images/{name}/json");
        request(socket, "GET", &path, "text/plain", Vec::new()).await.is_ok_and(|(status, _)| status == 200)
    };
    if known().await {
        return name;
    }
    let program = std::fs::read(fake_engine().await).expect("just made");
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fake-engine/image.lock");
    let _one = locked(lock, FlockOperation::LockExclusive).await;
    if known().await {
        return name;
    }
    let mut changes = String::new();
    for change in [r#"ENTRYPOINT ["/fake-engine"]"#, r#"CMD ["serve"]"#, "USER 10001:10001"] {
        let escaped: String = change.bytes().map(|byte| format!("%{byte:02X}")).collect();
        changes.push_str(&format!("&changes={escaped}"));
    }
    let (repository, tag) = name.split_once(':').expect("made above");
    let path = format!("/images/create?fromSrc=-&repo={repository}&tag={tag}{changes}");
    let (status, answer) = request(socket, "POST", &path, "application/x-tar", root_file_system(&program))
        .await
        .expect("the daemon answers");
    assert!(status == 200 && known().await, "import: {status} {}", String::from_utf8_lossy(&answer));
    name
}

/// The program, the same again as `rm`, and the directories an engine's image owes.
fn root_file_system(program: &[u8]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (name, owner, mode) in
        [("data/", USER, 0o700), ("catalog/", 0, 0o755), ("tmp/", 0, 0o1777), ("bin/", 0, 0o755)]
    {
        tar.extend_from_slice(&header(name, b'5', owner, mode, 0));
    }
    for name in ["fake-engine", "bin/rm"] {
        tar.extend_from_slice(&header(name, b'0', 0, 0o755, program.len()));
        tar.extend_from_slice(program);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

fn header(name: &str, kind: u8, owner: u32, mode: u32, size: usize) -> [u8; 512] {
    let mut block = [0_u8; 512];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, &format!("{mode:07o}"));
    put(108, &format!("{owner:07o}"));
    put(116, &format!("{owner:07o}"));
    put(124, &format!("{size:011o}"));
    put(136, "00000000000");
    put(148, "        ");
    put(257, "ustar\x0000");
    block[156] = kind;
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}
