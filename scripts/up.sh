#!/bin/sh
# Builds both programs and runs the whole fleet on this machine until Ctrl-C: a private PostgreSQL, the orchestrator,
# engines as processes, a demo product and user. Run it again and everything is as it was.
#
# State (keys, database, brains) is kept in ./.september/fleet, or in $ORCH_DATA_DIR. Every variable of
# docs/reference/orchestrator-variables.md may be set in the shell or in `.env`; what is set there wins.
# Nothing is opened to the network, and no key of anyone is needed: unset, the model is `offline`.
set -eu
. "$(dirname "$0")/prepare.sh"

data=${ORCH_DATA_DIR:-$PWD/.september/fleet}

# Its process holds the lock, and its address is written down once everything answers.
if runs_as "$data/up.lock" bap-engine; then
    if [ -s "$data/api.url" ] && [ -s "$data/instructions.txt" ]; then
        say "It is already running; Ctrl-C in its terminal stops it."
        cat "$data/instructions.txt"
    else
        say "It is already starting in another terminal, which says when it is ready."
    fi
    exit 0
fi

prepare_build
build_programs

bin=${ORCH_PG_BIN_DIR:-}
if [ -z "$bin" ] && [ -z "${ORCH_DATABASE_URL:-}" ]; then
    # A PostgreSQL of this machine would do as well; the fetched one is the version that is tested.
    bin=$(bash scripts/fetch-postgres.sh) || bin=
fi

port=$(free_port "${ORCH_PORT:-8000}")
[ "$port" = "${ORCH_PORT:-8000}" ] || say "Port ${ORCH_PORT:-8000} is taken by another program; using $port."
internal=$(free_port 8090)
[ -n "${ORCH_INTERNAL_BIND:-}" ] || { ORCH_INTERNAL_BIND=127.0.0.1:$internal; export ORCH_INTERNAL_BIND; }

set -- up --data-dir "$data" --port "$port"
# A word of this script; the program would say that it knows none of that name.
unset ORCH_PORT
[ -z "$bin" ] || set -- "$@" --postgres-bin "$bin"
exec "$target/release/bap-engine" "$@"
