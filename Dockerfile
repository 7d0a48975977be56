# The image of readside: one static program, certificates to trust, and an empty directory for the replica. No shell,
# no package manager, not root, and nothing is written outside /replica.
#
# BUILD_IMAGE is pinned by its exact version. To pin it by content too, and to build where another
# registry has to be used, give it as a build argument:
#   docker build --build-arg BUILD_IMAGE=registry.example/rust@sha256:… .
ARG BUILD_IMAGE=docker.io/library/rust:1.95.0-bookworm
ARG RUNTIME_IMAGE=scratch

FROM ${BUILD_IMAGE} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /src
# Static, and without the paths of this stage in it, so that the same sources give the same program.
# CARGO_INCREMENTAL=0 for the same reason.
ENV CARGO_INCREMENTAL=0 \
    CARGO_TERM_COLOR=never \
    RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=/src=/readside --remap-path-prefix=/usr/local/cargo=/cargo"
ARG CARGO_BUILD_JOBS
# Dependencies alone: this layer is built again only when Cargo.toml or Cargo.lock change. The target
# is named because RUSTFLAGS would otherwise also be used for build scripts and macros.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src tests/it benches/side_by_side \
    && echo 'fn main() {}' | tee src/main.rs tests/it/main.rs benches/side_by_side/main.rs benches/footprint.rs benches/store.rs benches/decode.rs >/dev/null \
    && touch src/lib.rs \
    && cargo build --locked --release --bin readside --target "$(rustc -vV | sed -n 's/^host: //p')" \
    && rm -rf src
COPY src src
# cargo compares times: what stood in for the sources must look older.
RUN touch src/main.rs src/lib.rs \
    && cargo build --locked --release --bin readside --target "$(rustc -vV | sed -n 's/^host: //p')" \
    && install -D -m 0555 target/*/release/readside /out/readside \
    && install -D -m 0444 /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ca-certificates.crt \
    && install -d -m 0755 /out/etc/readside \
    && echo 'readside:x:65532:65532:readside:/:/sbin/nologin' >/out/etc/passwd \
    && echo 'readside:x:65532:' >/out/etc/group \
    && install -d -m 0770 /replica

FROM ${RUNTIME_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE
LABEL org.opencontainers.image.title="readside" \
      org.opencontainers.image.description="A local, read-only copy of other services' data in SQLite or Redis, kept fresh from their change events in Kafka" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"
COPY --from=build /out/ /
# An empty volume that is mounted here takes over the owner.
COPY --from=build --chown=65532:65532 /replica /replica
USER 65532:65532
EXPOSE 9464
ENTRYPOINT ["/readside"]
CMD ["run"]
