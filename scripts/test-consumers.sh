#!/usr/bin/env bash
# Ordinary SSE consumers in Python (httpx) and Node (fetch, EventSource) against a real Engine process.
set -eu
. "$(dirname "$0")/prepare.sh"
skip() { say "not tested: $*"; printf '%s\n' "$*" >> "${SEPTEMBER_TEST_SKIPS:-/dev/null}"; }

have cargo || prepare_build
cargo build --release --locked --workspace --bins --quiet
program=$PWD/${CARGO_TARGET_DIR:-target}/release/september-engine

work=$(mktemp -d)
engine=
cleanup() {
    [ -z "$engine" ] || { kill "$engine" 2>/dev/null || true; wait "$engine" 2>/dev/null || true; }
    rm -rf "$work"
}
trap cleanup EXIT

ENGINE_KEY=consumer-test-key-$RANDOM$RANDOM
port=$(free_port $((20000 + RANDOM % 20000)))
ENGINE_URL=http://127.0.0.1:$port
export ENGINE_KEY ENGINE_URL
(
    cd "$work"
    exec env ENGINE_API_KEY="$ENGINE_KEY" ENGINE_HOST=127.0.0.1 ENGINE_PORT=$port LLM_PROVIDER=offline \
        SQLITE_DB_PATH="$work/brain.sqlite" ENGINE_LOG_FORMAT=json "$program" serve
) > "$work/log" 2>&1 &
engine=$!
for _ in $(seq 100); do
    curl -sf -o /dev/null --max-time 2 "$ENGINE_URL/health" && break
    kill -0 "$engine" 2>/dev/null || { cat "$work/log"; die "the Engine did not start"; }
    sleep 0.1
done

outcome=0

if ! have python3 || ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
    install_packages python3 python3-venv || true
fi
if have python3 && python3 -c 'import venv, ensurepip' 2>/dev/null; then
    venv=$SEPTEMBER_CACHE/venv-$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')-$(sha256sum scripts/requirements.txt | cut -c 1-12)
    if [ ! -e "$venv/complete" ]; then
        rm -rf "$venv"
        python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --require-hashes -r scripts/requirements.txt
        touch "$venv/complete"
    fi
    "$venv/bin/python" scripts/consumers/sse_httpx.py || outcome=1
else
    skip "Python consumer of the streams: python3 with venv is missing (apt-get install python3 python3-venv)"
fi

have node || install_packages nodejs || true
if have node; then
    flag=
    node --experimental-eventsource -e 0 2>/dev/null && flag=--experimental-eventsource
    node_outcome=0
    node --no-warnings $flag scripts/consumers/sse_fetch.mjs || node_outcome=$?
    case $node_outcome in
        0) ;;
        77) skip "native EventSource: Node $(node --version) has none (20.18 or newer is needed)" ;;
        *) outcome=1 ;;
    esac
else
    skip "Node consumer of the streams: node is missing (apt-get install nodejs)"
fi

if grep -q '"level":"ERROR"\|panicked' "$work/log"; then
    grep '"level":"ERROR"\|panicked' "$work/log"
    say "the Engine logged an error"
    outcome=1
fi
exit $outcome
