#!/bin/sh
# Builds the Engine and runs one, alone, on 127.0.0.1 until Ctrl-C. Run it again and everything is as it was.
#
# State (a generated key, the brain, the tools' workspace) is kept in ./.september, or in $SEPTEMBER_STATE.
# Every variable of docs/reference/variables.md may be set in the shell or in `.env`; what is set there wins.
# Nothing is opened to the network, and no key of anyone is needed: unset, the model is `offline`.
set -eu
. "$(dirname "$0")/prepare.sh"

state=${SEPTEMBER_STATE:-.september}
program=$target/release/september-engine

# True when the variable has a value in the shell or in `.env`.
given() {
    eval "[ -n \"\${$1:-}\" ]" || { [ -f .env ] && grep -Eq "^[[:space:]]*$1=[\"']?[^\"'[:space:]]" .env; }
}

health() { curl -sf -o /dev/null --max-time 2 "$1/health"; }

# Beside a fleet `make chat` has to be told which of the two is meant; a state directory of its own, too.
chat_command() {
    chat="make chat"
    ! runs_as "${ORCH_DATA_DIR:-.september/fleet}/up.lock" bap-engine || chat="make chat ENGINE=alone"
    [ "$state" = .september ] || chat="SEPTEMBER_STATE=$state $chat"
}

print_instructions() {
    chat_command
    cat <<END

  The Engine is ready: $1
  State is kept in $state. Stop with Ctrl-C; the next \`make engine\` goes on with it.

  Talk to it from another terminal, in this directory:

    ${key_through_pipe}curl -N -X POST $1/execute \\
      -H @$header -H 'Content-Type: application/json' \\
      -d '{"message":"run ls","task_id":"demo-1"}'

  or, more comfortably:

    $chat

  Every command knows this Engine by its file:

    $program --env-file $state/engine.env doctor

END
}

umask 077
mkdir -p "$state"
# Arguments are public on a machine, so no printed command has a key among them: curl reads it from a file, or, when the
# key is a person's own, from a pipe.
if given ENGINE_KEY_HASH || given ENGINE_API_KEY; then
    header=-
    key_is_ours=
    key_through_pipe="printf 'X-Engine-Key: %s' \"\$ENGINE_API_KEY\" | "
else
    [ -s "$state/engine.key" ] ||
        printf 'sk-sept-%s\n' "$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')" > "$state/engine.key"
    ENGINE_KEY_HASH=$(tr -d '\n' < "$state/engine.key" | sha256sum | cut -d ' ' -f 1)
    export ENGINE_KEY_HASH
    header=$state/engine.header
    key_through_pipe=
    printf 'X-Engine-Key: %s\n' "$(cat "$state/engine.key")" > "$header"
    key_is_ours=yes
fi

# Nobody is asked with our key but an Engine that was started here and still runs.
answers_to_our_key() {
    runs_as "$state/engine.pid" september-engine || return 1
    printf 'X-Engine-Key: %s' "$(cat "$state/engine.key" 2>/dev/null)" |
        curl -sf -o /dev/null --max-time 2 -H @- "$1/version"
}

if [ -s "$state/engine.url" ] && answers_to_our_key "$(cat "$state/engine.url")"; then
    say "It is already running."
    print_instructions "$(cat "$state/engine.url")"
    exit 0
fi

prepare_build
umask 022
build_programs
umask 077

if given ENGINE_PORT; then
    port=${ENGINE_PORT:-$(sed -n "s/^[[:space:]]*ENGINE_PORT=[\"']\{0,1\}\([0-9]*\).*/\1/p" .env | tail -n 1)}
    port_is_free "$port" || die "port $port (ENGINE_PORT) is taken; stop what listens there or set another"
else
    port=$(free_port 8000)
    [ "$port" = 8000 ] || say "Port 8000 is taken by another program; using $port."
fi
url=http://127.0.0.1:$port

given LLM_PROVIDER || { LLM_PROVIDER=offline; export LLM_PROVIDER; }
given SQLITE_DB_PATH || { SQLITE_DB_PATH=$state/brain.sqlite; export SQLITE_DB_PATH; }
ENGINE_HOST=127.0.0.1 ENGINE_PORT=$port
export ENGINE_HOST ENGINE_PORT

# Everything a command needs to find this Engine: `.env` as it is, below what is set here or in the shell. Of a key that
# is only in the shell no more than its hash is written down.
leave_settings() {
    set --
    for name in ENGINE_HOST ENGINE_PORT LLM_PROVIDER SQLITE_DB_PATH; do
        eval "value=\${$name:-}"
        [ -z "$value" ] || set -- "$@" "$name=$value"
    done
    hash=${ENGINE_KEY_HASH:-}
    [ -z "${ENGINE_API_KEY:-}" ] || hash=$(printf '%s' "$ENGINE_API_KEY" | sha256sum | cut -d ' ' -f 1)
    if [ -n "$key_is_ours" ]; then
        set -- "$@" "ENGINE_API_KEY=$(cat "$state/engine.key")" ENGINE_KEY_HASH=
    elif [ -n "$hash" ]; then
        set -- "$@" "ENGINE_KEY_HASH=$hash" ENGINE_API_KEY=
    fi
    names=$(printf '%s\n' "$@" | sed 's/=.*//' | paste -sd '|' -)
    [ ! -f .env ] || grep -Ev "^[[:space:]]*($names)[[:space:]]*=" .env || true
    printf '%s\n' "$@"
}
leave_settings > "$state/engine.env"
printf '%s\n' "$$" > "$state/engine.pid"

# The Engine takes this process's place, so that Ctrl-C and signals reach it directly. A watcher beside it
# prints the instructions once it is healthy, and gives up when it is gone.
engine=$$
(
    (
        tries=0
        while [ "$tries" -lt 600 ] && kill -0 "$engine" 2>/dev/null; do
            if health "$url"; then
                printf '%s\n' "$url" > "$state/engine.url"
                print_instructions "$url"
                exit 0
            fi
            tries=$((tries + 1))
            sleep 0.1
        done
    ) &
)
# The instructions have an example already.
exec "$program" serve --no-example
