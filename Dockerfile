# Engram in a container.
#
#   docker build -t engram .                  the server on CPUs (stage runtime)
#   docker build -t engram-dev --target dev . the tool chain, to work in
#   docker run -p 127.0.0.1:8001:8001 -p 127.0.0.1:8002:8002 engram --insecure
#
# Without --insecure it starts only with TLS and keys, since it listens on all
# addresses of the container (deploy/README.md). Everybody who reaches it then
# may do everything; here that is this machine alone.
#
# On NVIDIA GPUs the stages are the same on other bases:
#
#   docker build -t engram-cuda --target runtime-cuda --build-arg PRESET=cuda \
#     --build-arg BUILD_BASE=nvidia/cuda:13.0.1-devel-ubuntu24.04 \
#     --build-arg RUNTIME_BASE=nvidia/cuda:13.0.1-runtime-ubuntu24.04 .
#
# scripts/check-image builds the stage runtime and tries it; with --cuda it builds
# runtime-cuda on Debian with the machine's own CUDA toolkit, without a GPU.
#
# Both bases must be the same release of Debian or Ubuntu, since the program
# built on one runs with the libraries of the other.
ARG BUILD_BASE=debian:bookworm-slim
ARG RUNTIME_BASE=debian:bookworm-slim

# The tool chain, from the one list of packages that there is.
FROM ${BUILD_BASE} AS dev
WORKDIR /engram
COPY scripts/setup scripts/setup
RUN scripts/setup build && rm -rf /var/lib/apt/lists/* /var/cache/apt/*

FROM dev AS build
ARG PRESET=release
# Compute capabilities that the preset cuda makes code for.
ARG CUDA_ARCHITECTURES="80;86;89;90;100;120"
# How many compilers at once; empty: one per core.
ARG JOBS
COPY . .
RUN --mount=type=cache,target=/root/.cache/ccache \
    export PATH="${PATH}:/usr/local/cuda/bin" && \
    cmake --preset "${PRESET}" -DENGRAM_TESTS=OFF \
      -DENGRAM_CUDA_ARCHITECTURES="${CUDA_ARCHITECTURES}" && \
    cmake --build --preset "${PRESET}" --parallel ${JOBS} \
      --target engram-server engram && \
    mkdir -p /image/bin && \
    cd "build/${PRESET}/bin" && \
    strip -o /image/bin/engram-server engram-server && \
    strip -o /image/bin/engram engram && \
    # Packages that hold the shared libraries of the two programs.
    ldd engram-server engram | awk '$2 == "=>" { print $3 }' | sort -u | \
      sed 's|.*/|*/|' | xargs dpkg-query --search | cut -d : -f 1 | \
      sort -u > /image/packages

FROM ${RUNTIME_BASE} AS runtime
COPY --from=build /image/packages /tmp/packages
RUN apt-get update -qq -o Acquire::Retries=3 && \
    DEBIAN_FRONTEND=noninteractive xargs -a /tmp/packages \
      apt-get install -y -qq --no-install-recommends -o Acquire::Retries=3 && \
    rm -rf /tmp/packages /var/lib/apt/lists/* /var/cache/apt/* \
      /var/cache/debconf/*-old /var/cache/ldconfig/aux-cache \
      /var/log/apt /var/log/*.log /var/lib/dpkg/*-old && \
    groupadd --gid 10001 engram && \
    useradd --uid 10001 --gid engram --no-create-home --home-dir /nonexistent \
      --shell /usr/sbin/nologin --comment "Engram server" engram
COPY --from=build /image/bin/ /usr/bin/
COPY model/zoo/ /usr/share/engram/zoo/
ENV ENGRAM_ZOO=/usr/share/engram/zoo \
    ENGRAM_GRPC_ADDRESS=0.0.0.0:8001 \
    ENGRAM_METRICS_ADDRESS=0.0.0.0:8002 \
    ENGRAM_SERVER=127.0.0.1:8001
EXPOSE 8001 8002
# By number, so that an orchestrator can see that it is not root.
USER 10001:10001
# Asks the server itself, on a new connection. Whoever moves the gRPC port sets
# ENGRAM_SERVER too.
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --retries=3 \
  CMD ["engram", "health", "--deadline", "5s"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["engram-server"]

FROM runtime AS runtime-cuda
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

# Without --target: the server on CPUs.
FROM runtime
