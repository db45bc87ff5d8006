"""What `benchmarks.ingest` compares with: LlamaIndex's IngestionPipeline into qdrant-client's local mode.

LlamaIndex's own parts as a first user would put them together: SentenceSplitter cut to what the model reads, its
embedding base class with the default batch of ten over sentence-transformers, a vector store over
`QdrantClient(path=...)`. The texts are given to it ready, so that it is not charged for reading files.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llama_index.core import Document
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import BaseNode, MetadataMode
from llama_index.core.vector_stores.types import BasePydanticVectorStore, VectorStoreQuery, VectorStoreQueryResult
from pydantic import PrivateAttr
from qdrant_client import QdrantClient
from qdrant_client.models import Distance, PointStruct, VectorParams

from retrieval.embedders.minilm import model_folder

_COLLECTION = "documents"


class SentenceTransformersEmbedding(BaseEmbedding):  # type: ignore[misc]
    """all-MiniLM-L6-v2 as sentence-transformers loads it."""

    _model: Any = PrivateAttr()

    def __init__(self) -> None:
        from sentence_transformers import SentenceTransformer

        super().__init__(model_name="all-MiniLM-L6-v2")
        self._model = SentenceTransformer(str(model_folder()), device="cpu", local_files_only=True)

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._model.encode(texts, show_progress_bar=False).tolist()
        return vectors

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


class LocalQdrant(BasePydanticVectorStore):  # type: ignore[misc]
    """Nodes as points of a local collection, text and metadata as payload."""

    stores_text: bool = True
    _client: Any = PrivateAttr()

    def __init__(self, client: QdrantClient) -> None:
        super().__init__()
        self._client = client

    @property
    def client(self) -> Any:
        """The client."""
        return self._client

    def add(self, nodes: Sequence[BaseNode], **_options: Any) -> list[str]:
        """Write nodes."""
        points = [
            PointStruct(
                id=str(uuid.uuid4()),
                vector=node.get_embedding(),
                payload={"text": node.get_content(MetadataMode.NONE), **node.metadata},
            )
            for node in nodes
        ]
        self._client.upsert(_COLLECTION, points)
        return [str(point.id) for point in points]

    def delete(self, ref_doc_id: str, **_options: Any) -> None:
        """Not measured."""
        raise NotImplementedError

    def query(self, query: VectorStoreQuery, **_options: Any) -> VectorStoreQueryResult:
        """Not measured."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Reference:
    """What the pipeline took."""

    seconds: float
    chunks: int


def llama_index_pipeline(texts: Sequence[tuple[str, str]], chunk_tokens: int) -> Reference:
    """Run the pipeline over (name, text) pairs; the model is loaded and warm before the clock starts."""
    embedding = SentenceTransformersEmbedding()
    embedding.get_text_embedding("warm")
    with tempfile.TemporaryDirectory(prefix="tsumugi-benchmark-") as folder:
        client = QdrantClient(path=folder)
        client.create_collection(_COLLECTION, VectorParams(size=384, distance=Distance.COSINE))
        pipeline = IngestionPipeline(
            transformations=[SentenceSplitter(chunk_size=chunk_tokens, chunk_overlap=0), embedding],
            vector_store=LocalQdrant(client),
        )
        started = time.perf_counter()
        nodes = pipeline.run(documents=[Document(text=text, metadata={"name": name}) for name, text in texts])
        seconds = time.perf_counter() - started
        client.close()
    return Reference(seconds, len(nodes))
