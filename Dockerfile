# An image of the command line and the page.
#   docker build -t talkinghead .                            for CPUs
#   docker build -t talkinghead:cuda --target cuda .         for NVIDIA GPUs, with the CUDA kernels
#   docker run --rm -p 8000:8000 -v talkinghead:/data talkinghead
#   docker run --rm -v "$PWD":/work talkinghead animate anna.safetensors --drive bob.mp4 --out out.mp4
# Checked by hadolint; not built yet.

FROM nvidia/cuda:13.0.2-devel-ubuntu24.04 AS cuda
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
	&& apt-get install -y --no-install-recommends g++ python3 python3-dev python3-venv \
	&& rm -rf /var/lib/apt/lists/*
ENV VIRTUAL_ENV=/opt/talkinghead PATH=/opt/talkinghead/bin:$PATH
RUN python3 -m venv /opt/talkinghead
COPY constraints.txt /src/
RUN pip install --no-cache-dir -c /src/constraints.txt torch --index-url https://download.pytorch.org/whl/cu130 \
	&& pip install --no-cache-dir "setuptools>=77,<85" "ninja>=1.11,<2"
COPY . /src
RUN TALKINGHEAD_BUILD=cuda pip install --no-cache-dir --no-build-isolation -c /src/constraints.txt \
	"/src[app,completion,heic,hub,onnx,train,web]" \
	&& useradd --uid 1001 --create-home user && mkdir -p /data /work && chown user /data /work
USER 1001
ENV XDG_DATA_HOME=/data
WORKDIR /work
EXPOSE 8000
ENTRYPOINT ["talkinghead"]
CMD ["web", "--host", "0.0.0.0"]

FROM python:3.12-slim-bookworm AS wheel
# hadolint ignore=DL3008
RUN apt-get update \
	&& apt-get install -y --no-install-recommends g++ \
	&& rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY constraints.txt .
RUN pip install --no-cache-dir -c constraints.txt torch --index-url https://download.pytorch.org/whl/cpu \
	&& pip install --no-cache-dir "setuptools>=77,<85" "ninja>=1.11,<2"
COPY . .
RUN TALKINGHEAD_BUILD=cpu pip wheel --no-cache-dir --no-build-isolation --no-deps -w /wheels .

# The last stage is what `docker build` makes: no compiler, no sources.
FROM python:3.12-slim-bookworm AS cpu
COPY constraints.txt /tmp/
RUN pip install --no-cache-dir -c /tmp/constraints.txt torch --index-url https://download.pytorch.org/whl/cpu
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir -c /tmp/constraints.txt \
	"$(echo /wheels/talkinghead-*.whl)[app,completion,heic,hub,onnx,train,web]" \
	&& useradd --uid 1001 --create-home user && mkdir -p /data /work && chown user /data /work
USER 1001
ENV XDG_DATA_HOME=/data
WORKDIR /work
EXPOSE 8000
ENTRYPOINT ["talkinghead"]
CMD ["web", "--host", "0.0.0.0"]
