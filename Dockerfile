# The image of whitelistmcp: one binary on a distroless Debian, without a shell, for a person of no rights (65532).
# docs/deploy/container.md says how to build and run it.
#
# Both bases are named by the digest of their index of platforms. `docker buildx imagetools inspect NAME:TAG` tells the digest that a tag has
# today; change tag and digest together, those of the last stage in its labels as well.

# The C compiler that aws-lc wants is in the slim image too; it asks for no cmake.
FROM rust:1.95.0-slim-bookworm@sha256:d7482085ff5b415f84dba5647ae71606650bdef00db7aeb69f4b3d170c3e4082 AS toolchain

# --- The manifests, and an empty file for each target that they name. ---
FROM toolchain AS manifests
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src/bin/whitelistmcp tests/it benches \
 && touch src/lib.rs \
 && for target in build.rs src/bin/whitelistmcp/main.rs tests/it/main.rs benches/hop.rs; do echo 'fn main() {}' > "$target"; done

# --- What others wrote, compiled. ---
#
# The AWS SDK takes minutes and about 7 GiB, so this layer depends on nothing but the two manifests and stays while sources change. It is a
# layer and not a cache mount: layers can be kept in a registry, and a build machine that comes up empty has them too. cargo-chef
# would do the same for many crates; for one, the empty files do. What cargo took them for is thrown away again, since files copied later may
# be older than it.
FROM manifests AS dependencies
RUN cargo build --locked --release --bin whitelistmcp \
 && cargo clean --locked --release --package whitelistmcp

# --- What is in it: a CycloneDX list of every crate, for this platform and without what only the tests need. ---
#
# On its own branch of the build, so that nothing waits for it. `docker build --target bill --output DIRECTORY .` takes the file alone.
FROM toolchain AS cyclonedx
RUN cargo install --locked --version 0.5.9 cargo-cyclonedx

FROM manifests AS listed
COPY --from=cyclonedx /usr/local/cargo/bin/cargo-cyclonedx /usr/local/cargo/bin/
RUN cargo cyclonedx --format json --spec-version 1.5 --override-filename sbom.cdx

FROM scratch AS bill
COPY --from=listed /build/sbom.cdx.json /

# --- Our own sources. ---
FROM dependencies AS builder
COPY build.rs ./
COPY proto proto
COPY src src
RUN cargo build --locked --release --bin whitelistmcp \
 && mkdir -p /out/empty \
 && cp target/release/whitelistmcp /out/

# --- The image. ---
FROM gcr.io/distroless/cc-debian12:nonroot@sha256:9dac0a79194e45a7da0158a9c6da57b217585af0786db3845d1f0ec1a0dd182f
ARG VERSION=unversioned
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
# Where the sources and the documents are is up to who builds: `--label org.opencontainers.image.source=URL`, `…url`, `…documentation`.
LABEL org.opencontainers.image.title="whitelistmcp" \
      org.opencontainers.image.description="Opens and closes IP allow-list rules in AWS security groups, over MCP and gRPC" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.base.name="gcr.io/distroless/cc-debian12:nonroot" \
      org.opencontainers.image.base.digest="sha256:9dac0a79194e45a7da0158a9c6da57b217585af0786db3845d1f0ec1a0dd182f" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
COPY --from=builder /out/whitelistmcp /usr/local/bin/whitelistmcp
COPY --from=listed /build/sbom.cdx.json /usr/share/whitelistmcp/sbom.cdx.json
# What a new volume is mounted on gives it its owner. There is no VOLUME: an anonymous one would be believed to be kept, and go with the
# container. Without a volume of your own the core finds no place for its journal, and changes nothing.
COPY --from=builder /out/empty /etc/whitelistmcp
COPY --from=builder --chown=65532:65532 /out/empty /etc/whitelistmcp/certs
COPY --from=builder --chown=65532:65532 /out/empty /var/lib/whitelistmcp
USER 65532:65532
# MCP, WebSockets alone (where `[edge] websocket_listen` says so), gRPC.
EXPOSE 8080 8081 8443
# It drains on SIGTERM, for `[shutdown] lame_duck` and `grace`: 25 s unless told otherwise. Give it longer than that before it is killed.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --retries=3 CMD ["/usr/local/bin/whitelistmcp", "health"]
# Without a CMD: what follows the image's name says what to be (`core`, `edge`, `serve`), or the environment does (MCP_MODE). The
# configuration is named by WHITELISTMCP_CONFIG, which is not set here, so that the environment can be all of it.
ENTRYPOINT ["/usr/local/bin/whitelistmcp"]
