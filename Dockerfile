# An image for `materia submit --target kuberay`, and for any node with cards: what tools/locks/gpu.txt lists, each file compared
# with its SHA-256, and this clone. Linux x86-64. Weights are not in it: they come from a volume.
#
#   docker build --tag REGISTRY/prima-materia:0.1.0 .
FROM python:3.11.13-slim-bookworm
# wget: KubeRay's probes. A compiler: groundingdino-py has no wheel, and triton compiles while it runs. Debian has only the newest
# version of each for a release, so that a pinned one could soon not be had.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ wget \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 1000 materia
ENV PATH=/opt/prima-materia/bin:$PATH RAY_USAGE_STATS_ENABLED=0
WORKDIR /src
# The environment comes first, and stays as it is while only our code changes; as `make gpu` makes it.
COPY tools/locks/gpu.txt tools/locks/gpu-built.txt ./
RUN python -m venv /opt/prima-materia \
 && sed -n '/^uv==/,/[^\\]$/p' gpu.txt > uv.txt \
 && pip install --no-cache-dir --no-deps --require-hashes --requirement uv.txt \
 && uv pip install --no-cache --python /opt/prima-materia --no-deps --require-hashes --requirement gpu.txt \
 && CUDA_VISIBLE_DEVICES="" uv pip install --no-cache --python /opt/prima-materia --no-deps --no-build-isolation --require-hashes \
      --requirement gpu-built.txt
COPY . .
RUN uv pip install --no-cache --python /opt/prima-materia --no-deps .
USER 1000
WORKDIR /home/materia
CMD ["materia", "--help"]
