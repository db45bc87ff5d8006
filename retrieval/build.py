"""Composition root of retrieval: chooses embedder, lexical encoder and index, and names the index version."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping
from functools import partial
from threading import Lock
from typing import Any, Protocol, runtime_checkable

import structlog
from pydantic import ValidationError

from core.blobs import open_blobs
from core.database import Database
from core.errors import InvalidInput, Unavailable
from core.ports import Bridge, Embedder, LexicalEncoder, Reranker, SentenceEmbedder, TokenEmbedder
from core.repositories.index_versions import (
    VersionStatus,
    active_version,
    lock_versions,
    missing_documents,
    void_version,
)
from core.settings import Settings
from core.tables.base import utc_now
from core.tables.operations import IndexVersion
from core.tenants import tenants_apart
from core.types import Language
from retrieval.embedders.minilm import MiniLmEmbedder
from retrieval.embedders.multilingual import MultilingualEncoder
from retrieval.expand import Expander
from retrieval.lexical import BigramBm25
from retrieval.live import OpenVersion, Retrieval
from retrieval.opening import open_index
from retrieval.other_words import OtherWords
from retrieval.relevance import load_model
from retrieval.search import Searcher

log = structlog.stdlib.get_logger(__name__)

CHUNKER_REVISION = "sentences-3"
"""Names how chunks are cut; change it with any change of `ingest.chunk` that moves their borders."""


CONFIGURED = {
    "retrieval": ("embedder", "lexical", "bridge", "tenant_shards"),
    "embedding": (
        "model", "languages", "query_prefix", "passage_prefix", "device", "dtype", "max_tokens", "batch_tokens",
        "compiled", "url", "dim", "tokenizer", "batch_texts", "concurrency", "timeout_s", "attempts",
    ),
}  # fmt: skip
"""Settings that an index version keeps, so that it can be opened after they have changed. Keys of endpoints are not
among them: they are the settings' of today. All of `ingest.chunk_*` are kept as well."""


@runtime_checkable
class Closable(Protocol):
    """An embedder that holds connections."""

    def close(self) -> None:
        """Give them up."""
        ...


_MAKES_VECTORS = ("model", "query_prefix", "passage_prefix", "max_tokens", "dim", "tokenizer")


