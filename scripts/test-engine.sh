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
export SEPTEMBER_STATE=$work/state ORCH_DATA_DIR=$work/no-fleet

start() {
    sh scripts/engine.sh > "$work/out" 2>&1 &
    up=$!
    # The first start builds; a limit of half an hour is for the slowest machine.
    for _ in $(seq 9000); do
        grep -q 'Every command knows this Engine' "$work/out" && return
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
    commands=$(sed -n "/^$2/,/$3/p" "$1" | sed "s|\.september|$work/state|g; s|http://127.0.0.1:8000|$(cat "$work/state/engine.url")|g")
    [ -n "$commands" ] || fail "$1 no longer has the commands from '$2' to '$3'"
    # The memory guide says once where the Engine's files are.
    PATH="$(cd "$target/release" && pwd):$PATH" engine=$work/state sh -eu -c "$commands" > "$work/answer" 2>"$work/err" ||
        fail "the commands of $1 from '$2' fail"
}

say "make chat, and the way back it prints"
answer=$(echo "run echo seen-by-chat" | sh scripts/chat.sh 2>"$work/err") || fail "chat failed"
expect "$answer" seen-by-chat "chat"
expect "$(cat "$work/err")" "Engine alone at $(cat "$work/state/engine.url"), brain $work/state/brain.sqlite" "whom chat talks to"
! ENGINE=fleet sh scripts/chat.sh < /dev/null > "$work/answer" 2>"$work/err" || fail "chat found a fleet where there is none"
expect "$(cat "$work/err")" 'make up' "chat with a fleet that does not run"
echo "ask me which colour" | sh scripts/chat.sh --task asked >"$work/answer" 2>"$work/err" && fail "a question found an answer"
expect "$(cat "$work/err")" 'make chat TASK=asked$' "a question that nobody answers"

say "the printed line with the Engine's file, and other commands with it"
known=$(sed -n 's/^ *\(.*--env-file .*\) doctor$/\1/p' "$work/out")
for command in doctor check-config; do
    sh -c "$known $command" > "$work/answer" 2>"$work/err" || fail "$command: $(cat "$work/answer")"
done
expect "$(cat "$work/answer")" 'configuration is valid, 0 warning' "check-config"
answer=$(echo "run echo seen-by-chat" | sh -c "$known chat" 2>"$work/err") || fail "chat with the file failed"
expect "$answer" seen-by-chat "chat with the file"

say "no key in what is printed, and none readable by others"
[ "$(grep -c 'curl ' "$work/out")" = 1 ] || fail "one curl to copy was expected"
! grep -q 'ENGINE_API_KEY' "$work/out" || fail "a command wants a key that nobody has"
! grep -q "$(cat "$work/state/engine.key")" "$work/out" || fail "the key is printed"
for secret in engine.key engine.header engine.env; do
    [ "$(stat -c %a "$work/state/$secret")" = 600 ] || fail "$secret is readable by others"
done

say "the guides' commands, as written"
documented docs/guides/quickstart.md 'curl -N "' "Last-Event-ID: 4'$"
expect "$(cat "$work/answer")" '^id: 5$' "a replay from event 4"
documented docs/guides/backup-and-restore.md 'drill=' '^rm -r'
expect "$(cat "$work/answer")" sound "the restore drill"

documented docs/guides/memory.md 'engine=' '-X DELETE$'
expect "$(cat "$work/answer")" '"content":"I am vegan."' "a corrected memory"
expect "$(cat "$work/answer")" '"status":"deleted"' "a forgotten memory"
printed_curl "My name is Ada. I prefer tea." | sh > /dev/null 2>"$work/err"
documented docs/guides/memory.md 'curl -sS -H .*learning.run' 'learning.status"$'
expect "$(cat "$work/answer")" '"status":"started"' "learning now"
documented docs/guides/memory.md 'said=' 'corrected'
expect "$(cat "$work/answer")" '"status":"recorded"' "feedback on an answer"

say "a second one beside it only says that it is there"
sh scripts/engine.sh > "$work/beside" 2>&1 || fail "a second start beside the first failed: $(cat "$work/beside")"
grep -q 'already running' "$work/beside" || fail "a second start said: $(cat "$work/beside")"

say "stop, start again: same key, same brain"
key=$(cat "$work/state/engine.key")
stop
say "an address that was left behind is not asked"
! sh scripts/chat.sh < /dev/null > "$work/answer" 2>"$work/err" || fail "chat found an Engine that ended"
expect "$(cat "$work/err")" 'nothing runs' "chat without an Engine"
expect "$(cat "$work/err")" 'make engine' "chat without an Engine"
start
[ "$(cat "$work/state/engine.key")" = "$key" ] || fail "the second start made another key"
answer=$(printed_curl "What did I say the name of my boat is?" | sh 2>"$work/err")
expect "$answer" Windrose "a question about the conversation before the restart"
stop
say "make engine: started twice, conversation kept"
