"""All settings, as small nested models. Built once in a process root (`load_settings`) and passed in.

Order of precedence: arguments of the call, `TSUMUGI_*` variables (`TSUMUGI_INGEST__WORKER_THREADS=4`), files of such
names in the folder `TSUMUGI_SECRETS_DIR` (as Docker and Kubernetes mount secrets), `tsumugi.toml` in the working
directory, defaults. Nothing else in the project reads the environment.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from core.settings_base import Section
from core.settings_names import in_one_line, refuse_unknown
from core.settings_qdrant import QdrantSettings
from core.types import Language, Scope


class OidcSettings(Section):
    """Bearer tokens of an OpenID Connect provider, beside API keys."""

    issuer: str = Field(min_length=8, description="`iss` of its tokens; keys are found from its discovery document.")
    audience: str = Field(min_length=1, description="`aud` that a token must carry.")
    jwks_url: str | None = Field(None, description="Address of its keys, where they are not to be discovered.")
    algorithms: tuple[Literal["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"], ...] = Field(
        ("RS256", "ES256"), min_length=1, description="Signatures taken; never a symmetric one."
    )
    tenant: str = Field("default", description="Tenant of all tokens, unless `tenant_claim` is set.")
    tenant_claim: str | None = Field(None, description="Claim that names the tenant.")
    scopes_claim: str = Field("scope", description="Claim with scopes or roles; dotted for nested ones.")
    scope_of: dict[str, Scope] = Field(
        {}, description="Our scope for a word of that claim; where this is empty, the words are our scopes."
    )
    groups_claim: str = Field("groups", description="Claim with the groups whose documents may be read.")
    leeway_s: int = Field(30, ge=0, le=300, description="Difference of clocks that is forgiven.")
    jwks_ttl_s: float = Field(3600.0, ge=60, description="How long fetched keys are used.")
    allow_private_issuer: bool = Field(
        False, description="Fetch keys over plain http or from private addresses, for a provider in the own network."
    )


class TelemetrySettings(Section):
    """Traces for an OpenTelemetry collector (extra `otel`)."""

    otlp_endpoint: str | None = Field(
        None, description="Address for traces over OTLP/HTTP, such as `http://collector:4318/v1/traces`; none: off."
    )
    service_name: str = Field("tsumugi", min_length=1, description="`service.name` of the spans.")
    sampled_share: float = Field(1.0, ge=0, le=1, description="Share of traces kept that begin here.")


class HttpSettings(Section):
    """The HTTP edge."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="TCP port; 0 takes a free one.")
    max_upload_bytes: int = Field(200 * 2**20, ge=1, description="Largest request body with files; more is 413.")
    max_json_bytes: int = Field(16 * 2**20, ge=1, description="Largest JSON body; more is 413.")
    max_question_chars: int = Field(8_000, ge=1, description="Longest question or query, in code points.")
    drain_timeout_s: float = Field(20.0, gt=0, description="On SIGTERM, how long running requests and jobs may finish.")
    drain_notice_s: float = Field(
        0.0, ge=0, le=120, description="On SIGTERM, how long /readyz says no before new requests are refused."
    )
    max_connections: int = Field(
        1_000, ge=8, description="Connections open at once; one that has asked for nothing makes room for the next."
    )
    header_timeout_s: float = Field(15.0, gt=0, description="Longest time for the head of a request, in all.")
    body_silence_s: float = Field(30.0, gt=0, description="Longest silence within the body of a request.")
    requests_per_minute_key: int = Field(
        0, ge=0, description="Requests a minute of one key, over all processes; more are 429. 0 is no limit."
    )
    requests_per_minute_tenant: int = Field(0, ge=0, description="The same for all keys of a tenant together.")
    concurrent_requests_key: int = Field(
        256, ge=0, description="Requests of one key at once in each process, streams included; more are 429. 0: any."
    )
    cors_origins: tuple[str, ...] = Field(
        (), description="Origins whose pages may call the API from a browser, such as `https://intranet.example`."
    )
    oidc: OidcSettings | None = Field(None, description="Take bearer tokens of an OpenID Connect provider too.")
    metrics_open: bool = Field(
        False, description="Serve /metrics without a key. Otherwise it needs an admin key of the default tenant."
    )


