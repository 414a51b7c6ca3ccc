#!/usr/bin/env bash
# `make engine` as a newcomer meets it: builds, starts, prints a curl that works, and finds everything again.
set -eu
. "$(dirname "$0")/prepare.sh"

work=$(mktemp -d)
up=
cleanup() {
    [ -z "$up" ] || { kill "$up" 2>/dev/null || true; wait "$up" 2>/dev/null || true; }
    rm -rf "$work"
}
trap cleanup EXIT
: > "$work/err"
fail() { say "test-engine: $*"; cat "$work/err" >&2; sed 's/^/    /' "$work/out" >&2; exit 1; }

# No key of anyone, and a state directory of its own.
unset LLM_PROVIDER LLM_API_KEY OPENAI_API_KEY ANTHROPIC_API_KEY GEMINI_API_KEY ENGINE_API_KEY ENGINE_KEY_HASH
unset SQLITE_DB_PATH ENGINE_PORT
export SEPTEMBER_STATE=$work/state

start() {
    sh scripts/engine.sh > "$work/out" 2>&1 &
    up=$!
    # The first start builds; a limit of half an hour is for the slowest machine.
    for _ in $(seq 9000); do
        grep -q 'or, more comfortably' "$work/out" && return
        kill -0 "$up" 2>/dev/null || fail "ended before it was ready"
        sleep 0.2
    done
    fail "never became ready"
}

stop() {
    kill -TERM "$up"
    outcome=0
    wait "$up" || outcome=$?
    up=
    [ "$outcome" = 0 ] || fail "ended with exit code $outcome"
}

# The command as printed, with another message when one is given.
printed_curl() {
    sed -n '/curl -N -X POST/,/-d /p' "$work/out" | sed "s/run ls/${1:-run ls}/"
}

expect() {
    grep -q -- "$2" <<< "$1" || fail "no '$2' in the answer to '$3':
$1"
}

say "first start"
start
answer=$(printed_curl | sh 2>"$work/err")
for wanted in '"phase":"started"' 'event: tool_call' 'event: tool_result' '"phase":"completed"'; do
    expect "$answer" "$wanted" "run ls"
done
answer=$(printed_curl "The name of my boat is Windrose." | sh 2>"$work/err")
expect "$answer" '"phase":"completed"' "a statement"

# documented FILE FIRST LAST: runs the commands between two lines of a guide, with this run's state and address.
# What they print is in $work/answer.
documented() {
    local commands
    commands=$(sed -n "/^$2/,/$3/p" "$1" | sed "s|\.september/|$work/state/|g; s|http://127.0.0.1:8000|$(cat "$work/state/engine.url")|g")
    [ -n "$commands" ] || fail "$1 no longer has the commands from '$2' to '$3'"
    PATH="$(cd "$target/release" && pwd):$PATH" sh -eu -c "$commands" > "$work/answer" 2>"$work/err" ||
        fail "the commands of $1 from '$2' fail"
}

say "the printed chat command"
chat=$(sed -n 's/^ *\(ENGINE_API_KEY=.* chat --url .*\)/\1/p' "$work/out")
answer=$(echo "run echo seen-by-chat" | sh -c "$chat" 2>"$work/err") || fail "chat failed"
expect "$answer" seen-by-chat "chat"

say "the guides' commands, as written"
documented docs/guides/quickstart.md 'curl -N "http' "Last-Event-ID: 12'$"
expect "$(cat "$work/answer")" '^id: 13$' "a replay from event 12"
documented docs/guides/backup-and-restore.md 'drill=' '^rm -r'
expect "$(cat "$work/answer")" sound "the restore drill"

say "a second one beside it only says that it is there"
sh scripts/engine.sh > "$work/beside" 2>&1 || fail "a second start beside the first failed: $(cat "$work/beside")"
grep -q 'already running' "$work/beside" || fail "a second start said: $(cat "$work/beside")"

say "stop, start again: same key, same brain"
key=$(cat "$work/state/engine.key")
[ "$(stat -c %a "$work/state/engine.key")" = 600 ] || fail "the key file is readable by others"
stop
start
[ "$(cat "$work/state/engine.key")" = "$key" ] || fail "the second start made another key"
answer=$(printed_curl "What did I say the name of my boat is?" | sh 2>"$work/err")
expect "$answer" Windrose "a question about the conversation before the restart"
stop
say "make engine: started twice, conversation kept"
