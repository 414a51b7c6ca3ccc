#!/usr/bin/env bash
# `make up` as a newcomer meets it: builds, starts the whole fleet, prints curls that work, survives kill -9 of an engine
# and of the orchestrator, stops everything on Ctrl-C and finds everything again.
set -eu
. "$(dirname "$0")/prepare.sh"

work=$(mktemp -d)
up=
cleanup() {
    [ -z "$up" ] || { kill -TERM "$up" 2>/dev/null || true; wait "$up" 2>/dev/null || true; }
    for file in "$work"/fleet/engines/*/engine.pid; do
        [ ! -f "$file" ] || kill -KILL "$(pid_in "$file")" 2>/dev/null || true
    done
    away=$(readlink "$work/fleet/postgres") && rm -rf "$away"
    rm -rf "$work"
}
trap cleanup EXIT
: > "$work/err"
fail() { say "test-up: $*"; cat "$work/err" >&2; sed 's/^/    /' "$work/out" >&2; exit 1; }
pid_in() { sed -n 's/.*"pid":\([0-9]*\).*/\1/p' "$1"; }
# A process that has ended and was not fetched by anybody (a container's init may not) is gone.
alive() { state=$(sed 's/.*) \(.\).*/\1/' "/proc/$1/stat" 2>/dev/null) && [ "$state" != Z ]; }
# While an engine starts again its file is not there.
pids() { for file in "$work"/fleet/engines/*/engine.pid; do pid_in "$file" 2>/dev/null || true; done; }

# No key of anyone, and a state directory of its own.
unset LLM_PROVIDER LLM_API_KEY LLM_BASE_URL OPENAI_API_KEY ANTHROPIC_API_KEY GEMINI_API_KEY ORCH_DATABASE_URL
export ORCH_DATA_DIR=$work/fleet ORCH_PORT=18100

start() {
    sh scripts/up.sh > "$work/out" 2>&1 &
    up=$!
    # The first start builds; a limit of half an hour is for the slowest machine.
    for _ in $(seq 9000); do
        ! grep -q 'Operators look at the fleet' "$work/out" || return 0
        kill -0 "$up" 2>/dev/null || fail "ended before it was ready"
        sleep 0.2
    done
    fail "never became ready"
}

stop() {
    kill -"${1:-TERM}" "$up"
    outcome=0
    wait "$up" || outcome=$?
    up=
}

# The two commands as printed, with another message when one is given.
printed() {
    sed -n '/umask 077; curl -s -X POST/,/admitted.json/p; /sed -n .*X-Engine-Key/,/task_id/p' "$work/out" | sed "s/run ls/${1:-run ls}/"
}
talk() { (cd "$work" && printed "$1" | sh 2>"$work/err"); }
expect() {
    grep -q -- "$2" <<< "$1" || fail "no '$2' in the answer to '$3':
$1"
}

say "first start: the printed admit and execute curls"
start
answer=$(talk "run ls")
for wanted in '"phase":"started"' 'event: tool_call' 'event: tool_result' '"phase":"completed"'; do
    expect "$answer" "$wanted" "run ls"
done
expect "$(talk "The name of my boat is Windrose.")" '"phase":"completed"' "a statement"
for secret in keys.env demo.key fleet.env demo.header admin.header admitted.json; do
    [ "$(stat -c %a "$work/fleet/$secret")" = 600 ] || fail "$secret is readable by others"
done

say "the printed line shows the fleet, and so do other commands with its file"
status=$(sed -n 's/^ *\(.*--env-file .*\) status$/\1/p' "$work/out" | head -n 1)
for command in status "engines list" "explain demo/demo-user-001" doctor; do
    # ORCH_PORT is a variable of the script, not of the program.
    env -u ORCH_PORT sh -c "$status $command" > "$work/told" 2>&1 || fail "$command: $(cat "$work/told")"
done
! grep -q '^! .*\(ORCH_\|LLM_\)' "$work/told" || fail "doctor warns of what up itself has set: $(cat "$work/told")"
[ -z "$(find "$work" -maxdepth 1 -name admitted.json)" ] || fail "a key lies outside the data directory"

say "make chat finds the fleet"
answer=$(echo "run echo seen-by-chat" | sh scripts/chat.sh 2>"$work/err") || fail "chat failed"
expect "$answer" seen-by-chat "chat"
echo "ask me which colour" | sh scripts/chat.sh --task asked >"$work/told" 2>"$work/err" && fail "a question found an answer"
expect "$(cat "$work/err")" 'make chat TASK=asked$' "a question that nobody answers"

expect "$(cat "$work/err")" "engine of demo-user-001 at http" "whom chat talks to"
for file in engine.url engine.header; do
    [ "$(stat -c %a "$work/fleet/$file")" = 600 ] || fail "$file is readable by others"
done
curl -sf -o /dev/null -H "@$work/fleet/engine.header" "$(cat "$work/fleet/engine.url")/memory/stats" ||
    fail "the files that chat leaves do not reach the engine"

say "a second make up says that it runs, and how to reach it"
sh scripts/up.sh > "$work/second" 2>&1 || fail "a second make up failed: $(cat "$work/second")"
grep -q 'already running' "$work/second" || fail "a second make up said: $(cat "$work/second")"
for wanted in 'The fleet is up' 'X-Engine-Key' 'fleet.env status'; do
    grep -q -- "$wanted" "$work/second" || fail "a second make up does not tell '$wanted': $(cat "$work/second")"
done

say "an engine that was stopped by hand is told as that, with what starts it"
engines="$(sed -n 's/^ *\(.*--env-file .*\) status$/\1/p' "$work/out" | head -n 1) engines"
env -u ORCH_PORT sh -c "$engines stop demo/demo-user-001" > "$work/told" 2>&1 || fail "stop: $(cat "$work/told")"
! sh scripts/chat.sh < /dev/null > "$work/told" 2>"$work/err" || fail "chat found a stopped engine"
expect "$(cat "$work/err")" 'engines start demo/demo-user-001$' "chat with a stopped engine"
env -u ORCH_PORT sh -c "$(sed -n 's/^ *\(.*engines start .*\)/\1/p' "$work/err")" > "$work/told" 2>&1 || fail "start: $(cat "$work/told")"

say "a second one on the same directory is refused"
outcome=0
"$target/release/bap-engine" up --data-dir "$work/fleet" > "$work/second" 2>&1 || outcome=$?
[ "$outcome" = 3 ] || fail "a second up ended with exit code $outcome: $(cat "$work/second")"

say "kill -9 of the engine: it is back and the thread goes on"
before=$(pids)
kill -KILL "$before"
for _ in $(seq 600); do
    now=$(pids)
    [ -z "$now" ] || [ "$now" = "$before" ] || break
    sleep 0.1
done
{ [ -n "$now" ] && [ "$now" != "$before" ]; } || fail "the engine did not come back"
# It has a process again; it is admitted when it is healthy, too.
for _ in $(seq 600); do
    printed | sed '/admitted.json)/q' | sh
    ! grep -q '"admitted":true' "$work/fleet/admitted.json" || break
    sleep 0.1
done
expect "$(talk "What did I say the name of my boat is?")" Windrose "a question about the conversation before the kill"

say "kill -9 of the orchestrator, make up again: the same engine, not restarted"
before=$(pids)
stop KILL
[ -s "$work/fleet/api.url" ] || fail "the address was expected to be left behind"
! SEPTEMBER_STATE=$work/none sh scripts/chat.sh < /dev/null >"$work/told" 2>"$work/err" || fail "chat found a dead fleet"
expect "$(cat "$work/err")" 'nothing runs' "chat without a fleet"
alive "$before" || fail "the engine ended with the orchestrator"
start
[ "$(pids)" = "$before" ] || fail "the engine was restarted: $before, now $(pids)"
expect "$(talk "What did I say the name of my boat is?")" Windrose "a question after the restart of the orchestrator"

say "kill -9 of PostgreSQL: it is started again"
postmaster=$(head -n 1 "$work/fleet/postgres/data/postmaster.pid")
kill -KILL "$postmaster"
for _ in $(seq 600); do
    ! grep -q 'PostgreSQL answers again' "$work/out" || break
    sleep 0.1
done
grep -q 'PostgreSQL answers again' "$work/out" || fail "PostgreSQL did not come back"
expect "$(talk "What did I say the name of my boat is?")" Windrose "a question after the loss of the database"

say "Ctrl-C stops everything"
key=$(cat "$work/fleet/demo.key")
stop INT
[ "$outcome" = 0 ] || fail "ended with exit code $outcome"
! alive "$before" || fail "the engine still runs"
[ ! -e "$work/fleet/api.url" ] || fail "the address is left behind"

say "and the next one finds everything as it was"
start
[ "$(cat "$work/fleet/demo.key")" = "$key" ] || fail "another key was made"
expect "$(talk "What did I say the name of my boat is?")" Windrose "a question after Ctrl-C and up"
stop TERM
[ "$outcome" = 0 ] || fail "ended with exit code $outcome"
say "make up: everything above held"