class DatabaseSettings(Section):
    """SQL database."""

    url: SecretStr | None = Field(None, description="SQLAlchemy URL; default is SQLite in the data dir.")
    busy_timeout_s: float = Field(30.0, gt=0, description="SQLite: how long a writer waits for another.")
    pool_size: int = Field(20, ge=1, le=500, description="PostgreSQL: connections that each process keeps open.")
    pool_overflow: int = Field(20, ge=0, le=500, description="PostgreSQL: further connections under load.")
    pool_timeout_s: float = Field(
        10.0, gt=0, description="PostgreSQL: longest wait for a free connection; then the request is answered 503."
    )
    pool_recycle_s: int = Field(1800, ge=1, description="PostgreSQL: age at which a connection is opened anew.")
    connect_timeout_s: float = Field(5.0, ge=1, description="PostgreSQL: longest wait for a new connection.")
    statement_timeout_s: float = Field(
        120.0, gt=0, description="PostgreSQL: longest statement, and longest idle time within a transaction."
    )


class BrokerSettings(Section):
    """Celery broker."""

    url: SecretStr | None = Field(None, description="Redis URL; default is the bundled Redis of `tsumugi up`.")
    visibility_timeout_s: int = Field(3600, ge=60, description="Redis re-delivers a message not acknowledged by then.")


class S3Connection(Section):
    """An S3-compatible store."""

    endpoint_url: str | None = Field(None, pattern=r"^https?://", description="S3: address; default is AWS's own.")
    region: str = Field("us-east-1", description="S3: region that requests are signed for.")
    access_key_id: SecretStr | None = Field(None, description="S3: default is what the AWS SDK finds by itself.")
    secret_access_key: SecretStr | None = Field(None, description="S3: belongs to the access key id.")
    connect_timeout_s: float = Field(5.0, gt=0, description="S3: longest wait for a connection.")
    read_timeout_s: float = Field(60.0, gt=0, description="S3: longest wait for a part of an answer.")
    attempts: int = Field(4, ge=1, le=10, description="S3: times a request is sent when the store is busy or away.")


class BlobSettings(S3Connection):
    """Where uploaded bytes and extracted text are kept."""

    store: Literal["folder", "s3"] = Field("folder", description="A folder of the data dir, or an S3-compatible store.")
    bucket: str | None = Field(None, min_length=3, max_length=63, description="S3: bucket; it must exist.")
    prefix: str = Field("", max_length=200, description="S3: put before each key, such as `tsumugi/`.")


class StorageSettings(Section):
    """The disks under the data dir."""

    reserve_bytes: int = Field(
        512 * 2**20,
        ge=2**27,
        description="Kept free: uploads beyond it are 507, so that deleting, the log and the index have room left.",
    )


class IngestSettings(Section):
    """Extraction, chunking, ingest workers."""

    worker_threads: int = Field(2, ge=1, le=64, description="Documents ingested at once in this process.")
    extract_timeout_s: float = Field(120.0, gt=0, description="Wall-clock limit of one extraction.")
    extract_cpu_s: int = Field(100, ge=1, description="CPU limit of one extraction.")
    extract_memory_bytes: int = Field(3 * 2**30, ge=2**28, description="Address-space limit of one extraction.")
    extract_max_chars: int = Field(20_000_000, ge=1_000, description="Longest extracted text; more is failed, not cut.")
    ocr_s: float = Field(
        60.0,
        ge=0,
        description="Wall time for OCR in one document, well below `extract_timeout_s`; later pages are not read.",
    )
    ocr_engine: Literal["auto", "rapidocr", "tesseract", "off"] = Field(
        "auto",
        description="What reads pictures and scanned pages; auto: RapidOCR, and Tesseract for what it cannot read.",
    )
    chunk_tokens: int = Field(160, ge=32, le=2048, description="Token budget of a chunk, by the embedder's tokenizer.")
    chunk_chars: int = Field(
        1200, ge=64, description="Character cap of a chunk, for scripts the tokenizer does not know."
    )
    chunk_chars_cjk: int = Field(400, ge=32, description="The same cap for text that is mostly Japanese.")
    max_attempts: int = Field(4, ge=1, description="Attempts of a job for transient errors before it fails for good.")
    max_crashes: int = Field(8, ge=1, description="Attempts of a job that ended by a dying worker, before it fails.")


