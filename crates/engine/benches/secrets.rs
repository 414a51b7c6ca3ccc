//! What scrubbing costs, in microseconds per KiB: `cargo bench -p engine --bench secrets`.
//!
//! Three texts (prose, code, base64), with a set of known values of the usual size, as whole texts and as a stream
//! of small pieces.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use engine::secrets::{Known, Scan};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Bytes of each text.
const SIZE: usize = 256 * 1024;
/// How long each line of the table is measured.
const MEASURE: Duration = Duration::from_millis(500);
/// Characters of one delta.
const DELTA: usize = 24;

fn filled(unit: &str) -> String {
    unit.chars().cycle().take(SIZE).collect()
}

fn measure(name: &str, work: impl Fn()) {
    let started = Instant::now();
    let mut rounds = 0_u32;
    while started.elapsed() < MEASURE {
        work();
        rounds += 1;
    }
    let per_kib = started.elapsed().as_secs_f64() * 1e6 / f64::from(rounds) / (SIZE as f64 / 1024.0);
    println!("{name:<34} {per_kib:>9.2} µs/KiB");
}

fn main() {
    let values: Vec<String> = (0..24).map(|n| format!("canary-{n}-{}", "kV8s".repeat(n % 12 + 2))).collect();
    let known = Known::new(&values);
    let bytes: Vec<u8> = (0..SIZE as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let texts = [
        ("prose", filled("The token is passed on; the password of the person is never a secret to them. ")),
        (
            "code",
            filled(
                "let secret_names: Vec<String> = config::VARS.iter().map(|v| v.name.to_owned()).collect();\n",
            ),
        ),
        ("base64", STANDARD.encode(&bytes)[..SIZE].to_owned()),
    ];
    for (name, text) in &texts {
        measure(&format!("{name}: known values"), || {
            black_box(known.scrub(black_box(text)));
        });
        measure(&format!("{name}: everything"), || {
            black_box(Scan::whole(&known, black_box(text)));
        });
        measure(&format!("{name}: everything, as deltas"), || {
            let mut scan = Scan::of_everything(&known);
            for piece in text.as_bytes().chunks(DELTA) {
                black_box(scan.push(std::str::from_utf8(piece).unwrap_or_default()));
            }
            black_box(scan.end());
        });
    }
}
