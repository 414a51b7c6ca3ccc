# The orchestrator's image: the program, CA certificates, and nothing else.
#
#   docker build -f deploy/orchestrator.Dockerfile --target prod -t bap-engine:0.1.0 .
#
# There is no shell in it; everything an operator needs is a command of the program:
#
#   docker exec CONTAINER bap-engine doctor
#
# The builder image is an argument, so a closed network builds from its own. One that already carries the program as
# /prebuilt/bap-engine is taken at its word and nothing is compiled: that is how the tests build without any registry.
# Only instructions of the classic builder are used: BuildKit works, but is not needed.
#
# No HEALTHCHECK: who runs the container asks `GET /health` on port 8000 (docs/guides/production.md, step 9).

ARG BUILDER_IMAGE=rust:1.95.0-bookworm

# --- build: the program, linked statically, and a root file system -----------------------------------------
FROM ${BUILDER_IMAGE} AS build
WORKDIR /src
COPY . .
# The context has no history: --build-arg COMMIT=$(git rev-parse --short=12 HEAD) tells the program its commit.
ARG COMMIT=
ENV SEPTEMBER_COMMIT=${COMMIT}
RUN set -eu; \
    mkdir -p /out/rootfs/usr/local/bin /out/rootfs/etc/ssl/certs /out/rootfs/tmp /out/data/engine-data /out/data/catalog; \
    if [ -x /prebuilt/bap-engine ]; then \
        cp /prebuilt/bap-engine /out/rootfs/usr/local/bin/bap-engine; \
    else \
        host=$(rustc -vV | sed -n 's/^host: //p'); \
        RUSTFLAGS="-C target-feature=+crt-static" \
            cargo build --release --locked --package orchestrator --bin bap-engine --target "$host"; \
        cp "target/$host/release/bap-engine" /out/rootfs/usr/local/bin/bap-engine; \
    fi; \
    chmod 0755 /out/rootfs/usr/local/bin/bap-engine; \
    chmod 1777 /out/rootfs/tmp; \
    if [ -e /etc/ssl/certs/ca-certificates.crt ]; then \
        cp -L /etc/ssl/certs/ca-certificates.crt /out/rootfs/etc/ssl/certs/ca-certificates.crt; \
    fi

# --- prod ---------------------------------------------------------------------------------------------------
FROM scratch AS prod
COPY --from=build /out/rootfs/ /
# Where the data root and the catalog are mounted. It writes nowhere else: a read-only root is fine.
COPY --from=build --chown=10001:10001 /out/data/ /data/
ENV ORCH_BIND=0.0.0.0:8000 \
    ORCH_DATA_ROOT_LOCAL_PATH=/data/engine-data
USER 10001:10001
WORKDIR /data
EXPOSE 8000
STOPSIGNAL SIGTERM
ENTRYPOINT ["bap-engine"]
CMD ["serve"]
