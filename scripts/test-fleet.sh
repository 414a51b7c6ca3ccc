#!/usr/bin/env bash
# The steps of docs/guides/production.md for real: both images, PostgreSQL 18 and the orchestrator in containers, and a
# fleet of engines on the same daemon. Kills what can be killed, restores what can be restored, and prints what it
# proves, line by line. No registry and no model provider: engines answer with the `offline` model.
#
# PostgreSQL is the one the other tests use (fetch-postgres.sh), put into an image that takes the same variables as the
# official one, so that compose.yaml is tested as it stands.
set -eu
. "$(dirname "$0")/prepare.sh"
. scripts/images.sh
suite="fleet on docker"
# Everything made here carries it, besides what compose and the orchestrator label themselves.
label=september-test=$project
user=demo-user-001
# compose.yaml reads these; what the developer's shell has must not get in.
unset LLM_PROVIDER LLM_MODEL LLM_API_KEY LLM_BASE_URL OPENAI_API_KEY ANTHROPIC_API_KEY GEMINI_API_KEY AD_ENCRYPTION_KEY
unset ORCH_DATA_ROOT_PATH ORCH_CATALOG_MOUNT_PATH ORCH_IDLE_SLEEP_AFTER_S ORCH_LOG_LEVEL ORCH_ENGINE_ENV_PASSTHROUGH
unset ORCH_ENGINE_SECURITY_PROFILE

. scripts/fleet-world.sh

# --- the steps ----------------------------------------------------------------------------------------------

build_images() {
    say "1-2 images, without a registry"
    make_builder
    quietly docker build --network none -f deploy/engine.Dockerfile --target prod \
        --build-arg BUILDER_IMAGE --build-arg BASE_IMAGE -t "$ORCH_ENGINE_IMAGE" .
    quietly docker build --network none -f deploy/orchestrator.Dockerfile --target prod \
        --build-arg BUILDER_IMAGE -t "$BAP_IMAGE" .
    make_postgres_image
    image_sizes "$ORCH_ENGINE_IMAGE" "$BAP_IMAGE" "$POSTGRES_IMAGE"
    proved "both images build from this repository with the commands of the guide"
}