class JobSettings(Section):
    """Job state machine."""

    heartbeat_s: float = Field(5.0, gt=0, description="How often a running job says it is alive.")
    stalled_after_s: float = Field(60.0, gt=0, description="No heartbeat for so long: the attempt is taken for dead.")
    resend_after_s: float = Field(30.0, gt=0, description="Queued for so long with a lost message: it is sent again.")
    sweep_every_s: float = Field(10.0, gt=0, description="Period of the sweeper.")
    retry_base_s: float = Field(2.0, gt=0, description="First back-off of a transient error; doubles each time.")


class WorkerSettings(Section):
    """Processes of the server topology that serve no requests: workers and beat."""

    host: str = Field("127.0.0.1", description="Address of the port below.")
    port: int = Field(0, ge=0, le=65535, description="TCP port of /healthz and /metrics of a worker; 0: none.")


class EmbeddingSettings(Section):
    """Model of the embedders `bge-m3`, `sentence-transformers` and `endpoint`."""

    model: str = Field("BAAI/bge-m3", description="Folder, name on the Hugging Face hub, or model of the endpoint.")
    languages: tuple[Language, ...] = Field(
        tuple(Language),
        min_length=1,
        description="Languages the model was trained in; in others the lexical side ranks alone. bge-m3 knows its own.",
    )
    query_prefix: str = Field("", max_length=500, description="Put before each query, such as `query: ` for E5.")
    passage_prefix: str = Field("", max_length=500, description="Put before each passage, such as `passage: ` for E5.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the model runs.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Precision; auto is bfloat16 where the device multiplies it natively."
    )
    max_tokens: int = Field(1024, ge=32, le=8192, description="Longer texts are cut at the end, and counted.")
    batch_tokens: int | None = Field(None, ge=256, description="Tokens of one forward pass; default by device.")
    compiled: bool = Field(
        False, description="bge-m3: fuse with torch.compile; faster on a GPU, half a minute to start."
    )
    url: str | None = Field(None, description="Endpoint, up to and with `/v1`.")
    api_key: SecretStr | None = Field(None, description="Bearer key of the endpoint.")
    dim: int | None = Field(None, ge=8, le=65_536, description="Endpoint: length of its vectors.")
    tokenizer: Path | None = Field(None, description="Endpoint: `tokenizer.json` of its model, for exact token counts.")
    batch_texts: int = Field(64, ge=1, le=2048, description="Endpoint: texts of one request.")
    concurrency: int = Field(4, ge=1, le=64, description="Endpoint: requests at once.")
    timeout_s: float = Field(30.0, gt=0, description="Endpoint: limit of one request.")
    attempts: int = Field(4, ge=1, le=10, description="Endpoint: times a request that may pass is sent.")


class RerankSettings(Section):
    """A second stage that orders the best passages anew: a cross-encoder, or bge-m3's token vectors. Off by default."""

    model: str | None = Field(
        None, description="Folder or name on the Hugging Face hub, such as `BAAI/bge-reranker-v2-m3`; none: off."
    )
    multi_vector: bool = Field(
        False, description="Instead of a model: late interaction of bge-m3's token vectors, made when a query asks."
    )
    multi_vector_cache_bytes: int = Field(
        256 * 2**20, ge=0, description="Memory for token vectors of passages that were read lately; 0 keeps none."
    )
    candidates: int = Field(30, ge=2, le=200, description="Best passages of the fused ranking that are read.")
    max_tokens: int = Field(512, ge=64, le=8192, description="Query and passage together; longer ones are cut.")
    batch: int = Field(16, ge=1, le=256, description="Pairs of one forward pass.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the model runs.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Precision; auto is bfloat16 where the device multiplies it natively."
    )


