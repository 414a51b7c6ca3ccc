#!/bin/sh
# Talks to the engine that `make up` gives the demo user, or to the one of `make engine`. Arguments go to
# `september-engine chat`. The key goes through the environment, never through arguments, which are public.
set -eu
. "$(dirname "$0")/prepare.sh"

program=$target/release/september-engine
[ -x "$program" ] || die "build first: make up"
fleet=${ORCH_DATA_DIR:-.september/fleet}
state=${SEPTEMBER_STATE:-.september}

# field NAME: the first value of that name in the JSON on standard input.
field() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }

# takes_our_key HEADER URL: whether what listens there takes our key. Arguments are public, so it goes through standard
# input. 000 is curl's word for nobody, and 503 a fleet's that has lost its database: that one is ours, too, and says so
# below.
takes_our_key() {
    taken=$(printf '%s' "$1" | curl -s -o /dev/null -w '%{http_code}' --max-time 2 -H @- "$2") || true
    [ "$taken" = 200 ] || [ "$taken" = 503 ]
}

# Only while its process runs is an address asked for anything.
if [ -s "$fleet/api.url" ] && runs_as "$fleet/up.lock" bap-engine &&
    takes_our_key "X-Platform-Key: $(cat "$fleet/demo.key")" "$(cat "$fleet/api.url")/status"; then
    admitted=$(printf 'X-Platform-Key: %s' "$(cat "$fleet/demo.key")" |
        curl -s --max-time 120 -H @- -H 'Content-Type: application/json' \
            -d '{"auto_provision":true,"auto_wake":true}' -X POST "$(cat "$fleet/api.url")/engines/demo-user-001/admit") ||
        die "the fleet at $(cat "$fleet/api.url") did not answer; does \`make up\` still run?"
    case $admitted in
    *DATABASE_UNAVAILABLE*) die "the fleet has lost its database and starts it again; try in some seconds, or see what \`make up\` says" ;;
    esac
    url=$(printf '%s' "$admitted" | field url)
    ENGINE_API_KEY=$(printf '%s' "$admitted" | field api_key)
    [ -n "$url" ] || die "the fleet did not admit demo-user-001: $admitted"
    export ENGINE_API_KEY
    set -- chat --url "$url" "$@"
elif [ -s "$state/engine.url" ] && runs_as "$state/engine.pid" september-engine; then
    # The file names address and key; a key of the shell wins over it.
    set -- --env-file "$state/engine.env" chat "$@"
else
    die "nothing runs; start it with
    make up"
fi
exec "$program" "$@" --back-with 'make chat TASK='