configure() {
    say "3-5 database, secrets, environment"
    # DOCKER_HOST names the socket of a private daemon.
    DOCKER_SOCKET=${DOCKER_HOST:-unix:///var/run/docker.sock}
    DOCKER_SOCKET=${DOCKER_SOCKET#unix://}
    [ -S "$DOCKER_SOCKET" ] || skip "$suite: the daemon has no socket here that a container could use"
    DOCKER_GID=$(stat -c %g "$DOCKER_SOCKET")
    BAP_PUBLISHED_PORT=$(free_port 18200)
    drill_port=$(free_port 18300)
    POSTGRES_PASSWORD=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    export DOCKER_SOCKET DOCKER_GID BAP_PUBLISHED_PORT POSTGRES_PASSWORD
    umask 077
    docker run --rm --label "$label" "$BAP_IMAGE" keygen > "$work/keys" || fail "keygen failed"
    {
        cat "$work/keys"
        for name in POSTGRES_PASSWORD POSTGRES_IMAGE BAP_IMAGE BAP_PUBLISHED_PORT DOCKER_GID DOCKER_SOCKET \
            ORCH_ENGINE_IMAGE ORCH_ENGINE_NETWORK; do
            printf '%s=%s\n' "$name" "${!name}"
        done
    } > "$work/env"
    {
        cat "$work/keys"
        printf 'ORCH_DATABASE_URL=postgresql://orch_user:%s@postgres:5432/orchestrator?sslmode=disable\n' "$POSTGRES_PASSWORD"
        printf 'ORCH_ENGINE_IMAGE=%s\nORCH_ENGINE_NETWORK=%s\n' "$ORCH_ENGINE_IMAGE" "$ORCH_ENGINE_NETWORK"
        printf 'ORCH_ENGINE_ENV_PASSTHROUGH=LLM_PROVIDER\nLLM_PROVIDER=offline\n'
    } > "$work/replica.env"
    umask 022
    # compose 1 passes a variable without a value from the shell only.
    eval "$(sed 's/^/export /' "$work/keys")"
    expect "$(cat "$work/keys")" '^ORCH_MASTER_KEY='
    expect "$(cat "$work/keys")" '^ORCH_ADMIN_KEY='
    fleet config > "$work/config" || fail "compose.yaml is not valid"
    proved "compose.yaml is valid, keys come from the image itself"
}

start() {
    say "6 run"
    quietly fleet up -d postgres orchestrator
    api=http://127.0.0.1:$BAP_PUBLISHED_PORT
    wait_ok "$api"
    proved "one command starts the database and the orchestrator; /health says exactly {\"status\":\"ok\"}"
    [ "$(docker inspect -f '{{.Config.User}} {{.HostConfig.ReadonlyRootfs}}' "$(orchestrator)")" = "10001:10001 true" ] ||
        fail "the orchestrator runs with other rights"
    ! fleet exec -T orchestrator bap-engine doctor > "$work/doctor" 2>&1 && fail "doctor found something:
$(cat "$work/doctor")"
    proved "as uid 10001 on a read-only root, doctor finds nothing broken"
}

first_product() {
    say "8 register, provision, admit, execute"
    documented 'sed -n .*ORCH_ADMIN_KEY' '"slug":"demo"'
    platform_key=$(field platform_api_key)
    # The file the guide asks for.
    (umask 077; printf 'X-Platform-Key: %s\n' "$platform_key" > "$work/platform.header")
    case $platform_key in pk-sept-*) ;; *) fail "no platform key: $answer" ;; esac
    proved "a product is registered with the admin key and gets its platform key"

    documented 'curl -s -X POST http:..127.0.0.1:8000.engines.provision' '"user_id":"demo-user-001"'
    expect "$answer" '"status":"running"'
    engine_id=$(field engine_id) engine_url=$(field url)
    [ "$engine_url" = "http://engine-${engine_id:0:12}:8000" ] || fail "unexpected address $engine_url"
    proved "provision answers when the engine serves, in $(docker inspect -f '{{.Config.Image}}' "$(container_of)")"

    documented 'curl -s -X POST http:..127.0.0.1:8000.engines.demo-user-001.admit' '"auto_provision"'
    expect "$answer" '"admitted":true'
    say_to_engine "run echo from-the-fleet"
    for each in 'event: thread_lifecycle' 'event: tool_call' 'from-the-fleet' '"phase":"completed"'; do
        expect "$answer" "$each"
    done
    proved "admit hands out address and key; a container on the network executes and the answer streams"
    say_to_engine "The name of my boat is Windrose."
    expect "$answer" '"phase":"completed"'
    expect "$(http_inside "$ORCH_ENGINE_NETWORK" POST "$engine_url/execute" "X-Engine-Key: wrong" '{}')" INVALID_KEY
    proved "another key is refused by the engine itself"
    ask POST /engines/somebody/admit '{"auto_provision":true}'
    wanted 200 '"admitted":true'
    ask GET "/engines?limit=10"
    wanted 200 '"total":2'
}

kill_an_engine() {
    say "kill -9 an engine"
    local before
    before=$(docker inspect -f '{{.State.StartedAt}}' "$(container_of)")
    # Every process but the container's init; not `docker kill`, which counts as stopped by hand.
    docker exec "$(container_of)" sh -c 'kill -9 -1' >/dev/null 2>&1 || true
    for _ in $(seq 150); do
        [ "$(docker inspect -f '{{.State.StartedAt}}' "$(container_of)")" = "$before" ] || break
        sleep 0.2
    done
    wait_status running
    [ "$(docker inspect -f '{{.State.StartedAt}}' "$(container_of)")" != "$before" ] || fail "the process did not die"
    say_to_engine "What did I say the name of my boat is?"
    expect "$answer" Windrose
    for _ in $(seq 50); do
        ask GET "/audit?user=$user&action=health_failed"
        [[ $answer != *'"action":"health_failed"'* ]] || break
        sleep 0.2
    done
    wanted 200 '"action":"health_failed"'
    proved "it is back by itself, the thread continues, and the audit log says what happened"
}

