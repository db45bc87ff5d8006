"""Composition root of retrieval: chooses embedder, lexical encoder and index, and names the index version."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import update

from core.database import Database
from core.errors import InvalidInput
from core.ports import Embedder, LexicalEncoder, VectorIndex
from core.settings import Settings
from core.tables.operations import IndexVersion
from retrieval.embedders.minilm import MiniLmEmbedder
from retrieval.lexical import BigramBm25
from retrieval.relevance import load_model
from retrieval.search import Searcher

CHUNKER_REVISION = "sentences-1"
"""Names how chunks are cut; change it with any change of `ingest.chunk` that moves their borders."""


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Everything that reads or writes the index in this process."""

    embedder: Embedder
    lexical: LexicalEncoder
    index: VectorIndex
    searcher: Searcher
    index_version: str

    def close(self) -> None:
        """Flush the index and give up its lock."""
        self.index.close()


def build_retrieval(settings: Settings, db: Database, *, embedder: Embedder | None = None) -> Retrieval:
    """Open the index of the configured embedder, chunker and tokeniser, and register its version as the active one.

    embedder: one that is loaded already; default is the configured one.

    Raises:
        DataDirBusy: another process owns the index.
        Unavailable: model files or index cannot be read.
    """
    embedder = embedder or build_embedder(settings)
    lexical = build_lexical(settings, embedder)
    spec = index_spec(settings, embedder, lexical)
    version = version_of(spec)
    index = open_index(settings, version, embedder.dim, lexical.idf)
    try:
        _register(db, version, spec)
        searcher = Searcher(
            db,
            index,
            embedder,
            lexical,
            load_model(db, version),
            candidates=settings.retrieval.candidates,
            refusal_threshold=settings.retrieval.refusal_threshold,
        )
    except BaseException:
        index.close()
        raise
    return Retrieval(embedder, lexical, index, searcher, version)


def build_embedder(settings: Settings) -> Embedder:
    """Load or reach the configured embedder.

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


def open_index(settings: Settings, version: str, dim: int, idf: bool) -> VectorIndex:
    """Open or create the shard or the collection of an index version.

    Raises:
        DataDirBusy: another process owns the shard.
        Unavailable: shard or server cannot be used.
    """
    if settings.retrieval.index == "qdrant":
        from retrieval.index.server import ServerIndex, open_client

        name = f"{settings.qdrant.collection}-{version}"
        return ServerIndex(open_client(settings.qdrant), name, dim=dim, idf=idf, settings=settings.qdrant)
    from retrieval.index.edge import EdgeIndex  # a process that asks a server need not have the engine installed

    return EdgeIndex(settings.index_dir / version, dim=dim, idf=idf)


def index_spec(settings: Settings, embedder: Embedder, lexical: LexicalEncoder) -> dict[str, Any]:
    """What vectors depend on; two indexes with one spec hold the same vectors for the same text."""
    return {
        "embedder": {"name": embedder.name, "digest": embedder.digest, "dim": embedder.dim},
        "lexical": {"digest": lexical.digest},
        "chunker": {
            "revision": CHUNKER_REVISION,
            "tokens": settings.ingest.chunk_tokens,
            "chars": settings.ingest.chunk_chars,
            "chars_cjk": settings.ingest.chunk_chars_cjk,
        },
    }


def version_of(spec: dict[str, Any]) -> str:
    """First 16 hex digits of the SHA-256 over the canonical JSON of `spec`."""
    return hashlib.sha256(json.dumps(spec, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def _register(db: Database, version: str, spec: dict[str, Any]) -> None:
    with db.write() as session:
        row = session.get(IndexVersion, version)
        if row is not None and row.active:
            return
        session.execute(update(IndexVersion).values(active=False))
        if row is None:
            session.add(IndexVersion(id=version, spec=spec, active=True))
        else:
            row.active = True
