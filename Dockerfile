# Chiasma with CUDA, for one or several devices.
#
#   docker build -t chiasma .
#   docker build -t chiasma --build-arg BASE=nvidia/cuda:12.6.3-base-ubuntu24.04 .
#
# BASE is any Debian or Ubuntu image with Python 3.11 or newer among its packages. PyTorch's wheels bring CUDA's
# libraries with them, so of the base only the hooks for the driver are needed; without a graphics card ubuntu:24.04 does.
# The driver of the host must know the CUDA version of the wheels (`nvidia-smi` there says which it knows at most).
#
# Data come in read-only, runs stay in a volume:
#
#   docker run --rm --gpus all -v "$PWD/hateful_memes:/data:ro" -v chiasma:/work chiasma \
#     chiasma train /data --config cross_attention
#
# Two devices (NCCL passes tensors through shared memory, of which Docker gives 64 MiB unless told otherwise):
#
#   docker run --rm --gpus 2 --shm-size 8g -v "$PWD/hateful_memes:/data:ro" -v chiasma:/work chiasma \
#     torchrun --nproc_per_node=2 -m chiasma train /data --config hateful_memes_ddp

ARG BASE=nvidia/cuda:12.8.1-base-ubuntu24.04
FROM ${BASE}

# Without versions, which differ from base to base.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

ENV VIRTUAL_ENV=/opt/chiasma
ENV PATH=/opt/chiasma/bin:$PATH
RUN python3 -m venv "$VIRTUAL_ENV"

# PyTorch in a layer of its own: it is by far the largest part, and changes only with the pins.
WORKDIR /src
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt torch

COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir --constraint constraints.txt '.[tracking,hydra,pretrained]'

# An ordinary user who owns nothing but /work; by number, so that a cluster can see that it is not root.
RUN useradd --uid 10001 --create-home chiasma \
    && mkdir --parents /work/runs /work/cache /work/state \
    && chown --recursive chiasma: /work
USER 10001
WORKDIR /work
VOLUME /work

# Runs, prepared data, and how often each test split was opened: all of it outlives the container.
ENV CHIASMA_RUNS=/work/runs CHIASMA_CACHE=/work/cache CHIASMA_STATE=/work/state
# Downloaded backbones too.
ENV HF_HOME=/work/cache/huggingface

CMD ["chiasma", "--help"]