kill_the_orchestrator() {
    say "kill -9 the orchestrator"
    local before after
    before=$(identity)
    docker kill -s KILL "$(orchestrator)" >/dev/null
    answer=$(http_inside "$ORCH_ENGINE_NETWORK" POST "$engine_url/execute" "X-Engine-Key: $engine_key" \
        '{"message":"run echo nobody-above","task_id":"demo-1"}')
    expect "$answer" nobody-above
    proved "engines serve on without it"
    quietly fleet up -d orchestrator
    wait_ok "$api"
    wait_status running
    after=$(identity)
    [ "$before" = "$after" ] || fail "engines changed:
$before
$after"
    say_to_engine "What did I say the name of my boat is?"
    expect "$answer" Windrose
    proved "started again it has the same engines in the same containers, none restarted"
}

lifecycle() {
    say "stop, start, rotate the key, sleep, wake"
    local kept old_key
    kept=$(container_of)
    ask POST "/engines/$user/stop"
    wanted 200 '"status":"stopped"'
    [ "$(container_state)" = exited ] || fail "stopped, but the container is $(container_state)"
    ask POST "/engines/$user/admit" '{"auto_wake":true}'
    wanted 200 '"reason":"engine_stopped"'
    ask POST "/engines/$user/start"
    wanted 200 '"status":"running"'
    say_to_engine "What did I say the name of my boat is?"
    expect "$answer" Windrose
    proved "stopped engines are not woken by admit; start brings back the same brain"

    old_key=$engine_key
    ask POST "/engines/$user/rotate-key"
    wanted 200 '"previous_key_valid_until"'
    engine_key=$(field api_key)
    [ "$engine_key" != "$old_key" ] || fail "the key did not change"
    [ "$(container_of)" = "$kept" ] || fail "rotating re-created the container"
    for each in "$engine_key" "$old_key"; do
        expect "$(http_inside "$ORCH_ENGINE_NETWORK" GET "$engine_url/version" "X-Engine-Key: $each")" '200 OK'
    done
    proved "the key rotates without a restart, both keys work in the window"

    # The lease of the last admit must run out first.
    for _ in $(seq 300); do
        ask POST "/engines/$user/sleep"
        [ "$status" = 409 ] || break
        sleep 0.2
    done
    wanted 200 '"status":"sleeping"'
    [ "$(container_state)" = paused ] || fail "asleep, but the container is $(container_state)"
    ask POST "/engines/$user/admit" '{}'
    wanted 200 '"reason":"engine_sleeping"'
    say_to_engine "What did I say the name of my boat is?"
    expect "$answer" Windrose
    [ "$(container_of)" = "$kept" ] || fail "waking re-created the container"
    proved "sleep freezes the container once nothing is admitted, admit wakes it with its memory"
}