class RetrievalSettings(Section):
    """Embedding, search, refusal."""

    embedder: Literal["minilm", "bge-m3", "sentence-transformers", "endpoint"] = Field(
        "minilm", description="Dense embedder; all but the first are set up in the section `embedding`."
    )
    lexical: Literal["bigrams", "bge-m3"] = Field(
        "bigrams", description="Lexical side: BM25 over Japanese-aware terms, or bge-m3's learnt weights (same pass)."
    )
    bridge: Literal["multilingual", "off"] = Field(
        "multilingual",
        description="Arm for questions in another language than the document's; unused where the embedder covers both.",
    )
    index: Literal["edge", "qdrant"] = Field(
        "edge", description="Where points live: Qdrant Edge in this process, or a Qdrant server (section `qdrant`)."
    )
    tenant_shards: bool = Field(
        False,
        description="Make new indexes on a Qdrant cluster so that single tenants can get a shard of their own.",
    )
    candidates: int = Field(40, ge=1, le=1000, description="Candidates taken from each arm before fusion.")
    condense_history: Literal["rules", "model", "off"] = Field(
        "rules",
        description="Search query of a follow-up: by rules, rewritten by the generator, or the question alone.",
    )
    diversity: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Maximal marginal relevance: 0 ranks by score alone, 1 by being unlike; 0.3 is mild.",
    )
    passages: int = Field(3, ge=1, le=20, description="Passages put before the generator.")
    expand_tokens: int = Field(
        0, ge=0, le=4096, description="Grow each passage to its section, up to so many tokens of the embedder; 0: off."
    )
    refusal_threshold: float | None = Field(
        None, ge=0, le=1, description="Overrides the calibrated relevance under which an answer is refused."
    )


class GenerationSettings(Section):
    """The generator."""

    engine: Literal["transformers", "vllm", "openai"] = Field(
        "transformers",
        description="Where answers are made: in this process, on vLLM with adapters loaded at run time, or on another "
        "OpenAI-compatible server without adapters. The latter two are set up in the section `endpoint`.",
    )
    compose: Literal["auto", "evidence", "model"] = Field(
        "auto",
        description="Whose words an answer is in: the best line's unless it bears the model's out (`evidence`), or the "
        "model's, read over whole passages (`model`). auto: `evidence` for a generator in this process.",
    )
    base_folder: Path | None = Field(
        None,
        description="In process: folder of another Hugging Face causal language model (safetensors and tokenizer with "
        "a chat template) instead of the embedded one.",
    )
    max_batch: int | None = Field(
        None, ge=1, le=1024, description="Sequences decoded together; default: 8 on a CPU, 128 on a GPU."
    )
    max_queue: int = Field(64, ge=1, description="Requests waiting; more are answered 429.")
    evaluation_parallel: int = Field(
        1, ge=1, le=64, description="Questions of an evaluation asked at once, beside those of people."
    )
    max_adapters: int = Field(8, ge=1, description="Adapter versions kept in memory (least recently used goes).")
    max_tokens: int = Field(256, ge=1, description="Default bound on generated tokens.")
    leave_out_orders: bool = Field(
        True, description="Keep sentences of retrieved passages that give orders to the model out of the prompt."
    )
    context_tokens: int = Field(8192, ge=256, description="Context window used.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where the model runs.")
    decoder: Literal["auto", "plain", "paged"] = Field(
        "auto", description="Decode loop: paged with recorded steps on a GPU for Llama-like models, else plain."
    )
    kv_cache_tokens: int | None = Field(
        None, ge=256, description="Tokens of keys and values on a GPU; default: what gpu_memory_fraction leaves."
    )
    gpu_memory_fraction: float = Field(
        0.85, gt=0, le=1, description="Share of the GPU's memory that model, adapters and keys and values may take."
    )
    torch_threads: int | None = Field(None, ge=1, description="CPU threads of torch; default: all cores.")