class VersionOpener:
    """Opens index versions of one process; versions with one embedder share its loaded model."""

    def __init__(self, settings: Settings, db: Database, embedder: Embedder | None = None) -> None:
        """embedder: one that is loaded already, standing for the configured one."""
        self._settings = settings
        self._db = db
        self._lock = Lock()
        self._embedders: dict[str, Embedder] = {}
        self._multilingual: Bridge | None = None
        self._other_words = OtherWords(db)
        self._reranker = build_reranker(settings)
        self._blobs = open_blobs(settings)
        if embedder is not None:
            self._embedders[_embedder_key(settings)] = embedder

    def embedder(self, settings: Settings, *, ask: bool = True) -> Embedder:
        """The embedder that some settings name, loaded once. ask: as `build_embedder`."""
        key = _embedder_key(settings)
        with self._lock:
            if key not in self._embedders:
                self._embedders[key] = build_embedder(settings, ask=ask)
            return self._embedders[key]

    def bridge(self, settings: Settings, embedder: Embedder) -> Bridge | None:
        """What compares languages where `embedder` does not cover both; loaded once.

        Raises:
            Unavailable: it is not installed.
        """
        if settings.retrieval.bridge == "off" or {Language.ENGLISH, Language.JAPANESE} <= embedder.languages:
            return None
        with self._lock:
            if self._multilingual is None:
                self._multilingual = MultilingualEncoder()
            return self._multilingual

    def keep_only(self, used: Collection[Embedder]) -> None:
        """Let go of models that no open version uses."""
        with self._lock:
            for key, embedder in list(self._embedders.items()):
                if not any(embedder is other for other in used):
                    del self._embedders[key]
                    if isinstance(embedder, Closable):
                        embedder.close()

    def describe(self, settings: Settings) -> IndexVersion:
        """Row of the version that some settings make, not yet stored."""
        if settings.retrieval.tenant_shards and (settings.retrieval.index != "qdrant" or settings.qdrant.shards > 1):
            raise InvalidInput(
                "retrieval.tenant_shards needs retrieval.index = 'qdrant' and qdrant.shards = 1",
                code="setting_conflict",
            )
        embedder = self.embedder(settings)
        spec = index_spec(settings, embedder, build_lexical(settings, embedder), self.bridge(settings, embedder))
        return IndexVersion(id=version_of(spec), spec=spec, config=config_of(settings), chunk_set=chunk_set_of(spec))

    def open(self, row: IndexVersion, on_new: Callable[[], None] | None = None) -> OpenVersion:
        """Open a registered version. on_new: see `open_index`.

        Raises:
            DataDirBusy: another process owns its shard.
            Unavailable: `index_version_unusable` when this code makes other vectors for its settings; or its model,
                endpoint or server cannot be used now.
        """
        settings = settings_of(self._settings, row.config)
        embedder = self.embedder(settings, ask=row.active)  # one that was retired must not keep others from opening
        lexical = build_lexical(settings, embedder)
        bridge = self.bridge(settings, embedder)
        made = index_spec(settings, embedder, lexical, bridge)
        if version_of(made) != row.id:
            changed = sorted(key for key in made if made[key] != row.spec.get(key))
            raise Unavailable(
                f"index version '{row.id}' was made by another {' and '.join(changed) or 'configuration'}",
                code="index_version_unusable",
                retryable=False,
            )
        sentences = isinstance(embedder, SentenceEmbedder)
        width = bridge.dim if bridge is not None else 0
        own = partial(tenants_apart, self._db)
        index = open_index(settings, row.id, embedder.dim, lexical.idf, sentences, width, on_new, own)
        try:
            searcher = Searcher(
                self._db,
                index,
                embedder,
                lexical,
                load_model(self._db, row.id),
                candidates=settings.retrieval.candidates,
                refusal_threshold=settings.retrieval.refusal_threshold,
                diversity=settings.retrieval.diversity,
                reranker=self._reranker or build_late_interaction(settings, embedder),
                rerank_candidates=settings.rerank.candidates,
                expander=Expander(self._db, self._blobs, settings.ingest),
                expand_tokens=settings.retrieval.expand_tokens,
                bridge=bridge,
                other_words=self._other_words,
            )
        except BaseException:
            index.close()
            raise
        return OpenVersion(row.id, row.spec, row.chunk_set, settings.ingest, embedder, lexical, index, searcher, bridge)


def build_retrieval(
    settings: Settings, db: Database, *, embedder: Embedder | None = None, refill_lost: bool = False
) -> Retrieval:
    """Open the version that serves. The first start registers the configured one; later ones only build it on request.

    A serving version that this code can no longer make gives way to the configured one at once: `reconcile` and the
    builder fill it before anything is served.

    embedder: one that is loaded already; default is the configured one. refill_lost: an index that has to be made anew
    voids what its version was recorded to hold, and is filled by a job; callers that compare and mend do without.

    Raises:
        DataDirBusy: another process owns the index.
        Unavailable: model files or index cannot be read.
    """
    opener = VersionOpener(settings, db, embedder)
    with db.read() as session:
        row = active_version(session)
    if row is not None:
        try:
            return _serving(settings, db, opener, row, refill_lost)
        except Unavailable as error:
            if error.code != "index_version_unusable":
                raise
            log.warning("index.version_unusable", version=row.id, detail=error.detail)
    return _serving(settings, db, opener, _register(db, opener.describe(settings)), refill_lost)


def _serving(
    settings: Settings, db: Database, opener: VersionOpener, row: IndexVersion, refill_lost: bool
) -> Retrieval:
    def void() -> None:
        with db.write() as session:
            found = lock_versions(session).get(row.id)
            if found is not None and void_version(session, found):
                log.error("index.lost", version=row.id)

    opened = opener.open(row, void if refill_lost else None)
    return Retrieval(db, opened, opener, settings.qdrant.search_timeout_s, refill_lost=refill_lost)


def config_of(settings: Settings) -> dict[str, Any]:
    """What an index version keeps of some settings, as JSON."""
    kept = {
        section: {name: getattr(getattr(settings, section), name) for name in names}
        for section, names in CONFIGURED.items()
    }
    kept["ingest"] = {name: getattr(settings.ingest, name) for name in _chunk_settings(settings)}
    plain: dict[str, Any] = json.loads(json.dumps(kept, default=str))
    return plain


