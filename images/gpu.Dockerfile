# The stages that compute, on NVIDIA GPUs: `make images` builds it, docs/containers.md explains it.
# cpu.Dockerfile differs in what its head says, the build of torch and the labels; a test holds them together.
# The base has no CUDA: torch brings every library it needs of it, as packages that the lock pins, and the node's driver the rest. A base
# of CUDA's own would hold the same gigabytes twice, in other versions.

# Needs python3, 3.11 or newer, with venv. A release names its base by digest: name@sha256:…
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm
# The only build there is, as on PyPI; where an index has several, the one of the lock's CUDA, cu130.
ARG TORCH_BUILD=

# Wheels that pip takes before it asks an index; none, but for `--build-context wheels=FOLDER`.
FROM scratch AS wheels

# checkov:skip=CKV_DOCKER_7:the default of BASE_IMAGE names its version
FROM ${BASE_IMAGE} AS wanted
WORKDIR /wanted
COPY pyproject.toml constraints.txt images/requirements.py ./
ARG TORCH_BUILD
# Of all that pyproject.toml says only this can change what is installed.
RUN python3 requirements.py list "${TORCH_BUILD}" > requirements.txt

FROM ${BASE_IMAGE} AS dependencies
RUN mkdir /work && chown 10001:10001 /work && python3 -m venv --without-pip /opt/apportion
WORKDIR /opt/apportion/share/apportion
COPY constraints.txt images/requirements.py ./
COPY --from=wanted /wanted/requirements.txt ./
ARG TORCH_BUILD
# Where packages come from, and whom to trust there, is for the builder to say: as secrets they leave nothing in the image or its history.
# The lock holds for what builds a package, too. pip does not stay. Bytecode is not compared with its source: neither ever changes.
RUN --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.crt --mount=type=bind,from=wheels,target=/run/wheels \
    umask 022 \
    && python3 -m venv /tmp/tools \
    && export PIP_CONFIG_FILE=/run/secrets/pip.conf PIP_CONSTRAINT=$PWD/constraints.txt PIP_BUILD_CONSTRAINT=$PWD/constraints.txt \
    && if [ -e /run/secrets/ca.crt ]; then export PIP_CERT=/run/secrets/ca.crt; fi \
    && /tmp/tools/bin/python -m pip --python /opt/apportion/bin/python install --quiet --no-input --disable-pip-version-check \
        --no-cache-dir --no-compile --find-links /run/wheels --requirement requirements.txt \
    && rm -r /tmp/tools \
    && /opt/apportion/bin/python -B requirements.py check "${TORCH_BUILD}" \
    && { /opt/apportion/bin/python -B -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/apportion/lib \
        || echo "compiled all but the files above, which are for another Python"; }

FROM dependencies AS code
WORKDIR /build
RUN python3 -m venv /tools
COPY pyproject.toml LICENSE NOTICE README.md ./
COPY src src
COPY components components
COPY pipelines pipelines
COPY configs /code/configs
RUN umask 022 \
    && set -- --quiet --disable-pip-version-check --no-deps --no-index --no-cache-dir \
    && /tools/bin/python -m pip --python /opt/apportion/bin/python wheel "$@" --no-build-isolation --wheel-dir /wheel . \
    && /tools/bin/python -m pip --python /opt/apportion/bin/python install "$@" --no-compile --prefix /code /wheel/*.whl \
    && /opt/apportion/bin/python -B -m compileall -q --invalidation-mode unchecked-hash -s /code -p /opt/apportion /code/lib \
    && chmod -R go-w /code

# A layer of a few megabytes, the only one that a change of code makes anew.
FROM dependencies
COPY --from=code /code /opt/apportion
# A user by number has no name or home of its own; every cache is in /work or off.
ENV PATH=/opt/apportion/bin:$PATH \
    HOME=/work \
    TMPDIR=/tmp \
    USER=apportion \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/work/.cache \
    HF_HOME=/work/.cache/huggingface \
    HF_HUB_OFFLINE=1 \
    MLFLOW_DISABLE_TELEMETRY=true \
    GIT_PYTHON_REFRESH=quiet \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /work
# All that is written to; everything else may be read-only.
VOLUME ["/work", "/tmp"]
USER 10001:10001
# Whatever the base has: KFP and the chart name the command themselves.
ENTRYPOINT []
CMD ["apportion", "--help"]
# checkov:skip=CKV_DOCKER_2:a stage is a task that ends, and Kubernetes reads no HEALTHCHECK
ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="apportion/gpu" \
      org.opencontainers.image.description="Credits the contributors of a diffusion model's training data: every stage of a round, on NVIDIA GPUs" \
      org.opencontainers.image.licenses="Apache-2.0 AND CC-BY-SA-4.0 AND LicenseRef-NVIDIA-CUDA" \
      org.opencontainers.image.source="https://github.com/apportion/apportion" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