class GpuSettings(Section):
    """Memory of GPUs that serve and train."""

    devices: tuple[int, ...] = Field(
        (), description="GPUs of this machine that training may use; default: all of them."
    )
    serving_share: float = Field(
        0.5, ge=0, lt=1, description="Share of each GPU's memory that serving keeps while others train beside it."
    )
    while_training: Literal["share", "sleep"] = Field(
        "share",
        description="Serve beside a training, or give the generator's memory to it and refuse questions meanwhile.",
    )


class GeneratorEndpointSettings(Section):
    """The generator over HTTP: engines `vllm` and `openai`."""

    urls: tuple[str, ...] = Field(
        (), description="Base of each replica's API, ending with `/v1`; vLLM: every one of them, not their balancer."
    )
    model: str = Field("base", min_length=1, max_length=200, description="Name of the base model there.")
    api_key: SecretStr | None = Field(None, description="Bearer key of the server.")
    adapters_folder: str | None = Field(
        None, description="vLLM: where the server mounts our folder of adapters; default is the same path as here."
    )
    max_lora_rank: int = Field(16, ge=1, le=512, description="vLLM: its --max-lora-rank; larger adapters are refused.")
    max_parallel: int = Field(64, ge=1, le=4096, description="Requests that one process has running at once.")
    connect_timeout_s: float = Field(5.0, gt=0, description="Longest wait for a connection.")
    read_timeout_s: float = Field(120.0, gt=0, description="Longest silence within an answer.")
    load_timeout_s: float = Field(120.0, gt=0, description="vLLM: longest load of an adapter on one replica.")
    attempts: int = Field(3, ge=1, le=10, description="Tries of a request of which nothing was answered yet.")
    breaker_failures: int = Field(5, ge=1, description="Failures in a row after which a replica is left alone.")
    breaker_s: float = Field(10.0, gt=0, description="How long it is left alone before one request tries it again.")


class EndpointSettings(Section):
    """A language model behind any OpenAI-compatible endpoint."""

    url: str = Field(pattern=r"^https?://", description="Base of the API, ending before /chat/completions.")
    model: str = Field(min_length=1, max_length=120, description="Name of the model there.")
    family: str = Field(min_length=1, max_length=60, description="Who trained it, such as llama or qwen.")
    api_key: SecretStr | None = Field(None, description="Bearer key of the endpoint.")
    timeout_s: float = Field(60.0, gt=0, le=600, description="Longest wait for one answer.")


class JudgeSettings(EndpointSettings):
    """One model of the ensemble that judges answers."""


class TeacherSettings(EndpointSettings):
    """The larger model that writes and revises training answers."""

    parallel: int = Field(4, ge=1, le=64, description="Requests to it at a time.")
    max_tokens: int = Field(800, ge=64, le=8192, description="Longest answer asked of it.")


class TuningSettings(Section):
    """Training and its gate."""

    worker_memory_bytes: int | None = Field(None, description="Address-space limit of a training subprocess.")
    keep_checkpoints: int = Field(2, ge=1, description="Checkpoints kept per run.")
    judges: tuple[JudgeSettings, ...] = Field(
        (), description="Ensemble that judges answers beside the gate's own figures; gates only once calibrated."
    )
    teacher: TeacherSettings | None = Field(
        None, description="Writes training rows from documents and revises those of a set; none is set by default."
    )
    tuned_model_family: str = Field(
        "smollm", description="Model family of the base: never the only one among the judges."
    )
    default_family: str = Field("house", description="Family that `model: tsumugi` and plain asks use.")
    evaluation_items: int | None = Field(
        None,
        ge=4,
        description="Questions of each kind that a gate asks; default: as many as its margins need. With fewer nothing "
        "passes: for trying the rest of the loop quickly.",
    )


