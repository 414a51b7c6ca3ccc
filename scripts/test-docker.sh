#!/usr/bin/env bash
# Both image targets and `docker compose up engine` for real, with no registry.
#
# The base image is made from Debian packages, the program is built here. Where no Docker daemon answers and we are
# root, a private one is started in network and mount namespaces of its own: its bridges, firewall rules, ports and
# mounts exist only there and are gone with it.
set -eu
. "$(dirname "$0")/prepare.sh"
skip() { say "not tested: $*"; printf '%s\n' "$*" >> "${SEPTEMBER_TEST_SKIPS:-/dev/null}"; exit 0; }

target=${CARGO_TARGET_DIR:-target}
base_tar=$SEPTEMBER_CACHE/bookworm-base-1.tar

compose() {
    if docker compose version >/dev/null 2>&1; then docker compose "$@"; else docker-compose "$@"; fi
}

prepare() {
    prepare_build
    local wanted=()
    have docker || wanted+=(docker.io)
    docker compose version >/dev/null 2>&1 || have docker-compose || wanted+=(docker-compose)
    docker info >/dev/null 2>&1 || have dockerd || wanted+=(docker.io)
    docker info >/dev/null 2>&1 || have ip || wanted+=(iproute2)
    docker info >/dev/null 2>&1 || have iptables || wanted+=(iptables)
    [ -f "$base_tar" ] || have mmdebstrap || wanted+=(mmdebstrap)
    if [ "${#wanted[@]}" -gt 0 ]; then
        install_packages "${wanted[@]}" || skip "image and compose: missing ${wanted[*]} (apt-get install ${wanted[*]})"
    fi

    if [ ! -f "$base_tar" ]; then
        say "making the base image from Debian packages"
        mkdir -p "$SEPTEMBER_CACHE"
        mmdebstrap --quiet --variant=minbase --include=ca-certificates,bubblewrap,git,python3-minimal \
            bookworm - > "$base_tar.new" || skip "image and compose: the base image could not be made (mmdebstrap failed)"
        mv "$base_tar.new" "$base_tar"
    fi

    say "building the program, linked statically"
    local host
    host=$(rustc -vV | sed -n 's/^host: //p')
    RUSTFLAGS="-C target-feature=+crt-static" \
        cargo build --release --locked --workspace --bins --target "$host" --quiet
    cp "$target/$host/release/september-engine" "$target/test-report/september-engine.static"
}

# --- with a daemon ----------------------------------------------------------------------------------------

project=september-test-$$
work=
fail() {
    say "test-docker: $*"
    compose -p "$project" logs --no-color --tail=50 2>/dev/null >&2 || true
    exit 1
}

remove_what_we_made() {
    compose -p "$project" down --volumes --timeout 1 >/dev/null 2>&1 || true
    docker rm -f "$project-minimal" >/dev/null 2>&1 || true
    docker rmi -f "$ENGINE_IMAGE" "$project:minimal" "$project:builder" "$project:base" >/dev/null 2>&1 || true
    [ -z "$work" ] || rm -rf "$work"
}

wait_healthy() {
    for _ in $(seq 150); do
        curl -sf -o /dev/null --max-time 2 "$1/health" && return
        sleep 0.2
    done
    fail "$1/health never answered 200"
}

wait_container_healthy() {
    for _ in $(seq 150); do
        [ "$(docker inspect -f '{{.State.Health.Status}}' "$1")" = healthy ] && return
        sleep 0.2
    done
    fail "the image's own health check never succeeded: $(docker inspect -f '{{json .State.Health}}' "$1")"
}

# ask MESSAGE: one turn, the way the guides show it.
ask() {
    printf 'X-Engine-Key: %s' "$key" |
        curl -sN --max-time 60 -X POST "$url/execute" -H @- -H 'Content-Type: application/json' \
            -d "{\"message\":\"$1\",\"task_id\":\"demo-1\"}"
}

expect() {
    grep -q -- "$2" <<< "$1" || fail "no '$2' in the answer:
$1"
}

