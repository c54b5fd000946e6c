# The server for a GPU node: `docker run --gpus all`. CUDA's libraries come with the torch wheels, the driver from the host.
# Without a GPU: `docker build --build-arg TORCH_INDEX=...` with the index of torch's CPU wheels, which pytorch.org names,
# leaves their 5 GB out. `--build-arg EXTRAS=web,ray` adds what an executor or a tracker needs (pyproject.toml).
FROM python:3.12-slim AS build
ARG EXTRAS=web
ARG TORCH_INDEX=
WORKDIR /src
RUN python -m venv /opt/caikit_pt
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY caikit_pt caikit_pt
# The same constraints as everywhere else; a constraint on what the build itself needs, too.
RUN /opt/caikit_pt/bin/pip install --no-cache-dir -U -c constraints.txt pip setuptools \
    && /opt/caikit_pt/bin/pip install --no-cache-dir --no-build-isolation -c constraints.txt \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} ".[$EXTRAS]"

FROM python:3.12-slim
RUN useradd --uid 1000 --create-home caikit \
    && install -d -o caikit /data/base_models /data/source_prompts /data/training /data/models /data/state \
        /data/web
COPY --from=build /opt/caikit_pt /opt/caikit_pt
# caikit-health-probe reads caikit's own settings and these: it wouldn't know that there is no HTTP.
ENV PATH=/opt/caikit_pt/bin:$PATH \
    BASE_MODELS_DIR=/data/base_models \
    SOURCE_PROMPT_BASE=/data/source_prompts \
    DATA_STREAMS_FILE_SOURCE_BASE=/data/training \
    RUNTIME_LOCAL_MODELS_DIR=/data/models \
    STATE_DIR=/data/state \
    CACHE_DIR=/data/state/cache \
    WEB_DIRECTORY=/data/web \
    RUNTIME_HTTP_ENABLED=false \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
# What outlives the container: mount volumes here.
VOLUME ["/data/base_models", "/data/source_prompts", "/data/training", "/data/models", "/data/state", "/data/web"]
WORKDIR /home/caikit
USER caikit
# Whoever asks from outside of the container asks from another machine: without an identity (ACCESS_TOKENS_FILE with
# RUNTIME_TLS_SERVER_KEY and RUNTIME_TLS_SERVER_CERT, or RUNTIME_TLS_CLIENT_CERT with them) nobody out there is served,
# but where ALLOW_INSECURE=true is said. docs/security.md has both.
# `docker run ... caikit-pt web --server HOST:8085` is the page and OpenAI's API, at port 8087 (docs/web.md).
EXPOSE 8085 8086 8087
# Ready: base models of `preload` take their time. `caikit-pt health --live` asks for less (docs/restarts.md).
# It asks by the settings above, TLS among them.
HEALTHCHECK --interval=15s --timeout=10s --start-period=300s CMD ["caikit-pt", "health"]
# It needs drain_seconds, the grace period and five seconds more: docker stop -t 60.
STOPSIGNAL SIGTERM
CMD ["caikit-pt", "serve"]