watch() {
    say "9, 11 probes and metrics"
    local text lacking="" values
    values=('bap_health_ok 1' 'bap_db_up 1' 'bap_supervisor 1' 'bap_backend_up{backend="docker"} 1'
        'bap_engines{status="running",product="demo"} 2' 'bap_engine_failures_total{reason=')
    # Some are counted once a minute.
    for _ in $(seq 30); do
        lacking=
        text=$(http_inside "container:$(orchestrator)" GET http://127.0.0.1:9090/metrics)
        for each in "${values[@]}"; do
            grep -qF -- "$each" <<< "$text" || lacking="$lacking $each"
        done
        for each in $(grep 'expr:' deploy/prometheus/alerts.yaml | grep -o 'bap_[a-z_]*' | sort -u); do
            grep -q "^$each[ {]" <<< "$text" || lacking="$lacking $each"
        done
        [ -n "$lacking" ] || break
        sleep 3
    done
    [ -z "$lacking" ] || fail "metrics lack$lacking:
$(grep '^bap' <<< "$text" | grep -v _bucket)"
    expect "$(http_inside "container:$(orchestrator)" GET http://127.0.0.1:9090/readyz)" '200 OK'
    ! http_inside "$ORCH_ENGINE_NETWORK" GET http://orchestrator:9090/metrics >/dev/null 2>&1 ||
        fail "the internal listener is reachable from the engines' network"
    proved "every metric the alerts read is served, and only inside the orchestrator's own network namespace"
    ! fleet logs --no-color orchestrator | grep -qF -e "$engine_key" -e "$platform_key" -e "$ORCH_ADMIN_KEY" -e "$ORCH_MASTER_KEY" ||
        fail "a key is in the orchestrator's log"
    proved "no key is in the orchestrator's log"
}

drill() {
    say "10 restore drill"
    local live engines own=$api
    engines=$(identity)
    ask GET /status
    live=$answer
    documented 'docker compose exec -T postgres pg_dump' '127.0.0.1:8001.status -H'
    [ "$live" = "${answer##*$'\n'}" ] || fail "the restored fleet differs:
$live
$answer"
    api=http://127.0.0.1:$drill_port
    ask GET "/engines/$user"
    wanted 200 "\"api_key\":\"$engine_key\""
    for each in "DELETE /engines/$user" "POST /engines/$user/stop" "POST /engines/$user/rotate-key"; do
        ask ${each% *} "${each#* }"
        wanted 503 READ_ONLY
    done
    api=$own
    unchanged "$engines"
    proved "a dump in a fresh PostgreSQL and a fresh read-only orchestrator show the same fleet, keys included, and change nothing"
}

# What the engines are must be what it was.
unchanged() { [ "$(identity)" = "$1" ] || fail "engines changed: $1 / $(identity)"; }

wrong_master_key() {
    say "master key"
    local outcome=0 other
    other=$(docker run --rm --label "$label" "$BAP_IMAGE" keygen master)
    timeout 60 docker run --rm --label "$label" --network "$project-drill" --env-file "$work/replica.env" -e "$other" \
        -e "ORCH_DATABASE_URL=postgresql://orch_user:$POSTGRES_PASSWORD@$project-drill-postgres:5432/orchestrator?sslmode=disable" \
        "$BAP_IMAGE" > "$work/log" 2>&1 || outcome=$?
    [ "$outcome" = 3 ] || fail "a wrong master key ended with $outcome instead of 3: $(cat "$work/log")"
    expect "$(cat "$work/log")" 'cannot be decrypted'
    ! grep -qF "${other#*=}" "$work/log" || fail "the master key is in the log"
    documented 'docker rm -f -v drill-orchestrator' '^docker network rm drill'
    proved "another ORCH_MASTER_KEY is refused with exit code 3, before anything is served"
}

swap() {
    say "12 swap of the orchestrator"
    local old engines requests=0 outcome
    old=$(orchestrator)
    engines=$(identity)
    replica "$project-new"
    wait_ok "$api"
    ( docker stop --time 60 "$old" >/dev/null; : > "$work/stopped" ) &
    while [ ! -f "$work/stopped" ] && [ "$requests" -lt 3000 ]; do
        ask POST "/engines/$user/admit" '{"auto_wake":true}'
        wanted 200 '"admitted":true'
        requests=$((requests + 1))
    done
    wait
    outcome=$(docker inspect -f '{{.State.ExitCode}}' "$old")
    [ "$outcome" = 0 ] || fail "the old replica ended with $outcome"
    wait_ok "$api"
    expect "$(http_inside "container:$project-new" GET http://127.0.0.1:9090/metrics)" '^bap_supervisor 1'
    unchanged "$engines"
    proved "the new replica answered all $requests admits while the old one drained, and supervises; no engine noticed"
}

destroy() {
    say "destroy"
    ask DELETE "/engines/$user"
    wanted 200 '"status":"destroyed"'
    [ -z "$(container_of)" ] || fail "the container is still there"
    ! docker volume inspect "engine-data-$engine_id" >/dev/null 2>&1 || fail "the brain is still there"
    ask GET "/engines/$user"
    wanted 404 ENGINE_NOT_FOUND
    ask GET "/audit?user=$user&action=destroy"
    wanted 200 '"action":"destroy"'
    proved "container, brain and row are gone, the audit row stays"
}

directories() {
    say "5 brains in directories of the host"
    mkdir "$work/brains"
    docker run --rm --label "$label" -v "$work/brains:/brains" "$project:base" \
        sh -c 'chown 10001:10001 /brains && chmod 700 /brains' || fail "the data root could not be prepared"
    fleet exec -T postgres createdb -U orch_user directories
    replica "$project-directories" -v "$work/brains:/data/engine-data" -e ORCH_DATA_ROOT_PATH="$work/brains" \
        -e "ORCH_DATABASE_URL=postgresql://orch_user:$POSTGRES_PASSWORD@postgres:5432/directories?sslmode=disable"
    wait_ok "$api"
    answer=$(docker exec "$project-directories" bap-engine --json products register demo) || fail "register: $answer"
    answer=$(tr -d ' \n' <<< "$answer")
    platform_key=$(field platform_api_key)
    ask POST /engines/provision "{\"user_id\":\"$user\"}"
    wanted 200 '"status":"running"'
    engine_id=$(field engine_id)
    seen=$(docker run --rm --label "$label" -v "$work/brains:/brains:ro" "$project:base" \
        stat -c '%u %a' "/brains/$engine_id" "/brains/$engine_id/brain.sqlite" | tr '\n' ' ')
    [ "${seen% * }" = "10001 700 10001" ] || fail "the brain's owner and mode: $seen"
    proved "a second deployment on the same daemon keeps its brains below one directory, each in its own, mode 0700"
    say_to_engine "The name of my boat is Windrose."
    expect "$answer" '"phase":"completed"'
    ask DELETE "/engines/$user"
    wanted 200 '"status":"destroyed"'
    [ -z "$(docker run --rm --label "$label" -v "$work/brains:/brains:ro" "$project:base" ls -A /brains)" ] ||
        fail "something is left of the brain"
    proved "destroy leaves nothing of it"
}

# ERROR in a log means that a person must act; nothing that was done here needed one.
no_errors() {
    ! { fleet logs --no-color orchestrator; docker logs "$project-new"; docker logs "$project-directories"; } 2>&1 |
        grep -e '"level":"ERROR"' -e panicked || fail "an orchestrator logged an error"
    proved "no orchestrator logged an error"
}

# Every command that runbooks and the guide name is one.
named_commands() {
    local command named=0
    while read -ra command; do
        docker run --rm --label "$label" "$BAP_IMAGE" "${command[@]:1}" --help >/dev/null 2>"$work/err" ||
            fail "a page names '${command[*]}': $(cat "$work/err")"
        named=$((named + 1))
    done < <(grep -rhoE '(^|[` (])bap-engine [^`|>#…]*' docs/runbooks docs/guides/production.md docs/concepts/engine-lifecycle.md |
        sed -e 's/^[` (]*//' -e 's/ *$//' | sort -u)
    [ "$named" -gt 10 ] || fail "only $named commands found in the pages"
    proved "all $named commands of the guide and the runbooks exist"
}

check() {
    work=$(mktemp -d)
    export ORCH_ENGINE_IMAGE=$project-engine:1 BAP_IMAGE=$project-orchestrator:1 POSTGRES_IMAGE=$project-postgres:18
    trap remove_what_we_made EXIT
    build_images
    configure
    start
    first_product
    kill_an_engine
    watch
    kill_the_orchestrator
    lifecycle
    drill
    wrong_master_key
    swap
    destroy
    directories
    no_errors
    named_commands
    say "fleet: the whole list holds"
}

with_daemon "$@"
