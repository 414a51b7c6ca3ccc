#!/bin/sh
# Talks to the engine that `make up` gives the demo user, or to the one of `make engine`; it says which, and while both
# run it asks for ENGINE=fleet or ENGINE=alone. Arguments go to `september-engine chat`. The key goes through the environment, never through arguments, which are public.
set -eu
. "$(dirname "$0")/prepare.sh"

program=$target/release/september-engine
[ -x "$program" ] || die "build first: make up, or make engine"
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

# told_why ANSWER: an admission that was refused, in plain words, with what helps.
told_why() {
    command="$target/release/bap-engine --env-file $fleet/fleet.env"
    case $(printf '%s' "$1" | field reason) in
    engine_stopped) die "the demo user's engine is stopped, and stays so until somebody starts it:
    $command engines start demo/demo-user-001" ;;
    engine_unhealthy) die "the demo user's engine runs and does not answer as it should, or failed; ask why, then start it:
    $command explain demo/demo-user-001
    $command engines start demo/demo-user-001" ;;
    engine_destroying) die "the demo user's engine is being removed; in some seconds \`make chat\` makes a new one" ;;
    *) die "the fleet did not admit demo-user-001: $1
  its state, in words:
    $command explain demo/demo-user-001" ;;
    esac
}

# Only while its process runs is an address asked for anything.
fleet_runs=
if [ -s "$fleet/api.url" ] && runs_as "$fleet/up.lock" bap-engine &&
    takes_our_key "X-Platform-Key: $(cat "$fleet/demo.key")" "$(cat "$fleet/api.url")/status"; then
    fleet_runs=yes
fi
alone_runs=
if [ -s "$state/engine.url" ] && runs_as "$state/engine.pid" september-engine; then alone_runs=yes; fi

chosen=${ENGINE:-}
back='make chat TASK='
case $chosen in
"" | alone | fleet) ;;
*) die "ENGINE is \`$chosen\`: expected alone (the one of \`make engine\`) or fleet (the demo user's of \`make up\`)" ;;
esac
if [ -n "$chosen" ]; then
    back="make chat ENGINE=$chosen TASK="
elif [ -n "$fleet_runs" ] && [ -n "$alone_runs" ]; then
    die "two Engines run here, with a brain each; say which one:
    make chat ENGINE=fleet    # the demo user's, of \`make up\`
    make chat ENGINE=alone    # the one of \`make engine\`, at $(cat "$state/engine.url")"
elif [ -n "$fleet_runs" ]; then
    chosen=fleet
elif [ -n "$alone_runs" ]; then
    chosen=alone
    # Whoever talked to the fleet until now should know that this is somebody else.
    [ ! -s "$fleet/api.url" ] || say "The fleet of \`make up\` was killed; \`make up\` goes on with it."
fi

case $chosen in
fleet)
    [ -n "$fleet_runs" ] || die "the fleet does not run; start it with
    make up"
    admitted=$(printf 'X-Platform-Key: %s' "$(cat "$fleet/demo.key")" |
        curl -s --max-time 120 -H @- -H 'Content-Type: application/json' \
            -d '{"auto_provision":true,"auto_wake":true}' -X POST "$(cat "$fleet/api.url")/engines/demo-user-001/admit") ||
        die "the fleet at $(cat "$fleet/api.url") did not answer; does \`make up\` still run?"
    case $admitted in
    *DATABASE_UNAVAILABLE*) die "the fleet has lost its database and starts it again; try in some seconds, or see what \`make up\` says" ;;
    esac
    url=$(printf '%s' "$admitted" | field url)
    ENGINE_API_KEY=$(printf '%s' "$admitted" | field api_key)
    [ -n "$url" ] || told_why "$admitted"
    export ENGINE_API_KEY
    # As \`make engine\` leaves them, so that the guides' commands reach this Engine, too.
    (
        umask 077
        printf '%s\n' "$url" > "$fleet/engine.url"
        printf 'X-Engine-Key: %s\n' "$ENGINE_API_KEY" > "$fleet/engine.header"
    )
    say "Talking to the engine of demo-user-001 at $url, of the fleet at $(cat "$fleet/api.url") (make up)."
    set -- chat --url "$url" "$@"
    ;;
alone)
    [ -n "$alone_runs" ] || die "no Engine runs alone; start it with
    make engine"
    brain=$(sed -n 's/^SQLITE_DB_PATH=//p' "$state/engine.env" | tail -n 1)
    say "Talking to the Engine alone at $(cat "$state/engine.url"), brain ${brain:-as .env says} (make engine)."
    # The file names address and key; a key of the shell wins over it.
    set -- --env-file "$state/engine.env" chat "$@"
    ;;
*) die "nothing runs; start the fleet with
    make up
  or one Engine alone with
    make engine" ;;
esac
exec "$program" "$@" --back-with "$back"