class RetentionSettings(Section):
    """How long things are kept that nobody deletes by hand; 0: for ever. What is past its time goes within minutes."""

    jobs_days: int = Field(0, ge=0, description="Ended jobs on documents and indexes, from their end.")
    answers_days: int = Field(
        0, ge=0, description="Answers, from when they were given; those with consented feedback stay."
    )
    shadow_answers_days: int = Field(0, ge=0, description="What shadow versions would have said.")
    audit_days: int = Field(0, ge=0, description="Entries of the audit trail.")
    run_files_days: int = Field(
        0, ge=0, description="Prepared rows and work folders of training runs, from their end. A retry needs them."
    )


class Settings(BaseSettings):
    """Everything. `data_dir` holds all state of the embedded topology."""

    model_config = SettingsConfigDict(
        env_prefix="TSUMUGI_",
        env_nested_delimiter="__",
        toml_file="tsumugi.toml",
        extra="ignore",
        frozen=True,
    )

    data_dir: Path = Field(Path("./.tsumugi"), description="Folder with all state.")
    topology: Literal["embedded", "server"] = Field("embedded", description="One process, or several machines.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Lowest level logged.")
    http: HttpSettings = HttpSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    database: DatabaseSettings = DatabaseSettings()
    broker: BrokerSettings = BrokerSettings()
    blobs: BlobSettings = BlobSettings()
    s3: S3Connection = Field(S3Connection(), description="The store of `s3://` places: sources to sync, and backups.")
    storage: StorageSettings = StorageSettings()
    ingest: IngestSettings = IngestSettings()
    jobs: JobSettings = JobSettings()
    worker: WorkerSettings = WorkerSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    embedding: EmbeddingSettings = EmbeddingSettings()
    qdrant: QdrantSettings = QdrantSettings()
    rerank: RerankSettings = RerankSettings()
    generation: GenerationSettings = GenerationSettings()
    gpu: GpuSettings = GpuSettings()
    endpoint: GeneratorEndpointSettings = GeneratorEndpointSettings()
    tuning: TuningSettings = TuningSettings()
    retention: RetentionSettings = RetentionSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments over variables over files of secrets over the TOML file."""
        toml = TomlConfigSettingsSource(settings_cls)
        folder = os.environ.get("TSUMUGI_SECRETS_DIR")
        if folder is None:
            return init_settings, env_settings, toml
        files = NestedSecretsSettingsSource(
            file_secret_settings,
            secrets_dir=folder,
            secrets_dir_missing="error",
            secrets_prefix="TSUMUGI_",
            secrets_nested_delimiter="__",
        )
        return init_settings, env_settings, files, toml

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL in force."""
        if self.database.url is not None:
            return self.database.url.get_secret_value()
        return f"sqlite:///{(self.data_dir / 'tsumugi.sqlite3').resolve()}"

    @property
    def blobs_dir(self) -> Path:
        """Uploaded bytes and extracted text, by SHA-256."""
        return self.data_dir / "blobs"

    @property
    def index_dir(self) -> Path:
        """Qdrant Edge shards, one folder per index version."""
        return self.data_dir / "index"

    @property
    def adapters_dir(self) -> Path:
        """Adapter versions, one folder per content digest."""
        return self.data_dir / "adapters"

    @property
    def models_dir(self) -> Path:
        """Prepared base models, one folder per digest."""
        return self.data_dir / "models"

    @property
    def runs_dir(self) -> Path:
        """Work folders of tuning runs."""
        return self.data_dir / "runs"

    @property
    def redis_dir(self) -> Path:
        """AOF of the bundled Redis. Its socket is in a short temp path: AF_UNIX allows 107 bytes."""
        return self.data_dir / "redis"

    @property
    def admin_key_file(self) -> Path:
        """One line: the admin key made by the first start."""
        return self.data_dir / "admin.key"


def load_settings(**overrides: Any) -> Settings:
    """Build the settings; keyword arguments win over variables and file. Paths are made absolute.

    Raises:
        InvalidInput: `invalid_settings`: one does not exist, with the nearest that does, or its value is not taken.
    """
    refuse_unknown(Settings, os.environ, Path("tsumugi.toml"))
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        raise in_one_line(error, Settings) from error
    return settings.model_copy(update={"data_dir": settings.data_dir.expanduser().resolve()})
