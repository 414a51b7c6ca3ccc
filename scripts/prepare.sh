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

# Between two signs of life of a build. Longer looks like a build that hangs; shorter fills the screen.
TELL_EVERY=30

# What the compiler works on at this moment, for this checkout: rustc is told each crate's name and where to put it.
compiling() {
    case $target in
    /*) into=$target/release ;;
    *) into=$PWD/$target/release ;;
    esac
    for words in /proc/[0-9]*/cmdline; do
        tr '\0' ' ' 2>/dev/null < "$words" | sed -n "s|.*--crate-name \([^ ]*\) .*$into/.*|\1|p"
    done 2>/dev/null | sort -u | head -n 4 | paste -sd ' ' -
}

# tell_of_build SHELL SINCE: a line on standard error now and then, while that shell lives. Asks for nothing on standard
# output: who reads it waits for the last one that holds it.
tell_of_build() {
    while sleep "$TELL_EVERY" > /dev/null 2>&1 && kill -0 "$1" 2>/dev/null; do
        now=$(compiling)
        # On a terminal cargo keeps a line of its own; it draws that again below ours.
        [ ! -t 2 ] || printf '\r\033[K' >&2
        say "still building after $(($(date +%s) - $2)) s${now:+: $now}"
    done
}

# Builds the two programs. All packages are named, because cargo gives the same library other features for fewer.
build_programs() {
    if [ ! -x "$target/release/september-engine" ] || [ ! -x "$target/release/bap-engine" ]; then
        say "Building the programs (release). About 400 crates the first time, some ten minutes on two free cores, the last of them on the programs themselves; later only what changed."
    fi
    began=$(date +%s)
    # cargo stays in the foreground, where Ctrl-C reaches it; the line beside it ends with this shell at the latest.
    tell_of_build "$$" "$began" > /dev/null &
    teller=$!
    trap 'kill "$teller" 2>/dev/null; exit 130' INT
    built=0
    cargo build --release --locked --workspace --bin september-engine --bin bap-engine || built=$?
    trap - INT
    kill "$teller" 2>/dev/null || true
    wait "$teller" 2>/dev/null || true
    [ "$built" = 0 ] || exit "$built"
    say "Built in $(($(date +%s) - began)) s."
}
