"""The one border with LlamaIndex: its ingestion pipeline, node parser and embedding interfaces over our own parts.

Nothing else imports it (2 s, so only when the first document comes). Two of its habits are kept out on purpose: the
stock splitters load NLTK and tiktoken data over the network, and `NodeParser` finds a node's offset by searching its
text, which is wrong as soon as a passage occurs twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import NodeParser
from llama_index.core.schema import BaseNode, Document, MetadataMode, NodeRelationship, TextNode
from pydantic import PrivateAttr

from core.ports import Embedder, SentenceEmbedder
from core.settings import IngestSettings
from core.types import Chunk, ExtractedDocument
from ingest.chunk import TokenStarts, chunk_document
from ingest.vectors import is_covered, sentence_spans
from retrieval.text import indexed_text

EMBED_BATCH = 128


@dataclass(frozen=True, slots=True)
class EmbeddedChunk:
    """A chunk, the text that stands for it in the index, and that text's dense vector."""

    chunk: Chunk
    indexed: str
    dense: tuple[float, ...] | None
    """None where the embedder does not know the passage's language: its vector would mean nothing, and cost as much."""
    sentences: tuple[tuple[float, ...], ...]
    """Vectors of the passage's sentences, from embedders that make them."""


class PassageNode(TextNode):  # type: ignore[misc]
    """A node that is embedded with its place in the document, exactly as search expects it."""

    _sentences: tuple[tuple[float, ...], ...] = PrivateAttr(default=())

    def get_content(self, metadata_mode: MetadataMode = MetadataMode.NONE) -> str:
        """The passage alone, or for embedding: file name, title, heading and passage."""
        if metadata_mode is MetadataMode.NONE:
            return str(self.text)
        known = self.metadata.get
        return indexed_text(known("filename"), known("title"), known("heading"), self.text)


class StructureNodeParser(NodeParser):  # type: ignore[misc]
    """Node parser over one extracted document: its blocks decide where nodes begin and end."""

    _extracted: ExtractedDocument = PrivateAttr()
    _count_tokens: Callable[[str], int] = PrivateAttr()
    _settings: IngestSettings = PrivateAttr()
    _token_starts: TokenStarts | None = PrivateAttr()
    _look: Callable[[], None] = PrivateAttr()

    def __init__(
        self,
        extracted: ExtractedDocument,
        count_tokens: Callable[[str], int],
        settings: IngestSettings,
        token_starts: TokenStarts | None,
        look: Callable[[], None],
    ) -> None:
        super().__init__(include_metadata=True, include_prev_next_rel=False)
        self._extracted = extracted
        self._count_tokens = count_tokens
        self._settings = settings
        self._token_starts = token_starts
        self._look = look

    @classmethod
    def class_name(cls) -> str:
        """Name in LlamaIndex's own records."""
        return "StructureNodeParser"

    def _parse_nodes(self, nodes: Sequence[BaseNode], show_progress: bool = False, **_: Any) -> list[BaseNode]:
        (document,) = nodes
        source = document.as_related_node_info()
        chunks = chunk_document(self._extracted, self._count_tokens, self._settings, self._token_starts, self._look)
        return [
            PassageNode(
                text=chunk.text,
                start_char_idx=chunk.start,
                end_char_idx=chunk.end,
                metadata={
                    **document.metadata,
                    "ordinal": chunk.ordinal,
                    "page": chunk.page,
                    "heading": chunk.heading,
                    "token_count": chunk.token_count,
                },
                relationships={NodeRelationship.SOURCE: source},
            )
            for chunk in chunks
        ]

    def _postprocess_parsed_nodes(self, nodes: list[BaseNode], parent_doc_map: dict[str, Document]) -> list[BaseNode]:
        """Keep the offsets that the chunker knows, instead of searching for the text."""
        return nodes


