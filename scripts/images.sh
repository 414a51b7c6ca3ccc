# What the tests of images share: a Docker daemon, a base image made from Debian packages, the programs linked
# statically, and small helpers. Sourced by test-docker.sh and test-fleet.sh, after prepare.sh; bash.
#
# The script that sources this sets `suite` (what is tested, for messages), defines `check` (the test itself, run where
# a daemon answers) and `give_notice` (what to print when something fails), and ends with `with_daemon "$@"`. What
# else it needs from the network it fetches in `prepare_suite`: where `check` runs there may be none.
#
# Where no Docker daemon answers and we are root, a private one is started in network and mount namespaces of its own:
# its bridges, firewall rules, ports and mounts exist only there and are gone with it.

target=${CARGO_TARGET_DIR:-target}
base_tar=$SEPTEMBER_CACHE/bookworm-base-1.tar
# Both programs, linked statically, as NAME.static; made by prepare_images unless a directory with them is given.
programs=${SEPTEMBER_PROGRAMS:-$target/test-report}
project=september-test-$$
work=
# Never the network of a fleet that runs on the same daemon: compose removes what it names.
export ORCH_ENGINE_NETWORK=$project-fleet

skip() { say "not tested: $*"; printf '%s\n' "$*" >> "${SEPTEMBER_TEST_SKIPS:-/dev/null}"; exit 0; }

fail() {
    say "$(basename "$0" .sh): $*"
    give_notice >&2 || true
    exit 1
}

# expect TEXT PATTERN
expect() {
    grep -q -- "$2" <<< "$1" || fail "no '$2' in the answer:
$1"
}

compose() {
    if docker compose version >/dev/null 2>&1; then docker compose "$@"; else docker-compose "$@"; fi
}

wait_healthy() {
    for _ in $(seq 150); do
        curl -sf -o /dev/null --max-time 2 "$1/health" && return
        sleep 0.2
    done
    fail "$1/health never answered 200"
}

# Docker's programs, the base image and the two programs; skips when that is not possible here.
prepare_images() {
    prepare_build
    local wanted=()
    have docker || wanted+=(docker.io)
    docker compose version >/dev/null 2>&1 || have docker-compose || wanted+=(docker-compose)
    docker info >/dev/null 2>&1 || have dockerd || wanted+=(docker.io)
    docker info >/dev/null 2>&1 || have ip || wanted+=(iproute2)
    docker info >/dev/null 2>&1 || have iptables || wanted+=(iptables)
    [ -f "$base_tar" ] || have mmdebstrap || wanted+=(mmdebstrap)
    if [ "${#wanted[@]}" -gt 0 ]; then
        install_packages "${wanted[@]}" || skip "$suite: missing ${wanted[*]} (apt-get install ${wanted[*]})"
    fi

    if [ ! -f "$base_tar" ]; then
        say "making the base image from Debian packages"
        mkdir -p "$SEPTEMBER_CACHE"
        mmdebstrap --quiet --variant=minbase --include=ca-certificates,bubblewrap,git,python3-minimal \
            bookworm - > "$base_tar.new" || skip "$suite: the base image could not be made (mmdebstrap failed)"
        mv "$base_tar.new" "$base_tar"
    fi

    [ -z "${SEPTEMBER_PROGRAMS:-}" ] || return 0
    say "building the programs, linked statically"
    local host
    host=$(rustc -vV | sed -n 's/^host: //p')
    RUSTFLAGS="-C target-feature=+crt-static" \
        cargo build --release --locked --workspace --bin september-engine --bin bap-engine --target "$host" --quiet
    mkdir -p "$programs"
    for program in september-engine bap-engine; do
        cp "$target/$host/release/$program" "$programs/$program.static"
    done
}

# Imports the base image as $project:base and makes $project:builder, which carries the programs. Sets BUILDER_IMAGE
# and BASE_IMAGE, the arguments of both Dockerfiles.
make_builder() {
    docker import "$base_tar" "$project:base" >/dev/null || fail "the base image could not be imported"
    mkdir -p "$work/builder"
    for program in september-engine bap-engine; do
        cp "$programs/$program.static" "$work/builder/$program"
    done
    printf 'FROM %s\nCOPY september-engine bap-engine /prebuilt/\n' "$project:base" > "$work/builder/Dockerfile"
    docker build -q -t "$project:builder" "$work/builder" >/dev/null 2>&1 || fail "the builder image did not build"
    export BUILDER_IMAGE=$project:builder BASE_IMAGE=$project:base
}

# quietly COMMAND...: its output only when it fails.
quietly() {
    "$@" > "$work/log" 2>&1 || { cat "$work/log" >&2; fail "failed: $*"; }
}

image_sizes() {
    for image in "$@"; do
        printf '%-40s %7.1f MB\n' "$image" "$(docker image inspect -f '{{.Size}}' "$image" | awk '{print $1/1e6}')"
    done
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

# The script's main: prepares, finds or starts a daemon, checks.
with_daemon() {
    if [ "${1:-}" = in-namespaces ]; then
        private_daemon
        return
    fi
    prepare_images
    ! declare -F prepare_suite >/dev/null || prepare_suite
    if docker info >/dev/null 2>&1; then
        check
    elif is_root; then
        local outcome=0
        mkdir -p "$SEPTEMBER_CACHE"
        # One private daemon at a time: they share a directory. Half an hour is longer than any of these tests.
        flock --wait 1800 "$SEPTEMBER_CACHE/docker.lock" \
            unshare --net --mount bash "scripts/$(basename "$0")" in-namespaces || outcome=$?
        [ "$outcome" != 78 ] || skip "$suite: no Docker daemon answers and a private one does not start here"
        exit "$outcome"
    else
        skip "$suite: no Docker daemon answers (start one, or run as root)"
    fi
}