def same_index(settings: Settings, config: Mapping[str, Any]) -> bool:
    """Whether some settings make the version whose kept settings `config` is, without loading a model to find out."""
    mine, theirs = config_of(settings), config_of(settings_of(settings, dict(config)))
    for kept in (mine, theirs):
        minilm = kept["retrieval"]["embedder"] == "minilm"
        kept["embedding"] = {} if minilm else {name: kept["embedding"][name] for name in _MAKES_VECTORS}
    return mine == theirs


def settings_of(settings: Settings, config: dict[str, Any]) -> Settings:
    """Settings in which those that an index version keeps are in force.

    Versions of before there were shards for tenants have none.
    """
    kept = {"tenant_shards": False, **config.get("retrieval", {})}
    return settings_with(settings, {**config, "retrieval": kept})


def settings_with(settings: Settings, config: dict[str, Any]) -> Settings:
    """Settings in which those of an index version are in force.

    Raises:
        InvalidInput: a value is not allowed, or the name of no such setting.
    """
    changed = {}
    for section, values in config.items():
        allowed = (*CONFIGURED.get(section, ()), *(_chunk_settings(settings) if section == "ingest" else ()))
        unknown = sorted(set(values) - set(allowed))
        if unknown:
            raise InvalidInput(f"no setting of an index: {section}.{unknown[0]}", code="setting_unknown")
        current = getattr(settings, section)
        try:
            changed[section] = type(current).model_validate({**dict(current), **values})
        except ValidationError as error:
            first = error.errors()[0]
            raise InvalidInput(
                f"{section}.{'.'.join(map(str, first['loc']))}: {first['msg']}", code="setting_invalid"
            ) from error
    return settings.model_copy(update=changed)


def _chunk_settings(settings: Settings) -> list[str]:
    return sorted(name for name in type(settings.ingest).model_fields if name.startswith("chunk_"))


def _embedder_key(settings: Settings) -> str:
    config = config_of(settings)
    return json.dumps([config["retrieval"]["embedder"], config["embedding"]], sort_keys=True)


def build_embedder(settings: Settings, *, ask: bool = True) -> Embedder:
    """Load or reach the configured embedder. ask: whether an endpoint has to answer now.

    Raises:
        Unavailable: its files are not there or broken, or its endpoint does not answer as it should.
        InvalidInput: `setting_missing`: an endpoint without `url` or `dim`.
    """
    chosen = settings.embedding
    if settings.retrieval.embedder == "bge-m3":
        from retrieval.embedders.bge_m3 import BgeM3Embedder

        return BgeM3Embedder(
            chosen.model,
            device=chosen.device,
            dtype=chosen.dtype,
            max_tokens=chosen.max_tokens,
            batch_tokens=chosen.batch_tokens,
            compiled=chosen.compiled,
        )
    if settings.retrieval.embedder == "sentence-transformers":
        from retrieval.embedders.sentence_transformer import SentenceTransformerEmbedder

        return SentenceTransformerEmbedder(
            chosen.model,
            languages=frozenset(chosen.languages),
            query_prefix=chosen.query_prefix,
            passage_prefix=chosen.passage_prefix,
            device=chosen.device,
            dtype=chosen.dtype,
            max_tokens=chosen.max_tokens,
            batch_tokens=chosen.batch_tokens,
        )
    if settings.retrieval.embedder == "endpoint":
        from retrieval.embedders.endpoint import EndpointEmbedder

        if chosen.url is None or chosen.dim is None:
            raise InvalidInput("an embedding endpoint needs embedding.url and embedding.dim", code="setting_missing")
        return EndpointEmbedder(
            chosen.url,
            chosen.model,
            ask=ask,
            dim=chosen.dim,
            languages=frozenset(chosen.languages),
            api_key=chosen.api_key.get_secret_value() if chosen.api_key else None,
            query_prefix=chosen.query_prefix,
            passage_prefix=chosen.passage_prefix,
            max_tokens=chosen.max_tokens,
            tokenizer=chosen.tokenizer,
            batch_texts=chosen.batch_texts,
            concurrency=chosen.concurrency,
            timeout_s=chosen.timeout_s,
            attempts=chosen.attempts,
        )
    return MiniLmEmbedder()


