# The Engine's image. Two targets:
#
#   prod      the program with what its tools need (sh, git, python3, bubblewrap, CA certificates); the default
#   minimal   the program alone, FROM scratch: no shell, so no `bash` tool
#
#   docker build -f deploy/engine.Dockerfile --target prod -t september-engine .
#
# Both base images are arguments, so a closed network builds from its own. A builder image that already
# carries the program as /prebuilt/september-engine is taken at its word and nothing is compiled: that is
# how the tests build both targets without any registry.
#
# The program is linked statically, so it depends on no library of the base image and the same file is in
# both targets. Only instructions of the classic builder are used: BuildKit works, but is not needed.

ARG BUILDER_IMAGE=rust:1.95.0-bookworm
ARG BASE_IMAGE=debian:12.12-slim

# --- build: the program, and a root file system for `minimal` -------------------------------------------
FROM ${BUILDER_IMAGE} AS build
WORKDIR /src
COPY . .
# The context has no history: --build-arg COMMIT=$(git rev-parse --short=12 HEAD) tells the program its commit.
ARG COMMIT=
ENV SEPTEMBER_COMMIT=${COMMIT}
RUN set -eu; \
    mkdir -p /out/rootfs/data /out/rootfs/catalog /out/rootfs/tmp /out/rootfs/etc/ssl/certs; \
    if [ -x /prebuilt/september-engine ]; then \
        cp /prebuilt/september-engine /out/rootfs/september-engine; \
    else \
        host=$(rustc -vV | sed -n 's/^host: //p'); \
        RUSTFLAGS="-C target-feature=+crt-static" \
            cargo build --release --locked --package engine --bin september-engine --target "$host"; \
        cp "target/$host/release/september-engine" /out/rootfs/september-engine; \
    fi; \
    chmod 0755 /out/rootfs/september-engine; \
    chmod 0700 /out/rootfs/data; \
    chmod 1777 /out/rootfs/tmp; \
    if [ -e /etc/ssl/certs/ca-certificates.crt ]; then \
        cp -L /etc/ssl/certs/ca-certificates.crt /out/rootfs/etc/ssl/certs/ca-certificates.crt; \
    fi

# SQLITE_TMPDIR: SQLite's temporary files stay in the volume, so that they work under a read-only root and no user
# data lies elsewhere.

# --- minimal: the program alone -------------------------------------------------------------------------
FROM scratch AS minimal
COPY --from=build --chown=10001:10001 /out/rootfs/ /
ENV ENGINE_HOST=0.0.0.0 \
    ENGINE_SANDBOX=best-effort \
    SQLITE_DB_PATH=/data/brain.sqlite \
    SQLITE_TMPDIR=/data
USER 10001:10001
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 CMD ["/september-engine", "health"]
ENTRYPOINT ["/september-engine"]
CMD ["serve"]

# --- prod: the program and what its tools need ----------------------------------------------------------
FROM ${BASE_IMAGE} AS prod
RUN set -eu; \
    missing=; \
    for pair in sh:dash git:git python3:python3 bwrap:bubblewrap update-ca-certificates:ca-certificates; do \
        command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair##*:}"; \
    done; \
    if [ -n "$missing" ]; then \
        apt-get update; \
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing; \
        rm -rf /var/lib/apt/lists/*; \
    fi; \
    echo 'engine:x:10001:' >> /etc/group; \
    echo 'engine:x:10001:10001:september-engine:/data:/usr/sbin/nologin' >> /etc/passwd; \
    mkdir -p /data /catalog; \
    chown 10001:10001 /data; \
    chmod 0700 /data
COPY --from=build /out/rootfs/september-engine /usr/local/bin/september-engine
COPY deploy/with-generated-key /usr/local/bin/with-generated-key
RUN chmod 0755 /usr/local/bin/with-generated-key; \
    ln -s september-engine /usr/local/bin/sqlite3
ENV ENGINE_HOST=0.0.0.0 \
    ENGINE_SANDBOX=required \
    SQLITE_DB_PATH=/data/brain.sqlite \
    SQLITE_TMPDIR=/data
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 CMD ["september-engine", "health"]
ENTRYPOINT ["september-engine"]
CMD ["serve"]