check() {
    work=$(mktemp -d)
    export ENGINE_IMAGE=$project:prod
    trap remove_what_we_made EXIT

    say "images: base, builder, prod, minimal"
    docker import "$base_tar" "$project:base" >/dev/null || fail "the base image could not be imported"
    cp "$target/test-report/september-engine.static" "$work/september-engine"
    printf 'FROM %s\nCOPY september-engine /prebuilt/september-engine\n' "$project:base" > "$work/Dockerfile"
    docker build -q -t "$project:builder" "$work" >/dev/null 2>&1 || fail "the builder image did not build"
    export BUILDER_IMAGE=$project:builder BASE_IMAGE=$project:base
    docker build --network none -f deploy/engine.Dockerfile --target minimal \
        --build-arg BUILDER_IMAGE --build-arg BASE_IMAGE -t "$project:minimal" . > "$work/log" 2>&1 ||
        { cat "$work/log"; fail "target minimal did not build"; }
    compose -p "$project" build engine > "$work/log" 2>&1 || { cat "$work/log"; fail "target prod did not build"; }
    for image in "$project:base" "$ENGINE_IMAGE" "$project:minimal"; do
        printf '%-40s %7.1f MB\n' "$image" "$(docker image inspect -f '{{.Size}}' "$image" | awk '{print $1/1e6}')"
    done

    say "compose up engine"
    unset LLM_PROVIDER LLM_API_KEY OPENAI_API_KEY ANTHROPIC_API_KEY GEMINI_API_KEY ENGINE_API_KEY ENGINE_KEY_HASH
    ENGINE_PUBLISHED_PORT=$(free_port 18000)
    export ENGINE_PUBLISHED_PORT
    url=http://127.0.0.1:$ENGINE_PUBLISHED_PORT
    compose -p "$project" up -d engine > "$work/log" 2>&1 || { cat "$work/log"; fail "compose up failed"; }
    wait_healthy "$url"
    container=$(compose -p "$project" ps -q engine)
    key=$(compose -p "$project" exec -T engine cat /data/engine.key)
    case $key in sk-sept-*) ;; *) fail "no generated key in the volume" ;; esac

    answer=$(ask "run ls")
    for wanted in '"phase":"started"' 'event: tool_call' 'event: tool_result' '"exit_code":0' '"phase":"completed"'; do
        expect "$answer" "$wanted"
    done
    answer=$(ask "The name of my boat is Windrose.")
    expect "$answer" '"phase":"completed"'
    expect "$(curl -s "$url/health")" '"landlock"'
    expect "$(curl -s -X POST "$url/execute" -d '{}')" INVALID_KEY

    answer=$(echo "run echo seen-by-chat" |
        compose -p "$project" exec -T engine with-generated-key september-engine chat --task demo-2) || fail "chat failed"
    expect "$answer" seen-by-chat

    say "what the container may do"
    inside() { docker exec "$container" "$@"; }
    [ "$(inside id -u)" = 65532 ] || fail "runs as $(inside id -u)"
    [ "$(inside stat -c %a /data)" = 700 ] || fail "/data has mode $(inside stat -c %a /data)"
    ! inside touch /x 2>/dev/null || fail "the root file system can be written"
    inside touch /tmp/x || fail "/tmp cannot be written"
    expect "$(inside cat /proc/1/status)" 'CapEff:[[:space:]]*0000000000000000'
    expect "$(inside cat /proc/1/status)" 'NoNewPrivs:[[:space:]]*1'
    for program in sh git python3 bwrap; do
        inside sh -c "command -v $program" >/dev/null || fail "$program is missing"
    done
    inside sqlite3 /data/brain.sqlite 'PRAGMA integrity_check;' | grep -qx ok || fail "the sqlite3 shim does not work"
    # A tool must not see the key, although the same user owns the file.
    answer=$(ask "run cat /data/engine.key")
    ! grep -q "$key" <<< "$answer" || fail "a tool read the Engine's key"
    expect "$answer" '"phase":"completed"'
    wait_container_healthy "$container"

    say "restart keeps the brain"
    began=$SECONDS
    compose -p "$project" restart engine > "$work/log" 2>&1
    [ $((SECONDS - began)) -lt 10 ] || fail "stopping an idle Engine took $((SECONDS - began)) s"
    wait_healthy "$url"
    expect "$(ask "What did I say the name of my boat is?")" Windrose

    say "kill -9 keeps the brain"
    docker kill -s KILL "$container" >/dev/null
    compose -p "$project" up -d engine > "$work/log" 2>&1
    wait_healthy "$url"
    expect "$(ask "What did I say the name of my boat is?")" Windrose
    if compose -p "$project" logs --no-color | grep -e '"level":"ERROR"' -e panicked; then
        fail "the Engine logged an error"
    fi
    compose -p "$project" down --volumes > "$work/log" 2>&1

    say "minimal: the program alone"
    key=docker-test-key-$RANDOM$RANDOM
    port=$(free_port 18100)
    url=http://127.0.0.1:$port
    docker network create "$project" >/dev/null
    ENGINE_API_KEY=$key docker run -d --name "$project-minimal" --network "$project" -p "127.0.0.1:$port:8000" \
        --read-only --cap-drop ALL --security-opt no-new-privileges -e ENGINE_API_KEY -e LLM_PROVIDER=offline \
        "$project:minimal" >/dev/null
    wait_healthy "$url"
    expect "$(ask "The name of my boat is Windrose.")" '"phase":"completed"'
    expect "$(ask "What did I say the name of my boat is?")" Windrose
    wait_container_healthy "$project-minimal"
    docker rm -f "$project-minimal" >/dev/null
    docker network rm "$project" >/dev/null
    say "docker: both targets run"
}

# Started again inside the namespaces: bring up loopback, start the daemon, check, stop it.
private_daemon() {
    ip link set lo up
    local state=$SEPTEMBER_CACHE/docker run
    run=$(mktemp -d)
    mkdir -p "$state"
    export DOCKER_HOST=unix://$run/docker.sock
    dockerd --data-root "$state" --exec-root "$run/exec" --pidfile "$run/dockerd.pid" -H "$DOCKER_HOST" \
        > "$run/dockerd.log" 2>&1 &
    local daemon=$!
    for _ in $(seq 150); do
        docker info >/dev/null 2>&1 && break
        kill -0 "$daemon" 2>/dev/null || break
        sleep 0.2
    done
    local outcome=0
    if docker info >/dev/null 2>&1; then
        (check) || outcome=$?
    else
        tail -n 20 "$run/dockerd.log" >&2
        outcome=78
    fi
    kill "$daemon" 2>/dev/null || true
    wait "$daemon" 2>/dev/null || true
    rm -rf "$run"
    return "$outcome"
}

case ${1:-} in
    in-namespaces)
        private_daemon
        ;;
    *)
        prepare
        if docker info >/dev/null 2>&1; then
            check
        elif is_root; then
            outcome=0
            unshare --net --mount bash scripts/test-docker.sh in-namespaces || outcome=$?
            [ "$outcome" != 78 ] || skip "image and compose: no Docker daemon answers and a private one does not start here"
            exit "$outcome"
        else
            skip "image and compose: no Docker daemon answers (start one, or run as root)"
        fi
        ;;
esac