class EmbedderAdapter(BaseEmbedding):  # type: ignore[misc]
    """Our embedder behind LlamaIndex's embedding interface."""

    _embedder: Embedder = PrivateAttr()

    def __init__(self, embedder: Embedder) -> None:
        super().__init__(model_name=embedder.name, embed_batch_size=EMBED_BATCH)
        self._embedder = embedder

    @classmethod
    def class_name(cls) -> str:
        """Name in LlamaIndex's own records."""
        return "EmbedderAdapter"

    def __call__(self, nodes: Sequence[BaseNode], **kwargs: Any) -> Sequence[BaseNode]:
        """Embed nodes in place, sentences as well where the embedder tells them apart."""
        if not isinstance(self._embedder, SentenceEmbedder):
            embedded: Sequence[BaseNode] = super().__call__(nodes, **kwargs)
            return embedded
        texts = [node.get_content(MetadataMode.EMBED) for node in nodes]
        dense, sentences = self._embedder.encode_sentences(
            texts, [sentence_spans(text, node.text) for text, node in zip(texts, nodes, strict=True)]
        )
        for node, vector, parts in zip(nodes, dense.tolist(), sentences, strict=True):
            node.embedding = vector
            node._sentences = tuple(map(tuple, parts.tolist()))
        return nodes

    def _get_query_embedding(self, query: str) -> list[float]:
        return [float(value) for value in self._embedder.encode_query(query)]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self._embedder.encode_passages(texts).tolist()
        return vectors


def parse_document(
    extracted: ExtractedDocument,
    filename: str,
    count_tokens: Callable[[str], int],
    settings: IngestSettings,
    token_starts: TokenStarts | None = None,
    look: Callable[[], None] = lambda: None,
) -> list[PassageNode]:
    """Cut one document into nodes, as `chunk_document`. Its file name and title are embedded with each."""
    parser = StructureNodeParser(extracted, count_tokens, settings, token_starts, look)
    pipeline = IngestionPipeline(transformations=[parser], disable_cache=True)
    nodes = pipeline.run(
        documents=[Document(text=extracted.text, metadata={"filename": filename, "title": extracted.title})]
    )
    return list(nodes)


def chunks_of(nodes: Sequence[PassageNode]) -> list[Chunk]:
    """Nodes as our own type."""
    return [_chunk(node) for node in nodes]


def embed_nodes(nodes: Sequence[PassageNode], embedder: Embedder) -> Iterator[list[EmbeddedChunk]]:
    """Embed window by window, one ahead of what the caller works on: a document of any length needs memory for two."""
    windows = [nodes[start : start + EMBED_BATCH] for start in range(0, len(nodes), EMBED_BATCH)]
    pipeline = IngestionPipeline(transformations=[EmbedderAdapter(embedder)], disable_cache=True)
    if len(windows) < 2:  # most documents: a thread would be more work than it saves
        yield from (_embed_window(pipeline, window, embedder) for window in windows)
        return
    ahead = ThreadPoolExecutor(1, thread_name_prefix="embed-ahead")
    try:
        coming = ahead.submit(_embed_window, pipeline, windows[0], embedder)
        for window in windows[1:]:
            embedded, coming = coming.result(), ahead.submit(_embed_window, pipeline, window, embedder)
            yield embedded
        yield coming.result()
    finally:
        ahead.shutdown(cancel_futures=True)


def _embed_window(
    pipeline: IngestionPipeline, window: Sequence[PassageNode], embedder: Embedder
) -> list[EmbeddedChunk]:
    known = [node for node in window if is_covered(node.text, embedder)]
    if known:
        pipeline.run(nodes=known)
    embedded = [
        EmbeddedChunk(
            _chunk(node),
            node.get_content(MetadataMode.EMBED),
            None if node.embedding is None else tuple(node.embedding),
            node._sentences,
        )
        for node in window
    ]
    for node in known:
        node.embedding, node._sentences = None, ()
    return embedded


def _chunk(node: PassageNode) -> Chunk:
    place = node.metadata
    return Chunk(
        ordinal=int(place["ordinal"]),
        start=int(node.start_char_idx),
        end=int(node.end_char_idx),
        text=node.text,
        page=place["page"],
        heading=place["heading"],
        token_count=int(place["token_count"]),
    )
