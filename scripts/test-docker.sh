#!/usr/bin/env bash
# Both image targets and `docker compose up engine` for real, with no registry.
#
# The base image is made from Debian packages, the program is built here (images.sh).
set -eu
. "$(dirname "$0")/prepare.sh"
. scripts/images.sh
suite="image and compose"

give_notice() {
    compose -p "$project" logs --no-color --tail=50 2>/dev/null
}

remove_what_we_made() {
    compose -p "$project" down --volumes --timeout 1 >/dev/null 2>&1 || true
    docker rm -fv "$project-minimal" >/dev/null 2>&1 || true
    docker rmi -f "$ENGINE_IMAGE" "$project:minimal" "$project:builder" "$project:base" >/dev/null 2>&1 || true
    [ -z "$work" ] || rm -rf "$work"
}

# The ways out of the sandbox as one program, linked statically like the others. Once per set of programs.
prepare_suite() {
    [ ! -x "$programs/escapes.static" ] || [ -z "${SEPTEMBER_PROGRAMS:-}" ] || return 0
    say "building the attempts to leave the sandbox"
    local host made
    host=$(rustc -vV | sed -n 's/^host: //p')
    made=$(RUSTFLAGS="-C target-feature=+crt-static" cargo test --release --locked --workspace --test escapes \
        --no-run --target "$host" --message-format=json --quiet |
        sed -n 's/.*"executable":"\([^"]*escapes-[^"]*\)".*/\1/p' | tail -n 1)
    [ -n "$made" ] || fail "the attempts did not build"
    cp "$made" "$programs/escapes.static"
}

# try_escapes COLUMN USER: every way out, under the runtime's default profile.
try_escapes() {
    say "ways out of the sandbox, $1"
    docker run --rm --user "$2" --network "$project" -e TMPDIR=/tmp \
        -v "$(realpath "$programs/escapes.static"):/usr/local/bin/escapes:ro" \
        "$project:base" /usr/local/bin/escapes "--here=$1" || fail "a command left the sandbox ($1)"
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

check() {
    work=$(mktemp -d)
    export ENGINE_IMAGE=$project:prod
    trap remove_what_we_made EXIT

    say "images: base, builder, prod, minimal"
    make_builder
    quietly docker build --network none -f deploy/engine.Dockerfile --target minimal \
        --build-arg BUILDER_IMAGE --build-arg BASE_IMAGE -t "$project:minimal" .
    quietly compose -p "$project" build engine
    image_sizes "$project:base" "$ENGINE_IMAGE" "$project:minimal"

    say "compose up engine"
    unset LLM_PROVIDER LLM_API_KEY OPENAI_API_KEY ANTHROPIC_API_KEY GEMINI_API_KEY ENGINE_API_KEY ENGINE_KEY_HASH
    ENGINE_PUBLISHED_PORT=$(free_port 18000)
    export ENGINE_PUBLISHED_PORT
    url=http://127.0.0.1:$ENGINE_PUBLISHED_PORT
    quietly compose -p "$project" up -d engine
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
    [ "$(inside id -u)" = 10001 ] || fail "runs as $(inside id -u)"
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
    docker rm -fv "$project-minimal" >/dev/null

    try_escapes docker 10001:10001
    try_escapes "docker root" 0:0
    docker network rm "$project" >/dev/null
    say "docker: both targets run"
}

with_daemon "$@"
