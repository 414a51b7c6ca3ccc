#!/usr/bin/env bash
# Tests everything this machine can test. Usage: test.sh [STAGE...]; no argument means all stages.
#
# What a machine lacks is installed when that is allowed (as root, from Debian's packages, PyPI and crates.io).
# What it still cannot do is listed at the end, and with CI=true counts as a failure. A test that finds out only
# while running that it cannot run adds a line to the file named by SEPTEMBER_TEST_SKIPS.
set -u
. "$(dirname "$0")/prepare.sh"

all_stages=(format clippy doctests tests deny up engine consumers mcp docker fleet)
stages=("${@:-${all_stages[@]}}")

report=${CARGO_TARGET_DIR:-target}/test-report
mkdir -p "$report"
SEPTEMBER_TEST_SKIPS=$(cd "$report" && pwd)/skipped.txt
: > "$SEPTEMBER_TEST_SKIPS"
export SEPTEMBER_TEST_SKIPS
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}

skip() { printf '%s\n' "$*" >> "$SEPTEMBER_TEST_SKIPS"; }

stage_format() {
    cargo fmt --all --check
}

stage_clippy() {
    cargo clippy --workspace --all-targets --locked -- -D warnings
}

stage_doctests() {
    cargo test --doc --workspace --locked --quiet
}

# The whole workspace in one command: single packages would resolve other features and build everything again.
stage_tests() {
    if cargo nextest --version >/dev/null 2>&1; then
        cargo nextest run --workspace --locked --profile "$([ "${CI:-}" = true ] && echo ci || echo default)"
    else
        cargo test --workspace --locked --bins --lib --tests
    fi
}

deny_version=0.20.2
stage_deny() {
    local tools=$SEPTEMBER_CACHE/cargo-deny-$deny_version
    if [ ! -x "$tools/bin/cargo-deny" ]; then
        say "building cargo-deny $deny_version once (some minutes)"
        cargo install --quiet --locked --version "$deny_version" --root "$tools" cargo-deny || return 1
    fi
    cargo fetch --locked --quiet || return 1
    # Advisories need a database from the network; everything else is decided by what is on the disk.
    "$tools/bin/cargo-deny" --offline check bans licenses sources
}

stage_up() {
    bash scripts/test-up.sh
}

stage_engine() {
    bash scripts/test-engine.sh
}

stage_consumers() {
    bash scripts/test-consumers.sh
}

stage_mcp() {
    bash scripts/test-mcp.sh
}

stage_docker() {
    bash scripts/test-docker.sh
}

stage_fleet() {
    bash scripts/test-fleet.sh
}

prepare_build
for needed in rustfmt clippy-driver; do
    have "$needed" || rustup component add rustfmt clippy >/dev/null 2>&1 || die "$needed is missing. Add it with
    rustup component add rustfmt clippy"
done

passed=() failed=() times=()
for stage in "${stages[@]}"; do
    declare -F "stage_$stage" >/dev/null || die "no stage '$stage'; there are: ${all_stages[*]}"
    printf '\n=== %s ===\n' "$stage"
    began=$SECONDS
    if "stage_$stage" </dev/null; then
        passed+=("$stage")
        outcome=passed
    else
        failed+=("$stage")
        outcome=FAILED
    fi
    times+=("$(printf '%-10s %6d s  %s' "$stage" $((SECONDS - began)) "$outcome")")
done

printf '\n=== stages ===\n'
printf '%s\n' "${times[@]}"
printf '%-10s %6d s\n' total "$SECONDS"

skipped=$(wc -l < "$SEPTEMBER_TEST_SKIPS")
if [ "$skipped" -gt 0 ]; then
    printf '\n!!! NOT TESTED on this machine (%d):\n' "$skipped"
    sed 's/^/!!!   /' "$SEPTEMBER_TEST_SKIPS"
    if [ "${CI:-}" = true ]; then
        printf '!!! CI=true: what is not tested counts as failed.\n'
        failed+=(skips)
    fi
fi
printf '\nstages: %d passed, %d failed, %d skipped\n' "${#passed[@]}" "${#failed[@]}" "$skipped"
[ "${#failed[@]}" -eq 0 ]
