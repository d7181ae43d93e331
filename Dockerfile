# The gateway: one image for `serve` (the default), `simulate`, and the commands that talk to a running gateway.
#
#   BASE_IMAGE           any image with Python >= 3.11 and its venv module as `python3`, the same for both stages
#   LOCK                 requirements-otel.lock: with the packages for traces; requirements-parquet.lock: for Parquet
#   wheels/              packages from the build context, where it has them: `make wheels`. Without it pip asks its index
#   PIP_INDEX_URL        an index of your own
#   PIP_NO_INDEX         1: nothing but wheels/; the build then needs no network
#   VERSION, REVISION    what the labels say
#
# Each package is held to its hash in the lock file. The same inputs give the same layers: no file carries the time
# of the build, and byte code is checked by content, not by time. Nothing here needs BuildKit.
ARG BASE_IMAGE=python:3.13-slim

FROM ${BASE_IMAGE} AS build
ARG LOCK=requirements.lock
ARG PIP_INDEX_URL=""
ARG PIP_NO_INDEX=""
ARG SOURCE_DATE_EPOCH=1735689600
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_NO_COMPILE=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONHASHSEED=0
WORKDIR /src
# The pattern matches nothing where there is no wheels/, and the lock file keeps the instruction valid.
COPY ${LOCK} wheel[s] /src/wheels/
# Two environments: /build has pip, /opt/gateway is what ships.
RUN python3 -m venv /build && python3 -m venv --without-pip /opt/gateway \
    && /build/bin/pip --python /opt/gateway/bin/python install --quiet \
      --only-binary :all: --require-hashes --find-links /src/wheels -r "/src/wheels/${LOCK}"
COPY pyproject.toml gateway.example.toml /src/
COPY gateway /src/gateway
RUN /build/bin/pip --python /opt/gateway/bin/python install --quiet --no-deps --no-build-isolation --no-index /src \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/gateway/lib \
    && mkdir -p /image/opt /image/data /image/etc/gateway \
    && cp -a /opt/gateway /image/opt/gateway \
    && chown 65532:65532 /image/data && chmod 700 /image/data \
    && find /image -exec touch --no-dereference --date="@${SOURCE_DATE_EPOCH}" {} +

FROM ${BASE_IMAGE}
ARG VERSION=""
ARG REVISION=""
LABEL org.opencontainers.image.title="openresponses-gateway" \
      org.opencontainers.image.description="A self-hosted OpenResponses gateway: local keys, limits, credits and routing in front of an LLM provider" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# What only describes the image comes before its files: a builder without BuildKit makes a container for each line.
ENV PATH=/opt/gateway/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/data \
    GATEWAY_CONFIG=/etc/gateway/gateway.toml \
    GATEWAY_STORE__DATA_DIR=/data
# A number, so that Kubernetes can see that it is not root.
USER 65532:65532
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=4s --start-period=60s --retries=3 \
  CMD ["/opt/gateway/bin/python", "-ISc", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8080, timeout=3); c.request('GET', '/readyz'); raise SystemExit(c.getresponse().status != 200)"]
# No shell in between: the gateway is process 1 and gets the signals.
ENTRYPOINT ["gateway"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8080"]
COPY --from=build /image/ /
WORKDIR /data
