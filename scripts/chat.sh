#!/bin/sh
# Talks to the engine that `make up` gives the demo user, or to the one of `make engine`. Arguments go to
# `september-engine chat`. The key goes through the environment, never through arguments, which are public.
set -eu
. "$(dirname "$0")/prepare.sh"

program=$target/release/september-engine
[ -x "$program" ] || die "build first: make up"
fleet=${ORCH_DATA_DIR:-.september/fleet}

# field NAME: the first value of that name in the JSON on standard input.
field() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p"; }

# Whatever its health is: a fleet that answers at all is the one to talk to, and says what it lacks.
if [ -s "$fleet/api.url" ] && curl -s -o /dev/null --max-time 2 "$(cat "$fleet/api.url")/health"; then
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
elif [ -s .september/engine.url ]; then
    url=$(cat .september/engine.url)
    ENGINE_API_KEY=${ENGINE_API_KEY:-$(cat .september/engine.key)}
else
    die "nothing runs; start it with
    make up"
fi
export ENGINE_API_KEY
exec "$program" chat --url "$url" "$@"