def build_reranker(settings: Settings) -> Reranker | None:
    """The configured cross-encoder, None when it is off.

    Raises:
        Unavailable: it cannot be loaded.
        InvalidInput: `setting_conflict`: two second stages, or token vectors of an embedder that has none.
    """
    chosen = settings.rerank
    if chosen.multi_vector and chosen.model is not None:
        raise InvalidInput("rerank.model and rerank.multi_vector exclude each other", code="setting_conflict")
    if chosen.multi_vector and settings.retrieval.embedder != "bge-m3":
        raise InvalidInput("rerank.multi_vector needs retrieval.embedder = 'bge-m3'", code="setting_conflict")
    if chosen.model is None:
        return None
    from retrieval.rerank import CrossEncoderReranker

    return CrossEncoderReranker(
        chosen.model, max_tokens=chosen.max_tokens, batch=chosen.batch, device=chosen.device, dtype=chosen.dtype
    )


def build_late_interaction(settings: Settings, embedder: Embedder) -> Reranker | None:
    """Late interaction over an index version's own embedder, None when it is off or the embedder has no token vectors.

    The second happens while a version of an earlier embedder still serves: its searches then go without.
    """
    chosen = settings.rerank
    if not chosen.multi_vector:
        return None
    if not isinstance(embedder, TokenEmbedder):
        log.warning("rerank.multi_vector_unavailable", embedder=embedder.name)
        return None
    from retrieval.rerank import MultiVectorReranker

    return MultiVectorReranker(embedder, cache_bytes=chosen.multi_vector_cache_bytes)


def build_lexical(settings: Settings, embedder: Embedder) -> LexicalEncoder:
    """Lexical side by configuration.

    Raises:
        InvalidInput: `setting_conflict`: bge-m3's weights come from bge-m3's pass, and another embedder is chosen.
    """
    if settings.retrieval.lexical == "bge-m3":
        from retrieval.embedders.bge_m3 import BgeM3Embedder, M3Lexical

        if not isinstance(embedder, BgeM3Embedder):
            raise InvalidInput(
                "retrieval.lexical = 'bge-m3' needs retrieval.embedder = 'bge-m3'", code="setting_conflict"
            )
        return M3Lexical(embedder)
    return BigramBm25()


def index_spec(
    settings: Settings, embedder: Embedder, lexical: LexicalEncoder, bridge: Bridge | None
) -> dict[str, Any]:
    """What vectors depend on; two indexes with one spec hold the same vectors for the same text.

    And how a server keeps them, where that is not as ever, so that such an index is built beside the one that serves.
    """
    return {
        **({"sharding": "tenants"} if settings.retrieval.tenant_shards else {}),
        "embedder": {
            "name": embedder.name,
            "digest": embedder.digest,
            "dim": embedder.dim,
            "sentences": isinstance(embedder, SentenceEmbedder),
        },
        "lexical": {"digest": lexical.digest},
        "bridge": None if bridge is None else {"name": bridge.name, "digest": bridge.digest, "dim": bridge.dim},
        "chunker": {
            "revision": CHUNKER_REVISION,
            "counted_by": embedder.digest,
            **{name.removeprefix("chunk_"): getattr(settings.ingest, name) for name in _chunk_settings(settings)},
        },
    }


def version_of(spec: dict[str, Any]) -> str:
    """First 16 hex digits of the SHA-256 over the canonical JSON of `spec`."""
    return _digest(spec)


def chunk_set_of(spec: dict[str, Any]) -> str:
    """The same over what decides where chunks are cut: versions that cut alike share their chunk rows."""
    return _digest(spec["chunker"])


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def _register(db: Database, version: IndexVersion) -> IndexVersion:
    """Make a version the serving one, at a first start or in place of one that cannot be made any more."""
    with db.write() as session:
        rows = lock_versions(session)
        for row in rows.values():
            if row.active:
                row.active = False
                row.status = VersionStatus.UNUSABLE.value
        session.flush()
        row = rows.get(version.id) or version
        session.add(row)
        row.active = True
        row.activated_at = utc_now()
        row.status = VersionStatus.BUILDING.value
        session.flush()
        if not missing_documents(session, row.id, limit=1):
            row.status = VersionStatus.READY.value
        return row
