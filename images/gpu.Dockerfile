# The image for the stages that compute, on NVIDIA GPUs. `make images` builds it; docs/containers.md explains
# it. cpu.Dockerfile differs only in its head, the build of torch, two variables and the labels, which a test
# checks. The base has no CUDA: torch's packages, which the lock pins, contain the libraries, and the node has
# the driver. A base with CUDA would contain the same gigabytes twice, in different versions.

# The base needs python3, 3.11 or newer, with venv. A release names its base by digest: name@sha256:…
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm
# Empty for the only build of an index, as on PyPI. Where an index has several, the build for the lock's CUDA:
# cu130.
ARG TORCH_BUILD=

# Wheels that pip prefers to those of an index: none, unless the build has `--build-context wheels=FOLDER`.
FROM scratch AS wheels

# checkov:skip=CKV_DOCKER_7:the default of BASE_IMAGE names its version
FROM ${BASE_IMAGE} AS wanted
WORKDIR /wanted
COPY pyproject.toml constraints.txt images/requirements.py ./
ARG TORCH_BUILD
# The next stage copies only this list, so other changes of pyproject.toml do not install anything again.
RUN python3 requirements.py list "${TORCH_BUILD}" > requirements.txt

FROM ${BASE_IMAGE} AS dependencies
RUN mkdir /work && chown 10001:10001 /work && python3 -m venv --without-pip /opt/apportion
WORKDIR /opt/apportion/share/apportion
COPY constraints.txt images/requirements.py ./
COPY --from=wanted /wanted/requirements.txt ./
ARG TORCH_BUILD
# The builder chooses the index and its certificate authorities. As secrets they are neither in the image nor
# in its history. The lock also pins the packages that build others. pip is removed. Bytecode is not compared
# with its source, because neither changes.
RUN --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.crt \
    --mount=type=bind,from=wheels,target=/run/wheels \
    umask 022 \
    && python3 -m venv /tmp/tools \
    && export PIP_CONFIG_FILE=/run/secrets/pip.conf \
        PIP_CONSTRAINT=$PWD/constraints.txt PIP_BUILD_CONSTRAINT=$PWD/constraints.txt \
    && if [ -e /run/secrets/ca.crt ]; then export PIP_CERT=/run/secrets/ca.crt; fi \
    && /tmp/tools/bin/python -m pip --python /opt/apportion/bin/python install \
        --quiet --no-input --disable-pip-version-check --no-cache-dir --no-compile \
        --find-links /run/wheels --requirement requirements.txt \
    && rm -r /tmp/tools \
    && /opt/apportion/bin/python -B requirements.py check "${TORCH_BUILD}" \
    && { /opt/apportion/bin/python -B -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/apportion/lib \
        || echo "compiled all but the files above, which are for another version of Python"; }

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
    && /tools/bin/python -m pip --python /opt/apportion/bin/python wheel "$@" \
        --no-build-isolation --wheel-dir /wheel . \
    && /tools/bin/python -m pip --python /opt/apportion/bin/python install "$@" \
        --no-compile --prefix /code /wheel/*.whl \
    && /opt/apportion/bin/python -B -m compileall -q --invalidation-mode unchecked-hash \
        -s /code -p /opt/apportion /code/lib \
    && chmod -R go-w /code

# A layer of a few megabytes, the only one that is rebuilt after a change of code.
FROM dependencies
COPY --from=code /code /opt/apportion
# User 10001 has no name and no home, so both are set here. Every cache is in /work or switched off.
# GKE mounts the driver at LD_LIBRARY_PATH; elsewhere there is no such folder.
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
    NVIDIA_DRIVER_CAPABILITIES=compute,utility LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/usr/local/nvidia/lib64
WORKDIR /work
# The only folders that are written to. The rest may be read-only.
VOLUME ["/work", "/tmp"]
USER 10001:10001
# No entry point of the base: KFP and the chart set the command themselves.
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
