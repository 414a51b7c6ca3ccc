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

print_instructions() {
    cat <<END

  The Engine is ready: $1
  State is kept in $state. Stop with Ctrl-C; the next \`make engine\` goes on with it.

  Talk to it from another terminal, in this directory:

    curl -N -X POST $1/execute \\
      -H "X-Engine-Key: $shown_key" -H 'Content-Type: application/json' \\
      -d '{"message":"run ls","task_id":"demo-1"}'

  or, more comfortably:

    ENGINE_API_KEY="$shown_key" $program chat --url $1

END
}

umask 077
mkdir -p "$state"
if given ENGINE_KEY_HASH || given ENGINE_API_KEY; then
    shown_key='$ENGINE_API_KEY'
else
    [ -s "$state/engine.key" ] ||
        printf 'sk-sept-%s\n' "$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')" > "$state/engine.key"
    ENGINE_KEY_HASH=$(tr -d '\n' < "$state/engine.key" | sha256sum | cut -d ' ' -f 1)
    export ENGINE_KEY_HASH
    shown_key="\$(cat $state/engine.key)"
fi

# Ours only if it takes our key; the header goes through standard input because arguments are public.
answers_to_our_key() {
    printf 'X-Engine-Key: %s' "$(cat "$state/engine.key" 2>/dev/null)" |
        curl -sf -o /dev/null --max-time 2 -H @- "$1/version"
}

if [ -s "$state/engine.url" ] && answers_to_our_key "$(cat "$state/engine.url")"; then
    say "It is already running."
    print_instructions "$(cat "$state/engine.url")"
    exit 0
fi

prepare_build
if [ ! -x "$program" ]; then
    say "Building the Engine (release). The first time takes some minutes; later only what changed."
fi
began=$(date +%s)
umask 022
cargo build --release --locked --workspace --bins
umask 077
say "Built in $(($(date +%s) - began)) s."

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
exec "$program" serve
