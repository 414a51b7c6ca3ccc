# What a bare machine lacks: installed when that is allowed, named in one line when it is not.
# Sourced by up.sh and test.sh; POSIX sh.

# Scripts are run from the top of the checkout.
cd "$(dirname "$0")/.." || exit 1

# Downloads and built tools that outlive one checkout; nothing in it is precious.
SEPTEMBER_CACHE=${SEPTEMBER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/september}

# Where cargo puts what it builds.
target=${CARGO_TARGET_DIR:-${CARGO_BUILD_TARGET_DIR:-target}}

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }
is_root() { [ "$(id -u)" = 0 ]; }
have() { command -v "$1" >/dev/null 2>&1; }

# runs_as FILE PROGRAM: true while the process whose number FILE holds is that program. A file that a killed process left
# is nobody's address: somebody else may listen there by now, and would be sent a key. The system knows a program by the
# first 15 characters of its name, and lists one that ended until its parent has asked how.
runs_as() {
    [ -s "$1" ] || return 1
    pid=$(head -n 1 "$1")
    status=$(sed -n 's/^Name:[[:space:]]*//p; s/^State:[[:space:]]*Z.*/ended/p' "/proc/$pid/status" 2>/dev/null) || return 1
    [ "$status" = "$(printf '%.15s' "$2")" ]
}

# port_is_free PORT: true when nothing listens there on 127.0.0.1; 7 is curl's word for "refused".
port_is_free() {
    refused=0
    curl -s -o /dev/null --max-time 2 "http://127.0.0.1:$1/" || refused=$?
    [ "$refused" = 7 ]
}

# free_port FROM: the first free one at or above it, within a hundred.
free_port() {
    port=$1
    while ! port_is_free "$port"; do
        port=$((port + 1))
        [ "$port" -lt $(($1 + 100)) ] || die "ports $1 to $port are all taken; set ENGINE_PORT"
    done
    printf '%s\n' "$port"
}

# install_packages PACKAGE...: quietly, with Debian's package manager, as root. False when that is not possible.
install_packages() {
    if ! is_root || ! have apt-get; then
        return 1
    fi
    say "installing: $*"
    if [ -z "${apt_lists_are_fresh:-}" ]; then
        apt-get update -qq >/dev/null 2>&1 || say "warning: apt-get update failed; trying with the lists there are"
        apt_lists_are_fresh=yes
    fi
    # RUNLEVEL=1 keeps a package's service from being started by its installation.
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$@" >/dev/null 2>&1
}

# A C compiler is needed for the bundled SQLite; cargo and rustc for everything else.
prepare_build() {
    if ! have cargo && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
        PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
        export PATH
    fi
    have cargo || die "no Rust toolchain found. Install one with
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    found=$(rustc --version | cut -d ' ' -f 2)
    oldest=$(printf '%s\n%s\n' "$wanted" "${found:-0}" | sort -V | head -n 1)
    [ "$oldest" = "$wanted" ] || die "rustc ${found:-(none)} is too old, $wanted or newer is needed. Update with
    rustup update stable"
    if ! have cc || ! printf '#include <stdlib.h>\n' | cc -x c -fsyntax-only - >/dev/null 2>&1; then
        install_packages gcc libc6-dev || die "a C compiler is needed to build SQLite. Install one with
    sudo apt-get install -y gcc libc6-dev"
    fi
}
