# The image of workers, the same for Spark, Flink and Dataflow:
#
#   docker build -t mixwright .
#   docker build -t mixwright --build-arg CLIP_MODEL=ViT-B-32 \
#     --build-arg CLIP_PRETRAINED=laion2b_s34b_b79k .
#
# Weights in a file go into an image made from this one; the recipe's `pretrained` is their path:
#
#   FROM mixwright
#   COPY weights.safetensors /opt/models/

FROM apache/beam_python3.11_sdk:2.77.0 AS beam

FROM python:3.11-slim

# Beam's boot program is what an engine starts a worker by.
COPY --from=beam /opt/apache/beam /opt/apache/beam

WORKDIR /opt/mixwright
COPY requirements.txt .
RUN pip install --no-cache-dir --require-hashes --no-deps -r requirements.txt
COPY . .
RUN pip install --no-cache-dir --no-deps --no-build-isolation .

# Boot would otherwise make a virtual environment at every start, to install nothing into.
ENV RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1
ENV HF_HOME=/opt/models
# As pipelines/engines/runners.py sets them for local workers: large buffers are reused.
ENV MALLOC_MMAP_THRESHOLD_=268435456 MALLOC_TRIM_THRESHOLD_=268435456
RUN useradd --create-home mixwright && install -d -o mixwright /opt/models
USER mixwright
WORKDIR /home/mixwright

# The recipe's clip.model; the default is part of the package and needs no download.
ARG CLIP_MODEL=mixwright-small
# The recipe's clip.pretrained, a tag that open_clip knows; empty for the default model.
ARG CLIP_PRETRAINED=
RUN python -c "import sys; from filters.clip import load_clip; load_clip(sys.argv[1], sys.argv[2] or None)" \
    "$CLIP_MODEL" "$CLIP_PRETRAINED"
# A model that was not built in is an error at once, not a download by every worker.
ENV HF_HUB_OFFLINE=1

ENTRYPOINT ["/opt/apache/beam/boot"]
